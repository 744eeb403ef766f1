"""The graph with an index: exact at full depth, and wherever an index could promise nothing."""

from concurrent.futures import ThreadPoolExecutor

from seqrec.errors import ModelError

import numpy as np
import onnx
import pytest
import torch

from export.contract import EXCLUDED, ITEMS, USER_STATE, K
from export.index.graph import MOST_EXCLUDED, Depth, build_index, item_rows
from export.index.lists import ItemLists, make_lists
from export.onnx_graph.graph import build_graph
from export.parity import ask
from export.recommender import open_session
from student.model import Arch, Student, StudentConfig

NUM_ITEMS, WIDTH, MAX_LEN, LIST_SIZE = 3_000, 16, 9, 32
NOTHING = np.zeros((1, 0), dtype=np.int64)


def make_student(arch: Arch, num_layers: int = 1) -> Student:
    torch.manual_seed(4)
    shape = StudentConfig(
        arch=arch,
        num_items=NUM_ITEMS,
        hidden_dim=WIDTH,
        max_len=MAX_LEN,
        num_layers=num_layers,
    )
    return Student(shape).eval()


def sorted_into_lists(model: onnx.ModelProto) -> ItemLists:
    states = np.random.default_rng(0).standard_normal((50, WIDTH)).astype(np.float32)
    return make_lists(item_rows(model), states, LIST_SIZE)


@pytest.fixture(
    scope="module",
    params=[("gru", 1), ("gru", 2), ("transformer", 1), ("transformer", 2)],
    ids=lambda given: f"{given[0]}-{given[1]}",
)
def sessions(request: pytest.FixtureRequest):
    """What scores all items, and an index that looks at all lists."""
    model = build_graph(make_student(*request.param), "int8")
    exact = open_session(model.SerializeToString(), 1)
    lists = sorted_into_lists(model)
    num_lists = len(lists.keys)
    built = build_index(model, lists, [Depth(10, num_lists), Depth(100, num_lists)])
    return exact, open_session(built.SerializeToString(), 1)


def histories(rng: np.random.Generator, num_users: int) -> np.ndarray:
    items = rng.integers(1, NUM_ITEMS + 1, (num_users, MAX_LEN))
    for row in range(1, num_users):
        items[row, : rng.integers(0, MAX_LEN)] = 0
    return items


def require_equal(answer, expected) -> None:
    """Equal scores in order; the items too, but where the last of them tie."""
    (items, scores), (expected_items, expected_scores) = answer, expected
    np.testing.assert_array_equal(scores, expected_scores)
    decided = np.isfinite(scores) & (scores > scores.min(axis=1, keepdims=True))
    np.testing.assert_array_equal(items[decided], expected_items[decided])


@pytest.mark.parametrize("num_users", [1, 5])
@pytest.mark.parametrize("k", [1, 10, 11, 100, 101, 1_000])
@pytest.mark.parametrize("num_excluded", [0, 1, MOST_EXCLUDED, MOST_EXCLUDED + 1])
def test_at_full_depth_the_answer_is_that_of_scoring_all_items(
    sessions, num_users: int, k: int, num_excluded: int
) -> None:
    exact, index = sessions
    rng = np.random.default_rng(k)
    items = histories(rng, num_users)
    excluded = rng.integers(0, NUM_ITEMS + 1, (num_users, num_excluded))
    require_equal(ask(index, items, excluded, k), ask(exact, items, excluded, k))


def test_an_index_that_looks_at_one_list_answers_as_if_there_were_no_other_items() -> None:
    """Or all items, where more is asked than it may promise."""
    model = build_graph(make_student("gru"), "int8")
    exact, lists = open_session(model.SerializeToString(), 1), sorted_into_lists(model)
    shallow = build_index(model, lists, [Depth(10, 1)])
    index = open_session(shallow.SerializeToString(), 1)
    items = histories(np.random.default_rng(0), 1)
    feeds = {ITEMS: items, EXCLUDED: NOTHING, K: np.array([1])}
    (state,) = index.run((USER_STATE,), feeds)
    best = lists.numbers[int(lists.promise(state).argmax())].astype(np.int64)
    others = np.setdiff1d(np.arange(1, NUM_ITEMS + 1), best)[None]
    require_equal(ask(index, items, NOTHING, 5), ask(exact, items, others, 5))
    for k, excluded in ((11, NOTHING), (10, best[None, :23]), (5, others[:, :1_000])):
        require_equal(ask(index, items, excluded, k), ask(exact, items, excluded, k))


def test_10_000_seen_items_are_left_out_and_nothing_else(sessions) -> None:
    exact, index = sessions
    rng = np.random.default_rng(1)
    left = rng.choice(np.arange(1, NUM_ITEMS + 1), 10, replace=False)
    seen = rng.choice(np.setdiff1d(np.arange(1, NUM_ITEMS + 1), left), 30_000)[None, :]
    seen[0, : NUM_ITEMS - 10] = np.setdiff1d(np.arange(1, NUM_ITEMS + 1), left)
    items, scores = ask(index, seen[:, -MAX_LEN:], seen[:, :10_000], 12)
    assert set(items[0, :10]) == set(left)
    assert np.isneginf(scores[0, 10:]).all()


def test_what_is_excluded_is_no_answer_and_what_comes_next_is(sessions) -> None:
    _, index = sessions
    items = histories(np.random.default_rng(2), 1)
    first, _ = ask(index, items, NOTHING, 100)
    second, _ = ask(index, items, first[:, :60], 10)
    np.testing.assert_array_equal(second, first[:, 60:70])


def test_ties_go_to_the_lower_number() -> None:
    student = make_student("gru")
    with torch.no_grad():
        table = student.item_embedding.weight
        table[1:] = torch.randn(5, WIDTH)[torch.arange(NUM_ITEMS) % 5]  # five rows, 600 times each
    model = build_graph(student, "int8")
    exact, lists = open_session(model.SerializeToString(), 1), sorted_into_lists(model)
    depth = len(lists.keys)
    index = open_session(build_index(model, lists, [Depth(100, depth)]).SerializeToString(), 1)
    items = histories(np.random.default_rng(3), 1)
    found, scores = ask(index, items, NOTHING, NUM_ITEMS)
    np.testing.assert_array_equal(found, ask(exact, items, NOTHING, NUM_ITEMS)[0])
    for score in np.unique(scores):
        assert (np.diff(found[scores == score]) > 0).all()


def test_the_state_times_an_items_row_is_its_score(sessions) -> None:
    exact, index = sessions
    student_rows = item_rows(build_graph(make_student("gru"), "int8"))
    items = histories(np.random.default_rng(4), 3)
    feeds = {ITEMS: items, EXCLUDED: np.zeros((3, 0), dtype=np.int64), K: np.array([NUM_ITEMS])}
    state, top_items, top_scores = index.run((USER_STATE, "top_items", "top_scores"), feeds)
    expected = np.take_along_axis(state @ student_rows.T, top_items - 1, axis=1)
    largest = np.abs(state).max()
    # A state is rounded to 127 levels of its largest value; so many errors add up by chance.
    rounding = largest / 127 / 2 * np.sqrt(WIDTH) * np.linalg.norm(student_rows, axis=1).max()
    assert np.abs(top_scores - expected).max() < rounding


def test_a_grus_state_goes_on_where_it_was() -> None:
    model = build_graph(make_student("gru"), "int8")
    lists = sorted_into_lists(model)
    built = build_index(model, lists, [Depth(10, len(lists.keys))])
    session = open_session(built.SerializeToString(), 1)
    items = histories(np.random.default_rng(5), 1)
    feeds = {EXCLUDED: NOTHING, K: np.array([10])}
    (state,) = session.run(("new_state",), {**feeds, ITEMS: items[:, :-1]})
    names = ("top_items", "top_scores")
    stepped = session.run(names, {**feeds, ITEMS: items[:, -1:], "state": state})
    whole = session.run(names, {**feeds, ITEMS: items})
    np.testing.assert_array_equal(stepped[0], whole[0])
    np.testing.assert_allclose(stepped[1], whole[1], atol=1e-5)


def test_an_export_without_8_bit_or_from_before_is_refused() -> None:
    older = build_graph(make_student("gru"), "int8")
    for node in older.graph.node:
        for names in (node.input, node.output):
            names[:] = ["unnamed" if name == USER_STATE else name for name in names]
    for model in (older, build_graph(make_student("gru"), "fp32")):
        with pytest.raises(ModelError, match=r"as older ones do.*python -m export\.to_onnx"):
            item_rows(model)


def test_threads_share_an_index(sessions) -> None:
    _, index = sessions
    asked = [histories(np.random.default_rng(seed), 1) for seed in range(200)]
    alone = [ask(index, items, items, 10)[0].tolist() for items in asked]
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda items: ask(index, items, items, 10)[0].tolist(), asked)
        assert list(together) == alone


def test_the_table_is_in_the_file_once_and_its_operators_are_standard_ones() -> None:
    model = build_graph(make_student("transformer"), "int8")
    lists = sorted_into_lists(model)
    built = build_index(model, lists, [Depth(10, 4)])
    onnx.checker.check_model(built, full_check=True)
    branches = [a.g for node in built.graph.node for a in node.attribute if node.op_type == "If"]
    nodes = [node for graph in (built.graph, *branches) for node in graph.node]
    assert {node.domain for node in nodes} == {""}
    large = [t.name for t in built.graph.initializer if np.prod(t.dims) > NUM_ITEMS * WIDTH / 2]
    assert large == ["item_table"]
