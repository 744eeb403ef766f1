"""Tables of items: ids, titles, and the columns that are read as text."""

import re
from pathlib import Path

from seqrec.errors import DataError
from seqrec.tables import (
    Table,
    as_id,
    open_catalogue,
    refuse_empty,
    require,
    wanted_columns,
)

import polars as pl

# Row numbers as pandas, R and Polars leave them in a file; the latter only if they are numbers.
IS_ROW_NUMBER = re.compile(r"\s*|Unnamed: \d+(\.\d+)*|__index_level_\d+__|\.\.\.\d+")
MAY_BE_ROW_NUMBER = re.compile(r"index|level_\d+|row_?(nr|num|number|id|index)|_c0", re.IGNORECASE)


def read_items(path: Path, *, id_column: str, title_column: str) -> pl.DataFrame:
    """Read a table of items: `item_id`, `title` and further text columns, rows in file order.

    Raises:
        DataError: it is not usable; the line names file, row and what to do.
    """
    columns = wanted_columns({"--items-id-column": id_column, "--title-column": title_column})
    return check_items(open_catalogue(path, columns)[0], columns)


def check_items(table: Table, columns: dict[str, str]) -> pl.DataFrame:
    """Check a table of items and name its columns; `columns`: of id and title, with their flags."""
    id_column, title_column = columns
    names = table.frame.collect_schema().names()
    for column, name in ((id_column, "item_id"), (title_column, "title")):
        if column != name and name in names:
            raise DataError(
                f"{table.label} has both {name!r} and {column!r}, which is to become {name!r}. "
                "Rename or drop one of them"
            )
    ids = as_id(table, id_column, "--items-id-column")
    # Not by expressions: "*" and "^x$" may be names of columns.
    read = {column.name: column.fill_null("") for column in table.frame.collect()}
    titles, texts = read[title_column], {n: read[n] for n in names if n not in columns}
    refuse_empty(table, ids, id_column)
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


def choose_text(
    items: pl.DataFrame,
    not_text: dict[str, str],
    label: str,
    title_column: str,
    text_columns: tuple[str, ...] | None,
) -> tuple[pl.DataFrame, list[str]]:
    """Keep the columns that are read as an item's text; return notes of which those are, too."""
    others = [name for name in items.columns if name not in ("item_id", "title")]
    if text_columns is None:
        numbers = {name: "row numbers" for name in others if _is_row_number(items[name])}
        chosen = [name for name in others if name not in numbers]
        left_out = numbers | not_text
    else:
        chosen = [c for c in text_columns if c not in (title_column, "title")]
        for name in chosen:
            if name in not_text:
                raise DataError(
                    f"{label}: column {name!r} is {not_text[name]}, which is no text. Leave it out "
                    "of --text-columns"
                )
        require(label, others, dict.fromkeys(chosen, "--text-columns"))
        left_out = {name: "not asked for" for name in (*others, *not_text) if name not in chosen}
    notes = [f"read as an item's text: {', '.join(map(repr, [title_column, *chosen]))}"]
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
