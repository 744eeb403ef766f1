"""Flags that several benchmarks have, and those of `benchmarks.scaling`; loads no library."""

from dataclasses import dataclass
from pathlib import Path

from seqrec.config import DEFAULT_DATA_DIR, default_output_dir, flag


@dataclass(frozen=True, kw_only=True)
class FolderFlags:
    """Which data set's systems are measured."""

    data_dir: Path = flag(DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare")
    output_dir: Path | None = flag(None, "where all stages write; default runs/<name of data-dir>")
    teacher: bool = flag(True, "measure the teacher as well; loads its language model")

    @property
    def folder(self) -> Path:
        """Where all stages write."""
        return self.output_dir or default_output_dir(self.data_dir)


@dataclass(frozen=True, kw_only=True)
class TimingFlags:
    """How calls are timed."""

    num_threads: int = flag(1, "threads of each call")
    num_calls: int = flag(2000, "timed calls of each system, at batch size 1")
    budget_s: float = flag(20.0, "seconds after which a slow system is asked no more")
    seed: int = flag(0, "seed of the order of users, and of weights that are random")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if min(self.num_threads, self.num_calls) < 1 or self.budget_s <= 0:
            raise ValueError("--num-threads, --num-calls, --budget-s: above 0")


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Flags of `benchmarks.scaling`."""

    output_dir: Path = flag(Path("runs/scaling"), "where to write scaling.json")
    num_items: tuple[int, ...] = flag((10_000, 100_000, 1_000_000), "catalogue sizes")
    num_events: tuple[int, ...] = flag(
        (2_000_000,), "interactions of the logs: of all, or one number for each size"
    )
    num_users: tuple[int, ...] = flag(
        (100_000,), "users of the logs: of all, or one number for each size"
    )
    num_steps: int = flag(40, "timed training steps")
    num_validated: int = flag(256, "users to rank in validation")
    teacher: str | None = flag(
        None, "language model of a teacher to train as well, such as smollm2-135m; none: no teacher"
    )
    num_layers: int = flag(4, "the teacher's: first layers of the language model; 0: all")
    num_threads: int = flag(1, "CPU threads of training; preparing takes all cores")
    seed: int = flag(0, "seed of all randomness")

    def __post_init__(self) -> None:
        """Refuse numbers that fit no size."""
        for name in ("num_events", "num_users"):
            if len(getattr(self, name)) not in (1, len(self.num_items)):
                raise ValueError(
                    f"--{name.replace('_', '-')}: {len(getattr(self, name))} numbers for "
                    f"{len(self.num_items)} sizes, expected one, or one for each"
                )

    def logs(self) -> list[tuple[int, int, int]]:
        """Return events, users and items of each log."""
        sizes = len(self.num_items)
        events, users = (
            given * sizes if len(given) == 1 else given
            for given in (self.num_events, self.num_users)
        )
        return list(zip(events, users, self.num_items, strict=True))
