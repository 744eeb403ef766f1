"""Pictures of results: the same JSON gives the same picture."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from benchmarks.report.schema import (
    AccuracyResults,
    CatalogueResults,
    CatalogueRow,
    Gain,
    Identity,
    LatencyResults,
)
from benchmarks.report.tables import CONTROL, heading, language_model_gains

# Okabe and Ito's palette: told apart by colour-blind readers. The family decides the colour,
# precision and variant the marker; other libraries' models share a colour and differ in markers.
COLORS = {"popularity": "#777777", "teacher": "#D55E00", "gru": "#0072B2", "transformer": "#009E73"}
OTHER_COLOR = "#CC79A7"
MARKERS = {"int8": "D", "int8 call": "<", "int8 step": ">", "int8 optimum": "s"}
MARKERS |= {"int8 index": "P", "fp32 torch eager": "^", "fp32 torch compiled": "v"}
OTHER_MARKERS = ("^", "v", "P", "X", "*", "p", "h", "d")
LINES = {"fp32": ":", "int8": "-"}
# So far below the control that the other variants would be pressed into a corner of the picture.
NOT_DRAWN = (CONTROL, "popularity")
STYLE: dict[Any, Any] = {
    "figure.dpi": 160,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "svg.hashsalt": "seqrec",
}
EARLIER = "An earlier recipe. "
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


@mpl.rc_context(STYLE)
def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture beside `path`, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.tmp{path.suffix}")
    figure.savefig(beside, metadata={"Software": None})
    beside.replace(path)


@mpl.rc_context(STYLE)
def figure_svg(figure: Figure) -> str:
    """Return a picture as an SVG element."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which (latency, quality) points no other beats in both, fastest first.

    >>> pareto_front([(1.0, 0.2), (2.0, 0.1), (3.0, 0.3)])
    [0, 2]
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def looks(rows: Sequence[Identity]) -> dict[str, tuple[str, str]]:
    """Return the colour and the marker of each system, by its label."""
    others = dict.fromkeys(row.label for row in rows if row.family not in COLORS)
    other_markers = {label: OTHER_MARKERS[i % len(OTHER_MARKERS)] for i, label in enumerate(others)}
    return {
        row.label: (
            COLORS.get(row.family, OTHER_COLOR),
            other_markers.get(row.label, MARKERS.get(row.precision_label, "o")),
        )
        for row in rows
    }


def _point(
    axes: Axes, x: float, y: float, color: str, marker: str, is_hollow: bool, **more: Any
) -> None:
    """Draw a marker with its error bars."""
    face = "white" if is_hollow else color
    bars: dict[str, Any] = {"ecolor": (color, 0.4), "elinewidth": 1.6, "markersize": 7.5}
    axes.errorbar(x, y, fmt=marker, color=color, mfc=face, mew=1.6, **bars, **more)


def _finish(figure: Figure, caption: str, *, legend: bool = True) -> None:
    figure.supxlabel(caption, fontsize=7.5, color="#777777")
    if legend:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)


# --- Accuracy against latency ---------------------------------------------------------------------


@mpl.rc_context(STYLE)
def draw_latency(results: LatencyResults) -> Figure:
    """Draw NDCG@10 over the p50 of one request, a legend beside it."""
    figure = Figure(figsize=(9.5, 5.2))
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.grid(color="#EEEEEE", zorder=0)
    points = [(row.latency_ms.p50, row.metrics["ndcg@10"]) for row in results.rows]
    front = [points[i] for i in pareto_front(points)]
    axes.plot(*zip(*front, strict=True), color="#AAAAAA", linestyle="--", linewidth=1.2)
    look = looks(results.rows)
    for row, (p50, ndcg) in zip(results.rows, points, strict=True):
        low, high = row.metrics["ndcg@10_low"], row.metrics["ndcg@10_high"]
        bars: dict[str, Any] = {
            "xerr": [[0], [row.latency_ms.p95 - p50]],
            "yerr": [[ndcg - low], [high - ndcg]],
        }
        _point(axes, p50, ndcg, *look[row.label], row.is_untaught, **bars, label=row.label)
    axes.xaxis.set_major_formatter(PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    if high / low < 30:  # powers of ten alone would leave one number on the axis
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set_xlabel("latency of one user's request in ms, p50; bar to the right: p95")
    axes.set_ylabel("NDCG@10 on the test targets; bar: 95 % interval")
    axes.set_title(results.dataset.label, loc="left", fontsize=11)
    machine, note = results.environment, EARLIER * results.is_earlier
    _finish(
        figure,
        f"{note}{machine.label}, onnxruntime {machine.versions['onnxruntime']}. Hollow: trained "
        "without the teacher. Dashed: systems that no other beats in both.",
    )
    return figure


# --- Gains ----------------------------------------------------------------------------------------

Marks = list[tuple[str, str, Gain]]  # the name of a line, the architecture, the gain


@mpl.rc_context(STYLE)
def draw_accuracy(results: AccuracyResults) -> Figure:
    """Draw each variant's gain over the control, the largest first in the mean of the students."""
    marks: Marks = [
        (row.variant, row.arch, gain)
        for row in results.rows
        if row.variant not in NOT_DRAWN and (gain := row.gain_over.get(CONTROL))
    ]
    means = {name: fmean(gain.mean for n, _, gain in marks if n == name) for name, *_ in marks}
    marks.sort(key=lambda mark: (-means[mark[0]], mark[0]))
    num_seeds = max((len(row.seeds) for row in results.rows), default=0)
    title = f"{results.dataset.label}, up to {num_seeds} seed{'s' * (num_seeds != 1)}"
    return _draw_gains(marks, CONTROL, title, EARLIER * results.is_earlier)


@mpl.rc_context(STYLE)
def draw_language_model(every: Iterable[AccuracyResults]) -> Figure:
    """Draw what the language model adds on each data set, and for which of the targets."""
    marks: Marks = [
        (f"{heading(results)}, {group}", arch, gain)
        for results in every
        for arch in results.archs
        for group, gain in language_model_gains(results, arch).items()
    ]
    title = "What the language model adds, by the events of the target's item"
    return _draw_gains(marks, "no language model", title, "")


def _draw_gains(marks: Marks, over: str, title: str, note: str) -> Figure:
    """Draw gains on a line for each name, a panel for each architecture."""
    names = list(dict.fromkeys(name for name, *_ in marks))
    archs = sorted({arch for _, arch, _ in marks}) or ["gru"]
    figure = Figure(figsize=(1.6 + 4.6 * len(archs), 1.5 + 0.36 * max(len(names), 1)))
    panels = figure.subplots(1, len(archs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, arch in zip(panels, archs, strict=True):
        axes.axvline(0, color="#555555", linewidth=1.2, zorder=1)
        axes.grid(axis="x", color="#EEEEEE", zorder=0)
        at_the_right: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
        for y, gain in ((names.index(name), gain) for name, of, gain in marks if of == arch):
            bars = [[gain.mean - gain.low], [gain.high - gain.mean]]
            is_hollow = gain.verdict == "within chance"
            _point(axes, gain.mean, y, COLORS[arch], "o", is_hollow, xerr=bars)
            axes.text(1.02, y, f"{gain.mean:+.1f} %", fontsize=9, **at_the_right)
        axes.set_ylim(len(names) - 0.4, -0.6)  # the first name at the top
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}" if x else "0"))
        axes.tick_params(axis="y", length=0)
        axes.set_title(arch, loc="left", fontsize=10, color=COLORS[arch])
        axes.set_xlabel(f"NDCG@10 over {over}, %; bar: 95 % interval")
    panels[0].set_yticks(range(len(names)), names)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    _finish(figure, f"{note}Hollow: within chance, the interval holds zero.", legend=False)
    return figure


# --- Latency over catalogue sizes -----------------------------------------------------------------


@mpl.rc_context(STYLE)
def draw_catalogue(results: CatalogueResults) -> Figure:
    """Draw a line for each system, and the lower bound of int8.

    What Optimum makes of a student is as fast as our own file, and would hide it.
    """
    by_label: dict[str, list[CatalogueRow]] = {}
    for row in results.rows:
        if row.variant != "optimum":
            by_label.setdefault(row.label, []).append(row)
    look, sizes = looks(results.rows), sorted({row.num_items for row in results.rows})
    figure = Figure(figsize=(9.5, 5.2))
    axes = figure.add_subplot()
    for label, rows in by_label.items():
        color, marker = look[label]
        line: dict[str, Any] = {"linestyle": LINES.get(rows[0].precision_label, "--")}
        line |= {"marker": marker, "markersize": 4, "linewidth": 1.4, "color": color}
        p50 = [row.latency_ms.p50 for row in rows]
        axes.plot([row.num_items for row in rows], p50, label=label, **line)
    bounded = by_label.get("transformer int8", [])
    bounds = [row.lower_bound_ms.total for row in bounded]
    line = {"linestyle": "--", "color": "#777777", "label": "lower bound of int8"}
    axes.plot([row.num_items for row in bounded], bounds, **line)
    axes.set(xscale="log", yscale="log", xlabel="items in the catalogue")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PLAIN)
    axes.grid(alpha=0.25)
    axes.set_ylabel("latency of one user's request in ms, p50")
    _finish(
        figure,
        f"{results.environment.label}, random weights. Dotted: fp32. The lower bound: the "
        "table read once, each score looked at once.",
    )
    return figure
