"""The commands of a day: what each starts from, and what a failure leaves."""

import dataclasses
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.config import NightlyConfig
from export.nightly import day_before, main, stages

EXPORT = "gru-distilled-int8"


def finish(root: Path, *days: str) -> None:
    """Make what a day's export leaves."""
    for day in days:
        folder = root / "runs" / day / "export" / EXPORT
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")


def flags_of(command: list[str]) -> dict[str, str]:
    return {
        word: after
        for word, after in zip(command, command[1:], strict=False)
        if word.startswith("--")
    }


def test_a_day_goes_on_from_the_newest_finished_one_before_it(tmp_path: Path) -> None:
    finish(tmp_path, "2026-05-01", "2026-05-03", "2026-05-09")
    (tmp_path / "runs" / "2026-05-04" / "students").mkdir(parents=True)  # never exported
    assert day_before(tmp_path, "2026-05-05", EXPORT) == "2026-05-03"
    assert day_before(tmp_path, "2026-05-01", EXPORT) is None


def test_the_first_day_starts_from_nothing_and_later_ones_from_the_day_before(
    tmp_path: Path,
) -> None:
    config = NightlyConfig(interactions=Path("log"), items=Path("items"), root=tmp_path, arch="gru")
    first = stages(config, "2026-05-01")
    names = [command[0] for command in first]
    assert names[0] == "seqrec.prepare"
    assert names[-2:] == ["export.to_onnx", "export.publish"]
    assert not any({"--continue", "--init-from", "--since"} & set(words) for words in first)
    finish(tmp_path, "2026-05-01")
    prepare, teacher, student, export, publish = map(flags_of, stages(config, "2026-05-02"))
    data, run = str(tmp_path / "data" / "2026-05-02"), str(tmp_path / "runs" / "2026-05-02")
    assert prepare["--continue"] == publish["--since"] == str(tmp_path / "data" / "2026-05-01")
    assert prepare["--output-dir"] == data
    for stage in (teacher, student):
        assert stage["--init-from"] == str(tmp_path / "runs" / "2026-05-01")
    for stage in (teacher, student, export):
        assert (stage["--data-dir"], stage["--output-dir"]) == (data, run)
    anew = stages(dataclasses.replace(config, anew=True), "2026-05-02")
    assert not any("--init-from" in command for command in anew)
    assert flags_of(anew[0]) == prepare
    assert publish["--model-dir"] == f"{run}/export/{EXPORT}"
    assert publish["--serving-dir"] == str(tmp_path / "serving")


def test_what_was_prepared_is_not_prepared_again(tmp_path: Path) -> None:
    (tmp_path / "data" / "today").mkdir(parents=True)
    config = NightlyConfig(interactions=Path("log"), root=tmp_path)
    assert "seqrec.prepare" not in [command[0] for command in stages(config, "today")]


def test_it_ends_with_the_first_stage_that_fails_and_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def run(command: list[str], *, check: bool) -> SimpleNamespace:
        started.append(command[2])
        return SimpleNamespace(returncode=3 * (command[2] == "student.distill"))

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SystemExit) as stopped:
        main(["--interactions", "log", "--root", str(tmp_path), "--day", "today"])
    assert stopped.value.code == 3
    assert started == ["seqrec.prepare", "accelerate.commands.launch", "student.distill"]
