"""What a language model is given to read of an item."""

from collections.abc import Mapping
from typing import Any

import polars as pl

MAX_TOKENS = 64  # a title, a brand and a category fit; a long description is cut


def item_texts(items: pl.DataFrame) -> list[str]:
    """Join an item's text columns into one line: title first, then the others in file order.

    >>> item_texts(pl.DataFrame({"item_id": ["1"], "title": ["Heat"], "category": ["Crime"]}))
    ['Heat. Crime']
    """
    columns = ["title", *(c for c in items.columns if c not in ("item_id", "title"))]
    return [". ".join(part for part in row if part) for row in items.select(columns).iter_rows()]


def texts_as_read(items: pl.DataFrame, reader: Mapping[str, Any]) -> list[str]:
    """Return the texts of items that came later, made as those of the catalogue were.

    Args:
        items: `item_id`, `title` and further columns. Of those the catalogue had, missing ones are
            empty; others are not read.
        reader: has `text_columns`, as `teacher.extracting` wrote them.
    """
    columns = [pl.col("item_id")]
    for name in reader["text_columns"]:
        columns.append(pl.col(name) if name in items.columns else pl.lit("").alias(name))
    return item_texts(items.select(columns))
