import copy
import json
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.histories import PAD

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from export.onnx_graph import exporting
from export.onnx_graph.exporting import check_parity, ensure_exported, export_student
from export.onnx_graph.graph import write_graph
from export.recommender import OUTPUT_NAMES, open_session
from export.to_onnx import main
from student.model import Arch, Student, StudentConfig

NUM_ITEMS, MAX_LEN = 40, 9
ARCHS: tuple[Arch, ...] = ("gru", "transformer")


def make_student(arch: Arch, **shape: int) -> Student:
    torch.manual_seed(0)
    shape = {"num_items": NUM_ITEMS, "max_len": MAX_LEN, "hidden_dim": 16, **shape}
    student = Student(StudentConfig(arch=arch, **shape)).eval()
    with torch.no_grad():  # zero biases and unit gains would hide a term that is left out
        for name, parameter in student.named_parameters():
            if name != "item_embedding.weight":
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return student


@pytest.fixture(scope="module", params=ARCHS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    student = make_student(request.param)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    write_graph(student, path)
    return student, path, open_session(path, num_threads=1)


def ask(session, items, excluded, k: int):
    feeds = {
        "items": np.asarray(items, dtype=np.int64),
        "excluded": np.asarray(excluded, dtype=np.int64).reshape(len(items), -1),
        "k": np.array([k]),
    }
    return session.run(OUTPUT_NAMES, feeds)


def all_scores(session, items: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read every item's score out of the answer, (B, I + 1)."""
    top_items, top_scores = ask(session, items, np.zeros((len(items), 0)), NUM_ITEMS + 1)
    scores = np.empty_like(top_scores)
    np.put_along_axis(scores, top_items, top_scores, axis=1)
    return scores


@pytest.mark.parametrize("num_users", [1, 2, 5])
def test_the_graph_scores_as_pytorch_does_at_every_length(exported, num_users: int) -> None:
    student, _, session = exported
    rng = np.random.default_rng(num_users)
    for length in range(1, MAX_LEN + 1):
        items = rng.integers(1, NUM_ITEMS + 1, (num_users, length))
        for row in range(1, num_users):  # mixed lengths in one batch; the first fills it
            items[row, : rng.integers(0, length)] = PAD
        with torch.inference_mode():
            expected = student(torch.from_numpy(items)).numpy()[:, 1:]
        np.testing.assert_allclose(all_scores(session, items)[:, 1:], expected, rtol=0, atol=1e-4)


def test_padding_before_a_history_changes_nothing(exported) -> None:
    _, _, session = exported
    items = np.array([[3, 14, 15]])
    padded = np.array([[0, 0, 0, 0, 3, 14, 15]])
    np.testing.assert_allclose(
        all_scores(session, padded)[:, 1:], all_scores(session, items)[:, 1:], rtol=0, atol=1e-5
    )


def test_a_users_scores_do_not_depend_on_who_else_is_in_the_batch(exported) -> None:
    _, _, session = exported
    batch = np.array([[0, 0, 3, 14], [1, 5, 9, 2], [0, 6, 5, 3]])
    together = all_scores(session, batch)[:, 1:]
    alone = np.concatenate([all_scores(session, batch[row : row + 1]) for row in range(3)])[:, 1:]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_excluded_items_leave_the_answer_and_the_others_move_up(exported) -> None:
    _, _, session = exported
    history = [[7, 8, 9]]
    full, _ = ask(session, history, [[]], 6)
    rest, _ = ask(session, history, [[PAD, full[0, 0], full[0, 2]]], 4)
    assert rest[0].tolist() == full[0, [1, 3, 4, 5]].tolist()


def test_padding_and_excluded_items_have_no_score(exported) -> None:
    _, _, session = exported
    excluded = list(range(1, NUM_ITEMS - 1))  # all but the last two items
    top_items, top_scores = ask(session, [[1, 2]], [excluded], 5)
    assert set(top_items[0, :2].tolist()) == {NUM_ITEMS - 1, NUM_ITEMS}
    assert np.isfinite(top_scores[0, :2]).all()
    assert (top_scores[0, 2:] == -np.inf).all()


@pytest.mark.parametrize("k", [1, 2, 10, NUM_ITEMS])
def test_k_items_come_back_best_first(exported, k: int) -> None:
    student, _, session = exported
    history = np.array([[4, 2]])
    top_items, top_scores = ask(session, history, [[]], k)
    with torch.inference_mode():
        scores = student(torch.from_numpy(history))[0, 1:].numpy()
    assert top_items.shape == top_scores.shape == (1, k)
    assert top_items[0].tolist() == (np.argsort(-scores, kind="stable")[:k] + 1).tolist()


def test_of_items_with_equal_scores_the_lower_number_comes_first(tmp_path: Path) -> None:
    student = make_student("gru")
    with torch.no_grad():
        student.item_embedding.weight[20:] = student.item_embedding.weight[20]
    write_graph(student, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", num_threads=1)
    top_items, _ = ask(session, [[1, 2, 3]], [[]], NUM_ITEMS)
    tied = [item for item in top_items[0].tolist() if item >= 20]
    assert tied == sorted(tied)


def test_a_gru_of_two_layers_is_exported_with_both(tmp_path: Path) -> None:
    student = make_student("gru", num_layers=2)
    write_graph(student, tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("GRU") == 2
    check_parity(student, tmp_path / "model.onnx")


def test_the_item_table_is_stored_once(exported) -> None:
    student, path, _ = exported
    size = student.item_embedding.weight.numel()
    stored = [t for t in onnx.load(path).graph.initializer if np.prod(t.dims) == size]
    assert len(stored) == 1


def test_parity_fails_if_one_weight_of_the_model_differs(exported) -> None:
    student, path, _ = exported
    check_parity(student, path)
    other = copy.deepcopy(student)
    with torch.no_grad():
        other.item_embedding.weight[17, 3] += 0.05
    with pytest.raises(ModelError, match="does not answer as PyTorch does"):
        check_parity(other, path)


def save(student: Student, folder: Path, dataset: SequenceDataset, role: str = "distilled") -> Path:
    student.save_pretrained(
        folder,
        role=role,
        dataset_fingerprint=dataset.fingerprint,
        valid_metrics={"ndcg@10": 0.125},
    )
    return folder


def test_a_failed_export_leaves_nothing_behind(
    tiny_dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = make_student("gru", num_items=tiny_dataset.num_items)
    folder = save(student, tmp_path / "student", tiny_dataset)

    def write_wrong_graph(student: Student, path: Path) -> None:
        with torch.no_grad():
            student = copy.deepcopy(student)
            student.item_embedding.weight[5] += 1
        write_graph(student, path)

    monkeypatch.setattr(exporting, "write_graph", write_wrong_graph)
    with pytest.raises(ModelError, match="Nothing was written"):
        export_student(folder, tiny_dataset, tmp_path / "export" / "out", "fp32")
    assert list((tmp_path / "export").iterdir()) == []


def test_a_student_of_another_data_set_is_refused(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    student = make_student("gru", num_items=tiny_dataset.num_items)
    student.save_pretrained(tmp_path / "student", role="control", dataset_fingerprint="other")
    with pytest.raises(ModelError, match="was trained on data set other"):
        export_student(tmp_path / "student", tiny_dataset, tmp_path / "out", "fp32")


def test_only_a_retrained_student_is_exported_again(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    student = make_student("gru", num_items=tiny_dataset.num_items)
    folder = save(student, tmp_path / "students" / "gru" / "distilled", tiny_dataset)
    made = ensure_exported(tiny_dataset, tmp_path, folder, "fp32") / "model.onnx"
    first = made.stat().st_mtime_ns
    assert ensure_exported(tiny_dataset, tmp_path, folder, "fp32") / "model.onnx" == made
    assert made.stat().st_mtime_ns == first
    with torch.no_grad():
        student.item_embedding.weight[1] += 0.5
    save(student, folder, tiny_dataset)
    ensure_exported(tiny_dataset, tmp_path, folder, "fp32")
    check_parity(student, made)


def test_the_entry_point_exports_all_students_in_both_precisions(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    student = make_student("gru", num_items=tiny_dataset.num_items)
    for role in ("control", "distilled"):
        save(student, tmp_path / "students" / "gru" / role, tiny_dataset, role)
    unfinished = tmp_path / "students" / "gru" / "control-checkpoint"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"")
    main(["--data-dir", str(tiny_dataset.path), "--output-dir", str(tmp_path)])
    names = sorted(folder.name for folder in (tmp_path / "export").iterdir())
    expected = ["gru-control-fp32", "gru-control-int8", "gru-distilled-fp32", "gru-distilled-int8"]
    assert names == expected
    config = json.loads((tmp_path / "export/gru-distilled-int8/config.json").read_text())
    assert (config["role"], config["precision"]) == ("distilled", "int8")
    card = (tmp_path / "export/gru-distilled-int8/README.md").read_text()
    assert "NDCG@10 on validation targets, in PyTorch, while they were held out: 0.1250" in card


def test_without_students_the_entry_point_names_the_command_to_type(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"python -m student\.distill"):
        main(["--data-dir", str(tiny_dataset.path), "--output-dir", str(tmp_path)])
