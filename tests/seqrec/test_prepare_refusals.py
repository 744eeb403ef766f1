"""One line for each way in which tables can be wrong."""

from seqrec.data import load_dataset
from seqrec.errors import DataError

import polars as pl
import pytest

from tests.seqrec.workbench import INTERACTIONS, ITEMS, WRITERS, Workbench, titles, with_times


@pytest.mark.parametrize(
    ("table", "column", "option"),
    [
        ("interactions", "user_id", "--user-column"),
        ("interactions", "item_id", "--item-column"),
        ("interactions", "timestamp", "--time-column"),
        ("items", "item_id", "--items-id-column"),
        ("items", "title", "--title-column"),
    ],
)
def test_a_missing_column_is_named_with_those_found_and_the_flag(
    bench: Workbench, table: str, column: str, option: str
) -> None:
    frames = {"interactions": INTERACTIONS, "items": ITEMS}
    frames[table] = frames[table].rename({column: "other"})
    message = bench.complaint(**frames)
    for part in (f"{table}.parquet", f"no column '{column}'", "'other'", option):
        assert part in message


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_an_empty_id_is_refused_with_its_row(
    bench: Workbench, column: str, value: str | None
) -> None:
    ids = INTERACTIONS[column].to_list()
    ids[2] = ids[4] = value
    message = bench.complaint(INTERACTIONS.with_columns(pl.Series(column, ids)))
    assert "interactions.parquet, row 3: " in message
    assert f"'{column}' is empty" in message
    assert "2 such rows" in message


def test_an_item_without_id_is_refused_with_its_row(bench: Workbench) -> None:
    items = ITEMS.with_columns(item_id=pl.Series(["t", "r", "e", None, "x"]))
    assert "items.csv, row 4: column 'item_id' is empty" in bench.complaint(
        items=items, extension=".csv"
    )


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Boolean])
def test_ids_that_are_neither_text_nor_whole_numbers_are_refused(
    bench: Workbench, dtype: type[pl.DataType]
) -> None:
    users = pl.Series("user_id", [1, 0, 0, 1, 1, 0, 1]).cast(dtype)
    message = bench.complaint(INTERACTIONS.with_columns(users))
    assert "'user_id' is" in message
    assert "--user-column" in message


@pytest.mark.parametrize(
    ("times", "row", "value"),
    [
        (pl.Series(["30", "20", "soon", "15", "20", "30", "40"]), 3, "'soon'"),
        (pl.Series(["30", "20", "2020-01-01", "15", "20", "30", "40"]), 3, "'2020-01-01'"),
        (pl.Series(["2020-01-01"] * 4 + ["2020-13-01"] + ["2020-01-01"] * 2), 5, "'2020-13-01'"),
        (pl.Series(["01/02/2020"] * 7), 1, "'01/02/2020'"),
        (pl.Series([1, 2, 3, 4, 5, None, 7]), 6, "'timestamp' is empty"),
        (pl.Series(["1", "2", "3", "4", "5", "6", ""]), 7, "'timestamp' is empty"),
        (pl.Series([1.0, 2.0, float("nan"), 4.0, 5.0, 6.0, 7.0]), 3, "nan"),
        (pl.Series([1.0, 2.0, 3.5, 4.0, float("inf"), 6.0, 7.0]), 5, "inf"),
    ],
)
def test_a_time_that_cannot_be_read_is_refused_with_row_and_value(
    bench: Workbench, times: pl.Series, row: int, value: str
) -> None:
    message = bench.complaint(with_times(times))
    assert f"interactions.parquet, row {row}: " in message
    assert value in message


def test_a_time_column_of_another_type_is_refused(bench: Workbench) -> None:
    assert "--time-column" in bench.complaint(with_times(pl.Series([True] * 7)))


def test_an_interaction_with_an_unknown_item_is_refused_with_row_and_count(
    bench: Workbench,
) -> None:
    message = bench.complaint(items=ITEMS.filter(~pl.col("item_id").is_in(["e", "x"])))
    assert "interactions.parquet, row 1: item 'x' has no row in " in message
    assert "items.parquet; 2 item(s) are missing there" in message
    assert "3 such rows" in message  # x once, e twice


def test_an_item_that_occurs_twice_is_refused_with_the_second_row(bench: Workbench) -> None:
    items = pl.concat([ITEMS, ITEMS[1:2]])
    message = bench.complaint(items=items)
    assert "items.parquet, row 6: item id 'r' occurs a second time" in message


@pytest.mark.parametrize("value", ["", " ", None])
def test_a_catalogue_without_any_title_is_refused(bench: Workbench, value: str | None) -> None:
    message = bench.complaint(items=ITEMS.with_columns(title=pl.lit(value, dtype=pl.String)))
    assert "every 'title' is empty" in message
    assert "--title-column" in message


def test_a_title_column_that_would_hide_another_is_refused(bench: Workbench) -> None:
    message = bench.complaint(items=ITEMS, title_column="category")
    assert "both 'title' and 'category'" in message


def test_histories_too_short_to_test_on_are_refused(bench: Workbench) -> None:
    message = bench.complaint(INTERACTIONS.filter(pl.col("timestamp") > 25))
    assert "No user has three events" in message


def test_times_that_are_all_the_same_leave_nothing_for_a_temporal_split(bench: Workbench) -> None:
    message = bench.complaint(with_times(pl.Series([5] * 7)), split="temporal")
    assert "no validation target" in message
    assert "--split leave-one-out" in message


@pytest.mark.parametrize("first", [0, 1])
def test_positions_are_refused_for_a_temporal_split_and_fine_for_the_other(
    bench: Workbench, first: int
) -> None:
    positions = with_times(pl.Series([1, 1, 0, 0, 0, 2, 2]) + first)
    message = bench.complaint(positions, split="temporal")
    assert "positions and not clock times" in message
    assert "--split leave-one-out" in message
    assert titles(bench.prepare(positions), 0) == ["t", "r", "e"]


@pytest.mark.parametrize("extension", sorted(WRITERS))
@pytest.mark.parametrize("table", ["interactions", "items"])
def test_an_empty_file_is_refused(bench: Workbench, table: str, extension: str) -> None:
    path = bench.folder / f"nothing{extension}"
    path.touch()
    message = bench.complaint(**{table: path})
    assert f"nothing{extension} is empty" in message


@pytest.mark.parametrize("extension", [".parquet", ".csv"])
@pytest.mark.parametrize("table", ["interactions", "items"])
def test_a_table_without_rows_is_refused(bench: Workbench, table: str, extension: str) -> None:
    frames = {"interactions": INTERACTIONS, "items": ITEMS}
    frames[table] = frames[table].clear()
    message = bench.complaint(**frames, extension=extension)
    assert f"{table}{extension} holds no rows" in message


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("text.parquet", b"user_id,item_id,timestamp\n1,2,3\n", " cannot be read as what its"),
        ("ragged.csv", b"user_id,item_id,timestamp\nu1,t,1\nu1,r,2,9\n", ", row 2: 4 fields"),
        (
            "latin.csv",
            "user_id,item_id,timestamp\nu1,\u00e9,1\n".encode("latin-1"),
            ", row 1: column 'item_id' is not UTF-8",
        ),
        (
            "broken.jsonl",
            b'{"user_id": "u1", "item_id": "t", "timestamp": 1}\n{"user_id": \n',
            ", row 2: no JSON",
        ),
    ],
)
def test_a_file_that_is_not_what_its_extension_says_is_refused(
    bench: Workbench, name: str, content: bytes, complaint: str
) -> None:
    path = bench.folder / name
    path.write_bytes(content)
    assert f"{name}{complaint}" in bench.complaint(path)


def test_a_damaged_parquet_file_is_refused(bench: Workbench) -> None:
    path = bench.write("interactions.parquet", INTERACTIONS)
    content = path.read_bytes()
    path.write_bytes(content[:-30] + content[-20:])
    assert "interactions.parquet cannot be read" in bench.complaint(path)


def test_missing_unknown_and_mixed_files_are_refused(bench: Workbench) -> None:
    assert "nowhere.csv does not exist" in bench.complaint(bench.folder / "nowhere.csv")
    (bench.folder / "table.xlsx").write_bytes(b"PK")
    message = bench.complaint(bench.folder / "table.xlsx")
    assert "'.xlsx'" in message
    assert ".parquet, .csv" in message
    (bench.folder / "empty").mkdir()
    assert "is a folder without" in bench.complaint(bench.folder / "empty")
    bench.write("mixed/a.csv", INTERACTIONS)
    bench.write("mixed/b.parquet", INTERACTIONS)
    assert "mixes .csv and .parquet" in bench.complaint(bench.folder / "mixed")


# --- The output path ---------------------------------------------------------------------------


def test_a_folder_that_is_no_prepared_data_set_is_left_as_it_is(bench: Workbench) -> None:
    bench.output.mkdir()
    (bench.output / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"exists and is not just .* \(see thesis\.txt\)"):
        bench.prepare()
    assert (bench.output / "thesis.txt").read_text() == "years of work"


def test_a_prepared_data_set_with_a_file_of_the_users_in_it_is_left_as_it_is(
    bench: Workbench,
) -> None:
    before = bench.prepare().fingerprint
    (bench.output / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt"):
        bench.prepare(INTERACTIONS.with_columns(pl.col("timestamp") * -1))
    assert load_dataset(bench.output).fingerprint == before


def test_a_file_in_place_of_the_output_or_above_it_is_left_as_it_is(bench: Workbench) -> None:
    file = bench.folder / "file"
    file.write_text("mine")
    for output in (file, file / "below"):
        with pytest.raises(DataError, match="Give another --output-dir"):
            bench.prepare(output_dir=output)
    assert file.read_text() == "mine"


def test_an_empty_folder_may_be_filled(bench: Workbench) -> None:
    bench.output.mkdir()
    assert bench.prepare().num_users == 3
