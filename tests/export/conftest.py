"""Exported students of random weights."""

from pathlib import Path

from seqrec.data import SequenceDataset

import pytest
import torch

from export.onnx_graph.exporting import export_student
from export.recommender import Recommender
from student.model import Student, StudentConfig
from tests.export.answers import MAX_LEN


@pytest.fixture(scope="module")
def student(tiny_dataset: SequenceDataset) -> Student:
    torch.manual_seed(1)
    shape = StudentConfig(
        arch="gru", num_items=tiny_dataset.num_items, hidden_dim=16, max_len=MAX_LEN
    )
    return Student(shape).eval()


@pytest.fixture(scope="module")
def folder(
    student: Student, tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("recommender")
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    student.save_pretrained(path / "student", **about)
    export_student(path / "student", tiny_dataset, path / "exported", "fp32")
    return path / "exported"


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
    torch.manual_seed(2)
    shape = StudentConfig(
        arch=request.param, num_items=tiny_dataset.num_items, hidden_dim=16, max_len=MAX_LEN
    )
    path = tmp_path_factory.mktemp("followed")
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    Student(shape).eval().save_pretrained(path / "student", **about)
    export_student(path / "student", tiny_dataset, path / "exported", "int8")
    return Recommender.from_pretrained(path / "exported")
