"""The events of a log, as arrays sorted by user and time."""

from dataclasses import dataclass

from seqrec.artifact import release_pages
from seqrec.errors import DataError
from seqrec.splits import IntArray, user_parts
from seqrec.tables import Table, as_id, reading, refuse_empty
from seqrec.times import TimeKind, as_time, refuse_no_times, units_of

import numpy as np
import polars as pl

NO_IDS = pl.Series("user_id", [], dtype=pl.String)


@dataclass(frozen=True)
class Events:
    """All users' events, sorted by user and time."""

    user_ids: pl.Series  # (U,)
    items: np.ndarray  # int32 (E,), from 1
    times: IntArray  # (E,)
    time_kind: TimeKind
    offsets: IntArray  # (U + 1,)


def read_events(
    table: Table,
    items: pl.DataFrame,
    items_label: str,
    wanted: dict[str, str],
    known_users: pl.Series = NO_IDS,
) -> Events:
    """Read the interactions, replace ids by numbers, and sort by user and time.

    Args:
        table: the interactions.
        items: has `item_id`; row i is item i + 1.
        items_label: what messages call the items.
        wanted: the columns of user, item and time, mapped to their flags.
        known_users: ids; these users are the first ones, with or without events in the table.

    Raises:
        DataError: a row has no user, no time, or no item that is known.
    """
    user_column, item_column, time_column = wanted
    user, item_id = (as_id(table, name, wanted[name]) for name in (user_column, item_column))
    time, time_kind = as_time(table, time_column)
    with reading(table.label):
        rows = table.frame.select(user_id=user, item_id=item_id, time=time)
        users = rows.group_by("user_id").len().sort("user_id").collect(engine="streaming")
        users = _number_users(users, known_users)
        for numbers in (users.drop("len"), items.select("item_id").with_row_index("item")):
            column = numbers.columns[1]
            rows = rows.join(numbers.lazy(), on=column, how="left", maintain_order="left")
        frame = rows.select("user", "item", "time").collect(engine="streaming")
    if not len(frame) == int(users["len"].sum()) == table.num_rows:
        raise DataError(
            f"{table.label} has {table.num_rows:,} rows, but {len(frame):,} were read. It may have "
            "been changed meanwhile: prepare it again"
        )
    if any(column.has_nulls() for column in frame):
        refuse_empty(table, user, user_column)
        refuse_empty(table, item_id, item_column)
        refuse_no_times(table, time, time_column)
        _refuse_unknown(table, item_id, items, items_label)
    times = frame["time"].to_numpy()
    # By user, then by time. Stable, so that events of the same time stay in file order. Polars
    # takes three times as much work and more memory for two keys.
    order = np.lexsort((times, frame["user"].to_numpy()))
    new_ids = users["user_id"].filter(users["user"] >= len(known_users))
    offsets = np.zeros(len(known_users) + len(new_ids) + 1, dtype=np.int64)
    offsets[1 + users["user"].to_numpy().astype(np.int64)] = users["len"].to_numpy()
    return Events(
        user_ids=pl.concat([known_users, new_ids]),
        items=frame["item"].to_numpy()[order].astype(np.int32) + 1,
        times=times[order],
        time_kind=time_kind,
        offsets=np.cumsum(offsets),
    )


def _number_users(users: pl.DataFrame, known: pl.Series) -> pl.DataFrame:
    """Add the column `user`: the row among the known users; new ones come after those, in order."""
    ids = pl.col("user_id")
    numbers = known.to_frame().with_row_index("user").filter(ids.is_in(users["user_id"].implode()))
    is_new = ~ids.is_in(numbers["user_id"].implode()).fill_null(False)  # null is refused later
    return pl.concat(
        [
            numbers.join(users, on="user_id"),
            users.filter(is_new).with_row_index("user", offset=len(known)),
        ]
    )


def doubts(table: Table, events: Events, time_column: str) -> list[str]:
    """Return what is possible but seldom meant."""
    notes = []
    if events.user_ids.str.ends_with(".0").all():
        notes.append(
            "every user id ends in .0, which pandas makes of whole numbers beside missing ones; "
            "they are kept so"
        )
    ends = events.times.min(), events.times.max()
    release_pages(events.times)
    units = {unit for time in ends for unit in units_of(time)}
    if len(units) > 1 and str(table.look(pl.col(time_column).first()).item()).strip().isdigit():
        notes.append(
            f"the times from {ends[0]} to {ends[1]} look like {' and '.join(sorted(units))}: if "
            "they are mixed, their order is wrong"
        )
    return notes


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


def are_positions(events: Events) -> bool:
    """Tell whether the times of every user are 0, 1, 2, ... or 1, 2, 3, ..."""
    first = events.times[0]
    return first in (0, 1) and all(
        (events.times[part.events] - part.positions == first).all()
        for part in user_parts(events.offsets)
    )
