"""Comparing answers, by hand."""

from seqrec.errors import ModelError

import numpy as np
import pytest

from export.parity import best_items, overlap, require_same

LOWEST = -np.inf
EXPECTED = np.array([[LOWEST, 1.0, 3.0, 2.0]], np.float32)  # items 2, 3, 1
TIED = np.array([[LOWEST, 1.0, 2.0, 2.0]], np.float32)
ONE_LEFT = np.array([[LOWEST, LOWEST, 2.0, LOWEST]], np.float32)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([5, 3], [3, 5], 1.0),
        ([5, 3, 0, 0], [3, 7, 0, 0], 0.5),  # PAD is no item
        ([1, 2, 3, 4], [1], 0.25),  # of the longer list
        (["a", "b"], ["b", "c"], 0.5),
        ([], [], 1.0),
        ([0], [1], 0.0),
    ],
)
def test_overlap_is_what_both_lists_hold_of_the_longer_one(
    first: list, second: list, expected: float
) -> None:
    assert overlap(first, second) == overlap(second, first) == expected


def test_the_best_items_are_those_that_are_not_left_out() -> None:
    assert [items.tolist() for items in best_items(EXPECTED, 2)] == [[2, 3]]
    assert [items.tolist() for items in best_items(EXPECTED, 4)] == [[2, 3, 1]]


@pytest.mark.parametrize(
    ("items", "scores", "expected"),
    [
        ([2, 3, 1], [3, 2, 1], EXPECTED),
        ([2, 3, 1], [2, 2, 1], TIED),
        ([3, 2, 1], [2, 2, 1], TIED),  # which may stand in any order
        ([3, 2], [2, 2], TIED),
        ([2, 1, 1], [2, LOWEST, LOWEST], ONE_LEFT),  # places without an answer
    ],
)
def test_an_answer_that_follows_from_the_scores_is_the_same(
    items: list[int], scores: list[float], expected: np.ndarray
) -> None:
    answer = np.array([items]), np.array([scores], np.float32)
    assert require_same(*answer, expected, "it differs", 0) == 0.0


@pytest.mark.parametrize(
    ("items", "scores"),
    [([2, 2], [2, 2]), ([2, 1], [2, 2]), ([2, 3], [2, 1.9]), ([2, 3], [2, LOWEST])],
)
def test_an_answer_that_does_not_follow_from_the_scores_is_refused(
    items: list[int], scores: list[float]
) -> None:
    with pytest.raises(ModelError, match="^it differs: scores differ by up to .*Nothing was"):
        require_same(np.array([items]), np.array([scores], np.float32), TIED, "it differs")


def test_scores_may_differ_by_the_tolerance_and_no_more() -> None:
    items, scores = np.array([[2, 3]]), np.array([[3.05, 2.0]], np.float32)
    assert require_same(items, scores, EXPECTED, "no", 0.1) == pytest.approx(0.05, abs=1e-6)
    for tolerance in (0.01, 0):
        with pytest.raises(ModelError, match="^it differs: scores differ by up to 0.05, "):
            require_same(items, scores, EXPECTED, "it differs", tolerance)
