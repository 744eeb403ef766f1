"""Exports of students of random weights, and what they answer."""

from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.files import read_json, sha256_file, write_json

import pytest
import torch

from export.onnx_graph.exporting import Precision, ensure_exported
from student.model import Arch, Student, StudentConfig

MAX_LEN, NUM_ITEMS = 6, 40


def export_random(
    run: Path,
    dataset: SequenceDataset,
    arch: Arch = "gru",
    precision: Precision = "fp32",
    *,
    seed: int = 1,
    hidden_dim: int = 16,
    max_len: int = MAX_LEN,
) -> Path:
    """Export a control of random weights into a run, and return the export's folder."""
    torch.manual_seed(seed)
    shape = StudentConfig(
        arch=arch, num_items=dataset.num_items, hidden_dim=hidden_dim, max_len=max_len
    )
    student = run / "students" / arch / "control"
    fields = {"role": "control", "dataset_fingerprint": dataset.fingerprint}
    Student(shape).save_pretrained(student, **fields)
    return ensure_exported(dataset, run, student, precision)


def make_student(arch: Arch, **shape: int) -> Student:
    """Return a student of random weights: zero biases and unit gains would hide missing terms."""
    torch.manual_seed(0)
    shape = {"num_items": NUM_ITEMS, "max_len": 9, "hidden_dim": 16, **shape}
    student = Student(StudentConfig(arch=arch, **shape)).eval()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name != "item_embedding.weight":
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return student


def rename_items(folder: Path, **columns: list[str]) -> None:
    """Give the items of an export other `ids` or `titles`."""
    write_json(folder / "items.json", read_json(folder / "items.json") | columns)
    config = read_json(folder / "config.json")
    config["sha256"]["items.json"] = sha256_file(folder / "items.json")
    write_json(folder / "config.json", config)


def flip_a_byte(file: Path) -> None:
    """Damage a file in its middle."""
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


def ids(answer) -> list[str]:
    return [recommendation.item_id for recommendation in answer]


def same(first, second) -> bool:
    scores = [[r.score for r in answer] for answer in (first, second)]
    return ids(first) == ids(second) and scores[0] == pytest.approx(scores[1], abs=1e-3)
