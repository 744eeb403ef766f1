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

ROWS_IN_FILE = 2**18  # of what is read from text
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

    def look(self, *columns: pl.Expr, head: int | None = None) -> pl.DataFrame:
        """Read columns, or what is worked out from them, of all rows or the first; in file order.

        Rows stream through: only what comes out has to fit into memory.
        """
        with reading(self.label):
            frame = self.frame if head is None else self.frame.head(head)
            return frame.select(columns).collect(engine="streaming")

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
        if len(rows):
            more = f" ({len(rows):,} such rows)" if len(rows) > 1 else ""
            complaint = complaint.replace("{}", repr(rows["value"][0]))
            label, row = self._part_of(rows["row"][0])
            raise DataError(f"{label}, row {row}: {complaint}{more}")

    def _part_of(self, row: int) -> tuple[str, int]:
        """Return the part that a row of the table is in, and its number there, from 1."""
        for label, count in self.parts:
            if row <= count:
                return label, row
            row -= count
        raise AssertionError("a row beyond the last one")

    @classmethod
    def of_frame(cls, label: str, frame: pl.DataFrame) -> "Table":
        """Make a table of one part."""
        return cls(label, frame.lazy(), ((label, len(frame)),), tuple(frame.columns))


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


def refuse_no_rows(table: Table) -> None:
    """Refuse a table without rows."""
    if table.num_rows == 0:
        raise DataError(f"{table.label} holds no rows. Export it again")


def _common_type(dtypes: Mapping[Path, pl.DataType], column: str) -> pl.DataType:
    """Return what a column of several parts is read as.

    Raises:
        DataError: parts disagree in more than the width of whole numbers.
    """
    (first, common), *others = dtypes.items()
    for part, dtype in others:
        if dtype == common:
            continue
        if all(each.is_integer() and each != pl.UInt64 for each in (common, dtype)):
            common = pl.Int64()
        elif common in TEXT_TYPES and dtype in TEXT_TYPES:
            common = pl.String()
        else:
            raise DataError(
                f"column {column!r} is {common} in {first}, but {dtype} in {part}. Write all parts "
                "alike"
            )
    return common


def open_log(path: Path, wanted: Mapping[str, str], kept: contextlib.ExitStack) -> Table:
    """Open a large table for reading a few columns, more than once.

    Args:
        path: a file or a folder of parts.
        wanted: the columns, two of ids and one of times, mapped to their flags.
        kept: what is read of text is kept in a temporary folder until this is left.

    Raises:
        DataError: a part cannot be read, or lacks a column.
    """
    parts = table_files(path)
    if kind_of(parts[0]) == ".parquet":
        return _scan_parquet(path, parts, wanted)
    ids = list(wanted)[:2]
    names: dict[str, None] = {}
    counts: list[tuple[str, int]] = []

    def frames() -> Iterator[pl.DataFrame]:
        for part in parts:
            counts.append((str(part), 0))
            for frame in _read_text(part, path, list(wanted), ids, names, wanted):
                counts[-1] = (str(part), counts[-1][1] + len(frame))
                yield frame

    try:
        folder = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="seqrec-")))
    except OSError as error:
        raise DataError(f"{error}. Set TMPDIR to a folder that can be written") from error
    frame = _keep(frames(), wanted, folder)
    if sum(count for _, count in counts):
        require(str(path), names, wanted)
    return Table(str(path), frame, tuple(counts), tuple(names))


def _keep(frames: Iterator[pl.DataFrame], columns: Iterable[str], folder: Path) -> pl.LazyFrame:
    """Write frames to a folder as they come, and return all of them."""
    files: list[Path] = []
    waiting: list[pl.DataFrame] = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String))]

    def write() -> None:
        files.append(folder / f"{len(files):06d}.parquet")
        try:
            pl.concat(waiting).write_parquet(files[-1], compression="lz4", statistics=False)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{folder} cannot be written ({error}), where what is read of the log is kept for "
                "a moment. Set TMPDIR to a folder with more room"
            ) from error
        waiting.clear()

    for frame in frames:
        waiting.append(frame)
        if sum(map(len, waiting)) >= ROWS_IN_FILE:
            write()
    if waiting:
        write()
    return pl.scan_parquet(files, glob=False, hive_partitioning=False)


def _read_text(
    part: Path,
    root: Path,
    columns: Sequence[str] | None,
    ids: Sequence[str],
    names: dict[str, None],
    wanted: Mapping[str, str],
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file of text, all columns if None; `names` gets those that occur."""
    present: dict[str, None] = {}
    with open_text(part) as stream:
        if kind_of(part) in (".jsonl", ".ndjson"):
            frames = json_lines(part, stream, columns, ids, present)
        else:
            file = CsvFile(part, stream, set(wanted) - set(columns_in_path(part, root, ())))
            present.update(dict.fromkeys(file.names))
            unnamed = [name for name in file.names if not name.strip()]
            twice = {name for name in present if file.names.count(name) > 1} - set(unnamed)
            require(
                str(part),
                [*file.names, *columns_in_path(part, root, present)],
                wanted if columns else {**wanted, **dict.fromkeys(sorted(twice), "a header")},
            )
            frames = _without_headers(
                part, file.frames([c for c in columns or present if c in present])
            )
        for frame in frames:
            if in_path := columns_in_path(part, root, present):
                frame = frame.with_columns(**in_path)
            yield frame if columns is None else frame[list(columns)]
    names.update(present)
    names.update(dict.fromkeys(columns_in_path(part, root, present)))


def _without_headers(part: Path, frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Refuse a file that is several, one after the other, each with its header."""
    num_rows = 0
    for frame in frames:
        names = tuple(frame.columns)
        for row in (frame.to_series(0) == names[0]).arg_true():
            if frame.row(row) == names:
                raise DataError(
                    f"{part}, row {num_rows + row + 1}: the header again. Remove it, or keep the "
                    "files apart as parts in a folder"
                )
        num_rows += len(frame)
        yield frame


def scan_part(part: Path) -> pl.LazyFrame:
    """Open one Parquet file, its path taken literally."""
    return pl.scan_parquet(part, glob=False, hive_partitioning=False)


def _scan_parquet(path: Path, parts: Sequence[Path], wanted: Mapping[str, str]) -> Table:
    """Open Parquet parts, whose columns may have different orders; rows are counted by footers."""
    dtypes: dict[str, dict[Path, pl.DataType]] = {name: {} for name in wanted}
    scans: list[pl.LazyFrame] = []
    counts: list[tuple[str, int]] = []
    names: dict[str, None] = {}
    uniform = True
    for part in parts:
        with reading(str(part)):
            scan = scan_part(part)
            schema = scan.collect_schema()
            counts.append((str(part), int(scan.select(pl.len()).collect().item())))
        in_path = columns_in_path(part, path, schema)
        names.update(dict.fromkeys([*schema, *in_path]))
        require(str(part), [*schema, *in_path], wanted)
        for name in wanted:
            dtypes[name][part] = schema.get(name, pl.String())
            uniform &= name in schema
        scans.append(scan.with_columns(**in_path).select(list(wanted)))
    common = {name: _common_type(by_part, name) for name, by_part in dtypes.items()}
    if uniform and all(set(dtypes[name].values()) == {common[name]} for name in wanted):
        frame = pl.scan_parquet(
            list(parts), glob=False, hive_partitioning=False, extra_columns="ignore", schema=common
        )
    else:
        frame = pl.concat([scan.cast(common) for scan in scans])  # type: ignore[arg-type]
    return Table(str(path), frame, tuple(counts), tuple(names))


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
    id_column, title_column = wanted
    names: dict[str, None] = {}
    not_text: dict[str, str] = {}
    frames: list[pl.DataFrame] = []
    counts: list[tuple[str, int]] = []
    for part in table_files(path):
        if kind_of(part) == ".parquet":
            read = [_parquet_as_text(part, path, wanted, not_text)]
        else:
            read = list(_read_text(part, path, None, [id_column], names, wanted))
        frames += read
        counts.append((str(part), sum(map(len, read))))
    frame = pl.concat(frames, how="diagonal") if frames else pl.DataFrame()
    names.update(dict.fromkeys(frame.columns))
    if len(frame):
        require(str(path), names, wanted)
    table = Table(str(path), frame.lazy(), tuple(counts), tuple(names))
    return table, not_text


def _parquet_as_text(
    part: Path, root: Path, wanted: Mapping[str, str], not_text: dict[str, str]
) -> pl.DataFrame:
    """Read a Parquet file of items; `not_text` gets the types of the columns that are no text."""
    id_column, title_column = wanted
    with reading(str(part)):
        schema = scan_part(part).collect_schema()
        in_path = columns_in_path(part, root, schema)
        require(str(part), [*schema, *in_path], wanted)
        if id_column in schema:
            require_ids(str(part), id_column, schema[id_column], wanted[id_column])
        foreign = {name: str(dtype) for name, dtype in schema.items() if not _is_text(dtype)}
        if title_column in foreign:
            raise DataError(
                f"{part}: column {title_column!r} is {foreign[title_column]}, which is no text. "
                f"Name another with {wanted[title_column]}"
            )
        not_text.update(foreign)
        frame = scan_part(part).drop(foreign).collect(engine="streaming")
        return pl.DataFrame({column.name: _as_text(column) for column in frame}).with_columns(
            **in_path
        )


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
