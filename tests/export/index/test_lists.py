"""Lists hold each item once, the rows that are alike together."""

import numpy as np
import pytest

from export.index.lists import make_lists
from export.index.measuring import Exact, choose_depths

rng = np.random.default_rng(0)


@pytest.mark.parametrize(("num_items", "list_size"), [(1, 1), (1, 4), (8, 4), (1_000, 7)])
def test_each_item_has_one_place_and_pad_has_an_empty_one(num_items: int, list_size: int) -> None:
    rows = rng.standard_normal((num_items, 8)).astype(np.float32)
    lists = make_lists(rows, rows, list_size)
    numbers = lists.numbers.ravel()
    assert sorted(numbers[numbers > 0]) == list(range(1, num_items + 1))
    assert numbers[lists.places].tolist() == list(range(num_items + 1))
    assert len(lists.keys) == len(lists.numbers)


def test_what_users_cannot_tell_apart_stands_together() -> None:
    """Rows differ most where no state has anything, and scores only in the first direction."""
    rows = rng.standard_normal((400, 4)).astype(np.float32) * [0, 100, 100, 100]
    rows[:, 0] = rng.permutation(np.repeat([1, 2, 3, 4], 100))
    states = np.zeros((10, 4), dtype=np.float32)
    states[:, 0] = 1
    lists = make_lists(rows.astype(np.float32), states, 25)
    for items in lists.numbers:
        assert len(set(rows[items[items > 0] - 1, 0])) <= 1


def test_the_depth_is_the_fewest_lists_that_hold_the_wanted_share() -> None:
    """One item in each list; the exact answers are counted by hand."""
    rows = np.arange(1, 11, dtype=np.float32)[:, None] * [[1.0, 0.0]]
    lists = make_lists(rows.astype(np.float32), np.float32([[1, 0]]), 1)
    states = np.ones((4, 2), dtype=np.float32)  # each is promised list 10, then 9, and so on
    items = np.array([[10], [10], [9], [1]])
    exact = Exact(states, items, np.ones((4, 1), dtype=np.float32))
    depths = [choose_depths(lists, exact, recall)[0].num_lists for recall in (0.5, 0.75, 0.76, 1)]
    assert depths == [1, 2, 10, 10]
