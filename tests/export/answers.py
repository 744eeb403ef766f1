"""Answers of the recommenders of `conftest.py`."""

import pytest

MAX_LEN = 6


def ids(answer) -> list[str]:
    return [recommendation.item_id for recommendation in answer]


def same(first, second) -> bool:
    scores = [[r.score for r in answer] for answer in (first, second)]
    return ids(first) == ids(second) and scores[0] == pytest.approx(scores[1], abs=1e-3)
