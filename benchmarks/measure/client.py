"""The call that users make, beside the bare `session.run` on prepared arrays.

Shape letters: B users, T history, E excluded, K answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from seqrec.data import IntArray
from seqrec.histories import PAD

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.queries import Answer, Request
from benchmarks.measure.systems import OnnxSystem, time_call
from export.recommendations import Recommendation
from export.recommender import Recommender


class CallSystem(OnnxSystem):
    """An exported student asked through its client: lists of ids in, lists of items out."""

    def __init__(self, file: Path, config: dict[str, Any], num_threads: int) -> None:
        """Open a file's folder; `config` is its config.json."""
        super().__init__(file, config, num_threads)
        self.identity = replace(self.identity, variant="call")
        self._client = Recommender.from_pretrained(file.parent, num_threads)

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        top_items = np.full((len(items), int(k[0])), PAD, dtype=np.int64)
        top_scores = np.full(top_items.shape, -np.inf, dtype=np.float32)
        for row, answer in enumerate(self._call(Request(items, excluded, k))()):
            top_items[row, : len(answer)] = [self._client.numbers[one.item_id] for one in answer]
            top_scores[row, : len(answer)] = [one.score for one in answer]
        return top_items, top_scores

    def timed(self, requests: Sequence[Request]) -> NDArray[np.int64]:
        """Answer requests one after another; the clock starts when the lists of ids are there."""
        return np.array([time_call(self._call(request)) for request in requests]).reshape(-1, 2)

    def _call(self, request: Request) -> Callable[[], list[list[Recommendation]]]:
        """Return what asks the client and makes every item of its answers."""
        is_excluding = request.excluded.shape[1] > 0  # then it holds the whole histories
        ids = self._client.item_ids
        histories = [
            [ids[number - 1] for number in row[row != PAD].tolist()]
            for row in (request.excluded if is_excluding else request.items)
        ]
        k = int(request.k[0])
        if len(histories) == 1:
            ask = partial(self._client.recommend, histories[0], k, is_excluding)
            return lambda: [list(ask())]
        ask_all = partial(self._client.recommend_batch, histories, k, is_excluding)
        return lambda: [list(answer) for answer in ask_all()]
