"""What comes to a prepared data set: a new log, new items and new texts.

Items and users keep their numbers, new ones come after them. A new event goes where its time puts
it, after the known events of the same user and time, as if the new log had been read behind the old
one. Files of events are copied in parts, and a few numbers for each new event are all that is held
in memory beside users and items.

Shape letters: U users, E known events, N new events.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from seqrec import splits
from seqrec.artifact import release_pages
from seqrec.data import DATASET, SequenceDataset, load_dataset
from seqrec.errors import DataError
from seqrec.events import Events
from seqrec.splits import IntArray, Split
from seqrec.times import TimeKind

import numpy as np
import polars as pl
from numpy.typing import NDArray

# Flags that are as they were when the set was prepared, where they are not given.
KEPT_TEXTS = (
    *("user_column", "item_column", "time_column", "rating_column"),
    *("items_id_column", "title_column"),
)
KEPT_SHARES = ("valid_share", "test_share")


@dataclass(frozen=True)
class Base:
    """The prepared data set that is continued."""

    dataset: SequenceDataset
    user_ids: pl.Series  # (U,)
    times: IntArray  # (E,), memory-mapped
    time_kind: TimeKind

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.dataset.path

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that are read as an item's text after the title."""
        return tuple(name for name in self.dataset.meta["text_columns"] if name != "title")


def prepare_again(path: Path) -> str:
    """Return the sentence that says how to make a set that can be continued."""
    return (
        "Prepare it once more from the whole log: python -m seqrec.prepare --interactions FILE "
        f"--items FILE --output-dir {path}"
    )


def kept_flags(path: Path) -> dict[str, Any]:
    """Return the flags a set was prepared with that hold for its continuation, by field.

    Raises:
        DataError: there is no prepared data set at `path`.
    """
    meta = DATASET.open(path, prepare_again(path)).description
    kept = {"split": meta["split"]} if meta.get("split") in get_args(Split) else {}
    provenance = meta.get("provenance")
    flags = provenance.get("prepared_with") if isinstance(provenance, Mapping) else None
    if isinstance(flags, Mapping):
        for names, kind in ((KEPT_TEXTS, str), (KEPT_SHARES, float)):
            kept |= {name: flags[name] for name in names if isinstance(flags.get(name), kind)}
    return kept


def open_base(path: Path, output_dir: Path) -> Base:
    """Open a prepared data set to continue it.

    Raises:
        DataError: it is not whole, its events are not all there, it keeps no times, or the
            continued one would replace it.
    """
    if path.resolve() == output_dir.resolve():
        raise DataError(
            f"--output-dir is {path}, the set that is continued: the same command typed again "
            "would add the log a second time. Give another --output-dir"
        )
    dataset = load_dataset(path)
    if len(dataset.cold_items):
        raise DataError(
            f"{path} was prepared with --cold-share, so the events of {len(dataset.cold_items):,} "
            f"item(s) are not in it. {prepare_again(path)}, without --cold-share"
        )
    if dataset.meta.get("time_kind") not in get_args(TimeKind):
        raise DataError(
            f"{path} keeps no times, as sets of earlier versions did not. {prepare_again(path)}"
        )
    opened = DATASET.open(path, prepare_again(path))
    release_pages(dataset.events)  # they were looked through
    with opened.reading():
        times = opened.array("times.npy", np.int64, 1)
        if len(times) != len(dataset.events):
            raise ValueError(f"{len(times):,} times for {len(dataset.events):,} events")
        user_ids = pl.read_parquet(path / "user_ids.parquet", glob=False)["user_id"]
    return Base(dataset, user_ids, times, dataset.meta["time_kind"])


def require_columns(base: Base, items: pl.DataFrame, label: str) -> None:
    """Raise a `DataError` for the first text column of the known items that new ones lack."""
    for name in base.text_columns:
        if name not in items.columns:
            raise DataError(
                f"{label} has no text in a column {name!r}, which {base.path} reads. Add it, or "
                f"choose other columns for all items. {prepare_again(base.path)}"
            )


def add_items(base: Base, items: pl.DataFrame, label: str) -> tuple[pl.DataFrame, list[str]]:
    """Put items after the known ones, or in the place of one with the same id.

    Args:
        base: the known ones.
        items: the columns of the known ones, each id once.
        label: what messages call `items`.

    Returns:
        All items, and two notes: how many are new, and what became of the known ones.
    """
    known = base.dataset.items
    merged = pl.concat([known, items]).group_by("item_id", maintain_order=True).last()
    num_new = len(merged) - len(known)
    num_other = len(items.join(known, on=known.columns, how="anti")) - num_new
    num_absent = len(merged) - len(items)
    return merged, [
        f"new items: {num_new:,}",
        f"items with another text: {num_other:,}; not in {label}, and kept as they are: "
        f"{num_absent:,}",
    ]


def add_events(base: Base, new: Events, label: str, folder: Path) -> tuple[Events, str]:
    """Put events among the known ones, by user and time.

    Args:
        base: the known ones.
        new: users numbered as `base` does, new ones after them.
        label: what messages call them.
        folder: for two files, into which the arrays that are returned are mapped.

    Returns:
        All events, and a note of how many are new.

    Raises:
        DataError: the times are of another kind, so that there is no order.
    """
    if new.time_kind != base.time_kind:
        raise DataError(
            f"the times in {label} are {new.time_kind}, but those of {base.path} are "
            f"{base.time_kind}. Write the new ones like the old ones. Or have all alike: "
            f"{prepare_again(base.path)}"
        )
    num_new_users = len(new.user_ids) - len(base.user_ids)
    offsets = np.pad(base.dataset.offsets, (0, num_new_users), mode="edge")
    users = np.repeat(np.arange(len(new.user_ids)), np.diff(new.offsets))  # (N,)
    at = _insertion_points(base.times, offsets, users, new.times)
    num_late = int((at < offsets[users + 1]).sum())
    num_again = _count_known(base, offsets[users], at, new)
    note = (
        f"{label}: {len(users):,} new events of {np.count_nonzero(np.diff(new.offsets)):,} users, "
        f"{num_new_users:,} of them new"
    )
    if num_late:
        note += f"; older than a known one of their user, and put before it: {num_late:,}"
    if num_again:
        note += f"; known already (user, item and time), and counted again: {num_again:,}"
    items = _insert(base.dataset.events, at, new.items, folder / "items")
    times = _insert(base.times, at, new.times, folder / "times")
    return Events(new.user_ids, items, times, new.time_kind, offsets + new.offsets), note


def _insertion_points(
    times: IntArray, offsets: IntArray, users: IntArray, new_times: IntArray
) -> IntArray:
    """Return before which known event each new one goes, int64 (N,): a search for all at once."""
    low, high = offsets[users], offsets[users + 1]
    while len(open_ := np.flatnonzero(low < high)):
        middle = (low[open_] + high[open_]) // 2
        is_after = times[middle] <= new_times[open_]
        low[open_] = np.where(is_after, middle + 1, low[open_])
        high[open_] = np.where(is_after, high[open_], middle)
    return low


def _count_known(base: Base, starts: IntArray, at: IntArray, new: Events) -> int:
    """Count the new events that are known; `starts`: of their users' known events, (N,)."""
    is_known = np.zeros(len(at), dtype=np.bool_)
    rows = at - 1  # known events of the same time stand right before
    left = np.flatnonzero(rows >= starts)
    while len(left):
        left = left[base.times[rows[left]] == new.times[left]]
        is_known[left] = base.dataset.events[rows[left]] == new.items[left]
        rows[left] -= 1
        left = left[~is_known[left] & (rows[left] >= starts[left])]
    return int(is_known.sum())


def _insert(
    known: NDArray[Any], at: IntArray, new: NDArray[Any], file: Path
) -> np.memmap[Any, Any]:
    """Insert values before rows, ascending, as `np.insert` does, and map what a file gets."""
    with file.open("wb") as out:
        for part in _inserted(known, at, new):
            part.tofile(out)
    return np.memmap(file, dtype=known.dtype, mode="r")


def _inserted(known: NDArray[Any], at: IntArray, new: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield what `_insert` writes, in parts."""
    for first in range(0, len(known), splits.EVENTS_AT_ONCE):
        last = min(first + splits.EVENTS_AT_ONCE, len(known))
        here = slice(*np.searchsorted(at, [first, last]))
        yield np.insert(known[first:last], at[here] - first, new[here])
        release_pages(known)
    yield new[np.searchsorted(at, len(known)) :]
