"""Graphs beside PyTorch and numpy: fp32, 8 bit, exact top-k in groups, a GRU's state."""

from functools import cache
from pathlib import Path

from seqrec.errors import ModelError

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.onnx_graph import item_table
from export.onnx_graph.builder import EIGHT_BIT, TOP_LEVEL, GraphBuilder, quantize_rows
from export.onnx_graph.graph import build_graph
from export.onnx_graph.item_table import ItemTable, append_rows, restore_at_lookup
from export.parity import ask
from export.recommender import OUTPUT_NAMES, open_session
from student.model import Arch, Student
from tests.export.answers import NUM_ITEMS, make_student

MAX_LEN = 9
SHAPES: dict[str, tuple[Arch, dict[str, int]]] = {
    "Transformer": ("transformer", {}),
    "Transformer, 2 heads": ("transformer", {"num_heads": 2}),
    "Transformer, 2 blocks": ("transformer", {"num_layers": 2, "num_heads": 4}),
    "Transformer, 3 blocks": ("transformer", {"num_layers": 3, "hidden_dim": 20}),
    "GRU": ("gru", {}),
    "GRU, 3 layers": ("gru", {"num_layers": 3, "hidden_dim": 20}),
}
every_shape = pytest.mark.parametrize("name", SHAPES)
both_precisions = pytest.mark.parametrize("precision", ["fp32", "int8"])


@cache
def student_of(name: str, num_items: int = NUM_ITEMS) -> Student:
    arch, shape = SHAPES[name]
    return make_student(arch, num_items=num_items, **shape)


def opened(model: onnx.ModelProto) -> ort.InferenceSession:
    return open_session(model.SerializeToString(), 1)


@cache
def fp32_session(name: str) -> ort.InferenceSession:
    return opened(build_graph(student_of(name)))


def histories(rng: np.random.Generator, num_users: int, width: int, num_items: int = NUM_ITEMS):
    """Return left-padded histories of any lengths, of which the first has no padding."""
    items = rng.integers(1, num_items + 1, (num_users, width))
    for row in range(1, num_users):
        items[row, : rng.integers(0, width)] = 0
    return items


def none_of(items: NDArray[np.int64]) -> NDArray[np.int64]:
    return items[:, :0]


def scores_by_item(session: ort.InferenceSession, items: NDArray[np.int64], num_items: int):
    """Read one user's score of every item out of the answer, (num_items,)."""
    top_items, top_scores = ask(session, items, none_of(items), num_items)
    return top_scores[0, np.argsort(top_items[0])]


# --- fp32 -----------------------------------------------------------------------------------------


@every_shape
@settings(deadline=None)  # another program may have the core
@given(
    st.integers(1, 5), st.integers(1, MAX_LEN), st.integers(0, 50), st.integers(1, 41), st.data()
)
def test_an_answer_is_what_pytorch_scores_highest_for_each_user_alone(
    name: str, num_users: int, width: int, num_excluded: int, k: int, data: st.DataObject
) -> None:
    """Whatever padding and exclusions there are, and whoever else is in the batch."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    items = histories(rng, num_users, width)
    excluded = rng.integers(0, NUM_ITEMS + 1, (num_users, num_excluded))
    top_items, top_scores = ask(fp32_session(name), items, excluded, k)
    assert top_items.shape == top_scores.shape == (num_users, k)
    for row, history in enumerate(items):
        with torch.inference_mode():
            scores = student_of(name)(torch.from_numpy(history[None, history != 0]))[0].numpy()
        scores[[0, *excluded[row]]] = -np.inf
        highest = -np.sort(-scores)[:k]
        np.testing.assert_allclose(top_scores[row], highest, rtol=0, atol=1e-4)
        np.testing.assert_allclose(scores[top_items[row]], highest, rtol=0, atol=1e-4)
        given = top_items[row][np.isfinite(highest)]
        assert len(set(given.tolist())) == len(given)


def test_of_items_with_equal_scores_the_lower_number_comes_first() -> None:
    student = make_student("gru")
    with torch.no_grad():
        student.item_embedding.weight[20:] = student.item_embedding.weight[20]
    items = np.array([[1, 2, 3]])
    top_items, _ = ask(opened(build_graph(student)), items, none_of(items), NUM_ITEMS)
    tied = [item for item in top_items[0].tolist() if item >= 20]
    assert tied == list(range(20, NUM_ITEMS + 1))


def test_a_transformer_keeps_no_state() -> None:
    model = build_graph(make_student("transformer"))
    assert [value.name for value in model.graph.input] == ["items", "excluded", "k"]
    assert [value.name for value in model.graph.output] == list(OUTPUT_NAMES)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_gru_step_by_step_answers_as_pytorch_does_for_the_whole_history(num_layers: int) -> None:
    student = make_student("gru", num_layers=num_layers)
    session = opened(build_graph(student))
    items = np.random.default_rng(5).integers(1, NUM_ITEMS + 1, (3, 30))  # longer than MAX_LEN
    feeds = {"excluded": none_of(items), "k": np.array([NUM_ITEMS])}
    for length in range(1, 31):
        feeds["items"] = items[:, length - 1 : length]
        top_items, top_scores, feeds["state"] = session.run([*OUTPUT_NAMES, "new_state"], feeds)
        with torch.inference_mode():
            scores = student(torch.from_numpy(items[:, :length])).numpy()
        expected = np.take_along_axis(scores, top_items, axis=1)
        np.testing.assert_allclose(top_scores, expected, rtol=0, atol=1e-5)


# --- 8 bit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed_from", [item_table.SIGNED_FROM, 0])
@every_shape
def test_8_bit_scores_are_off_by_rounding_alone(
    name: str, signed_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_table, "SIGNED_FROM", signed_from)
    items = histories(np.random.default_rng(0), 5, MAX_LEN)
    session = opened(build_graph(student_of(name), "int8"))
    top_items, top_scores = ask(session, items, none_of(items), NUM_ITEMS)
    with torch.inference_mode():
        scores = student_of(name)(torch.from_numpy(items)).numpy()
    expected = np.take_along_axis(scores, top_items, axis=1)
    assert (top_scores - expected).std() < 0.05 * expected.std()


@pytest.mark.parametrize(("signed_from", "top"), [(1000, 127), (0, 63)])
def test_8_bit_scores_are_sums_of_whole_products(
    signed_from: int, top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside integer arithmetic in numpy; the largest levels that there are included."""
    monkeypatch.setattr(item_table, "SIGNED_FROM", signed_from)
    student = make_student("gru", num_items=60, hidden_dim=64)
    rng = np.random.default_rng(7)
    table = rng.normal(size=(61, 64)).astype(np.float32)
    table[0], table[1], table[2] = 0, 1, -1  # PAD; rows of the highest level and of the lowest
    with torch.no_grad():
        student.item_embedding.weight.copy_(torch.from_numpy(table))
    whole = rng.integers(-top, top + 1, (5, 64))
    whole[0], whole[1], whole[:, 0] = top, -top, top
    builder = GraphBuilder("int8")
    scores, unit = ItemTable.add(builder, student).scores("states")
    builder.node("Mul", scores, unit, output="scores")
    kinds = [(onnx.TensorProto.FLOAT, ["users", width]) for width in (64, 61)]
    session = opened(builder.model({"states": kinds[0]}, {"scores": kinds[1]}))
    (found,) = session.run(None, {"states": (whole * 0.25).astype(np.float32)})
    levels, scales = quantize_rows(table)
    expected = (whole @ levels.astype(np.int64).T) * scales[:, 0] * 0.25
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_no_sum_of_two_products_overflows_16_bits() -> None:
    """As x86 without VNNI adds products of unsigned and signed bytes."""
    largest = 2 * item_table.SHORT_LEVEL + 1
    assert 2 * largest * TOP_LEVEL < 2**15


@pytest.mark.parametrize("name", ["GRU", "Transformer"])
def test_a_users_8_bit_scores_do_not_depend_on_who_else_is_in_the_batch(name: str) -> None:
    session = opened(build_graph(student_of(name), "int8"))
    items = histories(np.random.default_rng(1), 8, MAX_LEN)
    _, together = ask(session, items, none_of(items), NUM_ITEMS)
    for row in range(8):
        _, alone = ask(session, items[[row]], none_of(items[[row]]), NUM_ITEMS)
        # A rounding of the encoder may move a state's value to the next of its 255 levels.
        np.testing.assert_allclose(together[row], alone[0], rtol=0, atol=2e-3)


@both_precisions
@pytest.mark.parametrize("name", ["GRU", "Transformer"])
def test_a_file_holds_the_table_once_and_in_8_bit_every_matrix_so(name: str, precision) -> None:
    model = build_graph(student_of(name, 400), precision)
    sizes = {t.name: (t.data_type, int(np.prod(t.dims))) for t in model.graph.initializer}
    assert [n for n, (_, size) in sizes.items() if size == 401 * 16] == ["item_table"]
    assert {node.domain for node in model.graph.node} == {""}
    matrices = {kind for kind, size in sizes.values() if size >= 16 * 16 and size != 401}
    assert matrices <= (set(EIGHT_BIT) if precision == "int8" else {onnx.TensorProto.FLOAT})


def test_rows_are_rounded_to_the_nearest_level_of_their_own() -> None:
    matrix = np.array([[0.0, 0.254, -0.254], [1000.0, -3.0, 5.0], [0.0, 0.0, 0.0]])
    levels, scales = quantize_rows(matrix)
    assert levels.tolist() == [[0, 127, -127], [127, 0, 1], [0, 0, 0]]
    assert scales[:, 0].tolist() == pytest.approx([0.002, 1000 / 127, 1.0])


@both_precisions
@every_shape
def test_rows_restored_at_each_request_are_those_restored_at_loading(
    name: str, precision, tmp_path: Path
) -> None:
    student = student_of(name, 500)
    model = build_graph(student, precision)
    whole = opened(model)
    restore_at_lookup(model)
    onnx.checker.check_model(model, full_check=True)
    items = histories(np.random.default_rng(6), 5, MAX_LEN, 500)
    at_request = opened(model)
    answers = [ask(session, items, none_of(items), 30) for session in (whole, at_request)]
    for expected, found in zip(*answers, strict=True):
        assert np.array_equal(expected, found)
    # What ONNX Runtime would keep of it holds the table twice, the second time for the scores.
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "kept.onnx")
    ort.InferenceSession(model.SerializeToString(), options)
    kept = onnx.load(tmp_path / "kept.onnx").graph.initializer
    size = student.item_embedding.weight.numel()
    tables = [tensor for tensor in kept if np.prod(tensor.dims) == size]
    assert 1 <= len(tables) <= 2
    if precision == "int8":
        assert {tensor.data_type for tensor in tables} == {onnx.TensorProto.UINT8}


# --- Top-k in groups ------------------------------------------------------------------------------


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> Student:
    """A student of 300 items whose graph looks for the best group by group, with many ties."""
    monkeypatch.setattr(item_table, "GROUPED_FROM", 100)
    student = make_student("gru", num_items=300)
    with torch.no_grad():
        weight = student.item_embedding.weight
        weight[100:301] = weight[1:10].repeat(23, 1)[:201]
    return student


@both_precisions
def test_groups_give_the_same_answer_as_a_full_sort(
    grouped: Student, precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_groups = build_graph(grouped, precision)
    assert "GatherND" in {node.op_type for node in in_groups.graph.node}
    monkeypatch.setattr(item_table, "GROUPED_FROM", 1000)
    sessions = opened(in_groups), opened(build_graph(grouped, precision))
    items = histories(np.random.default_rng(2), 4, MAX_LEN, 300)
    excluded = np.repeat([[5, 17, 200, 0]], 4, axis=0)
    for k in (1, 3, 10, 64, 299, 301):
        (found, scores), (expected, sorted_scores) = (ask(s, items, excluded, k) for s in sessions)
        assert np.array_equal(scores, sorted_scores)
        is_answer = np.isfinite(scores)
        assert is_answer.sum() == 4 * min(k, 297)
        assert np.array_equal(found[is_answer], expected[is_answer])


@both_precisions
@pytest.mark.parametrize("num_new", [1, 19, 20, 200])  # 300 items fill 19 places less than 5 groups
def test_rows_can_be_appended_to_groups(grouped: Student, precision, num_new: int) -> None:
    model = build_graph(grouped, precision)
    before = opened(model)
    rows = np.random.default_rng(3).normal(size=(num_new, 16)).astype(np.float32)
    append_rows(model, rows)
    items = histories(np.random.default_rng(4), 1, MAX_LEN, 300)
    found = scores_by_item(opened(model), items, 300 + num_new)
    assert np.array_equal(found[:300], scores_by_item(before, items, 300))
    with torch.inference_mode():
        state = grouped.encode(torch.from_numpy(items))[0, -1].numpy()
    tolerance = 1e-4 if precision == "fp32" else 0.2
    np.testing.assert_allclose(found[300:], rows @ state, rtol=0, atol=tolerance)


def test_appended_rows_of_any_size_are_kept_in_8_bit() -> None:
    model = build_graph(student_of("GRU"), "int8")
    rows = np.stack([np.full(16, 1e6), np.full(16, -1e-6)]).astype(np.float32)
    append_rows(model, rows)
    held = {part.name: onnx.numpy_helper.to_array(part) for part in model.graph.initializer}
    restored = (held["item_table"].astype(np.float32) - 128) * held["item_scales"]
    np.testing.assert_allclose(restored[NUM_ITEMS + 1 :], rows, rtol=1e-6)


def test_rows_are_appended_to_a_table_of_ours_alone() -> None:
    model = build_graph(student_of("GRU"))
    (table,) = (part for part in model.graph.initializer if part.name == "item_table")
    table.name = "weight"
    with pytest.raises(ModelError, match="no constant 'item_table'. Export it again"):
        append_rows(model, np.zeros((1, 16), dtype=np.float32))
