"""One recommender shared by many threads gives each the answers that it gives to one alone.

`SEQREC_SOAK_S` says for how many seconds; `make torture` sets ten minutes.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seqrec.data import SequenceDataset

import numpy as np
import psutil
import pytest

from export.recommender import Recommendations, Recommender
from tests.export.answers import export_random

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("SEQREC_SOAK_S", "3"))
NUM_THREADS, NUM_DIFFERENT = 32, 500
MAX_GROWTH = 1.1  # of memory, after the first tenth of the time
Ask = Callable[[], Recommendations]


def make_ask(recommender: Recommender, rng: np.random.Generator) -> Ask:
    """Return a request, ready to be asked: any history, an unknown id in it, k, candidates."""

    def draw(size: int) -> list[str]:
        return rng.choice(recommender.item_ids, size).tolist()

    history = draw(int(rng.integers(1, 2 * recommender.max_len)))
    history.insert(int(rng.integers(len(history) + 1)), "an id that no catalogue has")
    k, exclude_seen = int(rng.integers(1, 50)), bool(rng.random() < 0.8)
    candidates = draw(100) if rng.random() < 0.2 else None
    return lambda: recommender.recommend(history, k, exclude_seen, candidates)


def test_threads_that_share_a_recommender_get_the_answers_of_one_alone(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    folder = export_random(tmp_path, tiny_dataset, "transformer", "int8", hidden_dim=64, max_len=50)
    recommender = Recommender.from_pretrained(folder)
    rng = np.random.default_rng(0)
    asks = [make_ask(recommender, rng) for _ in range(NUM_DIFFERENT)]
    expected = [ask() for ask in asks]
    end = time.monotonic() + SECONDS

    def ask_on(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(NUM_DIFFERENT)
        while time.monotonic() < end:
            for number in order:
                assert asks[number]() == expected[number]

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        threads = pool.map(ask_on, range(NUM_THREADS))
        time.sleep(SECONDS / 10)
        at_first = psutil.Process().memory_info().rss
        assert list(threads) == NUM_THREADS * [None]
    assert psutil.Process().memory_info().rss < MAX_GROWTH * at_first
