"""A run is compared with an earlier one by figures that are worked out by hand here."""

import copy
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError
from seqrec.files import write_json

import pytest

from benchmarks.latency import BenchmarkConfig, main
from benchmarks.measure.lower_bound import DEFINITION
from benchmarks.report.regression import compare_runs, format_comparison, missing, read_baseline

FINGERPRINT = "a" * 64


def run(**systems: tuple[float, float | None, float]) -> dict[str, Any]:
    """Return a run of systems with NDCG@10, multiples of the limit, and MiB."""
    rows = []
    for name, (ndcg, over_limit, size) in systems.items():
        row = {"system": name, "precision": "int8", "metrics": {"ndcg@10": ndcg}, "size_mib": size}
        rows.append(row if over_limit is None else {**row, "over_limit": over_limit})
    about = {"dataset": {"fingerprint": FINGERPRINT}, "environment": {"num_threads": 1}}
    return {"schema": "seqrec-benchmark/2", **about, "limit": DEFINITION, "rows": rows}


EARLIER = run(gru=(0.100, 4.0, 1.0))


@pytest.mark.parametrize(
    ("later", "worse"),
    [
        ((0.100, 4.0, 1.0), []),
        ((0.0981, 5.9, 1.019), []),  # each just inside its tolerance
        ((0.0979, 4.0, 1.0), ["ndcg@10"]),  # 2.1 % less
        ((0.100, 6.1, 1.0), ["over_limit"]),  # 1.525 times
        ((0.100, 4.0, 1.03), ["size_mib"]),
        ((0.200, 1.0, 0.1), []),  # better is never worse
        ((0.090, 9.0, 2.0), ["ndcg@10", "over_limit", "size_mib"]),
        ((0.100, None, 1.0), []),  # not measured
    ],
)
def test_what_is_beyond_its_tolerance_is_named(
    later: tuple[float, float | None, float], worse: list[str]
) -> None:
    (found,) = compare_runs(EARLIER, run(gru=later), max_ndcg_loss=0.02, max_slowdown=1.5)
    assert found["worse"] == worse


def test_ratios_are_later_over_earlier() -> None:
    later = run(gru=(0.11, 3.0, 0.5))
    (found,) = compare_runs(EARLIER, later, max_ndcg_loss=0.02, max_slowdown=1.5)
    assert found["ndcg@10"] == pytest.approx(1.1)
    assert found["over_limit"] == pytest.approx(0.75)
    assert found["size_mib"] == pytest.approx(0.5)


def test_what_is_new_and_other_libraries_count_for_nothing_but_are_named() -> None:
    earlier = run(gru=(0.1, 4.0, 1.0), knn=(0.1, 1.0, 1.0))
    earlier["rows"][1]["peer"] = {"implicit": "0.7.2"}
    later = run(gru=(0.1, 4.0, 1.0), sasrec=(0.0, 99.0, 99.0))
    compared = compare_runs(earlier, later, max_ndcg_loss=0.02, max_slowdown=1.5)
    assert [row["system"] for row in compared] == ["gru"]
    assert missing(earlier, later) == []
    text = format_comparison(compared, earlier, later)
    assert "knn int8: in the baseline only" in text
    assert "sasrec int8: in the new run only" in text
    assert "No worse than the baseline: 1 systems compared" in text


def test_a_system_of_ours_that_is_missing_fails() -> None:
    earlier = run(gru=(0.1, 4.0, 1.0), transformer=(0.1, 1.0, 1.0))
    later = run(gru=(0.1, 4.0, 1.0))
    assert missing(earlier, later) == [("transformer", "int8")]
    compared = compare_runs(earlier, later, max_ndcg_loss=0.02, max_slowdown=1.5)
    text = format_comparison(compared, earlier, later)
    assert "Missing, with the flags of this run: 1 systems of the baseline" in text
    assert "No worse" not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_ndcg_loss": 2.0}, "--max-ndcg-loss 2 is a share from 0 to 1"),
        ({"max_slowdown": 0.5}, "--max-slowdown 0.5 a factor of at least 1"),
        ({"baseline": Path("b.json"), "catalogue_sizes": (9,)}, "--baseline belongs to a run"),
        ({"device": "cuda", "catalogue_sizes": (9,)}, "--device cuda belongs to a run"),
        ({"torch": True, "catalogue_sizes": (9,)}, "--torch belongs to a run"),
    ],
)
def test_a_gate_that_would_let_all_pass_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig(**flags)


def test_a_run_does_not_write_over_its_baseline(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    words = ["--data-dir", str(tiny_dataset.path), "--output-dir", str(tmp_path)]
    with pytest.raises(DataError, match="is where this run writes its own results. Copy it"):
        main([*words, "--baseline", str(tmp_path / "benchmark.json")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "seqrec-accuracy/1"}, "schema 'seqrec-accuracy/1', expected"),
        ({"dataset": {"fingerprint": "b" * 64}}, "data set bbbbbbbbbbbb, this run is on aaaaaaaa"),
        ({"limit": None}, "measured against another limit.* Measure the earlier version again"),
        ({"environment": {"num_threads": 2}}, "2 thread.s., this run has 1. .* --num-threads 2"),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_json(tmp_path / "b.json", {**copy.deepcopy(EARLIER), **change})
    with pytest.raises(DataError, match=message):
        read_baseline(tmp_path / "b.json", FINGERPRINT, 1)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_baseline_that_cannot_be_read_is_refused(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"--baseline .* cannot be read"):
        read_baseline(file, FINGERPRINT, 1)
