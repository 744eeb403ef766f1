"""Every stage, killed at random moments, leaves in the end what an undisturbed one leaves.

`SEQREC_KILLS` says how often each stage is killed; `make torture` sets it, since it takes long.
Each is started in another folder than the undisturbed one and killed (SIGKILL, the whole process
group) at random moments of the time that it took, twice in a row, before the same command runs to
its end. What it leaves then is compared byte by byte: arrays, weights, graphs, tables and lists of
ids. Nothing unfinished may lie beside it, and where a training's checkpoint was there after the
last kill, one has to go on from it.

Computed on one thread of the CPU, where the same sums are made in the same order. The log is
invented, the language model a real one, cut to its first layer.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.synthetic_log import LogConfig, make_log

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("SEQREC_KILLS", "0"))  # of each stage
KILLS_IN_A_ROW = 2
NUM_USERS = 150
# What a stage computes. Other files hold times, paths and figures that follow from these; ONNX
# Runtime writes a model.ort in another order each time, and export.to_mobile compares its answers.
COMPARED = (".npy", ".safetensors", ".onnx", ".parquet")
UNFINISHED = (".tmp", ".old")


@dataclass(frozen=True)
class Stage:
    """A command and what it writes, relative to the folder it works in."""

    arguments: tuple[str, ...]  # {} is that folder
    outputs: tuple[str, ...]


TABLES = ("--interactions", "{}/log/interactions", "--items", "{}/log/items.parquet")
WHERE = ("--data-dir", "{}/data", "--output-dir", "{}/run")
ONE = ("--num-threads", "1", "--device", "cpu")
NEXT_TABLES = ("--interactions", "{}/next-log/interactions", "--continue", "{}/data")
NEXT = ("--data-dir", "{}/next-data", "--output-dir", "{}/next-run", "--init-from", "{}/run")
STAGES = (  # each reads what the ones before it wrote
    Stage(("-m", "seqrec.prepare", *TABLES, "--output-dir", "{}/data"), ("data",)),
    Stage(
        ("teacher/finetune.py", *WHERE, *ONE, "--model", "minilm-l6")
        + ("--num-layers", "1", "--num-epochs", "4"),
        ("run/teacher", "run/knowledge"),
    ),
    Stage(
        ("-m", "student.distill", *WHERE, *ONE)
        + ("--num-epochs", "6", "--evaluate-every", "1", "--hidden-dim", "32"),
        ("run/students", "run/soft-targets", "run/auxiliary-teachers"),
    ),
    Stage(("-m", "export.to_onnx", *WHERE), ("run/export",)),
    Stage(
        ("-m", "export.to_mobile", "--model-dir", "{}/run/export/gru-distilled-int8"),
        ("run/mobile",),
    ),
    Stage(("-m", "seqrec.prepare", *NEXT_TABLES, "--output-dir", "{}/next-data"), ("next-data",)),
    Stage(
        ("teacher/finetune.py", *NEXT, *ONE, "--model", "minilm-l6", "--num-epochs", "2"),
        ("next-run/teacher", "next-run/knowledge"),
    ),
    Stage(
        ("-m", "student.distill", *NEXT, *ONE, "--evaluate-every", "1"),
        ("next-run/students", "next-run/soft-targets", "next-run/auxiliary-teachers"),
    ),
    Stage(
        ("-m", "export.publish", "--data-dir", "{}/data", "--serving-dir", "{}/serving")
        + ("--model-dir", "{}/run/export/gru-distilled-int8"),
        ("serving",),
    ),
)


def start(stage: Stage, folder: Path, seconds: float | None = None) -> str | None:
    """Run a stage in a folder and return what it says; None: it was killed after some seconds."""
    with subprocess.Popen(
        [sys.executable, *(part.replace("{}", str(folder)) for part in stage.arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None
    assert process.returncode == 0, said[-3000:]
    return said


def remove_outputs(stage: Stage, folder: Path) -> None:
    for output in stage.outputs:
        shutil.rmtree(folder / output, ignore_errors=True)


def kill_and_finish(stage: Stage, folder: Path, moments: Sequence[float]) -> None:
    """Start a stage and kill it after so many seconds, again and again; then let it finish.

    Where it has ended by then, it begins anew and has half as long.
    """
    for moment in moments:
        while start(stage, folder, moment) is not None:
            remove_outputs(stage, folder)
            moment /= 2
    checkpoints = [
        path
        for path in folder.rglob("progress.json")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    said = start(stage, folder)
    assert not checkpoints or "resumed after epoch" in str(said), "a checkpoint was lost"


def faults(stage: Stage, folder: Path, whole: Path) -> list[str]:
    """Return what is unfinished in a folder, or not the same, byte by byte, in the whole one."""

    def contents(root: Path) -> set[tuple[str, bytes]]:
        return {
            (str(path.relative_to(root)), path.read_bytes())
            for output in stage.outputs
            for path in (root / output).rglob("*")
            if path.suffix in COMPARED or path.name == "items.json"
        }

    different = {name for name, _ in contents(folder) ^ contents(whole)}
    unfinished = (path for path in folder.rglob(".*") if path.suffix in UNFINISHED)
    return sorted(different | {str(path.relative_to(folder)) for path in unfinished})


@pytest.mark.skipif(KILLS == 0, reason="takes long: SEQREC_KILLS=6, as make torture sets it")
@pytest.mark.usefixtures("user_cache")
def test_every_stage_that_was_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shape = {"num_events": 12 * NUM_USERS, "num_users": NUM_USERS, "num_items": 60}
    for seed, log in enumerate(("log", "next-log")):
        make_log(LogConfig(output_dir=whole / log, seed=seed, **shape))
        shutil.copytree(whole / log, killed / log)
    rng = np.random.default_rng(0)
    for stage in STAGES:
        began = time.perf_counter()
        start(stage, whole)
        seconds = time.perf_counter() - began
        for _ in range(-(-KILLS // KILLS_IN_A_ROW)):
            remove_outputs(stage, killed)
            kill_and_finish(stage, killed, rng.uniform(0, seconds, KILLS_IN_A_ROW).tolist())
            assert faults(stage, killed, whole) == []


# --- Small stages: the check sees what it has to see ----------------------------------------------

SLOW_WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from seqrec.files import atomic_directory

with atomic_directory(Path(sys.argv[1]) / "made") as folder:
    for part in range(3):
        np.save(folder / f"{part}.npy", np.arange(part))
        time.sleep(float(sys.argv[2]))
"""


def slow_writer(seconds: float) -> Stage:
    return Stage(("-c", SLOW_WRITER, "{}", str(seconds)), ("made",))


def test_a_folder_whose_writer_was_killed_is_whole_in_the_end(tmp_path: Path) -> None:
    start(slow_writer(0), tmp_path / "whole")
    kill_and_finish(slow_writer(1.0), tmp_path / "killed", [1.5, 2.5])
    assert faults(slow_writer(0), tmp_path / "killed", tmp_path / "whole") == []


def test_a_file_that_differs_or_is_missing_or_unfinished_is_named(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        start(slow_writer(0), folder)
    (killed / "made" / "1.npy").write_bytes(b"other")
    (killed / "made" / "2.npy").unlink()
    (killed / ".made.17.tmp").mkdir()
    named = [".made.17.tmp", "made/1.npy", "made/2.npy"]
    assert faults(slow_writer(0), killed, whole) == named


TRAINING = """
import sys, time
from pathlib import Path
state = Path(sys.argv[1]) / "state"
started = state.exists()
state.mkdir(exist_ok=True)
(state / "progress.json").touch()
sys.stderr.write(sys.argv[2] if started else "")
time.sleep(0 if started else 60)
"""


def test_a_checkpoint_that_is_not_gone_on_from_is_a_fault(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    kill_and_finish(
        Stage(("-c", TRAINING, "{}", "resumed after epoch 2"), ()), tmp_path / "one", [1.0]
    )
    with pytest.raises(AssertionError, match="a checkpoint was lost"):
        kill_and_finish(Stage(("-c", TRAINING, "{}", "anew"), ()), tmp_path / "other", [1.0])
