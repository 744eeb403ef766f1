"""Ensembles: the mean of several systems' log-probabilities over the catalogue.

What a student gains from being averaged with its teacher has to be set against what it gains from
being averaged with another student of its own kind. The teacher is asked once: its user states and
its item vectors are kept, and their products are its scores.
Shape letters: N targets, B of them at once, I items, D width of the teacher's item vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrec.data import IntArray, SequenceDataset
from seqrec.evaluation import Part, ScoreFunction, evaluation_batches, target_ranks
from seqrec.histories import pad_left
from seqrec.metrics import Evaluation, ndcg

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

History = NDArray[np.integer]
# Maps indices of targets (B,) and their whole histories to scores (B, I + 1).
Scorer = Callable[[IntArray, Sequence[History]], Tensor]


def log_probabilities(scores: Tensor) -> Tensor:
    """Normalise scores (B, I + 1) over items 1..I; column PAD, which is no item, becomes 0.

    >>> log_probabilities(torch.tensor([[9.0, 2.0, 2.0]])).exp().tolist()
    [[1.0, 0.5, 0.5]]
    """
    return torch.nn.functional.pad(scores[:, 1:].log_softmax(dim=1), (1, 0))


def average(scorers: Sequence[Scorer]) -> Scorer:
    """Return the ensemble whose scores are the mean of systems' log-probabilities."""

    def score(chosen: IntArray, histories: Sequence[History]) -> Tensor:
        total = log_probabilities(scorers[0](chosen, histories))
        for scorer in scorers[1:]:
            total = total + log_probabilities(scorer(chosen, histories))
        return total / len(scorers)

    return score


def model_scorer(model: ScoreFunction, max_len: int) -> Scorer:
    """Return a model as a `Scorer`; it is shown the newest `max_len` items of a history."""

    def score(chosen: IntArray, histories: Sequence[History]) -> Tensor:
        return model(torch.from_numpy(pad_left(histories, max_len))).float()

    return score


@dataclass(frozen=True)
class TeacherStates:
    """What the teacher's scores are the product of, float32 on the CPU."""

    states: dict[Part, Tensor]  # (N, D) for each part of the split
    item_vectors: dict[Part, Tensor]  # (I + 1, D); a refitted teacher's differ

    def scorer(self, part: Part) -> Scorer:
        """Return the teacher as a `Scorer` of a part's targets."""
        return lambda chosen, histories: (
            self.states[part][torch.from_numpy(chosen)] @ self.item_vectors[part].T
        )

    def save(self, file: Path) -> None:
        """Write the states into a safetensors file."""
        named = {"states": self.states, "item_vectors": self.item_vectors}
        tensors = {f"{p}.{name}": t for name, parts in named.items() for p, t in parts.items()}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)

    @classmethod
    def load(cls, file: Path) -> "TeacherStates":
        """Read what `save` wrote."""
        tensors = load_file(file)
        parts: tuple[Part, ...] = ("valid", "test")
        return cls(
            {part: tensors[f"{part}.states"] for part in parts},
            {part: tensors[f"{part}.item_vectors"] for part in parts},
        )


def rank_targets(
    score: Scorer, dataset: SequenceDataset, part: Part, batch_size: int = 256
) -> Evaluation:
    """Rank every target of a part among all items, as `seqrec.metrics.evaluate` does."""
    targets = dataset.eval_targets(part)
    excluding = np.empty(len(targets.users), dtype=np.int64)
    keeping = np.empty(len(targets.users), dtype=np.int64)
    with torch.inference_mode():
        for chosen, items, histories in evaluation_batches(dataset, targets, batch_size):
            scores, wanted = score(chosen, histories), torch.from_numpy(items)
            keeping[chosen] = target_ranks(scores, wanted).numpy()
            seen = torch.from_numpy(pad_left(histories))
            excluding[chosen] = target_ranks(scores, wanted, seen).numpy()
    return Evaluation(excluding, keeping)


def headline_ndcg(result: Evaluation, dataset: SequenceDataset) -> float:
    """Return NDCG@10 under the data set's headline protocol."""
    return float(ndcg(result.ranks(exclude_seen=dataset.exclude_seen), 10).mean())
