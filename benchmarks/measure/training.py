"""How fast preparing and training are, and how much memory they take; for `benchmarks.scaling`."""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqrec.batching import Batch, TrainingBatches
from seqrec.data import SequenceDataset, load_dataset
from seqrec.evaluation import validation_ndcg
from seqrec.histories import PAD
from seqrec.item_table import NUM_COMPONENTS
from seqrec.prepare import PrepareConfig, prepare
from seqrec.training import FitConfig, LossFunction, fit, set_up_cpu

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from benchmarks.measure.flags import ScalingConfig
from benchmarks.measure.startup import peak_mib
from student.config import DistillConfig, scheduled
from student.model import Arch, Student
from student.training import fold, make_loss, new_student

if TYPE_CHECKING:
    from teacher.config import FullFinetuneConfig

NUM_WARM_UP = 5


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


def measure_prepare(folder: Path, config: ScalingConfig) -> dict[str, Any]:
    """Prepare the log of a folder."""
    started = time.perf_counter()
    prepare(
        PrepareConfig(
            interactions=folder / "log" / "interactions",
            items=folder / "log" / "items.parquet",
            output_dir=folder / "data",
        )
    )
    return {"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}


def _open_data(folder: Path, config: ScalingConfig) -> SequenceDataset:
    set_up_cpu(config.num_threads, num_processes=1)
    return load_dataset(folder / "data")


def train_student(arch: Arch, folder: Path, config: ScalingConfig) -> dict[str, Any]:
    """Train a student for some steps."""
    dataset = _open_data(folder, config)
    flags = scheduled(DistillConfig(arch=arch, seed=config.seed), dataset)
    components = np.random.default_rng(config.seed).standard_normal(
        (dataset.num_items + 1, NUM_COMPONENTS), dtype=np.float32
    )
    components[PAD] = 0
    student = new_student(arch, flags, dataset, components.astype(np.float16))
    loss = make_loss(flags, dataset, None)
    batches = TimedBatches(dataset, flags.max_len, flags.batch_size, flags.seed)
    return _train(student, loss, batches, folder, config)


def _teacher_flags(dataset: SequenceDataset, config: ScalingConfig) -> "FullFinetuneConfig":
    from teacher import tuning
    from teacher.base import resolve_model
    from teacher.config import FinetuneConfig

    assert config.teacher is not None
    flags = FinetuneConfig(
        model=str(resolve_model(config.teacher)),
        num_layers=config.num_layers,
        num_epochs=1,
        refit_share=0.0,
        seed=config.seed,
    )
    return tuning.scheduled(flags, dataset)


def plan_teacher(folder: Path, config: ScalingConfig) -> dict[str, Any]:
    """Return what `teacher/finetune.py --dry-run` plans."""
    from teacher.plan import make_plan

    dataset = _open_data(folder, config)
    flags = _teacher_flags(dataset, config)
    plan = make_plan(dataset, flags, torch.device("cpu"))
    batches = TrainingBatches(dataset, flags.max_len, flags.batch_size, 0, stride=flags.max_len)
    return {
        "planned_mib": plan.peak_bytes / 2**20,
        "planned_steps_per_s": batches.steps_per_epoch() / plan.seconds["training"],
    }


def train_teacher(folder: Path, config: ScalingConfig) -> dict[str, Any]:
    """Train a teacher for some steps."""
    from teacher.base import load_base
    from teacher.model import item_mask, new_teacher, next_item_loss

    dataset = _open_data(folder, config)
    flags = _teacher_flags(dataset, config)
    layers = flags.num_layers or None
    base = load_base(Path(flags.model), bits=flags.bits, num_layers=layers, device="cpu")
    torch.manual_seed(config.seed)
    untrained = item_mask(dataset.untrained_items, dataset.num_items)
    teacher = new_teacher(base, untrained, flags)
    teacher.item_table.components[1:].normal_()
    max_len = flags.max_len
    batches = TimedBatches(dataset, max_len, flags.batch_size, flags.seed, stride=max_len)
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
    split = batches.dataset.split.copy()
    with_target = np.flatnonzero(split[:, 1] >= 0)
    split[np.random.default_rng(0).permutation(with_target)[config.num_validated :], 1] = -1
    known = dataclasses.replace(batches.dataset, split=split)  # with so many validation targets
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
