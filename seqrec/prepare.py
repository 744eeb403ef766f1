"""Tables of interactions and items -> a prepared data set. Entry point: `python -m seqrec.prepare`.

Both tables may be Parquet, CSV, TSV or JSON lines, or a folder of such parts, also in subfolders,
which are read in the order of their names (see `seqrec.tables`). Interactions need a user, an item
and a time; items need an id and a title, and the further columns are text that the teacher can
read: all of them but row numbers and bytes, or those of `--text-columns`. Ids are text: whole
numbers in Parquet and JSON are turned into it, and in CSV "007" stays "007". Ratings are accepted
and not used: each interaction counts as one event.

With `--continue` the interactions are what has happened since another set was prepared, and the
items what has come or changed; the result is the data set that all logs together would have given,
but for the order of users and items, which keep their numbers (see `seqrec.continuing`).

The interactions are read in a stream, twice: a number for user and item and a time are kept of each
event, not the table. Nothing is written unless all is well and every row was read; otherwise one
line names the file, the row and what to do. Rows are counted from 1, header and blank lines not
included.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.catalogue import check_items, choose_text
from seqrec.config import flag, parse_flags, to_json
from seqrec.continuing import (
    Base,
    add_events,
    add_items,
    kept_flags,
    open_base,
    require_columns,
)
from seqrec.data import DATASET, NO_ITEMS, SequenceDataset, write_dataset
from seqrec.errors import DataError, run_main
from seqrec.events import NO_IDS, Events, are_positions, doubts, read_events
from seqrec.files import says, scratch_directory, writing
from seqrec.sources import DATASETS, fetch_dataset
from seqrec.splits import (
    IntArray,
    Split,
    choose_cold_items,
    hold_out_items,
    leave_one_out,
    temporal,
)
from seqrec.table_files import EXTENSIONS
from seqrec.tables import Table, open_catalogue, open_log, wanted_columns

import numpy as np
import polars as pl

logger = logging.getLogger(__name__)

PARTS = {"meta.json", "items.parquet", "user_ids.parquet"} | {
    f"{name}.npy" for name in ("events", "offsets", "split", "cold_items", "times")
}


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What to read, how to split it, and where the prepared data set goes."""

    interactions: Path | None = flag(
        None, "table of interactions: " + ", ".join(EXTENSIONS) + ", or a folder of parts"
    )
    items: Path | None = flag(None, "table of items, in the same formats")
    continue_: Path | None = flag(
        None,
        "prepared data set that --interactions goes on from: they are new events alone. --items is "
        "then the whole new catalogue, or the new and changed items alone, or left out; items that "
        "are not in it stay. Columns and split are those of the set where no flag says otherwise",
    )
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
        if self.continue_ is not None:
            if self.dataset is not None or self.interactions is None:
                raise ValueError("give --interactions, the new log, with --continue")
            if self.text_columns is not None:
                raise ValueError(
                    "--text-columns are those of the set that --continue names. Choose others when "
                    "you prepare all logs at once"
                )
        elif self.dataset is None and files != (True, True):
            raise ValueError("give --interactions and --items, or --dataset")
        if self.dataset is not None and any(files):
            raise ValueError("give either --dataset or --interactions and --items, not both")
        if self.dataset is None and self.output_dir is None:
            raise ValueError("give --output-dir")
        shares = (self.valid_share, self.test_share)
        if not (min(shares) > 0 and sum(shares) < 1):  # of which NaN is neither
            raise ValueError("--valid-share and --test-share must be above 0 and below 1 together")
        if not 0 <= self.cold_share < 1:
            raise ValueError(f"--cold-share {self.cold_share} is not from 0 to below 1")
        if self.cold_share and self.split != "leave-one-out":
            raise ValueError(
                f"--cold-share goes with --split leave-one-out, not with {self.split}: after a "
                "moment there are many events, and only a last one can be a cold target"
            )


def prepare(config: PrepareConfig) -> SequenceDataset:
    """Read and check the tables, split them and write a prepared data set.

    All flags are as `config` says; the command takes those of a set that is continued from there
    (`seqrec.continuing.kept_flags`).

    Raises:
        DataError: the input is not usable, or the output path holds something else; nothing is
            written.
        SourceError: the named data set is unknown or cannot be fetched.
    """
    path = config.output_dir or Path("data") / str(config.dataset)
    _refuse_to_overwrite(path)
    with contextlib.ExitStack() as kept:
        items, events, label, provenance, notes = _read(config, path, kept)
        split = _split(events, label, config)
        sequences, offsets, split, cold_items = _hold_out(events, split, label, config)
        is_whole = not len(cold_items)
        with writing(path):
            dataset = write_dataset(
                path,
                name=config.name or config.dataset or path.resolve().name,
                items=items,
                user_ids=events.user_ids,
                events=sequences,
                offsets=offsets,
                split=split,
                split_name=config.split,
                cold_items=cold_items,
                times=events.times if is_whole else None,
                time_kind=events.time_kind if is_whole else None,
                provenance={**provenance, "prepared_with": to_json(config)},
            )
    for note in notes:
        logger.info("%s", note)
    counts = {key: f"{value:,}" for key, value in dataset.meta.items() if type(value) is int}
    logger.info(
        "{name}: {num_users} users, {num_items} items, {num_events} events; {split}: "
        "{num_valid_targets} validation and {num_test_targets} test targets".format_map(
            dataset.meta | counts
        )
    )
    logger.info("wrote %s, fingerprint %s", dataset.path, dataset.fingerprint)
    return dataset


def prepare_named(name: str, path: Path) -> SequenceDataset:
    """Fetch a named data set and prepare it at `path` with the default, leave-one-out split."""
    return prepare(PrepareConfig(dataset=name, output_dir=path))


def _refuse_to_overwrite(path: Path) -> None:
    """Raise a `DataError` unless `path` is free, empty or a prepared data set and no more."""
    if not path.exists():
        return
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else {path.name}
    is_ours = names <= PARTS and says(path / "meta.json", "format", DATASET.format)
    if names and not is_ours:
        raise DataError(
            f"{path} exists and is not just a prepared data set (see "
            f"{min(names - PARTS, default='meta.json')}), so it is left as it is. Give another "
            "--output-dir, or move it away"
        )


def _read(
    config: PrepareConfig, path: Path, kept: contextlib.ExitStack
) -> tuple[pl.DataFrame, Events, str, dict[str, Any], list[str]]:
    """Read both tables, checked row by row, and add them to the set that is continued, if any.

    Args:
        config: names the tables.
        path: of the set to write.
        kept: until it is left, events may be mapped from a folder beside `path`.

    Returns:
        The items; the events; what messages call the interactions; where both came from; and notes
        of what was read and what was not, to be said once all is well.
    """
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
    opened: contextlib.AbstractContextManager[Table]
    provenance: dict[str, Any] = {}
    catalogue: Table | None = None
    not_text: dict[str, str] = {}
    base = open_base(config.continue_, path) if config.continue_ else None
    if base is not None:
        provenance = {
            **base.dataset.meta.get("provenance", {}),
            "continued": base.dataset.fingerprint,
        }
    if config.dataset is not None:
        raw = fetch_dataset(config.dataset)
        label, provenance = f"data set {config.dataset}", raw.provenance
        catalogue = Table.of_frame(f"{label}, items", raw.items).with_columns_of(columns)
        log = Table.of_frame(f"{label}, interactions", raw.interactions).with_columns_of(wanted)
        opened = contextlib.nullcontext(log)
    else:
        assert config.interactions is not None  # __post_init__ has seen to it
        if config.items is not None:
            catalogue, not_text = open_catalogue(config.items, columns)
        opened = open_log(config.interactions, wanted)
    items, items_label, notes = _read_items(config, base, catalogue, not_text, columns)
    with opened as log:
        known_users = NO_IDS if base is None else base.user_ids
        events = read_events(log, items, items_label, wanted, known_users)
        if base is not None:
            with writing(path):
                folder = kept.enter_context(scratch_directory(path))
                events, note = add_events(base, events, log.label, folder)
            notes.append(note)
        notes += doubts(log, events, config.time_column)
    if config.rating_column in log.names:
        column = repr(config.rating_column)
        notes.append(f"column {column} is not used: each interaction counts as one event")
    return items, events, log.label, provenance, notes


def _read_items(
    config: PrepareConfig,
    base: Base | None,
    catalogue: Table | None,
    not_text: dict[str, str],
    columns: dict[str, str],
) -> tuple[pl.DataFrame, str, list[str]]:
    """Return all items, known ones among them, what messages call them, and notes."""
    if catalogue is None:
        assert base is not None  # __post_init__ has seen to it
        label = f"{base.path}, and --items is not given"
        return base.dataset.items, label, ["no --items: all items stay as they are"]
    items = check_items(catalogue, columns)
    text_columns = config.text_columns
    if base is not None:
        require_columns(base, items, catalogue.label)
        text_columns = base.text_columns
    items, notes = choose_text(items, not_text, catalogue.label, config.title_column, text_columns)
    if base is None:
        return items, catalogue.label, notes
    items, changes = add_items(base, items, catalogue.label)
    return items, f"{catalogue.label} or {base.path}", notes + changes


def _split(events: Events, label: str, config: PrepareConfig) -> IntArray:
    """Split as asked; refuse data that leaves nothing to validate or test on."""
    lengths = np.diff(events.offsets)
    if config.split == "leave-one-out":
        split = leave_one_out(lengths)
        advice = "No user has three events. Use data with longer histories"
    else:
        if are_positions(events):
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


def _hold_out(
    events: Events, split: IntArray, label: str, config: PrepareConfig
) -> tuple[np.ndarray, IntArray, IntArray, IntArray]:
    """Return events, offsets, split and cold items, the cold items held out of training.

    Raises:
        DataError: items were to be held out, and no target of one kind is left.
    """
    if not config.cold_share:
        return events.items, events.offsets, split, NO_ITEMS
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
    prepare(parse_flags(PrepareConfig, (__doc__ or "").partition("\n")[0], argv, _kept_flags))


def _kept_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what flags are that are not given, if a set is continued."""
    return kept_flags(given["continue_"]) if given["continue_"] else {}


if __name__ == "__main__":
    run_main(main)
