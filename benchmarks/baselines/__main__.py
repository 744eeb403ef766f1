"""Our students beside what users would pick instead. Entry point: `python -m benchmarks.baselines`.

It is `benchmarks.latency` with models of implicit, RecBole, RecTools and RePlay in the same table:
they are trained first, each in an environment of its own, answer in a process of their own, and
time themselves there.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from seqrec.config import flag, parse_flags
from seqrec.errors import run_main

from benchmarks.baselines.libraries import BASELINES
from benchmarks.latency import (
    LatencyConfig,
    benchmark,
    finish,
    open_data,
    open_earlier,
    open_systems,
    require_gpu,
)


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig(LatencyConfig):
    """Flags of `benchmarks.baselines`: those of `benchmarks.latency`, and these."""

    names: tuple[str, ...] = flag((), "these baselines alone, by their names in the table")
    minutes: float = flag(0, "CPU minutes in which each chooses its number of epochs; 0: no limit")
    train_device: Literal["cpu", "cuda"] = flag(
        "cpu", "where they are trained; they are timed on the CPU"
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if strange := set(self.names) - {baseline.name for baseline in BASELINES}:
            raise ValueError(
                f"--names {min(strange)!r} is none of "
                + ", ".join(repr(baseline.name) for baseline in BASELINES)
            )
        if self.minutes < 0:
            raise ValueError(f"--minutes {self.minutes:g} is below 0")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with other libraries and write its results."""
    config = parse_flags(BaselinesConfig, (__doc__ or "").partition("\n")[0], argv)
    import torch

    from benchmarks.baselines.opening import open_baselines
    from benchmarks.baselines.training import TrainingFlags

    require_gpu("--device", config.device)
    require_gpu("--train-device", config.train_device)
    torch.set_num_threads(config.num_threads)
    dataset = open_data(config)
    earlier = open_earlier(config, dataset)
    systems = open_systems(config, dataset)
    flags = TrainingFlags(
        seed=config.seed,
        num_threads=config.num_threads,
        max_minutes=config.minutes,
        device=config.train_device,
    )
    chosen = [one for one in BASELINES if not config.names or one.name in config.names]
    with ExitStack() as stack:
        served, failures = open_baselines(chosen, dataset, config.folder, flags, stack)
        workers = [system.pid for system in served]
        results = benchmark(config, dataset, [*systems, *served], failures, workers)
    finish(results, earlier, config.folder)


if __name__ == "__main__":
    run_main(main)
