"""A prepared data set: integer item sequences in time order, one split, item texts, a fingerprint.

On disk it is a directory that `seqrec.prepare` writes:

    meta.json           format, version, name, counts, split, column names, fingerprint, provenance,
                        checksums of the other files
    items.parquet       row i is item i + 1: `item_id`, `title`, further text columns
    user_ids.parquet    row u is user u: `user_id`
    events.npy          int32 (E,), item numbers 1..num_items, user by user, each in time order
    offsets.npy         int64 (U + 1,), user u owns events[offsets[u]:offsets[u + 1]]
    split.npy           int64 (U, 3): train_length, valid_position, test_position
    times.npy           int64 (E,), the events' times, for `seqrec.continuing` alone; not where
                        items were held out, nor in sets of earlier versions
    cold_items.npy      int64 (C,), item numbers, ascending; only where items were held out

The split counts positions inside a user's sequence. Training may use the first `train_length`
events and nothing else. A validation or test target is the event at its position (-1: the user has
none); its history is every event before it.

Cold items are in the catalogue with their texts, and in the sequences as test targets alone: no
training event, no validation target and no history holds one (see `hold_out_items`).
Shape letters: U users, I items, C cold items, E events, T history.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from seqrec.artifact import Kind, release_pages
from seqrec.errors import DataError
from seqrec.files import atomic_directory
from seqrec.splits import IntArray, Split, user_parts
from seqrec.times import TimeKind

import numpy as np
import polars as pl
from numpy.typing import NDArray

DATASET = Kind("seqrec-data", 1, "data set", DataError)
# A set whose users come back to the same items cannot be judged with seen items left out.
MAX_REPEAT_SHARE = 0.01
TEXTS_AT_ONCE = 2**16
NO_ITEMS: IntArray = np.empty(0, dtype=np.int64)

META_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "split", "fingerprint"), str),
    **dict.fromkeys(("num_users", "num_items", "num_events", "num_cold_items"), int),
    "repeat_share": (int, float),
    "text_columns": list,
    "provenance": dict,
}


@dataclass(frozen=True)
class EvalTargets:
    """Who is evaluated on what: one target each for N users, and where their histories end."""

    users: IntArray  # (N,)
    positions: IntArray  # (N,), the target's position in the user's sequence
    items: IntArray  # (N,), the target itself, 1..num_items


@dataclass(frozen=True)
class SequenceDataset:
    """A prepared data set, its arrays memory-mapped. Open one with `load_dataset`."""

    path: Path
    meta: dict[str, Any]
    events: NDArray[np.int32]  # (E,)
    offsets: IntArray  # (U + 1,)
    split: IntArray  # (U, 3)
    # (C,), the items that were held out of training on purpose
    cold_items: IntArray = field(default_factory=lambda: NO_ITEMS)

    @property
    def name(self) -> str:
        """The name given when the set was prepared."""
        return str(self.meta["name"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, texts, sequences and split: equal fingerprints mean equal data."""
        return str(self.meta["fingerprint"])

    @property
    def num_users(self) -> int:
        """Number of users U."""
        return len(self.offsets) - 1

    @property
    def num_items(self) -> int:
        """Number of items I; items are numbered 1..I."""
        return int(self.meta["num_items"])

    @property
    def catalogues(self) -> dict[str, int]:
        """How many items each catalogue has, in the order of their numbers (`seqrec.uniting`)."""
        return dict(self.meta.get("catalogues") or {self.name: self.num_items})

    def catalogue_of(self, items: IntArray) -> IntArray:
        """Return the index of each item's catalogue in `catalogues`, int64 (N,)."""
        return np.searchsorted(np.cumsum(list(self.catalogues.values())), items)

    @property
    def exclude_seen(self) -> bool:
        """Whether the headline figures leave a user's seen items out of the ranking."""
        return float(self.meta["repeat_share"]) <= MAX_REPEAT_SHARE

    @property
    def train_lengths(self) -> IntArray:
        """How many of each user's first events may be trained on, int64 (U,)."""
        return self.split[:, 0]

    @cached_property
    def items(self) -> pl.DataFrame:
        """Item ids and texts; row i is item i + 1."""
        return pl.read_parquet(self.path / "items.parquet", glob=False)

    @cached_property
    def item_ids(self) -> list[str]:
        """Item ids as they were given; element i is item i + 1."""
        return self.items["item_id"].to_list()

    def sequence(self, user: int) -> NDArray[np.int32]:
        """Return all events of a user in time order, int32 (T,)."""
        return self.events[self.offsets[user] : self.offsets[user + 1]]

    def train_sequence(self, user: int) -> NDArray[np.int32]:
        """Return the events of a user that may be trained on, int32 (T,)."""
        start = self.offsets[user]
        return self.events[start : start + self.split[user, 0]]

    def eval_targets(self, part: Literal["valid", "test"]) -> EvalTargets:
        """Return the targets of a part of the split, users in order."""
        positions = self.split[:, 1 if part == "valid" else 2]
        users = np.flatnonzero(positions >= 0)
        positions = positions[users]
        return EvalTargets(
            users, positions, self.events[self.offsets[users] + positions].astype(np.int64)
        )

    def before_test(self) -> "SequenceDataset":
        """Return the set as it is once all is chosen: what precedes a test target is trained on.

        There validation events are training events like others, and nothing validates.
        """
        train_lengths, _, test_positions = self.split.T
        # Who has no test target has no event after it, or is not trained on at all.
        untested = np.where(train_lengths > 0, np.diff(self.offsets), 0)
        known = np.where(test_positions >= 0, test_positions, untested)
        split = np.stack([known, np.full_like(known, -1), test_positions], axis=1)
        return replace(self, split=split)

    def train_counts(self) -> IntArray:
        """Count each item's training events, int64 (I + 1,); element PAD is 0."""
        counts = np.zeros(self.num_items + 1, dtype=np.int64)
        for part in user_parts(self.offsets):
            in_train = part.positions < self.split[part.rows, 0][part.users]
            trained = self.events[part.events][in_train]
            counts += np.bincount(trained, minlength=self.num_items + 1)
        return counts

    @cached_property
    def untrained_items(self) -> IntArray:
        """Items without any training event, cold or merely unlucky; int64, ascending."""
        return np.flatnonzero(self.train_counts()[1:] == 0) + 1


def repeat_share(events: NDArray[np.int32], offsets: IntArray) -> float:
    """Return the share of events whose item the user had met before."""
    num_repeats, base = 0, int(events.max()) + 1
    for part in user_parts(offsets):
        pairs = np.sort(part.users * base + events[part.events])  # faster than np.unique
        num_repeats += int(np.count_nonzero(np.diff(pairs) == 0))
    return num_repeats / len(events)


def compute_fingerprint(
    items: pl.DataFrame,
    user_ids: pl.Series,
    events: NDArray[np.int32],
    offsets: IntArray,
    split: IntArray,
    cold_items: IntArray,
) -> str:
    """Return the SHA-256 over everything a model can depend on."""
    digest = hashlib.sha256(f"{DATASET.format} {DATASET.version}".encode())
    for column in [*items.get_columns(), user_ids]:
        digest.update(f"\0{column.name}\0".encode())
        for texts in column.to_frame().iter_slices(TEXTS_AT_ONCE):
            ended = "".join(f"{text}\0" for text in texts.to_series())
            digest.update(ended.encode("utf-8", "surrogatepass"))
    for array in (events, offsets, split):
        digest.update(np.ascontiguousarray(array).reshape(-1).data)
    if len(cold_items):  # a set without any keeps the fingerprint it always had
        digest.update(b"\0cold\0" + np.ascontiguousarray(cold_items).tobytes())
    return digest.hexdigest()


def write_dataset(
    path: Path,
    *,
    name: str,
    items: pl.DataFrame,
    user_ids: pl.Series,
    events: NDArray[np.int32],
    offsets: IntArray,
    split: IntArray,
    split_name: Split,
    provenance: dict[str, Any],
    cold_items: IntArray = NO_ITEMS,
    times: IntArray | None = None,
    time_kind: TimeKind | None = None,
    catalogues: Mapping[str, int] | None = None,
) -> SequenceDataset:
    """Write a prepared data set, whole or not at all, and open it.

    Args:
        path: the directory to make; an existing one is replaced.
        name: shown in tables and reports.
        items: string columns `item_id`, `title`, ...; row i is item i + 1.
        user_ids: strings, (U,).
        events: int32 (E,), item numbers from 1.
        offsets: int64 (U + 1,).
        split: int64 (U, 3).
        split_name: how `split` was made.
        provenance: where the data came from, kept in `meta.json`.
        cold_items: int64 (C,), ascending, held out of `events` by `hold_out_items`.
        times: int64 (E,), ascending within each user; None: the set cannot be continued.
        time_kind: what they are.
        catalogues: as of `SequenceDataset`, where there are several.
    """
    user_ids = user_ids.rename("user_id")  # the fingerprint covers names
    meta = {
        "name": name,
        "num_users": len(user_ids),
        "num_items": len(items),
        "num_events": len(events),
        "num_train_events": int(split[:, 0].sum()),
        "num_valid_targets": int((split[:, 1] >= 0).sum()),
        "num_test_targets": int((split[:, 2] >= 0).sum()),
        "num_cold_items": len(cold_items),
        "repeat_share": repeat_share(events, offsets),
        "split": split_name,
        "text_columns": [c for c in items.columns if c != "item_id"],
        "fingerprint": compute_fingerprint(items, user_ids, events, offsets, split, cold_items),
        "time_kind": time_kind,
        "provenance": provenance,
        **({"catalogues": dict(catalogues)} if catalogues else {}),
    }
    with atomic_directory(path) as folder:
        items.write_parquet(folder / "items.parquet")
        user_ids.to_frame("user_id").write_parquet(folder / "user_ids.parquet")
        arrays: dict[str, NDArray[Any] | None]
        arrays = {"events": events, "offsets": offsets, "split": split, "times": times}
        arrays["cold_items"] = cold_items if len(cold_items) else None
        for array_name, array in arrays.items():
            if array is not None:
                np.save(folder / f"{array_name}.npy", array)
                release_pages(array)
        DATASET.write(folder, meta)
    return load_dataset(path)


def load_dataset(path: Path) -> SequenceDataset:
    """Open a prepared data set, memory-mapped, the checksums of what it reads verified.

    Raises:
        DataError: there is none at `path`, it is of another version, or its parts disagree.
    """
    command = "python -m seqrec.prepare --interactions FILE --items FILE --output-dir"
    opened = DATASET.open(path, f"Make it: {command} {path}")
    with opened.reading():
        meta = opened.description
        for name, kind in META_TYPES.items():
            if not isinstance(meta.get(name), kind):
                raise ValueError(f"meta.json has {name} {str(meta.get(name))[:40]!r}")
        if not re.fullmatch("[0-9a-f]{64}", meta["fingerprint"]):
            raise ValueError(f"meta.json has fingerprint {meta['fingerprint'][:40]!r}")
        for name in ("items.parquet", "user_ids.parquet"):
            opened.file(name)
        dataset = SequenceDataset(
            path,
            meta,
            events=opened.array("events.npy", np.int32, 1),
            offsets=np.asarray(opened.array("offsets.npy", np.int64, 1)),
            split=np.asarray(opened.array("split.npy", np.int64, 2)),
            cold_items=np.array(opened.array("cold_items.npy", np.int64, 1))
            if meta["num_cold_items"]
            else NO_ITEMS,
        )
        _check_numbers(dataset)
    return dataset


def _check_numbers(dataset: SequenceDataset) -> None:
    """Raise a `ValueError` if the parts do not fit, or speak of something that there is not."""
    events, offsets, split = dataset.events, dataset.offsets, dataset.split
    num_rows = {
        part: pl.scan_parquet(dataset.path / f"{part}.parquet", glob=False)
        .select(pl.len())
        .collect()
        .item()
        for part in ("items", "user_ids")
    }
    counts = {
        "num_users": {len(offsets) - 1, len(split), num_rows["user_ids"]},
        "num_items": {num_rows["items"]},
        "num_events": {len(events), int(offsets[-1])},
        "num_cold_items": {len(dataset.cold_items)},
    }
    counts["num_items"].add(sum(dataset.catalogues.values()))
    schema = pl.scan_parquet(dataset.path / "items.parquet", glob=False).collect_schema()
    if [name for name in schema if name != "item_id"] != dataset.meta["text_columns"]:
        raise ValueError(f"items.parquet has columns {', '.join(schema)}, meta.json others")
    if split.shape[1] != 3 or any(counts[name] != {dataset.meta[name]} for name in counts):
        raise ValueError("its parts differ in length")
    lengths = np.diff(offsets)
    in_range = (
        offsets[0] == 0
        and lengths.min(initial=0) >= 0
        and 1 <= events.min(initial=1)
        and events.max(initial=1) <= dataset.num_items
        and (split >= [0, -1, -1]).all()
        and (split[:, 0] <= lengths).all()
        and (split[:, 1:] < lengths[:, None]).all()
    )
    if not in_range:
        raise ValueError("its numbers are out of range")
