"""How the benchmark measures: quality from the lists a runner returns, and time around its calls.

Shape letters: N users, T history, E excluded, K answers.
"""

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from seqrec.data import IntArray, SequenceDataset
from seqrec.metrics import CUTOFFS, Evaluation, list_ranks, pad_left, share_in_common

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.measure.systems import Request, Runner, SelfTimed, checked_answer, time_call

LIST_LENGTH = max(CUTOFFS)
TIMED_K = 10
NUM_WARM_UP_CALLS = 20
NUM_BLOCKS = 20  # so often do runners take turns: a busy moment of the machine hits all of them
NUM_ROUNDS = 3  # the same of throughput
PATIENCE_S = 120.0  # for one system's lists of all test users
SAME_IN_BATCHES = 0.99  # share of items: rounding may exchange neighbours
MIN_CALLS = 10
MIN_CALLS_OF_P99 = 200  # two of them take longer
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Timing:
    """What one system's calls took."""

    durations_ns: NDArray[np.int64]  # wall time of each call, in order
    cpu_ns: float  # CPU time of a call, all threads, the mean

    def summary(self) -> dict[str, Any]:
        """Return what `latency_ms` holds of it, see `benchmarks.latency`."""
        found: dict[str, Any] = percentiles_ms(self.durations_ns)
        if len(self.durations_ns) < MIN_CALLS_OF_P99:
            found["p99"] = None
        turns = [turn for turn in np.array_split(self.durations_ns, NUM_BLOCKS) if len(turn)]
        medians = [percentiles_ms(turn)["p50"] for turn in turns]
        spread = {"p50_least": min(medians), "p50_most": max(medians)}
        return {**found, **spread, "cpu": self.cpu_ns / 1e6}


def make_requests(
    histories: Sequence[NDArray[np.integer]],
    *,
    max_len: int,
    k: int,
    exclude_seen: bool,
    batch_size: int,
) -> list[Request]:
    """Prepare requests from whole histories, in order; a last, smaller batch included."""
    requests = []
    for start in range(0, len(histories), batch_size):
        users = histories[start : start + batch_size]
        excluded = pad_left(users) if exclude_seen else np.zeros((len(users), 0), dtype=np.int64)
        requests.append(Request(pad_left(users, max_len), excluded, np.array([k])))
    return requests


def histories_before_test(dataset: SequenceDataset) -> list[NDArray[np.integer]]:
    """Return what precedes each test target, in the order of `eval_targets("test")`."""
    targets = dataset.eval_targets("test")
    pairs = zip(targets.users, targets.positions, strict=True)
    return [dataset.sequence(user)[:position] for user, position in pairs]


def top_lists(
    runner: Runner, dataset: SequenceDataset, *, exclude_seen: bool, batch_size: int = 1
) -> IntArray:
    """Ask for every test user's list, as a rule one user at a time as in the timed calls.

    Returns:
        int64 (N, K), K = 20 or the number of items; PAD where there is no answer.

    Raises:
        ModelError: the runner does not keep its promises; see `checked_answer`.
    """
    histories = histories_before_test(dataset)
    return _lists_after(histories, runner, dataset.num_items, exclude_seen, batch_size)


def affordable_lists(
    runner: Runner,
    dataset: SequenceDataset,
    *,
    exclude_seen: bool,
    batch_size: int,
    patience_s: float = PATIENCE_S,
) -> IntArray:
    """Ask for every test user's list, in batches of a runner that would take too long otherwise.

    The first users are asked one at a time. If all would need longer than `patience_s` like that,
    and a batch of these users agrees in 99 of 100 items, all are asked in batches.

    Returns:
        As `top_lists`.

    Raises:
        ModelError: the runner does not keep its promises; see `checked_answer`.
    """
    histories, num_items = histories_before_test(dataset), dataset.num_items
    first, rest = histories[:batch_size], histories[batch_size:]
    start = time.perf_counter()
    singly = _lists_after(first, runner, num_items, exclude_seen, 1)
    if not rest:
        return singly
    size = 1
    if (time.perf_counter() - start) / len(first) * len(histories) > patience_s:
        together = _lists_after(first, runner, num_items, exclude_seen, batch_size)
        if overlap(singly, together, k=LIST_LENGTH) >= SAME_IN_BATCHES:
            size = batch_size
    return np.concatenate([singly, _lists_after(rest, runner, num_items, exclude_seen, size)])


def _lists_after(
    histories: Sequence[NDArray[np.integer]],
    runner: Runner,
    num_items: int,
    exclude_seen: bool,
    batch_size: int,
) -> IntArray:
    """Ask for the lists (N, K) that follow these histories, in batches."""
    requests = make_requests(
        histories,
        max_len=runner.max_len,
        k=min(LIST_LENGTH, num_items),
        exclude_seen=exclude_seen,
        batch_size=batch_size,
    )
    protocol = "seen excluded" if exclude_seen else "seen kept"
    label = f"{runner.system} {runner.precision}, {protocol}"
    return np.concatenate(
        [
            checked_answer(runner, request.items, request.excluded, request.k, num_items)
            for request in tqdm(requests, desc=label, unit="call", leave=False, mininterval=0.5)
        ]
    )


def evaluate_lists(excluding: IntArray, keeping: IntArray, dataset: SequenceDataset) -> Evaluation:
    """Rank the test targets in the lists (N, K) of both protocols."""
    targets = dataset.eval_targets("test").items
    return Evaluation(list_ranks(excluding, targets), list_ranks(keeping, targets))


def overlap(first: IntArray, second: IntArray, k: int = 10) -> float:
    """Return the mean share of the first `k` items that two systems' lists (N, K) have in common.

    Places without an answer, PAD, are none.

    >>> overlap(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 5]]), k=2)
    0.75
    """
    pairs = zip(first[:, :k], second[:, :k], strict=True)
    return float(np.mean([share_in_common(a, b) for a, b in pairs]))


def percentiles_ms(durations_ns: NDArray[np.int64]) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds: the smallest duration that so many do not exceed.

    >>> percentiles_ms(np.arange(1, 101) * 1_000_000)
    {'p50': 50.0, 'p95': 95.0, 'p99': 99.0}
    """
    return {
        f"p{p}": float(np.percentile(durations_ns, p, method="inverted_cdf")) / 1e6
        for p in PERCENTILES
    }


def measure_latency(
    runners: Sequence[Runner],
    requests: Sequence[Sequence[Request]],
    *,
    num_calls: int,
    budget_s: float,
) -> list[Timing]:
    """Time single calls of several runners on the same requests, in alternation.

    Args:
        runners: warmed up first, then asked in turn, a block of calls each.
        requests: for each runner, the same users in the same order. Call number i takes request i,
            from the first again after the last.
        num_calls: timed calls of each runner.
        budget_s: a runner that would need longer than this makes fewer calls, at least 10.

    Returns:
        Each runner's, in order.
    """
    counts = []
    for runner, own in zip(runners, requests, strict=True):
        start = time.perf_counter()
        for done in range(1, NUM_WARM_UP_CALLS + 1):
            _time_call(runner, own[-done % len(own)])
            if time.perf_counter() - start > budget_s / 10:
                break
        affordable = budget_s / ((time.perf_counter() - start) / done)
        counts.append(int(min(num_calls, max(MIN_CALLS, affordable))))
    durations = [np.empty((count, 2), dtype=np.int64) for count in counts]
    gc.collect()
    gc.disable()
    try:
        for block in tqdm(range(NUM_BLOCKS), desc="latency", unit="block", leave=False):
            for place, (runner, own) in enumerate(zip(runners, requests, strict=True)):
                measured = durations[place]
                calls = np.array_split(np.arange(len(measured)), NUM_BLOCKS)[block]
                measured[calls] = _time_calls(runner, [own[call % len(own)] for call in calls])
    finally:
        gc.enable()
    return [Timing(own[:, 0], float(own[:, 1].mean())) for own in durations]


def measure_throughput(
    runners: Sequence[Runner], requests: Sequence[Sequence[Request]], *, budget_s: float
) -> list[float]:
    """Return each runner's users answered per second: the median over equally large batches.

    Two batches are answered before the clock starts: what is compiled for a new shape is compiled
    then, a second time where the compiler sees a shape change. Then runners take turns.

    Args:
        runners: who answers.
        requests: each one's.
        budget_s: of each runner; in each turn it answers one batch at least.
    """
    for runner, own in zip(runners, requests, strict=True):
        for request in own[:2]:
            _time_call(runner, request)
    rates: list[list[float]] = [[] for _ in runners]
    for _ in range(NUM_ROUNDS):
        for runner, own, found in zip(runners, requests, rates, strict=True):
            start, before = time.perf_counter(), len(found)
            while len(found) == before or time.perf_counter() - start < budget_s / NUM_ROUNDS:
                request = own[len(found) % len(own)]
                found.append(len(request.items) / _time_call(runner, request) * 1e9)
    return [float(np.median(found)) for found in rates]


def _time_calls(runner: Runner, requests: Sequence[Request]) -> NDArray[np.int64]:
    """Return wall and CPU nanoseconds (N, 2) of these calls, one after another."""
    if isinstance(runner, SelfTimed):
        return runner.timed(requests)
    durations = np.empty((len(requests), 2), dtype=np.int64)
    for place, request in enumerate(requests):
        call = partial(runner.recommend, request.items, request.excluded, request.k)
        durations[place] = time_call(call)
    return durations


def _time_call(runner: Runner, request: Request) -> int:
    """Return how long one call takes, in nanoseconds."""
    return int(_time_calls(runner, [request])[0, 0])
