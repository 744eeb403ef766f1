"""What callers give a recommender: ids, lists of them and numbers, in the types of any library.

numpy, pandas, Polars, PyArrow and torch are recognized by what their things can do: none is
imported. What cannot be read is a `TypeError` or a `ValueError` that says what was given.
"""

import operator
from collections.abc import Mapping
from numbers import Number
from typing import Any
from uuid import UUID

import numpy as np

TO_LIST = ("to_pylist", "as_py", "to_list", "tolist")  # PyArrow, its scalars, data frames, numpy
IDS = "a text, or a number that is written so in the catalogue"


def shown(value: object) -> str:
    """Return a value and its type for a message, on one line and cut."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"


def whole_number(value: Any, what: str) -> int:
    """Return a whole number of at least 1, an int of Python, numpy or another library.

    >>> whole_number(np.uint8(3), "k")
    3

    Raises:
        TypeError: it is something else; True and 5.0 are.
        ValueError: it is below 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{what} is {shown(value)}, expected a whole number")
    if number < 1:
        raise ValueError(f"{what} is {number}, expected at least 1")
    return number


def as_list(value: Any, what: str, *, of: str = "item ids", ordered: bool = True) -> list[Any]:
    """Return the elements of a list, array, Series or generator.

    Args:
        value: what was given. Elements stay what they are, lists of lists nested.
        what: what it is called in messages.
        of: what it holds.
        ordered: the order matters, so that a set will not do.

    Raises:
        TypeError: it is a single thing, a table, a mapping, or has no order.
        ValueError: it is a text.
    """
    if isinstance(value, list | tuple):
        return list(value)
    expected = f"expected a list of {of}"
    if isinstance(value, str):
        raise ValueError(f"{what} is the text {value[:60]!r}, {expected}")
    if hasattr(type(value), "columns") or isinstance(value, Mapping):
        raise TypeError(f"{what} is {shown(value)}, {expected}, such as one column of a table")
    if ordered and isinstance(value, set | frozenset):
        raise TypeError(f"{what} is {shown(value)}, which has no order; {expected}, oldest first")
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{what} is {shown(value)}, {expected}")
    is_float = "float" in str(getattr(value, "dtype", "")).lower()
    if is_float and getattr(value, "ndim", 1) > 0 and not hasattr(value, "requires_grad"):
        return list(np.asanyarray(value))  # whose numbers still say how exact they are
    convert = next((getattr(value, name) for name in TO_LIST if hasattr(value, name)), None)
    try:
        elements = iter(value) if convert is None else convert()
    except TypeError:
        elements = None
    if elements is None or isinstance(elements, str | bytes) or not np.iterable(elements):
        raise TypeError(f"{what} is {shown(value)}, {expected}")
    return list(elements)


def item_number(value: Any, numbers: Mapping[str, int], where: str) -> int | None:
    """Return the number of the item whose id, written as text, is `value`.

    Args:
        value: one id. 1, np.int64(1), 1.0 (what data frames make of 1 beside missing values) and
            b"1" are the item "1".
        numbers: of all items, by their ids.
        where: what it is called in messages.

    Returns:
        None if the catalogue lacks it, or it is a missing value (None, NaN, pandas.NA).

    Raises:
        TypeError: it is no id: a list, say.
        ValueError: it has lost digits, as a large number does that became a float.
    """
    if isinstance(value, str):
        return numbers.get(value)
    if isinstance(value, float | np.floating) and not value - 1 < value < value + 1:
        if value != value:
            return None
        raise ValueError(
            f"{where} is {shown(value)}: so large a float has lost digits. Give the id as a text"
        )
    if hasattr(value, "as_py"):
        return item_number(value.as_py(), numbers, where)
    if getattr(value, "ndim", None) == 0:  # a scalar of numpy or torch
        plain = value.tolist()
        if type(plain) is not type(value):
            return item_number(plain, numbers, where)
    if value is None or _is_missing(value):
        return None
    if isinstance(value, bytes):
        return numbers.get(value.decode(errors="surrogateescape"))
    if hasattr(type(value), "__iter__"):
        raise TypeError(
            f"{where} is {shown(value)}, expected one id. Several histories are for recommend_batch"
        )
    if (number := numbers.get(str(value))) is not None:
        return number
    if isinstance(value, float | np.floating):
        return numbers.get(str(int(value))) if value.is_integer() else None
    if isinstance(value, Number | UUID) and not isinstance(value, bool):
        return None
    raise TypeError(f"{where} is {shown(value)}, expected an id: {IDS}")


def _is_missing(value: Any) -> bool:
    """Tell NaN, NaT and pandas' NA from everything else."""
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # NA is neither; an array is both
        return type(value).__name__ == "NAType"
