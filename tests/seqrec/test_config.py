"""Dataclass, command line and JSON say the same."""

import dataclasses
import json
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqrec.config import RECIPE_VERSION, flag, parse_flags, recipe, recipe_digest, to_json

import pytest

from student.config import DistillConfig
from teacher.config import FinetuneConfig

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One field of each type an entry point uses."""

    output_dir: Path = flag(Path("out"), "where to write")
    num_epochs: int = flag(5, "how long")
    learning_rate: float = flag(0.001, "how fast")
    shuffle: bool = flag(True, "whether to shuffle")
    kind: Literal["gru", "transformer"] = flag("gru", "which student")
    bits: Literal[4, 16] = flag(4, "how precise")
    cutoffs: tuple[int, ...] = flag((5, 10), "where to cut")
    name: str | None = flag(None, "what to call it")
    limit: int | None = flag(None, "how many at most")
    only: Literal["gru", "transformer"] | None = flag(None, "one of them, or both")

    def __post_init__(self) -> None:
        if self.num_epochs < 1:
            raise ValueError("--num-epochs must be at least 1")


def parse(*argv: str) -> Config:
    return parse_flags(Config, "A test.", argv)


@pytest.mark.parametrize(
    ("argv", "field", "expected"),
    [
        ([], "num_epochs", 5),  # the defaults
        (["--output-dir", "a/b"], "output_dir", Path("a/b")),
        (["--num-epochs", "7"], "num_epochs", 7),
        (["--learning-rate", "1e-4"], "learning_rate", 1e-4),
        (["--no-shuffle"], "shuffle", False),
        (["--shuffle"], "shuffle", True),
        (["--kind", "transformer"], "kind", "transformer"),
        (["--bits", "16"], "bits", 16),
        (["--cutoffs", "1", "2", "3"], "cutoffs", (1, 2, 3)),
        (["--name", "run 1"], "name", "run 1"),
        (["--limit", "10"], "limit", 10),
        (["--only", "gru"], "only", "gru"),
    ],
)
def test_a_flag_sets_its_field_in_the_fields_type_and_no_other(
    argv: list[str], field: str, expected: Any
) -> None:
    config = parse(*argv)
    value = getattr(config, field)
    assert (value, type(value)) == (expected, type(expected))
    assert config == dataclasses.replace(Config(), **{field: expected})


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--epochs", "7"], "--epochs"),
        (["--num-epoch", "7"], "--num-epoch"),  # an abbreviation
        (["--num_epochs", "7"], "--num_epochs"),
        (["stray"], "stray"),
        (["--kind", "lstm"], "lstm"),
        (["--bits", "8"], "8"),
        (["--num-epochs", "many"], "many"),
        (["--cutoffs"], "--cutoffs"),
        (["--num-epochs", "0"], "--num-epochs must be at least 1"),
    ],
)
def test_a_wrong_flag_ends_with_code_2_and_is_named(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_help_shows_every_flag_with_its_text_and_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for field in dataclasses.fields(Config):
        assert "--" + field.name.replace("_", "-") in text
        assert f"{field.metadata['help']} (default: {field.default})" in text


def test_version_is_that_of_the_package_or_unknown_and_ends_with_code_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with pytest.raises(SystemExit) as stop:
        parse("--version")
    assert stop.value.code == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"{project['name']} {project['version']}\n", "")
    monkeypatch.setattr(sys, "path", [])  # where the metadata of packages is looked for
    with pytest.raises(SystemExit):
        parse("--version")
    assert "unknown version: it is not installed" in capsys.readouterr().out


def test_a_config_survives_the_way_through_json() -> None:
    config = parse("--cutoffs", "1", "20", "--output-dir", "a/b", "--name", "x")
    values = json.loads(json.dumps(to_json(config)))
    assert values["output_dir"] == "a/b"
    assert values["cutoffs"] == [1, 20]
    values |= {"output_dir": Path(values["output_dir"]), "cutoffs": tuple(values["cutoffs"])}
    assert Config(**values) == config


def test_a_recipe_holds_the_flags_that_affect_the_result_and_no_others() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Training:
        """Two flags that decide what comes out, and one that does not."""

        seed: int = flag(0, "seed")
        cutoffs: tuple[int, ...] = flag((5, 10), "where to cut")
        num_threads: int | None = flag(None, "threads", affects_result=False)

    made = recipe(Training(num_threads=2), dataset_fingerprint="x")
    flags = {"seed": 0, "cutoffs": [5, 10], "dataset_fingerprint": "x"}
    assert made == {"recipe_version": RECIPE_VERSION, **flags}
    assert recipe_digest(recipe(Training())) == recipe_digest(recipe(Training(num_threads=3)))
    assert recipe_digest(recipe(Training())) != recipe_digest(recipe(Training(seed=1)))


@pytest.mark.parametrize("kind", [DistillConfig, FinetuneConfig])
def test_where_and_how_fast_a_stage_runs_is_in_no_recipe(kind: Any) -> None:
    flags = {field.name for field in dataclasses.fields(kind)}
    left_out = {"data_dir", "output_dir", "device", "num_threads", "budget", "log_with"}
    left_out |= {"gradient_accumulation", "gradient_checkpointing", "dry_run", "init_from"} & flags
    assert recipe(kind()).keys() == (flags - left_out) | {"recipe_version"}


def test_a_positional_is_given_without_its_name_or_left_out() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Asked:
        table: str | None = flag(None, "which one", positional=True)
        run: bool = flag(False, "whether to run it")

    assert parse_flags(Asked, "", ["ranking", "--run"]) == Asked(table="ranking", run=True)
    assert parse_flags(Asked, "", []) == Asked()
    with pytest.raises(SystemExit):
        parse_flags(Asked, "", ["ranking", "other"])


def test_the_same_flags_of_earlier_code_are_another_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    today = recipe_digest(recipe(DistillConfig()))
    monkeypatch.setattr("seqrec.config.RECIPE_VERSION", RECIPE_VERSION - 1)
    assert recipe_digest(recipe(DistillConfig())) != today
