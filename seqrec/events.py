"""The events of a log, as arrays sorted by user and time."""

from dataclasses import dataclass

from seqrec.errors import DataError
from seqrec.splits import IntArray, user_parts
from seqrec.tables import Table, as_id, reading, refuse_empty
from seqrec.times import as_time, refuse_no_times, units_of

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Events:
    """All users' events, sorted by user and time."""

    user_ids: pl.Series  # (U,)
    items: np.ndarray  # int32 (E,), from 1
    times: IntArray  # (E,)
    offsets: IntArray  # (U + 1,)


def read_events(
    table: Table, items: pl.DataFrame, items_label: str, wanted: dict[str, str]
) -> Events:
    """Read the interactions, replace ids by numbers, and sort by user and time."""
    user_column, item_column, time_column = wanted
    user, item_id = (as_id(table, name, wanted[name]) for name in (user_column, item_column))
    time = as_time(table, time_column)
    with reading(table.label):
        rows = table.frame.select(user_id=user, item_id=item_id, time=time)
        users = rows.group_by("user_id").len().sort("user_id").collect(engine="streaming")
        for known, column, number in ((users, "user_id", "user"), (items, "item_id", "item")):
            numbers = known.select(column).with_row_index(number).lazy()
            rows = rows.join(numbers, on=column, how="left", maintain_order="left")
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
    return Events(
        user_ids=users["user_id"],
        items=frame["item"].to_numpy()[order].astype(np.int32) + 1,
        times=times[order],
        offsets=np.concatenate([[0], np.cumsum(users["len"].to_numpy())]).astype(np.int64),
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
