"""What systems are asked, and what is no answer."""

import math
from functools import partial
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError

import numpy as np
import pytest
import torch

from benchmarks.measure.queries import (
    NOTHING,
    Request,
    check_answer,
    histories_before_test,
    make_requests,
    top_k,
)
from benchmarks.measure.students import torch_top_k

HISTORY, TWO = np.array([[3, 4]]), np.array([2])
ASKED = Request(HISTORY, NOTHING, TWO)
EXCLUDING = Request(HISTORY, HISTORY, TWO)
HONEST = (np.array([[7, 8]]), np.array([[2.0, 1.0]]))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (HONEST, [7, 8]),
        (([[7, 8]], [[2.0, 1.0]]), [7, 8]),  # lists are an answer, too
        ((HONEST[0], np.array([[2.0, -math.inf]])), [7, 0]),  # one place without an answer
    ],
)
def test_an_honest_answer_passes(answer: Any, expected: list[int]) -> None:
    assert check_answer("it", answer, ASKED, 10).tolist() == [expected]


@pytest.mark.parametrize(
    ("items", "scores", "message"),
    [
        ([[7, 8, 9]], [[2.0, 1.0]], r"items of shape \(1, 3\), expected \(1, 2\)"),
        ([[7, 8]], [[2.0]], r"scores of shape \(1, 1\)"),
        ([[7.0, 8.0]], [[2.0, 1.0]], "items of type float64"),
        ([[7, 8]], [["a", "b"]], "scores of type <U1, expected numbers"),
        ([[7, 8]], [[math.nan, 1.0]], "NaN"),
        ([[7, 8]], [[1.0, 2.0]], "not sorted"),
        ([[7, 11]], [[2.0, 1.0]], "item 11, expected 1 to 10"),
        ([[0, 7]], [[2.0, 1.0]], "item 0, expected 1 to 10"),
        ([[7, 7]], [[2.0, 1.0]], "twice"),
        ([[7, 3]], [[2.0, 1.0]], "left out"),
        ([[7], [7, 8]], [[1.0, 0.5]], "no two arrays"),
    ],
)
def test_a_lying_system_is_caught_and_named(items: Any, scores: Any, message: str) -> None:
    with pytest.raises(ModelError, match=rf"^liar \(fp32\) returned .*{message}"):
        check_answer("liar (fp32)", (items, scores), EXCLUDING, 10)


@pytest.mark.parametrize("answer", [None, (np.array([[7, 8]]),)])
def test_what_is_no_answer_is_named(answer: Any) -> None:
    with pytest.raises(ModelError, match="returned no two arrays, items and scores"):
        check_answer("liar", answer, ASKED, 10)


def test_top_k_is_what_sorting_everything_gives() -> None:
    draws = np.random.default_rng(0)
    for num_users, num_items in ((1, 11), (5, 300)):
        scores = draws.integers(0, 6, (num_users, num_items)).astype(np.float32)  # many are equal
        excluded = draws.integers(0, num_items, (num_users, 4))
        allowed = scores.copy()
        for row, left_out in zip(allowed, excluded, strict=True):
            row[[0, *left_out]] = -np.inf
        expected = [
            sorted(range(num_items), key=lambda i, r=row: (-r[i], i))[:5] for row in allowed
        ]
        items, best = top_k(scores.copy(), excluded, 5)
        assert items.tolist() == expected
        assert best.tolist() == np.take_along_axis(allowed, items, axis=1).tolist()
        _, by_torch = torch_top_k(torch.from_numpy(scores.copy()), excluded, 5)
        assert by_torch.tolist() == best.tolist()


def test_requests_show_the_newest_items_and_exclude_the_whole_history(
    tiny_dataset: SequenceDataset,
) -> None:
    histories = [np.array([1, 2, 3, 4]), np.array([5])]
    ask = partial(make_requests, tiny_dataset, histories, max_len=2)
    (both,) = ask(k=3, exclude_seen=True, batch_size=2)
    assert both.items.tolist() == [[3, 4], [0, 5]]
    assert both.excluded.tolist() == [[1, 2, 3, 4], [0, 0, 0, 5]]
    assert both.k.tolist() == [3]
    _, second = ask(k=99, exclude_seen=False)
    assert second.items.tolist() == [[5]]
    assert second.excluded.shape == (1, 0)
    assert second.k.tolist() == [30]  # all that there are


def test_histories_end_right_before_the_test_target(
    tiny_dataset: SequenceDataset, tiny_sequences: list[list[int]]
) -> None:
    histories = [history.tolist() for history in histories_before_test(tiny_dataset)]
    assert histories == [sequence[:-1] for sequence in tiny_sequences]
