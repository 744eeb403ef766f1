"""Calls with arrays that stay bound answer as `session.run` on new arrays does."""

import numpy as np
import pytest

from export import prepared
from export.contract import NEW_STATE, OUTPUT_NAMES, STATE
from export.prepared import PreparedCalls
from export.recommender import Recommender
from tests.export.answers import MAX_LEN

pytestmark = pytest.mark.slow


def run(recommender: Recommender, items, excluded, k: int, state=None, keep_state=False):
    """Ask ONNX Runtime the plain way."""
    feeds = {"items": np.array([items]), "excluded": np.array([excluded], np.int64).reshape(1, -1)}
    feeds["k"] = np.array([k])
    if state is not None:
        feeds[STATE] = state
    names = [*OUTPUT_NAMES, *([NEW_STATE] if keep_state else [])]
    top_items, top_scores, *new_state = recommender.session.run(names, feeds)
    return top_items[0].tolist(), top_scores[0].tolist(), *new_state


@pytest.fixture
def requests():
    """Items, excluded and k of all kinds, shapes coming back with other numbers."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(60):
        items = rng.integers(1, 31, rng.integers(1, MAX_LEN + 1)).tolist()
        longer = [*rng.integers(1, 31, rng.choice([1, 5, 31, 40])).tolist(), *items]
        made += [(items, excluded, int(rng.integers(1, 31))) for excluded in (items, [], longer)]
    return made


@pytest.mark.parametrize("max_kept", [prepared.MAX_KEPT, 3])
def test_each_answer_is_the_requests_own(
    followed: Recommender, requests, max_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "MAX_KEPT", max_kept)
    calls = PreparedCalls(followed.session)
    for items, excluded, k in requests:
        *answer, state = calls.answer(items, excluded, k)
        assert tuple(answer) == run(followed, items, excluded, k)
        assert state is None
    assert max_kept > len(requests) or len(calls._free) == max_kept  # shapes whose arrays are kept


def test_a_kept_state_is_not_written_over(recommender: Recommender) -> None:
    calls = PreparedCalls(recommender.session)
    *_, first = calls.answer([3, 4], [3, 4], 5, keep_state=True)
    kept = first.copy()
    *answer, second = calls.answer([5], [3, 4, 5], 5, first, keep_state=True)
    *expected, after = run(recommender, [5], [3, 4, 5], 5, kept, keep_state=True)
    assert answer == expected
    np.testing.assert_array_equal(second, after)
    calls.answer([9, 9], [9], 5, keep_state=True)
    calls.answer([9], [9], 5, second, keep_state=True)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, after)
    assert calls.answer([3, 4, 5], [3, 4, 5], 5)[0] == answer[0]


def test_what_is_too_large_to_be_kept_is_answered_alike(
    followed: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = [["b01", "b02"], [f"b{1 + number % 30:02d}" for number in range(0, 200, 7)]]
    asked = [(history, k, seen) for history in histories for k in (1, 30) for seen in (True, False)]
    expected = [followed.recommend(*one) for one in asked]
    sessions = [followed.start_session(history) for history in histories]
    followed_on = [session.recommend(3) for session in sessions]
    monkeypatch.setattr(prepared, "LARGEST", 0)
    assert [followed.recommend(*one) for one in asked] == expected
    sessions = [followed.start_session(history) for history in histories]
    assert [session.recommend(3) for session in sessions] == followed_on
