"""How long a fine-tuning takes, by teachers of one layer and of two that are timed here."""

import copy
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from seqrec.batching import BATCHES_PER_BUCKET, Batch, TrainingBatches
from seqrec.data import SequenceDataset

import torch
from torch import Tensor
from transformers import PretrainedConfig

from teacher.base import load_base
from teacher.model import item_mask, next_item_loss
from teacher.shape import random_base
from teacher.work import Work, teacher_on

SECONDS_OF_MEASURING = 0.5


@dataclass(frozen=True)
class Pace:
    """Seconds that one position takes: an item of a history, or a token of a text."""

    training: float  # forward and back
    answering: float  # forward, and all items' scores for each history
    reading: float  # forward, through the layers alone


def measure_pace(
    config: PretrainedConfig,
    num_layers: int,
    dataset: SequenceDataset,
    work: Work,
    device: torch.device,
) -> Pace:
    """Time a part of a step, and answers to it, with one layer and with two."""
    batches = TrainingBatches(dataset, work.max_len, work.batch_size, seed=0, stride=work.max_len)
    some = list(itertools.islice(batches.epoch(0)[1], BATCHES_PER_BUCKET))
    mean = sum(batch.items.numel() for batch in some) / len(some)
    usual = min(some, key=lambda batch: abs(batch.items.numel() - mean))
    batch, _ = usual.to(device).share(0, work.num_parts)
    untrained = item_mask(dataset.untrained_items, dataset.num_items)
    small = copy.deepcopy(config)
    small.vocab_size, small.pad_token_id = 1, None  # no word is read
    num_positions = batch.items.numel()
    training, answering = _seconds_of(small, 1, untrained, work, batch, device)
    if num_layers == 1:
        return Pace(*(seconds / num_positions for seconds in (training, answering, answering)))
    training_2, answering_2 = _seconds_of(small, 2, untrained, work, batch, device)
    learning, layer = _second(training, training_2), _second(answering, answering_2)
    return Pace(
        training=(training + (num_layers - 1) * learning) / num_positions,
        answering=(answering + (num_layers - 1) * layer) / num_positions,
        reading=num_layers * layer / num_positions,
    )


def _second(one: float, two: float) -> float:
    """Return a second layer's time; half of both where it is less than the noise."""
    return two - one if two > one else two / 2


def _seconds_of(
    config: PretrainedConfig,
    num_layers: int,
    untrained: Tensor,
    work: Work,
    batch: Batch,
    device: torch.device,
) -> tuple[float, float]:
    """Return the time to learn a batch, and to answer it."""
    with tempfile.TemporaryDirectory() as folder:
        random_base(config, num_layers, torch.bfloat16, words=True).save_pretrained(folder)
        base = load_base(Path(folder), bits=work.bits, num_layers=num_layers, device=device)
    teacher = teacher_on(base, len(untrained) - 1, untrained, work).to(device)
    if work.gradient_checkpointing:
        teacher.base.gradient_checkpointing_enable({"use_reentrant": False})

    def learn() -> None:
        next_item_loss(teacher, batch).backward()
        teacher.zero_grad()

    @torch.no_grad()
    def answer() -> None:
        teacher(batch.items)

    teacher.train()
    training = _least_seconds(learn, device)
    teacher.eval()
    return training, _least_seconds(answer, device)


def _least_seconds(run: Callable[[], None], device: torch.device) -> float:
    """Return the shortest of some runs, after one that warms up."""
    times: list[float] = []
    while len(times) < 4 or sum(times) < SECONDS_OF_MEASURING:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
