"""Histories of different lengths as one array. Needs numpy alone: clients use it.

Shape letters: B users, T history.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PAD = 0  # fills the left of a short history; never an item


def pad_left(
    histories: Sequence[Sequence[int] | NDArray[np.integer]], max_len: int | None = None
) -> NDArray[np.int64]:
    """Stack histories with their newest items at the right: int64 (B, T).

    T is the length of the longest, at most `max_len`, of which the newest items are kept.

    >>> pad_left([[5], [1, 2, 3]], max_len=2).tolist()
    [[0, 5], [2, 3]]
    """
    if max_len is not None:
        histories = [history[-max_len:] for history in histories]
    width = max(map(len, histories), default=0)
    padded = np.full((len(histories), width), PAD, dtype=np.int64)
    for row, history in zip(padded, histories, strict=True):
        row[width - len(history) :] = history
    return padded
