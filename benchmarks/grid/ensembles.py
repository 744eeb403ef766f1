"""Ensembles: the mean of several systems' log-probabilities over the catalogue.

What a student gains from being averaged with its teacher has to be set against what it gains from
being averaged with another student of its own kind. The teacher is asked once: its user states and
its item vectors are kept, and their products are its scores.
Shape letters: N targets, B of them at once, I items, D width of the teacher's item vectors.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from seqrec.data import IntArray, SequenceDataset
from seqrec.evaluation import ScoreFunction, evaluation_batches, target_ranks
from seqrec.histories import pad_left
from seqrec.metrics import Evaluation

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

History = NDArray[np.integer]
# Maps indices of test targets (B,) and their whole histories to scores (B, I + 1).
Scorer = Callable[[IntArray, Sequence[History]], Tensor]


def log_probabilities(scores: Tensor) -> Tensor:
    """Normalise scores (B, I + 1) over items 1..I; column PAD, which is no item, becomes 0.

    >>> log_probabilities(torch.tensor([[9.0, 2.0, 2.0]])).exp().tolist()
    [[1.0, 0.5, 0.5]]
    """
    return torch.nn.functional.pad(scores[:, 1:].log_softmax(dim=1), (1, 0))


def average(scorers: Sequence[Scorer]) -> Scorer:
    """Return the ensemble whose scores are the mean of systems' log-probabilities."""
    return lambda chosen, histories: torch.stack(
        [log_probabilities(scorer(chosen, histories)) for scorer in scorers]
    ).mean(dim=0)


def model_scorer(model: ScoreFunction, max_len: int) -> Scorer:
    """Return a model as a `Scorer`; it is shown the newest `max_len` items of a history."""
    return lambda _, histories: model(torch.from_numpy(pad_left(histories, max_len))).float()


def teacher_scorer(states: Tensor, item_vectors: Tensor) -> Scorer:
    """Return the teacher by its states (N, D) after all histories and item vectors (I + 1, D)."""
    return lambda chosen, _: states[torch.from_numpy(chosen)] @ item_vectors.T


def load_teacher_scorer(file: Path) -> Scorer:
    """Return the teacher whose `states` and `item_vectors` are in a safetensors file."""
    return teacher_scorer(**load_file(file))


@torch.inference_mode()
def rank_test_targets(score: Scorer, dataset: SequenceDataset, batch_size: int = 256) -> Evaluation:
    """Rank every test target among all items, as `seqrec.evaluation.evaluate` does."""
    targets = dataset.eval_targets("test")
    excluding, keeping = np.empty((2, len(targets.users)), dtype=np.int64)
    for chosen, items, histories in evaluation_batches(dataset, targets, batch_size):
        scores, wanted = score(chosen, histories), torch.from_numpy(items)
        keeping[chosen] = target_ranks(scores, wanted).numpy()
        seen = torch.from_numpy(pad_left(histories))
        excluding[chosen] = target_ranks(scores, wanted, seen).numpy()
    return Evaluation(excluding, keeping)
