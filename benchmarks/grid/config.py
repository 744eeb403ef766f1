"""Flags of `benchmarks.accuracy`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqrec.config import DEFAULT_DATA_DIR, flag


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig:
    """Flags of `benchmarks.accuracy`."""

    data_dir: tuple[Path, ...] = flag((DEFAULT_DATA_DIR,), "prepared data sets")
    output_dir: Path = flag(Path("runs/accuracy"), "gets a folder for each data set")
    seeds: tuple[int, ...] = flag((0, 1, 2), "seeds of the students")
    arch: Literal["gru", "transformer", "both"] = flag("both", "which students")
    variants: tuple[str, ...] = flag(
        ("default",), "variants of benchmarks/grid/variants.py, or default, ablations, all"
    )
    jobs: int = flag(1, "runs at once, one thread each, and threads of the teacher's training")
    train: bool = flag(True, "compute what is missing; --no-train reports what is finished")
    student_flags: str = flag("", "flags of student.distill for all students, in quotes")
    teacher_flags: str = flag("", "flags of teacher/finetune.py, in quotes")
    device: Literal["auto", "cpu", "cuda"] = flag(
        "cpu", "where students train; auto takes a GPU if there is one"
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.jobs < 1:
            raise ValueError(f"--jobs {self.jobs} is not at least 1")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds {' '.join(map(str, self.seeds))}: one stands there twice")

    @property
    def archs(self) -> list[Literal["gru", "transformer"]]:
        """The architectures that are meant."""
        return ["gru", "transformer"] if self.arch == "both" else [self.arch]
