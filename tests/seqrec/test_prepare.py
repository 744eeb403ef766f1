"""Tables in, data set out; and one line for each way in which the tables can be wrong."""

import dataclasses
import datetime as dt
import itertools
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec import data as data_module
from seqrec import prepare as module
from seqrec import splits
from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError, SourceError
from seqrec.prepare import PrepareConfig, prepare, prepare_named
from seqrec.sources import RawDataset

import numpy as np
import polars as pl
import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data" / "ml-100k"

# Not sorted by user or time. "u1": t r e (by time), "u2": r x t, "u3": e.
INTERACTIONS = pl.DataFrame(
    {
        "user_id": ["u2", "u1", "u1", "u3", "u2", "u1", "u2"],
        "item_id": ["x", "r", "t", "e", "r", "e", "t"],
        "timestamp": [30, 20, 10, 15, 20, 30, 40],
    }
)
ITEMS = pl.DataFrame(
    {
        "item_id": ["t", "r", "e", "x", "unseen"],
        "title": ["Treasure Island", "Robinson Crusoe", "Emma", "", "Les Misérables, Vol. 1"],
        "category": ["Sea", "Sea", None, "", 'History, "France"'],
    }
)
WRITERS: dict[str, Callable[[pl.DataFrame, Path], None]] = {
    ".parquet": lambda frame, path: frame.write_parquet(path),
    ".csv": lambda frame, path: frame.write_csv(path),
    ".tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    ".jsonl": lambda frame, path: frame.write_ndjson(path),
    ".ndjson": lambda frame, path: frame.write_ndjson(path),
}


class Workbench:
    """A folder in which tables are written and prepared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "prepared"

    def write(self, name: str, frame: pl.DataFrame) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        WRITERS[path.suffix](frame, path)
        return path

    def prepare(
        self,
        interactions: pl.DataFrame | Path = INTERACTIONS,
        items: pl.DataFrame | Path = ITEMS,
        extension: str = ".parquet",
        **flags: Any,
    ) -> SequenceDataset:
        """Prepare tables, written first if they are frames."""
        if isinstance(interactions, pl.DataFrame):
            interactions = self.write("interactions" + extension, interactions)
        if isinstance(items, pl.DataFrame):
            items = self.write("items" + extension, items)
        flags = {"output_dir": self.output, **flags}
        return prepare(PrepareConfig(interactions=interactions, items=items, **flags))

    def complaint(self, *args: Any, **kwargs: Any) -> str:
        """Return the message of the `DataError`, having checked that nothing was written."""
        with pytest.raises(DataError) as raised:
            self.prepare(*args, **kwargs)
        assert not self.output.exists()
        message = str(raised.value)
        assert "\n" not in message
        return message


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def titles(dataset: SequenceDataset, user: int) -> list[str]:
    """Spell out a user's sequence as item ids."""
    return [dataset.item_ids[item - 1] for item in dataset.sequence(user)]


def with_times(times: pl.Series) -> pl.DataFrame:
    return INTERACTIONS.with_columns(times.alias("timestamp"))


# --- What comes out -----------------------------------------------------------------------------


def test_sequences_are_in_time_order_and_items_in_file_order(bench: Workbench) -> None:
    dataset = bench.prepare()
    assert pl.read_parquet(dataset.path / "user_ids.parquet")["user_id"].to_list() == [
        "u1",
        "u2",
        "u3",
    ]
    assert [titles(dataset, user) for user in range(3)] == [
        ["t", "r", "e"],
        ["r", "x", "t"],
        ["e"],
    ]
    assert dataset.item_ids == ["t", "r", "e", "x", "unseen"]
    assert dataset.split.tolist() == [[1, 1, 2], [1, 1, 2], [1, -1, -1]]


def test_texts_are_kept_and_missing_ones_are_empty(bench: Workbench) -> None:
    items = bench.prepare().items
    assert items.columns == ["item_id", "title", "category"]
    assert items["title"].to_list() == ITEMS["title"].to_list()
    assert items["category"].to_list() == ["Sea", "Sea", "", "", 'History, "France"']


def test_columns_that_are_no_text_become_text(bench: Workbench) -> None:
    items = ITEMS.with_columns(
        year=pl.Series([1883, 1719, None, 0, 1862]),
        tags=pl.Series([["sea", "gold"], ["sea"], [], None, ["France", None]]),
        publisher=pl.Series([{"name": "Cassell"}] * 5),
    )
    result = bench.prepare(items=items).items
    assert result["year"].to_list() == ["1883", "1719", "", "0", "1862"]
    assert result["tags"].to_list() == ["sea, gold", "sea", "", "", "France"]
    assert result["publisher"][0] == '{"name":"Cassell"}'


@pytest.mark.parametrize("extension", [".csv", ".tsv", ".jsonl", ".ndjson"])
def test_every_format_gives_the_same_data_set(bench: Workbench, extension: str) -> None:
    parquet = bench.prepare(output_dir=bench.folder / "parquet")
    other = bench.prepare(extension=extension)
    assert other.fingerprint == parquet.fingerprint


def test_a_folder_of_parts_is_read_in_the_order_of_their_names(bench: Workbench) -> None:
    whole = bench.prepare(output_dir=bench.folder / "whole")
    bench.write("parts/part-1.parquet", INTERACTIONS[4:])
    bench.write("parts/part-0.parquet", INTERACTIONS[:4])
    assert bench.prepare(bench.folder / "parts").fingerprint == whole.fingerprint


def test_a_folder_as_spark_leaves_it_is_its_visible_parts(bench: Workbench) -> None:
    whole = bench.prepare(output_dir=bench.folder / "whole")
    bench.write("log/part-00000-5f1e-c000.snappy.parquet", INTERACTIONS[:4])
    bench.write("log/part-00001-5f1e-c000.snappy.parquet", INTERACTIONS[:0])
    bench.write("log/part-00002-5f1e-c000.snappy.parquet", INTERACTIONS[4:])
    for name in ("_SUCCESS", ".part-00000-5f1e-c000.snappy.parquet.crc", "._part-00000.parquet"):
        (bench.folder / "log" / name).touch()
    assert bench.prepare(bench.folder / "log").fingerprint == whole.fingerprint


@pytest.mark.parametrize("seed", range(6))
def test_any_log_is_what_plain_python_makes_of_it_in_any_number_of_parts(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(300, 900))
    users: list[Any] = rng.integers(0, 60, count).tolist()
    items = rng.integers(0, 40, count).tolist()
    times = rng.integers(-3, 12, count).tolist()  # many are equal
    if seed % 2:
        users = [f"über-{user * 7919 % 1009}" for user in users]
    if seed % 3 == 0:
        times = [time / 4 for time in times]
    log = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times})
    catalogue = pl.DataFrame({"item_id": range(40), "title": [f"title {i}" for i in range(40)]})
    whole = bench.prepare(log, catalogue, output_dir=bench.folder / "whole")

    by_user: dict[str, list[tuple[float, int]]] = {}
    for user, item, time in zip(users, items, times, strict=True):
        by_user.setdefault(str(user), []).append((time, item + 1))
    ordered = [
        [item for _, item in sorted(by_user[user], key=lambda event: event[0])]
        for user in sorted(by_user)
    ]
    assert [whole.sequence(user).tolist() for user in range(whole.num_users)] == ordered
    repeats = sum(len(sequence) - len(set(sequence)) for sequence in ordered)
    assert whole.meta["repeat_share"] == repeats / count

    monkeypatch.setattr(splits, "EVENTS_AT_ONCE", 50)  # less than some users have
    monkeypatch.setattr(data_module, "TEXTS_AT_ONCE", 7)
    bounds = [0, *sorted(rng.integers(0, count, 4).tolist()), count]
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        bench.write(f"parts/part-{number:05d}.parquet", log[first:last])
    in_parts = bench.prepare(bench.folder / "parts", catalogue)
    for file in sorted(whole.path.iterdir()):
        if file.name != "meta.json":  # which holds the paths
            assert (in_parts.path / file.name).read_bytes() == file.read_bytes(), file.name
    assert in_parts.fingerprint == whole.fingerprint
    assert in_parts.meta["repeat_share"] == whole.meta["repeat_share"]


@pytest.mark.parametrize("extension", [".parquet", ".csv", ".jsonl"])
def test_events_of_the_same_time_stay_in_file_order(bench: Workbench, extension: str) -> None:
    rng = np.random.default_rng(0)
    count = 4000  # large enough that an unstable sort would show
    users, times = rng.integers(0, 5, count), rng.integers(0, 3, count)
    ids = [f"i{row}" for row in range(count)]
    interactions = pl.DataFrame({"user_id": users, "item_id": ids, "timestamp": times})
    dataset = bench.prepare(interactions, pl.DataFrame({"item_id": ids, "title": ids}), extension)
    for user in range(5):
        rows = [row for row in range(count) if users[row] == user]
        rows.sort(key=lambda row: int(times[row]))  # Python's sort is stable
        assert titles(dataset, user) == [f"i{row}" for row in rows]


def test_whole_number_ids_become_text_and_leading_zeros_stay(bench: Workbench) -> None:
    numbers = pl.DataFrame({"user_id": [7] * 3, "item_id": [1, 2, 10], "timestamp": [1, 2, 3]})
    items = pl.DataFrame({"item_id": [10, 2, 1], "title": ["J", "B", "A"]})
    assert titles(bench.prepare(numbers, items), 0) == ["1", "2", "10"]
    padded = bench.folder / "padded.csv"
    padded.write_text("user_id,item_id,timestamp\n1,007,1\n1,7,2\n1,07,3\n")
    names = bench.folder / "names.csv"
    names.write_text("item_id,title\n7,seven\n07,padded\n007,Bond\n")
    assert titles(bench.prepare(padded, names), 0) == ["007", "7", "07"]


def test_columns_may_have_other_names(bench: Workbench) -> None:
    plain = bench.prepare(output_dir=bench.folder / "plain")
    renamed = bench.prepare(
        INTERACTIONS.rename({"user_id": "who", "item_id": "what", "timestamp": "when"}),
        ITEMS.rename({"item_id": "asin", "title": "name"}),
        user_column="who",
        item_column="what",
        time_column="when",
        items_id_column="asin",
        title_column="name",
    )
    assert renamed.fingerprint == plain.fingerprint


def test_ratings_change_nothing_and_the_log_says_so(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    plain = bench.prepare(output_dir=bench.folder / "plain")
    with caplog.at_level(logging.INFO):
        rated = bench.prepare(INTERACTIONS.with_columns(stars=pl.lit(3.5)), rating_column="stars")
    assert rated.fingerprint == plain.fingerprint
    assert "column 'stars' is not used" in caplog.text


MOMENTS = [dt.datetime(2020, 1, 1) + dt.timedelta(hours=h) for h in (30, 20, 10, 15, 20, 30, 40)]


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([30, 20, 10, 15, 20, 30, 40], dtype=pl.Int32),
        pl.Series([0.3, 0.2, 0.1, 0.15, 0.2, 0.3, 0.4]),
        pl.Series([30.0, 20.0, 10.0, 15.0, 20.0, 30.0, 40.0], dtype=pl.Float32),
        pl.Series(MOMENTS, dtype=pl.Datetime("ms")),
        pl.Series(MOMENTS, dtype=pl.Datetime("ns", "UTC")),
        pl.Series([dt.date(2020, 1, day) for day in (30, 20, 10, 15, 20, 30, 31)]),
        pl.Series(["30", "20", "10", "15", " 20", "30", "40"]),
        pl.Series(["3e1", "20", "1e1", "15.5", "20", "30", "40.25"]),
        pl.Series([moment.isoformat() for moment in MOMENTS]),
        pl.Series([moment.isoformat(" ", "minutes") for moment in MOMENTS]),
        pl.Series([moment.isoformat() + "Z" for moment in MOMENTS]),
        pl.Series([moment.date().replace(day=h).isoformat() for moment, h in
                   zip(MOMENTS, (30, 20, 10, 15, 20, 30, 31), strict=True)]),
    ],
    ids=["int", "fraction", "float", "ms", "ns UTC", "date", "text int", "text float", "ISO",
         "ISO minutes", "ISO Z", "ISO date"],
)  # fmt: skip
@pytest.mark.parametrize("extension", [".parquet", ".csv"])
def test_every_kind_of_time_gives_the_same_order(
    bench: Workbench, times: pl.Series, extension: str
) -> None:
    plain = bench.prepare(output_dir=bench.folder / "plain")
    other = bench.prepare(with_times(times), extension=extension)
    assert other.fingerprint == plain.fingerprint


def test_iso_times_with_offsets_and_without_fractions_are_compared_as_moments(
    bench: Workbench,
) -> None:
    # In UTC: 10:30, 10:00:00.5, 10:00, 9:59:59, 12:00, all by one user.
    times = [
        "2020-01-01T10:30:00",
        "2020-01-01 10:00:00.500000",
        "2020-01-01T12:00:00+02:00",
        "2020-01-01T09:59:59Z",
        "2020-01-01T04:00-0800",
    ]
    ids = ["d", "c", "b", "a", "e"]
    interactions = pl.DataFrame({"user_id": ["u"] * 5, "item_id": ids, "timestamp": times})
    items = pl.DataFrame({"item_id": ids, "title": ids})
    assert titles(bench.prepare(interactions, items), 0) == ["a", "b", "c", "d", "e"]


def test_fractions_before_and_after_zero_are_in_order(bench: Workbench) -> None:
    times = [0.5, -1e-300, -7.25, 0.0, 1e300, -0.0]
    ids = ["d", "b", "a", "c1", "e", "c2"]  # of equal zeros the first in the file
    interactions = pl.DataFrame({"user_id": ["u"] * 6, "item_id": ids, "timestamp": times})
    items = pl.DataFrame({"item_id": ids, "title": ids})
    assert titles(bench.prepare(interactions, items), 0) == ["a", "b", "c1", "c2", "d", "e"]


def test_nanoseconds_that_a_float_cannot_tell_apart_stay_in_order(bench: Workbench) -> None:
    start = 1_700_000_000_000_000_000
    times = pl.Series([str(start + row) for row in (3, 2, 1, 0, 2, 3, 4)])
    assert titles(bench.prepare(with_times(times), extension=".csv"), 0) == ["t", "r", "e"]


def test_a_temporal_split_uses_the_moments_of_all_users(bench: Workbench) -> None:
    interactions = pl.DataFrame(
        {
            "user_id": ["a"] * 6 + ["b"] * 4,
            "item_id": ["t", "r", "e", "x", "t", "r", "e", "x", "t", "r"],
            "timestamp": [100, 101, 102, 103, 106, 109, 104, 105, 107, 108],
        }
    )
    dataset = bench.prepare(interactions, split="temporal", valid_share=0.2, test_share=0.2)
    # 100..109: 60 % and 80 % of the way, rounded up, are 106 and 108.
    assert dataset.split.tolist() == [[4, 4, 5], [2, 2, 3]]


def test_equal_fractional_times_are_one_moment_in_a_temporal_split(bench: Workbench) -> None:
    interactions = pl.DataFrame(
        {
            "user_id": ["a", "a", "b", "b", "a", "b", "a", "b"],
            "item_id": ["t", "r", "e", "x", "e", "t", "x", "r"],
            "timestamp": [0.1, 0.2, 0.1, 0.2, 0.5, 0.5, 0.9, 0.9],
        }
    )
    dataset = bench.prepare(interactions, split="temporal", valid_share=0.2, test_share=0.15)
    # .1 .1 .2 .2 .5 .5 .9 .9: 65 % and 85 % of the way, rounded up, are .5 and .9, for both users.
    assert dataset.split.tolist() == [[2, 2, 3], [2, 2, 3]]


def test_preparing_twice_gives_the_same_and_replaces_the_old(bench: Workbench) -> None:
    first = bench.prepare()
    changed = bench.prepare(INTERACTIONS.with_columns(pl.col("timestamp") * -1))
    assert bench.prepare().fingerprint == first.fingerprint != changed.fingerprint


def test_the_log_ends_with_the_counts_the_path_and_the_fingerprint(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        dataset = bench.prepare(name="books")
    last, final = caplog.messages[-2:]
    assert last.startswith("books: 3 users, 5 items, 7 events; leave-one-out: 2 validation and 2")
    assert str(bench.output) in final
    assert dataset.fingerprint in final


# --- Named data sets ----------------------------------------------------------------------------


def test_a_named_data_set_keeps_its_name_and_publisher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = RawDataset(INTERACTIONS, ITEMS, {"publisher": "A. Publisher"})
    monkeypatch.setattr(module, "fetch_dataset", lambda name: raw)
    monkeypatch.chdir(tmp_path)
    named = prepare_named("books", tmp_path / "here")
    assert named.name == "books"
    assert named.meta["provenance"]["publisher"] == "A. Publisher"
    by_default = prepare(PrepareConfig(dataset="books"))
    assert by_default.path == Path("data/books")
    assert by_default.fingerprint == named.fingerprint


def test_an_unknown_name_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="'movielens'.*ml-100k"):
        prepare_named("movielens", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no MovieLens 100K in {SHARED}")
def test_movielens_100k_has_the_published_counts_and_its_events_are_all_kept(
    bench: Workbench,
) -> None:
    path = SHARED / "interactions.parquet"
    dataset = bench.prepare(path, SHARED / "items.parquet")
    assert (dataset.num_users, dataset.num_items, len(dataset.events)) == (943, 1682, 100_000)
    assert len(dataset.eval_targets("test").users) == 943  # every user has 20 events at least
    table = pl.read_parquet(path)  # sorted by user id as text and time, ties in file order
    ids = np.array(["", *dataset.item_ids])
    assert ids[dataset.events].tolist() == table["item_id"].to_list()
    lengths = table.group_by("user_id").len().sort("user_id")["len"]
    assert np.diff(dataset.offsets).tolist() == lengths.to_list()


# --- What is refused ----------------------------------------------------------------------------


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


# --- The output path ----------------------------------------------------------------------------


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


# --- Command line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"dataset": "ml-100k", "interactions": Path("a"), "items": Path("b")},
        {"interactions": Path("a"), "output_dir": Path("c")},
        {"interactions": Path("a"), "items": Path("b")},
        {"dataset": "ml-100k", "valid_share": 0.0},
        {"dataset": "ml-100k", "valid_share": 0.5, "test_share": 0.5},
    ],
)
def test_flags_that_do_not_go_together_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--"):
        PrepareConfig(**change)


def test_the_command_line_prepares_as_the_function_does(bench: Workbench) -> None:
    expected = bench.prepare(output_dir=bench.folder / "expected", extension=".csv")
    folder = bench.folder
    argv = [
        "--interactions",
        f"{folder / 'interactions.csv'}",
        "--items",
        f"{folder / 'items.csv'}",
    ]
    module.main([*argv, "--output-dir", str(bench.output)])
    assert load_dataset(bench.output).fingerprint == expected.fingerprint


def test_bad_input_ends_the_command_with_one_line_and_code_2(bench: Workbench) -> None:
    table = bench.write("interactions.csv", INTERACTIONS.with_columns(user_id=pl.lit("")))
    items = bench.write("items.csv", ITEMS)
    command = [sys.executable, "-m", "seqrec.prepare", "--output-dir", str(bench.output)]
    command += ["--interactions", str(table), "--items", str(items)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "interactions.csv, row 1: column 'user_id' is empty" in line
    assert not bench.output.exists()


def test_every_field_of_the_config_is_read() -> None:
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    for field in dataclasses.fields(PrepareConfig):
        assert f"config.{field.name}" in source, field.name
