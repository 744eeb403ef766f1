"""From the list of baselines to systems that answer, and reasons why others do not."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.environments import ensure_environment
from seqrec.errors import SeqRecError

from benchmarks.baselines.libraries import Baseline
from benchmarks.baselines.system import BaselineSystem
from benchmarks.baselines.training import TrainingFlags, ensure_trained, make_untrained
from benchmarks.measure.quality import failure_of
from benchmarks.report.schema import Failure, Identity

Opened = tuple[list[BaselineSystem], list[Failure]]


def open_baselines(
    baselines: Sequence[Baseline],
    dataset: SequenceDataset,
    output_dir: Path,
    flags: TrainingFlags,
    stack: ExitStack,
) -> Opened:
    """Build environments, train and serve baselines, each as far as it goes.

    Args:
        baselines: in the order of the table.
        dataset: what to train on.
        output_dir: `baselines` below it holds what is trained.
        flags: of the trainings; calls have as many threads.
        stack: ends the workers when it is left.

    Returns:
        A system for each mode that answers, and a failure for each that does not.
    """

    def make(baseline: Baseline, python: Path) -> Path:
        return ensure_trained(baseline, python, dataset, output_dir, flags)

    return _open(baselines, make, flags.num_threads, stack)


def open_untrained(
    baselines: Sequence[Baseline],
    num_items: int,
    output_dir: Path,
    *,
    width: int,
    flags: TrainingFlags,
    stack: ExitStack,
) -> Opened:
    """Serve baselines of random weights, those that can be without events; as `open_baselines`."""

    def make(baseline: Baseline, python: Path) -> Path:
        folder = output_dir / baseline.folder_name / "untrained"
        return make_untrained(baseline, python, num_items, folder, width=width, flags=flags)

    able = [baseline for baseline in baselines if baseline.can_be_untrained]
    return _open(able, make, flags.num_threads, stack)


def _open(
    baselines: Sequence[Baseline],
    make: Callable[[Baseline, Path], Path],
    num_threads: int,
    stack: ExitStack,
) -> Opened:
    """Build each one's environment, let `make` write its model with it, and serve that."""
    systems: list[BaselineSystem] = []
    failures: list[Failure] = []
    for baseline in baselines:
        try:
            python = ensure_environment(baseline.requirements)
            folder = make(baseline, python)
        except SeqRecError as error:
            failures += [_failure(name, error) for name in baseline.modes.values()]
            continue
        for mode, name in baseline.modes.items():
            try:
                system = BaselineSystem(baseline, mode, python, folder, num_threads=num_threads)
            except SeqRecError as error:
                failures.append(_failure(name, error))
                continue
            stack.callback(system.close)
            systems.append(system)
    return systems, failures


def _failure(name: str, error: SeqRecError) -> Failure:
    return failure_of(Identity(system=name, precision="-", family="baseline"), error)
