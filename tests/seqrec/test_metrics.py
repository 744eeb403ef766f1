"""Metrics against hand arithmetic and against ir_measures."""

import math

from seqrec import evaluation
from seqrec.data import SequenceDataset
from seqrec.evaluation import evaluate, popularity_scores, sample_targets, target_ranks
from seqrec.histories import PAD, pad_left
from seqrec.metrics import (
    NOT_RANKED,
    Evaluation,
    bootstrap_interval,
    hit_rate,
    list_ranks,
    ndcg,
    reciprocal_rank,
    relative_gain,
    summarize,
)

import ir_measures
import numpy as np
import pytest
import torch
from ir_measures import RR, Success, nDCG
from numpy.typing import NDArray
from torch import Tensor


def ranks_of(scores: list[float], target: int, excluded: list[int] | None = None) -> int:
    """Rank one target; `scores` begin with item 1."""
    row = torch.tensor([[0.0, *scores]])
    hidden = None if excluded is None else torch.tensor([excluded])
    return int(target_ranks(row, torch.tensor([target]), hidden).item())


@pytest.mark.parametrize(
    ("rank", "expected_ndcg", "expected_rr", "expected_hit"),
    [
        (1, 1.0, 1.0, 1.0),
        (2, 1 / math.log2(3), 0.5, 1.0),
        (10, 1 / math.log2(11), 0.1, 1.0),
        (11, 0.0, 0.0, 0.0),
        (NOT_RANKED, 0.0, 0.0, 0.0),
    ],
)
def test_metrics_at_10_discount_by_the_rank_and_end_at_the_tenth(
    rank: int, expected_ndcg: float, expected_rr: float, expected_hit: float
) -> None:
    ranks = np.array([rank])
    assert ndcg(ranks, k=10).item() == pytest.approx(expected_ndcg)
    assert reciprocal_rank(ranks, k=10).item() == expected_rr
    assert hit_rate(ranks, k=10).item() == expected_hit


@pytest.mark.parametrize(("target", "rank"), [(2, 1), (1, 2), (3, 3), (4, 4)])
def test_of_equal_scores_the_lower_item_number_ranks_first(target: int, rank: int) -> None:
    assert ranks_of([5.0, 7.0, 5.0, 5.0], target) == rank


def test_excluded_items_make_room_and_an_excluded_target_is_not_ranked() -> None:
    scores = [9.0, 8.0, 7.0, 6.0]
    assert ranks_of(scores, 4) == 4
    assert ranks_of(scores, 4, excluded=[1, 3]) == 2
    assert ranks_of(scores, 4, excluded=[PAD, PAD, 1]) == 3
    assert ranks_of(scores, 1, excluded=[1]) == NOT_RANKED


def test_ranking_does_not_change_the_scores_it_is_given() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    target_ranks(scores, torch.tensor([1]), torch.tensor([[2]]))
    assert scores.tolist() == [[1.0, 2.0, 3.0]]


def test_scores_that_hold_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        target_ranks(torch.tensor([[0.0, math.nan, 1.0]]), torch.tensor([2]))


def test_the_rank_in_a_list_counts_from_its_head() -> None:
    lists = np.array([[4, 2, 9], [4, 2, 9], [4, 2, 9]])
    assert list_ranks(lists, np.array([4, 9, 5])).tolist() == [1, 3, NOT_RANKED]


def test_list_ranks_and_target_ranks_agree_on_the_sorted_catalogue() -> None:
    rng = np.random.default_rng(1)
    scores = torch.from_numpy(rng.integers(0, 4, (20, 11)).astype(np.float32))
    targets = rng.integers(1, 11, 20)
    lists = np.argsort(-scores[:, 1:].numpy(), axis=1, kind="stable") + 1
    expected = list_ranks(lists, targets)
    assert target_ranks(scores, torch.from_numpy(targets)).tolist() == expected.tolist()


@pytest.mark.parametrize("k", [5, 10, 20])
def test_the_metrics_agree_with_ir_measures(k: int) -> None:
    rng = np.random.default_rng(k)
    num_users, num_items = 60, 30
    scores = rng.permuted(np.tile(np.arange(num_items + 1.0), (num_users, 1)), axis=1)  # no ties
    targets = rng.integers(1, num_items + 1, num_users)
    ranks = target_ranks(torch.from_numpy(scores), torch.from_numpy(targets)).numpy()
    relevant = [ir_measures.Qrel(f"{u:03d}", str(i), 1) for u, i in enumerate(targets)]
    run = [
        ir_measures.ScoredDoc(f"{u:03d}", str(i), scores[u, i])
        for u in range(num_users)
        for i in range(1, num_items + 1)
    ]
    for metric, theirs in ((ndcg, nDCG @ k), (reciprocal_rank, RR @ k), (hit_rate, Success @ k)):
        by_user = {m.query_id: m.value for m in ir_measures.iter_calc([theirs], relevant, run)}
        expected = [by_user[f"{u:03d}"] for u in range(num_users)]
        np.testing.assert_allclose(metric(ranks, k), expected, atol=1e-9)


def test_the_bootstrap_interval_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    half = 1.96 * values.std() / math.sqrt(2000)
    expected = (values.mean() - half, values.mean() + half)
    assert bootstrap_interval(values) == pytest.approx(expected, abs=0.1 * half)


def test_replications_that_are_alike_say_no_more_than_one() -> None:
    values, baseline = np.random.default_rng(0).random((2, 50))
    for count in (1, 3):
        several = [np.tile(of_users, (count, 1)) for of_users in (values, baseline)]
        assert bootstrap_interval(several[0]) == pytest.approx(bootstrap_interval(values))
        assert relative_gain(*several) == pytest.approx(relative_gain(values, baseline))


def test_an_interval_holds_the_variance_of_users_and_that_of_replications() -> None:
    rng = np.random.default_rng(0)
    of_users, of_replications = rng.normal(size=1000), rng.normal(size=(200, 1))
    values = of_users + of_replications
    half = 1.96 * math.sqrt(of_users.var() / 1000 + of_replications.var() / 200)
    expected = (values.mean() - half, values.mean() + half)
    assert bootstrap_interval(values) == pytest.approx(expected, abs=0.1 * half)


def test_a_summary_holds_the_means_inside_their_intervals() -> None:
    summary = summarize(np.array([1, 2, 6, 30]))
    assert summary["hr@5"] == pytest.approx(2 / 4)
    assert summary["mrr@5"] == pytest.approx((1 + 1 / 2) / 4)
    assert summary["ndcg@5"] == pytest.approx((1 + 1 / math.log2(3)) / 4)
    for name in ("hr@5", "mrr@5", "ndcg@5"):
        assert summary[f"{name}_low"] <= summary[name] <= summary[f"{name}_high"]


def test_histories_are_padded_left_and_cut_to_the_newest() -> None:
    sequences = [np.array([1, 2, 3]), np.array([4]), np.array([], dtype=np.int64)]
    assert pad_left(sequences).tolist() == [[1, 2, 3], [PAD, PAD, 4], [PAD, PAD, PAD]]
    assert pad_left(sequences, max_len=2).tolist() == [[2, 3], [PAD, 4], [PAD, PAD]]


def rank_by_loop(
    dataset: SequenceDataset,
    user: int,
    position: int,
    scores: NDArray[np.float32],
    *,
    exclude: bool,
) -> int:
    """Rank one target by sorting a list, as the definition says."""
    history = dataset.sequence(user)[:position].tolist()
    items = [i for i in range(1, dataset.num_items + 1) if not (exclude and i in history)]
    items.sort(key=lambda i: (-scores[i], i))
    return items.index(int(dataset.sequence(user)[position])) + 1


def random_scores(shown: Tensor) -> Tensor:
    """Score 30 items by all that is shown, and not by the padding."""
    table = torch.rand(31, 31, generator=torch.Generator().manual_seed(0))
    return (table[shown] * (shown != PAD)[:, :, None]).sum(dim=1)


@pytest.mark.parametrize(
    ("batch_size", "scores_at_once", "users_at_once"),
    [(1, 2**25, 1), (7, 2**25, 7), (256, 2**25, 40), (256, 100, 3)],  # 30 items each
)
def test_evaluation_shows_the_newest_items_and_excludes_the_whole_history(
    tiny_dataset: SequenceDataset,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    scores_at_once: int,
    users_at_once: int,
) -> None:
    monkeypatch.setattr(evaluation, "SCORES_AT_ONCE", scores_at_once)

    def score(shown: Tensor) -> Tensor:
        assert len(shown) <= users_at_once
        assert shown.shape[1] <= 4
        return random_scores(shown)

    result = evaluate(score, tiny_dataset, "test", max_len=4, batch_size=batch_size)
    targets = tiny_dataset.eval_targets("test")
    for row, (user, position) in enumerate(zip(targets.users, targets.positions, strict=True)):
        shown = tiny_dataset.sequence(user)[max(0, position - 4) : position].astype(np.int64)
        scores = random_scores(torch.from_numpy(shown)[None])[0].numpy()
        for ranks, exclude in ((result.keeping_seen, False), (result.excluding_seen, True)):
            expected = rank_by_loop(tiny_dataset, user, position, scores, exclude=exclude)
            assert ranks[row] == expected


def test_so_many_users_are_validated_as_the_catalogue_allows_and_all_are_tested(
    tiny_dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(random_scores, tiny_dataset, "valid", max_len=4)
    targets = tiny_dataset.eval_targets("valid")
    monkeypatch.setattr(evaluation, "MAX_VALIDATION_SCORES", 12 * 30)
    sample = sample_targets(targets, 12)
    chosen = np.searchsorted(targets.users, sample.users)
    assert len(set(chosen.tolist())) == 12
    assert sample.users.tolist() == targets.users[chosen].tolist()
    assert sample.positions.tolist() == targets.positions[chosen].tolist()
    assert sample.items.tolist() == targets.items[chosen].tolist()
    part = evaluate(random_scores, tiny_dataset, "valid", max_len=4)
    assert part.excluding_seen.tolist() == whole.excluding_seen[chosen].tolist()
    tested = evaluate(random_scores, tiny_dataset, "test", max_len=4)
    assert len(tested.keeping_seen) == len(tiny_dataset.eval_targets("test").users)


def test_the_popularity_baseline_scores_an_item_by_its_training_events(
    tiny_dataset: SequenceDataset,
) -> None:
    scores = popularity_scores(tiny_dataset)(torch.zeros(2, 3, dtype=torch.int64))
    trained = [
        i for u in range(tiny_dataset.num_users) for i in tiny_dataset.train_sequence(u).tolist()
    ]
    expected = [float(trained.count(item)) for item in range(tiny_dataset.num_items + 1)]
    assert scores.tolist() == [expected, expected]


def test_a_report_keeps_the_two_protocols_apart() -> None:
    result = Evaluation(excluding_seen=np.array([1]), keeping_seen=np.array([2]))
    report = result.report()
    assert report["seen_excluded"]["mrr@10"] == 1.0
    assert report["seen_kept"]["mrr@10"] == 0.5
    assert result.ranks(exclude_seen=True).tolist() == [1]
    assert result.ranks(exclude_seen=False).tolist() == [2]
