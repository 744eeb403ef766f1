"""Accuracy against latency on this machine. Entry point: `python -m benchmarks.latency`.

Every student is judged and timed from the same exported file, in plain ONNX Runtime: the timed
call is `session.run` on prepared arrays, history in, top 10 out, exclusions and top-k inside.
Systems get the same test users in the same order and take turns, after a warm-up. The teacher's
metrics are those that fine-tuning wrote. Exports that are missing or stale are made first.

Writes `benchmark.json` (`LatencyResults` in `benchmarks/report/schema.py`), `benchmark.png` and
`report.html` into the output directory, and the columns that matter first to stdout.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from seqrec.config import RECIPE_VERSION, flag, parse_flags, to_json
from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError, ModelError, run_main
from seqrec.files import write_text

from benchmarks.measure.flags import FolderFlags, TimingFlags
from benchmarks.measure.lower_bound import DEFINITION
from benchmarks.measure.machine import OtherWork, describe_machine
from benchmarks.measure.quality import describe_dataset, judge
from benchmarks.measure.speed import BATCH_SIZE, time_judged
from benchmarks.measure.students import (
    TeacherSystem,
    open_students,
    students_in_torch,
    teacher_quality,
)
from benchmarks.measure.systems import Popularity, System, load_runner
from benchmarks.report.files import load, save
from benchmarks.report.regression import compare_runs, require_comparable
from benchmarks.report.schema import Failure, LatencyResults
from benchmarks.report.tables import format_latency

logger = logging.getLogger(__name__)

Opened = tuple[list[System], list[Failure]]  # and why others could not be opened


@dataclass(frozen=True, kw_only=True)
class LatencyConfig(TimingFlags, FolderFlags):
    """Flags of `benchmarks.latency`."""

    device: Literal["cpu", "cuda"] = flag(
        "cpu", "where the teacher and --torch run; exported files run on the CPU"
    )
    torch: bool = flag(
        False, "measure the distilled students in PyTorch as well, eager and compiled"
    )
    runners: tuple[str, ...] = flag(
        (), "systems of your own as module:name, where name(dataset) returns a runner"
    )
    sweeps: bool = flag(
        False, "measure throughput over batch sizes and latency over history lengths, too"
    )
    compare_with: Path | None = flag(
        None, "benchmark.json of an earlier run; exit code 1 if this one is worse"
    )


def require_gpu(flag_name: str, device: str) -> None:
    """Refuse a GPU where there is none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"{flag_name} cuda: PyTorch finds no GPU here. Use {flag_name} cpu")


def open_data(config: LatencyConfig) -> SequenceDataset:
    """Open the data set; `DataError` if there is none, or nobody to judge."""
    dataset = load_dataset(config.data_dir)
    if not len(dataset.eval_targets("test").users):
        raise DataError(
            f"{dataset.path} has no test target: there is nothing to judge. A user needs an event "
            "to train on and one after it: prepare a longer log with python -m seqrec.prepare"
        )
    return dataset


def open_earlier(config: LatencyConfig, dataset: SequenceDataset) -> LatencyResults | None:
    """Read the run to compare with, before anything is measured.

    Raises:
        DataError: it cannot be read or compared, or this run would write over it.
    """
    file = config.compare_with
    if file is None:
        return None
    if file.resolve() == (config.folder / "benchmark.json").resolve():
        raise DataError(
            f"--compare-with {file} is where this run writes its own results. Copy it to another "
            "name and give that"
        )
    earlier = load(LatencyResults, file)
    require_comparable(earlier, file, dataset.fingerprint, config.num_threads, DEFINITION)
    return earlier


def open_systems(config: LatencyConfig, dataset: SequenceDataset) -> list[System]:
    """Open all that is judged here: popularity, students, systems of a user's own."""
    if config.teacher:
        teacher_quality(config.folder, dataset)  # refuses a missing one before others are exported
    systems: list[System] = [Popularity(dataset)]
    systems += open_students(dataset, config.folder, config.num_threads, variants=True)
    systems += [load_runner(spec, dataset) for spec in config.runners]
    if config.torch:
        systems += students_in_torch(config.folder, config.num_threads, config.device)
    return systems


def measure(
    config: LatencyConfig,
    dataset: SequenceDataset,
    systems: Sequence[System],
    failed: list[Failure],
) -> LatencyResults:
    """Judge and time systems, and the teacher with them, the second row of the table.

    Raises:
        SeqRecError: the teacher is missing, or a system of ours does not answer as it should.
    """
    machine = describe_machine(config.num_threads)
    if config.device == "cuda":
        import torch

        machine = replace(machine, gpu=torch.cuda.get_device_name())
    judged = judge(systems, dataset, failed, batch_size=BATCH_SIZE)
    if config.teacher:
        quality = teacher_quality(config.folder, dataset)
        teacher = TeacherSystem(config.folder / "teacher", config.num_threads, config.device)
        judged.insert(1, (teacher, quality))
    others = OtherWork()
    rows = time_judged(judged, dataset, config, failed, sweeps=config.sweeps)
    return LatencyResults(
        config=to_json(config),
        environment=replace(machine, other_work=others.cores()),
        dataset=describe_dataset(dataset),
        throughput_batch_size=BATCH_SIZE,
        lower_bound=DEFINITION,
        recipe_version=RECIPE_VERSION,
        rows=tuple(rows),
        failed=tuple(failed),
    )


def run(
    config: LatencyConfig,
    open_others: Callable[[SequenceDataset, ExitStack], Opened] = lambda *_: ([], []),
) -> None:
    """Measure, write JSON, picture and page, and show the table.

    Args:
        config: the flags.
        open_others: opens systems besides ours, to be closed when the stack is left.

    Raises:
        SystemExit: with 1, if an earlier run was better.
    """
    import torch

    from benchmarks.report.page import page
    from benchmarks.report.plots import draw_latency, save_figure  # loads Matplotlib

    require_gpu("--device", config.device)
    torch.set_num_threads(config.num_threads)  # for systems of a user's own, too
    dataset = open_data(config)
    earlier = open_earlier(config, dataset)
    systems = open_systems(config, dataset)
    with ExitStack() as stack:
        others, failed = open_others(dataset, stack)
        results = measure(config, dataset, [*systems, *others], failed)
    save(results, config.folder / "benchmark.json")
    save_figure(draw_latency(results), config.folder / "benchmark.png")
    write_text(config.folder / "report.html", page(results))
    sys.stdout.write(format_latency(results))
    logger.info("all columns: %s; JSON and picture beside it", config.folder / "report.html")
    if earlier is not None:
        comparison, is_worse = compare_runs(earlier, results)
        sys.stdout.write(comparison)
        if is_worse:
            raise SystemExit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    run(parse_flags(LatencyConfig, (__doc__ or "").partition("\n")[0], argv))


if __name__ == "__main__":
    run_main(main)
