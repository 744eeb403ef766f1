"""Which events are trained on, validate and test; and items held out of training as cold ones.

Shape letters: U users, E events, C cold items.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

EVENTS_AT_ONCE = 2**22  # that anything is worked out for, lest all at once take several times E

IntArray = NDArray[np.int64]
Split = Literal["leave-one-out", "temporal"]


@dataclass(frozen=True)
class UserPart:
    """Some users who follow one another, and all of their events: E' of E."""

    rows: slice  # of the users
    events: slice
    offsets: IntArray  # the users', from 0

    @property
    def users(self) -> IntArray:
        """Whose each event is, int64 (E',), from 0."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def positions(self) -> IntArray:
        """Where in its user's sequence each event stands, int64 (E',)."""
        return np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], np.diff(self.offsets))


def user_parts(offsets: IntArray) -> Iterator[UserPart]:
    """Cut the users into parts of at most `EVENTS_AT_ONCE` events, or of one user."""
    first = 0
    while first < len(offsets) - 1:
        limit = offsets[first] + EVENTS_AT_ONCE
        last = max(int(np.searchsorted(offsets, limit, side="right")) - 1, first + 1)
        events = slice(int(offsets[first]), int(offsets[last]))
        yield UserPart(slice(first, last), events, offsets[first : last + 1] - offsets[first])
        first = last


def leave_one_out(lengths: IntArray) -> IntArray:
    """Split by position: the last event is the test target, the one before it validates.

    Users with fewer than three events are trained on and never evaluated.

    Args:
        lengths: events per user, int64 (U,).

    Returns:
        int64 (U, 3), as `split.npy`.
    """
    enough = lengths >= 3
    return np.stack(
        [
            np.where(enough, lengths - 2, lengths),
            np.where(enough, lengths - 2, -1),
            np.where(enough, lengths - 1, -1),
        ],
        axis=1,
    )


def temporal(
    timestamps: IntArray, offsets: IntArray, valid_share: float, test_share: float
) -> IntArray:
    """Split at two moments that are the same for all users, so that no one's future is trained on.

    The moments are chosen so that about `valid_share` and `test_share` of all events lie between
    and after them. A user's target in a period is the first event in it; the history is all that
    lies before the period, so one recommendation made at the moment itself is judged. Users
    without history before a period have no target in it.

    Args:
        timestamps: int64 (E,), ascending within each user.
        offsets: int64 (U + 1,).
        valid_share: share of events between the moments.
        test_share: share of events after the second moment.

    Returns:
        int64 (U, 3), as `split.npy`.
    """
    valid_start, test_start = np.quantile(
        timestamps, [1 - valid_share - test_share, 1 - test_share], method="higher"
    )
    lengths = np.diff(offsets)
    before_valid, before_test = np.empty_like(lengths), np.empty_like(lengths)
    for part in user_parts(offsets):
        times, num_users = timestamps[part.events], len(part.offsets) - 1
        for before, moment in ((before_valid, valid_start), (before_test, test_start)):
            before[part.rows] = np.bincount(part.users[times < moment], minlength=num_users)
    return np.stack(
        [
            before_valid,
            np.where((before_valid > 0) & (before_valid < before_test), before_valid, -1),
            np.where((before_test > 0) & (before_test < lengths), before_test, -1),
        ],
        axis=1,
    )


def choose_cold_items(events: NDArray[np.int32], share: float, seed: int) -> IntArray:
    """Draw a share of the items that occur in the events, rounded; int64 (C,), ascending."""
    known = np.unique(events).astype(np.int64)
    drawn = np.random.default_rng(seed).permutation(known)[: round(share * len(known))]
    return np.sort(drawn)


def hold_out_items(
    events: NDArray[np.int32], offsets: IntArray, split: IntArray, cold_items: IntArray
) -> tuple[NDArray[np.int32], IntArray, IntArray]:
    """Drop every event of the cold items that is not a user's test target.

    The split is made first, so each user is tested on the event that would be the target anyway. A
    cold validation target is dropped as well, and its user has none: it stands in the history of
    the test target, and nothing may be chosen by items that are to be new. A target that is left
    without any history is dropped, since nothing can be asked of a model there.

    Args:
        events: int32 (E,).
        offsets: int64 (U + 1,).
        split: int64 (U, 3), leave-one-out: a user's targets are the last events of the sequence.
        cold_items: int64 (C,).

    Returns:
        Events, offsets and split of what is left; all users stay, some perhaps without events.
    """
    kept_events, lengths, splits = [], [], []
    for part in user_parts(offsets):
        users, positions, ends = part.users, part.positions, split[part.rows][part.users]
        is_warm = ~np.isin(events[part.events], cold_items)
        num_users = len(part.offsets) - 1
        train_lengths = np.bincount(users[is_warm & (positions < ends[:, 0])], minlength=num_users)
        num_valid = np.bincount(users[is_warm & (positions == ends[:, 1])], minlength=num_users)
        num_shown = train_lengths + num_valid  # before the test target
        is_test = positions == ends[:, 2]
        kept = np.where(is_test, (num_shown > 0)[users], is_warm)
        kept_events.append(events[part.events][kept])
        lengths.append(np.bincount(users[kept], minlength=num_users))
        has_valid = (num_valid > 0) & (train_lengths > 0)
        has_test = (split[part.rows, 2] >= 0) & (num_shown > 0)
        targets = (np.where(has_valid, train_lengths, -1), np.where(has_test, num_shown, -1))
        splits.append(np.stack([train_lengths, *targets], axis=1))
    return (
        np.concatenate(kept_events),
        np.concatenate([[0], np.cumsum(np.concatenate(lengths))]),
        np.concatenate(splits),
    )
