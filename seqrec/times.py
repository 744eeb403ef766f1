"""Columns of times: numbers, dates or ISO 8601 text, as whole numbers that sort as they do."""

from typing import Literal

from seqrec.errors import DataError
from seqrec.tables import Table

import polars as pl

LEAST = -(2**63)  # of int64; the bits of -0.0

# What the whole numbers are; those of one kind sort together. Of fractions they are the bits.
TimeKind = Literal[
    "whole numbers", "fractions", "days", "milliseconds", "microseconds", "nanoseconds"
]
UNITS: dict[str, TimeKind] = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def as_time(table: Table, column: str) -> tuple[pl.Expr, TimeKind]:
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
            return numbers, "whole numbers"
        times = text.cast(pl.Float64, strict=False)
        # The first row decides what kind of column this is.
        if table.look(times.first()).item() is None:
            return _parse_iso(table, text)
    elif dtype in (pl.Date, pl.Datetime):
        kind = UNITS[dtype.time_unit] if isinstance(dtype, pl.Datetime) else "days"
        return times.to_physical().cast(pl.Int64), kind
    elif dtype.is_integer():
        return times.cast(pl.Int64, strict=False), "whole numbers"
    seconds = times.cast(pl.Float64)
    seconds = pl.when(seconds.is_finite()).then(seconds)
    if table.look((seconds == seconds.floor()).all()).item():
        return seconds.cast(pl.Int64, strict=False), "whole numbers"
    # The order is all that is needed. Bits of positive floats sort as the floats do, those of
    # negative ones the other way round.
    bits = seconds.reinterpret(dtype=pl.Int64)
    return pl.when(bits >= 0).then(bits).otherwise(LEAST - bits), "fractions"


def refuse_no_times(table: Table, time: pl.Expr, column: str) -> None:
    """Refuse rows without a time."""
    raw = pl.col(column)
    expected = "Expected numbers, dates or ISO 8601 text, one kind in the whole column"
    first = table.look(raw.filter(time.is_null()).first()).item()
    empty = first in (None, "")
    complaint = f"column {column!r} is empty" if empty else "{} is not a time"
    table.refuse_rows(time.is_null(), f"{complaint}. {expected}", raw)


def _parse_iso(table: Table, text: pl.Expr) -> tuple[pl.Expr, TimeKind]:
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
        return microseconds, "microseconds"
    nanoseconds = digits.str.pad_end(3, "0").cast(pl.Int64).fill_null(0)
    # The years 1677 to 2262 are all that 64 bits can hold; others are refused.
    fits = microseconds.abs() < 2**63 // 1000 - 1
    return pl.when(fits).then(microseconds * 1000 + nanoseconds), "nanoseconds"


def units_of(time: int) -> list[str]:
    """Return what a clock time after 1973 is counted in, by its size; nothing if that is open."""
    units = {10: "seconds", 13: "milliseconds", 16: "microseconds", 19: "nanoseconds"}
    return [unit for digits, unit in units.items() if 10 ** (digits - 2) <= time < 10**digits]
