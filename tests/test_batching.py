from collections import Counter

from seqrec.batching import (
    TrainingBatches,
    cut_windows,
    make_batch,
    prefix_offsets,
)
from seqrec.data import PAD, SequenceDataset

import numpy as np
import pytest

MAX_LEN = 4


def all_targets(dataset: SequenceDataset) -> Counter[int]:
    return Counter(range(int(prefix_offsets(dataset)[-1])))


@pytest.mark.parametrize("max_len", [1, 3, 4, 50])
def test_every_training_target_is_in_exactly_one_batch_of_an_epoch(
    tiny_dataset: SequenceDataset, max_len: int
) -> None:
    batches = TrainingBatches(tiny_dataset, max_len, batch_size=8, seed=3)
    for epoch in range(3):
        seen: Counter[int] = Counter()
        for batch in batches.epoch(epoch)[1]:
            assert batch.items.shape[1] <= max_len
            seen.update(batch.rows[batch.targets != PAD].tolist())
        assert seen == all_targets(tiny_dataset)


def test_a_batch_holds_the_events_it_says(tiny_dataset: SequenceDataset) -> None:
    offsets = prefix_offsets(tiny_dataset)
    batch = next(TrainingBatches(tiny_dataset, MAX_LEN, batch_size=5, seed=0).epoch(0)[1])
    for items, targets, rows in zip(batch.items, batch.targets, batch.rows, strict=True):
        for column in range(len(items)):
            if items[column] == PAD:
                assert targets[column] == PAD
                assert rows[column] == -1
                continue
            user = int(np.searchsorted(offsets, int(rows[column]), side="right")) - 1
            position = int(rows[column] - offsets[user]) + 1
            sequence = tiny_dataset.train_sequence(user)
            assert items[column] == sequence[position - 1]
            assert targets[column] in (PAD, sequence[position])  # PAD: context only


def test_padding_stands_on_the_left(tiny_dataset: SequenceDataset) -> None:
    for batch in TrainingBatches(tiny_dataset, MAX_LEN, batch_size=16, seed=0).epoch(0)[1]:
        real = (batch.items != PAD).int()
        assert (real.diff(dim=1) >= 0).all()
        assert (real[:, -1] == 1).all()


def test_long_sequences_are_cut_at_other_places_in_other_epochs(
    tiny_dataset: SequenceDataset,
) -> None:
    cuts = [
        cut_windows(tiny_dataset, MAX_LEN, rng=np.random.default_rng(seed)).starts.tolist()
        for seed in (1, 2)
    ]
    assert cuts[0] != cuts[1]


@pytest.mark.parametrize(("max_len", "stride"), [(1, 1), (5, 2), (6, 3), (6, 6), (6, 1), (50, 25)])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_each_target_is_in_one_window_with_the_promised_context(
    tiny_dataset: SequenceDataset, max_len: int, stride: int, rng: np.random.Generator | None
) -> None:
    windows = cut_windows(tiny_dataset, max_len, stride, rng)
    rows = prefix_offsets(tiny_dataset)
    seen: Counter[int] = Counter()
    for number in range(len(windows)):
        batch = make_batch(tiny_dataset, rows, windows, np.array([number]))
        answered = batch.rows[batch.targets != PAD].tolist()
        seen.update(answered)
        user, start = windows.users[number], windows.starts[number]
        for row in answered:
            position = row - rows[user] + 1  # of the target
            context = position - start
            assert context <= max_len
            assert context >= min(position, max(max_len - stride, 1))
    assert seen == all_targets(tiny_dataset)


def test_processes_share_an_epoch_and_take_equally_many_batches(
    tiny_dataset: SequenceDataset,
) -> None:
    batches = TrainingBatches(tiny_dataset, MAX_LEN, batch_size=7, seed=0)
    alone = {tuple(b.rows.flatten().tolist()) for b in batches.epoch(5)[1]}
    shares = [batches.epoch(5, process_index=i, num_processes=3) for i in range(3)]
    assert len({count for count, _ in shares}) == 1
    together = {tuple(b.rows.flatten().tolist()) for _, share in shares for b in share}
    assert together == alone
