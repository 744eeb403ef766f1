"""Whether a file answers as PyTorch does."""

from pathlib import Path

from seqrec.data import PAD
from seqrec.errors import ModelError

import numpy as np
import torch

from export.nodes import TOLERANCE
from export.recommender import OUTPUT_NAMES, open_session
from student.model import Student


def check_parity(student: Student, path: Path, *, seed: int = 0) -> None:
    """Compare a file's answers with PyTorch's on random histories.

    Batches of 1 to 33 users mix all lengths from 1 to max_len; each is asked with no exclusions,
    with some, and with almost all items excluded.

    Args:
        student: what the file was made from.
        path: an fp32 file from `write_graph`.
        seed: of the random histories.

    Raises:
        ModelError: an answer differs: a score by more than 1e-4, or an item other than by a tie.
    """
    session = open_session(path, num_threads=1)
    rng = np.random.default_rng(seed)
    num_items, max_len = student.config.num_items, student.config.max_len
    for num_users in (1, 2, 33):
        for width in {1, 2, max(max_len // 2, 1), max_len}:
            lengths = rng.integers(1, width + 1, num_users)
            lengths[0] = width
            items = rng.integers(1, num_items + 1, (num_users, width))
            items[np.arange(width) < width - lengths[:, None]] = PAD
            for num_excluded in (0, 3, num_items - 1):
                excluded = rng.integers(0, num_items + 1, (num_users, num_excluded))
                k = np.array([min(10, num_items)])
                answer = session.run(OUTPUT_NAMES, {"items": items, "excluded": excluded, "k": k})
                with torch.inference_mode():
                    expected = student(torch.from_numpy(items)).numpy()
                np.put_along_axis(expected, excluded, -np.inf, axis=1)
                expected[:, PAD] = -np.inf
                _compare(
                    answer[0],
                    answer[1],
                    expected,
                    f"{num_users} users, {width} items, {num_excluded} excluded",
                )


def _compare(
    top_items: np.ndarray, top_scores: np.ndarray, expected: np.ndarray, where: str
) -> None:
    """Raise a `ModelError` unless a (B, K) answer follows from the scores (B, I + 1)."""
    k = top_items.shape[1]
    best = -np.sort(-expected, axis=1)[:, :k]
    # Items that tie within the tolerance may stand in another order: it is enough that each has,
    # in PyTorch, the score that belongs to its place, and that none is there twice.
    own = np.take_along_axis(expected, top_items, axis=1)
    distinct = all(len(set(row)) == k for row in top_items.tolist())
    close = [np.allclose(scores, best, rtol=0, atol=TOLERANCE) for scores in (top_scores, own)]
    if not (distinct and all(close)):
        finite = np.isfinite(best) & np.isfinite(top_scores)
        worst = np.abs(top_scores - best, where=finite, out=np.zeros_like(best)).max()
        raise ModelError(
            f"the ONNX graph does not answer as PyTorch does ({where}): scores differ by up to "
            f"{worst:.2g}, {TOLERANCE:g} is allowed. Nothing was written"
        )
