"""One line for each way in which tables can be wrong."""

from typing import Any

from seqrec.data import load_dataset
from seqrec.errors import DataError

import polars as pl
import pytest

from tests.seqrec.table_folder import EXTENSIONS, HEADER, INTERACTIONS, ITEMS, Tables


def ids(*values: str | None) -> pl.Series:
    return pl.Series("item_id", values, dtype=pl.String)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        *(
            (
                {"log": INTERACTIONS.rename({column: "other"})},
                ["log.parquet", f"no column '{column}'", "'other'", option],
            )
            for column, option in (
                ("user_id", "--user-column"),
                ("item_id", "--item-column"),
                ("timestamp", "--time-column"),
            )
        ),
        *(
            (
                {"items": ITEMS.rename({column: "other"})},
                ["items.parquet", f"no column '{column}'", "'other'", option],
            )
            for column, option in (("item_id", "--items-id-column"), ("title", "--title-column"))
        ),
        *(
            (
                {"log": INTERACTIONS.with_columns(user_id=pl.Series([1, 0] * 3 + [1]).cast(dtype))},
                ["'user_id' is", "--user-column"],
            )
            for dtype in (pl.Float64, pl.Boolean)
        ),
        *(
            (
                {"items": ITEMS.with_columns(title=pl.lit(value, dtype=pl.String))},
                ["every 'title' is empty", "--title-column"],
            )
            for value in ("", " ", None)
        ),
        *(
            (
                {"log": INTERACTIONS.clear(), "extension": extension},
                [f"log{extension} holds no rows"],
            )
            for extension in (".parquet", ".csv")
        ),
        *(
            ({"items": ITEMS.clear(), "extension": extension}, [f"items{extension} holds no rows"])
            for extension in (".parquet", ".csv")
        ),
        (
            {"items": ITEMS.with_columns(ids("t", "r", "e", None, "x")), "extension": ".csv"},
            ["items.csv, row 4: column 'item_id' is empty"],
        ),
        (  # x once, e twice
            {"items": ITEMS.filter(~pl.col("item_id").is_in(["e", "x"]))},
            [
                "log.parquet, row 1: item 'x' has no row in ",
                "items.parquet; 2 item(s) are missing",
                "3 such rows",
            ],
        ),
        (
            {"items": pl.concat([ITEMS, ITEMS[1:2]])},
            ["items.parquet, row 6: item id 'r' occurs a second time"],
        ),
        ({"title_column": "category"}, ["both 'title' and 'category'"]),
        ({"log": INTERACTIONS.filter(pl.col("timestamp") > 25)}, ["No user has three events"]),
        (
            {"log": INTERACTIONS.with_columns(timestamp=pl.lit(5)), "split": "temporal"},
            ["no validation target", "--split leave-one-out"],
        ),
        (
            {"item_column": "user_id"},
            ["--user-column and --item-column both name 'user_id'"],
        ),
        (
            {"title_column": "item_id"},
            ["--items-id-column and --title-column both name 'item_id'"],
        ),
    ],
)
def test_a_wrong_table_is_refused_with_what_to_do(
    tables: Tables, flags: dict[str, Any], parts: list[str]
) -> None:
    message = tables.refusal(**flags)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_an_empty_id_is_refused_with_its_row(
    tables: Tables, column: str, value: str | None
) -> None:
    values = INTERACTIONS[column].to_list()
    values[2] = values[4] = value
    message = tables.refusal(INTERACTIONS.with_columns(pl.Series(column, values)))
    assert f"log.parquet, row 3: column '{column}' is empty" in message
    assert "2 such rows" in message


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("table", ["log", "items"])
def test_an_empty_file_is_refused(tables: Tables, table: str, extension: str) -> None:
    message = tables.refusal(**{table: tables.write(f"nothing{extension}", "")})
    assert f"nothing{extension} is empty" in message


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("text.parquet", f"{HEADER}\n1,2,3\n", " cannot be read as what its"),
        ("ragged.csv", f"{HEADER}\nu1,t,1\nu1,r,2,9\n", ", row 2: 4 fields, but the header has 3"),
        ("latin.csv", f"{HEADER}\nu1,\u00e9,1\n".encode("latin-1"), ", row 1: column 'item_id' is"),
        ("table.xlsx", "PK", " has the unknown extension '.xlsx'. Expected .parquet, .csv"),
    ],
)
def test_a_file_that_is_not_what_its_extension_says_is_refused(
    tables: Tables, name: str, content: str | bytes, complaint: str
) -> None:
    assert f"{name}{complaint}" in tables.refusal(tables.write(name, content))


def test_damaged_missing_and_mixed_files_are_refused(tables: Tables) -> None:
    path = tables.write("cut.parquet", INTERACTIONS)
    content = path.read_bytes()
    path.write_bytes(content[:-30] + content[-20:])
    assert "cut.parquet cannot be read" in tables.refusal(path)
    assert "nowhere.csv does not exist" in tables.refusal(tables.folder / "nowhere.csv")
    (tables.folder / "empty").mkdir()
    assert "is a folder without" in tables.refusal(tables.folder / "empty")
    tables.write("mixed/a.csv", INTERACTIONS)
    tables.write("mixed/b.parquet", INTERACTIONS)
    assert "mixes .csv and .parquet" in tables.refusal(tables.folder / "mixed")


# --- The output path ---------------------------------------------------------------------------


def test_what_is_no_prepared_data_set_is_left_as_it_is(tables: Tables) -> None:
    file = tables.write("out/thesis.txt", "years of work")
    with pytest.raises(DataError, match=r"exists and is not just .* \(see thesis\.txt\)"):
        tables.prepare()
    for output in (file, file / "below"):
        with pytest.raises(DataError, match="Give another --output-dir"):
            tables.prepare(output_dir=output)
    assert file.read_text() == "years of work"


def test_a_prepared_data_set_with_a_file_of_the_users_in_it_is_left_as_it_is(
    tables: Tables,
) -> None:
    tables.output.mkdir()  # an empty folder may be filled
    before = tables.prepare().fingerprint
    tables.write("out/notes.txt", "")
    with pytest.raises(DataError, match=r"notes\.txt"):
        tables.prepare(INTERACTIONS.with_columns(pl.col("timestamp") * -1))
    assert load_dataset(tables.output).fingerprint == before
