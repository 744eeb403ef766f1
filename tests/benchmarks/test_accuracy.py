"""What the accuracy grid refuses."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError

import pytest

from benchmarks.accuracy import AccuracyConfig, run
from benchmarks.grid import run as runs
from benchmarks.grid.variants import RunKey
from benchmarks.grid.workspace import Workspace


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"variants": ("controll",)},
            ModelError,
            "--variants controll: .*control, .*default, ablations",
        ),
        (
            {"data_dir": (Path("nowhere"),), "variants": ("teacher",)},
            DataError,
            r"python -m seqrec\.prepare",
        ),
        ({"train": False, "variants": ("control",)}, ModelError, "leave out --no-train"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
) -> None:
    good = AccuracyConfig(data_dir=(tiny_dataset.path,), output_dir=tmp_path / "out")
    with pytest.raises(error, match=message):
        run(dataclasses.replace(good, **changes), "")
    assert not (tmp_path / "out").exists()


def test_a_seed_is_whole_before_the_next_begins(
    tiny_dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[int, str]] = []

    def begin(key: RunKey, space: Workspace) -> None:
        order.append((space.seed, str(key)))

    monkeypatch.setattr(runs, "compute_run", begin)
    names = ("control-before-refit", "control")
    config = AccuracyConfig(
        data_dir=(tiny_dataset.path,), output_dir=tmp_path, seeds=(4, 2), arch="gru", variants=names
    )
    with pytest.raises(ModelError, match="nothing is finished"):
        run(config, "")
    # A student is looked at before its refit once it is trained.
    assert order == [(seed, f"gru {name}") for seed in (4, 2) for name in reversed(names)]


def test_two_data_sets_of_one_name_are_refused(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    shutil.copytree(tiny_dataset.path, tmp_path / "tiny")
    both = AccuracyConfig(data_dir=(tiny_dataset.path, tmp_path / "tiny"), variants=("control",))
    with pytest.raises(DataError, match="two data sets are in folders named tiny"):
        run(both, "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [({"jobs": 0}, "--jobs 0"), ({"seeds": (1, 1)}, "--seeds 1 1: one stands there twice")],
)
def test_flags_that_cannot_work_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AccuracyConfig(**flags)
