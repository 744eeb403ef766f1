"""The commands of the README, started as a user starts them."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "prepare": ["-m", "seqrec.prepare"],
    "finetune": ["-m", "accelerate.commands.launch", "teacher/finetune.py"],
    "extract": ["-m", "accelerate.commands.launch", "-m", "teacher.extract"],
    "distill": ["-m", "student.distill"],
    "export": ["-m", "export.to_onnx"],
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
    assert "--output-dir" in done.stdout or name == "check_arm"  # which writes nothing
    flags = [line for line in done.stdout.splitlines() if line.startswith("  --")]
    assert len(flags) >= 2


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
