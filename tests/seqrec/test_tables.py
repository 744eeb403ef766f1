"""Files of tables against Python's `csv` and `json`: all rows are read, or one line names a row."""

import bz2
import csv
import gzip
import io
import lzma
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec import json_lines, text_tables
from seqrec.errors import DataError
from seqrec.events import read_events
from seqrec.tables import Part, Table
from seqrec.text_tables import CsvFile, open_text

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.seqrec.table_folder import ABC, HEADER, Tables, rows


def by_the_csv_module(body: str, width: int) -> list[list[str]]:
    """Read rows as Python does; raises if a row is not what its writer can have meant."""
    rows_read = []
    for row in csv.reader(io.StringIO(body, newline=""), strict=True):
        if not row or (len(row) == 1 and not row[0].strip()):
            continue  # a blank line
        if any(row[width:]):
            raise csv.Error("too many fields")
        rows_read.append(row[:width] + [""] * (width - len(row)))
    return rows_read


def by_us(path: Path, columns: list[str]) -> list[list[str]]:
    with open_text(path) as stream:
        frames = list(CsvFile(path, stream, columns).frames(columns))
    return [[value or "" for value in row] for frame in frames for row in frame.iter_rows()]


# --- No row is lost ----------------------------------------------------------------------------


@pytest.mark.parametrize("block", [16, 2**22])
@settings(max_examples=150, deadline=None)
@given(body=st.text(st.sampled_from('ab1 ,;"\n\r\t\x00é\ufeff'), max_size=40))
@example(body='a,b,19" tv\nb,a,"x"\na,a,20" tv\n')
@example(body='"a","b","c"\r\n"a\r\nb","","d"\r\n')
@example(body="a,b,c\n\n\na,b,c\n   \n")
@example(body='a,b,"never closed\na,b,c\n')
@example(body="\ufeffa,b,c\nx^,b,c\n")
def test_any_text_of_csv_is_read_as_python_reads_it_or_a_row_is_named(
    body: str, block: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_tables, "BLOCK", block)
        for module in (text_tables, json_lines):
            patch.setattr(module, "ROWS_AT_ONCE", 2 if block == 16 else 1000)
        patch.setattr(text_tables, "ROWS_IN_FRAME", 3 if block == 16 else 2**16)
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


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: _zstd(content),
}


def _zstd(content: bytes) -> bytes:
    buffer = io.BytesIO()
    lines = pl.Series("x", content.decode().removesuffix("\n").split("\n")).to_frame()
    kwargs: dict[str, Any] = {"compression": "zstd", "check_extension": False}
    lines.write_csv(buffer, include_header=False, quote_style="never", **kwargs)
    return buffer.getvalue()


names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=8
).filter(lambda name: name[0] not in "._" and len(name.encode()) < 60)
queries = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=8)
parts_of_a_log = st.lists(
    st.tuples(
        names,
        st.sampled_from(["", "deeper/", "day=1/"]),
        st.sampled_from(sorted(PACKINGS)),
        st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abc"), queries), max_size=4),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".parquet"])
@settings(max_examples=25, deadline=None)
@given(parts=parts_of_a_log, odd=st.sampled_from(["log", "log[1]", "*", "a?", "~", "%20", "{x}"]))
def test_the_events_are_those_of_all_parts_whatever_their_names_and_packing(
    kind: str, parts: list[tuple[str, str, str, list[tuple[str, str, str]]]], odd: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(Path(folder))
        contents: dict[str, list[tuple[str, str, str]]] = {}
        first = [("u", item, 'an "x"') for item in "abc"]
        for name, below, packing, events in [("first", "", "", first), *parts]:
            file = f"{odd}/{below}{name}{kind}{'' if kind == '.parquet' else packing}"
            if file not in contents:
                contents[file] = events
                frame = pl.DataFrame(events, ["user_id", "item_id", "query"], orient="row")
                frame = frame.cast(pl.String).with_columns(timestamp=pl.lit(7))
                content = tables.write(f"plain{kind}", frame).read_bytes()
                if kind != ".parquet":  # a blank line is no row
                    content = PACKINGS[packing](content + b"\n")
                tables.write(file, content)
        # One time for all: the order is that of the files, by name, and of the rows in them.
        expected: dict[str, str] = {}
        for file in sorted(contents, key=lambda file: Path(file).parts):
            for user, item, _ in contents[file]:
                expected[user] = expected.get(user, "") + item
        assert tables.read(tables.folder / odd) == expected


@pytest.mark.parametrize("kind", [".csv", ".tsv"])
def test_inch_marks_in_a_column_that_is_not_used_swallow_no_row(tables: Tables, kind: str) -> None:
    events = [
        f"{user},{item},{time},{query}"
        for user, query in (("u1", '19" tv'), ("u2", "shoes"), ("u3", '"20 inch" tv'), ("u4", 'a"'))
        for time, item in enumerate("abc", 1)
    ]
    text = "\n".join([f"{HEADER},query", *events]) + "\n"
    if kind == ".tsv":
        text = text.replace(",", "\t")
    plain = tables.write(f"plain{kind}", text.replace('"20 inch"', '20"'))
    assert tables.read(plain) == dict.fromkeys(["u1", "u2", "u3", "u4"], "abc")
    message = tables.refusal(tables.write(f"odd{kind}", text))
    assert f"odd{kind}, row 7: " in message


def test_a_table_with_fewer_rows_than_were_counted_is_refused() -> None:
    frame = pl.LazyFrame({"user_id": ["u"], "item_id": ["a"], "timestamp": [1]})
    table = Table("log", frame, [Part("log", frame, 3, ())])
    wanted = {name: "--flag" for name in ("user_id", "item_id", "timestamp")}
    with pytest.raises(DataError, match="log has 3 rows, but 1 were read"):
        read_events(table, pl.DataFrame({"item_id": ["a"]}), "items", wanted)


# --- Which files -------------------------------------------------------------------------------


def test_a_path_with_brackets_is_itself_and_not_its_neighbour(tables: Tables) -> None:
    tables.write("log1.csv", rows("wrong"))
    assert tables.read(tables.write("log[1].csv", rows("right"))) == {"right": "abc"}
    inside = tables.write("d [v1]/log*.csv", rows("right"))
    output = tables.folder / "out [v1]"
    assert tables.read(inside, output_dir=output) == {"right": "abc"}
    assert tables.read(inside.parent, output_dir=output) == {"right": "abc"}
    items = tables.write("i?.csv", ABC)
    texts = tables.prepare(inside, items, output_dir=tables.folder / "*").items
    assert texts["title"].to_list() == ["Alpha", "Beta", "Gamma"]


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        ("_delta_log/00000000000000000000.json", "Delta"),
        ("metadata/v1.metadata.json", "Iceberg"),
        ("metadata/version-hint.text", "Iceberg"),
        (".hoodie/hoodie.properties", "Hudi"),
    ],
)
def test_tables_that_keep_removed_files_are_refused(tables: Tables, mark: str, name: str) -> None:
    tables.write("log/day=1/part.csv", rows("u"))
    tables.write(f"log/{mark}", "{}")
    for folder in ("log", "log/day=1", "."):
        message = tables.refusal(tables.folder / folder)
        assert f"a table of {name} (see {mark.split('/')[0]}" in message
        assert f'spark.read.format("{name.lower()}")' in message


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_columns_in_the_names_of_folders_are_read(tables: Tables, kind: str) -> None:
    for user in ("u%201", "u2"):
        if kind == ".csv":
            tables.write(f"log/user_id={user}/a.csv", "item_id,timestamp\nb,2\na,1\n")
        else:
            columns = {"item_id": ["b", "a"], "timestamp": [2, 1]}
            tables.write(f"log/user_id={user}/a.parquet", columns)
    tables.write(
        f"log/user_id=u2/b{kind}", (tables.folder / f"log/user_id=u2/a{kind}").read_bytes()
    )
    assert tables.read(tables.folder / "log") == {"u 1": "ab", "u2": "aabb"}
    if kind == ".parquet":  # a part that has the column itself, as its last
        columns = {"item_id": ["c"], "timestamp": [3], "user_id": ["u2"]}
        tables.write("log/user_id=u3/z.parquet", columns)
        assert tables.read(tables.folder / "log") == {"u 1": "ab", "u2": "aabbc"}


def test_what_a_folder_holds_beside_its_parts_is_named(tables: Tables) -> None:
    tables.write("log/part-0.csv", rows("u"))
    tables.write("log/deep/part-1.xlsx", "PK")
    message = tables.refusal(tables.folder / "log")
    assert "deep/part-1.xlsx would be left out" in message


def test_hidden_parts_are_said_and_links_are_followed_once(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tables.write("log/part-0.csv", rows("u"))
    tables.write("log/_part-1.csv", rows("v"))
    tables.write("log/._part-0.csv", "what macOS keeps of a file")
    tables.write("elsewhere/part-2.csv", rows("w"))
    os.symlink(tables.folder / "elsewhere", tables.folder / "log/linked")
    os.symlink(tables.folder / "log", tables.folder / "log/itself")
    assert tables.read(tables.folder / "log") == {"u": "abc", "w": "abc"}
    assert "_part-1.csv is not read" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.csv.gz", gzip.compress(rows("u").encode())[:-9]),
        ("cut.csv.xz", lzma.compress(rows("u").encode())[:-9]),
        ("cut.csv.zst", _zstd(rows(*(f"u{i * 7919 % 10007}" for i in range(2000))).encode())[:-99]),
        ("tail.csv.gz", gzip.compress(rows("u").encode()) + b"tail"),
    ],
)
def test_a_damaged_packed_file_is_refused(tables: Tables, name: str, content: bytes) -> None:
    assert f"{name} cannot be read to its end" in tables.refusal(tables.write(name, content))


def test_packed_files_of_several_pieces_are_read_whole(tables: Tables) -> None:
    head, tail = rows("u").encode(), b"v,a,1\n"
    for ending, pack in PACKINGS.items():
        log = tables.write(f"log.csv{ending}", pack(head) + pack(tail))
        assert tables.read(log) == {"u": "abc", "v": "a"}
        misnamed = tables.write(f"no{ending[1:]}.csv", pack(head))
        assert tables.read(misnamed) == {"u": "abc"}


# --- Parts of different kinds ------------------------------------------------------------------


def test_parts_may_have_their_columns_in_other_orders_and_others_beside(tables: Tables) -> None:
    tables.write("log/0.csv", rows("u"))
    tables.write("log/1.csv", HEADER + "\n")
    tables.write("log/2.csv", "x,timestamp,item_id,user_id\n,1,a,v\n,2,b,v\n")
    assert tables.read(tables.folder / "log") == {"u": "abc", "v": "ab"}


def test_a_part_without_header_or_without_a_column_is_named(tables: Tables) -> None:
    tables.write("log/0.csv", rows("u"))
    part = tables.write("log/1.csv", "v,a,1\nv,b,2\n")
    assert "1.csv has no column 'user_id'; it has 'v', 'a', '1'" in tables.refusal(part.parent)
    part.write_text("user_id,item_id\nv,a\n")
    assert "1.csv has no column 'timestamp'" in tables.refusal(part.parent)


def test_files_put_together_with_their_headers_are_refused(tables: Tables) -> None:
    message = tables.refusal(tables.write("log.csv", rows("u") + rows("v")))
    assert "log.csv, row 4: the header again" in message
    log = tables.write("ok.csv", rows("u"))
    items = tables.write("twice.csv", ABC + ABC.replace("a,", "d,"))
    assert "twice.csv, row 4: the header again" in tables.refusal(log, items)


def test_parquet_parts_may_differ_in_the_width_of_numbers_and_in_nothing_else(
    tables: Tables,
) -> None:
    columns: dict[str, Any] = {"user_id": [1, 1], "item_id": ["b", "a"]}
    tables.write("log/0.parquet", {**columns, "timestamp": pl.Series([2, 1], dtype=pl.Int32)})
    tables.write("log/1.parquet", {"timestamp": [4, 3], "x": [None, None], **columns})
    assert tables.read(tables.folder / "log") == {"1": "abab"}
    part = tables.write("log/2.parquet", {**columns, "timestamp": ["4", "3"]})
    message = tables.refusal(part.parent)
    assert "column 'timestamp' is Int32 in " in message
    assert "2.parquet" in message
    for unit in ("ms", "us"):
        times = pl.Series([4, 3], dtype=pl.Datetime(unit))  # type: ignore[arg-type]
        tables.write(f"units/{unit}.parquet", {**columns, "timestamp": times})
    message = tables.refusal(tables.folder / "units")
    assert "column 'timestamp' is Datetime" in message
