"""What each part of the teaching is worth. Entry point: `python -m benchmarks.accuracy`.

    python -m benchmarks.accuracy --data-dir data/ml-100k data/mine --seeds 0 1 2 --jobs 2

For every data set: trains the teacher if there is none, makes the soft targets that students
share, then trains and judges every row of `benchmarks/rows.py` for each architecture and seed, a
cell each, and writes `accuracy.json` (see `benchmarks.grid.summary`) and `accuracy.png` into
`OUTPUT_DIR/<data>`. A finished cell is never computed again and a killed one goes on from its
checkpoint: type the same command. Each cell runs on one thread; `--jobs 2` runs two at once, which
is the most that two cores can do.
"""

import logging
import os
import resource
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqrec.config import DEFAULT_DATA_DIR, flag, parse_flags
from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError, ModelError, SeqRecError, run_main
from seqrec.files import sha256_file, write_json
from seqrec.knowledge import load_knowledge
from seqrec.training import set_up_cpu

from tqdm import tqdm

from benchmarks.grid.run import (
    DEFAULT_OUTPUT_DIR,
    END_WITH_PARENT,
    Cell,
    Device,
    Workplace,
    arguments,
    cell_folder,
    open_workplace,
    read_finished,
    run_cell,
    share_soft_targets,
    sources,
)
from benchmarks.grid.summary import format_table, row_cells, summarize
from benchmarks.grid.variants import ROWS, needs_teacher, select_rows
from benchmarks.report.plot_accuracy import write_figure
from student.model import Arch

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
Work = tuple[Workplace, Cell]


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig:
    """Flags of `benchmarks.accuracy`."""

    data_dir: tuple[Path, ...] = flag((DEFAULT_DATA_DIR,), "prepared data sets")
    output_dir: Path = flag(DEFAULT_OUTPUT_DIR, "gets a folder for each data set")
    seeds: tuple[int, ...] = flag((0, 1, 2), "seeds of the students")
    arch: Literal["gru", "transformer", "both"] = flag("both", "which students")
    rows: tuple[str, ...] = flag(
        ("default",), "rows of benchmarks/rows.py, or default, ablations, all"
    )
    jobs: int = flag(1, "cells at once, one thread each, and threads of the teacher's training")
    train: bool = flag(True, "compute what is missing; --no-train reports what is finished")
    student_flags: str = flag("", "flags of student.distill for all students, in quotes")
    teacher_flags: str = flag("", "flags of teacher/finetune.py, in quotes")
    device: Device = flag("cpu", "where students train; auto takes a GPU if there is one")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.jobs < 1:
            raise ValueError(f"--jobs {self.jobs} is not at least 1")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds {' '.join(map(str, self.seeds))}: one stands there twice")

    @property
    def archs(self) -> list[Arch]:
        """The architectures that are meant."""
        return ["gru", "transformer"] if self.arch == "both" else [self.arch]


def open_data(config: AccuracyConfig) -> list[SequenceDataset]:
    """Open all data sets.

    Raises:
        DataError: one is missing, or two would write to the same folder.
    """
    datasets = [load_dataset(data_dir) for data_dir in config.data_dir]
    names = [data_dir.resolve().name for data_dir in config.data_dir]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"two data sets are in folders named {name}, and results are kept by that name. "
                "Rename one, or give it an --output-dir of its own"
            )
    return datasets


def check_seeds(rows: Sequence[str], seeds: Sequence[int]) -> None:
    """Refuse to average a row with itself when there is one seed only."""
    for name in rows:
        made_of = ROWS[name].made_of
        if len(set(made_of)) < len(made_of) and len(seeds) < 2:
            raise ModelError(
                f"row {name} averages students of two seeds, but --seeds names {len(seeds)}: "
                f"--seeds {' '.join(map(str, seeds))} {max(seeds) + 1}, or leave it out of --rows"
            )


def plan(rows: Sequence[str], archs: Sequence[Arch], seeds: Sequence[int]) -> list[list[Cell]]:
    """Return a data set's cells in two phases: those of the second are made from the first's."""
    cells = dict.fromkeys(
        cell for arch in archs for name in rows for cell in row_cells(name, arch, seeds)
    )
    # Seed by seed: a grid that is stopped halfway then holds whole tables of its first seeds.
    ordered = sorted(cells, key=lambda c: -1 if c.seed is None else seeds.index(c.seed))
    return [[cell for cell in ordered if bool(sources(cell)) == later] for later in (False, True)]


def ensure_teacher(
    config: AccuracyConfig, data_dir: Path, dataset: SequenceDataset, root: Path
) -> None:
    """Train the teacher unless there is one of this data; all seeds and students share it.

    Raises:
        ModelError: training failed.
    """
    if not config.teacher_flags and (root / "teacher" / "metrics.json").is_file():
        try:
            load_knowledge(root / "knowledge", dataset)
        except SeqRecError as error:
            logger.info("%s", error)
        else:
            return
    words = ["teacher/finetune.py", f"--data-dir={data_dir.resolve()}"]
    words += [f"--output-dir={root.resolve()}", f"--num-threads={config.jobs}"]
    words += shlex.split(config.teacher_flags)
    logger.info("accelerate launch %s", shlex.join(words))
    metrics, checkpoint = root / "teacher" / "metrics.json", root / "teacher" / "checkpoint"
    before = sha256_file(metrics) if metrics.is_file() else None
    interrupted = checkpoint.is_dir()  # the times of a run that was killed are lost
    wall, cpu = time.perf_counter(), _children_cpu_s()
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *words], cwd=ROOT, check=False
    )
    if done.returncode:
        raise ModelError(
            f"the teacher of {data_dir} was not trained: exit code {done.returncode}, its reason "
            f"stands above. To try it alone: accelerate launch {shlex.join(words)}"
        )
    if sha256_file(metrics) != before:  # else it was finished already
        cost = {"wall_s": time.perf_counter() - wall, "cpu_s": _children_cpu_s() - cpu}
        about = {"command": "accelerate launch " + shlex.join(words), "interrupted": interrupted}
        write_json(root / "teacher_times.json", {**about, **cost})


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def share_all_soft_targets(cells: Sequence[Cell], place: Workplace) -> None:
    """Make what cells share before the first begins: two at once would make the same twice."""
    todo = [cell for cell in cells if read_finished(cell, place) is None]
    for cell in {cell.row: cell for cell in reversed(todo)}.values():  # one of each row
        share_soft_targets(cell, place)


def seconds_left(
    todo: Sequence[Work], finished: Sequence[tuple[Work, float]], jobs: int
) -> float | None:
    """Estimate how long `todo` takes from how long finished cells took, None if there are none.

    Each cell is expected to take the mean of those most like it: of the same row, architecture and
    data set; else the same kind of row on that data; else the same kind; else of all.
    """
    if not finished:
        return None

    def likeness(work: Work, level: int) -> tuple[object, ...]:
        place, cell = work
        data, kind = place.dataset.fingerprint, ROWS[cell.row].kind
        return [(data, cell.row, cell.arch), (data, kind), (kind,), ()][level]

    total = 0.0
    for work in todo:
        for level in range(4):
            wanted = likeness(work, level)
            alike = [s for other, s in finished if likeness(other, level) == wanted]
            if alike:
                total += sum(alike) / len(alike)
                break
    return total / jobs


def run_grid(phases: Sequence[Sequence[Work]], jobs: int, compute: Callable[[Work], Any]) -> None:
    """Compute all cells that are not finished, phase by phase, `jobs` at once."""
    every = [work for phase in phases for work in phase]
    finished: list[tuple[Work, float]] = []
    todo: list[Work] = []
    for work in every:
        about = read_finished(work[1], work[0])
        if about is None:
            todo.append(work)
        else:
            finished.append((work, sum(stage["wall_s"] for stage in about["times"].values())))
    logger.info("%d of %d cells are finished", len(finished), len(every))
    lock, stop = threading.Lock(), threading.Event()
    bar = tqdm(total=len(every), initial=len(finished), unit="cell", desc="accuracy")

    def show_time_left() -> None:
        left = seconds_left(todo, finished, jobs)
        bar.set_postfix_str("time left unknown" if left is None else f"{left / 3600:.1f} h left")

    show_time_left()

    def one(work: Work) -> None:
        if stop.is_set():
            return
        start = time.perf_counter()
        try:
            compute(work)
        except BaseException:
            stop.set()  # what waits in the queue is not begun
            raise
        with lock:
            finished.append((work, time.perf_counter() - start))
            todo.remove(work)
            bar.update()
            show_time_left()

    try:
        for phase in phases:
            waiting = [work for work in phase if work in todo]
            if jobs == 1:
                for work in waiting:
                    one(work)
                continue
            with ThreadPoolExecutor(jobs) as pool:
                for future in [pool.submit(one, work) for work in waiting]:
                    future.result()
    finally:
        bar.close()


def compute_here(work: Work) -> None:
    """Compute a cell in this process, its progress on the screen."""
    place, cell = work
    run_cell(cell, place)


def compute_in_subprocess(work: Work) -> None:
    """Compute a cell in a process of its own; what it prints goes to `log.txt` in its folder.

    Raises:
        ModelError: it failed; the message ends with the last line of the log.
    """
    place, cell = work
    folder = cell_folder(cell, place)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, *arguments(cell, place)],
            stdout=log,
            stderr=log,
            env={**os.environ, END_WITH_PARENT: str(os.getpid())},
            check=False,
        )
    if done.returncode:
        lines = (folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()
        raise ModelError(
            f"{cell} failed: {lines[-1] if lines else done.returncode}; see {log.name}"
        )


def run(config: AccuracyConfig, command: str) -> list[dict[str, Any]]:
    """Compute the grid and return the content of each data set's `accuracy.json`.

    Raises:
        SeqRecError: what the user can repair: unknown rows, missing data, too few seeds, a stage
            that refuses.
    """
    datasets = open_data(config)
    rows = select_rows(config.rows)
    check_seeds(rows, config.seeds)
    roots = [config.output_dir / data_dir.resolve().name for data_dir in config.data_dir]
    if config.train and any(map(needs_teacher, rows)):
        for data_dir, dataset, root in zip(config.data_dir, datasets, roots, strict=True):
            ensure_teacher(config, data_dir, dataset, root)
    set_up_cpu(num_threads=1, num_processes=1)
    places = [
        open_workplace(
            data_dir,
            config.output_dir,
            config.student_flags,
            config.device,
            with_teacher=(root / "knowledge" / "meta.json").is_file(),
        )
        for data_dir, root in zip(config.data_dir, roots, strict=True)
    ]
    if config.train:
        planned = plan(rows, config.archs, config.seeds)
        for place in places:
            share_all_soft_targets(planned[0], place)
        compute = compute_in_subprocess if config.jobs > 1 else compute_here
        run_grid(
            [[(place, cell) for cell in cells for place in places] for cells in planned],
            config.jobs,
            compute,
        )
    results = []
    for place in places:
        found = summarize(place, config.seeds, command)
        if not found["rows"]:
            raise ModelError(
                f"nothing is finished in {place.root}. Compute it: leave out --no-train"
            )
        write_json(place.root / "accuracy.json", found)
        write_figure(found, place.root / "accuracy.png")
        logger.info("wrote %s and accuracy.png beside it", place.root / "accuracy.json")
        results.append(found)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Run the grid and show its tables."""
    config = parse_flags(AccuracyConfig, (__doc__ or "").partition("\n")[0], argv)
    words = sys.argv[1:] if argv is None else argv
    for found in run(config, "python -m benchmarks.accuracy " + shlex.join(words)):
        sys.stdout.write(format_table(found))


if __name__ == "__main__":
    run_main(main)
