"""Time around calls: systems take turns, so that a busy moment of the machine hits all of them."""

import gc
import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.measure.flags import TimingFlags
from benchmarks.measure.queries import Request
from benchmarks.measure.systems import System
from benchmarks.report.schema import Latency

NUM_WARM_UP_CALLS = 20
NUM_TURNS = 20
NUM_ROUNDS = 3  # turns of throughput
MIN_CALLS = 10
MIN_CALLS_OF_P99 = 200  # two of them take longer
PERCENTILES = (50, 95, 99)
Requests = Sequence[Sequence[Request]]  # those of each system
T = TypeVar("T")


def latency_of(durations_ns: NDArray[np.int64]) -> Latency:
    """Return percentiles of calls' wall and CPU time (N, 2), and their spread over the turns."""
    wall_ns, cpu_ns = durations_ns.T
    whole = percentiles_ms(wall_ns)
    turns = [turn for turn in np.array_split(wall_ns, NUM_TURNS) if len(turn)]
    medians = [percentiles_ms(turn)["p50"] for turn in turns]
    return Latency(
        p50=whole["p50"],
        p95=whole["p95"],
        p99=whole["p99"] if len(wall_ns) >= MIN_CALLS_OF_P99 else None,
        p50_least=min(medians),
        p50_most=max(medians),
        cpu=float(cpu_ns.mean()) / 1e6,
    )


def percentiles_ms(durations_ns: NDArray[np.int64]) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds: the smallest duration that so many do not exceed.

    >>> percentiles_ms(np.arange(1, 101) * 1_000_000)
    {'p50': 50.0, 'p95': 95.0, 'p99': 99.0}
    """
    return {
        f"p{p}": float(np.percentile(durations_ns, p, method="inverted_cdf")) / 1e6
        for p in PERCENTILES
    }


def take_turns(
    num_systems: int, num_turns: int, measure: Callable[[int, int], T], what: str
) -> list[list[T]]:
    """Measure one system after the other, and all of them again, so many times.

    `measure` takes a system's index and the number of the turn; `what` names the progress bar.

    Returns:
        What `measure` returned, by system, then by turn.
    """
    by_system: list[list[T]] = [[] for _ in range(num_systems)]
    for turn in tqdm(range(num_turns), desc=what, unit="turn", leave=False):
        for index, results in enumerate(by_system):
            results.append(measure(index, turn))
    return by_system


def measure_latency(
    systems: Sequence[System], requests: Requests, flags: TimingFlags
) -> list[NDArray[np.int64]]:
    """Time single calls of several systems on the same requests, in turns.

    Args:
        systems: warmed up first, then asked in turns, some calls each.
        requests: for each system, the same users in the same order. Call number i takes request i,
            from the first again after the last.
        flags: a system that would need longer than the budget makes fewer calls, at least 10.

    Returns:
        Each system's wall and CPU nanoseconds (N, 2), in order of the calls.
    """
    counts = []
    for system, asked in zip(systems, requests, strict=True):
        call_s = _warm_up(system, asked, flags.budget_s / 10)
        counts.append(int(min(flags.num_calls, max(MIN_CALLS, flags.budget_s / call_s))))

    def measure(index: int, turn: int) -> NDArray[np.int64]:
        calls, asked = np.array_split(np.arange(counts[index]), NUM_TURNS)[turn], requests[index]
        return systems[index].timed([asked[call % len(asked)] for call in calls]).reshape(-1, 2)

    gc.collect()
    gc.disable()
    try:
        by_system = take_turns(len(systems), NUM_TURNS, measure, "latency")
    finally:
        gc.enable()
    return list(map(np.concatenate, by_system))


def _warm_up(system: System, requests: Sequence[Request], budget_s: float) -> float:
    """Make some calls; return how many seconds one took."""
    start = time.perf_counter()
    for done in range(1, NUM_WARM_UP_CALLS + 1):
        system.timed([requests[-done % len(requests)]])
        if time.perf_counter() - start > budget_s:
            break
    return (time.perf_counter() - start) / done


def measure_throughput(
    systems: Sequence[System], requests: Requests, *, budget_s: float
) -> list[float]:
    """Return each system's users answered per second: the median over equally large batches.

    Two batches are answered before the clock starts: what is compiled for a new shape is compiled
    then, a second time where the compiler sees a shape change. Then systems take turns; in each a
    system answers one batch at least, and in all of them for `budget_s`.
    """
    for system, asked in zip(systems, requests, strict=True):
        for request in asked[:2]:
            system.timed([request])

    def measure(index: int, _: int) -> list[float]:
        rates: list[float] = []
        start = time.perf_counter()
        while not rates or time.perf_counter() - start < budget_s / NUM_ROUNDS:
            request = requests[index][next(turn_of[index]) % len(requests[index])]
            duration_ns = int(systems[index].timed([request])[0, 0])
            rates.append(len(request.items) / duration_ns * 1e9)
        return rates

    turn_of = [itertools.count() for _ in systems]
    by_system = take_turns(len(systems), NUM_ROUNDS, measure, "throughput")
    return [float(np.median(np.concatenate(rates))) for rates in by_system]
