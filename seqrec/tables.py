"""Reading tables: all rows of the files of `seqrec.table_files`.

They are Parquet, or CSV, TSV and JSON lines, which may be packed (see `seqrec.text_tables`). Rows
are counted when the files are opened, so that the reader can tell whether all have come.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrec.errors import DataError
from seqrec.json_lines import json_lines, text_of
from seqrec.table_files import columns_in_path, kind_of, table_files
from seqrec.text_tables import CsvFile, open_text

import polars as pl

TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class Table:
    """A table and what messages call it."""

    label: str
    frame: pl.LazyFrame
    parts: tuple[tuple[str, int], ...]  # labels and numbers of rows, in order
    names: tuple[str, ...]  # of all columns, also those that `frame` lacks

    @property
    def num_rows(self) -> int:
        """How many rows all parts have."""
        return sum(count for _, count in self.parts)

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
        for label, count in self.parts:
            if row <= count:
                shown = complaint.replace("{}", repr(rows["value"][0]))
                raise DataError(f"{label}, row {row}: {shown}{more}")
            row -= count
        raise AssertionError("a row beyond the last one")

    @classmethod
    def of_parts(
        cls,
        label: object,
        frame: pl.LazyFrame,
        parts: Sequence[tuple[str, int]],
        names: Iterable[str],
        wanted: Mapping[str, str],
    ) -> "Table":
        """Make a table that has rows, and each wanted column (mapped to its flag) somewhere.

        Raises:
            DataError: it has not.
        """
        table = cls(str(label), frame, tuple(parts), tuple(names))
        if table.num_rows == 0:
            raise DataError(f"{label} holds no rows. Export it again")
        require(table.label, table.names, wanted)
        return table

    @classmethod
    def of_frame(cls, label: str, frame: pl.DataFrame, wanted: Mapping[str, str]) -> "Table":
        """Make such a table of one part."""
        return cls.of_parts(label, frame.lazy(), [(label, len(frame))], frame.columns, wanted)


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


# --- Text ---------------------------------------------------------------------------------------


def _read_text(
    part: Path,
    root: Path,
    columns: Sequence[str] | None,
    ids: Sequence[str],
    names: dict[str, None],
    wanted: Mapping[str, str],
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file of text, all columns if None; `names` gets those that occur."""
    in_path = columns_in_path(part, root)
    with open_text(part) as stream:
        if kind_of(part) in (".jsonl", ".ndjson"):
            yield from json_lines(part, stream, columns, ids, in_path, names)
            return
        file = CsvFile(part, stream, set(wanted) - set(in_path))
        present = dict.fromkeys(file.names)
        literals = _literals(in_path, present)
        read = {**wanted}
        if columns is None:
            read |= {name: "" for name in present if name.strip() and name not in wanted}
        require(str(part), [*file.names, *literals], read)
        names.update(dict.fromkeys([*present, *literals]))
        for frame in file.frames([name for name in columns or present if name in present]):
            frame = frame.with_columns(**literals)
            yield frame if columns is None else frame[list(columns)]


def _literals(in_path: Mapping[str, str | None], held: Iterable[str]) -> dict[str, pl.Expr]:
    """Return the columns in a file's path that the file itself does not have."""
    return {name: pl.lit(in_path[name], pl.String) for name in in_path if name not in held}


# --- Logs ---------------------------------------------------------------------------------------


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
    parts = table_files(path)
    if kind_of(parts[0]) == ".parquet":
        yield _scan_log(path, parts, wanted)
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="seqrec-")
    except OSError as error:
        raise DataError(f"{error}. Set TMPDIR to a folder that can be written") from error
    with folder as name:
        yield _keep_log(path, parts, wanted, Path(name))


def _keep_log(path: Path, parts: Sequence[Path], wanted: Mapping[str, str], folder: Path) -> Table:
    """Write the wanted columns of text to a folder, as text, and open what was written."""
    columns = list(wanted)
    names: dict[str, None] = {}
    files: list[Path] = []
    counts: list[tuple[str, int]] = []
    for part in parts:
        num_rows = 0
        for frame in _read_text(part, path, columns, columns[:2], names, wanted):
            num_rows += len(frame)
            files.append(folder / f"{len(files):06d}.parquet")
            try:
                frame.write_parquet(files[-1], compression="lz4", statistics=False)
            except (OSError, pl.exceptions.PolarsError) as error:
                raise DataError(
                    f"{folder} cannot be written ({error}), where what is read of the log is kept "
                    "for a moment. Set TMPDIR to a folder with more room"
                ) from error
        counts.append((str(part), num_rows))
    scan = pl.scan_parquet(files, glob=False, hive_partitioning=False) if files else pl.LazyFrame()
    return Table.of_parts(path, scan, counts, names, wanted)


def _scan_log(path: Path, parts: Sequence[Path], wanted: Mapping[str, str]) -> Table:
    """Open Parquet parts, whose columns may have different orders; rows are counted by footers."""
    scans: list[pl.LazyFrame] = []
    counts: list[tuple[str, int]] = []
    names: dict[str, None] = {}
    for part in parts:
        scan = _scan_part_of(part, path, wanted)
        with reading(str(part)):
            counts.append((str(part), int(scan.select(pl.len()).collect().item())))
        names.update(dict.fromkeys(scan.collect_schema()))
        scans.append(scan.select(list(wanted)))
    schemas = [scan.collect_schema() for scan in scans]
    common = {
        name: _common_type(
            [(part, schema[name]) for part, schema in zip(parts, schemas, strict=True)], name
        )
        for name in wanted
    }
    frame = pl.concat([scan.cast(common) for scan in scans])  # type: ignore[arg-type]
    return Table.of_parts(path, frame, counts, names, wanted)


def _common_type(dtypes: Sequence[tuple[Path, pl.DataType]], column: str) -> pl.DataType:
    """Return what a column of several parts is read as.

    Raises:
        DataError: parts disagree in more than the width of whole numbers.
    """

    def kind(dtype: pl.DataType) -> pl.DataType:
        if dtype.is_integer() and dtype != pl.UInt64:
            return pl.Int64()
        return pl.String() if dtype in TEXT_TYPES else dtype

    (first, common), *others = dtypes
    for part, dtype in others:
        if kind(dtype) != kind(common):
            raise DataError(
                f"column {column!r} is {common} in {first}, but {dtype} in {part}. Write all parts "
                "alike"
            )
    return common if all(dtype == common for _, dtype in others) else kind(common)


def scan_part(part: Path) -> pl.LazyFrame:
    """Open one Parquet file, its path taken literally."""
    return pl.scan_parquet(part, glob=False, hive_partitioning=False)


def _scan_part_of(part: Path, root: Path, wanted: Mapping[str, str]) -> pl.LazyFrame:
    """Open a Parquet file of a table with the columns of its path; refuse it if one is missing."""
    with reading(str(part)):
        scan = scan_part(part)
        held = scan.collect_schema()
    literals = _literals(columns_in_path(part, root), held)
    require(str(part), [*held, *literals], wanted)
    return scan.with_columns(**literals)


# --- Catalogues ---------------------------------------------------------------------------------


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
    names: dict[str, None] = {}
    not_text: dict[str, str] = {}
    frames: list[pl.DataFrame] = []
    counts: list[tuple[str, int]] = []
    for part in table_files(path):
        if kind_of(part) == ".parquet":
            read = [_parquet_as_text(part, path, wanted, not_text)]
        else:
            read = list(_read_text(part, path, None, list(wanted)[:1], names, wanted))
        frames += read
        counts.append((str(part), sum(map(len, read))))
    frame = pl.concat(frames, how="diagonal") if frames else pl.DataFrame()
    names.update(dict.fromkeys(frame.columns))
    return Table.of_parts(path, frame.lazy(), counts, names, wanted), not_text


def _parquet_as_text(
    part: Path, root: Path, wanted: Mapping[str, str], not_text: dict[str, str]
) -> pl.DataFrame:
    """Read a Parquet file of items; `not_text` gets the types of the columns that are no text."""
    id_column, title_column = wanted
    scan = _scan_part_of(part, root, wanted)
    schema = scan.collect_schema()
    require_ids(str(part), id_column, schema[id_column], wanted[id_column])
    foreign = {name: str(dtype) for name, dtype in schema.items() if not _is_text(dtype)}
    if title_column in foreign:
        raise DataError(
            f"{part}: column {title_column!r} is {foreign[title_column]}, which is no text. "
            f"Name another with {wanted[title_column]}"
        )
    not_text.update(foreign)
    with reading(str(part)):
        frame = scan.drop(foreign).collect(engine="streaming")
        return pl.DataFrame([_as_text(column) for column in frame])


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
