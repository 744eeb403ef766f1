"""Training over catalogue sizes: `python -m benchmarks.scaling --num-items 10000 100000 1000000`.

For each size a log is invented (`synthetic_log`), prepared, and trained on for some steps: by
the students and, if `--teacher` names a language model, by a teacher on it; their items' text
components are random. All is run as a user runs it, each in a process of its own, so that its
memory can be told. Prints a table and writes `scaling.json`; schema "seqrec-scaling/1":

    schema, config, environment    as in `benchmark.json`, see `benchmarks.latency`
    rows            a list, one object per size and system:
      num_items, num_events
      system        "prepare", "transformer", "gru", "teacher"
      peak_mib      the most memory that the process held
      seconds       of preparing, the reading of the libraries not counted
      batch_size    windows of a step
      targets_per_s, targets_per_cpu_s
                    next items learnt in a second of the clock and of the processor, which other
                    work on the machine makes less difference to; steps differ in their targets
      steps_per_s   by the clock
      validated_users, validation_s
                    users that were ranked, and how long it took
      planned_mib, planned_steps_per_s
                    of the teacher, as `teacher/finetune.py --dry-run` plans it
"""

import dataclasses
import itertools
import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqrec.batching import Batch, TrainingBatches
from seqrec.config import flag, parse_flags, to_json
from seqrec.data import PAD, SequenceDataset, load_dataset
from seqrec.errors import run_main
from seqrec.files import write_json
from seqrec.item_table import NUM_COMPONENTS
from seqrec.metrics import validation_ndcg
from seqrec.prepare import PrepareConfig, prepare
from seqrec.schedule import teacher_schedule
from seqrec.training import FitConfig, LossFunction, fit, set_up_cpu

import numpy as np
import torch
from accelerate import Accelerator
from tabulate import tabulate
from torch import nn

from benchmarks.measure.machine import watch_others
from benchmarks.measure.startup import peak_mib
from benchmarks.report.tables import busy_note, describe_machine
from benchmarks.synthetic_log import LogConfig, make_log
from student.config import DistillConfig, scheduled
from student.model import Arch, Student
from student.training import fold, make_loss, new_student

if TYPE_CHECKING:
    from teacher.finetune import FinetuneConfig

logger = logging.getLogger(__name__)

SCHEMA = "seqrec-scaling/1"
NUM_WARM_UP = 5


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


@dataclass(frozen=True)
class TimedBatches(TrainingBatches):
    """The first batches of an epoch; notes when each was asked for."""

    num_batches: int = 0
    # Before each: wall and processor time in seconds, and how many targets it has.
    clock: list[tuple[float, float, int]] = field(default_factory=list)

    def epoch(self, epoch: int) -> tuple[int, Iterator[Batch]]:
        """Return how many batches there are, and the batches."""
        batches = super().epoch(epoch)[1]

        def watched() -> Iterator[Batch]:
            for batch in itertools.islice(batches, self.num_batches):
                num_targets = int((batch.targets != PAD).sum())
                self.clock.append((time.perf_counter(), time.process_time(), num_targets))
                yield batch

        return self.num_batches, watched()


def measure_scaling(config: ScalingConfig) -> dict[str, Any]:
    """Prepare and train at all sizes; return the content of `scaling.json` but for `config`."""
    environment = describe_machine(config.num_threads)
    systems: dict[str, list[Callable[..., dict[str, Any]]]] = {
        "prepare": [_prepare],
        "transformer": [_train_student],
        "gru": [_train_student],
    }
    if config.teacher is not None:
        systems["teacher"] = [_plan_teacher, _train_teacher]
    rows = []
    for num_events, num_users, num_items in config.logs():
        with tempfile.TemporaryDirectory() as folder:
            make_log(
                LogConfig(
                    output_dir=Path(folder) / "log",
                    num_events=num_events,
                    num_users=num_users,
                    num_items=num_items,
                    seed=config.seed,
                )
            )
            for system, measures in systems.items():
                logger.info("%s events, %s items: %s", f"{num_events:,}", f"{num_items:,}", system)
                row = {"num_items": num_items, "num_events": num_events, "system": system}
                for measure in measures:
                    # A new process, whose memory is its own.
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                        row |= pool.submit(measure, system, Path(folder), config).result()
                rows.append(row)
    return {"schema": SCHEMA, "environment": environment, "rows": rows}


def _prepare(system: str, folder: Path, config: ScalingConfig) -> dict[str, Any]:
    started = time.perf_counter()
    prepare(
        PrepareConfig(
            interactions=folder / "log" / "interactions",
            items=folder / "log" / "items.parquet",
            output_dir=folder / "data",
        )
    )
    return {"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}


def _train_student(system: Arch, folder: Path, config: ScalingConfig) -> dict[str, Any]:
    set_up_cpu(config.num_threads, num_processes=1)
    dataset = load_dataset(folder / "data")
    flags = scheduled(DistillConfig(seed=config.seed), dataset)
    components = np.random.default_rng(config.seed).standard_normal(
        (dataset.num_items + 1, NUM_COMPONENTS), dtype=np.float32
    )
    components[PAD] = 0
    student = new_student(system, flags, dataset, components.astype(np.float16))
    loss = make_loss(flags, dataset, None)
    batches = TimedBatches(dataset, flags.max_len, flags.batch_size, flags.seed)
    return _train(student, loss, batches, folder, config)


def _teacher_flags(dataset: SequenceDataset, config: ScalingConfig) -> "FinetuneConfig":
    from teacher.base import resolve_model
    from teacher.finetune import FinetuneConfig

    return FinetuneConfig(
        model=str(resolve_model(str(config.teacher))),
        num_layers=config.num_layers,
        batch_size=teacher_schedule(dataset, FinetuneConfig.max_len).batch_size,
        num_epochs=1,
        refit_share=0.0,
        seed=config.seed,
    )


def _plan_teacher(system: str, folder: Path, config: ScalingConfig) -> dict[str, Any]:
    from teacher.finetune import work_of
    from teacher.plan import make_plan

    set_up_cpu(config.num_threads, num_processes=1)
    dataset = load_dataset(folder / "data")
    flags = _teacher_flags(dataset, config)
    plan = make_plan(dataset, work_of(flags, num_processes=1), torch.device("cpu"))
    batches = TrainingBatches(
        dataset, flags.max_len, flags.batch_size, flags.seed, stride=flags.max_len
    )
    return {
        "planned_mib": plan.peak_bytes / 2**20,
        "planned_steps_per_s": batches.steps_per_epoch() / plan.seconds["training"],
    }


def _train_teacher(system: str, folder: Path, config: ScalingConfig) -> dict[str, Any]:
    from teacher.base import load_base
    from teacher.finetune import work_of
    from teacher.model import item_mask, next_item_loss
    from teacher.plan import teacher_on

    set_up_cpu(config.num_threads, num_processes=1)
    dataset = load_dataset(folder / "data")
    flags = _teacher_flags(dataset, config)
    layers = flags.num_layers or None
    base = load_base(Path(flags.model), bits=flags.bits, num_layers=layers, device="cpu")
    torch.manual_seed(config.seed)
    untrained = item_mask(dataset.untrained_items, dataset.num_items)
    teacher = teacher_on(base, dataset.num_items, untrained, work_of(flags, num_processes=1))
    teacher.item_table.components[1:].normal_()
    batches = TimedBatches(
        dataset, flags.max_len, flags.batch_size, flags.seed, stride=flags.max_len
    )
    return _train(teacher, next_item_loss, batches, folder, config)


def _train(
    model: nn.Module,
    loss: LossFunction,
    batches: TimedBatches,
    folder: Path,
    config: ScalingConfig,
) -> dict[str, Any]:
    """Train for some steps and validate, as `fit` does it; return times and memory."""
    batches = dataclasses.replace(batches, num_batches=NUM_WARM_UP + config.num_steps + 1, clock=[])
    known = _few_validated(batches.dataset, config.num_validated)
    validation_s = 0.0

    def validate(trained: Any) -> float:
        nonlocal validation_s
        started = time.perf_counter()
        model = (
            fold(trained, known.untrained_items, 0.0) if isinstance(trained, Student) else trained
        )
        value = validation_ndcg(
            model, known, max_len=batches.max_len, batch_size=batches.batch_size
        )
        validation_s = time.perf_counter() - started
        return value

    with tempfile.TemporaryDirectory(dir=folder) as checkpoint:
        fit(
            model,
            loss,
            batches,
            validate,
            FitConfig(num_epochs=1, learning_rate=1e-3, seed=config.seed),
            accelerator=Accelerator(cpu=True),
            checkpoint_dir=Path(checkpoint) / "state",
            recipe={},
            label="training",
        )
    timed = np.array(batches.clock)[NUM_WARM_UP:]
    seconds, cpu_seconds, _ = timed[-1] - timed[0]
    num_targets = timed[:-1, 2].sum()
    return {
        "batch_size": batches.batch_size,
        "steps_per_s": config.num_steps / seconds,
        "targets_per_s": num_targets / seconds,
        "targets_per_cpu_s": num_targets / cpu_seconds,
        "validated_users": len(known.eval_targets("valid").users),
        "validation_s": validation_s,
        "peak_mib": peak_mib(),
    }


def _few_validated(dataset: SequenceDataset, num_users: int) -> SequenceDataset:
    """Return the set with so many validation targets."""
    split = dataset.split.copy()
    with_target = np.flatnonzero(split[:, 1] >= 0)
    split[np.random.default_rng(0).permutation(with_target)[num_users:], 1] = -1
    return dataclasses.replace(dataset, split=split)


def _gib(mib: float | None) -> str:
    return "-" if mib is None else f"{mib / 1024:.2f}"


def format_scaling(results: dict[str, Any]) -> str:
    """Return the results as a text table that ends in a newline, with its conditions below."""
    rows = [
        [
            f"{row['num_events'] / 1e6:g}",
            f"{row['num_items']:,}",
            row["system"],
            f"{row['seconds']:.1f}" if "seconds" in row else "",
            row.get("batch_size", ""),
            f"{row['steps_per_s']:.2f}" if "steps_per_s" in row else "",
            *(
                f"{row[name]:,.0f}" if name in row else ""
                for name in ("targets_per_s", "targets_per_cpu_s")
            ),
            f"{row['validated_users'] / row['validation_s']:.0f}" if "validation_s" in row else "",
            _gib(row["peak_mib"]),
        ]
        for row in results["rows"]
    ]
    headers = ["M events", "items", "system", "seconds", "batch", "steps/s", "targets/s"]
    headers += ["targets/CPU s", "validated users/s", "peak GiB"]
    machine = results["environment"]
    planned = [
        f"{row['system']}, {row['num_items']:,} items: --dry-run says "
        f"{row['planned_mib'] / 1024:.2f} GiB and {row['planned_steps_per_s']:.2f} steps/s; it "
        f"took {_gib(row['peak_mib'])} GiB and made {row['steps_per_s']:.2f} steps/s.\n"
        for row in results["rows"]
        if "planned_mib" in row
    ]
    return (
        tabulate(rows, headers=headers, disable_numparse=True, stralign="right")
        + f"\n\nInvented logs; {machine['num_threads']} thread(s), {machine['cpu']}.\n"
        + "".join(planned)
        + busy_note(machine)
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure as the command line asks."""
    config = parse_flags(ScalingConfig, (__doc__ or "").partition("\n")[0], argv)
    with watch_others() as others:
        results = {**measure_scaling(config), "config": to_json(config)}
    results["environment"] |= others
    write_json(config.output_dir / "scaling.json", results)
    sys.stdout.write(format_scaling(results))


if __name__ == "__main__":
    run_main(main)
