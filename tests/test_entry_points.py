"""The commands of the README, started as a user starts them."""

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

from seqrec.data import SequenceDataset

import pytest

from student.model import Student, StudentConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "prepare": ["-m", "seqrec.prepare"],
    "finetune": ["-m", "accelerate.commands.launch", "teacher/finetune.py"],
    "extract": ["-m", "accelerate.commands.launch", "-m", "teacher.extract"],
    "distill": ["-m", "student.distill"],
    "export": ["-m", "export.to_onnx"],
    "push_to_hub": ["-m", "export.push_to_hub"],
    "add_items": ["-m", "export.add_items"],
    "to_web": ["-m", "export.to_web"],
    "to_mobile": ["-m", "export.to_mobile"],
    "to_index": ["-m", "export.to_index"],
    "to_executorch": ["-m", "export.to_executorch"],
    "to_text_encoder": ["-m", "export.to_text_encoder"],
    "score": ["-m", "export.score"],
    "check_arm": ["-m", "tests.reliability.check_arm"],
    "latency": ["-m", "benchmarks.latency"],
    "baselines": ["-m", "benchmarks.baselines"],
    "cold_start": ["-m", "benchmarks.cold_start"],
    "catalogue": ["-m", "benchmarks.catalogue"],
    "accuracy": ["-m", "benchmarks.accuracy"],
    "synthetic_log": ["-m", "benchmarks.synthetic_log"],
    "scaling": ["-m", "benchmarks.scaling"],
}


def start(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *COMMANDS[name], *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_each_flag(name: str) -> None:
    done = start(name, "--help")
    assert done.returncode == 0, done.stderr
    # check_arm and push_to_hub write nothing here
    assert "--output-dir" in done.stdout or name in ("check_arm", "push_to_hub")
    flags = [line for line in done.stdout.splitlines() if line.startswith("  --")]
    assert len(flags) >= 2


@pytest.mark.parametrize("name", ["prepare", "finetune", "distill", "score"])
def test_each_command_knows_its_version(name: str) -> None:
    done = start(name, "--version")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"llm-seqrec \d+\.\d+\.\d+\n", done.stdout)


def test_progress_goes_to_the_terminal_without_colours_and_stdout_is_for_results(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    """NO_COLOR (https://no-color.org) is asked for, and stderr is a terminal."""
    shape = StudentConfig(arch="gru", num_items=tiny_dataset.num_items, hidden_dim=16)
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    Student(shape).eval().save_pretrained(tmp_path / "students/gru/control", **about)
    words = ["--data-dir", str(tiny_dataset.path), "--output-dir", str(tmp_path)]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # or bars have no room
    with subprocess.Popen(
        [sys.executable, *COMMANDS["export"], *words],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as command:
        os.close(theirs)
        told = b""
        while part := read_terminal(ours):
            told += part
        assert command.stdout is not None
        assert command.stdout.read() == b""
    os.close(ours)
    assert command.returncode == 0, told
    assert b"exporting" in told
    assert b"wrote " in told
    assert not re.search(rb"\x1b\[[0-9;]*m", told)


def read_terminal(descriptor: int) -> bytes:
    """Return what a terminal shows next; b"" once nobody writes to it any more."""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # so Linux says that the other end is closed
        return b""


@pytest.mark.parametrize(
    "name", ["prepare", "finetune", "distill", "add_items", "to_web", "latency", "accuracy"]
)
def test_an_unknown_flag_is_refused(name: str) -> None:
    done = start(name, "--learning-rat", "1")
    assert done.returncode != 0
    assert "unrecognized arguments: --learning-rat" in done.stderr


@pytest.mark.parametrize(
    "name", ["extract", "distill", "export", "latency", "cold_start", "accuracy"]
)
def test_a_missing_data_set_is_one_line_with_the_command_that_makes_it(
    name: str, tmp_path: Path
) -> None:
    done = start(
        name, "--data-dir", str(tmp_path / "nothing"), "--output-dir", str(tmp_path / "out")
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "python -m seqrec.prepare" in errors[0]
    assert "Traceback" not in done.stderr.split("error: ")[0]
    assert not (tmp_path / "out").exists()


def test_distilling_without_knowledge_names_the_teachers_command(
    tmp_path: Path, tiny_dataset: object
) -> None:
    data_dir = str(tiny_dataset.path)  # type: ignore[attr-defined]
    done = start("distill", "--data-dir", data_dir, "--output-dir", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert (
        f"accelerate launch teacher/finetune.py --data-dir {data_dir} --output-dir {tmp_path}"
        in done.stderr
    )
