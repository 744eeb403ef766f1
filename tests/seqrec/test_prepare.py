"""Tables in, data set out."""

import dataclasses
import datetime as dt
import itertools
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from seqrec import data as data_module
from seqrec import prepare as module
from seqrec import splits
from seqrec.data import load_dataset
from seqrec.errors import SourceError
from seqrec.prepare import PrepareConfig, prepare, prepare_named
from seqrec.sources import RawDataset

import numpy as np
import polars as pl
import pytest

from tests.seqrec.workbench import INTERACTIONS, ITEMS, Workbench, titles, with_times

SHARED = Path(__file__).parents[3] / "shared" / "data" / "ml-100k"


# --- What comes out ----------------------------------------------------------------------------


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


# --- Named data sets ---------------------------------------------------------------------------


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


# --- Command line ------------------------------------------------------------------------------


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
