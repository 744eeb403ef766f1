"""How fast systems answer the test users: latency, throughput, start-up, all in turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqrec.data import SequenceDataset

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.lower_bound import bounds_of, ratio, reference_calls
from benchmarks.measure.quality import Judged, K, failure_of
from benchmarks.measure.queries import Request, histories_before_test, make_requests
from benchmarks.measure.startup import median_start_up
from benchmarks.measure.systems import System, SystemFailure
from benchmarks.measure.timing import measure_latency, measure_throughput, take_turns
from benchmarks.report.schema import Failure, Speed, SystemResult

MAX_BATCHES = 20
NUM_STARTS = 3  # processes of each system
BATCH_SIZE = 128
THROUGHPUT_S = 0.5  # of each system, for each batch size
SWEPT_BATCHES = (1, 8, 32, 128, 512)
SWEPT_LENGTHS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Workload:
    """The test users, shuffled, and how often they are asked; headline protocol."""

    dataset: SequenceDataset
    num_threads: int
    num_calls: int
    budget_s: float
    seed: int

    def histories(self) -> list[NDArray[np.integer]]:
        """Return the users' histories in the order in which they are load."""
        histories = histories_before_test(self.dataset)
        order = np.random.default_rng(self.seed).permutation(len(histories))
        return [histories[user] for user in order]

    def requests(
        self, histories: Sequence[NDArray[np.integer]], max_len: int, batch_size: int
    ) -> list[Request]:
        """Prepare requests in batches."""
        return make_requests(
            histories,
            max_len=max_len,
            k=min(K, self.dataset.num_items),
            exclude_seen=self.dataset.exclude_seen,
            batch_size=batch_size,
        )


def time_judged(
    judged: Sequence[Judged], load: Workload, failed: list[Failure], *, sweeps: bool
) -> list[SystemResult]:
    """Time all in turns; if one that may fail stops meanwhile, the others begin again."""
    left = list(judged)
    while True:
        try:
            speeds = measure_speed([one.system for one in left], load, sweeps=sweeps)
        except SystemFailure as error:
            failed.append(failure_of(error.system.identity, error))
            left = [one for one in left if one.system is not error.system]
            continue
        return [
            SystemResult(
                **vars(one.system.identity),
                **vars(one.quality),
                **vars(speed),
                size_mib=float(one.system.size_mib),
                num_parameters=int(one.system.num_parameters),
                **one.system.details(),
            )
            for one, speed in zip(left, speeds, strict=True)
        ]


def measure_speed(systems: Sequence[System], load: Workload, *, sweeps: bool) -> list[Speed]:
    """Measure all systems in turns, in order."""
    histories, num_items = load.histories(), load.dataset.num_items
    num_bytes = [system.parameter_bytes() for system in systems]
    known_bytes = [number for number in num_bytes if number is not None]
    references = reference_calls(known_bytes, num_items, load.num_threads)
    everything = [*systems, *references]
    timings = measure_latency(
        everything,
        [load.requests(histories[: load.num_calls], one.max_len, 1) for one in everything],
        num_calls=load.num_calls,
        budget_s=load.budget_s,
    )
    bounds = bounds_of(references, timings[len(systems) :])
    rates = measure_rates(systems, histories, load, BATCH_SIZE)
    starts = take_turns(
        len(systems), NUM_STARTS, lambda index, _: systems[index].start_up(), "start-up"
    )
    swept = sweep(systems, histories, load) if sweeps else [{} for _ in systems]
    speeds = []
    for index, system in enumerate(systems):
        latency, fields = timings[index].summary(), swept[index]
        if (size := num_bytes[index]) is not None:
            bound = bounds.lower_bound(size, num_items)
            fields |= {"lower_bound_ms": bound, "lower_bound_bytes": size}
            fields["ratio_to_lower_bound"] = ratio(latency, bound)
        if system.runs_on_onnxruntime:
            fields["idle_call_ms"] = bounds.idle_call_ms
        speeds.append(
            Speed(
                latency_ms=latency,
                num_timed_calls=len(timings[index].durations_ns),
                throughput_per_s=rates[index],
                start_up=median_start_up(starts[index]),
                **fields,
            )
        )
    return speeds


def measure_rates(
    systems: Sequence[System],
    histories: Sequence[NDArray[np.integer]],
    load: Workload,
    batch_size: int,
) -> list[float]:
    """Return each system's users per second, in whole batches of this size."""
    # A data set with fewer users than one batch is gone through again.
    num_users = min(max(len(histories) // batch_size, 1), MAX_BATCHES) * batch_size
    users = [histories[number % len(histories)] for number in range(num_users)]
    requests = [load.requests(users, system.max_len, batch_size) for system in systems]
    return measure_throughput(systems, requests, budget_s=THROUGHPUT_S)


def sweep(
    systems: Sequence[System], histories: Sequence[NDArray[np.integer]], load: Workload
) -> list[dict[str, Any]]:
    """Return throughput by batch size and latency by history length of whole ONNX files.

    Of each system the two fields of `Speed`; nothing of others.
    """
    fields: list[dict[str, Any]] = [{} for _ in systems]
    files = {
        i: system
        for i, system in enumerate(systems)
        if system.runs_on_onnxruntime and system.identity.variant not in ("step", "call")
    }
    for size in SWEPT_BATCHES:
        rates = measure_rates(list(files.values()), histories, load, size)
        for i, rate in zip(files, rates, strict=True):
            fields[i].setdefault("throughput_by_batch", {})[str(size)] = rate
    longest = max(system.max_len for system in files.values())
    for length in (*(n for n in SWEPT_LENGTHS if n < longest), longest):
        users = [history[-length:] for history in histories if len(history) >= length]
        able = {i: system for i, system in files.items() if system.max_len >= length}
        if not users:
            break
        timings = measure_latency(
            list(able.values()),
            [load.requests(users, length, 1)] * len(able),
            num_calls=load.num_calls // 4,
            budget_s=THROUGHPUT_S,
        )
        for i, timing in zip(able, timings, strict=True):
            p50 = timing.summary().p50
            fields[i].setdefault("p50_ms_by_history", {})[str(length)] = p50
    return fields
