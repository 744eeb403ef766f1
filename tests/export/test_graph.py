"""The 8-bit graph, exact top-k in groups, and a GRU's state between requests."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from export.onnx_graph import graph, item_table
from export.onnx_graph.builder import TOP_LEVEL, GraphBuilder, quantize_rows
from export.onnx_graph.exporting import check_parity
from export.onnx_graph.graph import build_graph
from export.onnx_graph.item_table import ItemTable, append_rows, restore_at_lookup
from export.recommender import OUTPUT_NAMES, open_session
from student.model import Arch, Student, StudentConfig

NOTHING = np.zeros((1, 0), dtype=np.int64)
SHAPES = [
    ("transformer", {}),
    ("transformer", {"num_heads": 2}),
    ("transformer", {"num_layers": 2, "num_heads": 4}),
    ("transformer", {"num_layers": 3, "hidden_dim": 20}),
    ("gru", {}),
    ("gru", {"num_layers": 3, "hidden_dim": 20}),
]


def make_student(arch: Arch, **shape: int) -> Student:
    torch.manual_seed(0)
    shape = {"num_items": 40, "max_len": 9, "hidden_dim": 16, **shape}
    student = Student(StudentConfig(arch=arch, **shape)).eval()
    with torch.no_grad():  # zero biases and unit gains would hide a term that is left out
        for name, parameter in student.named_parameters():
            if name != "item_embedding.weight":
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return student


def ask(session, items, k: int, excluded=NOTHING, **more):
    feeds = {"items": np.asarray(items), "excluded": excluded, "k": np.array([k]), **more}
    feeds["excluded"] = np.broadcast_to(excluded, (len(feeds["items"]), excluded.shape[1]))
    return session.run(OUTPUT_NAMES, feeds)


def histories(rng: np.random.Generator, num_users: int, width: int, num_items: int):
    items = rng.integers(1, num_items + 1, (num_users, width))
    for row in range(1, num_users):
        items[row, : rng.integers(0, width)] = 0
    return items


# --- All shapes, both precisions ------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "shape"), SHAPES)
def test_every_shape_of_student_answers_as_pytorch_does(
    arch: Arch, shape: dict[str, int], tmp_path: Path
) -> None:
    student = make_student(arch, **shape)
    graph.write_graph(student, tmp_path / "model.onnx")
    check_parity(student, tmp_path / "model.onnx")


@pytest.mark.parametrize("signed_from", [item_table.SIGNED_FROM, 0])
@pytest.mark.parametrize(("arch", "shape"), SHAPES)
def test_8_bit_scores_are_off_by_rounding_alone(
    arch: Arch, shape: dict[str, int], signed_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_table, "SIGNED_FROM", signed_from)
    student = make_student(arch, **shape)
    session = open_session(build_graph(student, "int8").SerializeToString(), 1)
    items = histories(np.random.default_rng(0), 5, 9, 40)
    top_items, top_scores = ask(session, items, 41)
    with torch.inference_mode():
        expected = np.take_along_axis(student(torch.from_numpy(items)).numpy(), top_items, axis=1)
    found = np.isfinite(top_scores)
    assert found.sum() == 5 * 40
    difference = (top_scores - expected)[found]
    assert difference.std() < 0.05 * expected[found].std()


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
    model = builder.model(
        {"states": (onnx.TensorProto.FLOAT, ["users", 64])},
        {"scores": (onnx.TensorProto.FLOAT, ["users", 61])},
    )
    session = open_session(model.SerializeToString(), 1)
    (found,) = session.run(None, {"states": (whole * 0.25).astype(np.float32)})
    levels, scales = quantize_rows(table)
    expected = (whole @ levels.astype(np.int64).T) * scales[:, 0] * 0.25
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_no_sum_of_two_products_overflows_16_bits() -> None:
    """As x86 without VNNI adds products of unsigned and signed bytes."""
    largest = 2 * item_table.SHORT_LEVEL + 1
    assert 2 * largest * TOP_LEVEL < 2**15


@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_a_users_8_bit_scores_do_not_depend_on_who_else_is_in_the_batch(arch: Arch) -> None:
    session = open_session(build_graph(make_student(arch), "int8").SerializeToString(), 1)
    items = histories(np.random.default_rng(1), 8, 9, 40)
    together = ask(session, items, 40)
    for row in range(8):
        alone = ask(session, items[row : row + 1], 40)
        # A rounding of the encoder may move a state's value to the next of its 255 levels.
        np.testing.assert_allclose(
            np.sort(together[1][row]), np.sort(alone[1][0]), rtol=0, atol=2e-3
        )


def test_an_8_bit_file_holds_every_matrix_in_8_bit_and_the_table_once() -> None:
    model = build_graph(make_student("gru", num_items=400), "int8")
    sizes = {t.name: (t.data_type, int(np.prod(t.dims))) for t in model.graph.initializer}
    eight_bit = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    assert [n for n, (_, size) in sizes.items() if size == 401 * 16] == ["item_table"]
    assert all(kind in eight_bit for kind, size in sizes.values() if size >= 16 * 16 + 200)
    assert {node.domain for node in model.graph.node} == {""}


def test_rows_are_rounded_to_the_nearest_level_of_their_own() -> None:
    matrix = np.array([[0.0, 0.254, -0.254], [1000.0, -3.0, 5.0], [0.0, 0.0, 0.0]])
    levels, scales = quantize_rows(matrix)
    assert levels.tolist() == [[0, 127, -127], [127, 0, 1], [0, 0, 0]]
    assert scales[:, 0].tolist() == pytest.approx([0.002, 1000 / 127, 1.0])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("arch", "shape"), SHAPES)
def test_rows_restored_at_each_request_are_those_restored_at_loading(
    arch: Arch, shape: dict[str, int], precision, tmp_path: Path
) -> None:
    model = build_graph(make_student(arch, num_items=500, **shape), precision)
    whole = open_session(model.SerializeToString(), 1)
    restore_at_lookup(model)
    onnx.checker.check_model(model, full_check=True)
    items = histories(np.random.default_rng(6), 5, 9, 500)
    at_request = open_session(model.SerializeToString(), 1)
    for expected, found in zip(ask(whole, items, 30), ask(at_request, items, 30), strict=True):
        assert np.array_equal(expected, found)
    # What ONNX Runtime would keep of it holds the table twice, the second time for the scores.
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "kept.onnx")
    ort.InferenceSession(model.SerializeToString(), options)
    kept = onnx.load(tmp_path / "kept.onnx").graph.initializer
    width = shape.get("hidden_dim", 16)
    tables = [tensor for tensor in kept if np.prod(tensor.dims) == 501 * width]
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


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("k", [1, 3, 10, 64, 299, 301])
def test_groups_give_the_same_answer_as_a_full_sort(grouped: Student, precision, k: int) -> None:
    model = build_graph(grouped, precision)
    assert "GatherND" in {node.op_type for node in model.graph.node}
    session = open_session(model.SerializeToString(), 1)
    items = histories(np.random.default_rng(2), 4, 9, 300)
    excluded = np.array([[5, 17, 200, 0]])
    all_items, all_scores = ask(session, items, 301, excluded)
    for row in range(4):  # of equal scores the lower number first
        order = np.lexsort((all_items[row], -all_scores[row]))
        finite = np.isfinite(all_scores[row][order])
        assert np.array_equal(order[finite], np.arange(297))
    top_items, top_scores = ask(session, items, k, excluded)
    assert np.array_equal(top_scores, all_scores[:, :k])
    finite = np.isfinite(top_scores)
    assert np.array_equal(top_items[finite], all_items[:, :k][finite])


def test_grouped_graphs_answer_as_pytorch_does(grouped: Student, tmp_path: Path) -> None:
    graph.write_graph(grouped, tmp_path / "model.onnx")
    check_parity(grouped, tmp_path / "model.onnx")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("num_new", [1, 19, 20, 200])  # 300 items fill 19 places less than 5 groups
def test_rows_can_be_appended_to_groups(grouped: Student, precision, num_new: int) -> None:
    model = build_graph(grouped, precision)
    before = open_session(model.SerializeToString(), 1)
    rows = np.random.default_rng(3).normal(size=(num_new, 16)).astype(np.float32)
    append_rows(model, rows)
    after = open_session(model.SerializeToString(), 1)
    items = histories(np.random.default_rng(4), 1, 9, 300)
    found = np.full(301 + num_new, np.nan, dtype=np.float32)
    top_items, top_scores = ask(after, items, 301 + num_new)
    found[top_items[0]] = top_scores[0]
    known = np.full(301, np.nan, dtype=np.float32)
    top_items, top_scores = ask(before, items, 301)
    known[top_items[0]] = top_scores[0]
    assert np.array_equal(found[1:301], known[1:301])
    with torch.inference_mode():
        state = grouped.encode(torch.from_numpy(items))[0, -1].numpy()
    np.testing.assert_allclose(
        found[301:], rows @ state, rtol=0, atol=1e-4 if precision == "fp32" else 0.2
    )


# --- A GRU's state --------------------------------------------------------------------------------


def step_through(session, items: NDArray[np.int64], k: int):
    """Ask with one item at a time, the state handed on."""
    state: dict[str, NDArray] = {}
    for place in range(items.shape[1]):
        feeds = {
            "items": items[:, place : place + 1],
            "excluded": np.zeros((len(items), 0), dtype=np.int64),
            "k": np.array([k]),
            **state,
        }
        *answer, new = session.run([*OUTPUT_NAMES, "new_state"], feeds)
        state = {"state": new}
    return answer


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_gru_step_by_step_answers_as_pytorch_does_for_the_whole_history(num_layers: int) -> None:
    student = make_student("gru", num_layers=num_layers)
    session = open_session(build_graph(student).SerializeToString(), 1)
    items = np.random.default_rng(5).integers(1, 41, (3, 30))  # longer than max_len
    for length in (1, 2, 9, 30):
        top_items, top_scores = step_through(session, items[:, :length], 40)
        with torch.inference_mode():
            expected = student(torch.from_numpy(items[:, :length])).numpy()
        np.testing.assert_allclose(
            top_scores, np.take_along_axis(expected, top_items, axis=1), rtol=0, atol=1e-5
        )


def test_a_transformer_keeps_no_state() -> None:
    model = build_graph(make_student("transformer"))
    assert [value.name for value in model.graph.input] == ["items", "excluded", "k"]
    assert [value.name for value in model.graph.output] == list(OUTPUT_NAMES)
