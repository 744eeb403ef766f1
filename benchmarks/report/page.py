"""The benchmark as one page that needs nothing else: `report.html`, by the template `page.html`."""

from collections.abc import Callable
from pathlib import Path

import jinja2

from benchmarks.report.plots import draw_latency, figure_svg
from benchmarks.report.schema import LatencyResults
from benchmarks.report.tables import (
    busy_note,
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
    curves = {row.label: getattr(row, field) for row in results.rows if getattr(row, field)}
    sizes = sorted({size for curve in curves.values() for size in curve}, key=int)
    columns: dict[str, Callable[[str], str]] = {"system": str}
    columns |= {n: lambda label, n=n: number(curves[label].get(n), style) for n in sizes}
    return make_table(curves, columns, style="html") if curves else ""
