"""What is read of an item."""

import datetime as dt

import pytest

from tests.seqrec.table_folder import Tables, rows


def test_row_numbers_are_no_text_and_the_log_says_what_is_read(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    as_pandas_writes = ",item_id,title,Unnamed: 0,index,rank,year\n" + "".join(
        f"{number},{item},{item.upper()},{number * 7},{number * 5},{number + 1},199{number}\n"
        for number, item in enumerate("abc")
    )
    kept = tables.texts(tables.write("i.csv", as_pandas_writes))
    assert kept.rows() == [("a", "A", "1990"), ("b", "B", "1991"), ("c", "C", "1992")]
    assert "read as an item's text: 'title', 'year'" in caplog.text
    assert (
        "'' (row numbers), 'Unnamed: 0' (row numbers), 'index' (row numbers), 'rank' (row numbers)"
        in caplog.text
    )
    columns = {"item_id": [*"abc"], "title": [*"ABC"], "__index_level_0__": [7, 3, 5]}
    assert tables.texts(tables.write("i.parquet", columns)).columns == ["item_id", "title"]


def test_numbers_and_words_that_are_no_row_numbers_stay_text(tables: Tables) -> None:
    columns = {"index": ["1", "x", "3"], "stars": [1, 3, 2], "part": ["0", "", "2"]}
    kept = tables.texts(
        tables.write("i.parquet", {"item_id": [*"abc"], "title": [*"ABC"], **columns})
    )
    assert kept.columns == ["item_id", "title", "index", "stars", "part"]


def test_text_columns_are_those_asked_for_in_that_order(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    columns = {"item_id": [*"abc"], "name": [*"ABC"], "x": [*"xyz"], "n": [0, 1, 2], "b": [b""] * 3}
    items = tables.write("i.parquet", columns)
    kept = tables.texts(items, title_column="name", text_columns=("n", "x"))
    assert kept.rows()[1] == ("b", "B", "1", "y")
    assert kept.columns == ["item_id", "title", "n", "x"]
    assert "'b' (not asked for)" in caplog.text
    alone = tables.texts(items, title_column="name", text_columns=("name",))
    assert alone.columns == ["item_id", "title"]
    log = tables.write("log.csv", rows("u"))
    message = tables.refusal(log, items, title_column="name", text_columns=("y",))
    assert "has no column 'y'; it has 'x', 'n'. Name the right one with --text-columns" in message
    message = tables.refusal(log, items, title_column="name", text_columns=("b",))
    assert "column 'b' is Binary, which is no text" in message
    message = tables.refusal(log, items, title_column="b")
    assert "column 'b' is Binary, which is no text. Name another with --title-column" in message


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_lists_of_lists_and_of_objects_are_text(tables: Tables, kind: str) -> None:
    items = {
        "item_id": [*"abc"],
        "title": [*"ABC"],
        "cat": [[["x", "y"], ["z"]], None, [[], ["w", None]]],
        "im": [[{"u": "é"}, None], None, [None]],
    }
    kept = tables.texts(tables.write(f"i{kind}", items))
    assert kept["cat"].to_list() == ["x, y, z", "", "w"]
    assert kept["im"].to_list() == ['{"u":"é"}', "", ""]


def test_bytes_are_left_out_and_named_and_durations_and_missing_numbers_are_text(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    columns = {
        "item_id": [*"abc"],
        "title": [*"ABC"],
        "image": [{"bytes": b"x", "path": "p"}, None, None],
        "cover": [b"\xff", None, b""],
        "length": [dt.timedelta(hours=1), None, dt.timedelta(days=2)],
        "stars": [1.5, float("nan"), None],
    }
    kept = tables.texts(tables.write("i.parquet", columns))
    assert kept.columns == ["item_id", "title", "length", "stars"]
    assert kept["length"].to_list() == ["1:00:00", "", "2 days, 0:00:00"]
    assert kept["stars"].to_list() == ["1.5", "", ""]
    assert "'cover' (Binary)" in caplog.text


def test_columns_with_the_names_of_patterns_are_themselves(tables: Tables) -> None:
    text = 'item_id,title,*,^.*$\na,A,"1",p\nb,B,x,q\nc,C,3,r\n'
    kept = tables.texts(tables.write("i.csv", text))
    assert kept.rows()[1] == ("b", "B", "x", "q")


def test_parts_of_a_catalogue_may_have_other_columns(tables: Tables) -> None:
    tables.write("i/0.csv", "item_id,title,x\na,A,1\n")
    tables.write("i/kind=Book/1.csv", "title,item_id\nB,b\nC,c\n")
    assert tables.texts(tables.folder / "i").rows() == [
        *[("a", "A", "1", ""), ("b", "B", "", "Book"), ("c", "C", "", "Book")]
    ]
