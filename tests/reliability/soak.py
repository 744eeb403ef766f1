"""One recommender shared by many threads. Entry point: `python -m tests.reliability.soak`.

A number of different requests (histories of all lengths, unknown ids among them, k, seen items
left out or not, candidates) is answered by one thread first. Then all threads ask them again, in
an order of their own, until the time is over or enough was asked, and every answer is compared:
the same items in the same order, the same scores. Exit code 1 if one differs, or if memory grew by
more than a tenth after the first tenth of the time.

Writes `soak.json` into the output directory: requests, wrong, threads, seconds, per_s, latency_ms
(p50, p95, p99 of a request among the others, waiting for a core included), rss_mib (ten times,
evenly spaced). `kept/soak.json` is of a long run.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags
from seqrec.errors import run_main
from seqrec.files import write_json

import numpy as np

from benchmarks.measure.timing import percentiles_ms
from export.recommender import Recommendations, Recommender

logger = logging.getLogger(__name__)

NUM_DIFFERENT = 500
NUM_SAMPLES = 10
KEPT = 100_000  # latencies that a thread remembers, so that memory does not grow by them
MAX_GROWTH = 0.1
Ask = Callable[[], Recommendations]


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """Flags of `tests.reliability.soak`."""

    model_dir: Path = flag(
        Path("runs/ml-100k/export/transformer-distilled-int8"),
        "exported student, from export.to_onnx",
    )
    output_dir: Path = flag(Path("runs/soak"), "directory to write")
    num_workers: int = flag(32, "threads that ask")
    num_requests: int = flag(1_000_000, "requests after which it ends")
    seconds: float = flag(600.0, "time after which it ends")
    seed: int = flag(0, "seed of the requests")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if min(self.num_workers, self.num_requests) < 1 or self.seconds <= 0:
            raise ValueError("--num-workers, --num-requests, --seconds: above 0")


def make_requests(recommender: Recommender, count: int, seed: int) -> list[Ask]:
    """Return different requests, ready to be asked."""
    rng = np.random.default_rng(seed)
    ids = recommender.item_ids

    def draw(size: int) -> list[str]:
        return [ids[number] for number in rng.integers(0, len(ids), size)]

    def make() -> Ask:
        history = draw(int(rng.integers(1, 2 * recommender.max_len)))
        history.insert(int(rng.integers(len(history) + 1)), "an id that no catalogue has")
        k, exclude_seen = int(rng.integers(1, 50)), bool(rng.random() < 0.8)
        candidates = draw(100) if rng.random() < 0.2 else None
        return lambda: recommender.recommend(history, k, exclude_seen, candidates)

    return [make() for _ in range(count)]


def resident_mib() -> float:
    """Return the memory that this process holds, in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Worker(threading.Thread):
    """Asks over and over until it is told to stop; counts, compares and takes the time."""

    def __init__(self, asks: Sequence[Ask], expected: Sequence[Any], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._asks, self._expected, self._stop_event = asks, expected, stop
        self.num_asked = self.num_wrong = 0
        self.durations_ns = np.zeros(KEPT, dtype=np.int64)
        self.error: Exception | None = None

    def run(self) -> None:
        """Ask."""
        try:
            while not self._stop_event.is_set():
                place = self.num_asked % len(self._asks)
                start = time.perf_counter_ns()
                answer = self._asks[place]()
                self.durations_ns[self.num_asked % KEPT] = time.perf_counter_ns() - start
                self.num_wrong += answer != self._expected[place]
                self.num_asked += 1
        except Exception as error:
            self.error = error


def soak(config: SoakConfig) -> dict[str, Any]:
    """Ask from all threads; return the content of `soak.json`."""
    recommender = Recommender.from_pretrained(config.model_dir)
    asks = make_requests(recommender, NUM_DIFFERENT, config.seed)
    expected = [ask() for ask in asks]
    rng, stop = np.random.default_rng(config.seed), threading.Event()
    workers = []
    for _ in range(config.num_workers):
        order = rng.permutation(len(asks))
        own = [asks[place] for place in order], [expected[place] for place in order]
        workers.append(Worker(*own, stop))
    memory: list[float] = []
    start = time.monotonic()
    for worker in workers:
        worker.start()
    while True:
        time.sleep(min(0.2, config.seconds / 100))
        seconds, asked = time.monotonic() - start, sum(worker.num_asked for worker in workers)
        done = max(seconds / config.seconds, asked / config.num_requests)
        if done * NUM_SAMPLES >= len(memory) + 1:
            memory.append(resident_mib())
            logger.info("%s requests in %.0f s, %.0f MiB", f"{asked:,}", seconds, memory[-1])
        if done >= 1 or any(worker.error for worker in workers):
            break
    stop.set()
    for worker in workers:
        worker.join()
        if worker.error is not None:
            raise worker.error
    asked = sum(worker.num_asked for worker in workers)
    durations = [worker.durations_ns[: min(worker.num_asked, KEPT)] for worker in workers]
    return {
        "model": config.model_dir.name,
        "threads": config.num_workers,
        "requests": asked,
        "wrong": sum(worker.num_wrong for worker in workers),
        "seconds": seconds,
        "per_s": asked / seconds,
        "latency_ms": percentiles_ms(np.concatenate(durations)),
        "rss_mib": [round(value, 1) for value in memory],
    }


def format_soak(found: dict[str, Any]) -> str:
    """Return the results as a line that ends in a newline."""
    latency = ", ".join(f"{name} {value:.2f}" for name, value in found["latency_ms"].items())
    return (
        f"{found['model']}: {found['requests']:,} requests from {found['threads']} threads in "
        f"{found['seconds']:.0f} s ({found['per_s']:,.0f} per second), {found['wrong']} wrong; "
        f"ms: {latency}; MiB: {found['rss_mib'][0]:.0f} at first, {found['rss_mib'][-1]:.0f} at "
        "last\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Soak as the command line asks."""
    config = parse_flags(SoakConfig, (__doc__ or "").partition("\n")[0], argv)
    found = soak(config)
    write_json(config.output_dir / "soak.json", found)
    sys.stdout.write(format_soak(found))
    grown = found["rss_mib"][-1] > (1 + MAX_GROWTH) * found["rss_mib"][0]
    if found["wrong"] or grown:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
