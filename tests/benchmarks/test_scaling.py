"""Which logs `benchmarks.scaling` invents, and what its table says of a plan."""

import pytest

from benchmarks.report.schema import Machine, ScalingResults, ScalingRow
from benchmarks.report.tables import format_scaling
from benchmarks.scaling import ScalingConfig

pytestmark = pytest.mark.slow


def test_one_number_is_for_all_sizes_and_more_are_for_one_each() -> None:
    config = ScalingConfig(num_items=(10, 20), num_events=(7,), num_users=(3, 4))
    assert config.logs() == [(7, 3, 10), (7, 4, 20)]  # events, users, items


def test_numbers_that_fit_no_size_are_refused() -> None:
    with pytest.raises(ValueError, match="--num-users: 3 numbers for 2 sizes"):
        ScalingConfig(num_items=(10, 20), num_users=(1, 2, 3))


def test_the_table_holds_a_plan_against_what_was_measured() -> None:
    row = ScalingRow(
        num_events=2_000_000,
        num_items=5000,
        system="teacher",
        batch_size=16,
        steps_per_s=2.0,
        targets_per_s=100.0,
        targets_per_cpu_s=90.0,
        validated_users=50,
        validation_s=2.0,
        peak_mib=1536.0,
        planned_mib=1280.0,
        planned_steps_per_s=2.5,
    )
    machine = Machine(
        cpu="Abacus 9", num_cores=2, num_threads=1, os="Linux", python="3.11", versions={}
    )
    text = format_scaling(ScalingResults(config={}, environment=machine, rows=(row,)))
    assert "5,000 items, 2 M events" in text
    assert "100/s, 1.50 GiB (1.25 planned)" in text
