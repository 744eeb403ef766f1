from collections import Counter

from seqrec.batching import (
    TrainingBatches,
    cut_windows,
    make_batch,
    prefix_offsets,
)
from seqrec.data import SequenceDataset
from seqrec.histories import PAD

import numpy as np
import pytest
import torch

MAX_LEN = 4


def all_prefixes(dataset: SequenceDataset, *, followed: bool) -> Counter[tuple[int, int]]:
    """Return each user's training positions, without the last where a target has to follow."""
    return Counter(
        (user, position)
        for user, length in enumerate(dataset.train_lengths.tolist())
        for position in range(length - followed)
    )


def user_and_position(dataset: SequenceDataset, prefix: int) -> tuple[int, int]:
    """Find a prefix by counting training events user by user."""
    for user, length in enumerate(dataset.train_lengths.tolist()):
        if prefix < length:
            return user, prefix
        prefix -= length
    raise AssertionError("there is no such prefix")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("max_len", [1, 3, 4, 50])
def test_every_training_target_is_learnt_once_an_epoch_and_every_prefix_asked_once(
    tiny_dataset: SequenceDataset, max_len: int, whole: bool
) -> None:
    batches = TrainingBatches(tiny_dataset, max_len, batch_size=8, seed=3, whole=whole)
    for epoch in range(3):
        learnt: Counter[tuple[int, int]] = Counter()
        asked: Counter[tuple[int, int]] = Counter()
        for batch in batches.epoch(epoch)[1]:
            assert batch.items.shape[1] <= max_len
            for counter, where in ((learnt, batch.targets != PAD), (asked, batch.prefixes >= 0)):
                prefixes = batch.prefixes[where].tolist()
                counter.update(user_and_position(tiny_dataset, prefix) for prefix in prefixes)
        assert learnt == all_prefixes(tiny_dataset, followed=True)
        # The longest prefix has no target: only a teacher is asked for an answer to it.
        assert asked == all_prefixes(tiny_dataset, followed=not whole)


@pytest.mark.parametrize("whole", [False, True])
def test_a_batch_holds_the_events_it_says(tiny_dataset: SequenceDataset, whole: bool) -> None:
    found_last = 0
    for batch in TrainingBatches(tiny_dataset, MAX_LEN, 5, seed=0, whole=whole).epoch(0)[1]:
        for items, targets, prefixes in zip(*batch, strict=True):
            user, last = user_and_position(tiny_dataset, int(prefixes[-1]))  # always asked
            sequence = tiny_dataset.train_sequence(user).tolist()
            for column in range(len(items)):
                position = last - (len(items) - 1 - column)
                if items[column] == PAD:
                    assert (targets[column], prefixes[column]) == (PAD, -1)
                    assert not items[:column].any()  # padding stands on the left
                    continue
                assert items[column] == sequence[position]
                if prefixes[column] < 0:
                    assert targets[column] == PAD  # context only
                    continue
                assert user_and_position(tiny_dataset, int(prefixes[column])) == (user, position)
                if position + 1 < len(sequence):
                    assert targets[column] == sequence[position + 1]
                else:  # what follows is held out
                    assert targets[column] == PAD
                    found_last += 1
    assert found_last == (np.count_nonzero(tiny_dataset.train_lengths) if whole else 0)


def test_long_sequences_are_cut_at_other_places_in_other_epochs(
    tiny_dataset: SequenceDataset,
) -> None:
    cuts = [
        cut_windows(tiny_dataset, MAX_LEN, rng=np.random.default_rng(seed)).starts.tolist()
        for seed in (1, 2)
    ]
    assert cuts[0] != cuts[1]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("max_len", "stride"), [(1, 1), (5, 2), (6, 3), (6, 6), (6, 1), (50, 25)])
@pytest.mark.parametrize("seed", [None, 0])
def test_each_prefix_is_asked_in_one_window_with_the_promised_context(
    tiny_dataset: SequenceDataset, max_len: int, stride: int, seed: int | None, whole: bool
) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    windows = cut_windows(tiny_dataset, max_len, stride, rng, whole=whole)
    offsets = prefix_offsets(tiny_dataset)
    seen: Counter[tuple[int, int]] = Counter()
    for number in range(len(windows)):
        batch = make_batch(tiny_dataset, offsets, windows, np.array([number]))
        for prefix in batch.prefixes[batch.prefixes >= 0].tolist():
            user, position = user_and_position(tiny_dataset, prefix)
            assert user == windows.users[number]
            context = position + 1 - windows.starts[number]  # items up to and with this one
            assert min(position + 1, max(max_len - stride, 1)) <= context <= max_len
            seen[user, position] += 1
    assert seen == all_prefixes(tiny_dataset, followed=not whole)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_shares_of_a_batch_are_all_of_it_once_and_weigh_what_they_ask(
    tiny_dataset: SequenceDataset, count: int
) -> None:
    for batch in TrainingBatches(tiny_dataset, MAX_LEN, batch_size=7, seed=0).epoch(5)[1]:
        shares = [batch.share(index, count) for index in range(count)]
        asked = batch.prefixes[batch.prefixes >= 0]
        parts = [part.prefixes[part.prefixes >= 0] for part, weight in shares if weight]
        assert sorted(torch.cat(parts).tolist()) == sorted(asked.tolist())
        assert [weight for _, weight in shares if weight] == [len(p) / len(asked) for p in parts]
        assert all(len(part.items) for part, _ in shares)  # those that weigh nothing as well
