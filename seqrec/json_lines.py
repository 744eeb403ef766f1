"""JSON lines -> frames of text, with every row of a file accounted for."""

import io
import json
import math
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from seqrec.text_tables import Stream, refuse_row, to_frames

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
    stream: Stream,
    columns: Sequence[str] | None,
    ids: Collection[str],
    names: dict[str, None],
) -> Iterator[pl.DataFrame]:
    """Return the rows of a file of JSON objects, one on a line; blank lines are no rows.

    Args:
        path: what messages name.
        stream: from `open_text`.
        columns: those to read, numbers and text; or None for all, which then are text for a reader.
        ids: columns whose numbers have to be whole; they are read in any case.
        names: gets the columns that occur.

    Raises:
        DataError: a row cannot be read.
    """
    text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="\n")  # type: ignore
    lines = (line for line in text if not line.isspace())
    return to_frames(path, 0, _json_rows(path, lines, columns, ids, names))


def _json_rows(
    path: Path,
    lines: Iterator[str],
    columns: Sequence[str] | None,
    ids: Collection[str],
    names: dict[str, None],
) -> Iterator[tuple[int, dict[str, list[str | None]]]]:
    num_rows = 0
    while some := list(islice(lines, ROWS_AT_ONCE)):
        rows = [_to_object(path, number, line) for number, line in enumerate(some, num_rows + 1)]
        present: dict[str, None] = {}
        for row in rows:
            present |= dict.fromkeys(row)
        names.update(present)
        read: dict[str, list[str | None]] = {}
        for name in {**dict.fromkeys(ids), **present} if columns is None else columns:
            values = [row.get(name) for row in rows]
            if columns is None and name not in ids:
                read[name] = [text_of(value) for value in values]
            else:
                read[name] = [
                    value
                    if type(value) is str
                    else _to_cell(path, number, name, value, name in ids)
                    for number, value in enumerate(values, num_rows + 1)
                ]
        yield len(rows), read
        num_rows += len(rows)


def _to_object(path: Path, row: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        refuse_row(
            path,
            row,
            f"no JSON ({getattr(error, 'msg', error)}). Expected one JSON object on each line",
        )
    if not isinstance(value, dict):
        refuse_row(path, row, f"a {type(value).__name__}. Expected one JSON object on each line")
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
