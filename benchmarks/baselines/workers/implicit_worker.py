"""Neighbours of items, through implicit's CosineRecommender: no model is trained at all.

What validation chooses is the number of neighbours: "epoch" n is the n-th that the settings name.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import serving
from implicit.nearest_neighbours import CosineRecommender
from scipy.sparse import csr_matrix
from serving import Exchange, IntArray

LIBRARIES = ("implicit", "numpy")
NEIGHBOURS = "neighbours.npz"
NUM_RANKED = 10


def as_matrix(sequences: list[Any], num_items: int) -> csr_matrix:
    """Return how often each user took each item, (U, I + 1); column 0 is empty."""
    rows = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    columns = np.concatenate(sequences).astype(np.int64)
    shape = (len(sequences), num_items + 1)
    return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)


def fit(exchange: Exchange, num_neighbours: int) -> CosineRecommender:
    """Find each item's neighbours."""
    model = CosineRecommender(K=num_neighbours, num_threads=1)
    model.fit(as_matrix(exchange.sequences, exchange.num_items), show_progress=False)
    return model


def recommend(model: CosineRecommender, taken: csr_matrix, left_out: IntArray, k: int) -> Any:
    """Ask for one user's items, without the numbers that are left out."""
    return model.recommend(0, taken, N=k, filter_already_liked_items=False, filter_items=left_out)


def ranks(model: CosineRecommender, exchange: Exchange) -> Iterator[float]:
    """Rank the validation targets as the headline protocol does; infinite: not in the list."""
    for user, target in exchange.valid:
        history = exchange.sequences[user]
        taken = as_matrix([history[-exchange.settings["max_len"] :]], exchange.num_items)
        left_out = history if exchange.exclude_seen else history[:0]
        items = recommend(model, taken, left_out, NUM_RANKED)[0][:NUM_RANKED]
        (index,) = np.nonzero(items == target)
        yield index[0] + 1 if len(index) else np.inf


def train(exchange: Exchange, output: Path, num_epochs: int) -> list[float]:
    """Fit; see `serving`."""
    choices = exchange.settings["neighbours"]
    values: list[float] = []
    if num_epochs:
        fit(exchange, choices[num_epochs - 1]).save(output / NEIGHBOURS)
        return values
    for num_neighbours in choices:
        model = fit(exchange, num_neighbours)
        value = serving.ndcg_at_10(list(ranks(model, exchange)))
        serving.note(values, value, partial(model.save, output / NEIGHBOURS))
    return values


class Recommender:
    """The table of neighbours."""

    precision = "fp64"

    def __init__(self, folder: Path, exchange: Exchange) -> None:
        self._model = CosineRecommender.load(folder / NEIGHBOURS)
        self._num_items = exchange.num_items
        self.max_len = exchange.settings["max_len"]
        self.num_parameters = int(self._model.similarity.nnz)
        self.size_bytes = (folder / NEIGHBOURS).stat().st_size

    def prepare(self, items: IntArray, excluded: IntArray, k: int) -> Any:
        """Return each user's row and what is to be left out."""
        return [
            (as_matrix([shown[shown > 0]], self._num_items), left_out[left_out > 0], k)
            for shown, left_out in zip(items, excluded, strict=True)
        ]

    def answer(self, prepared: Any) -> Any:
        """Let implicit answer, user by user: what is left out differs."""
        return [recommend(self._model, *request) for request in prepared]

    def unpack(self, answered: Any, k: int) -> Any:
        """Return item numbers and scores (B, K)."""
        items = np.zeros((len(answered), k), dtype=np.int64)
        scores = np.full((len(answered), k), -np.inf, dtype=np.float32)
        for row, (best, values) in enumerate(answered):
            count = min(len(best), k)
            items[row, :count], scores[row, :count] = best[:count], values[:count]
        return items, scores


def open_model(folder: Path, exchange: Exchange, mode: str) -> Recommender:
    """Open the table."""
    return Recommender(folder, exchange)


if __name__ == "__main__":
    serving.main(sys.modules[__name__])
