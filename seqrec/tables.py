"""Reading tables: all rows of the files of `seqrec.table_files`.

They are Parquet, or CSV, TSV and JSON lines, which may be packed (see `seqrec.text_tables`). Rows
are counted when the files are opened, so that the reader can tell whether all have come.
"""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from seqrec.errors import DataError
from seqrec.json_lines import json_lines, text_of
from seqrec.table_files import columns_in_path, kind_of, table_files
from seqrec.text_tables import CsvFile, open_text

import polars as pl

TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class Part:
    """A file of a table, and what messages call it."""

    label: str
    frame: pl.LazyFrame
    num_rows: int
    names: Collection[str]  # of all columns, also those that `frame` lacks


@dataclass(frozen=True)
class Table:
    """A table and what messages call it."""

    label: str
    frame: pl.LazyFrame
    parts: Sequence[Part]  # in order

    @property
    def num_rows(self) -> int:
        """How many rows all parts have."""
        return sum(part.num_rows for part in self.parts)

    @property
    def names(self) -> list[str]:
        """The columns of all parts, each once."""
        return list(dict.fromkeys(name for part in self.parts for name in part.names))

    def look(self, *columns: pl.Expr) -> pl.DataFrame:
        """Read columns, or what is worked out from them, in file order.

        Rows stream through: only what comes out has to fit into memory.
        """
        with reading(self.label):
            return self.frame.select(columns).collect(engine="streaming")

    def refuse_rows(self, bad: pl.Expr, complaint: str, value: pl.Expr | None = None) -> None:
        """Raise a `DataError` that names the first row where `bad` is true, if there is one.

        Args:
            bad: boolean, never null, one per row of the table.
            complaint: what is wrong there and what to do, "{}" for the first bad row's value.
            value: what the complaint shows, if anything.
        """
        with reading(self.label):
            rows = (
                self.frame.select(bad=bad, value=pl.lit(None) if value is None else value)
                .with_row_index("row", offset=1)
                .filter("bad")
                .collect(engine="streaming")
            )
        if not len(rows):
            return
        more = f" ({len(rows):,} such rows)" if len(rows) > 1 else ""
        row = rows["row"][0]
        for part in self.parts:
            if row <= part.num_rows:
                shown = complaint.replace("{}", repr(rows["value"][0]))
                raise DataError(f"{part.label}, row {row}: {shown}{more}")
            row -= part.num_rows
        raise AssertionError("a row beyond the last one")

    def with_columns_of(self, wanted: Mapping[str, str]) -> "Table":
        """Return the table if it has rows and, in some part, each wanted column.

        Args:
            wanted: columns, mapped to their flags.

        Raises:
            DataError: it has not.
        """
        if self.num_rows == 0:
            raise DataError(f"{self.label} holds no rows. Export it again")
        require(self.label, self.names, wanted)
        return self

    @classmethod
    def of_frame(cls, label: str, frame: pl.DataFrame) -> "Table":
        """Make a table of one part."""
        return cls(label, frame.lazy(), [Part(label, frame.lazy(), len(frame), frame.columns)])


@contextlib.contextmanager
def reading(label: str) -> Iterator[None]:
    """Turn a reader's complaint about a file's format into a `DataError`."""
    try:
        yield
    except (
        *(pl.exceptions.PolarsError, pl.exceptions.PanicException),  # the latter of damaged files
        *(OSError, UnicodeError),
    ) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{label} cannot be read as what its extension says ({reason}). Export it again, "
            "text as UTF-8"
        ) from error


def wanted_columns(by_flag: Mapping[str, str]) -> dict[str, str]:
    """Turn flags' columns into columns' flags.

    Raises:
        DataError: two flags name the same column.
    """
    wanted: dict[str, str] = {}
    for option, column in by_flag.items():
        if column in wanted:
            raise DataError(f"{wanted[column]} and {option} both name {column!r}. Name two columns")
        wanted[column] = option
    return wanted


def require(label: str, present: Iterable[str], wanted: Mapping[str, str]) -> None:
    """Raise a `DataError` for the first missing column; `wanted` maps columns to their flags."""
    names = list(present)
    for column, option in wanted.items():
        if column not in names:
            shown = ", ".join(repr(name)[:60] for name in names[:30])
            raise DataError(
                f"{label} has no column {column!r}; it has {shown}. Name the right one with "
                f"{option}; each part needs its header"
            )
        if names.count(column) > 1:
            raise DataError(
                f"{label} has {names.count(column)} columns {column!r}. Rename or drop all but one"
            )


def require_ids(label: str, column: str, dtype: pl.DataType, option: str) -> None:
    """Raise a `DataError` if a column's type is not one of ids."""
    if not (dtype.is_integer() or dtype in TEXT_TYPES):
        raise DataError(
            f"{label}: column {column!r} is {dtype}, but ids are text or whole numbers. "
            f"Convert it, or name another column with {option}"
        )


def as_id(table: Table, column: str, option: str) -> pl.Expr:
    """Return a column of ids as text, null where it is empty; refuse types that are no ids."""
    require_ids(table.label, column, table.frame.collect_schema()[column], option)
    ids = pl.col(column).cast(pl.String)
    return pl.when(ids != "").then(ids)


def refuse_empty(table: Table, ids: pl.Expr, column: str) -> None:
    """Refuse rows without an id."""
    table.refuse_rows(ids.is_null(), f"column {column!r} is empty. Fill it in or remove the row")


@contextlib.contextmanager
def open_log(path: Path, wanted: Mapping[str, str]) -> Iterator[Table]:
    """Open a large table for reading a few columns, more than once.

    What is read of text is kept in a temporary folder until the block is left.

    Args:
        path: a file or a folder of parts.
        wanted: the columns, two of ids and one of times, mapped to their flags.

    Raises:
        DataError: a part cannot be read, or lacks a column.
    """
    empty = pl.DataFrame(schema=dict.fromkeys(wanted, pl.String))
    with contextlib.ExitStack() as kept:
        parts = _open_parts(
            path, wanted, list(wanted), lambda frames: _keep_on_disk(chain([empty], frames), kept)
        )
        common = {name: _common_type(parts, name) for name in wanted}
        scans = [part.frame.select(list(wanted)).cast(common) for part in parts]  # type: ignore
        yield Table(str(path), pl.concat(scans), parts).with_columns_of(wanted)


def open_catalogue(path: Path, wanted: Mapping[str, str]) -> tuple[Table, dict[str, str]]:
    """Read a table of items, every column as text: missing text is null or empty.

    Args:
        path: a file or a folder of parts, which need not have the same columns.
        wanted: the columns of the id and of the title, mapped to their flags.

    Returns:
        The table in memory, and the types of the columns that are no text.

    Raises:
        DataError: a part cannot be read, or lacks a wanted column.
    """
    parts = _open_parts(
        path,
        wanted,
        None,
        lambda frames: pl.concat([pl.DataFrame(), *frames], how="diagonal").lazy(),
    )
    not_text: dict[str, str] = {}
    frame = pl.concat([_as_texts(part, wanted, not_text) for part in parts], how="diagonal")
    return Table(str(path), frame.lazy(), parts).with_columns_of(wanted), not_text


def _open_parts(
    path: Path,
    wanted: Mapping[str, str],
    columns: Sequence[str] | None,
    keep: Callable[[Iterator[pl.DataFrame]], pl.LazyFrame],
) -> list[Part]:
    """Open the files of a table, their columns and those of their paths.

    Args:
        path: a file or a folder of parts.
        wanted: the columns that each file of Parquet or CSV has to have, mapped to their flags.
        columns: those to read of text; None: all.
        keep: what to do with the frames that are read of a file of text.
    """
    parts: list[Part] = []
    for file in table_files(path):
        names: dict[str, None] = {}
        if kind_of(file) == ".parquet":
            frame = _scan_with_path(file, path, wanted)
            names.update(dict.fromkeys(frame.collect_schema()))
        else:
            frame = keep(_read_text(file, path, wanted, columns, names))
        with reading(str(file)):
            num_rows = int(frame.select(pl.len()).collect().item())
        parts.append(Part(str(file), frame, num_rows, names))
    return parts


# --- Parquet ------------------------------------------------------------------------------------


def scan_part(part: Path) -> pl.LazyFrame:
    """Open one Parquet file, its path taken literally."""
    return pl.scan_parquet(part, glob=False, hive_partitioning=False)


def _scan_with_path(part: Path, root: Path, wanted: Mapping[str, str]) -> pl.LazyFrame:
    """Open a Parquet file of a table with the columns of its path; refuse it if one is missing."""
    with reading(str(part)):
        scan = scan_part(part)
        held = scan.collect_schema()
    literals = _literals(columns_in_path(part, root), held)
    require(str(part), [*held, *literals], wanted)
    return scan.with_columns(**literals)


def _literals(in_path: Mapping[str, str | None], held: Iterable[str]) -> dict[str, pl.Expr]:
    """Return the columns in a file's path that the file itself does not have."""
    return {name: pl.lit(in_path[name], pl.String) for name in in_path if name not in held}


def _common_type(parts: Sequence[Part], column: str) -> pl.DataType:
    """Return what a column of several parts is read as.

    Raises:
        DataError: parts disagree in more than the width of whole numbers.
    """

    def kind(dtype: pl.DataType) -> pl.DataType:
        if dtype.is_integer() and dtype != pl.UInt64:
            return pl.Int64()
        return pl.String() if dtype in TEXT_TYPES else dtype

    dtypes = [part.frame.collect_schema()[column] for part in parts]
    for part, dtype in zip(parts, dtypes, strict=True):
        if kind(dtype) != kind(dtypes[0]):
            raise DataError(
                f"column {column!r} is {dtypes[0]} in {parts[0].label}, but {dtype} in "
                f"{part.label}. Write all parts alike"
            )
    return dtypes[0] if len(set(dtypes)) == 1 else kind(dtypes[0])


def _as_texts(part: Part, wanted: Mapping[str, str], not_text: dict[str, str]) -> pl.DataFrame:
    """Read the items of a file as text; `not_text` gets the types of the columns that are none."""
    id_column, title_column = wanted
    schema = part.frame.collect_schema()
    if id_column in schema:  # JSON lines may lack it
        require_ids(part.label, id_column, schema[id_column], wanted[id_column])
    foreign = {name: str(dtype) for name, dtype in schema.items() if not _is_text(dtype)}
    if title_column in foreign:
        raise DataError(
            f"{part.label}: column {title_column!r} is {foreign[title_column]}, which is no text. "
            f"Name another with {wanted[title_column]}"
        )
    not_text.update(foreign)
    with reading(part.label):
        frame = part.frame.drop(foreign).collect(engine="streaming")
        return pl.DataFrame({column.name: _as_text(column) for column in frame})


def _is_text(dtype: pl.DataType) -> bool:
    """Tell whether a column can be read: neither bytes nor anything that holds some."""
    match dtype:
        case pl.List() | pl.Array():
            return _is_text(dtype.inner)  # type: ignore[arg-type]
        case pl.Struct():
            return all(_is_text(field.dtype) for field in dtype.fields)  # type: ignore[arg-type]
        case _:
            return dtype not in (pl.Binary, pl.Object)


def _as_text(column: pl.Series) -> pl.Series:
    """Return a column as text."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
    if column.dtype.is_nested() or column.dtype == pl.Duration:
        return pl.Series(column.name, [text_of(value) for value in column.to_list()], pl.String)
    return column.cast(pl.String)


# --- Text ---------------------------------------------------------------------------------------


def _read_text(
    part: Path,
    root: Path,
    wanted: Mapping[str, str],
    columns: Sequence[str] | None,
    names: dict[str, None],
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file of text, all columns if None; `names` gets those that occur."""
    in_path = columns_in_path(part, root)
    is_json = kind_of(part) in (".jsonl", ".ndjson")
    with open_text(part, "\n" if is_json else "") as text:
        if is_json:
            ids = list(wanted)[:-1]  # then comes a time or a title
            yield from json_lines(part, text, columns, ids, in_path, names)
            return
        file = CsvFile(part, text, set(wanted) - set(in_path))
        literals = _literals(in_path, file.names)
        read = {**wanted}
        if columns is None:
            read |= {name: "" for name in file.names if name.strip() and name not in wanted}
        require(str(part), [*file.names, *literals], read)
        names.update(dict.fromkeys([*file.names, *literals]))
        present = dict.fromkeys(columns or file.names)
        for frame in file.frames([name for name in present if name in file.names]):
            frame = frame.with_columns(**literals)
            yield frame if columns is None else frame[list(columns)]


def _keep_on_disk(frames: Iterator[pl.DataFrame], kept: contextlib.ExitStack) -> pl.LazyFrame:
    """Write frames to a folder that is there until the stack is left, and open what was written."""
    try:
        folder = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="seqrec-")))
    except OSError as error:
        raise DataError(f"{error}. Set TMPDIR to a folder that can be written") from error
    files: list[Path] = []
    for frame in frames:
        files.append(folder / f"{len(files):06d}.parquet")
        try:
            frame.write_parquet(files[-1], compression="lz4", statistics=False)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{folder} cannot be written ({error}), where what is read of the log is kept for "
                "a moment. Set TMPDIR to a folder with more room"
            ) from error
    return pl.scan_parquet(files, glob=False, hive_partitioning=False)
