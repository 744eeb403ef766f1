"""From trained students to recommender directories."""

import copy
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import read_json

import pytest
import torch

from export.onnx_graph import exporting, graph
from export.onnx_graph.exporting import check_parity, ensure_exported, export_student
from export.onnx_graph.graph import write_graph
from export.to_onnx import main
from student.model import Student
from tests.export.answers import make_student


@pytest.fixture
def student(tiny_dataset: SequenceDataset) -> Student:
    return make_student("gru", num_items=tiny_dataset.num_items)


def save(student: Student, folder: Path, dataset: SequenceDataset, role: str = "distilled") -> Path:
    about = {"dataset_fingerprint": dataset.fingerprint, "valid_metrics": {"ndcg@10": 0.125}}
    student.save_pretrained(folder, role=role, **about)
    return folder


def other_than(student: Student) -> Student:
    """Return the same student but for one weight."""
    other = copy.deepcopy(student)
    with torch.no_grad():
        other.item_embedding.weight[17, 3] += 0.05
    return other


@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_parity_fails_if_one_weight_of_the_model_differs(arch, tmp_path: Path) -> None:
    student = make_student(arch)
    write_graph(student, tmp_path / "model.onnx")
    check_parity(student, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="does not answer as PyTorch does"):
        check_parity(other_than(student), tmp_path / "model.onnx")


def test_a_failed_export_leaves_nothing_behind(
    student: Student, tiny_dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(student, tmp_path / "student", tiny_dataset)
    wrong = other_than(student)
    monkeypatch.setattr(exporting, "write_graph", lambda student, path: write_graph(wrong, path))
    with pytest.raises(ModelError, match="Nothing was written"):
        export_student(folder, tiny_dataset, tmp_path / "export" / "out", "fp32")
    assert list((tmp_path / "export").iterdir()) == []


def test_a_student_of_another_data_set_is_refused(
    student: Student, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    student.save_pretrained(tmp_path / "student", role="control", dataset_fingerprint="other")
    with pytest.raises(ModelError, match="was trained on data set other"):
        export_student(tmp_path / "student", tiny_dataset, tmp_path / "out", "fp32")


def test_only_a_retrained_student_is_exported_again(
    student: Student, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    folder = save(student, tmp_path / "students" / "gru" / "distilled", tiny_dataset)
    made = ensure_exported(tiny_dataset, tmp_path, folder, "fp32") / "model.onnx"
    first = made.stat().st_mtime_ns
    assert ensure_exported(tiny_dataset, tmp_path, folder, "fp32") / "model.onnx" == made
    assert made.stat().st_mtime_ns == first
    retrained = other_than(student)
    save(retrained, folder, tiny_dataset)
    ensure_exported(tiny_dataset, tmp_path, folder, "fp32")
    check_parity(retrained, made)


def test_the_entry_point_exports_all_students_in_both_precisions(
    student: Student, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    for role in ("control", "distilled"):
        save(student, tmp_path / "students" / "gru" / role, tiny_dataset, role)
    unfinished = tmp_path / "students" / "gru" / "control-checkpoint"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"")
    main(["--data-dir", str(tiny_dataset.path), "--output-dir", str(tmp_path)])
    names = sorted(folder.name for folder in (tmp_path / "export").iterdir())
    expected = ["gru-control-fp32", "gru-control-int8", "gru-distilled-fp32", "gru-distilled-int8"]
    assert names == expected
    folder = tmp_path / "export" / "gru-distilled-int8"
    config = read_json(folder / "config.json")
    assert (config["role"], config["precision"]) == ("distilled", "int8")
    card = (folder / "README.md").read_text()
    assert "NDCG@10 on validation targets, in PyTorch, while they were held out: 0.1250" in card
    size = (folder / "model.onnx").stat().st_size / 2**20
    assert f"- size of `model.onnx`: {size:.2f} MiB, {student.num_parameters:,} parameters" in card


def test_without_students_the_entry_point_names_the_command_to_type(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"python -m student\.distill"):
        main(["--data-dir", str(tiny_dataset.path), "--output-dir", str(tmp_path)])


def test_a_student_that_no_file_holds_in_fp32_is_exported_in_8_bit(
    student: Student,
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An ONNX file ends at 2 GiB; here at what this student takes in 8 bit."""
    folder = save(student, tmp_path / "students" / "gru" / "distilled", tiny_dataset)
    whole = ensure_exported(tiny_dataset, tmp_path, folder, "int8").rename(tmp_path / "whole")
    size = (whole / "model.onnx").stat().st_size
    monkeypatch.setattr(graph, "MOST_BYTES", size)
    monkeypatch.setattr(exporting, "MOST_BYTES", size)
    exporting.export_all(tiny_dataset.path, tmp_path)
    assert [made.name for made in (tmp_path / "export").iterdir()] == ["gru-distilled-int8"]
    assert "of 1 students int8 alone" in caplog.text
    made = tmp_path / "export" / "gru-distilled-int8" / "model.onnx"
    assert made.read_bytes() == (whole / "model.onnx").read_bytes()
    with pytest.raises(ModelError, match="in fp32 the student is larger than an ONNX file can be"):
        ensure_exported(tiny_dataset, tmp_path, folder, "fp32")
