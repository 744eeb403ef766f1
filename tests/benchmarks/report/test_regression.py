"""A run is compared with an earlier one by figures that are worked out by hand here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from seqrec.errors import DataError

import pytest

from benchmarks.measure.lower_bound import DEFINITION
from benchmarks.report.files import save
from benchmarks.report.regression import (
    RegressionConfig,
    compare_runs,
    format_comparison,
    main,
    missing,
)
from benchmarks.report.schema import LatencyResults
from tests.benchmarks.report.made import DATA, MACHINE, latency_results, system

CONFIG = RegressionConfig()


def run(**systems: tuple[float, float | None, float]) -> LatencyResults:
    """Return a run of systems with NDCG@10, multiples of the lower bound, and MiB."""
    rows = [
        system(name, "int8", 0.1, ndcg, ratio=ratio, size_mib=size)
        for name, (ndcg, ratio, size) in systems.items()
    ]
    return latency_results(*rows, lower_bound=DEFINITION)


EARLIER = run(gru=(0.100, 4.0, 1.0))


@pytest.mark.parametrize(
    ("later", "worse"),
    [
        ((0.100, 4.0, 1.0), ()),
        ((0.0981, 5.9, 1.019), ()),  # each just inside its tolerance
        ((0.0979, 4.0, 1.0), ("NDCG@10",)),  # 2.1 % less
        ((0.100, 6.1, 1.0), ("ratio to lower bound",)),  # 1.525 times
        ((0.100, 4.0, 1.03), ("MiB",)),
        ((0.200, 1.0, 0.1), ()),  # better is never worse
        ((0.090, 9.0, 2.0), ("NDCG@10", "ratio to lower bound", "MiB")),
        ((0.100, None, 1.0), ()),  # not measured
    ],
)
def test_what_is_beyond_its_tolerance_is_named(
    later: tuple[float, float | None, float], worse: tuple[str, ...]
) -> None:
    (found,) = compare_runs(EARLIER, run(gru=later), CONFIG)
    assert found.worse == worse


def test_ratios_are_later_over_earlier() -> None:
    (found,) = compare_runs(EARLIER, run(gru=(0.11, 3.0, 0.5)), CONFIG)
    assert (found.ndcg, found.slowdown, found.size) == pytest.approx((1.1, 0.75, 0.5))


def test_what_is_new_and_other_libraries_count_for_nothing_but_are_named() -> None:
    earlier = run(gru=(0.1, 4.0, 1.0), knn=(0.1, 1.0, 1.0))
    gru, knn = earlier.rows
    earlier = replace(earlier, rows=(gru, replace(knn, family="baseline")))
    later = run(gru=(0.1, 4.0, 1.0), sasrec=(0.0, 99.0, 99.0))
    compared = compare_runs(earlier, later, CONFIG)
    assert [one.key for one in compared] == [("gru", "int8")]
    assert missing(earlier, later) == []
    text = format_comparison(compared, earlier, later)
    assert "knn int8: in the earlier run only" in text
    assert "sasrec int8: in the new run only" in text
    assert "No worse than the earlier run: 1 systems compared" in text


def test_a_system_of_ours_that_is_missing_fails() -> None:
    earlier = run(gru=(0.1, 4.0, 1.0), transformer=(0.1, 1.0, 1.0))
    later = run(gru=(0.1, 4.0, 1.0))
    assert missing(earlier, later) == [("transformer", "int8")]
    text = format_comparison(compare_runs(earlier, later, CONFIG), earlier, later)
    assert "Missing, with the flags of this run: 1 systems of the earlier run" in text
    assert "No worse" not in text


def test_two_variants_of_one_precision_are_told_apart() -> None:
    gru = EARLIER.rows[0]
    both = replace(EARLIER, rows=(gru, replace(gru, variant="step", ratio_to_lower_bound=1.0)))
    assert [one.slowdown for one in compare_runs(both, both, CONFIG)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_ndcg_loss": 2.0}, "--max-ndcg-loss 2 is a fraction from 0 to 1"),
        ({"max_slowdown": 0.5}, "--max-slowdown 0.5 a factor of at least 1"),
    ],
)
def test_a_gate_that_would_let_all_pass_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegressionConfig(**flags)


def compare_files(later: LatencyResults, folder: Path, *flags: str) -> None:
    files = {"earlier": EARLIER, "later": later}
    for name, results in files.items():
        save(results, folder / f"{name}.json")
    words = [f"--{name}={folder / name}.json" for name in files]
    main([*words, *flags])


def test_the_command_ends_with_one_where_it_got_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_files(run(gru=(0.100, 4.0, 1.0)), tmp_path)
    assert "No worse" in capsys.readouterr().out
    slow = run(gru=(0.100, 7.0, 1.0))
    with pytest.raises(SystemExit) as stopped:
        compare_files(slow, tmp_path)
    assert stopped.value.code == 1
    assert "Worse than the earlier run: 1 of 1 systems" in capsys.readouterr().out
    compare_files(slow, tmp_path, "--max-slowdown=2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dataset": replace(DATA, fingerprint="b" * 64)},
            "data set 0123456789ab, this run is on bbbbbbbbbbbb",
        ),
        ({"lower_bound": None}, "another lower bound.* Measure the earlier version again"),
        (
            {"environment": replace(MACHINE, num_threads=2)},
            "1 thread.s., this run has 2. .* --num-threads 1",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        compare_files(replace(EARLIER, **change), tmp_path)
