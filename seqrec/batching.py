"""Training batches: windows over the users' training events, shuffled and bucketed by length.

Shape letters: B windows, T inputs per window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from seqrec.data import IntArray, SequenceDataset
from seqrec.histories import PAD

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Windows of similar length are batched together inside chunks of this many batches: little padding,
# and still another mix in every epoch.
BATCHES_PER_BUCKET = 32


class Batch(NamedTuple):
    """A training batch. A NamedTuple, so that it moves to a device and between processes as one."""

    items: Tensor  # int64 (B, T), left-padded inputs
    targets: Tensor  # int64 (B, T), the item after each input, PAD where there is nothing to learn
    prefixes: Tensor  # int64 (B, T), the prefix that ends with each input, -1: context or padding

    def to(self, device: torch.device | str) -> "Batch":
        """Move to a device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def share(self, index: int, count: int) -> tuple["Batch", float]:
        """Return every `count`-th window from `index` on, and the share of all that is asked.

        The mean losses of all `count` parts, each times its share, add up to the mean loss of the
        whole. A part without a window of its own gets the first one, and its share is 0: in each
        step every process has to take part.
        """
        if count == 1:
            return self, 1.0
        rows = torch.arange(len(self.items))[index::count]
        if not len(rows):
            return Batch(*(tensor[:1] for tensor in self)), 0.0
        part = Batch(*(tensor[rows] for tensor in self))
        return part, int((part.prefixes >= 0).sum()) / int((self.prefixes >= 0).sum())


@dataclass(frozen=True)
class Windows:
    """Windows of training events: inputs are events [start, end), targets [start + 1, end + 1).

    Positions count inside a user's sequence. Targets before `first_target` serve as context only. A
    window that ends with the sequence has no last target.
    """

    users: IntArray  # (W,)
    starts: IntArray  # (W,)
    ends: IntArray  # (W,)
    first_targets: IntArray  # (W,)

    def __len__(self) -> int:
        """Return the number of windows W."""
        return len(self.users)


def prefix_offsets(dataset: SequenceDataset) -> IntArray:
    """Number all training prefixes: that of user u up to the event at position t is offsets[u] + t.

    A prefix is a training event with all that comes before it: a user with n training events has n
    of them. All but the longest are followed by a target of training. Returns int64 (U + 1,).
    """
    return np.concatenate([[0], np.cumsum(dataset.train_lengths)])


def cut_windows(
    dataset: SequenceDataset,
    max_len: int,
    stride: int | None = None,
    rng: np.random.Generator | None = None,
    *,
    whole: bool = False,
) -> Windows:
    """Cut users' training events into windows of at most `max_len` inputs, `stride` apart.

    Every target is learnt, or answered, in exactly one window, and has there at least
    `max_len - stride` items as context, or all there are.

    Args:
        dataset: its training events are cut.
        max_len: inputs per window.
        stride: 1 to `max_len`; by default half of `max_len`: contexts are then much as long as when
            a user's next item is asked for. A stride of `max_len` reads each item once, at half the
            cost, and teaches from shorter contexts.
        rng: cuts long sequences differently in each call, so that over the epochs a target is
            seen after contexts of many lengths; without it the cuts are always the same.
        whole: read each user's last training event as well. What follows it is no target of
            training, but a teacher has an answer to it.
    """
    stride = stride or max(max_len // 2, 1)
    num_inputs = np.maximum(dataset.train_lengths - (0 if whole else 1), 0)
    shifts = np.zeros_like(num_inputs)
    if rng is not None:
        shifts = np.where(num_inputs > max_len, rng.integers(0, stride, len(num_inputs)), 0)
    first_ends = max_len - shifts
    further = np.maximum(-(-(num_inputs - first_ends) // stride), 0)
    counts = np.where(num_inputs > 0, 1 + further, 0)
    users = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = first_ends[users] + nth * stride  # the last one may lie beyond the sequence
    return Windows(
        users=users,
        starts=np.maximum(ends - max_len, 0),
        ends=np.minimum(ends, num_inputs[users]),
        first_targets=np.where(nth == 0, 1, ends - stride + 1),
    )


def make_batch(
    dataset: SequenceDataset, offsets: IntArray, windows: Windows, chosen: IntArray
) -> Batch:
    """Collate windows. `offsets` comes from `prefix_offsets`."""
    users, starts, ends = windows.users[chosen], windows.starts[chosen], windows.ends[chosen]
    width = int((ends - starts).max())
    positions = ends[:, None] - width + np.arange(width)  # (B, T), of the input
    real = positions >= starts[:, None]
    asked = real & (positions + 1 >= windows.first_targets[chosen][:, None])
    followed = asked & (positions + 1 < dataset.train_lengths[users][:, None])
    base = dataset.offsets[users][:, None]
    inputs = np.where(real, dataset.events[base + np.where(real, positions, 0)], PAD)
    targets = np.where(followed, dataset.events[base + np.where(followed, positions + 1, 0)], PAD)
    prefixes = np.where(asked, offsets[users][:, None] + positions, -1)
    arrays = (inputs, targets, prefixes)
    return Batch(*(torch.from_numpy(array.astype(np.int64)) for array in arrays))


def bucketed_order(
    lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> list[IntArray]:
    """Group indices into shuffled batches whose members have similar lengths."""
    order = rng.permutation(len(lengths))
    bucket = batch_size * BATCHES_PER_BUCKET
    batches: list[IntArray] = []
    for start in range(0, len(order), bucket):
        members = order[start : start + bucket]
        members = members[np.argsort(lengths[members], kind="stable")]
        batches.extend(members[i : i + batch_size] for i in range(0, len(members), batch_size))
    return [batches[i] for i in rng.permutation(len(batches))]


@dataclass(frozen=True)
class TrainingBatches:
    """All training batches of an epoch, the same for the same seed and epoch."""

    dataset: SequenceDataset
    max_len: int
    batch_size: int
    seed: int
    stride: int | None = None  # see `cut_windows`
    whole: bool = False  # the same

    def epoch(self, epoch: int) -> tuple[int, Iterator[Batch]]:
        """Return how many batches an epoch has, and the batches."""
        rng = np.random.default_rng([self.seed, epoch])
        windows = cut_windows(self.dataset, self.max_len, self.stride, rng, whole=self.whole)
        batches = bucketed_order(windows.ends - windows.starts, self.batch_size, rng)
        offsets = prefix_offsets(self.dataset)
        return len(batches), (
            make_batch(self.dataset, offsets, windows, chosen) for chosen in batches
        )

    def steps_per_epoch(self) -> int:
        """Return roughly how many batches an epoch has; random cuts move it by a few."""
        return self.epoch(0)[0]
