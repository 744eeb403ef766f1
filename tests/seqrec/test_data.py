"""Splits against hand-made cases and properties; fingerprints; what `load_dataset` refuses."""

import dataclasses
from pathlib import Path
from typing import Any

from seqrec import splits
from seqrec.data import SequenceDataset, load_dataset, repeat_share, write_dataset
from seqrec.errors import DataError
from seqrec.files import read_json, sha256_file, write_json
from seqrec.splits import hold_out_items, leave_one_out, temporal, user_parts

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

FILES = (
    *("meta.json", "items.parquet", "user_ids.parquet"),
    *("events.npy", "offsets.npy", "split.npy"),
)
Times = list[list[int]]  # one ascending list per user
all_times = st.lists(
    st.lists(st.integers(0, 30), min_size=1, max_size=12).map(sorted), min_size=1, max_size=12
)
shares = st.sampled_from([0.05, 0.1, 0.3, 0.45])


def offsets_of(users: list[list[int]]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(user) for user in users])]).astype(np.int64)


def split_by_time(users: Times, valid_share: float, test_share: float) -> list[list[int]]:
    flat = np.concatenate(users).astype(np.int64)
    return temporal(flat, offsets_of(users), valid_share, test_share).tolist()


def parts() -> dict[str, Any]:
    """Return what `write_dataset` wants: users "x" (items 1 2 3 1) and "y" (2 3)."""
    return {
        "name": "two users",
        "items": pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B", ""]}),
        "user_ids": pl.Series(["x", "y"]),
        "events": np.array([1, 2, 3, 1, 2, 3], dtype=np.int32),
        "offsets": np.array([0, 4, 6]),
        "split": np.array([[2, 2, 3], [2, -1, -1]]),
        "split_name": "leave-one-out",
        "provenance": {},
    }


@pytest.fixture
def two_users(tmp_path: Path) -> SequenceDataset:
    return write_dataset(tmp_path / "data", **parts())


# --- Splits -------------------------------------------------------------------------------------


def test_leave_one_out_tests_the_last_event_and_validates_the_one_before() -> None:
    # train_length, valid_position, test_position; two events are too few to evaluate.
    expected = [[1, -1, -1], [2, -1, -1], [1, 1, 2], [3, 3, 4]]
    assert leave_one_out(np.array([1, 2, 3, 5])).tolist() == expected


def test_temporal_splits_all_users_at_the_same_two_moments() -> None:
    users = [[1, 2, 3, 7, 9], [4, 5, 6, 8], [9, 10], [1, 9]]
    # In order: 1 1 2 3 4 5 6 7 8 9 9 9 10. 50 % and 75 % of the way lie the 7th and 10th: 6 and 9.
    assert split_by_time(users, valid_share=0.25, test_share=0.25) == [
        [3, 3, 4],  # 7 is in validation, 9 in test
        [2, 2, -1],  # 6 opens the validation period, 8 is in it too; nothing in test
        [0, -1, -1],  # no history before either period
        [1, -1, 1],  # nothing in validation
    ]


def test_temporal_gives_users_who_came_in_validation_a_test_target() -> None:
    users = [[1, 2, 3, 4, 5, 6], [7, 8, 9]]
    # 70 % and 90 % of the way from the 1st to the 9th, rounded up, lie the 7th and the 9th.
    assert split_by_time(users, valid_share=0.2, test_share=0.1) == [[6, -1, -1], [0, -1, 2]]


def test_before_the_test_all_that_precedes_its_targets_is_trained_on(
    two_users: SequenceDataset,
) -> None:
    split = np.array([[1, 1, 2], [2, -1, -1], [0, -1, 1], [0, -1, -1]])
    offsets = np.array([0, 4, 7, 9, 11])  # the last user came after all moments of the split
    whole = dataclasses.replace(two_users, offsets=offsets, split=split).before_test()
    assert whole.split.tolist() == [[2, -1, 2], [3, -1, -1], [1, -1, 1], [0, -1, -1]]


@given(all_times, shares, shares)
def test_temporal_targets_have_a_history_and_nothing_is_trained_on_as_late_as_anyones(
    users: Times, valid_share: float, test_share: float
) -> None:
    split = split_by_time(users, valid_share, test_share)
    trained, valid_times, test_times = [-1], [31], [31]  # beyond all times, where there is none
    for times, (train, valid, test) in zip(users, split, strict=True):
        assert 0 <= train <= len(times)
        assert valid == -1 or max(train, 1) <= valid < len(times)
        assert test == -1 or max(train, valid + 1, 1) <= test < len(times)
        trained += times[:train]
        valid_times += times[valid : valid + 1] if valid >= 0 else []
        test_times += times[test : test + 1] if test >= 0 else []
    assert max(trained) < min(valid_times + test_times)
    assert max(valid_times[1:], default=-1) < min(test_times)
    in_milliseconds = [[1_700_000_000_000 + 1000 * time for time in times] for times in users]
    assert split_by_time(in_milliseconds, valid_share, test_share) == split


def test_repeats_are_events_whose_item_the_user_had_met() -> None:
    events = np.array([1, 2, 1, 1, 2, 2], dtype=np.int32)  # users: 1 2 1 and 1 2 2
    assert repeat_share(events, np.array([0, 3, 6])) == pytest.approx(2 / 6)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 12))
def test_parts_hold_each_user_once_and_few_events_or_one_user(
    lengths: list[int], at_once: int
) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "EVENTS_AT_ONCE", at_once)
        parts = list(user_parts(offsets))
    users = np.repeat(np.arange(len(lengths)), lengths)
    assert [u for part in parts for u in range(len(lengths))[part.rows]] == list(
        range(len(lengths))
    )
    assert [u for part in parts for u in part.rows.start + part.users] == users.tolist()
    assert [p for part in parts for p in part.positions] == [p for n in lengths for p in range(n)]
    for part in parts:
        assert len(users[part.events]) == len(part.users)
        assert len(part.users) <= at_once or part.rows.stop - part.rows.start == 1


@given(all_times, shares, shares, st.integers(0, 9))
def test_a_set_that_is_worked_out_in_parts_is_the_same(
    users: Times, valid_share: float, test_share: float, seed: int
) -> None:
    offsets = offsets_of(users)
    events = np.random.default_rng(seed).integers(1, 6, offsets[-1]).astype(np.int32)

    def everything() -> list[Any]:
        split = leave_one_out(np.diff(offsets))
        return [
            split_by_time(users, valid_share, test_share),
            repeat_share(events, offsets),
            [array.tolist() for array in hold_out_items(events, offsets, split, np.array([2, 4]))],
            SequenceDataset(Path(), {"num_items": 5}, events, offsets, split)
            .train_counts()
            .tolist(),
        ]

    whole = everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "EVENTS_AT_ONCE", 5)
        assert everything() == whole


# --- The data set -------------------------------------------------------------------------------


def test_a_written_data_set_comes_back_whole(
    tiny_dataset: SequenceDataset, tiny_items: pl.DataFrame, tiny_sequences: list[list[int]]
) -> None:
    loaded = load_dataset(tiny_dataset.path)
    assert (loaded.num_users, loaded.num_items) == (40, 30)
    assert [loaded.sequence(u).tolist() for u in range(40)] == tiny_sequences
    assert loaded.items.equals(tiny_items)
    assert loaded.item_ids[:2] == ["b01", "b02"]
    assert loaded.fingerprint == tiny_dataset.fingerprint


def test_histories_and_targets_are_those_of_the_sequences(
    tiny_dataset: SequenceDataset, tiny_sequences: list[list[int]]
) -> None:
    valid, test = tiny_dataset.eval_targets("valid"), tiny_dataset.eval_targets("test")
    assert valid.users.tolist() == test.users.tolist() == list(range(40))
    assert valid.items.tolist() == [sequence[-2] for sequence in tiny_sequences]
    assert test.items.tolist() == [sequence[-1] for sequence in tiny_sequences]
    for user, sequence in enumerate(tiny_sequences):
        assert tiny_dataset.train_sequence(user).tolist() == sequence[:-2]


def test_counts_are_those_of_the_arrays(two_users: SequenceDataset) -> None:
    expected = {
        "num_users": 2,
        "num_items": 3,
        "num_events": 6,
        "num_train_events": 4,
        "num_valid_targets": 1,
        "num_test_targets": 1,
        "text_columns": ["title"],
    }
    assert expected.items() <= two_users.meta.items()
    # Trained on: 1 2 of the first user, 2 3 of the second.
    assert two_users.train_counts().tolist() == [0, 1, 2, 1]


def test_seen_items_are_excluded_only_where_users_hardly_ever_come_back(
    two_users: SequenceDataset, tiny_dataset: SequenceDataset
) -> None:
    assert tiny_dataset.exclude_seen
    assert not two_users.exclude_seen  # 1 of 6 is a repeat


# --- Fingerprint --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"items": pl.DataFrame({"item_id": ["a", "b", "d"], "title": ["A", "B", ""]})},
        {"items": pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "", "B"]})},
        {"items": pl.DataFrame({"item_id": ["a", "b", "c"], "name": ["A", "B", ""]})},
        {"user_ids": pl.Series(["x", "z"])},
        {"events": np.array([2, 1, 3, 1, 2, 3], dtype=np.int32)},
        {"offsets": np.array([0, 3, 6])},
        {"split": np.array([[1, 2, 3], [2, -1, -1]])},
    ],
    ids=["item id", "text", "text column", "user id", "event", "owner", "split"],
)
def test_the_fingerprint_changes_with_all_that_a_model_can_depend_on(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    base = {**parts(), "split": np.array([[1, -1, 2], [2, -1, -1]])}  # fits either owner
    before = write_dataset(tmp_path / "before", **base)
    after = write_dataset(tmp_path / "after", **{**base, **change})
    assert before.fingerprint != after.fingerprint


def test_the_fingerprint_does_not_change_with_name_path_or_provenance(
    two_users: SequenceDataset, tmp_path: Path
) -> None:
    change = {
        "name": "other",
        "provenance": {"from": "elsewhere"},
        "user_ids": parts()["user_ids"].rename("customer"),
    }
    after = write_dataset(tmp_path / "after", **{**parts(), **change})
    assert two_users.fingerprint == after.fingerprint


# --- Loading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [None, 0, 20, -4], ids=["missing", "empty", "cut", "end cut"])
@pytest.mark.parametrize("name", FILES)
def test_a_data_set_with_a_part_missing_or_cut_short_is_refused_with_the_command_that_makes_one(
    two_users: SequenceDataset, name: str, keep: int | None
) -> None:
    path = two_users.path / name
    content = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(content[:keep])
    said = r"(is damaged|no usable data set).*python -m seqrec\.prepare .* --output-dir"
    with pytest.raises(DataError, match=said):
        load_dataset(two_users.path)


def test_parts_that_do_not_belong_together_are_refused(two_users: SequenceDataset) -> None:
    path = two_users.path
    np.save(path / "events.npy", np.ones(5, dtype=np.int32))
    with pytest.raises(DataError, match=r"events\.npy is damaged: SHA-256 is"):
        load_dataset(path)
    meta = read_json(path / "meta.json")
    meta["sha256"]["events.npy"] = sha256_file(path / "events.npy")  # by whoever made it
    write_json(path / "meta.json", meta)
    with pytest.raises(DataError, match="differ in length"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", 1),
        ("num_items", "3"),
        ("num_items", None),
        ("repeat_share", "0.1"),
        ("text_columns", "title"),
        ("fingerprint", "f"),
        ("provenance", None),
        ("version", 2),
        ("version", None),
    ],
)
def test_a_description_that_says_something_else_is_refused(
    two_users: SequenceDataset, name: str, value: object
) -> None:
    write_json(two_users.path / "meta.json", {**two_users.meta, name: value})
    with pytest.raises(DataError, match=name):
        load_dataset(two_users.path)


def test_texts_of_other_columns_than_described_are_refused(two_users: SequenceDataset) -> None:
    write_json(two_users.path / "meta.json", {**two_users.meta, "text_columns": []})
    with pytest.raises(DataError, match="has columns item_id, title, meta.json others"):
        load_dataset(two_users.path)
