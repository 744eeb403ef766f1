"""Pictures show what the JSON says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from benchmarks.grid.variants import VARIANTS
from benchmarks.report.plots import (
    draw_accuracy,
    draw_catalogue,
    draw_language_model,
    draw_latency,
    pareto_front,
    save_figure,
)
from benchmarks.report.schema import (
    AccuracyResults,
    CatalogueResults,
    CatalogueRow,
    Latency,
    LatencyResults,
    LowerBound,
)
from tests.benchmarks.report.made import (
    MACHINE,
    accuracy_results,
    latency_results,
    over,
    system,
    variant,
)


@pytest.fixture
def results() -> LatencyResults:
    return latency_results(
        system("popularity", "fp32", 0.05, 0.04),
        system("teacher", "nf4", 90.0, 0.10),
        system("gru control", "fp32", 0.11, 0.080),
        system("gru distilled", "fp32", 0.11, 0.082),
        system("gru distilled", "int8", 0.10, 0.081),
        system("gru distilled", "int8", 0.05, 0.081, variant="step"),
        system("one sasrec", "fp32", 1.0, 0.05, family="baseline", role=None),
        system("two sasrec", "fp32", 1.1, 0.06, family="baseline", role=None),
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(1.0, 0.1)], [0]),
        ([(2.0, 0.3), (1.0, 0.2), (3.0, 0.1)], [1, 0]),  # the slowest is the worst
        ([(1.0, 0.2), (1.0, 0.3)], [1]),  # equally fast
        ([(1.0, 0.3), (2.0, 0.3)], [0]),  # equally good
    ],
)
def test_the_front_holds_what_no_other_beats(
    given: list[tuple[float, float]], expected: list[int]
) -> None:
    assert pareto_front(given) == expected


def test_every_system_is_drawn_where_it_was_measured_and_told_apart(
    results: LatencyResults,
) -> None:
    figure: Any = draw_latency(results)
    drawn = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in drawn] == [
        (row.latency_ms.p50, row.metrics["ndcg@10"]) for row in results.rows
    ]
    looks = [(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in drawn]
    assert len(set(looks)) == len(results.rows)
    labels = [row.label for row in results.rows]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels
    hollow = [label for label, (*_, face) in zip(labels, looks, strict=True) if face == "white"]
    assert hollow == ["gru control fp32", "one sasrec fp32", "two sasrec fp32"]
    assert figure.get_supxlabel().startswith("Abacus 9, 1 thread")
    earlier = draw_latency(replace(results, recipe_version=None))
    assert earlier.get_supxlabel().startswith("An earlier recipe. Abacus 9, 1 thread")


def test_the_legend_hides_no_system_and_is_not_cut_off(results: LatencyResults) -> None:
    figure = draw_latency(results)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= figure.axes[0].get_window_extent().x1
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= 0


def test_the_same_json_gives_the_same_picture(results: LatencyResults, tmp_path: Path) -> None:
    slower = latency_results(system("popularity", "fp32", 0.1, 0.04), *results.rows[1:])
    for name, drawn in (("first", results), ("second", results), ("third", slower)):
        save_figure(draw_latency(drawn), tmp_path / f"{name}.png")
    first, second, third = (
        (tmp_path / f"{name}.png").read_bytes() for name in ("first", "second", "third")
    )
    assert first == second != third


def test_one_system_alone_can_be_drawn(results: LatencyResults) -> None:
    low, high = draw_latency(latency_results(results.rows[0])).axes[0].get_xlim()
    assert np.isfinite([low, high]).all()
    assert low < 0.05 < high


# --- Gains over the control -----------------------------------------------------------------------


def test_variants_are_drawn_in_the_order_of_their_gain_at_their_gain() -> None:
    gru, transformer = draw_accuracy(accuracy_results()).axes
    names = [label.get_text() for label in gru.get_yticklabels()]
    # distilled: (9 + 1) / 2; the control is the line at zero, popularity is far off
    assert names == ["temperature-2", "distilled-int8", "distilled", "teacher"]
    drawn = {
        (names[int(line.get_ydata()[0])], float(line.get_xdata()[0]), line.get_markerfacecolor())
        for axes in (gru, transformer)
        for line in axes.lines
        if line.get_marker() not in ("None", "")
    }
    assert {(name, x) for name, x, _ in drawn} == {
        ("temperature-2", 9.1),
        ("distilled-int8", 9.0),
        ("distilled", 9.0),
        ("distilled", 1.0),
        ("teacher", -5.0),
    }
    # Its interval holds zero.
    assert {(name, x) for name, x, face in drawn if face == "white"} == {("distilled", 1.0)}


def some_gains() -> AccuracyResults:
    """Of all variants over the control, and of the int8 file over no language model."""
    rows = []
    for arch in ("gru", "transformer"):
        for index, name in enumerate(VARIANTS):
            gains = {"control": over(3.0 * index - 12), "no-language-model": over(10.0)}
            row = variant(name, arch, {} if name == "control" else gains)
            group = replace(row.by_frequency["1-5"], over_no_language_model=over(-8.0 + index))
            rows.append(replace(row, by_frequency={"1-5": group, "6-20": group}))
    return accuracy_results(*rows)


def renamed(results: AccuracyResults) -> AccuracyResults:
    return replace(results, dataset=replace(results.dataset, name="other"))


def test_the_language_models_gains_are_drawn_for_all_data_sets_and_frequencies() -> None:
    results = some_gains()
    gru, transformer = draw_language_model([results, renamed(results)]).axes
    names = [label.get_text() for label in gru.get_yticklabels()]
    groups = ("all targets", "events: 1-5", "events: 6-20")
    assert names == [f"{data}, {group}" for data in ("tiny", "other") for group in groups]
    for axes in (gru, transformer):
        drawn = [line for line in axes.lines if line.get_marker() not in ("None", "")]
        index = list(VARIANTS).index("distilled-int8")
        of_set = [10.0, index - 8.0, index - 8.0]
        assert [line.get_xdata()[0] for line in drawn] == of_set * 2


@pytest.mark.parametrize(
    ("draw", "num_labels"),
    [
        (draw_accuracy, 2 * (len(VARIANTS) - 2)),
        (lambda results: draw_language_model([results, renamed(results)]), 2 * 6),
    ],
)
def test_no_two_labels_overlap_and_none_is_cut_off(draw: Any, num_labels: int) -> None:
    figure: Any = draw(some_gains())
    figure.draw_without_rendering()
    texts = [figure._suptitle, figure._supxlabel, *figure.axes[0].get_yticklabels()]
    for axes in figure.axes:
        low, high = axes.get_xlim()  # a tick beyond the ends has a label that is not drawn
        ticks = [
            label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high
        ]
        texts += [*axes.texts, axes.xaxis.label, axes._left_title, *ticks]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > num_labels
    for i, first in enumerate(boxes):
        assert not any(first.overlaps(second) for second in boxes[i + 1 :])
        assert first.x0 >= 0
        assert first.x1 <= figure.bbox.x1


# --- Latency over catalogue sizes -----------------------------------------------------------------


def test_a_line_goes_over_the_sizes_of_each_system_and_of_the_lower_bound() -> None:
    def row(num_items: int, precision: str, variant: str | None = None) -> CatalogueRow:
        p50 = num_items / 1000 * (1 if precision == "int8" else 2)
        return CatalogueRow(
            system="transformer",
            family="transformer",
            precision=precision,
            variant=variant,
            num_items=num_items,
            history_length=50,
            latency_ms=Latency(p50=p50, p95=p50),
            num_timed_calls=9,
            size_mib=1.0,
            lower_bound_ms=LowerBound(read=p50 / 4, top_k=p50 / 4),
            ratio_to_lower_bound=2.0,
        )

    kinds = (("fp32", None), ("int8", None), ("int8", "optimum"))
    rows = tuple(row(size, *kind) for size in (100, 1000) for kind in kinds)
    figure = draw_catalogue(CatalogueResults(config={}, environment=MACHINE, rows=rows))
    drawn = {str(line.get_label()): list(line.get_ydata()) for line in figure.axes[0].lines}
    # What Optimum makes is as fast as int8, and would hide it.
    assert drawn == {
        "transformer fp32": [0.2, 2.0],
        "transformer int8": [0.1, 1.0],
        "lower bound of int8": [0.05, 0.5],
    }


def test_drawing_leaves_the_style_of_others_alone(results: LatencyResults) -> None:
    before = dict(mpl.rcParams)
    draw_latency(results)
    assert dict(mpl.rcParams) == before
