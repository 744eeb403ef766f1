"""What each part of the teaching is worth. Entry point: `python -m benchmarks.accuracy`.

    python -m benchmarks.accuracy --data-dir data/ml-100k data/mine --seeds 0 1 2 --jobs 2

Each seed is a replication of the whole recipe on every data set: trains a teacher if there is none,
makes the soft targets that students share, then trains and judges every variant of
`benchmarks/grid/variants.py` for each architecture, a run each, in `OUTPUT_DIR/<data>/seed<seed>`.
Writes `accuracy.json` (`AccuracyResults` in `report/schema.py`) and `accuracy.png` over all seeds
into `OUTPUT_DIR/<data>`. A finished run is never computed again and a killed one goes on from its
checkpoint: type the same command. Each run takes one thread; `--jobs 2` computes two at once, which
is the most that two cores can do.
"""

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqrec.config import DEFAULT_DATA_DIR, flag, parse_flags
from seqrec.errors import DataError, ModelError, run_main

from benchmarks.report.files import save
from benchmarks.report.schema import AccuracyResults
from benchmarks.report.tables import format_accuracy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig:
    """Flags of `benchmarks.accuracy`."""

    data_dir: tuple[Path, ...] = flag((DEFAULT_DATA_DIR,), "prepared data sets")
    output_dir: Path = flag(Path("runs/accuracy"), "gets a folder for each data set")
    seeds: tuple[int, ...] = flag(
        (0, 1, 2), "seeds of the replications, each of which has a teacher of its own"
    )
    arch: Literal["gru", "transformer", "both"] = flag("both", "which students")
    variants: tuple[str, ...] = flag(
        ("default",), "variants of benchmarks/grid/variants.py, or default, ablations, all"
    )
    jobs: int = flag(1, "runs at once, one thread each, and threads of the teacher's training")
    train: bool = flag(True, "compute what is missing; --no-train reports what is finished")
    student_flags: str = flag("", "flags of student.distill for all students, in quotes")
    teacher_flags: str = flag("", "flags of teacher/finetune.py for all teachers, in quotes")
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


def run(config: AccuracyConfig, command: str) -> list[AccuracyResults]:
    """Compute the grid and return the content of each data set's `accuracy.json`.

    Raises:
        SeqRecError: a data set or a variant is missing, two data sets would write to the same
            folder, a training failed, or nothing is finished.
    """
    from seqrec.training import set_up_cpu  # loads PyTorch

    from benchmarks.grid.run import run_grid, share_before
    from benchmarks.grid.summary import summarize
    from benchmarks.grid.variants import VARIANTS, plan, select_variants
    from benchmarks.grid.workspace import Workspace, ensure_teacher
    from benchmarks.report.plots import draw_accuracy, save_figure  # loads Matplotlib

    names = [data_dir.resolve().name for data_dir in config.data_dir]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"two data sets are in folders named {name}, and results are kept by that name. "
                "Rename one, or give it an --output-dir of its own"
            )
    by_seed = [
        [
            Workspace.open(
                data_dir, config.output_dir / name, seed, config.student_flags, config.device
            )
            for data_dir, name in zip(config.data_dir, names, strict=True)
        ]
        for seed in config.seeds
    ]
    variants = select_variants(config.variants)
    phases = plan(variants, config.archs)
    set_up_cpu(num_threads=1, num_processes=1)
    if config.train:
        # Seed by seed: a grid that is stopped halfway then holds whole tables of its first seeds.
        for spaces in by_seed:
            for space in spaces:
                if any(VARIANTS[name].needs_teacher for name in variants):
                    ensure_teacher(space, config.teacher_flags, config.jobs)
                share_before(phases[0], space)
            for keys in phases:
                run_grid([(key, space) for key in keys for space in spaces], config.jobs)
    every = []
    for replications in zip(*by_seed, strict=True):
        results, folder = summarize(replications, command), replications[0].results
        if not results.rows:
            raise ModelError(f"nothing is finished in {folder}. Compute it: leave out --no-train")
        save(results, folder / "accuracy.json")
        save_figure(draw_accuracy(results), folder / "accuracy.png")
        logger.info("wrote %s and accuracy.png beside it", folder / "accuracy.json")
        every.append(results)
    return every


def main(argv: Sequence[str] | None = None) -> None:
    """Run the grid and show its tables."""
    config = parse_flags(AccuracyConfig, (__doc__ or "").partition("\n")[0], argv)
    words = sys.argv[1:] if argv is None else argv
    for results in run(config, "python -m benchmarks.accuracy " + shlex.join(words)):
        sys.stdout.write(format_accuracy(results))


if __name__ == "__main__":
    run_main(main)
