"""What systems are asked, and what an answer has to be.

Shape letters: B users, T history, E excluded, K answers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import ModelError
from seqrec.histories import PAD, pad_left

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Answer = tuple[IntArray, FloatArray]
NOTHING = np.zeros((1, 0), dtype=np.int64)  # excluded of one user


@dataclass(frozen=True)
class Request:
    """One call's arguments, prepared before the clock starts."""

    items: IntArray  # (B, T), left-padded histories
    excluded: IntArray  # (B, E), not to be recommended, PAD where there are fewer
    k: IntArray  # (1,), how many items to return


def make_requests(
    dataset: SequenceDataset,
    histories: Sequence[NDArray[np.integer]],
    *,
    max_len: int,
    k: int,
    exclude_seen: bool,
    batch_size: int = 1,
) -> list[Request]:
    """Prepare requests from whole histories, in order; a last, smaller batch included.

    No more than `k` items are asked for, nor than the data set has.
    """
    requests = []
    for start in range(0, len(histories), batch_size):
        users = histories[start : start + batch_size]
        excluded = pad_left(users) if exclude_seen else np.zeros((len(users), 0), dtype=np.int64)
        wanted = np.array([min(k, dataset.num_items)])
        requests.append(Request(pad_left(users, max_len), excluded, wanted))
    return requests


def histories_before_test(dataset: SequenceDataset) -> list[NDArray[np.integer]]:
    """Return what precedes each test target, in the order of `eval_targets("test")`."""
    targets = dataset.eval_targets("test")
    pairs = zip(targets.users, targets.positions, strict=True)
    return [dataset.sequence(user)[:position] for user, position in pairs]


def top_k(scores: FloatArray, excluded: IntArray, k: int) -> Answer:
    """Return the best items of scores (B, I + 1), which it changes; ties by the lower item number.

    >>> items, _ = top_k(np.array([[9.0, 1.0, 3.0, 3.0]], np.float32), np.array([[1]]), k=2)
    >>> items.tolist()
    [[2, 3]]
    """
    np.put_along_axis(scores, excluded, -np.inf, axis=1)
    scores[:, PAD] = -np.inf
    least = np.partition(scores, -k, axis=1)[:, -k]
    top = np.empty((len(scores), k), dtype=np.int64)
    for row, values in enumerate(scores):
        able = np.flatnonzero(values >= least[row])  # more than k where scores are equal
        top[row] = able[np.argsort(-values[able], kind="stable")[:k]]
    return top, np.take_along_axis(scores, top, axis=1)


def check_answer(name: str, answer: object, request: Request, num_items: int) -> IntArray:
    """Return the items of a system's answer, PAD in the places it left without one.

    Raises:
        ModelError: the answer has another shape or type than promised, a score is NaN or rises
            along a list, or an item is out of range, excluded, or in one list twice.
    """
    try:
        top_items, top_scores = map(np.asarray, answer)  # type: ignore[call-overload]
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} returned no two arrays, items and scores ({error})") from error
    shape = (len(request.items), int(request.k[0]))
    for what, array, kind, kinds in (
        ("items", top_items, np.integer, "integers"),
        ("scores", top_scores, np.number, "numbers"),
    ):
        if array.shape != shape:
            raise ModelError(f"{name} returned {what} of shape {array.shape}, expected {shape}")
        if not np.issubdtype(array.dtype, kind):
            raise ModelError(f"{name} returned {what} of type {array.dtype}, expected {kinds}")
    if np.isnan(top_scores).any():
        raise ModelError(f"{name} returned a score that is NaN")
    if (top_scores[:, 1:] > top_scores[:, :-1]).any():
        raise ModelError(f"{name} returned a list that is not sorted by score, best first")
    given = top_items[top_scores > -math.inf]
    wrong = given[(given < 1) | (given > num_items)]
    if len(wrong):
        raise ModelError(f"{name} returned item {wrong[0]}, expected 1 to {num_items}")
    answered = np.where(top_scores > -math.inf, top_items, PAD)
    for row, left_out in zip(answered, request.excluded, strict=True):
        real = row[row != PAD]
        if len(np.unique(real)) < len(real):
            raise ModelError(f"{name} returned an item twice in one list")
        if np.isin(real, left_out).any():
            raise ModelError(f"{name} returned an item that was to be left out")
    return answered
