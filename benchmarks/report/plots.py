"""Accuracy against latency, drawn from `benchmark.json`: the same JSON gives the same picture.

python -m benchmarks.report.plots --input runs/ml-100k/benchmark.json --output benchmark.png
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags
from seqrec.errors import run_main

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.report.tables import full_name, is_untaught, read_results

logger = logging.getLogger(__name__)

# Okabe and Ito's palette: told apart by colour-blind readers. The family decides the colour, the
# role and precision the marker.
FAMILY_COLORS = {
    "popularity": "#777777",
    "teacher": "#D55E00",
    "gru": "#0072B2",
    "transformer": "#009E73",
}
MARKERS = {"fp32": "o", "int8": "D"}
OTHER_MARKER = "s"
LABEL: dict[str, Any] = {
    "fontsize": 9,
    "va": "center",
    "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85},
}
LABEL_GAP = 0.045  # between neighbouring labels, as a share of the axis' height
CHARACTER = 0.0122  # a letter's width in a label, as a share of the decades that points span
NEIGHBOUR_FACTOR = 3.0  # latencies closer than this share a column of labels
SAME_FACTOR = 1.25  # files of one system that are closer than this, and equally good, share a label
OTHER_COLOR = "#CC79A7"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """Flags of `benchmarks.report.plots`."""

    input: Path = flag(Path("benchmark.json"), "results of benchmarks.latency")
    output: Path = flag(Path("benchmark.png"), "picture to write")


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


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions apart to at least `gap`, keeping their order, by as little as possible.

    Least squares: neighbours that get in each other's way form a block around their common mean.

    >>> spread([0.0, 1.0, 1.0, 5.0], gap=1.0)
    [-0.3333333333333333, 0.6666666666666667, 1.6666666666666667, 5.0]
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    blocks: list[list[float]] = []  # [mean of position minus its offset, how many]
    for place, index in enumerate(order):
        blocks.append([positions[index] - place * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before = blocks[-1]
            before[0] = (before[0] * before[1] + mean * count) / (before[1] + count)
            before[1] += count
    bases = [mean for mean, count in blocks for _ in range(int(count))]
    moved = [0.0] * len(positions)
    for place, (index, base) in enumerate(zip(order, bases, strict=True)):
        moved[index] = base + place * gap
    return moved


def avoid(positions: Sequence[float], obstacles: Sequence[float], gap: float) -> list[float]:
    """Move positions to the nearest places that keep `gap` to obstacles and to one another.

    >>> avoid([1.25, 5.0, 2.0], obstacles=[1.5, 9.0], gap=1.0)
    [0.5, 5.0, 2.5]
    """
    taken, moved = list(obstacles), list(positions)
    for index in sorted(range(len(positions)), key=lambda i: positions[i]):
        places = [positions[index], *(other + side for other in taken for side in (-gap, gap))]
        free = [
            place for place in places if all(abs(place - other) > 0.999 * gap for other in taken)
        ]
        moved[index] = min(free, key=lambda place: abs(place - positions[index]))
        taken.append(moved[index])
    return moved


def _columns(rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Group rows of similar latency: each group's labels stand in a column of their own."""
    order = sorted(range(len(rows)), key=lambda i: rows[i]["latency_ms"]["p50"])
    groups: list[list[int]] = []
    last = 0.0
    for index in order:
        latency = rows[index]["latency_ms"]["p50"]
        if groups and latency < last * NEIGHBOUR_FACTOR:
            groups[-1].append(index)
        else:
            groups.append([index])
        last = latency
    return groups


def _labels(
    rows: Sequence[dict[str, Any]], column: Sequence[int], gap: float
) -> list[tuple[str, list[int]]]:
    """Return a column's labels, each with its rows: one for files of a system that lie together."""
    together: list[list[int]] = []
    for index in column:
        row = rows[index]
        for others in together:
            first = rows[others[0]]
            if (
                row["system"] == first["system"]
                and row["latency_ms"]["p50"] < SAME_FACTOR * first["latency_ms"]["p50"]
                and abs(row["metrics"]["ndcg@10"] - first["metrics"]["ndcg@10"]) < gap
            ):
                others.append(index)
                break
        else:
            together.append([index])
    return [
        (", ".join([full_name(rows[some[0]]), *(rows[i]["precision"] for i in some[1:])]), some)
        for some in together
    ]


def _draw_point(axes: Axes, row: dict[str, Any], color: str) -> None:
    """Draw a system's marker with its two bars."""
    x, y = row["latency_ms"]["p50"], row["metrics"]["ndcg@10"]
    bar: dict[str, Any] = {"color": color, "alpha": 0.35, "linewidth": 1.6, "zorder": 2}
    axes.plot([x, x], [row["metrics"]["ndcg@10_low"], row["metrics"]["ndcg@10_high"]], **bar)
    axes.plot([x, row["latency_ms"]["p95"]], [y, y], **bar)
    axes.plot(
        x,
        y,
        marker=MARKERS.get(row["precision"], OTHER_MARKER),
        markersize=7.5,
        color=color,
        markerfacecolor="white" if is_untaught(row) else color,
        markeredgewidth=1.6,
        linestyle="none",
        zorder=4,
    )


def draw(results: dict[str, Any]) -> Figure:
    """Draw the content of `benchmark.json`, as documented in `benchmarks.latency`."""
    rows = results["rows"]
    points = [(row["latency_ms"]["p50"], row["metrics"]["ndcg@10"]) for row in rows]
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#EEEEEE", zorder=0)
    front = [points[i] for i in pareto_front(points)]
    axes.plot(*zip(*front, strict=True), color="#AAAAAA", linestyle="--", linewidth=1.2, zorder=1)
    colors = [FAMILY_COLORS.get(row["system"].split()[0], OTHER_COLOR) for row in rows]
    for row, color in zip(rows, colors, strict=True):
        _draw_point(axes, row, color)
    low = min(row["metrics"]["ndcg@10_low"] for row in rows)
    high = max(row["metrics"]["ndcg@10_high"] for row in rows)
    height = max(high - low, 1e-9)
    # The columns of labels need room at the right of their points.
    fastest, slowest = min(x for x, _ in points), max(row["latency_ms"]["p95"] for row in rows)
    decades = max(math.log10(slowest / fastest), 0.6)
    axes.set_xlim(fastest / 10 ** (0.08 * decades), slowest * 10 ** (0.34 * decades))
    if decades < 1.5:  # powers of ten alone would leave one number on the axis
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    gap = LABEL_GAP * 1.12 * height
    placed: list[tuple[float, float, float]] = []  # labels: from x to x, at which height
    for group in _columns(rows):
        column = max(rows[i]["latency_ms"]["p95"] for i in group) * 10 ** (0.05 * decades)
        labels = _labels(rows, group, gap)
        end = column * 10 ** (CHARACTER * decades * max(len(name) for name, _ in labels))
        others = [(x, x, y) for i, (x, y) in enumerate(points) if i not in group]
        obstacles = [y for first, last, y in placed + others if first < end and last > column]
        means = [sum(points[i][1] for i in some) / len(some) for _, some in labels]
        heights = avoid(spread(means, gap), obstacles, gap)
        for (name, some), label_y in zip(labels, heights, strict=True):
            color = colors[some[0]]
            leader: dict[str, Any] = {"color": color, "alpha": 0.5, "linewidth": 0.7, "zorder": 3}
            for x, y in (points[i] for i in some):
                axes.plot([x, column], [y, label_y], **leader)
            axes.text(column, label_y, f" {name}", color=color, zorder=5, **LABEL)
            placed.append((column, column * 10 ** (CHARACTER * decades * len(name)), label_y))
    heights = [low, high, *(y for _, _, y in placed)]
    axes.set_ylim(min(heights) - 0.06 * height, max(heights) + 0.06 * height)
    _describe(figure, axes, results)
    return figure


def _describe(figure: Figure, axes: Axes, results: dict[str, Any]) -> None:
    """Add title, axis labels and the caption with the machine."""
    data, machine = results["dataset"], results["environment"]
    axes.set_xlabel("latency of one user's request in ms, p50; bar to the right: p95")
    axes.set_ylabel("NDCG@10 on the test targets; bar: 95 % interval")
    axes.set_title(
        f"{data['name']}: {data['num_users']:,} users, {data['num_items']:,} items, "
        f"{data['protocol'].replace('_', ' ')}",
        loc="left",
        fontsize=11,
    )
    threads = "1 thread" if machine["num_threads"] == 1 else f"{machine['num_threads']} threads"
    figure.supxlabel(
        f"{machine['cpu']}, {threads}, onnxruntime {machine['versions']['onnxruntime']}. "
        "Hollow: trained without the teacher. Dashed: systems that no other beats in both.",
        fontsize=7.5,
        color="#777777",
    )


def write_figure(results: dict[str, Any], path: Path) -> None:
    """Draw results and write the picture, beside `path` first."""
    save_figure(draw, results, path)


def save_figure(
    drawing: Callable[[dict[str, Any]], Figure], results: dict[str, Any], path: Path
) -> None:
    """Write what `drawing` makes of results, in the common style, beside `path` first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.tmp{path.suffix}")
    with mpl.rc_context(STYLE):
        drawing(results).savefig(
            beside, metadata={"Software": None} if path.suffix == ".png" else None
        )
    beside.replace(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figure from a file of results."""
    config = parse_flags(PlotConfig, (__doc__ or "").partition("\n")[0], argv)
    results = read_results(config.input, "Measure first: python -m benchmarks.latency")
    write_figure(results, config.output)
    logger.info("wrote %s", config.output)


if __name__ == "__main__":
    run_main(main)
