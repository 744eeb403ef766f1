"""Reading tables: which files there are, and all of their rows.

A table is a file or a folder of parts, also of parts in subfolders: Parquet, or CSV, TSV and JSON
lines, which may be packed (see `seqrec.text_tables`). Paths are taken literally. What a folder
holds beside its parts is refused, not passed over, unless its name says that it is hidden. Rows are
counted when the files are opened, so that who reads them can tell whether all have come.
"""

import contextlib
import logging
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from seqrec.errors import DataError
from seqrec.text_tables import CsvFile, json_lines, open_text, text_of

import polars as pl

logger = logging.getLogger(__name__)

EXTENSIONS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
PACKED = (".gz", ".zst", ".bz2", ".xz")
ROWS_IN_FILE = 2**18  # of what is read from text
# Inside a folder that is more than its files: these say which of them count.
TABLE_FORMATS = {
    "_delta_log": "Delta",
    "metadata/*.metadata.json": "Iceberg",
    "metadata/version-hint.text": "Iceberg",
    ".hoodie": "Hudi",
}
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
            found = (
                self.frame.select(bad=bad, value=pl.lit(None) if value is None else value)
                .with_row_index("row", offset=1)
                .filter("bad")
                .collect(engine="streaming")
            )
        if len(found):
            more = f" ({len(found):,} such rows)" if len(found) > 1 else ""
            complaint = complaint.replace("{}", repr(found["value"][0]))
            label, row = self._place(found["row"][0])
            raise DataError(f"{label}, row {row}: {complaint}{more}")

    def _place(self, row: int) -> tuple[str, int]:
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


# --- Files --------------------------------------------------------------------------------------


def kind_of(path: Path) -> str:
    """Return what a file's name says that it holds, one of `EXTENSIONS`, or ""."""
    name = path.name.lower()
    packing = next((ending for ending in PACKED if name.endswith(ending)), "")
    kind = Path(name.removesuffix(packing)).suffix
    return kind if kind in EXTENSIONS and not (packing and kind == ".parquet") else ""


def table_files(path: Path, kinds: Sequence[str] = EXTENSIONS) -> list[Path]:
    """Return the files of a table: the path itself, or all below a folder, in order of their names.

    Raises:
        DataError: there is none, one is of another kind than the others or empty, or the folder is
            a table of another format.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the path {path!r} is not UTF-8. Rename it") from error
    expected = ", ".join(kinds)
    if not path.exists():
        raise DataError(f"{path} does not exist. Check the path")
    if path.is_dir():
        _refuse_table_format(path, *path.resolve().parents)  # it may be a part of such a table
        parts = sorted(_files_below(path, set()), key=lambda part: part.relative_to(path).parts)
        if strange := [part for part in parts if kind_of(part) not in kinds]:
            raise DataError(
                f"{strange[0]} would be left out: it is none of {expected} "
                f"({len(strange):,} such file(s) in {path}). Unpack, convert or move it"
            )
        if not parts:
            raise DataError(f"{path} is a folder without any {expected} file in it")
    else:
        parts = [path]
        if kind_of(path) not in kinds:
            raise DataError(
                f"{path} has the unknown extension {path.suffix!r}. Expected {expected}"
            )
    found = {kind_of(part) for part in parts}
    if len(found) > 1:
        raise DataError(f"{path} mixes {' and '.join(sorted(found))} files. Keep one kind")
    for part in parts:
        if not part.is_file():
            raise DataError(f"{part} is no file. Write the table into one")
        if part.stat().st_size == 0:
            raise DataError(f"{part} is empty (0 bytes). Export it again")
    return parts


def _files_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders; links are followed, each folder once."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}). Grant access to it"
        ) from error
    for entry in entries:
        # What begins with these is hidden to Spark as well: checksums, unfinished parts.
        if entry.name[0] in "._":
            if kind_of(entry) and not entry.name.startswith("._"):  # macOS writes the latter
                logger.info("%s is not read: its name begins as hidden files' do", entry)
        elif entry.is_dir():
            _refuse_table_format(entry)
            yield from _files_below(entry, seen)
        else:
            yield entry


def _refuse_table_format(*folders: Path) -> None:
    """Refuse folders that hold files which were removed from the table."""
    for above in folders:
        for pattern, name in TABLE_FORMATS.items():
            if next(above.glob(pattern), None) is not None:
                raise DataError(
                    f"{above} is a table of {name} (see {pattern}), whose folder holds files that "
                    "were removed from it too. Write its rows into plain Parquet and give that: "
                    f'spark.read.format("{name.lower()}").load("{above}").write.parquet("plain")'
                )


def _in_path(part: Path, root: Path, own: Container[str]) -> dict[str, pl.Expr]:
    """Return the columns that Hive and Spark write as folders, `day=2025-01-01`.

    Args:
        part: a file of the table.
        root: the table, a folder or `part` itself.
        own: the columns that the file itself has.
    """
    folders = part.relative_to(root).parts[:-1]
    pairs = [map(unquote, folder.split("=", 1)) for folder in folders if "=" in folder]
    missing = "__HIVE_DEFAULT_PARTITION__"
    return {
        name: pl.lit(None if value == missing else value, pl.String)
        for name, value in pairs
        if name not in own
    }


# --- Columns ------------------------------------------------------------------------------------


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


def require(label: str, found: Iterable[str], wanted: Mapping[str, str]) -> None:
    """Raise a `DataError` for the first missing column; `wanted` maps columns to their flags."""
    names = list(found)
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


# --- Logs ---------------------------------------------------------------------------------------


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
    found: dict[str, None] = {}
    with open_text(part) as stream:
        if kind_of(part) in (".jsonl", ".ndjson"):
            frames = json_lines(part, stream, columns, ids, found)
        else:
            file = CsvFile(part, stream, set(wanted) - set(_in_path(part, root, ())))
            found.update(dict.fromkeys(file.names))
            unnamed = [name for name in file.names if not name.strip()]
            twice = {name for name in found if file.names.count(name) > 1} - set(unnamed)
            require(
                str(part),
                [*file.names, *_in_path(part, root, found)],
                wanted if columns else {**wanted, **dict.fromkeys(sorted(twice), "a header")},
            )
            frames = _without_headers(
                part, file.frames([c for c in columns or found if c in found])
            )
        for frame in frames:
            if in_path := _in_path(part, root, found):
                frame = frame.with_columns(**in_path)
            yield frame if columns is None else frame[list(columns)]
    names.update(found)
    names.update(dict.fromkeys(_in_path(part, root, found)))


def _without_headers(part: Path, frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Refuse a file that is several, one after the other, each with its header."""
    num_rows = 0
    for frame in frames:
        names = tuple(frame.columns)
        for place in (frame.to_series(0) == names[0]).arg_true():
            if frame.row(place) == names:
                raise DataError(
                    f"{part}, row {num_rows + place + 1}: the header again. Remove it, or keep the "
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
        in_path = _in_path(part, path, schema)
        names.update(dict.fromkeys([*schema, *in_path]))
        require(str(part), [*schema, *in_path], wanted)
        for name in wanted:
            dtypes[name][part] = schema.get(name, pl.String())
            uniform &= name in schema
        scans.append(scan.with_columns(**in_path).select(list(wanted)))
    common = {name: _common_type(found, name) for name, found in dtypes.items()}
    if uniform and all(set(dtypes[name].values()) == {common[name]} for name in wanted):
        frame = pl.scan_parquet(
            list(parts), glob=False, hive_partitioning=False, extra_columns="ignore", schema=common
        )
    else:
        frame = pl.concat([scan.cast(common) for scan in scans])  # type: ignore[arg-type]
    return Table(str(path), frame, tuple(counts), tuple(names))


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
        in_path = _in_path(part, root, schema)
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
