"""Results on disk: dataclasses to JSON and back, every value checked against its type."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from seqrec.errors import DataError
from seqrec.files import write_json

from benchmarks.report.schema import SCHEMA

T = TypeVar("T")
EXPECTED = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def to_json(value: Any) -> Any:
    """Return a dataclass as plain JSON values; fields that are None are left out."""
    if dataclasses.is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: to_json(inner) for name, inner in named.items() if inner is not None}
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(inner) for inner in value]
    return value


def from_json(annotation: Any, value: Any, name: str = "") -> Any:
    """Return plain JSON values as what an annotation says; fields that it does not name go.

    Raises:
        ValueError: a value is missing or of another type; the message names it.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in arguments if a is not types.NoneType)
        return None if value is None else from_json(inner, value, name)
    if origin is typing.Literal:
        return value if value in arguments else _refuse(name, value, f"one of {arguments}")
    if dataclasses.is_dataclass(annotation):
        return _from_object(annotation, value, name)
    if origin is dict:
        if not isinstance(value, dict):
            _refuse(name, value, "an object")
        return {key: from_json(arguments[1], v, f"{name}.{key}") for key, v in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            _refuse(name, value, "a list")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            _refuse(name, value, f"{len(kinds)} values")
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(from_json(kind, inner, f"{name}[{i}]") for i, (kind, inner) in pairs)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is float:
        is_finite = is_number and math.isfinite(value)
        return float(value) if is_finite else _refuse(name, value, EXPECTED[float])
    return value if type(value) is annotation else _refuse(name, value, EXPECTED[annotation])


def _from_object(annotation: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        _refuse(name, value, "an object")
    hints, found = typing.get_type_hints(annotation), {}
    for field in dataclasses.fields(annotation):
        inner = f"{name}.{field.name}".lstrip(".")
        if field.name in value:
            found[field.name] = from_json(hints[field.name], value[field.name], inner)
        elif field.default is dataclasses.MISSING:
            # What may be None and was None was not written.
            if types.NoneType not in typing.get_args(hints[field.name]):
                raise ValueError(f"{inner} is missing")
            found[field.name] = None
    return annotation(**found)


def _refuse(name: str, value: Any, expected: str) -> Any:
    raise ValueError(f"{name or 'it'} is {value!r:.60}, expected {expected}")


def save(results: Any, file: Path) -> None:
    """Write results, whole or not at all."""
    write_json(file, {"kind": results.KIND, "schema": SCHEMA, **to_json(results)})


def load(results_class: type[T], file: Path) -> T:
    """Read results that `save` wrote.

    Raises:
        DataError: there are none, they are damaged, or of another kind or version; the message
            ends in the command that makes them.
    """
    kind, command = results_class.KIND, results_class.COMMAND  # type: ignore[attr-defined]
    remedy = f"Make it again: {command}"
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no results in {file} ({error.strerror}). Make them: {command}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged ({error}). {remedy}") from error
    found = (value.get("kind"), value.get("schema")) if isinstance(value, dict) else (None, None)
    if found != (kind, SCHEMA):
        raise DataError(
            f"{file} holds results of kind {found[0]!r}, schema {found[1]!r}, expected kind "
            f"{kind!r}, schema {SCHEMA}. {remedy}"
        )
    try:
        results: T = from_json(results_class, value)
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}). {remedy}") from error
    return results
