"""A run is compared with an earlier one by figures that are worked out by hand here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from seqrec.errors import DataError

import pytest

from benchmarks.report.regression import compare_runs, ratios, require_comparable
from benchmarks.report.schema import LatencyResults
from tests.benchmarks.report.made import DATA, MACHINE, latency_results, system


def run(**systems: tuple[float, float | None, float]) -> LatencyResults:
    """Return a run of systems with NDCG@10, multiples of the lower bound, and MiB."""
    rows = [
        system(name, "int8", 0.1, ndcg, ratio=ratio, size_mib=size)
        for name, (ndcg, ratio, size) in systems.items()
    ]
    return latency_results(*rows, lower_bound="read + top-k")


EARLIER = run(gru=(0.100, 4.0, 1.0))


@pytest.mark.parametrize(
    ("later", "worse"),
    [
        ((0.100, 4.0, 1.0), ""),
        ((0.0981, 5.9, 1.019), ""),  # each just inside its tolerance
        ((0.0979, 4.0, 1.0), "NDCG@10"),  # 2.1 % less
        ((0.100, 6.1, 1.0), "ratio to lower bound"),  # 1.525 times
        ((0.100, 4.0, 1.03), "MiB"),
        ((0.200, 1.0, 0.1), ""),  # better is never worse
        ((0.090, 9.0, 2.0), "NDCG@10, ratio to lower bound, MiB"),
        ((0.100, None, 1.0), ""),  # not measured
    ],
)
def test_what_is_beyond_its_tolerance_is_named(
    later: tuple[float, float | None, float], worse: str
) -> None:
    text, is_worse = compare_runs(EARLIER, run(gru=later))
    (line,) = [line for line in text.splitlines() if line.strip().startswith("gru ")]
    assert is_worse == bool(worse)
    if worse:
        assert line.endswith(f"  {worse}")
        assert "Worse than the earlier run: 1 of 1 systems" in text
    else:
        assert line.endswith(" -")
        assert "No worse than the earlier run: 1 systems" in text


def test_ratios_are_later_over_earlier() -> None:
    measured = ratios(EARLIER.rows[0], run(gru=(0.11, 3.0, 0.5)).rows[0])
    expected = {"NDCG@10": 1.1, "ratio to lower bound": 0.75, "MiB": 0.5}
    assert measured == pytest.approx(expected)


def test_what_is_new_and_other_libraries_count_for_nothing_but_are_named() -> None:
    earlier = run(gru=(0.1, 4.0, 1.0), knn=(0.1, 1.0, 1.0))
    gru, knn = earlier.rows
    earlier = replace(earlier, rows=(gru, replace(knn, family="baseline")))
    text, is_worse = compare_runs(earlier, run(gru=(0.1, 4.0, 1.0), sasrec=(0.0, 99.0, 99.0)))
    assert not is_worse
    assert "knn int8: in the earlier run only" in text
    assert "sasrec int8: in the new run only" in text
    assert "No worse than the earlier run: 1 systems compared" in text


def test_a_system_of_ours_that_is_missing_fails() -> None:
    earlier = run(gru=(0.1, 4.0, 1.0), transformer=(0.1, 1.0, 1.0))
    text, is_worse = compare_runs(earlier, run(gru=(0.1, 4.0, 1.0)))
    assert is_worse
    assert "Missing, with the flags of this run: 1 systems of the earlier run" in text
    assert "No worse" not in text


def test_two_variants_of_one_precision_are_told_apart() -> None:
    gru = EARLIER.rows[0]
    step = replace(gru, variant="step", ratio_to_lower_bound=1.0)
    slow = replace(step, ratio_to_lower_bound=2.0)
    text, _ = compare_runs(replace(EARLIER, rows=(gru, step)), replace(EARLIER, rows=(gru, slow)))
    assert "Worse than the earlier run: 1 of 2 systems" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dataset": replace(DATA, fingerprint="b" * 64)},
            "data set bbbbbbbbbbbb, this run is on 0123456789ab",
        ),
        ({"lower_bound": None}, "another lower bound.* Measure the earlier version again"),
        (
            {"environment": replace(MACHINE, num_threads=2)},
            "2 thread.s., this run has 1. .* --num-threads 2",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        require_comparable(
            replace(EARLIER, **change),
            Path("earlier.json"),
            DATA.fingerprint,
            1,
            EARLIER.lower_bound,
        )
