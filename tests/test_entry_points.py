"""The commands, started as a user starts them."""

import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COMMANDS = [
    *("seqrec.prepare", "teacher.finetune", "teacher.extract", "teacher.tune_reader"),
    *(
        "student.distill",
        "export.to_onnx",
        "export.push_to_hub",
        "export.add_items",
        "export.to_web",
    ),
    *("export.to_mobile", "export.to_index", "export.to_executorch", "export.to_text_encoder"),
    *("export.score", "export.serve_web", "tests.reliability.check_arm", "benchmarks.latency"),
    *("benchmarks.baselines", "benchmarks.cold_start", "benchmarks.catalogue"),
    *("benchmarks.accuracy", "benchmarks.synthetic_log", "benchmarks.scaling"),
]
WRITE_NOTHING_HERE = ("tests.reliability.check_arm", "export.push_to_hub", "export.serve_web")
HEAVY = {
    *("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors", "tokenizers"),
    *("onnx", "onnxruntime", "optimum", "ray", "matplotlib", "plotly", "executorch"),
    *("huggingface_hub", "tensorboard"),
}
HELP = """
import runpy, sys
try:
    sys.argv = [sys.argv[1], "--help"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit:
    pass
sys.stderr.write(" ".join(sorted({name.split(".")[0] for name in sys.modules})))
"""
IMPORT = """
import importlib, sys
importlib.import_module(sys.argv[1])
sys.stderr.write(" ".join(sys.modules))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def words_of(command: str) -> list[str]:
    """Return what follows `python`."""
    launched = {
        "teacher.finetune": ["-m", "accelerate.commands.launch", "teacher/finetune.py"],
        "teacher.extract": ["-m", "accelerate.commands.launch", "-m", "teacher.extract"],
        "teacher.tune_reader": ["-m", "accelerate.commands.launch", "-m", "teacher.tune_reader"],
    }
    return launched.get(command, ["-m", command])


def start(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(*words_of(command), *arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_each_flag_and_loads_no_heavy_library(command: str) -> None:
    """Which would make it take seconds."""
    done = python("-c", HELP, command)
    assert done.returncode == 0, done.stderr
    assert "--output-dir" in done.stdout or command in WRITE_NOTHING_HERE
    assert len(re.findall(r"^  --", done.stdout, re.M)) >= 2
    loaded = set(done.stderr.split())
    assert "argparse" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "name", ["export.recommender", "export.user_states", "seqrec.metrics", "export.parity"]
)
def test_what_clients_and_reports_import_needs_numpy_alone(name: str) -> None:
    """ONNX Runtime is loaded when a model is opened."""
    loaded = set(python("-c", IMPORT, name).stderr.split())
    assert "numpy" in loaded
    assert not loaded & (HEAVY | {"polars"})


@pytest.mark.parametrize(
    "command", ["seqrec.prepare", "teacher.finetune", "student.distill", "export.score"]
)
def test_each_command_knows_its_version(command: str) -> None:
    done = start(command, "--version")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"llm-seqrec \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize(
    "command",
    [
        *("seqrec.prepare", "teacher.finetune", "student.distill", "export.to_onnx"),
        *("export.to_web", "benchmarks.latency", "benchmarks.accuracy"),
    ],
)
def test_an_unknown_flag_is_refused(command: str) -> None:
    done = start(command, "--learning-rat", "1")
    assert done.returncode != 0
    assert "unrecognized arguments: --learning-rat" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("teacher.extract", "teacher.tune_reader", "student.distill", "export.to_onnx"),
        *("benchmarks.latency", "benchmarks.cold_start", "benchmarks.accuracy"),
    ],
)
def test_a_missing_data_set_is_one_line_with_the_command_that_makes_it(
    command: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = start(command, "--data-dir", str(tmp_path / "nothing"), "--output-dir", str(out))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "python -m seqrec.prepare" in errors[0]
    assert "Traceback" not in done.stderr.split("error: ")[0]
    assert not out.exists()


def test_distilling_without_knowledge_names_the_teachers_command(
    tmp_path: Path, tiny_dataset: SequenceDataset
) -> None:
    where = f"--data-dir {tiny_dataset.path} --output-dir {tmp_path}"
    done = start("student.distill", *where.split())
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert f"accelerate launch teacher/finetune.py {where}" in done.stderr


def test_progress_goes_to_the_terminal_without_colours_and_stdout_is_for_results(
    tiny_dataset: SequenceDataset, save_student: Callable[..., Path], tmp_path: Path
) -> None:
    """NO_COLOR (https://no-color.org) is asked for, and stderr is a terminal."""
    save_student(tmp_path / "students/gru/control", tiny_dataset, hidden_dim=16)
    where = ["--data-dir", str(tiny_dataset.path), "--output-dir", str(tmp_path)]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # or bars have no room
    with subprocess.Popen(
        [sys.executable, *words_of("export.to_onnx"), *where],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as command:
        os.close(theirs)
        shown = b""
        while part := read_terminal(ours):
            shown += part
        assert command.stdout is not None
        assert command.stdout.read() == b""
    os.close(ours)
    assert command.returncode == 0, shown
    assert b"exporting" in shown
    assert b"wrote " in shown
    assert not re.search(rb"\x1b\[[0-9;]*m", shown)


def read_terminal(descriptor: int) -> bytes:
    """Return what a terminal shows next; b"" once nobody writes to it any more."""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # so Linux says that the other end is closed
        return b""
