"""The benchmark as one page that needs nothing else: `report.html` from `benchmark.json`.

    python -m benchmarks.report.page --input runs/ml-100k/benchmark.json --output report.html

The picture of NDCG@10 over latency, the table, sortable by each column, what the teaching gave,
and the machine.
"""

import html
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrec.config import flag, parse_flags
from seqrec.errors import run_main
from seqrec.files import write_text

from tabulate import tabulate

from benchmarks.report.files import load
from benchmarks.report.plots import draw_latency, draw_sweep, figure_svg
from benchmarks.report.schema import LatencyResults
from benchmarks.report.tables import (
    busy_note,
    gain_lines,
    latency_cells,
    latency_columns,
    lower_bound_note,
    training_lines,
)

logger = logging.getLogger(__name__)

SWEEPS = (
    ("throughput_by_batch", "Throughput over batch sizes", ("users at once", "users/s")),
    ("p50_ms_by_history", "Latency over history lengths", ("items in the history", "p50 ms")),
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 75rem; margin: 0 auto; padding: 1rem; }}
svg {{ max-width: 100%; height: auto; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }}
th, td {{ padding: .3rem .6rem; white-space: nowrap; border-bottom: 1px solid #e5e5e5; }}
th {{ cursor: pointer; text-align: left; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
<script>
const value = (row, column) => row.cells[column].textContent.replaceAll(",", "");
const isNumber = text => !isNaN(parseFloat(text));
document.querySelector("thead").addEventListener("click", event => {{
  const column = event.target.cellIndex, body = document.querySelector("tbody");
  const sign = event.target.dataset.order === "down" ? 1 : -1;  // the first click: most first
  event.target.dataset.order = sign < 0 ? "down" : "up";
  body.append(...[...body.rows].sort((first, second) => {{
    const [a, b] = [value(first, column), value(second, column)];
    if (isNumber(a) && isNumber(b)) return sign * (parseFloat(a) - parseFloat(b));
    return isNumber(a) ? -1 : isNumber(b) ? 1 : -sign * a.localeCompare(b);
  }}));
}});
</script>
</body>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """Flags of `benchmarks.report.page`."""

    input: Path = flag(Path("benchmark.json"), "results of benchmarks.latency")
    output: Path = flag(Path("report.html"), "page to write")


def page(results: LatencyResults) -> str:
    """Return the page."""
    data, machine = results.dataset, results.environment
    parts = [
        _paragraph(
            f"{data.num_users:,} test users, {data.num_items:,} items, {data.split}, "
            f"{data.protocol.replace('_', ' ')}; data set {data.fingerprint[:12]}."
        ),
        f"<h2>Accuracy over latency</h2>\n{figure_svg(draw_latency(results))}",
    ]
    for key, title, labels in SWEEPS:
        if swept := [row for row in results.rows if getattr(row, key)]:
            parts += [f"<h2>{title}</h2>", figure_svg(draw_sweep(swept, key, *labels))]
    table = tabulate(
        [latency_cells(row) for row in results.rows],
        headers=latency_columns(results.throughput_batch_size),
        tablefmt="html",
        disable_numparse=True,
    )
    failed = [f"{failure.system} failed: {failure.reason}" for failure in results.failed]
    versions = ", ".join(f"{name} {value}" for name, value in machine.versions.items())
    parts += [
        "<h2>All systems</h2>",
        _paragraph("A click on a column's name sorts by it."),
        f"<div>{table}</div>",
        _section("Failed", failed),
        _section("Gained, with the paired 95 % interval", gain_lines(results.rows)),
        _section("How the other libraries were trained", training_lines(results.rows)),
        "<h2>Conditions</h2>",
        _paragraph(
            f"{machine.cpu}, {machine.num_cores} cores, {machine.num_threads} thread(s) for each "
            f"call; {machine.os}, Python {machine.python}, {versions}. {busy_note(machine)}"
        ),
        _paragraph(
            "Every target is ranked against the whole catalogue. All systems got the same test "
            "users in the same order and took turns. Fewer than 200 calls have no p99. "
            + lower_bound_note(results.lower_bound)
        ),
    ]
    title = html.escape(f"{data.name}: accuracy over latency")
    return PAGE.format(title=title, body="\n".join(filter(None, parts)))


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _section(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2>\n<ul>{items}</ul>" if lines else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the page from a file of results."""
    config = parse_flags(PageConfig, (__doc__ or "").partition("\n")[0], argv)
    write_text(config.output, page(load(LatencyResults, config.input)))
    logger.info("wrote %s", config.output)


if __name__ == "__main__":
    run_main(main)
