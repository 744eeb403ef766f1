"""What a baseline's process is told of a data set: plain arrays and JSON, written by us.

    meta.json       num_items, exclude_seen (the headline protocol), seed, settings
    events.npy      int32 (E,), the events to train on, user by user, each in time order
    offsets.npy     int64 (U + 1,), user u owns events[offsets[u]:offsets[u + 1]]
    valid.npy       int64 (V, 2), user and validation target; only while epochs are being chosen

A validation target is no event to train on as long as `valid.npy` is there. The second directory,
for the training that counts, has it among the events and no `valid.npy`. A test target is in
neither: the histories that are asked about are sent when they are asked about.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.files import write_json

import numpy as np


def write_exchange(
    folder: Path, dataset: SequenceDataset, *, seed: int, settings: Mapping[str, Any]
) -> None:
    """Write what one training of a baseline may know into an existing folder.

    Args:
        folder: where to write.
        dataset: its training events are handed over, and its validation targets, if it has any:
            `dataset.before_test()` has none.
        seed: of the training.
        settings: of the training, JSON values.
    """
    _write_meta(folder, dataset.num_items, dataset.exclude_seen, seed, settings)
    sequences = [dataset.train_sequence(user) for user in range(dataset.num_users)]
    valid = dataset.eval_targets("valid")
    np.save(folder / "events.npy", np.concatenate(sequences).astype(np.int32))
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(dataset.train_lengths)]))
    if len(valid.users):
        np.save(folder / "valid.npy", np.stack([valid.users, valid.items], axis=1))


def write_untrained_exchange(
    folder: Path, num_items: int, *, seed: int, settings: Mapping[str, Any]
) -> None:
    """Write what a model needs to know that is made without events; arguments as above."""
    _write_meta(folder, num_items, True, seed, settings)
    np.save(folder / "events.npy", np.zeros(0, dtype=np.int32))
    np.save(folder / "offsets.npy", np.zeros(1, dtype=np.int64))


def _write_meta(
    folder: Path, num_items: int, exclude_seen: bool, seed: int, settings: Mapping[str, Any]
) -> None:
    meta = {
        "num_items": num_items,
        "exclude_seen": exclude_seen,
        "seed": seed,
        "settings": dict(settings),
    }
    write_json(folder / "meta.json", meta)
