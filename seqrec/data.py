"""A prepared data set: integer item sequences in time order, one split, item texts, a fingerprint.

On disk it is a directory that `seqrec.prepare` writes:

    meta.json           format, version, name, counts, split, column names, fingerprint, provenance,
                        checksums of the other files
    items.parquet       row i is item i + 1: `item_id`, `title`, further text columns
    user_ids.parquet    row u is user u: `user_id`
    events.npy          int32 (E,), item numbers 1..num_items, user by user, each in time order
    offsets.npy         int64 (U + 1,), user u owns events[offsets[u]:offsets[u + 1]]
    split.npy           int64 (U, 3): train_length, valid_position, test_position
    cold_items.npy      int64 (C,), item numbers, ascending; only where items were held out

The split counts positions inside a user's sequence. Training may use the first `train_length`
events and nothing else. A validation or test target is the event at its position (-1: the user has
none); its history is every event before it.

Cold items are in the catalogue with their texts, and in the sequences as test targets alone: no
training event, no validation target and no history holds one (see `hold_out_items`).
Shape letters: U users, I items, C cold items, E events, T history.
"""

import hashlib
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from seqrec.errors import DataError
from seqrec.files import atomic_directory, read_json, sha256_file, write_json

import numpy as np
import polars as pl
from numpy.typing import NDArray

PAD = 0  # fills the left of a short history; never an item
FORMAT = "seqrec-data"
VERSION = 1
# A set whose users come back to the same items cannot be judged with seen items left out.
MAX_REPEAT_SHARE = 0.01
EVENTS_AT_ONCE = 2**22  # that anything is worked out for, lest all at once take several times E
TEXTS_AT_ONCE = 2**16

META_TYPES: dict[type, tuple[str, ...]] = {
    str: ("name", "split", "fingerprint"),
    int: ("num_users", "num_items", "num_events"),
    float: ("repeat_share",),
    list: ("text_columns",),
}

IntArray = NDArray[np.int64]
Split = Literal["leave-one-out", "temporal"]


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
    cold_items: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

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
        """The user's own item ids; element i is item i + 1."""
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
        own, num_users = timestamps[part.events], len(part.offsets) - 1
        for before, moment in ((before_valid, valid_start), (before_test, test_start)):
            before[part.rows] = np.bincount(part.users[own < moment], minlength=num_users)
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
    parts = [
        _hold_out(events[part.events], part, split[part.rows], cold_items)
        for part in user_parts(offsets)
    ]
    kept, lengths, splits = zip(*parts, strict=True)
    return (
        np.concatenate(kept),
        np.concatenate([[0], np.cumsum(np.concatenate(lengths))]),
        np.concatenate(splits),
    )


def _hold_out(
    events: NDArray[np.int32], part: UserPart, split: IntArray, cold_items: IntArray
) -> tuple[NDArray[np.int32], IntArray, IntArray]:
    """Do it for some users; return their events, lengths and split."""
    users, positions, num_users = part.users, part.positions, len(split)
    is_cold = np.isin(events, cold_items)
    train, valid, test = (
        positions < split[users, 0],
        positions == split[users, 1],
        positions == split[users, 2],
    )
    train_lengths = np.bincount(users[train & ~is_cold], minlength=num_users)
    num_valid = np.bincount(users[valid & ~is_cold], minlength=num_users)
    num_shown = train_lengths + num_valid  # before the test target
    kept = ~is_cold | test
    kept &= ~test | (num_shown > 0)[users]
    return (
        events[kept],
        np.bincount(users[kept], minlength=num_users),
        np.stack(
            [
                train_lengths,
                np.where((num_valid > 0) & (train_lengths > 0), train_lengths, -1),
                np.where((split[:, 2] >= 0) & (num_shown > 0), num_shown, -1),
            ],
            axis=1,
        ),
    )


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
    digest = hashlib.sha256(f"{FORMAT} {VERSION}".encode())
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
    cold_items: IntArray | None = None,
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
        cold_items: int64 (C,), ascending, held out of `events` by `hold_out_items`; None: no item.
    """
    cold_items = np.empty(0, dtype=np.int64) if cold_items is None else cold_items
    user_ids = user_ids.rename("user_id")  # the fingerprint covers names
    meta = {
        "format": FORMAT,
        "version": VERSION,
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
        "provenance": provenance,
    }
    with atomic_directory(path) as folder:
        items.write_parquet(folder / "items.parquet")
        user_ids.to_frame("user_id").write_parquet(folder / "user_ids.parquet")
        np.save(folder / "events.npy", events)
        np.save(folder / "offsets.npy", offsets)
        np.save(folder / "split.npy", split)
        if len(cold_items):
            np.save(folder / "cold_items.npy", cold_items)
        meta["sha256"] = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
        write_json(folder / "meta.json", meta)
    return load_dataset(path)


def load_dataset(path: Path) -> SequenceDataset:
    """Open a prepared data set, memory-mapped, its checksums verified.

    Raises:
        DataError: there is none at `path`, it is of another version, or its parts disagree.
    """
    how = "python -m seqrec.prepare --interactions FILE --items FILE --output-dir " + str(path)
    if not (path / "meta.json").is_file():
        raise DataError(f"no prepared data set at {path}. Make one: {how}")
    try:
        meta = read_json(path / "meta.json")
        _verify(path, meta)
        events, offsets, split = (
            np.load(path / f"{part}.npy", mmap_mode="r", allow_pickle=False)
            for part in ("events", "offsets", "split")
        )
        cold_items = np.empty(0, dtype=np.int64)
        if meta.get("num_cold_items"):
            cold_items = np.load(path / "cold_items.npy", allow_pickle=False)
        num_rows = [
            pl.scan_parquet(path / f"{part}.parquet", glob=False).select(pl.len()).collect().item()
            for part in ("items", "user_ids")
        ]
        if (events.ndim, offsets.ndim, split.shape[1:]) != (1, 1, (3,)) or not len(offsets):
            raise ValueError("an array has another shape")
    except (
        *(OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError),  # NumPy's
        *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
    ) as error:
        raise DataError(
            f"the data set at {path} is damaged ({error}). Make it again: {how}"
        ) from error
    if (meta.get("format"), meta.get("version")) != (FORMAT, VERSION):
        raise DataError(
            f"{path} is {meta.get('format')} version {meta.get('version')}, expected {FORMAT} "
            f"version {VERSION}. Make it again: {how}"
        )
    dataset = SequenceDataset(
        path, meta, events, np.asarray(offsets), np.asarray(split), cold_items
    )
    if (len(offsets) - 1, len(events), len(split), len(cold_items), *num_rows) != (
        meta["num_users"],
        meta["num_events"],
        meta["num_users"],
        meta.get("num_cold_items", 0),  # sets made before there were any do not say
        meta["num_items"],
        meta["num_users"],
    ) or offsets[-1] != len(events):
        raise DataError(
            f"the data set at {path} is damaged: its parts differ in length. Make it again: {how}"
        )
    if not _are_in_range(dataset):
        raise DataError(
            f"the data set at {path} is damaged: its numbers are out of range. Make it again: {how}"
        )
    return dataset


def _are_in_range(dataset: SequenceDataset) -> bool:
    """Tell whether items, offsets and positions are numbers of something that there is."""
    events, offsets, split = dataset.events, dataset.offsets, dataset.split
    lengths = np.diff(offsets)
    return bool(
        events.dtype == np.int32
        and (offsets.dtype, split.dtype) == (np.int64, np.int64)
        and offsets[0] == 0
        and lengths.min(initial=0) >= 0
        and 1 <= events.min(initial=1)
        and events.max(initial=1) <= dataset.num_items
        and (split >= [0, -1, -1]).all()
        and (split[:, 0] <= lengths).all()
        and (split[:, 1:] < lengths[:, None]).all()
    )


def _verify(path: Path, meta: dict[str, Any]) -> None:
    """Raise a `ValueError` if a set's files are not those it was written with, or say nothing."""
    for kind, names in META_TYPES.items():
        for name in names:
            if type(meta.get(name)) not in (kind, int if kind is float else kind):
                raise ValueError(f"meta.json has {name} {str(meta.get(name))[:40]!r}")
    checksums = meta.get("sha256", {})  # sets made before there were any have none
    if not isinstance(checksums, dict):
        raise ValueError("meta.json has no checksums")
    for name, expected in checksums.items():
        if Path(name).name != name or sha256_file(path / name) != expected:
            raise ValueError(f"{name} has another checksum than meta.json says")
