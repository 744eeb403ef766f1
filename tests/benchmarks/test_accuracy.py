"""The plan of the accuracy grid, and what it refuses."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError

import pytest

from benchmarks.accuracy import AccuracyConfig, run
from benchmarks.grid.plan import plan
from benchmarks.grid.variants import select_variants


def test_what_others_are_made_from_is_computed_first_and_seed_by_seed() -> None:
    variants = select_variants(["distilled-int8", "teacher", "control+control"])
    assert variants == ["teacher", "control", "distilled", "distilled-int8", "control+control"]
    first, second = plan(variants, ["gru"], [4, 2])
    assert [str(key) for key in first] == [
        "teacher",
        "gru control seed 4",
        "gru distilled seed 4",
        "gru control seed 2",
        "gru distilled seed 2",
    ]
    assert [str(key) for key in second] == [
        "gru distilled-int8 seed 4",
        "gru control+control seed 4 and 2",
        "gru distilled-int8 seed 2",
    ]


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
        ({"variants": ("control+control",), "seeds": (3,)}, ModelError, "--seeds 3 4, or leave"),
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
