"""Tables of interactions and items -> a prepared data set. Entry point: `python -m seqrec.prepare`.

Both tables may be Parquet, CSV, TSV or JSON lines, or a folder of such parts, also in subfolders,
which are read in the order of their names (see `seqrec.tables`). Interactions need a user, an item
and a time; items need an id and a title, and the further columns are text that the teacher can
read: all of them but row numbers and bytes, or those of `--text-columns`. Ids are text: whole
numbers in Parquet and JSON are turned into it, and in CSV "007" stays "007". Ratings are accepted
and not used: each interaction counts as one event.

The interactions are read in a stream, twice: a number for user and item and a time are kept of each
event, not the table. Nothing is written unless all is well and every row was read; otherwise one
line names the file, the row and what to do. Rows are counted from 1, header and blank lines not
included.
"""

import contextlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags, to_json
from seqrec.data import (
    FORMAT,
    IntArray,
    SequenceDataset,
    Split,
    choose_cold_items,
    hold_out_items,
    leave_one_out,
    temporal,
    user_parts,
    write_dataset,
)
from seqrec.errors import DataError, run_main
from seqrec.files import read_json
from seqrec.sources import DATASETS, fetch_dataset
from seqrec.tables import (
    EXTENSIONS,
    Table,
    as_id,
    open_catalogue,
    open_log,
    reading,
    require,
    wanted_columns,
)

import numpy as np
import polars as pl

logger = logging.getLogger(__name__)

# Row numbers as pandas, R and Polars leave them in a file; the latter only if they are numbers.
IS_ROW_NUMBER = re.compile(r"\s*|Unnamed: \d+(\.\d+)*|__index_level_\d+__|\.\.\.\d+")
MAY_BE_ROW_NUMBER = re.compile(r"index|level_\d+|row_?(nr|num|number|id|index)|_c0", re.IGNORECASE)
LEAST = -(2**63)  # of int64; the bits of -0.0
PARTS = {"meta.json", "items.parquet", "user_ids.parquet"} | {
    f"{name}.npy" for name in ("events", "offsets", "split", "cold_items")
}


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What to read, how to split it, and where the prepared data set goes."""

    interactions: Path | None = flag(
        None, "table of interactions: " + ", ".join(EXTENSIONS) + ", or a folder of parts"
    )
    items: Path | None = flag(None, "table of items, in the same formats")
    dataset: str | None = flag(
        None, "a named public data set instead of files: " + ", ".join(DATASETS)
    )
    output_dir: Path | None = flag(
        None, "directory to write; data/NAME for a named data set if not given"
    )
    name: str | None = flag(
        None, "name in reports; that of --dataset or of the output directory if not given"
    )
    split: Split = flag(
        "leave-one-out", "hold out each user's last two events, or all that is after two moments"
    )
    valid_share: float = flag(0.1, "temporal split: share of events in the validation period")
    test_share: float = flag(0.1, "temporal split: share of events in the test period")
    cold_share: float = flag(
        0.0, "share of the items to hold out of training, as if they were new; 0: none"
    )
    seed: int = flag(0, "seed of the choice of cold items")
    user_column: str = flag("user_id", "column of the interactions with the user")
    item_column: str = flag("item_id", "column of the interactions with the item")
    time_column: str = flag(
        "timestamp", "column of the interactions with the time: number, date or ISO 8601 text"
    )
    rating_column: str = flag(
        "rating", "column of the interactions with a rating; may be absent, and is not used"
    )
    items_id_column: str = flag("item_id", "column of the items with their id")
    title_column: str = flag("title", "column of the items with their title")
    text_columns: tuple[str, ...] | None = flag(
        None,
        "columns of the items that are read as text after the title, in this order; if not given, "
        "all but row numbers and bytes",
    )

    def __post_init__(self) -> None:
        """Check what only the whole can know."""
        files = (self.interactions is not None, self.items is not None)
        if self.dataset is None and files != (True, True):
            raise ValueError("give --interactions and --items, or --dataset")
        if self.dataset is not None and any(files):
            raise ValueError("give either --dataset or --interactions and --items, not both")
        if self.dataset is None and self.output_dir is None:
            raise ValueError("give --output-dir")
        if min(self.valid_share, self.test_share) <= 0 or self.valid_share + self.test_share >= 1:
            raise ValueError("--valid-share and --test-share must be above 0 and below 1 together")
        if not 0 <= self.cold_share < 1:
            raise ValueError(f"--cold-share {self.cold_share} is not from 0 to below 1")
        if self.cold_share and self.split != "leave-one-out":
            raise ValueError(
                f"--cold-share goes with --split leave-one-out, not with {self.split}: after a "
                "moment there are many events, and only a last one can be a cold target"
            )


@dataclass(frozen=True)
class _Events:
    """All users' events, sorted by user and time."""

    user_ids: pl.Series  # (U,)
    items: np.ndarray  # int32 (E,), from 1
    times: IntArray  # (E,)
    offsets: IntArray  # (U + 1,)


@dataclass(frozen=True)
class _Input:
    """What was read, checked row by row."""

    items: pl.DataFrame
    events: _Events
    label: str  # what messages call the interactions
    provenance: dict[str, Any]
    notes: list[str]  # what was read and what was not, to be said once all is well


def prepare(config: PrepareConfig) -> SequenceDataset:
    """Read and check the tables, split them and write a prepared data set.

    Raises:
        DataError: the input is not usable, or the output path holds something else; nothing is
            written.
        SourceError: the named data set is unknown or cannot be fetched.
    """
    path = config.output_dir or Path("data") / str(config.dataset)
    _refuse_to_overwrite(path)
    with contextlib.ExitStack() as kept:
        read = _read(config, kept)
    events = read.events
    split = _split(events, read.label, config)
    sequences, offsets, split, cold_items = _hold_out(events, split, read.label, config)
    try:
        dataset = write_dataset(
            path,
            name=config.name or config.dataset or path.resolve().name,
            items=read.items,
            user_ids=events.user_ids,
            events=sequences,
            offsets=offsets,
            split=split,
            split_name=config.split,
            cold_items=cold_items,
            provenance={**read.provenance, "prepared_with": to_json(config)},
        )
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error}). Give another --output-dir") from error
    for note in read.notes:
        logger.info("%s", note)
    _log_summary(dataset)
    return dataset


def prepare_named(name: str, path: Path) -> SequenceDataset:
    """Fetch a named data set and prepare it at `path` with the default, leave-one-out split."""
    return prepare(PrepareConfig(dataset=name, output_dir=path))


def _log_summary(dataset: SequenceDataset) -> None:
    meta = dataset.meta
    logger.info(
        "%s: %s users, %s items, %s events; %s: %s validation and %s test targets",
        dataset.name,
        *(f"{meta[key]:,}" for key in ("num_users", "num_items", "num_events")),
        meta["split"],
        *(f"{meta[key]:,}" for key in ("num_valid_targets", "num_test_targets")),
    )
    logger.info("wrote %s, fingerprint %s", dataset.path, dataset.fingerprint)


def _refuse_to_overwrite(path: Path) -> None:
    """Raise a `DataError` unless `path` is free, empty or a prepared data set and no more."""
    if not path.exists():
        return
    found = {entry.name for entry in path.iterdir()} if path.is_dir() else {path.name}
    if not found:
        return
    with contextlib.suppress(OSError, ValueError):
        if read_json(path / "meta.json").get("format") == FORMAT and found <= PARTS:
            return
    strange = min(found - PARTS, default="meta.json")
    raise DataError(
        f"{path} exists and is not just a prepared data set (see {strange}), so it is left "
        "as it is. Give another --output-dir, or move it away"
    )


# --- Reading ------------------------------------------------------------------------------------


def _read(config: PrepareConfig, kept: contextlib.ExitStack) -> _Input:
    """Read both tables; what is needed for that is `kept` until then."""
    columns = wanted_columns(
        {"--items-id-column": config.items_id_column, "--title-column": config.title_column}
    )
    wanted = wanted_columns(
        {
            "--user-column": config.user_column,
            "--item-column": config.item_column,
            "--time-column": config.time_column,
        }
    )
    provenance: dict[str, Any] = {}
    if config.dataset is not None:
        raw = fetch_dataset(config.dataset)
        provenance = raw.provenance
        label = f"data set {config.dataset}"
        log = Table.of_frame(f"{label}, interactions", raw.interactions)
        catalogue = Table.of_frame(f"{label}, items", raw.items)
        not_text: dict[str, str] = {}
        require(log.label, log.names, wanted)
        require(catalogue.label, catalogue.names, columns)
    else:
        assert config.interactions is not None  # __post_init__ has seen to it
        assert config.items is not None
        catalogue, not_text = open_catalogue(config.items, columns)
    items = _read_items(catalogue, columns)
    items, notes = _choose_text(items, not_text, catalogue.label, config)
    if config.interactions is not None:
        log = open_log(config.interactions, wanted, kept)
    events = _read_events(log, items, catalogue.label, wanted)
    notes += _doubts(log, events, config.time_column)
    if config.rating_column in log.names:
        column = repr(config.rating_column)
        notes.append(f"column {column} is not used: each interaction counts as one event")
    return _Input(items, events, log.label, provenance, notes)


def _refuse_empty(table: Table, ids: pl.Expr, column: str) -> None:
    table.refuse_rows(ids.is_null(), f"column {column!r} is empty. Fill it in or remove the row")


def _refuse_no_rows(table: Table) -> None:
    if table.num_rows == 0:
        raise DataError(f"{table.label} holds no rows. Export it again")


def read_items(path: Path, *, id_column: str, title_column: str) -> pl.DataFrame:
    """Read a table of items: `item_id`, `title` and further text columns, rows in file order.

    Raises:
        DataError: it is not usable; the line names file, row and what to do.
    """
    columns = wanted_columns({"--items-id-column": id_column, "--title-column": title_column})
    return _read_items(open_catalogue(path, columns)[0], columns)


def _read_items(table: Table, columns: dict[str, str]) -> pl.DataFrame:
    """Check a table of items and name its columns; `columns`: of id and title, with their flags."""
    _refuse_no_rows(table)
    id_column, title_column = columns
    names = table.frame.collect_schema().names()
    for column, name in ((id_column, "item_id"), (title_column, "title")):
        if column != name and name in names:
            raise DataError(
                f"{table.label} has both {name!r} and {column!r}, which is to become {name!r}. "
                "Rename or drop one of them"
            )
    ids = as_id(table, id_column, "--items-id-column")
    others = [name for name in names if name not in columns]
    # Not by expressions: "*" and "^x$" may be names of columns.
    read = table.frame.collect()
    texts = {name: read[name].fill_null("") for name in others}
    titles = read[title_column].fill_null("")
    _refuse_empty(table, ids, id_column)
    table.refuse_rows(
        ~ids.is_first_distinct(),
        "item id {} occurs a second time. Keep one row for each item",
        ids,
    )
    if (titles.str.strip_chars() == "").all():
        raise DataError(
            f"{table.label}: every {title_column!r} is empty, but the teacher reads titles. "
            "Name another column with --title-column"
        )
    return pl.DataFrame({"item_id": table.look(ids).to_series(), "title": titles, **texts})


def _choose_text(
    items: pl.DataFrame, not_text: dict[str, str], label: str, config: PrepareConfig
) -> tuple[pl.DataFrame, list[str]]:
    """Keep the columns that are read as an item's text; return notes of which those are, too."""
    others = [name for name in items.columns if name not in ("item_id", "title")]
    if config.text_columns is None:
        numbers = {name: "row numbers" for name in others if _is_row_number(items[name])}
        chosen = [name for name in others if name not in numbers]
        left_out = numbers | not_text
    else:
        chosen = [c for c in config.text_columns if c not in (config.title_column, "title")]
        for name in chosen:
            if name in not_text:
                raise DataError(
                    f"{label}: column {name!r} is {not_text[name]}, which is no text. Leave it out "
                    "of --text-columns"
                )
        require(label, others, dict.fromkeys(chosen, "--text-columns"))
        left_out = {name: "not asked for" for name in (*others, *not_text) if name not in chosen}
    notes = [f"read as an item's text: {', '.join(map(repr, [config.title_column, *chosen]))}"]
    if left_out:
        listed = ", ".join(f"{name!r} ({reason})" for name, reason in left_out.items())
        notes.append(f"not read as text: {listed}; --text-columns chooses")
    return items[["item_id", "title", *chosen]], notes


def _is_row_number(column: pl.Series) -> bool:
    """Tell whether a column numbers the rows, by its name or by what it holds."""
    numbers = column.cast(pl.Int64, strict=False)
    if IS_ROW_NUMBER.fullmatch(column.name):
        return True
    if MAY_BE_ROW_NUMBER.fullmatch(column.name) and not numbers.has_nulls():
        return True
    # 0, 1, 2, ... or 1, 2, 3, ... in file order; two rows are too few to tell.
    first = numbers[0]
    return (
        len(column) > 2
        and first in (0, 1)
        and numbers.to_list() == [*range(first, first + len(column))]
    )


def _read_events(
    table: Table, items: pl.DataFrame, items_label: str, wanted: dict[str, str]
) -> _Events:
    """Read the interactions, replace ids by numbers, and sort by user and time."""
    user_column, item_column, time_column = wanted
    _refuse_no_rows(table)
    user, item_id = (as_id(table, name, wanted[name]) for name in (user_column, item_column))
    with reading(table.label):
        users = (
            table.frame.select(user_id=user)
            .group_by("user_id")
            .len()
            .sort("user_id")
            .collect(engine="streaming")
        )
    if users["user_id"].has_nulls():
        _refuse_empty(table, user, user_column)
    time = _as_time(table, time_column)
    numbers = {
        column: known.select(column).with_row_index(number).lazy()
        for column, known, number in (("user_id", users, "user"), ("item_id", items, "item"))
    }
    with reading(table.label):
        frame = (
            table.frame.select(user_id=user, item_id=item_id, time=time)
            .join(numbers["user_id"], on="user_id", how="left", maintain_order="left")
            .join(numbers["item_id"], on="item_id", how="left", maintain_order="left")
            .select("user", "item", "time")
            .collect(engine="streaming")
        )
    if not len(frame) == int(users["len"].sum()) == table.num_rows:
        raise DataError(
            f"{table.label} has {table.num_rows:,} rows, but {len(frame):,} were read. It may have "
            "been changed meanwhile: prepare it again"
        )
    if frame["item"].has_nulls() or frame["time"].has_nulls():
        _refuse_empty(table, item_id, item_column)
        _refuse_no_times(table, time, time_column)
        _refuse_unknown(table, item_id, items, items_label)
    times = frame["time"].to_numpy()
    # By user, then by time. Stable, so that events of the same time stay in file order. Polars
    # takes three times as much work and more memory for two keys.
    order = np.lexsort((times, frame["user"].to_numpy()))
    return _Events(
        user_ids=users["user_id"],
        items=frame["item"].to_numpy()[order].astype(np.int32) + 1,
        times=times[order],
        offsets=np.concatenate([[0], np.cumsum(users["len"].to_numpy())]).astype(np.int64),
    )


def _doubts(table: Table, events: _Events, time_column: str) -> list[str]:
    """Return what is possible but seldom meant."""
    notes = []
    if events.user_ids.str.ends_with(".0").all():
        notes.append(
            "every user id ends in .0, which pandas makes of whole numbers beside missing ones; "
            "they are kept so"
        )
    first = str(table.look(pl.col(time_column), head=1).item())
    units = {unit for time in (events.times.min(), events.times.max()) for unit in _units(time)}
    if first.strip().isdigit() and len(units) > 1:
        notes.append(
            f"the times from {events.times.min()} to {events.times.max()} look like "
            f"{' and '.join(sorted(units))}: if they are mixed, their order is wrong"
        )
    return notes


def _units(time: int) -> list[str]:
    """Return what a clock time after 1973 is counted in, by its size; nothing if that is open."""
    units = {10: "seconds", 13: "milliseconds", 16: "microseconds", 19: "nanoseconds"}
    return [unit for digits, unit in units.items() if 10 ** (digits - 2) <= time < 10**digits]


def _refuse_unknown(table: Table, item_id: pl.Expr, items: pl.DataFrame, items_label: str) -> None:
    """Refuse interactions with items that are not in the catalogue."""
    unknown = ~item_id.is_in(items["item_id"].implode())
    count = table.look(item_id.filter(unknown).n_unique()).item()
    table.refuse_rows(
        unknown,
        f"item {{}} has no row in {items_label}; {count:,} item(s) are missing there. Add them, "
        "or remove their interactions",
        item_id,
    )


# --- Times --------------------------------------------------------------------------------------


def _as_time(table: Table, column: str) -> pl.Expr:
    """Return a column of times as int64 that sorts as it does; null where a value is no time.

    What text and fractions are is decided by a look at the whole column.
    """
    dtype = table.frame.collect_schema()[column]
    if not (dtype == pl.String or dtype.is_numeric() or dtype in (pl.Date, pl.Datetime)):
        raise DataError(
            f"{table.label}: column {column!r} is {dtype}, but times are numbers, dates or ISO "
            "8601 text. Convert it, or name another column with --time-column"
        )
    times = pl.col(column)
    if dtype == pl.String:
        text = times.str.strip_chars()
        numbers = text.cast(pl.Int64, strict=False)
        if not table.look(numbers.has_nulls()).item():
            return numbers
        times = text.cast(pl.Float64, strict=False)
        # The first row decides what kind of column this is.
        if table.look(times, head=1).item() is None:
            return _parse_iso(table, text)
    elif dtype in (pl.Date, pl.Datetime):
        return times.to_physical().cast(pl.Int64)
    elif dtype.is_integer():
        return times.cast(pl.Int64, strict=False)
    seconds = times.cast(pl.Float64)
    seconds = pl.when(seconds.is_finite()).then(seconds)
    if table.look((seconds == seconds.floor()).all()).item():
        return seconds.cast(pl.Int64, strict=False)
    # The order is all that is needed. Bits of positive floats sort as the floats do, those of
    # negative ones the other way round.
    bits = seconds.reinterpret(dtype=pl.Int64)
    return pl.when(bits >= 0).then(bits).otherwise(LEAST - bits)


def _refuse_no_times(table: Table, time: pl.Expr, column: str) -> None:
    """Refuse rows without a time."""
    raw = pl.col(column)
    expected = "Expected numbers, dates or ISO 8601 text, one kind in the whole column"
    first = table.look(raw.filter(time.is_null()).first()).item()
    empty = first in (None, "")
    complaint = f"column {column!r} is empty" if empty else "{} is not a time"
    table.refuse_rows(time.is_null(), f"{complaint}. {expected}", raw)


def _parse_iso(table: Table, text: pl.Expr) -> pl.Expr:
    """Parse ISO 8601 dates and times; without an offset they are UTC.

    They become microseconds, or nanoseconds if any has a seventh digit.
    """
    text = (
        text.str.replace(r"^(\d{4}-\d{2}-\d{2})$", "${1}T00:00:00")
        .str.replace(r"^(\d{4}-\d{2}-\d{2})[ t]", "${1}T")
        .str.replace(r" ?(?:[zZ]|UTC|GMT)$", "+00:00")  # BigQuery writes UTC
        .str.replace(r" ([+-]\d{2}:?(?:\d{2})?)$", "${1}")
        .str.replace(r"T(\d{2}:\d{2})([+-]|$)", "T${1}:00${2}")
        .str.replace(r"(:\d{2}),(\d)", "${1}.${2}")
        .str.replace(r"(T[\d:.]+)$", "${1}+00:00")
    )
    moment = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us")
    microseconds = moment.to_physical()
    digits = text.str.extract(r"\.\d{6}(\d{1,3})")
    if table.look(digits.is_null().all()).item():
        return microseconds
    nanoseconds = digits.str.pad_end(3, "0").cast(pl.Int64).fill_null(0)
    # The years 1677 to 2262 are all that 64 bits can hold; others are refused.
    fits = microseconds.abs() < 2**63 // 1000 - 1
    return pl.when(fits).then(microseconds * 1000 + nanoseconds)


# --- Splitting ----------------------------------------------------------------------------------


def _split(events: _Events, label: str, config: PrepareConfig) -> IntArray:
    """Split as asked; refuse data that leaves nothing to validate or test on."""
    lengths = np.diff(events.offsets)
    if config.split == "leave-one-out":
        split = leave_one_out(lengths)
        advice = "No user has three events. Use data with longer histories"
    else:
        if _are_positions(events):
            raise DataError(
                f"{label}: the times of every user are 0, 1, 2, ..., so they are positions and not "
                "clock times, and no moment is the same for all users. Use --split leave-one-out"
            )
        split = temporal(events.times, events.offsets, config.valid_share, config.test_share)
        advice = (
            "No user has events both before and in that period. Change --valid-share and "
            "--test-share, or use --split leave-one-out"
        )
    for part, column in (("validation", 1), ("test", 2)):
        if (split[:, column] < 0).all():
            raise DataError(f"{label} leaves no {part} target. {advice}")
    return split


def _are_positions(events: _Events) -> bool:
    """Tell whether the times of every user are 0, 1, 2, ... or 1, 2, 3, ..."""
    first = events.times[0]
    return first in (0, 1) and all(
        (events.times[part.events] - part.positions == first).all()
        for part in user_parts(events.offsets)
    )


def _hold_out(
    events: _Events, split: IntArray, label: str, config: PrepareConfig
) -> tuple[np.ndarray, IntArray, IntArray, IntArray]:
    """Return events, offsets, split and cold items, the cold items held out of training.

    Raises:
        DataError: items were to be held out, and no target of one kind is left.
    """
    if not config.cold_share:
        return events.items, events.offsets, split, np.empty(0, dtype=np.int64)
    cold_items = choose_cold_items(events.items, config.cold_share, config.seed)
    items, offsets, split = hold_out_items(events.items, events.offsets, split, cold_items)
    tested = split[:, 2] >= 0
    is_cold = np.isin(items[offsets[:-1][tested] + split[tested, 2]], cold_items)
    left = {
        "training event": split[:, 0].sum(),
        "validation target": (split[:, 1] >= 0).sum(),
        "cold test target": is_cold.sum(),
        "warm test target": (~is_cold).sum(),
    }
    for kind, count in left.items():
        if count == 0:
            raise DataError(
                f"{label}: holding out {len(cold_items):,} item(s) leaves no {kind}. Change "
                "--cold-share, or --seed for another choice"
            )
    logger.info(
        "%s cold items; of %s test targets %s are cold",
        *(f"{count:,}" for count in (len(cold_items), len(is_cold), is_cold.sum())),
    )
    return items, offsets, split, cold_items


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare a data set as the command line asks."""
    prepare(parse_flags(PrepareConfig, (__doc__ or "").partition("\n")[0], argv))


if __name__ == "__main__":
    run_main(main)
