"""Flags of `benchmarks.baselines`."""

from dataclasses import dataclass
from typing import Literal

from seqrec.config import flag

from benchmarks.baselines.libraries import BASELINES
from benchmarks.latency import LatencyConfig


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
