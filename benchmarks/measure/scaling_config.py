"""Flags of `benchmarks.scaling`, for it and for what it measures with."""

from dataclasses import dataclass
from pathlib import Path

from seqrec.config import flag


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
