"""Ensembles: the mean of several systems' log-probabilities over the catalogue.

What a student gains from being averaged with its teacher has to be set against what it gains from
being averaged with another student of its own kind.
Shape letters: N test targets, B users, T history, I items, D width of the teacher's item vectors.
"""

from collections.abc import Sequence
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.evaluation import ScoreFunction
from seqrec.histories import PAD

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.measure.queries import histories_before_test


def log_probabilities(scores: Tensor) -> Tensor:
    """Normalise scores (B, I + 1) over items 1..I; column PAD, which is no item, becomes 0.

    >>> log_probabilities(torch.tensor([[9.0, 2.0, 2.0]])).exp().tolist()
    [[1.0, 0.5, 0.5]]
    """
    return torch.nn.functional.pad(scores[:, 1:].log_softmax(dim=1), (1, 0))


def average(models: Sequence[tuple[ScoreFunction, int]]) -> ScoreFunction:
    """Return the mean of models' log-probabilities; each is shown so many of the newest items."""
    return lambda items: torch.stack(
        [log_probabilities(model(items[:, -max_len:]).float()) for model, max_len in models]
    ).mean(dim=0)


def load_teacher(file: Path, dataset: SequenceDataset, max_len: int) -> ScoreFunction:
    """Return the teacher as it answered before every test target, without its language model.

    Args:
        file: safetensors with `states` (N, D) after these histories and `item_vectors` (I + 1, D).
        dataset: whose test targets.
        max_len: how many of the newest items the teacher was shown.
    """
    tensors = load_file(file)
    rows = {
        tuple(history[-max_len:].tolist()): row
        for row, history in enumerate(histories_before_test(dataset))
    }

    def score(items: Tensor) -> Tensor:
        shown = [tuple(item for item in row if item != PAD) for row in items.tolist()]
        return tensors["states"][[rows[history] for history in shown]] @ tensors["item_vectors"].T

    return score
