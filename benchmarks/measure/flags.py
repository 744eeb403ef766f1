"""Flags that several benchmarks have."""

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
