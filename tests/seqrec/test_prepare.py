"""Tables in, data set out."""

import dataclasses
import itertools
import logging
import math
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

from tests.seqrec.table_folder import INTERACTIONS, ITEMS, Tables, sequences

SHARED = Path(__file__).parents[3] / "shared" / "data" / "ml-100k"


# --- What comes out ----------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".parquet", ".csv", ".tsv", ".jsonl", ".ndjson"])
def test_sequences_are_in_time_order_and_items_in_file_order(
    tables: Tables, extension: str
) -> None:
    dataset = tables.prepare(extension=extension)
    expected = {"u1": ["t", "r", "e"], "u2": ["r", "x", "t"], "u3": ["e"]}
    assert list(sequences(dataset).items()) == list(expected.items())
    assert dataset.item_ids == ["t", "r", "e", "x", "unseen"]
    assert dataset.split.tolist() == [[1, 1, 2], [1, 1, 2], [1, -1, -1]]
    assert dataset.items.columns == ["item_id", "title", "category"]
    assert dataset.items["title"].to_list() == ITEMS["title"].to_list()
    assert dataset.items["category"].to_list() == ["Sea", "Sea", "", "", 'History, "France"']


def test_a_folder_as_spark_leaves_it_is_its_visible_parts_in_the_order_of_their_names(
    tables: Tables,
) -> None:
    whole = tables.prepare(output_dir=tables.folder / "whole")
    tables.write("parts/part-00002-5f1e-c000.snappy.parquet", INTERACTIONS[4:])
    tables.write("parts/part-00001-5f1e-c000.snappy.parquet", INTERACTIONS[:0])
    tables.write("parts/part-00000-5f1e-c000.snappy.parquet", INTERACTIONS[:4])
    for name in ("_SUCCESS", ".part-00000-5f1e-c000.snappy.parquet.crc", "._part-00000.parquet"):
        (tables.folder / "parts" / name).touch()
    assert tables.prepare(tables.folder / "parts").fingerprint == whole.fingerprint


@pytest.mark.parametrize("seed", range(6))
def test_any_log_is_what_plain_python_makes_of_it_in_any_number_of_parts(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(300, 900))
    users: list[Any] = rng.integers(0, 60, count).tolist()
    items = rng.integers(0, 40, count).tolist()
    times = rng.integers(-3, 12, count).tolist()  # many are equal: those stay in file order
    if seed % 2:
        users = [f"über-{user * 7919 % 1009}" for user in users]
    if seed % 3 == 0:
        times = [time / 4 for time in times]
    log = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times})
    catalogue = pl.DataFrame({"item_id": range(40), "title": [f"title {i}" for i in range(40)]})
    whole = tables.prepare(log, catalogue, output_dir=tables.folder / "whole")

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
        tables.write(f"parts/part-{number:05d}.parquet", log[first:last])
    in_parts = tables.prepare(tables.folder / "parts", catalogue)
    for file in sorted(whole.path.iterdir()):
        if file.name != "meta.json":  # which holds the paths
            assert (in_parts.path / file.name).read_bytes() == file.read_bytes(), file.name
    assert in_parts.fingerprint == whole.fingerprint
    assert in_parts.meta["repeat_share"] == whole.meta["repeat_share"]


def test_whole_number_ids_become_text_and_leading_zeros_stay(tables: Tables) -> None:
    numbers = pl.DataFrame({"user_id": [7] * 3, "item_id": [1, 2, 10], "timestamp": [1, 2, 3]})
    items = pl.DataFrame({"item_id": [10, 2, 1], "title": ["J", "B", "A"]})
    assert sequences(tables.prepare(numbers, items)) == {"7": ["1", "2", "10"]}
    padded = tables.write("padded.csv", "user_id,item_id,timestamp\n1,007,1\n1,7,2\n1,07,3\n")
    names = tables.write("names.csv", "item_id,title\n7,seven\n07,padded\n007,Bond\n")
    assert sequences(tables.prepare(padded, names)) == {"1": ["007", "7", "07"]}


def test_columns_may_have_other_names(tables: Tables) -> None:
    plain = tables.prepare(output_dir=tables.folder / "plain")
    renamed = tables.prepare(
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
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    plain = tables.prepare(output_dir=tables.folder / "plain")
    with caplog.at_level(logging.INFO):
        rated = tables.prepare(INTERACTIONS.with_columns(stars=pl.lit(3.5)), rating_column="stars")
    assert rated.fingerprint == plain.fingerprint
    assert "column 'stars' is not used" in caplog.text


@pytest.mark.parametrize(
    ("users", "times", "test_share", "split"),
    [
        # 0..9: 60 % and 80 % of the way, rounded up, are 6 and 8.
        ("aaaaaabbbb", [0, 1, 2, 3, 6, 9, 4, 5, 7, 8], 0.2, [[4, 4, 5], [2, 2, 3]]),
        # .1 .1 .2 .2 .5 .5 .9 .9: 65 % and 85 % of the way are .5 and .9, for both users.
        ("aabbabab", [0.1, 0.2, 0.1, 0.2, 0.5, 0.5, 0.9, 0.9], 0.15, [[2, 2, 3], [2, 2, 3]]),
    ],
)
def test_a_temporal_split_uses_the_same_moments_for_all_users(
    tables: Tables, users: str, times: list[float], test_share: float, split: list[list[int]]
) -> None:
    items = [*"trextrextr"][: len(times)]
    log = pl.DataFrame({"user_id": [*users], "item_id": items, "timestamp": times})
    dataset = tables.prepare(log, split="temporal", valid_share=0.2, test_share=test_share)
    assert dataset.split.tolist() == split


def test_preparing_again_replaces_the_old_and_the_log_ends_with_what_came_out(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    first = tables.prepare()
    changed = tables.prepare(INTERACTIONS.with_columns(pl.col("timestamp") * -1))
    with caplog.at_level(logging.INFO):
        again = tables.prepare(name="books")
    assert again.fingerprint == first.fingerprint != changed.fingerprint
    last, final = caplog.messages[-2:]
    assert last.startswith("books: 3 users, 5 items, 7 events; leave-one-out: 2 validation and 2")
    assert final == f"wrote {tables.output}, fingerprint {first.fingerprint}"


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
    tables: Tables,
) -> None:
    path = SHARED / "interactions.parquet"
    dataset = tables.prepare(path, SHARED / "items.parquet")
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
        {"dataset": "ml-100k", "valid_share": math.nan},
        {"dataset": "ml-100k", "valid_share": 0.5, "test_share": 0.5},
    ],
)
def test_flags_that_do_not_go_together_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--"):
        PrepareConfig(**change)


def test_the_command_prepares_as_the_function_does_or_ends_with_one_line_and_code_2(
    tables: Tables,
) -> None:
    expected = tables.prepare(output_dir=tables.folder / "expected", extension=".csv")
    command = ["--interactions", str(tables.folder / "log.csv")]
    command += ["--items", str(tables.folder / "items.csv"), "--output-dir"]
    module.main([*command, str(tables.output)])
    assert load_dataset(tables.output).fingerprint == expected.fingerprint
    tables.write("log.csv", INTERACTIONS.with_columns(user_id=pl.lit("")))
    result = subprocess.run(
        [sys.executable, "-m", "seqrec.prepare", *command, str(tables.folder / "refused")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "log.csv, row 1: column 'user_id' is empty" in line
    assert not (tables.folder / "refused").exists()


def test_every_field_of_the_config_is_read() -> None:
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    for field in dataclasses.fields(PrepareConfig):
        assert f"config.{field.name}" in source, field.name
