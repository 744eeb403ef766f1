"""How fast systems answer the test users: latency, throughput, start-up, all in turns."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from seqrec.data import SequenceDataset

import numpy as np

from benchmarks.measure.flags import TimingFlags
from benchmarks.measure.lower_bound import time_beside_bound
from benchmarks.measure.quality import Histories, Judged, K, failure_of
from benchmarks.measure.queries import Request, histories_before_test, make_requests
from benchmarks.measure.startup import median_start_up
from benchmarks.measure.systems import System, SystemFailure
from benchmarks.measure.timing import latency_of, measure_latency, measure_throughput, take_turns
from benchmarks.report.schema import Failure, Speed, SystemResult

MAX_BATCHES = 20
NUM_STARTS = 3  # processes of each system
BATCH_SIZE = 128
THROUGHPUT_S = 0.5  # of each system, for each batch size
SWEPT_BATCHES = (1, 8, 32, 128, 512)
SWEPT_LENGTHS = (1, 2, 5, 10, 20, 50, 100)
Ask = Callable[..., list[Request]]  # `make_requests`, but for histories, max_len and batch_size


def time_judged(
    judged: Sequence[Judged],
    dataset: SequenceDataset,
    flags: TimingFlags,
    failed: list[Failure],
    *,
    sweeps: bool,
) -> list[SystemResult]:
    """Time all in turns; if one that may fail stops meanwhile, the others begin again."""
    left = list(judged)
    while True:
        try:
            speeds = measure_speed([system for system, _ in left], dataset, flags, sweeps=sweeps)
        except SystemFailure as error:
            failed.append(failure_of(error.system.identity, error))
            left = [one for one in left if one[0] is not error.system]
            continue
        return [
            SystemResult(
                **vars(system.identity),
                **vars(quality),
                **vars(speed),
                size_mib=float(system.size_mib),
                num_parameters=int(system.num_parameters),
                **system.details(),
            )
            for (system, quality), speed in zip(left, speeds, strict=True)
        ]


def measure_speed(
    systems: Sequence[System], dataset: SequenceDataset, flags: TimingFlags, *, sweeps: bool
) -> list[Speed]:
    """Measure all systems in turns, in order, on the test users in an order drawn by the seed."""
    histories = histories_before_test(dataset)
    order = np.random.default_rng(flags.seed).permutation(len(histories))
    histories = [histories[user] for user in order]
    num_bytes = [system.parameter_bytes() for system in systems]
    # What is timed is the headline protocol, the top 10.
    ask = partial(make_requests, dataset, k=K, exclude_seen=dataset.exclude_seen)
    asked = histories[: flags.num_calls]
    requests = [ask(asked, max_len=system.max_len) for system in systems]
    timed = time_beside_bound(systems, requests, num_bytes, dataset.num_items, flags)
    rates = measure_rates(systems, histories, ask, BATCH_SIZE)
    starts = take_turns(
        len(systems), NUM_STARTS, lambda index, _: systems[index].start_up(), "start-up"
    )
    swept = sweep(systems, histories, ask, flags) if sweeps else [{}] * len(systems)
    return [
        Speed(
            **timed[index],
            lower_bound_bytes=num_bytes[index],
            throughput_per_s=rates[index],
            start_up=median_start_up(starts[index]),
            **swept[index],
        )
        for index in range(len(systems))
    ]


def measure_rates(
    systems: Sequence[System], histories: Histories, ask: Ask, batch_size: int
) -> list[float]:
    """Return each system's users per second, in whole batches of this size."""
    # A data set with fewer users than one batch is gone through again.
    num_users = min(max(len(histories) // batch_size, 1), MAX_BATCHES) * batch_size
    users = [histories[number % len(histories)] for number in range(num_users)]
    requests = [ask(users, max_len=system.max_len, batch_size=batch_size) for system in systems]
    return measure_throughput(systems, requests, budget_s=THROUGHPUT_S)


def sweep(
    systems: Sequence[System], histories: Histories, ask: Ask, flags: TimingFlags
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
        rates = measure_rates(list(files.values()), histories, ask, size)
        for i, rate in zip(files, rates, strict=True):
            fields[i].setdefault("throughput_by_batch", {})[str(size)] = rate
    longest = max(system.max_len for system in files.values())
    brief = replace(flags, num_calls=max(flags.num_calls // 4, 1), budget_s=THROUGHPUT_S)
    for length in (*(n for n in SWEPT_LENGTHS if n < longest), longest):
        users = [history[-length:] for history in histories if len(history) >= length]
        able = {i: system for i, system in files.items() if system.max_len >= length}
        if not users:
            break
        requests = [ask(users, max_len=length)] * len(able)
        timings = measure_latency(list(able.values()), requests, brief)
        for i, timing in zip(able, timings, strict=True):
            p50 = latency_of(timing).p50
            fields[i].setdefault("p50_ms_by_history", {})[str(length)] = p50
    return fields
