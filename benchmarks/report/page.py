"""The benchmark as one page that needs nothing else: `report.html`, by the template `page.html`."""

from pathlib import Path

import jinja2

from benchmarks.report.plots import draw_latency, figure_svg
from benchmarks.report.schema import LatencyResults
from benchmarks.report.tables import (
    busy_note,
    grid,
    latency_columns,
    latency_notes,
    lower_bound_note,
    make_table,
    number,
)

SWEEPS = {
    "Users per second, by users at once": ("throughput_by_batch", ",.0f"),
    "p50 in ms, by items in the history": ("p50_ms_by_history", ".3f"),
}


def templates() -> jinja2.Environment:
    """Return what fills the templates beside this file; values in HTML are escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(results: LatencyResults) -> str:
    """Return the page."""
    columns = latency_columns(results.throughput_batch_size)
    return (
        templates()
        .get_template("page.html")
        .render(
            data=results.dataset,
            machine=results.environment,
            picture=figure_svg(draw_latency(results)),
            systems=make_table(results.rows, columns, style="html"),
            sweeps={title: sweep_table(results, *field) for title, field in SWEEPS.items()},
            notes=latency_notes(results),
            busy=busy_note(results.environment),
            lower_bound=lower_bound_note(results.lower_bound),
        )
    )


def sweep_table(results: LatencyResults, field: str, style: str) -> str:
    """Return what `--sweeps` measured, a row for each system, a column for each size; "" if not."""
    cells = (
        (row.label, size, number(value, style))
        for row in results.rows
        for size, value in (getattr(row, field) or {}).items()
    )
    return grid(cells, "html")
