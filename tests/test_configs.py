"""The Accelerate configurations, read by accelerate's own loader and launcher."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

FOLDER = Path(__file__).parents[1] / "configs"
# Processes in all, machines, and whether the launcher starts several at all.
EXPECTED = {
    "single_gpu": (1, 1, False),
    "multi_gpu": (2, 1, True),
    "multi_node": (8, 2, True),
    "cpu_2_processes": (2, 1, True),
}


def test_each_configuration_is_looked_at_here() -> None:
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_launcher_starts_what_the_configuration_says(name: str) -> None:
    file = str(FOLDER / f"{name}.yaml")
    arguments = launch_command_parser().parse_args(["--config_file", file, "teacher/finetune.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    started = (arguments.num_processes, arguments.num_machines, arguments.multi_gpu)
    assert started == EXPECTED[name]
    assert arguments.mixed_precision == "no"  # the recipe's own precisions, nothing on top


@pytest.mark.parametrize("name", EXPECTED)
def test_a_key_that_accelerate_does_not_know_would_be_refused(name: str, tmp_path: Path) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    (tmp_path / "copy.yaml").write_text(f"{text}num_gpus: 2\n")
    with pytest.raises(ValueError, match=r"unknown keys.*num_gpus"):
        load_config_from_file(str(tmp_path / "copy.yaml"))
    load_config_from_file(str(FOLDER / f"{name}.yaml"))
