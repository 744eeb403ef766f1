"""Gains over the control, drawn from `accuracy.json`: the same JSON gives the same picture.

python -m benchmarks.report.plot_accuracy --input accuracy.json --output accuracy.png
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags
from seqrec.errors import run_main

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.grid.variants import CONTROL
from benchmarks.report.plots import FAMILY_COLORS, OTHER_COLOR, save_figure
from benchmarks.report.tables import read_results

logger = logging.getLogger(__name__)

MARKERS = {"int8": "D", "fusion": "s", "teacher": "^"}
OTHER_MARKER = "o"
# So far below the control that the other rows would be pressed into a corner of the picture.
NOT_DRAWN = (CONTROL, "popularity")
ROW_HEIGHT, FRAME_HEIGHT, PANEL_WIDTH, FRAME_WIDTH = 0.36, 1.5, 4.6, 1.6  # inches


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """Flags of `benchmarks.report.plot_accuracy`."""

    input: Path = flag(Path("accuracy.json"), "results of benchmarks.accuracy")
    output: Path = flag(Path("accuracy.png"), "picture to write")


def drawn_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that have a gain over their control to be drawn."""
    return [
        row
        for row in results["rows"]
        if row["row"] not in NOT_DRAWN and row["gain_over"].get(CONTROL)
    ]


def order_rows(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows' names, largest gain first, in the mean over architectures."""
    gains: dict[str, list[float]] = {}
    for row in rows:
        gains.setdefault(row["row"], []).append(row["gain_over"][CONTROL]["mean"])
    return sorted(gains, key=lambda name: (-float(np.mean(gains[name])), name))


def is_certain(gain: dict[str, float]) -> bool:
    """Tell whether an interval lies on one side of zero."""
    return gain["low"] > 0 or gain["high"] < 0


def _color(row: dict[str, Any]) -> str:
    if row["kind"] == "fusion":
        return OTHER_COLOR
    return FAMILY_COLORS["teacher" if row["kind"] == "teacher" else row["arch"]]


def _draw_panel(axes: Axes, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Draw one architecture's gains, a line of the panel each, the figure at its right."""
    axes.axvline(0, color="#555555", linewidth=1.2, zorder=1)
    axes.grid(axis="x", color="#EEEEEE", zorder=0)
    for row in rows:
        y, gain, color = names.index(row["row"]), row["gain_over"][CONTROL], _color(row)
        axes.plot([gain["low"], gain["high"]], [y, y], color=color, alpha=0.45, linewidth=2)
        axes.plot(
            gain["mean"],
            y,
            marker=MARKERS.get(row["kind"], OTHER_MARKER),
            markersize=7,
            color=color,
            markerfacecolor=color if is_certain(gain) else "white",
            markeredgewidth=1.6,
            linestyle="none",
            zorder=4,
        )
        axes.text(
            1.02,
            y,
            f"{gain['mean']:+.1f} %",
            transform=axes.get_yaxis_transform(),
            color=color,
            fontsize=9,
            va="center",
        )
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first row at the top
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    axes.tick_params(axis="y", length=0)


def draw(results: dict[str, Any]) -> Figure:
    """Draw the content of `accuracy.json`, as documented in `benchmarks.grid.summary`."""
    rows = drawn_rows(results)
    names = order_rows(rows)
    archs = list(dict.fromkeys(row["arch"] for row in rows)) or ["gru"]
    figure = Figure(
        figsize=(
            FRAME_WIDTH + PANEL_WIDTH * len(archs),
            FRAME_HEIGHT + ROW_HEIGHT * max(len(names), 1),
        ),
        dpi=160,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(archs), sharex=True, sharey=True, squeeze=False)[0]
    data = results["dataset"]
    for axes, arch in zip(panels, archs, strict=True):
        own = [row for row in rows if row["arch"] == arch]
        _draw_panel(axes, own, names)
        (control,) = [r for r in results["rows"] if (r["row"], r["arch"]) == (CONTROL, arch)] or [
            None
        ]
        level = control and control["metrics"][data["protocol"]]["ndcg@10"]["mean"]
        axes.set_title(
            f"{arch}: control at NDCG@10 {level:.4f}" if level else arch,
            loc="left",
            fontsize=10,
            color=FAMILY_COLORS[arch],
        )
        axes.set_xlabel("NDCG@10 over the control, %; bar: 95 % interval")
    panels[0].set_yticks(range(len(names)), names)
    counts = sorted({len(row["seeds"]) for row in results["rows"]} - {0}) or [1]
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    figure.suptitle(
        f"{data['name']}: {data['num_users']:,} users, {data['num_items']:,} items, "
        f"{data['protocol'].replace('_', ' ')}, mean of {seeds} seed{'s' * (counts[-1] != 1)}",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    figure.supxlabel(
        "Hollow: within chance, the interval holds zero. Diamond: int8 file. Triangle: teacher. "
        "Square: mean of two systems.",
        fontsize=7.5,
        color="#777777",
    )
    return figure


def write_figure(results: dict[str, Any], path: Path) -> None:
    """Draw results and write the picture, beside `path` first."""
    save_figure(draw, results, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figure from a file of results."""
    config = parse_flags(PlotConfig, (__doc__ or "").partition("\n")[0], argv)
    results = read_results(config.input, "Compute them: python -m benchmarks.accuracy")
    write_figure(results, config.output)
    logger.info("wrote %s", config.output)


if __name__ == "__main__":
    run_main(main)
