"""The benchmark as one page that needs nothing else: `report.html`, by the template `page.html`."""

from collections.abc import Callable
from pathlib import Path

import jinja2
from markupsafe import Markup

from benchmarks.report.plots import draw_latency, figure_svg
from benchmarks.report.schema import LatencyResults, SystemResult
from benchmarks.report.tables import (
    busy_note,
    latency_columns,
    latency_notes,
    lower_bound_note,
    make_table,
)

SWEEPS = {
    "Users per second, by users at once": ("throughput_by_batch", ",.0f"),
    "p50 in ms, by items in the history": ("p50_ms_by_history", ".3f"),
}


def page(results: LatencyResults) -> str:
    """Return the page."""
    columns = latency_columns(results.throughput_batch_size)
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    return pages.get_template("page.html").render(
        data=results.dataset,
        machine=results.environment,
        # Made by libraries that escape text.
        picture=Markup(figure_svg(draw_latency(results))),  # noqa: S704
        systems=Markup(make_table(results.rows, columns, style="html")),  # noqa: S704
        sweeps={
            title: _sweep(results, *how) for title, how in SWEEPS.items() if _swept(results, how[0])
        },
        notes=latency_notes(results),
        busy=busy_note(results.environment),
        lower_bound=lower_bound_note(results.lower_bound),
    )


def _swept(results: LatencyResults, field: str) -> list[SystemResult]:
    return [row for row in results.rows if getattr(row, field)]


def _sweep(results: LatencyResults, field: str, style: str) -> Markup:
    """Return a table of what `--sweeps` measured: a row for each system, a column for each size."""

    def at(size: str) -> Callable[[SystemResult], str]:
        return lambda row: (
            format(getattr(row, field)[size], style) if size in getattr(row, field) else "-"
        )

    rows = _swept(results, field)
    sizes = sorted({size for row in rows for size in getattr(row, field)}, key=int)
    columns = {"system": lambda row: row.label, **{size: at(size) for size in sizes}}
    return Markup(make_table(rows, columns, style="html"))  # noqa: S704
