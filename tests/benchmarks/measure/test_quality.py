"""Lists of systems, judged as the metrics judge models, and compared."""

from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.evaluation import evaluate, popularity_scores
from seqrec.metrics import summarize

import numpy as np
import pytest

from benchmarks.measure.quality import (
    affordable_batch_size,
    evaluate_lists,
    judge,
    mean_overlap,
)
from benchmarks.measure.systems import Popularity
from export.parity import overlap


def test_popularity_ranks_as_the_metrics_own_baseline_does(tiny_dataset: SequenceDataset) -> None:
    report = evaluate_lists(Popularity(tiny_dataset), tiny_dataset)[0].report()
    whole = evaluate(popularity_scores(tiny_dataset.before_test()), tiny_dataset, "test", max_len=5)
    assert report["seen_kept"] == summarize(whole.keeping_seen)
    assert report["seen_excluded"] == summarize(whole.excluding_seen)


def test_a_system_that_answers_single_users_alone_is_caught(tiny_dataset: SequenceDataset) -> None:
    class Single(Popularity):
        def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
            return super().recommend(items[:1], excluded[:1], k)

    message = r"shape \(1, 20\), expected \(8, 20\)"
    with pytest.raises(ModelError, match=message):
        judge([Single(tiny_dataset)], tiny_dataset, [], batch_size=8)
    failed: list[Any] = []
    single = Single(tiny_dataset)
    single.may_fail = True
    assert judge([single], tiny_dataset, failed, batch_size=8) == []
    assert "expected (8, 20)" in failed[0].reason


@pytest.mark.parametrize(
    ("patience_s", "is_alike", "at_once"),
    [(60.0, True, 1), (0.0, True, 16), (0.0, False, 1)],
)
def test_a_slow_system_is_asked_in_batches_if_they_answer_alike(
    tiny_dataset: SequenceDataset, patience_s: float, is_alike: bool, at_once: int
) -> None:
    class Recorder(Popularity):
        def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
            asked.append(len(items))
            if not is_alike and len(items) > 1:  # others than the best ten
                excluded = np.hstack([excluded, super().recommend(items, excluded, k)[0][:, :10]])
            return super().recommend(items, excluded, k)

    asked: list[int] = []
    recorder = Recorder(tiny_dataset)
    size = affordable_batch_size(recorder, tiny_dataset, 16, patience_s)
    assert size == at_once
    assert asked == [1] * 16 + [16]  # the first 16 both ways, to compare


def test_places_without_an_answer_are_no_items_that_lists_share() -> None:
    assert overlap(np.array([0, 0]), np.array([0, 0])) == 1.0
    assert overlap(np.array([4, 0, 0]), np.array([4, 5, 0])) == 0.5
    assert mean_overlap(np.array([[1, 0, 0, 0]]), np.array([[2, 0, 0, 0]])) == 0.0
    alike = np.array([[3, 0, 0, 0]])
    assert mean_overlap(alike, alike) == 1.0
