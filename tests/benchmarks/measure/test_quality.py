"""Lists of systems, judged as the metrics judge models, and compared."""

from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.evaluation import evaluate, popularity_scores
from seqrec.metrics import summarize

import numpy as np
import pytest

from benchmarks.measure.quality import (
    affordable_lists,
    evaluate_lists,
    judge,
    mean_overlap,
    top_lists,
)
from benchmarks.measure.systems import Popularity
from export.parity import overlap


def test_popularity_ranks_as_the_metrics_own_baseline_does(tiny_dataset: SequenceDataset) -> None:
    system = Popularity(tiny_dataset)
    lists = [top_lists(system, tiny_dataset, exclude_seen=flag) for flag in (True, False)]
    found = evaluate_lists(*lists, tiny_dataset).report()
    whole = evaluate(popularity_scores(tiny_dataset.before_test()), tiny_dataset, "test", max_len=5)
    assert found["seen_kept"] == summarize(whole.keeping_seen)
    assert found["seen_excluded"] == summarize(whole.excluding_seen)


def test_a_system_that_answers_single_users_alone_is_caught(tiny_dataset: SequenceDataset) -> None:
    class Single(Popularity):
        def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
            return super().recommend(items[:1], excluded[:1], k)

    message = r"shape \(1, 10\), expected \(8, 10\)"
    with pytest.raises(ModelError, match=message):
        judge([Single(tiny_dataset)], tiny_dataset, [], batch_size=8)
    failed: list[Any] = []
    single = Single(tiny_dataset)
    single.may_fail = True
    assert judge([single], tiny_dataset, failed, batch_size=8) == []
    assert "expected (8, 10)" in failed[0].reason


@pytest.mark.parametrize(
    ("patience_s", "is_alike", "sizes"),
    [
        (60.0, True, [1] * 40),  # quick
        (0.0, True, [1] * 16 + [16, 16, 8]),  # the first 16 twice, to compare
        (0.0, False, [1] * 16 + [16] + [1] * 24),
    ],
)
def test_a_slow_system_is_asked_in_batches_if_they_answer_alike(
    tiny_dataset: SequenceDataset, patience_s: float, is_alike: bool, sizes: list[int]
) -> None:
    class Recorder(Popularity):
        def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
            asked.append(len(items))
            top_items, top_scores = super().recommend(items, excluded, k)
            if not is_alike and len(items) > 1:
                top_items = 1 + tiny_dataset.num_items - top_items
            return top_items, top_scores

    asked: list[int] = []
    found = affordable_lists(
        Recorder(tiny_dataset),
        tiny_dataset,
        exclude_seen=False,
        batch_size=16,
        patience_s=patience_s,
    )
    assert asked == sizes
    expected = top_lists(Popularity(tiny_dataset), tiny_dataset, exclude_seen=False)
    np.testing.assert_array_equal(found, expected)


def test_places_without_an_answer_are_no_items_that_lists_share() -> None:
    assert overlap(np.array([0, 0]), np.array([0, 0])) == 1.0
    assert overlap(np.array([4, 0, 0]), np.array([4, 5, 0])) == 0.5
    assert mean_overlap(np.array([[1, 0, 0, 0]]), np.array([[2, 0, 0, 0]])) == 0.0
    alike = np.array([[3, 0, 0, 0]])
    assert mean_overlap(alike, alike) == 1.0
