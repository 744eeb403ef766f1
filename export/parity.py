"""Whether two forms of the same student answer alike.

Shape letters: B users, E excluded, I items, K answers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seqrec.errors import ModelError
from seqrec.histories import PAD

import numpy as np
from numpy.typing import NDArray

from export.contract import EXCLUDED, ITEMS, OUTPUT_NAMES, K
from export.recommender import FloatArray, IntArray, Recommender

if TYPE_CHECKING:
    import onnxruntime as ort

TOLERANCE = 1e-4  # by which a score may differ between two forms
NUM_COMPARED = 64  # histories


def ask(
    session: "ort.InferenceSession", items: IntArray, excluded: IntArray, k: int
) -> tuple[IntArray, FloatArray]:
    """Return a graph's top items and scores, (B, K) each, for items (B, T) and excluded (B, E)."""
    top_items, top_scores = session.run(
        OUTPUT_NAMES, {ITEMS: items, EXCLUDED: excluded, K: np.array([k])}
    )
    return top_items, top_scores


def all_scores(
    session: "ort.InferenceSession", items: IntArray, excluded: IntArray, num_items: int
) -> FloatArray:
    """Return a graph's scores of all items, (B, I + 1); -inf: PAD, or excluded."""
    top_items, top_scores = ask(session, items, excluded, num_items)
    scores = np.full((len(items), num_items + 1), -np.inf, dtype=np.float32)
    np.put_along_axis(scores, top_items, top_scores, axis=1)
    return scores


def require_same(
    top_items: IntArray,
    top_scores: FloatArray,
    expected: FloatArray,
    complaint: str,
    tolerance: float = TOLERANCE,
) -> float:
    """Check that lists of items follow from the scores of all items.

    Items whose scores tie within the tolerance may change places: it is enough that the expected
    score of each item is the one of its rank, and that no item is listed twice.

    Args:
        top_items: (B, K).
        top_scores: (B, K), -inf where there is no answer.
        expected: (B, I + 1), -inf where an item is left out.
        complaint: what the message says first, without a full stop.
        tolerance: by which scores may differ.

    Returns:
        The largest difference of scores.

    Raises:
        ModelError: the lists are others.
    """
    best = -np.sort(-expected, axis=1)[:, : top_items.shape[1]]
    listed = np.take_along_axis(expected, top_items, axis=1)
    there = np.isfinite(best)
    distinct = all(
        len(np.unique(items[given])) == given.sum()
        for items, given in zip(top_items, there, strict=True)
    )
    close = [np.allclose(scores, best, rtol=0, atol=tolerance) for scores in (top_scores, listed)]
    both = there & np.isfinite(top_scores)
    difference = float(np.abs(top_scores[both] - best[both]).max(initial=0.0))
    if not (distinct and all(close)):
        raise ModelError(
            f"{complaint}: scores differ by up to {difference:.2g}, {tolerance:g} is allowed. "
            "Nothing was written"
        )
    return difference


def require_same_answers(
    session: "ort.InferenceSession",
    original: Recommender,
    complaint: str,
    *,
    num_new: int = 0,
    tolerance: float = TOLERANCE,
) -> None:
    """Check that a graph scores all items as the recommender does that it was made from.

    Both are asked random histories of 1 to `max_len` items, three of which are excluded.

    Args:
        session: the graph.
        original: whose answers are expected.
        complaint: what the message says first, without a full stop.
        num_new: how many items the graph knows besides, which have the next numbers.
        tolerance: by which scores may differ.

    Raises:
        ModelError: the graph answers otherwise.
    """
    rng, num_items = np.random.default_rng(0), len(original.item_ids)
    for _ in range(NUM_COMPARED):
        items = rng.integers(1, num_items + 1, (1, rng.integers(1, original.max_len + 1)))
        expected = all_scores(original.session, items, items[:, :3], num_items)
        scores = all_scores(session, items, items[:, :3], num_items + num_new)[:, : num_items + 1]
        if not np.allclose(scores, expected, rtol=0, atol=tolerance):
            raise ModelError(
                f"{complaint}: scores differ by more than {tolerance:g}. Nothing was written"
            )


def best_items(expected: FloatArray, k: int) -> list[IntArray]:
    """Return each user's K best items, fewer where fewer are left, by scores (B, I + 1)."""
    order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
    return [items[row[items] > -np.inf] for items, row in zip(order, expected, strict=True)]


def overlap(first: Sequence[Any] | NDArray[Any], second: Sequence[Any] | NDArray[Any]) -> float:
    """Return the fraction of the longer list's items that both lists hold; two empty ones agree: 1.

    PAD is no item: a list may end in it where fewer items are left.

    >>> overlap(np.array([5, 3, PAD, PAD]), np.array([3, 7, PAD, PAD]))
    0.5
    """
    items = [set(np.asarray(listed).tolist()) - {PAD} for listed in (first, second)]
    longest = max(map(len, items))
    return len(items[0] & items[1]) / longest if longest else 1.0
