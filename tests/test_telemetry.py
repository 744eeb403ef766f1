"""Nothing that we load reports to anyone, or leaves a mark in HOME."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from seqrec.data import SequenceDataset

import pytest

from benchmarks.baselines.training import worker_environment
from tests.export.answers import export_random

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OURS = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")
CLIENT = """
import os, sys, time
from export.recommender import Recommender
recommender = Recommender.from_pretrained(sys.argv[1])
session = recommender.start_session(["b07"])
recommender.recommend(["b07", "b08"]), session.recommend()
time.sleep(1)  # what a thread does, it has begun
sys.stdout.write(str(len(os.listdir("/proc/self/task"))))
"""
ENCODER = (
    "import export.new_items.to_text_encoder, export.mobile.ort_format, export.onnx_graph.quantize"
)


@pytest.fixture(scope="module")
def folder(
    tiny_dataset: SequenceDataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return export_random(tmp_path_factory.mktemp("telemetry"), tiny_dataset, "gru", "int8")


def start(program: str, home: Path, *arguments: str, trace: Path | None = None):
    """Run a program with an empty HOME, and with none of the variables that tests run with."""
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in OURS and not k.startswith("XDG_")}
    watch = ["strace", "-f", "-qq", "-e", "trace=socket,connect,sendto", "-o", str(trace)]
    done = subprocess.run(
        [*(watch if trace else []), sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def may_trace() -> bool:
    """Whether strace is there and the system lets it look on, as containers may not."""
    strace = shutil.which("strace")
    if strace is None:
        return False
    tried = subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True, check=False)
    return tried.returncode == 0


def test_the_client_writes_nothing_at_home_starts_no_thread_and_asks_no_host(
    folder: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace" if may_trace() else None
    done = start(CLIENT, tmp_path / "home", str(folder), trace=trace)
    assert list((tmp_path / "home").rglob("*")) == []
    assert done.stderr == ""
    numpy_alone = start(
        'import os, numpy; print(len(os.listdir("/proc/self/task")))', tmp_path / "other"
    )
    assert int(done.stdout) <= int(numpy_alone.stdout) + 1  # ONNX Runtime's own, for logging
    if trace:
        assert "AF_INET" not in trace.read_text(), "a network socket was opened"


def test_tools_that_load_onnxruntime_write_nothing_at_home(tmp_path: Path) -> None:
    start(ENCODER, tmp_path / "home")
    assert list((tmp_path / "home").rglob("*")) == []


def test_it_is_said_that_onnxruntime_was_loaded_too_early(tmp_path: Path) -> None:
    program = "import onnxruntime, export.recommender"
    done = start(program, tmp_path / "home")
    assert "onnxruntime was loaded before" in done.stderr
    assert "Set ORT_DISABLE_TELEMETRY=1" in done.stderr
    setting = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; "
    done = start(setting + program, tmp_path / "second")
    assert done.stderr == ""
    assert list((tmp_path / "second").rglob("*")) == []


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    program = (
        "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '0'; import seqrec; "
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    assert start(program, tmp_path / "home").stdout.strip() == "0"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_workers_of_other_libraries_are_told_too(device: str) -> None:
    environment = worker_environment(1, device)
    assert [environment[name] for name in OURS] == ["1", "1", "0"]
    assert environment["CI"] == "true"  # what openvino_telemetry asks for
