"""HR@K, NDCG@K and MRR@K, from the rank of one target per user, and their intervals.

With a single relevant item, for the target's rank r (1 is best):

    HR@K   = [r <= K]
    NDCG@K = [r <= K] / log2(r + 1)          the ideal DCG is 1
    MRR@K  = [r <= K] / r

Needs numpy alone. Shape letters: N users, S replications, K cutoff.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (5, 10, 20)
CONFIDENCE, NUM_RESAMPLES = 0.95, 1000  # of the intervals
# The rank of a target that was excluded, or is not in the list.
NOT_RANKED = np.iinfo(np.int64).max


def list_ranks(top_items: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank each target in a recommended list.

    Args:
        top_items: int64 (N, K), best first.
        targets: int64 (N,).

    Returns:
        int64 (N,): the rank, or `NOT_RANKED` where the target is not in the list.
    """
    hits = top_items == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, NOT_RANKED)


def hit_rate(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """HR@K for each user: 1 where the rank is at most `k`.

    >>> hit_rate(np.array([1, 3]), k=2).tolist()
    [1.0, 0.0]
    """
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """NDCG@K for each user: 1 / log2(rank + 1) where the rank is at most `k`, else 0.

    >>> ndcg(np.array([1, 3, 11]), k=10).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.where(ranks <= k, 1 / np.log2(np.minimum(ranks, k) + 1.0), 0.0)


def reciprocal_rank(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """MRR@K for each user: 1 / rank where the rank is at most `k`, else 0.

    >>> reciprocal_rank(np.array([1, 4, 11]), k=10).tolist()
    [1.0, 0.25, 0.0]
    """
    return np.where(ranks <= k, 1.0 / np.minimum(ranks, k), 0.0)


METRICS = {"hr": hit_rate, "ndcg": ndcg, "mrr": reciprocal_rank}


def _interval(draws: Iterable[float]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(list(draws), [tail, 1 - tail])
    return float(low), float(high)


def _resampled_means(*systems: NDArray[np.float64]) -> Iterator[list[float]]:
    """Yield systems' means over users and replications drawn anew, the same ones for all systems.

    One draw at a time: all would take gigabytes for a million users.
    """
    tables = [np.atleast_2d(values) for values in systems]
    num_replications, num_users = tables[0].shape
    # Generators of their own: what is drawn of the users does not depend on the replications.
    of_users, of_replications = np.random.default_rng(0), np.random.default_rng(1)
    for _ in range(NUM_RESAMPLES):
        users = of_users.integers(0, num_users, num_users)
        replications = of_replications.integers(0, num_replications, num_replications)
        yield [float(table[replications].mean(axis=0)[users].mean()) for table in tables]


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean over users (Efron, 1979).

    For the difference of two systems pass the differences user by user: the interval is then
    paired, and far narrower than the two alone suggest.

    Of several replications users and replications are resampled, each on its own (Owen, The
    pigeonhole bootstrap, Annals of Applied Statistics 1(2), 2007). With few replications that is
    a rough guide: it sees (S - 1) / S of the variance between them.

    Args:
        values: a metric of each user, (N,); or of each replication and user, (S, N).
    """
    return _interval(mean for (mean,) in _resampled_means(values))


def relative_gain(
    values: NDArray[np.float64], baseline: NDArray[np.float64]
) -> tuple[float, float, float] | None:
    """Return how far a mean lies above a baseline's, in percent of it, with a paired interval.

    Users and replications are resampled as in `bootstrap_interval`, with the values of both.

    Args:
        values: a metric of each user, (N,); or of each replication and user, (S, N).
        baseline: the same metric of the same users and replications under another system.

    Returns:
        Gain, lower and upper end, or None where a draw's baseline is zero: it has too few hits to
        be a measure.

    >>> relative_gain(np.array([0.2, 0.4]), np.array([0.1, 0.2]))
    (100.0, 100.0, 100.0)
    """
    gains = []
    for mean, below in _resampled_means(values, baseline):
        if below == 0:
            return None
        gains.append(100 * (mean / below - 1))
    return float(100 * (values.mean() / baseline.mean() - 1)), *_interval(gains)


def summarize(ranks: NDArray[np.int64]) -> dict[str, float]:
    """Turn ranks into a report: `ndcg@10`, `ndcg@10_low`, `ndcg@10_high`, `hr@5`, ..."""
    summary: dict[str, float] = {}
    for name, metric in METRICS.items():
        for k in CUTOFFS:
            values, key = metric(ranks, k), f"{name}@{k}"
            summary[key] = float(values.mean())
            summary[f"{key}_low"], summary[f"{key}_high"] = bootstrap_interval(values)
    return summary


@dataclass(frozen=True)
class Evaluation:
    """The targets' ranks, user by user, under both protocols."""

    excluding_seen: NDArray[np.int64]  # (N,)
    keeping_seen: NDArray[np.int64]  # (N,)

    def ranks(self, *, exclude_seen: bool) -> NDArray[np.int64]:
        """Return the ranks under one protocol."""
        return self.excluding_seen if exclude_seen else self.keeping_seen

    def report(self) -> dict[str, dict[str, float]]:
        """Return all metrics with intervals under both protocols."""
        return {
            "seen_excluded": summarize(self.excluding_seen),
            "seen_kept": summarize(self.keeping_seen),
        }
