"""CSV and JSON lines as other programs write them."""

import json
import tempfile

import pytest

from tests.seqrec.table_folder import ABC, HEADER, Tables, rows


@pytest.mark.parametrize(
    "content",
    [
        rows("u").replace("\n", "\r\n"),
        rows("u").replace("\n", "\r"),
        rows("u").replace("\n", "\r\r\n"),
        "\ufeff" + rows("u"),
        rows("u").encode("utf-16"),
        rows("u").encode("utf-32"),
        rows("u").replace(",", ";"),
        rows("u").replace(",", "\t"),
        "sep=|\r\n" + rows("u").replace(",", "|"),
        "sep=,\r\r\n" + rows("u"),
        "\n" + rows("u").replace("\n", "\n\n") + "  \n\n",
        rows("u").replace("\n", ",\n"),
        rows("u").rstrip("\n"),
        rows("u").replace(",a", ',"a"'),
        rows("u", header=HEADER + ",unused"),
    ],
)
def test_csv_as_other_programs_write_it(tables: Tables, content: str | bytes) -> None:
    assert tables.read(tables.write("log.csv", content)) == {"u": "abc"}


def test_a_row_with_a_comma_too_many_is_named(tables: Tables) -> None:
    items = tables.write("comma.csv", ABC.replace("Beta", "Beta, the second"))
    message = tables.refusal(tables.write("log.csv", rows("u")), items)
    assert "comma.csv, row 2: 3 fields, but the header has 2" in message


def test_text_needs_a_folder_for_temporary_files_and_parquet_does_not(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tables.folder / "nowhere"))
    assert "Set TMPDIR" in tables.refusal(tables.write("log.csv", rows("u")))
    columns = {"user_id": ["u"] * 3, "item_id": [*"abc"], "timestamp": [1, 2, 3]}
    assert tables.read(tables.write("log.parquet", columns)) == {"u": "abc"}


def test_a_column_that_occurs_twice_is_refused_if_it_is_read(tables: Tables) -> None:
    log = tables.write("log.csv", "user_id,item_id,timestamp,item_id\nu,a,1,b\n")
    assert "log.csv has 2 columns 'item_id'" in tables.refusal(log)
    log.write_text("user_id,x,item_id,timestamp,x\nu,,a,1,\nu,,b,2,\nu,,c,3,\n")
    items = tables.write("twice.csv", "item_id,title,x,x\na,A,1,2\n")
    assert "twice.csv has 2 columns 'x'" in tables.refusal(log, items)
    assert tables.read(log) == {"u": "abc"}


def test_bytes_that_are_no_text_matter_where_they_are_read(tables: Tables) -> None:
    latin = rows("u").replace("\n", ",\xe9\n").encode("latin-1")
    assert tables.read(tables.write("log.csv", latin)) == {"u": "abc"}
    bad = tables.write("bad.csv", rows("u", "v\xe9").encode("latin-1"))
    message = tables.refusal(bad)
    assert "bad.csv, row 4: column 'user_id' is not UTF-8" in message


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"user_id": "u", "item_id": "a", "timestamp": 1} {}', "row 2: no JSON"),
        ("{'user_id': 'u', 'item_id': 'a', 'timestamp': 1}", "row 2: no JSON"),
        ("[1]", "row 2: a list"),
        ("[" * 100_000, "row 2: no JSON"),
        ('{"user_id": 1.0, "item_id": "a", "timestamp": 1}', "row 2: column 'user_id' is 1.0"),
        (
            '{"user_id": ["u"], "item_id": "a", "timestamp": 1}',
            "row 2: column 'user_id' is [\"u\"]",
        ),
        ('{"user_id": "u", "timestamp": 1}', "row 2: column 'item_id' is empty"),
        (
            '{"user_id": "\\ud83d", "item_id": "a", "timestamp": 1}',
            "row 2: column 'user_id' is not",
        ),
    ],
)
def test_a_line_that_is_no_event_is_named(tables: Tables, line: str, complaint: str) -> None:
    good = '{"user_id": "u", "item_id": "a", "timestamp": 1}'
    log = tables.write("log.jsonl", f"{good}\n\n{line}\n{good}\n")
    assert f"log.jsonl, {complaint}" in tables.refusal(log)


def test_json_lines_with_a_mark_blank_lines_and_ids_of_two_types(tables: Tables) -> None:
    big = 12345678901234567890123
    events = [
        {"user_id": big, "item_id": "a", "timestamp": 1},
        {"user_id": str(big), "item_id": "b", "timestamp": 2.5, "more": [{"x": 1}]},
        {"timestamp": 3, "item_id": "c", "user_id": big},
    ]
    text = "\ufeff" + "\n\n".join(map(json.dumps, events)) + "\n \n"
    assert tables.read(tables.write("log.jsonl", text)) == {str(big): "abc"}
