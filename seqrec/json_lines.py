"""JSON lines -> frames of text, with every row of a file accounted for."""

import json
import math
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from seqrec.text_tables import refuse_row, to_frames

import polars as pl

ROWS_AT_ONCE = 1000


def text_of(value: Any) -> str:
    """Return a value as text: lists joined by commas, nested ones too, objects as JSON.

    >>> text_of([["Books", None], ["Sea"]])
    'Books, Sea'
    """
    match value:
        case None | {} if not value:
            return ""
        case str():
            return value
        case bool():
            return str(value).lower()
        case float() if math.isnan(value):
            return ""
        case list() | tuple():
            return ", ".join(text for part in value if (text := text_of(part)))
        case dict():
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
        case _:
            return str(value)


def json_lines(
    path: Path,
    text: TextIO,
    columns: Sequence[str] | None,
    ids: Collection[str],
    in_path: dict[str, str | None],
    names: dict[str, None],
) -> Iterator[pl.DataFrame]:
    """Return the rows of a file of JSON objects, one on a line; blank lines are no rows.

    Args:
        path: what messages name.
        text: from `open_text`, whose lines end with a line feed.
        columns: those to read, numbers and text; or None for all, which then are text for a reader.
        ids: columns whose numbers have to be whole; they are read in any case.
        in_path: what a row has in columns that it leaves out.
        names: gets the columns that occur.

    Raises:
        DataError: a row cannot be read.
    """
    lines = (line for line in text if not line.isspace())

    def read(name: str, values: list[Any], first: int) -> list[str | None]:
        if columns is None and name not in ids:
            return [text_of(value) for value in values]
        return [
            value if type(value) is str else _to_cell(path, row, name, value, name in ids)
            for row, value in enumerate(values, first)
        ]

    def chunks() -> Iterator[tuple[int, dict[str, list[str | None]]]]:
        first = 1
        while some := list(islice(lines, ROWS_AT_ONCE)):
            rows = [in_path | _to_object(path, row, line) for row, line in enumerate(some, first)]
            present: dict[str, None] = {}
            for row in rows:
                present |= dict.fromkeys(row)
            names.update(present)
            chosen = {**dict.fromkeys(ids), **present} if columns is None else columns
            yield (
                len(rows),
                {name: read(name, [row.get(name) for row in rows], first) for name in chosen},
            )
            first += len(rows)

    return to_frames(path, 0, chunks())


def _to_object(path: Path, row: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        value, is_what = None, f"no JSON ({getattr(error, 'msg', error)})"
    else:
        is_what = f"a {type(value).__name__}"
    if not isinstance(value, dict):
        refuse_row(path, row, f"{is_what}. Expected one JSON object on each line")
    return value


def _to_cell(path: Path, row: int, name: str, value: Any, is_id: bool) -> str | None:
    """Return an id or a time as text; None stays None."""
    if value is None:
        return None
    if type(value) is int or (type(value) is float and not is_id):
        return repr(value)
    expected = "ids are text or whole numbers" if is_id else "times are numbers or text"
    refuse_row(
        path, row, f"column {name!r} is {json.dumps(value)[:40]}, but {expected}. Convert it"
    )
