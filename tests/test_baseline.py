"""A run is compared with an earlier one by figures that are worked out by hand here."""

import copy
from pathlib import Path
from typing import Any

from seqrec.errors import DataError
from seqrec.files import write_json

import pytest

from benchmarks.baseline import compare_runs, format_comparison, read_baseline

FINGERPRINT = "a" * 64


def run(**systems: tuple[float, float | None, float]) -> dict[str, Any]:
    """Return a run of systems with NDCG@10, multiples of the limit, and MiB."""
    rows = []
    for name, (ndcg, over_limit, size) in systems.items():
        row = {"system": name, "precision": "int8", "metrics": {"ndcg@10": ndcg}, "size_mib": size}
        rows.append(row if over_limit is None else {**row, "over_limit": over_limit})
    dataset = {"fingerprint": FINGERPRINT}
    return {"schema": "seqrec-benchmark/1", "dataset": dataset, "rows": rows}


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


def test_systems_of_one_run_only_are_named_and_count_for_nothing() -> None:
    earlier = run(gru=(0.1, 4.0, 1.0), knn=(0.1, 1.0, 1.0))
    later = run(gru=(0.1, 4.0, 1.0), sasrec=(0.0, 99.0, 99.0))
    compared = compare_runs(earlier, later, max_ndcg_loss=0.02, max_slowdown=1.5)
    assert [row["system"] for row in compared] == ["gru"]
    text = format_comparison(compared, earlier, later)
    assert "knn int8: in the baseline only" in text
    assert "sasrec int8: in the new run only" in text
    assert "No worse than the baseline: 1 systems compared" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "seqrec-accuracy/1"}, "schema 'seqrec-accuracy/1', expected"),
        ({"dataset": {"fingerprint": "b" * 64}}, "data set bbbbbbbbbbbb, this run is on aaaaaaaa"),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_json(tmp_path / "b.json", {**copy.deepcopy(EARLIER), **change})
    with pytest.raises(DataError, match=message):
        read_baseline(tmp_path / "b.json", FINGERPRINT)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_baseline_that_cannot_be_read_is_refused(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"--baseline .* cannot be read"):
        read_baseline(file, FINGERPRINT)
