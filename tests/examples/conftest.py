"""A tiny exported student for the examples."""

from pathlib import Path

from seqrec.data import SequenceDataset

import pytest
import torch

from export.onnx_graph.exporting import export_student
from student.model import Student, StudentConfig


@pytest.fixture(scope="module", params=["gru", "transformer"])
def model_dir(
    request: pytest.FixtureRequest,
    tiny_dataset: SequenceDataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    torch.manual_seed(3)
    shape = StudentConfig(
        arch=request.param, num_items=tiny_dataset.num_items, hidden_dim=16, max_len=6
    )
    path = tmp_path_factory.mktemp("example")
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    Student(shape).eval().save_pretrained(path / "student", **about)
    export_student(path / "student", tiny_dataset, path / "exported", "int8")
    return path / "exported"
