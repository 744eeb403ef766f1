import copy
import json
from pathlib import Path
from typing import Any

from seqrec.errors import DataError

import numpy as np
import pytest

from benchmarks.report.plots import draw, main, pareto_front, spread, write_figure


def row(system: str, precision: str, p50: float, ndcg: float) -> dict[str, Any]:
    metrics = {"ndcg@10": ndcg, "ndcg@10_low": ndcg - 0.01, "ndcg@10_high": ndcg + 0.01}
    latency = {"p50": p50, "p95": 1.5 * p50, "p99": 2 * p50}
    return {"system": system, "precision": precision, "metrics": metrics, "latency_ms": latency}


@pytest.fixture
def results() -> dict[str, Any]:
    return {
        "environment": {"cpu": "Abacus 9", "num_threads": 1, "versions": {"onnxruntime": "1.0"}},
        "dataset": {
            "name": "tiny",
            "num_users": 40,
            "num_items": 30,
            "protocol": "seen_excluded",
        },
        "rows": [
            row("popularity", "fp32", 0.05, 0.04),
            row("teacher", "nf4", 90.0, 0.10),
            row("gru control", "fp32", 0.11, 0.080),
            row("gru distilled", "fp32", 0.11, 0.082),
            row("gru distilled", "int8", 0.10, 0.081),
        ],
    }


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1.0, 0.1)], [0]),
        ([(2.0, 0.3), (1.0, 0.2), (3.0, 0.1)], [1, 0]),  # the slowest is the worst
        ([(1.0, 0.2), (1.0, 0.3)], [1]),  # equally fast
        ([(1.0, 0.3), (2.0, 0.3)], [0]),  # equally good
    ],
)
def test_the_front_holds_what_no_other_beats(
    points: list[tuple[float, float]], expected: list[int]
) -> None:
    assert pareto_front(points) == expected


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([0.0, 5.0], [0.0, 5.0]),  # far apart: nothing moves
        ([3.0, 3.0], [2.5, 3.5]),  # the mean stays
        ([3.0, 0.0, 3.2], [2.6, 0.0, 3.6]),  # the order of the input is kept
        ([0.0, 0.6, 1.2], [-0.4, 0.6, 1.6]),  # one block of three
    ],
)
def test_labels_are_moved_apart_by_as_little_as_possible(
    positions: list[float], expected: list[float]
) -> None:
    assert spread(positions, gap=1.0) == pytest.approx(expected)


def test_no_two_labels_overlap(results: dict[str, Any]) -> None:
    figure = draw(results)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == len(results["rows"]) - 1  # two files of a student share one
    for i, first in enumerate(boxes):
        assert not any(first.overlaps(second) for second in boxes[i + 1 :])
        assert first.x1 <= figure.bbox.x1


def test_files_of_one_system_that_lie_together_share_a_label(results: dict[str, Any]) -> None:
    results["rows"] += [
        row("gru distilled", "int8 step", 0.05, 0.081),  # faster
        row("gru distilled", "int4", 0.10, 0.05),  # worse
    ]
    names = {text.get_text().strip() for text in draw(results).axes[0].texts}
    assert names == {
        *("popularity", "teacher nf4", "gru control fp32", "gru distilled int8, fp32"),
        *("gru distilled int8 step", "gru distilled int4"),
    }


def test_no_label_hides_a_system(results: dict[str, Any]) -> None:
    """The peers' points stand where the labels of the fast and good ones would be."""
    fast = [{**results["rows"][-1], "system": f"gru number {number}"} for number in range(6)]
    slow = copy.deepcopy(results["rows"][-1])
    for name in ("p50", "p95", "p99"):
        slow["latency_ms"][name] *= 8
    results["rows"] += [*fast, slow]
    figure = draw(results)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for row in results["rows"]:
        x, y = axes.transData.transform((row["latency_ms"]["p50"], row["metrics"]["ndcg@10"]))
        assert not any(text.get_window_extent().contains(x, y) for text in axes.texts)


def test_every_system_is_drawn_where_it_was_measured(results: dict[str, Any]) -> None:
    drawn = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in draw(results).axes[0].lines
        if line.get_marker() != "None"
    }
    expected = {(r["latency_ms"]["p50"], r["metrics"]["ndcg@10"]) for r in results["rows"]}
    assert drawn == expected


def test_the_machine_is_in_the_caption(results: dict[str, Any]) -> None:
    assert "Abacus 9, 1 thread" in draw(results).get_supxlabel()


def test_the_same_json_gives_the_same_picture(results: dict[str, Any], tmp_path: Path) -> None:
    untouched = copy.deepcopy(results)
    write_figure(results, tmp_path / "first.png")
    assert results == untouched
    (tmp_path / "benchmark.json").write_text(json.dumps(results))
    main(["--input", str(tmp_path / "benchmark.json"), "--output", str(tmp_path / "second.png")])
    first, second = ((tmp_path / name).read_bytes() for name in ("first.png", "second.png"))
    assert first == second
    results["rows"][0]["latency_ms"]["p50"] *= 2
    write_figure(results, tmp_path / "third.png")
    assert (tmp_path / "third.png").read_bytes() != first


def test_one_system_alone_can_be_drawn(results: dict[str, Any]) -> None:
    results["rows"] = results["rows"][:1]
    low, high = draw(results).axes[0].get_xlim()
    assert np.isfinite([low, high]).all()
    assert low < 0.05 < high


def test_missing_results_name_the_command_to_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"python -m benchmarks\.latency"):
        main(["--input", str(tmp_path / "nothing.json")])
