"""Results on disk: dataclasses to JSON and back, every value checked against its type."""

from pathlib import Path
from typing import TypeVar

from seqrec.errors import DataError
from seqrec.files import read_json, write_json

from pydantic import TypeAdapter, ValidationError

from benchmarks.report.schema import SCHEMA, Results

T = TypeVar("T", bound=Results)


def save(results: Results, file: Path) -> None:
    """Write results, whole or not at all; fields that are None are left out."""
    adapter = TypeAdapter(type(results))
    fields = adapter.dump_python(results, mode="json", exclude_none=True)
    write_json(file, {"kind": results.KIND, "schema": SCHEMA, **fields})


def load(results_class: type[T], file: Path) -> T:
    """Read results that `save` wrote.

    Raises:
        DataError: there are none, they are damaged, or of another kind or version; the message
            ends in the command that makes them.
    """
    command = results_class.COMMAND
    remedy = f"Make it again: {command}"
    try:
        value = read_json(file)
        kind, schema = value.get("kind"), value.get("schema")
        if (kind, schema) != (results_class.KIND, SCHEMA):
            raise DataError(
                f"{file} holds results of kind {kind!r}, schema {schema!r}, expected kind "
                f"{results_class.KIND!r}, schema {SCHEMA}. {remedy}"
            )
        return TypeAdapter(results_class).validate_json(file.read_bytes())
    except OSError as error:
        raise DataError(f"no results in {file} ({error.strerror}). Make them: {command}") from error
    except ValidationError as error:
        raise DataError(f"{file} is damaged ({first_fault(error)}). {remedy}") from error
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}). {remedy}") from error


def first_fault(error: ValidationError) -> str:
    """Say on one line which value is wrong first, what it is, and what was expected."""
    fault = error.errors(include_url=False)[0]
    name = ".".join(map(str, fault["loc"])) or "it"
    if fault["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is {fault['input']!r:.60}: {fault['msg']}"
