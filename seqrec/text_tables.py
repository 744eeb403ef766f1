"""CSV and TSV -> frames of text, with every row of a file accounted for.

A block of CSV is handed to Polars only where its meaning is beyond doubt: it holds no quote, no
blank line and no carriage return that stands alone, and the rows that come back are as many as its
lines. From the first other block on, a file is read by Python's `csv` in strict mode, at a quarter
of the speed, and what that cannot read is refused with its row. Columns that nobody asked for are
parsed too: a quote in one of them could swallow rows.
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
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

from seqrec.errors import DataError

import polars as pl

BLOCK = 2**22  # characters that are parsed at once; more of them are not faster
ROWS_AT_ONCE = 1000  # by Python: more of them leave a processor's cache
ROWS_IN_FRAME = 2**16  # a frame costs a millisecond, whatever is in it
SEPARATORS = ",;\t|"
MARKS = {  # with which a file of this encoding begins
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is the beginning of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
csv.field_size_limit(sys.maxsize)  # Python's own limit is 128 KiB


def _unpack_zstd(path: Path) -> Any:
    """Unpack Zstandard by Polars; Python can from 3.14 on. Line ends become plain ones."""
    file = tempfile.TemporaryFile()
    pl.scan_lines(path, glob=False).sink_csv(file, include_header=False, quote_style="never")
    file.seek(0)
    return file


# By a file's first bytes, whatever its name says.
UNPACKERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": _unpack_zstd,
}


@contextlib.contextmanager
def open_text(path: Path, newline: str = "") -> Iterator[TextIO]:
    """Open a file of text without its byte-order mark, unpacked if it is packed.

    Args:
        path: of UTF-8, whose wrong bytes become surrogates, or of UTF-16 or UTF-32 with a mark.
        newline: as of `open`.

    Raises:
        DataError: while it is read in the block, if it is damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(6)
        unpack = next((UNPACKERS[magic] for magic in UNPACKERS if start.startswith(magic)), None)
        opened: Any = unpack(path) if unpack else path.open("rb")
        with opened as stream:
            start = stream.peek(4)[:4]
            encoding = next((MARKS[mark] for mark in MARKS if start.startswith(mark)), "utf-8")
            errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
            yield io.TextIOWrapper(stream, encoding, errors, newline)
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


def to_frames(
    path: Path, num_before: int, chunks: Iterable[tuple[int, Mapping[str, Sequence[Any]]]]
) -> Iterator[pl.DataFrame]:
    """Put chunks of rows, their number and their columns, together to frames of text.

    Raises:
        DataError: a value is no Unicode.
    """
    columns: dict[str, list[Any]] = {}
    count = 0

    def frame() -> pl.DataFrame:
        try:
            return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
        except UnicodeEncodeError:
            for name, values in columns.items():
                for row, value in enumerate(values, num_before + 1):
                    if value is not None and re.search("[\ud800-\udfff]", value):
                        refuse_row(
                            path, row, f"column {name!r} is not UTF-8. Export it again as UTF-8"
                        )
            raise

    for num_rows, chunk in chunks:
        for name in {**columns, **chunk}:
            column = columns.setdefault(name, [None] * count)
            column.extend(chunk.get(name, [None] * num_rows))
        count += num_rows
        if count >= ROWS_IN_FRAME:
            yield frame()
            num_before, count, columns = num_before + count, 0, {}
    if count:
        yield frame()


# --- CSV ----------------------------------------------------------------------------------------


class CsvFile:
    """A header, and rows of fields between separators.

    Attributes:
        names: of the columns, in file order.
        num_rows: how many were read so far; blank lines are none.
    """

    def __init__(self, path: Path, text: TextIO, needed: Collection[str]) -> None:
        """Read the header.

        Args:
            path: what messages name.
            text: from `open_text`.
            needed: columns by which the separator is known, if it is not the usual one.
        """
        self.path, self.text, self.num_rows = path, text, 0
        begun = iter(lambda: text.readline(BLOCK), "")
        not_blank = (line for line in begun if line.strip("\r\n \t"))
        line = next(not_blank, "")
        said = re.fullmatch(r'"?sep=([,;:|\t^~])"?', line.rstrip("\r\n"), re.IGNORECASE)
        if said:  # by Excel
            line = next(not_blank, "")
        self.separator = said[1] if said else self._separator_of(line, needed)
        lines = chain([line], text)  # a quoted name may have several
        try:
            self.names: list[str] = next(csv.reader(lines, delimiter=self.separator, strict=True))
        except StopIteration:
            raise DataError(f"{path} is empty. Export it again") from None
        except csv.Error as error:
            refuse_row(path, 0, f"{error}. A quote inside quoted text has to be doubled")

    def _separator_of(self, line: str, needed: Collection[str]) -> str:
        usual = "\t" if ".tsv" in self.path.name.lower() else ","
        for separator in (usual, *SEPARATORS):
            with contextlib.suppress(csv.Error):
                if set(needed) <= set(next(csv.reader([line], delimiter=separator), [])):
                    return separator
        return usual

    def frames(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield all rows in file order, of these columns; a field that is not there is null.

        Raises:
            DataError: a row cannot be read, or is the header again, as where files were joined.
        """
        num_rows, header = 0, tuple(columns)
        for frame in self._frames(columns):
            for row in (frame.to_series(0) == header[0]).arg_true():
                if frame.row(row) == header:
                    advice = "Remove it, or keep the files apart as parts in a folder"
                    refuse_row(self.path, num_rows + row + 1, f"the header again. {advice}")
            num_rows += len(frame)
            yield frame

    def _frames(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        rest = ""
        while block := self.text.read(BLOCK):
            rows, end, rest = (rest + block).rpartition("\n")
            frame = self._read_plainly(rows + end, columns)
            if frame is None:  # where a row ends is known only by reading on from here
                rest = rows + end + rest + self.text.readline()
                break
            self.num_rows += len(frame)
            yield frame
        yield from to_frames(self.path, self.num_rows, self._read_strictly(rest, columns))

    def _read_plainly(self, rows: str, columns: Sequence[str]) -> pl.DataFrame | None:
        """Have Polars read whole lines, None if that might be wrong."""
        is_plain = (
            '"' not in rows
            and rows.count("\r") == rows.count("\r\n")
            and not rows.startswith(("\n", "\r\n"))
            and "\n\n" not in rows
            and "\n\r\n" not in rows
            and len(self.names) > 1
        )
        if not is_plain:
            return None
        # A header of ours: the beginning of a block would be taken for a mark or a magic number.
        header = self.separator.join(f"column_{number}" for number in range(len(self.names)))
        try:
            frame = pl.read_csv(
                f"{header}\n{rows}".encode("utf-8", "surrogateescape"),
                separator=self.separator,
                quote_char=None,
                infer_schema=False,  # all as text: an id such as "007" must not become a number
                empty_string_is_null=False,
            )
        except pl.exceptions.PolarsError:
            return None
        first, second = frame.to_series(0), frame.to_series(1)
        # Lost lines; or, perhaps, a line of blanks.
        if (
            len(frame) != rows.count("\n")
            or (first.filter(second == "").str.strip_chars() == "").any()
        ):
            return None
        return pl.DataFrame({name: frame.to_series(self.names.index(name)) for name in columns})

    def _read_strictly(
        self, begun: str, columns: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, Sequence[Any]]]]:
        """Have Python read what has begun so and the rest; name a row that it cannot read."""
        lines = chain(io.StringIO(begun, newline=""), self.text)
        reader = csv.reader(lines, delimiter=self.separator, strict=True)
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
