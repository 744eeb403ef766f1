"""One frozen dataclass per entry point, turned into command-line flags and into `config.json`.

`num_epochs: int = flag(5, "how long")` becomes `--num-epochs`, with its default in `--help`. A name
that is a word of Python ends in an underscore, which the flag has not: `continue_`, `--continue`.
Unknown flags are refused, and so are abbreviations. `--version` is a flag of every command.
"""

import argparse
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

Config = TypeVar("Config")
Budget = Literal["quick", "best"]  # of a training; see `seqrec.schedule`

PACKAGE = "llm-seqrec"
DEFAULT_DATASET = "ml-100k"
DEFAULT_DATA_DIR = Path("data") / DEFAULT_DATASET
# Counts the changes of code after which the same flags train something else: 2, item tables were
# fused; 3, teachers and students start as a decaying mean of the history.
RECIPE_VERSION = 3


def flag(default: Any, help: str, *, affects_result: bool = True, positional: bool = False) -> Any:
    """Declare a dataclass field with its command-line help text.

    Args:
        default: of the flag; None where the program chooses, `dataclasses.MISSING` where it has to
            be given.
        help: one line.
        affects_result: False for what changes only where, how fast or in how much memory the same
            result is made; such a flag is in no `recipe`.
        positional: whether it is given without its name, or left out.
    """
    metadata = {"help": help, "affects_result": affects_result, "positional": positional}
    return dataclasses.field(default=default, metadata=metadata)


def option(name: str) -> str:
    """Return the command-line flag of a field."""
    return "--" + name.rstrip("_").replace("_", "-")


def _argument_options(annotation: Any) -> dict[str, Any]:
    """Translate a field's type to keyword arguments of `argparse.ArgumentParser.add_argument`."""
    # X | None; of a Literal, Python 3.11 makes it typing.Union
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin is typing.Literal:
        return {"choices": arguments, "type": type(arguments[0])}
    if origin is tuple:
        return {"nargs": "+", "type": arguments[0], "metavar": arguments[0].__name__.upper()}
    return {"type": annotation, "metavar": annotation.__name__.upper()}


def parse_flags(
    config_class: type[Config],
    description: str,
    argv: Sequence[str] | None = None,
    defaults_by: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Config:
    """Read `argv` into a config; exits with code 2 on a bad flag.

    Args:
        config_class: the dataclass.
        description: stands in `--help`.
        argv: the arguments; None: the process's.
        defaults_by: takes the values by field, and returns others for flags that are not given.
    """
    parser = argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PACKAGE} {installed_version()}")
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        options = _argument_options(hints[field.name])
        required = field.default is dataclasses.MISSING
        if not required:
            options["default"] = field.default
        if field.metadata["positional"]:
            options["nargs"] = "?"
        else:
            options |= {"dest": field.name, "required": required}
        parser.add_argument(
            field.name if field.metadata["positional"] else option(field.name),
            help=field.metadata["help"].replace("%", "%%"),  # argparse fills in what % stands for
            **options,
        )
    given = vars(parser.parse_args(argv))
    if defaults_by is not None:
        parser.set_defaults(**defaults_by(given))
        given = vars(parser.parse_args(argv))
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    try:
        return config_class(**values)
    except ValueError as error:  # a config's __post_init__ checks what only the whole can know
        parser.error(str(error))


def installed_version() -> str:
    """Return this package's version, from its metadata."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:  # a checkout on Python's path, say
        return "of unknown version: it is not installed"


def to_json(config: Any) -> dict[str, Any]:
    """Return a config as plain JSON values: paths become strings, tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return [plain(part) for part in value] if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in dataclasses.asdict(config).items()}


def recipe(config: Any, **extra: Any) -> dict[str, Any]:
    """Return what decides a stage's result, as JSON values: the flags that affect it, and `extra`.

    Two runs with equal recipes make the same thing, so a finished one need not be repeated. With
    `RECIPE_VERSION` among them, what earlier code trained is not taken for today's.
    """
    values = to_json(config)
    fields = (f for f in dataclasses.fields(config) if f.metadata["affects_result"])
    flags = {field.name: values[field.name] for field in fields}
    return {"recipe_version": RECIPE_VERSION, **flags, **extra}


def recipe_digest(wanted: dict[str, Any]) -> str:
    """Return twelve hexadecimal digits that stand for a recipe, for the name of a folder."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]


def default_output_dir(data_dir: Path) -> Path:
    """Return where the stages write for a data set when `--output-dir` is not given."""
    return Path("runs") / data_dir.resolve().name
