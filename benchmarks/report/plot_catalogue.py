"""How latency grows with the catalogue, drawn from `catalogue.json`.

python -m benchmarks.report.plot_catalogue --input catalogue.json --output catalogue.png
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags
from seqrec.errors import run_main

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.report.plots import FAMILY_COLORS, LABEL, MARKERS, OTHER_COLOR, save_figure, spread
from benchmarks.report.tables import full_name, read_results

logger = logging.getLogger(__name__)

LINES = {"fp32": ":", "int8": "-"}
OTHER_LINE = "--"
LABEL_GAP = 0.05  # as a share of the axis' height
LEADER = 0.08  # its length, as a share of the decades that sizes span


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """Flags of `benchmarks.report.plot_catalogue`."""

    input: Path = flag(Path("catalogue.json"), "results of benchmarks.latency --catalogue-sizes")
    output: Path = flag(Path("catalogue.png"), "picture to write")


def curves(results: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Return each system's p50 in ms by the number of items; the limit of int8 beside them.

    What Optimum makes of a student is as fast as our own, and would hide it.
    """
    found: dict[str, dict[int, float]] = {}
    for row in results["rows"]:
        if row["precision"] == "int8-optimum":
            continue
        found.setdefault(full_name(row), {})[row["num_items"]] = row["latency_ms"]["p50"]
        if (row["system"], row["precision"]) == ("transformer", "int8"):
            limit = sum(row["limit_ms"].values())
            found.setdefault("limit of int8", {})[row["num_items"]] = limit
    return found


def draw(results: dict[str, Any]) -> Figure:
    """Draw a line for each system, its name at the end."""
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    found = curves(results)
    precisions = {full_name(row): row["precision"] for row in results["rows"]}
    for name, curve in found.items():
        precision = precisions.get(name, "")
        axes.plot(
            list(curve),
            list(curve.values()),
            color=_color(name),
            linestyle=LINES.get(precision, OTHER_LINE),
            marker=MARKERS.get(precision),
            markersize=4,
            linewidth=1.4,
        )
    low, high = map(math.log10, axes.get_ylim())
    ends = [math.log10(curve[max(curve)]) for curve in found.values()]
    heights = spread(ends, LABEL_GAP * (high - low))
    sizes = sorted({row["num_items"] for row in results["rows"]})
    column = sizes[-1] * (sizes[-1] / sizes[0]) ** LEADER
    for name, end, height in zip(found, ends, heights, strict=True):
        color = _color(name)
        leader = [[sizes[-1], column], [10**end, 10**height]]
        axes.plot(*leader, color=color, alpha=0.5, linewidth=0.7)
        axes.text(column, 10**height, f" {name}", color=color, **LABEL)
    axes.set_xlim(sizes[0] / 1.5, column)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.25)
    axes.set_xlabel("items in the catalogue")
    axes.set_ylabel("latency of one user's request in ms, p50")
    machine = results["environment"]
    figure.supxlabel(
        f"{machine['cpu']}, {machine['num_threads']} thread(s), random weights. Dotted: fp32. "
        "The limit: the table read once, each score looked at once.",
        fontsize=7.5,
        color="#777777",
    )
    return figure


def _color(name: str) -> str:
    if name.startswith("limit"):
        return FAMILY_COLORS["popularity"]
    return FAMILY_COLORS.get(name.split()[0].rstrip(","), OTHER_COLOR)


def write_figure(results: dict[str, Any], path: Path) -> None:
    """Draw results and write the picture, beside `path` first."""
    save_figure(draw, results, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figure from a file of results."""
    config = parse_flags(PlotConfig, (__doc__ or "").partition("\n")[0], argv)
    how = "Measure first: python -m benchmarks.latency --catalogue-sizes 1700 50000"
    write_figure(read_results(config.input, how), config.output)
    logger.info("wrote %s", config.output)


if __name__ == "__main__":
    run_main(main)
