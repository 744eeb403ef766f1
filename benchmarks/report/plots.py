"""Pictures of results: the same JSON gives the same picture.

    python -m benchmarks.report.plots --input runs/ml-100k/benchmark.json --output benchmark.png

Takes `benchmark.json` (accuracy against latency), `accuracy.json` (gains over the control) and
`catalogue.json` (latency over the number of items); `kind` in the file says which it is.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags
from seqrec.errors import run_main
from seqrec.files import says

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from benchmarks.report.files import load
from benchmarks.report.schema import (
    AccuracyResults,
    CatalogueResults,
    Gain,
    Identity,
    LatencyResults,
    SystemResult,
    VariantSummary,
)
from benchmarks.report.tables import CONTROL

logger = logging.getLogger(__name__)

# Okabe and Ito's palette: told apart by colour-blind readers. The family decides the colour,
# precision and variant the marker; other libraries' models share a colour and differ in markers.
COLORS = {"popularity": "#777777", "teacher": "#D55E00", "gru": "#0072B2", "transformer": "#009E73"}
OTHER_COLOR = "#CC79A7"
MARKERS = {"fp32": "o", "int8": "D", "int8 step": ">", "int8 optimum": "s", "int8 index": "<"}
OTHER_MARKERS = ("^", "v", "P", "X", "*", "p", "h", "d")
LINES = {"fp32": ":", "int8": "-"}
OTHER_LINE = "--"
KIND_MARKERS = {"int8": "D", "ensemble": "s", "teacher": "^"}
# So far below the control that the other variants would be pressed into a corner of the picture.
NOT_DRAWN = (CONTROL, "popularity")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "svg.hashsalt": "seqrec",
}


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """Flags of `benchmarks.report.plots`."""

    input: Path = flag(Path("benchmark.json"), "benchmark.json, accuracy.json or catalogue.json")
    output: Path = flag(Path("benchmark.png"), "picture to write")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture beside `path`, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.tmp{path.suffix}")
    with mpl.rc_context(STYLE):
        figure.savefig(beside, metadata={"Software": None} if path.suffix == ".png" else None)
    beside.replace(path)


def figure_svg(figure: Figure) -> str:
    """Return a picture as an SVG element."""
    text = io.StringIO()
    with mpl.rc_context(STYLE):
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


def markers(rows: Sequence[Identity]) -> Iterator[str]:
    """Yield a marker for each row: those of one family that look else alike differ."""
    others: dict[tuple[str, str], str] = {}
    for row in rows:
        known = None if row.family in ("baseline", "own") else MARKERS.get(row.precision_label)
        key = (row.system if known is None else "", row.precision_label)
        if known is None and row.family in COLORS:
            key = ("", row.precision_label)
        yield known or others.setdefault(key, OTHER_MARKERS[len(others) % len(OTHER_MARKERS)])


def _color(row: Identity) -> str:
    return COLORS.get(row.family, OTHER_COLOR)


def _caption(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=7.5, color="#777777")


def _plain(value: float, _: object) -> str:
    return f"{value:g}"


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


# --- Accuracy against latency ---------------------------------------------------------------------


def draw_latency(results: LatencyResults) -> Figure:
    """Draw NDCG@10 over the p50 of one request, a legend beside it."""
    with mpl.rc_context(STYLE):
        figure = new_figure(9.5, 5.2)
        axes = figure.add_subplot()
        axes.set_xscale("log")
        points = [(row.latency_ms.p50, row.metrics["ndcg@10"]) for row in results.rows]
        axes.grid(color="#EEEEEE", zorder=0)
        front = [points[i] for i in pareto_front(points)]
        axes.plot(*zip(*front, strict=True), color="#AAAAAA", linestyle="--", linewidth=1.2)
        for row, marker in zip(results.rows, markers(results.rows), strict=True):
            _draw_system(axes, row, marker)
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        axes.xaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_xlim()
        if high / low < 30:  # powers of ten alone would leave one number on the axis
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
        axes.set_xlabel("latency of one user's request in ms, p50; bar to the right: p95")
        axes.set_ylabel("NDCG@10 on the test targets; bar: 95 % interval")
        data, machine = results.dataset, results.environment
        axes.set_title(
            f"{data.name}: {data.num_users:,} users, {data.num_items:,} items, "
            f"{data.protocol.replace('_', ' ')}",
            loc="left",
            fontsize=11,
        )
        _caption(
            figure,
            f"{machine.cpu}, {_threads(machine.num_threads)}, onnxruntime "
            f"{machine.versions['onnxruntime']}. Hollow: trained without the teacher. "
            "Dashed: systems that no other beats in both.",
        )
    return figure


def _draw_system(axes: Axes, row: SystemResult, marker: str) -> None:
    """Draw a system's marker with its two bars."""
    x, y, color = row.latency_ms.p50, row.metrics["ndcg@10"], _color(row)
    bar: dict[str, Any] = {"color": color, "alpha": 0.35, "linewidth": 1.6, "zorder": 2}
    axes.plot([x, x], [row.metrics["ndcg@10_low"], row.metrics["ndcg@10_high"]], **bar)
    axes.plot([x, row.latency_ms.p95], [y, y], **bar)
    _point(axes, x, y, color, marker, is_hollow=row.is_untaught, label=row.label)


def _point(
    axes: Axes, x: float, y: float, color: str, marker: str, *, is_hollow: bool, label: str = ""
) -> None:
    axes.plot(
        x,
        y,
        marker=marker,
        markersize=7.5,
        color=color,
        markerfacecolor="white" if is_hollow else color,
        markeredgewidth=1.6,
        linestyle="none",
        zorder=4,
        label=label,
    )


def draw_sweep(rows: Sequence[SystemResult], key: str, x_label: str, y_label: str) -> Figure:
    """Draw what `--sweeps` measured, a line for each system."""
    with mpl.rc_context(STYLE):
        figure = new_figure(8, 3.6)
        axes = figure.add_subplot()
        for row in rows:
            curve = {int(size): value for size, value in getattr(row, key).items()}
            line = LINES.get(row.precision_label, OTHER_LINE)
            axes.plot(list(curve), list(curve.values()), line, color=_color(row), label=row.label)
        axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_plain))
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


# --- Gains over the control -----------------------------------------------------------------------

Drawn = list[tuple[VariantSummary, Gain]]


def drawn_rows(results: AccuracyResults) -> Drawn:
    """Return the rows that have a gain over their control to be drawn, with that gain."""
    found = [(row, row.gain_over.get(CONTROL)) for row in results.rows]
    return [(row, gain) for row, gain in found if gain and row.variant not in NOT_DRAWN]


def order_variants(rows: Drawn) -> list[str]:
    """Return the variants' names, largest gain first, in the mean over architectures."""
    gains: dict[str, list[float]] = {}
    for row, gain in rows:
        gains.setdefault(row.variant, []).append(gain.mean)
    return sorted(gains, key=lambda name: (-sum(gains[name]) / len(gains[name]), name))


def draw_accuracy(results: AccuracyResults) -> Figure:
    """Draw each variant's gain over the control, a panel for each architecture."""
    rows = drawn_rows(results)
    names = order_variants(rows)
    archs = list(dict.fromkeys(row.arch for row, _ in rows)) or ["gru"]
    data = results.dataset
    counts = sorted({len(row.seeds) for row in results.rows} - {0}) or [1]
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    with mpl.rc_context(STYLE):
        figure = new_figure(1.6 + 4.6 * len(archs), 1.5 + 0.36 * max(len(names), 1))
        panels = figure.subplots(1, len(archs), sharex=True, sharey=True, squeeze=False)[0]
        for axes, arch in zip(panels, archs, strict=True):
            _draw_panel(axes, [pair for pair in rows if pair[0].arch == arch], names)
            control = results.find(CONTROL, arch)
            level = control and control.metrics[data.protocol]["ndcg@10"].mean
            title = f"{arch}: control at NDCG@10 {level:.4f}" if level else arch
            axes.set_title(title, loc="left", fontsize=10, color=COLORS[arch])
            axes.set_xlabel("NDCG@10 over the control, %; bar: 95 % interval")
        panels[0].set_yticks(range(len(names)), names)
        figure.suptitle(
            f"{data.name}: {data.num_users:,} users, {data.num_items:,} items, "
            f"{data.protocol.replace('_', ' ')}, mean of {seeds} seed{'s' * (counts[-1] != 1)}",
            x=0.01,
            ha="left",
            fontsize=11,
        )
        _caption(
            figure,
            "Hollow: within chance, the interval holds zero. Diamond: int8 file. Triangle: "
            "teacher. Square: mean of two systems.",
        )
    return figure


def _draw_panel(axes: Axes, rows: Drawn, names: Sequence[str]) -> None:
    """Draw one architecture's gains, a line of the panel each, the figure at its right."""
    axes.axvline(0, color="#555555", linewidth=1.2, zorder=1)
    axes.grid(axis="x", color="#EEEEEE", zorder=0)
    for row, gain in rows:
        y = names.index(row.variant)
        color = COLORS["teacher" if row.kind == "teacher" else row.arch]
        color = OTHER_COLOR if row.kind == "ensemble" else color
        axes.plot([gain.low, gain.high], [y, y], color=color, alpha=0.45, linewidth=2)
        marker, is_hollow = KIND_MARKERS.get(row.kind, "o"), gain.verdict == "within chance"
        _point(axes, gain.mean, y, color, marker, is_hollow=is_hollow)
        at_the_right: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(1.02, y, f"{gain.mean:+.1f} %", color=color, fontsize=9, **at_the_right)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first variant at the top
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    axes.tick_params(axis="y", length=0)


# --- Latency over catalogue sizes -----------------------------------------------------------------


def draw_catalogue(results: CatalogueResults) -> Figure:
    """Draw a line for each system, and the lower bound of int8.

    What Optimum makes of a student is as fast as our own file, and would hide it.
    """
    rows = [row for row in results.rows if row.variant != "optimum"]
    sizes = sorted({row.num_items for row in rows})
    bound = {
        row.num_items: row.lower_bound_ms.total
        for row in rows
        if (row.family, row.precision_label) == ("transformer", "int8")
    }
    machine = results.environment
    with mpl.rc_context(STYLE):
        figure = new_figure(9.5, 5.2)
        axes = figure.add_subplot()
        for row, marker in zip(rows, markers(rows), strict=True):
            if row.num_items != sizes[0]:
                continue
            same = [r for r in rows if r.label == row.label]
            line = LINES.get(row.precision_label, OTHER_LINE)
            style: dict[str, Any] = {"linestyle": line, "marker": marker, "markersize": 4}
            num_items, p50 = [r.num_items for r in same], [r.latency_ms.p50 for r in same]
            axes.plot(num_items, p50, color=_color(row), label=row.label, linewidth=1.4, **style)
        bound_label = "lower bound of int8"
        axes.plot(list(bound), list(bound.values()), "--", color="#777777", label=bound_label)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(_plain))
        axes.grid(alpha=0.25)
        axes.set_xlabel("items in the catalogue")
        axes.set_ylabel("latency of one user's request in ms, p50")
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
        _caption(
            figure,
            f"{machine.cpu}, {_threads(machine.num_threads)}, random weights. Dotted: fp32. "
            "The lower bound: the table read once, each score looked at once.",
        )
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the picture of a file of results."""
    config = parse_flags(PlotConfig, (__doc__ or "").partition("\n")[0], argv)
    if says(config.input, "kind", AccuracyResults.KIND):
        figure = draw_accuracy(load(AccuracyResults, config.input))
    elif says(config.input, "kind", CatalogueResults.KIND):
        figure = draw_catalogue(load(CatalogueResults, config.input))
    else:
        figure = draw_latency(load(LatencyResults, config.input))
    save_figure(figure, config.output)
    logger.info("wrote %s", config.output)


if __name__ == "__main__":
    run_main(main)
