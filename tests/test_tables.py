"""Files of tables against Python's `csv` and `json`: rows in are rows out, or one line names one."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path

from seqrec import text_tables
from seqrec.errors import DataError
from seqrec.tables import open_log
from seqrec.text_tables import CsvFile, open_text

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

HEADER = ["user_id", "item_id", "timestamp", "query"]
WANTED = {"user_id": "--user-column", "item_id": "--item-column", "timestamp": "--time-column"}


def by_the_csv_module(body: str, width: int) -> list[list[str]]:
    """Read rows as Python does; raises if a row is not what its writer can have meant."""
    rows = []
    for row in csv.reader(io.StringIO(body, newline=""), strict=True):
        if not row or (len(row) == 1 and not row[0].strip()):
            continue
        if any(row[width:]):
            raise csv.Error("too many fields")
        rows.append(row[:width] + [""] * (width - len(row)))
    return rows


def by_us(path: Path, columns: list[str]) -> list[list[str]]:
    with open_text(path) as stream:
        frames = list(CsvFile(path, stream, columns).frames(columns))
    return [[value or "" for value in row] for frame in frames for row in frame.iter_rows()]


@pytest.mark.parametrize("block", [16, 2**24])
@settings(max_examples=300, deadline=None)
@given(body=st.text(st.sampled_from('ab1 ,;"\n\r\t\x00é\ufeff'), max_size=40))
@example(body='a,b,19" tv\nb,a,"x"\na,a,20" tv\n')
@example(body='"a","b","c"\r\n"a\r\nb","","d"\r\n')
@example(body="a,b,c\n\n\na,b,c\n   \n")
@example(body='a,b,"never closed\na,b,c\n')
@example(body="\ufeffa,b,c\nx^,b,c\n")
def test_any_text_of_csv_is_read_as_python_reads_it_or_refused(body: str, block: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_tables, "BLOCK", block)
        patch.setattr(text_tables, "ROWS_AT_ONCE", 2 if block < 100 else 1000)
        path = Path(folder) / "log.csv"
        path.write_bytes(b"u,i,t\n" + body.encode())
        try:
            expected = by_the_csv_module(body, 3)
        except csv.Error:
            with pytest.raises(DataError, match=r"log\.csv, row \d+: "):
                by_us(path, ["u", "i", "t"])
        else:
            assert by_us(path, ["u", "i", "t"]) == expected
            assert by_us(path, ["i"]) == [row[1:2] for row in expected]
