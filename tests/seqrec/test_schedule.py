"""The rules of a schedule, on data whose windows and targets are counted by hand."""

import dataclasses
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.schedule import (
    Schedule,
    fit_schedule,
    is_dense,
    num_negatives,
    refit_epochs,
    student_learning_rate,
    student_schedule,
    student_width,
    teacher_schedule,
    warn_of_short_log,
)

import numpy as np
import pytest


def dataset_of(
    num_users: int, num_train_events: int, num_items: int = 1_000_000
) -> SequenceDataset:
    """Return equal users; nothing but how many of what there are matters here."""
    length = num_train_events + 2
    split = [[num_train_events, num_train_events, num_train_events + 1]] * num_users
    return SequenceDataset(
        Path("nowhere"),
        {"num_items": num_items},
        np.ones(num_users * length, dtype=np.int32),
        np.arange(num_users + 1) * length,
        np.array(split),
        np.empty(0, dtype=np.int64),
    )


# Ten users with 5 targets each: 50 targets, and two windows of 4 inputs, 2 apart: 20 windows.
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Schedule(num_epochs=6, batch_size=4)),  # 20 / 3 = 6.7: the power of 2 below
        ({"targets": 330}, Schedule(num_epochs=7, batch_size=4)),  # 330 / 50 = 6.6, rounded
        ({"steps": 1}, Schedule(num_epochs=6, batch_size=8)),  # 16, were it not for the bound
        ({"steps": 100}, Schedule(num_epochs=6, batch_size=2)),  # fewer windows than steps
        ({"targets": 100_000}, Schedule(num_epochs=9, batch_size=4)),
        ({"targets": 10}, Schedule(num_epochs=2, batch_size=4)),
        ({"per_item": 20}, Schedule(num_epochs=4, batch_size=4)),  # 200 of 10 items
        ({"per_item": 50}, Schedule(num_epochs=6, batch_size=4)),  # 10 epochs, or 300 / 50
        ({"per_item": 1}, Schedule(num_epochs=2, batch_size=4)),  # a fifth of an epoch
        # Four windows of 2 inputs, 1 apart, are 40 in all; three, 2 apart, are 30.
        ({"max_len": 2, "steps": 5}, Schedule(num_epochs=6, batch_size=8)),
        ({"max_len": 2, "steps": 5, "stride": 2}, Schedule(num_epochs=6, batch_size=4)),
    ],
)
def test_epochs_and_batches_follow_the_data_within_their_bounds(
    change: dict[str, Any], expected: Schedule
) -> None:
    rule = {"max_len": 4, "steps": 3, "batches": (2, 8), "targets": 300, "epochs": (2, 9)}
    assert fit_schedule(dataset_of(10, 6, num_items=10), **{**rule, **change}) == expected


@pytest.mark.parametrize("num_train_events", [0, 1])
def test_data_without_a_target_have_a_schedule(num_train_events: int) -> None:
    dataset = dataset_of(3, num_train_events)
    assert student_schedule(dataset, 50, is_short=True) == Schedule(num_epochs=12, batch_size=32)


@pytest.mark.parametrize(
    ("num_users", "teacher", "student", "short"),
    [
        (10, Schedule(8, 16), Schedule(24, 32), 12),  # 250 targets: all bounds of small data
        (4_000, Schedule(6, 16), Schedule(24, 32), 12),  # 600,000 / 100,000; 4,000 / 150 = 26.7
        (6_000, Schedule(4, 32), Schedule(20, 32), 10),  # 3 and 1.5 million / 150,000
        (10_000, Schedule(2, 64), Schedule(12, 64), 8),  # 3,000,000 / 250,000; 10,000 / 150 = 66.7
        (40_000, Schedule(1, 64), Schedule(12, 128), 8),  # 1,000,000 targets: all those of large
    ],
)
def test_teacher_and_student_keep_to_the_rules_that_are_written_down(
    num_users: int, teacher: Schedule, student: Schedule, short: int
) -> None:
    dataset = dataset_of(num_users, 26)  # 25 targets each, in one window
    assert teacher_schedule(dataset, 30, "best") == teacher
    assert student_schedule(dataset, 50, is_short=False) == student
    shorter = dataclasses.replace(student, num_epochs=short)
    assert student_schedule(dataset, 50, is_short=True) == shorter


def test_a_quick_teacher_of_few_items_stops_when_each_was_a_target_140_times() -> None:
    dataset = dataclasses.replace(dataset_of(4_000, 26), meta={"num_items": 1_500})
    assert teacher_schedule(dataset, 30, "quick").num_epochs == 2  # 140 * 1,500 / 100,000 = 2.1
    assert teacher_schedule(dataset, 30, "best").num_epochs == 6


@pytest.mark.parametrize(("num_items", "warned"), [(8, False), (9, True)])
def test_a_log_of_fewer_targets_than_items_is_told_of_the_texts_alone(
    caplog: pytest.LogCaptureFixture, num_items: int, warned: bool
) -> None:
    dataset = dataset_of(4, 3, num_items)  # two targets each
    warn_of_short_log(dataset, None)
    told = f"has 8 training targets for {num_items} items" in caplog.text
    assert told == ("--num-epochs 0" in caplog.text) == warned
    caplog.clear()
    warn_of_short_log(dataset, 3)  # the user has chosen
    assert caplog.text == ""


def test_wide_rows_are_for_items_with_100_targets_or_more() -> None:
    # Four users' targets, over two items.
    for num_train_events, width in [(51, 128), (50, 64)]:  # 4 * 50 = 2 * 100
        dataset = dataclasses.replace(dataset_of(4, num_train_events), meta={"num_items": 2})
        assert student_width(dataset) == width
        assert is_dense(dataset) == (width == 128)


def test_a_refit_is_as_long_as_its_share_and_left_out_where_it_has_little_to_add() -> None:
    # One validation event to 133 of training is 0.752 %, to 134 it is 0.746 %.
    assert refit_epochs(dataset_of(3, 133), 0.35, 24) == 8  # 8.4
    assert refit_epochs(dataset_of(3, 133), 0.25, 2) == 0  # half an epoch
    assert refit_epochs(dataset_of(3, 133), 0.0, 24) == 0
    assert refit_epochs(dataset_of(3, 134), 0.35, 24) == 0


def test_the_learning_rate_grows_with_the_root_of_the_batch() -> None:
    assert student_learning_rate(128) == pytest.approx(4e-3)
    assert student_learning_rate(32) == pytest.approx(2e-3)


def test_a_small_catalogue_is_not_sampled_and_a_dense_one_less() -> None:
    def negatives(num_items: int, num_targets: int) -> int:
        dataset = dataset_of(1, num_targets + 1)
        return num_negatives(dataclasses.replace(dataset, meta={"num_items": num_items}))

    assert [negatives(n, 100 * n - 1) for n in (30, 4096, 4097)] == [0, 0, 1024]
    assert [negatives(n, 100 * n) for n in (30, 4096, 4097)] == [0, 0, 4096]
