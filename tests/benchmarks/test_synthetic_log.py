"""The invented logs: what was asked for, the same for the same flags, and readable."""

from pathlib import Path

from seqrec.errors import DataError
from seqrec.prepare import PrepareConfig, prepare

import numpy as np
import polars as pl
import pytest

from benchmarks.synthetic_log import LogConfig, make_log


def config(folder: Path, **changes: int | bool) -> LogConfig:
    flags = {"num_events": 20_000, "num_users": 500, "num_items": 300, "rows_per_part": 6000}
    return LogConfig(output_dir=folder, **{**flags, **changes})  # type: ignore[arg-type]


def read(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted((folder / "interactions").glob("*.parquet")))


@pytest.mark.parametrize("whole_number_ids", [False, True])
def test_a_log_is_as_large_as_asked_and_can_be_prepared(
    tmp_path: Path, whole_number_ids: bool
) -> None:
    make_log(config(tmp_path / "log", whole_number_ids=whole_number_ids))
    parts = [
        pl.read_parquet(p) for p in sorted((tmp_path / "log" / "interactions").glob("*.parquet"))
    ]
    assert [len(part) for part in parts] == [5000] * 4
    assert read(tmp_path / "log")["timestamp"].is_sorted()
    dataset = prepare(
        PrepareConfig(
            interactions=tmp_path / "log" / "interactions",
            items=tmp_path / "log" / "items.parquet",
            output_dir=tmp_path / "data",
        )
    )
    assert len(dataset.events) == 20_000
    assert dataset.num_items == 300
    assert 400 < dataset.num_users <= 500


def test_the_same_flags_give_the_same_log_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_log(config(tmp_path / name, seed=seed))
    assert read(tmp_path / "a").equals(read(tmp_path / "b"))
    assert not read(tmp_path / "a").equals(read(tmp_path / "c"))


def test_who_acts_when_does_not_depend_on_the_catalogue(tmp_path: Path) -> None:
    for num_items in (10, 300):
        make_log(config(tmp_path / str(num_items), num_items=num_items))
    few, many = (read(tmp_path / name).drop("item_id") for name in ("10", "300"))
    assert few.equals(many)


def test_items_follow_zipfs_law_and_users_a_log_normal_one(tmp_path: Path) -> None:
    make_log(config(tmp_path / "log", num_events=200_000, num_users=2000, rows_per_part=10**6))
    log = read(tmp_path / "log")
    items = log["item_id"].value_counts(sort=True)["count"].to_numpy()
    # With weights 1 / (rank + 2.7) the 20th and the 200th are to each other as 202.7 to 22.7 (ranks
    # from 1); a count of 1,000 varies by 3 %, and ranks are those of the counts.
    assert items[19] / items[199] == pytest.approx(201.7 / 21.7, rel=0.15)
    activity = log["user_id"].value_counts()["count"].to_numpy()
    # 1.2, and what Poisson's chance adds to users of few events.
    assert np.log(activity).std() == pytest.approx(1.2, abs=0.1)


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="is not empty"):
        make_log(config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
