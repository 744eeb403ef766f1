"""Turns, percentiles, throughput: what the clock is read for."""

from collections.abc import Sequence
from typing import Any

from seqrec.data import SequenceDataset

import numpy as np
import pytest

from benchmarks.measure import timing
from benchmarks.measure.flags import TimingFlags
from benchmarks.measure.queries import NOTHING, Request, make_requests
from benchmarks.measure.systems import System
from benchmarks.measure.timing import (
    latency_of,
    measure_latency,
    measure_throughput,
    percentiles_ms,
    take_turns,
)
from benchmarks.report.schema import Identity

REQUEST = Request(np.array([[3, 4]]), NOTHING, np.array([2]))


class Recorder(System):
    """Notes who was asked for whom."""

    max_len = 5

    def __init__(self, name: str, calls: list[tuple[str, int]]) -> None:
        self.identity = Identity(system=name, precision="fp32", family="runner")
        self._calls = calls

    def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
        self._calls.append((self.identity.system, int(items[0, 0])))


def test_percentiles_are_durations_that_were_measured() -> None:
    durations = np.array([5, 1, 4, 2, 3] * 20) * 1_000_000  # each of 1..5 ms is a fifth
    assert percentiles_ms(durations) == {"p50": 3.0, "p95": 5.0, "p99": 5.0}
    assert percentiles_ms(np.array([7_500_000])) == {"p50": 7.5, "p95": 7.5, "p99": 7.5}


def test_in_turns_each_is_measured_before_any_is_measured_again() -> None:
    asked: list[tuple[int, int]] = []

    def measure(index: int, turn: int) -> int:
        asked.append((index, turn))
        return 10 * index + turn

    measured = take_turns(2, 3, measure, "test")
    assert asked == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert measured == [[0, 1, 2], [10, 11, 12]]


def test_systems_take_turns_on_the_same_requests(tiny_dataset: SequenceDataset) -> None:
    calls: list[tuple[str, int]] = []
    systems = [Recorder(name, calls) for name in ("first", "second")]
    users = [np.array([user]) for user in range(1, 31)]
    requests = make_requests(tiny_dataset, users, max_len=5, k=1, exclude_seen=False)
    flags = TimingFlags(num_calls=60, budget_s=60.0)
    measured = measure_latency(systems, [requests] * 2, flags)
    assert [one.shape for one in measured] == [(60, 2), (60, 2)]
    timed = calls[-120:]
    for name in ("first", "second"):
        assert [user for system, user in timed if system == name] == list(range(1, 31)) * 2
    turns = sum(a[0] != b[0] for a, b in zip(timed, timed[1:], strict=False))
    assert turns == 2 * timing.NUM_TURNS - 1


def test_throughput_is_measured_in_turns() -> None:
    calls: list[tuple[str, int]] = []
    systems = [Recorder(name, calls) for name in "ab"]
    measure_throughput(systems, [[REQUEST]] * 2, budget_s=0)
    asked = "".join(name for name, _ in calls)
    assert asked == "ab" + "ab" * timing.NUM_ROUNDS  # the first two are not counted


class Compiler(System):
    """Compiles in its first two calls: a second each instead of a millisecond."""

    num_calls = 0

    def timed(self, requests: Sequence[Request]) -> Any:
        durations = []
        for _ in requests:
            durations.append([10**9 if self.num_calls < 2 else 10**6, 0])
            self.num_calls += 1
        return np.array(durations)


def test_throughput_leaves_out_what_is_compiled_first() -> None:
    assert measure_throughput([Compiler()], [[REQUEST] * 3], budget_s=0) == [1000]


def test_a_p99_takes_two_hundred_calls_and_turns_show_the_spread() -> None:
    # 20 turns of ten calls: turn n takes n milliseconds a call.
    wall = np.repeat(np.arange(1, 21), 10) * 1_000_000
    durations = np.stack([wall, np.full(200, 2_000_000)], axis=1)
    latency = latency_of(durations)
    assert (latency.p50, latency.p95, latency.p99) == (10.0, 19.0, 20.0)
    assert (latency.p50_least, latency.p50_most, latency.cpu) == (1.0, 20.0, 2.0)
    assert latency_of(durations[:-1]).p99 is None


def test_a_slow_system_is_asked_less_often() -> None:
    class Slow(System):
        def timed(self, requests: Sequence[Request]) -> Any:
            timing.time.sleep(0.01 * len(requests))
            return np.full((len(requests), 2), 10**7)

    flags = TimingFlags(num_calls=1000, budget_s=0.05)
    (measured,) = measure_latency([Slow()], [[REQUEST]], flags)
    assert len(measured) == timing.MIN_CALLS
    assert latency_of(measured).p50 == pytest.approx(10.0)
