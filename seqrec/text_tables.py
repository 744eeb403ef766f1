"""CSV and TSV -> frames of text, with every row of a file accounted for.

A block of CSV is handed to Polars only where its meaning is beyond doubt: each field is quoted
whole or not at all (RFC 4180), no line is blank, no carriage return stands alone. The rows that
come back are compared with the line ends that were counted in the bytes. All else, such as an inch
mark or a short row, is read by Python's `csv` in strict mode, and what that cannot read is refused
with its row. Columns that nobody asked for are parsed too: a quote in one of them could swallow
rows.
"""

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

from seqrec.errors import DataError

import numpy as np
import polars as pl

BLOCK = 2**24  # bytes that are parsed at once
ROWS_AT_ONCE = 1000  # by Python: more of them leave a processor's cache
ROWS_IN_FRAME = 2**16  # a frame costs a millisecond, whatever is in it
SEPARATORS = ",;\t|"
ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is the beginning of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
csv.field_size_limit(sys.maxsize)  # Python's own limit is 128 KiB

Stream = io.BufferedIOBase


# --- Bytes --------------------------------------------------------------------------------------


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file to read."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces, self.rest = iter(pieces), memoryview(b"")  # whose parts are no copies

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.rest:
            piece = next(self.pieces, None)
            if piece is None:
                return 0
            self.rest = memoryview(piece)
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        return count


def _as_file(pieces: Iterable[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Pieces(pieces), 2**18)


def _unpack_zstd(path: Path) -> io.BufferedReader:
    """Unpack Zstandard by Polars; Python can from 3.14 on. Line ends become plain ones."""
    batches = pl.scan_lines(path, glob=False).collect_batches(maintain_order=True)
    some = (part for batch in batches for part in batch.iter_slices(2**14))
    return _as_file("\n".join([*part.to_series(), ""]).encode() for part in some)


# By a file's first bytes, whatever its name says.
UNPACKERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": _unpack_zstd,
}


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[Stream]:
    """Open a file as UTF-8 without a byte-order mark, unpacked if it is packed.

    Raises:
        DataError: while it is read in the block, if it is damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(6)
        unpack = next((UNPACKERS[magic] for magic in UNPACKERS if start.startswith(magic)), None)
        opened: Any = unpack(path) if unpack else path.open("rb", 2**18)
        with opened as stream:
            start = stream.peek(4)[:4]
            if start.startswith(codecs.BOM_UTF8):
                stream.read(len(codecs.BOM_UTF8))
            encoding = next((ENCODINGS[mark] for mark in ENCODINGS if start.startswith(mark)), None)
            if encoding is None:
                yield stream
            else:
                text = io.TextIOWrapper(stream, encoding, newline="")
                yield _as_file(piece.encode() for piece in iter(lambda: text.read(2**18), ""))
    except (
        *(OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeError),
        *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
    ) as error:
        raise DataError(
            f"{path} cannot be read to its end ({error}). Export it again, text as UTF-8"
        ) from error


def refuse_row(path: Path, row: int, complaint: str) -> NoReturn:
    """Raise a `DataError` that names a row, from 1; 0 is the header."""
    raise DataError(f"{path}, {f'row {row}' if row else 'header'}: {complaint}")


def _to_frame(path: Path, num_before: int, columns: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """Make a frame of rows, all text; refuse what is no Unicode."""
    try:
        return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    except UnicodeEncodeError:
        for name, values in columns.items():
            for row, value in enumerate(values, num_before + 1):
                if value is not None and re.search("[\ud800-\udfff]", value):
                    refuse_row(path, row, f"column {name!r} is not UTF-8. Export it again as UTF-8")
        raise


def to_frames(
    path: Path, num_before: int, chunks: Iterable[tuple[int, Mapping[str, Sequence[Any]]]]
) -> Iterator[pl.DataFrame]:
    """Put chunks of rows, their number and their columns, together to frames of text."""
    columns: dict[str, list[Any]] = {}
    count = 0
    for num_rows, chunk in chunks:
        for name in {**columns, **chunk}:
            column = columns.setdefault(name, [None] * count)
            column.extend(chunk.get(name, [None] * num_rows))
        count += num_rows
        if count >= ROWS_IN_FRAME:
            yield _to_frame(path, num_before, columns)
            num_before, count, columns = num_before + count, 0, {}
    if count:
        yield _to_frame(path, num_before, columns)


# --- CSV ----------------------------------------------------------------------------------------


class CsvFile:
    """A header, and rows of fields between separators.

    Attributes:
        names: of the columns, in file order.
        num_rows: how many were read so far; blank lines are none.
    """

    def __init__(self, path: Path, stream: Stream, needed: Collection[str]) -> None:
        """Read the header.

        Args:
            path: what messages name.
            stream: from `open_text`.
            needed: columns by which the separator is known, if it is not the usual one.
        """
        self.path, self.stream, self.num_rows = path, stream, 0
        self.separator = "\t" if ".tsv" in path.name.lower() else ","
        line = self._next_line()
        while line.strip("\r\n \t") == "" != line:
            line = self._next_line()
        if said := re.fullmatch(
            r'"?sep=([,;:|\t^~])"?', line.rstrip("\r\n"), re.IGNORECASE
        ):  # Excel's
            self.separator = said[1]
            line = self._next_line()
        else:
            self._choose_separator(line, needed)
        lines = chain([line], iter(self._next_line, ""))  # a quoted name may have several lines
        try:
            names = next(csv.reader(lines, delimiter=self.separator, strict=True), [])
        except csv.Error as error:
            refuse_row(path, 0, f"{error}. A quote inside quoted text has to be doubled")
        if not names:
            raise DataError(f"{path} is empty. Export it again")
        self.names: list[str] = names

    def _next_line(self) -> str:
        stream = self.stream
        line = stream.readline(BLOCK)
        if b"\r" in line.rstrip(b"\r\n"):  # a line end of its own
            line, rest = line.split(b"\r", 1)
            self.stream = _as_file(chain([rest], iter(lambda: stream.read(BLOCK), b"")))
            line += b"\n"
        return line.decode("utf-8", "surrogateescape")

    def _choose_separator(self, line: str, needed: Collection[str]) -> None:
        for separator in (self.separator, *SEPARATORS):
            with contextlib.suppress(csv.Error):
                if set(needed) <= set(next(csv.reader([line], delimiter=separator), [])):
                    self.separator = separator
                    return

    def frames(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield all rows in file order, of these columns; a field that is not there is null.

        Raises:
            DataError: a row cannot be read.
        """
        rest = b""
        while (read := self.stream.read(BLOCK)) or rest:
            block = rest + read
            if not read and not block.endswith(b"\n"):
                block += b"\n"
            end, num_rows = self._plain_rows(block)
            if num_rows is None or (end == 0 and (not read or len(block) > 4 * BLOCK)):
                # Where a row ends is known only by reading on from here.
                pieces = chain([block], iter(lambda: self.stream.read(BLOCK), b""))
                yield from to_frames(self.path, self.num_rows, self._strict_rows(pieces, columns))
                return
            rows, rest = block[:end], block[end:]
            frame = self._read_plainly(rows, num_rows, columns) if rows else None
            if frame is not None:
                self.num_rows += len(frame)
                yield frame
            elif rows:
                yield from to_frames(self.path, self.num_rows, self._strict_rows([rows], columns))

    def _plain_rows(self, block: bytes) -> tuple[int, int | None]:
        """Return where the last whole row ends and how many there are, None if quotes are odd."""
        if b'"' not in block:
            end = block.rfind(b"\n") + 1
            return end, block.count(b"\n", 0, end)
        codes = np.frombuffer(block, dtype=np.uint8)
        quotes, ends = np.flatnonzero(codes == ord('"')), np.flatnonzero(codes == ord("\n"))
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]  # the others are inside quoted text
        if not len(ends):
            return 0, 0
        quotes = quotes[: np.searchsorted(quotes, ends[-1])]
        opening, closing = quotes[::2], quotes[1::2]
        around = np.frombuffer(f'"\r\n{self.separator}'.encode(), dtype=np.uint8)
        is_plain = (
            np.isin(codes[opening[opening > 0] - 1], around).all()
            and np.isin(codes[closing + 1], around).all()
        )
        return int(ends[-1]) + 1, len(ends) if is_plain else None

    def _read_plainly(
        self, rows: bytes, num_rows: int, columns: Sequence[str]
    ) -> pl.DataFrame | None:
        """Have Polars read rows, None if that might be wrong."""
        blank = rows.startswith((b"\n", b"\r\n")) or b"\n\n" in rows or b"\n\r\n" in rows
        if blank or rows.count(b"\r") != rows.count(b"\r\n") or len(self.names) == 1:
            return None
        # A header of ours: the beginning of a block would be taken for a mark or a magic number.
        header = self.separator.join(f"column_{number}" for number in range(len(self.names)))
        try:
            frame = pl.read_csv(
                header.encode() + b"\n" + rows,
                separator=self.separator,
                quote_char='"' if b'"' in rows else None,
                infer_schema=False,  # all as text: an id such as "007" must not become a number
                empty_string_is_null=False,
            )
        except pl.exceptions.PolarsError:
            return None
        if len(frame) != num_rows:
            return None
        first, second = frame.to_series(0), frame.to_series(1)
        if (first.filter(second == "").str.strip_chars() == "").any():  # a line of blanks, perhaps
            return None
        frame.columns = [str(number) for number in range(len(self.names))]
        indices = {name: str(self.names.index(name)) for name in columns}
        return frame.select(pl.col(index).alias(name) for name, index in indices.items())

    def _strict_rows(
        self, pieces: Iterable[bytes], columns: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, Sequence[Any]]]]:
        """Have Python read rows, and name one that it cannot read."""
        text = io.TextIOWrapper(_as_file(pieces), "utf-8", "surrogateescape", newline="")
        reader = csv.reader(text, delimiter=self.separator, strict=True)
        indices = {name: self.names.index(name) for name in columns}
        while True:
            rows: list[list[Any]] = []  # of text, None where a row is short
            try:
                rows.extend(islice(reader, ROWS_AT_ONCE))
            except csv.Error as error:
                row = self.num_rows + len(self._same_width(rows)) + 1
                refuse_row(self.path, row, f"{error}. A quote inside quoted text has to be doubled")
            if not rows:
                return
            if rows := self._same_width(rows):
                fields = list(zip(*rows, strict=True))
                self.num_rows += len(rows)
                yield len(rows), {name: fields[index] for name, index in indices.items()}

    def _same_width(self, rows: list[list[Any]]) -> list[list[Any]]:
        """Drop blank lines, fill short rows up; refuse rows with more fields than names."""
        width = len(self.names)
        if set(map(len, rows)) <= {width} and width > 1:
            return rows
        kept: list[list[Any]] = []
        for row in rows:
            if not row or (len(row) == 1 < width and not (row[0] or "").strip()):
                continue
            if any(row[width:]):
                refuse_row(
                    self.path,
                    self.num_rows + len(kept) + 1,
                    f"{len(row)} fields, but the header has {width}. Put text that holds a "
                    f"{self.separator!r} between double quotes",
                )
            kept.append(row[:width] + [None] * (width - len(row)))
        return kept
