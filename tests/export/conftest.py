"""Exported students of random weights."""

from pathlib import Path

from seqrec.data import SequenceDataset

import pytest

from export.recommender import Recommender
from student.model import Student
from tests.export.answers import export_random


@pytest.fixture(scope="module")
def folder(tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GRU's export in fp32."""
    return export_random(tmp_path_factory.mktemp("run"), tiny_dataset)


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    """What `folder` was exported from."""
    return Student.from_pretrained(folder.parents[1] / "students" / "gru" / "control")


@pytest.fixture(scope="module")
def recommender(folder: Path) -> Recommender:
    return Recommender.from_pretrained(folder)


@pytest.fixture(scope="module", params=["gru", "transformer"])
def followed(
    request: pytest.FixtureRequest,
    tiny_dataset: SequenceDataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Recommender:
    """A recommender of either kind, in 8 bit."""
    run = tmp_path_factory.mktemp("followed")
    return Recommender.from_pretrained(
        export_random(run, tiny_dataset, request.param, "int8", seed=2)
    )
