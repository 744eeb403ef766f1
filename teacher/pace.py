"""How long a fine-tuning takes, by teachers of one layer and of two that are timed here.

They are of the language model's shape and of random weights, learn one batch of the data and answer
it. What the second layer takes is what each further one will take. The optimizer is not in it.
"""

import copy
import itertools
import tempfile
from pathlib import Path
from typing import NamedTuple

from seqrec.batching import (
    BATCHES_PER_BUCKET,
    Batch,
    TrainingBatches,
    bucketed_order,
    cut_windows,
)
from seqrec.data import SequenceDataset
from seqrec.schedule import refit_epochs
from seqrec.texts import item_texts

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.benchmark import Timer
from transformers import PretrainedConfig

from teacher.base import load_base
from teacher.config import FullFinetuneConfig
from teacher.model import item_mask, new_teacher, next_item_loss
from teacher.shape import random_base

SECONDS_OF_MEASURING = 0.5
CHARACTERS_PER_TOKEN = 4  # of titles, about


class Pace(NamedTuple):
    """Seconds that one position takes: an item of a history, or a token of a text."""

    training: float  # forward and back
    answering: float  # forward, and all items' scores for each history
    reading: float  # forward, through the layers alone


def stage_seconds(
    config: PretrainedConfig,
    num_layers: int,
    dataset: SequenceDataset,
    flags: FullFinetuneConfig,
    device: torch.device,
    num_processes: int,
) -> dict[str, float]:
    """Return the seconds that each stage takes, its positions times the pace that is measured."""
    pace = measure_pace(config, num_layers, dataset, flags, device, num_processes)
    windows = cut_windows(dataset, flags.max_len, flags.max_len)
    lengths = windows.ends - windows.starts
    batches = bucketed_order(lengths, flags.batch_size, np.random.default_rng(0))
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    answered = cut_windows(dataset, flags.max_len, whole=True)
    histories = int(np.minimum(np.diff(dataset.offsets), flags.max_len).sum())
    further = refit_epochs(dataset, flags.refit_share, flags.num_epochs)
    characters = sum(len(text) for text in item_texts(dataset.items))
    answers = int((answered.ends - answered.starts).sum()) * (2 if further else 1)
    evaluated = histories * (flags.num_epochs + 1)
    return {
        "reading item texts": characters / CHARACTERS_PER_TOKEN * pace.reading,
        "training": padded * (flags.num_epochs + further) * pace.training / num_processes,
        "validation and test": evaluated * pace.answering / num_processes,
        "answers for the students": answers * pace.answering / num_processes,
    }


def measure_pace(
    config: PretrainedConfig,
    num_layers: int,
    dataset: SequenceDataset,
    flags: FullFinetuneConfig,
    device: torch.device,
    num_processes: int,
) -> Pace:
    """Time a part of a step, and answers to it, with one layer and with two."""
    # Windows of this length are what `teacher.tuning` trains on.
    batches = TrainingBatches(
        dataset, flags.max_len, flags.batch_size, seed=0, stride=flags.max_len
    )
    some = list(itertools.islice(batches.epoch(0)[1], BATCHES_PER_BUCKET))
    mean = sum(batch.items.numel() for batch in some) / len(some)
    usual = min(some, key=lambda batch: abs(batch.items.numel() - mean))
    batch, _ = usual.to(device).share(0, num_processes * flags.gradient_accumulation)
    untrained = item_mask(dataset.untrained_items, dataset.num_items)
    small = copy.deepcopy(config)
    small.vocab_size, small.pad_token_id = 1, None  # no word is read
    one = layer = _seconds_per_position(small, 1, untrained, flags, batch, device)
    if num_layers > 1:
        two = _seconds_per_position(small, 2, untrained, flags, batch, device)
        layer = np.where(two > one, two - one, two / 2)  # half of both if it is less than the noise
    training, answering = one + (num_layers - 1) * layer
    return Pace(training, answering, reading=num_layers * layer[1])


def _seconds_per_position(
    config: PretrainedConfig,
    num_layers: int,
    untrained: Tensor,
    flags: FullFinetuneConfig,
    batch: Batch,
    device: torch.device,
) -> NDArray[np.float64]:
    """Return the time to learn a batch, and to answer it, over its positions; (2,)."""
    with tempfile.TemporaryDirectory() as folder:
        random_base(config, num_layers, torch.bfloat16, words=True).save_pretrained(folder)
        base = load_base(Path(folder), bits=flags.bits, num_layers=num_layers, device=device)
    teacher = new_teacher(base, untrained, flags).to(device)
    if flags.gradient_checkpointing:
        teacher.base.gradient_checkpointing_enable({"use_reentrant": False})

    def learn() -> None:
        next_item_loss(teacher.train(), batch).backward()
        teacher.zero_grad()

    @torch.no_grad()
    def answer() -> None:
        teacher.eval()(batch.items)

    seconds = [
        Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
        .blocked_autorange(min_run_time=SECONDS_OF_MEASURING)
        .median
        for run in (learn, answer)
    ]
    return np.array(seconds) / batch.items.numel()
