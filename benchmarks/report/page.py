"""The benchmark as one page that needs nothing else: `report.html` from `benchmark.json`.

    python -m benchmarks.report.page --input runs/ml-100k/benchmark.json --output report.html

A chart of NDCG@10 over latency to point at and zoom into, the table, sortable by each column, what
the teaching gave, and the machine. The drawing library (Plotly) is inside the file.
"""

import html
import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags
from seqrec.errors import run_main
from seqrec.files import write_text
from seqrec.report import interval

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from tabulate import tabulate

from benchmarks.report.browser import HEADERS, HEADING, included_cells
from benchmarks.report.plots import FAMILY_COLORS, OTHER_COLOR, pareto_front
from benchmarks.report.tables import (
    busy_note,
    full_name,
    gain_lines,
    is_untaught,
    read_results,
    training_lines,
)

logger = logging.getLogger(__name__)

SYMBOLS = {"fp32": "circle", "int8": "diamond"}
OTHER_SYMBOL = "square"
PEER_SYMBOLS = ("triangle-up", "triangle-down", "star", "hexagon", "pentagon", "cross", "x")
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 75rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
p.note {{ color: #555; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }}
th, td {{ padding: .3rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e5e5e5; }}
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) {{ text-align: left; }}
th button {{ font: inherit; font-weight: 600; border: 0; background: none; cursor: pointer;
  padding: 0; color: inherit; }}
th[aria-sort=ascending] button::after {{ content: " \\25B2"; }}
th[aria-sort=descending] button::after {{ content: " \\25BC"; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{about}</p>
<h2>Accuracy over latency</h2>
<div id="chart-accuracy"></div>
{sweeps}
<h2>All systems</h2>
<p class="note">A click on a column's name sorts by it.</p>
<div class="scroll"><table id="systems"><thead><tr>{heads}</tr></thead><tbody>
{rows}
</tbody></table></div>
{failed}
{included}
{gains}
{trainings}
<h2>Conditions</h2>
<p>{machine}</p>
<p class="note">{method}</p>
<script>{plotly}</script>
<script>
const charts = {charts};
for (const [id, figure] of Object.entries(charts))
  Plotly.newPlot(id, figure.data, figure.layout, {{responsive: true, displaylogo: false}});
const table = document.getElementById("systems");
table.tHead.addEventListener("click", event => {{
  const head = event.target.closest("th");
  if (!head) return;
  const down = head.getAttribute("aria-sort") !== "descending" && head.dataset.kind === "number"
    || head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = row => row.cells[head.cellIndex].dataset.value;
  const compare = (a, b) => head.dataset.kind === "number"
    ? (value(a) === "" ? Infinity : +value(a)) - (value(b) === "" ? Infinity : +value(b))
    : value(a).localeCompare(value(b));
  const rows = [...table.tBodies[0].rows].sort((a, b) => down ? compare(b, a) : compare(a, b));
  rows.sort((a, b) => (value(a) === "") - (value(b) === ""));  // what is not known stands last
  table.tBodies[0].append(...rows);
}});
</script>
</body>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Flags of `benchmarks.report.page`."""

    input: Path = flag(Path("benchmark.json"), "results of benchmarks.latency")
    output: Path = flag(Path("report.html"), "page to write")


def _color(row: dict[str, Any]) -> str:
    return FAMILY_COLORS.get(row["system"].split()[0], OTHER_COLOR)


def accuracy_chart(rows: Sequence[dict[str, Any]]) -> go.Figure:
    """Draw NDCG@10 over the p50 of one request, with intervals and the Pareto front."""
    figure = go.Figure()
    points = [(row["latency_ms"]["p50"], row["metrics"]["ndcg@10"]) for row in rows]
    front = [points[i] for i in pareto_front(points)]
    figure.add_scatter(
        x=[x for x, _ in front],
        y=[y for _, y in front],
        mode="lines",
        line={"dash": "dash", "color": "#aaaaaa", "width": 1},
        name="no other beats these in both",
        hoverinfo="skip",
    )
    peers = itertools.cycle(PEER_SYMBOLS)  # they share a colour
    for row, (x, y) in zip(rows, points, strict=True):
        metrics = row["metrics"]
        symbol = next(peers) if "peer" in row else SYMBOLS.get(row["precision"], OTHER_SYMBOL)
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            name=html.escape(full_name(row)),
            marker={
                "color": _color(row),
                "size": 11,
                "symbol": symbol + ("-open" if is_untaught(row) else ""),
                "line": {"width": 2, "color": _color(row)},
            },
            error_y={
                "array": [metrics["ndcg@10_high"] - y],
                "arrayminus": [y - metrics["ndcg@10_low"]],
                "thickness": 1,
            },
            error_x={"array": [row["latency_ms"]["p95"] - x], "arrayminus": [0], "thickness": 1},
            hovertemplate=(
                f"<b>{html.escape(full_name(row))}</b><br>NDCG@10 {interval(metrics, 'ndcg@10')}"
                f"<br>HR@10 {metrics['hr@10']:.4f}<br>p50 {x:.3f} ms, p95 "
                f"{row['latency_ms']['p95']:.3f} ms<br>{row['size_mib']:.2f} MiB<extra></extra>"
            ),
        )
    figure.update_layout(
        template="plotly_white",
        height=520,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "h", "y": -0.18},
        hovermode="closest",
    )
    figure.update_xaxes(type="log", title="ms for one user's request: p50, bar to p95")
    figure.update_yaxes(title="NDCG@10 on the test targets, 95 % interval")
    return figure


def sweep_chart(rows: Sequence[dict[str, Any]], key: str, x_title: str, y_title: str) -> go.Figure:
    """Draw what `--sweeps` measured under a key, a line for each system."""
    figure = go.Figure()
    for row in rows:
        values = row[key]
        figure.add_scatter(
            x=[int(size) for size in values],
            y=list(values.values()),
            name=html.escape(full_name(row)),
            line={
                "color": _color(row),
                "dash": {"fp32": "dot", "int8": "solid"}.get(row["precision"], "dash"),
            },
        )
    figure.update_layout(
        template="plotly_white",
        height=380,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "h", "y": -0.25},
    )
    figure.update_xaxes(type="log", title=x_title)
    figure.update_yaxes(type="log", title=y_title)
    return figure


def columns(batch_size: int) -> list[tuple[str, str]]:
    """Return the table's columns: their heading and how their numbers are written."""
    return [
        ("system", ""),
        ("precision", ""),
        ("NDCG@10", ".4f"),
        ("95 %, from", ".4f"),
        ("to", ".4f"),
        ("HR@10", ".4f"),
        ("MRR@10", ".4f"),
        ("p50 ms", ".3f"),
        ("least", ".3f"),
        ("most", ".3f"),
        ("p95 ms", ".3f"),
        ("p99 ms", ".3f"),
        ("calls", ",d"),
        ("CPU ms", ".3f"),
        ("times the limit", ".1f"),
        ("load ms", ",.0f"),
        ("first ms", ".2f"),
        ("peak MiB", ",.0f"),
        (f"users/s at {batch_size}", ",.0f"),
        ("MiB", ".2f"),
        ("parameters", ",d"),
    ]


def cells(row: dict[str, Any]) -> list[Any]:
    """Return a row's values, in the order of `columns`; None where nothing was measured."""
    metrics, latency, fresh = row["metrics"], row["latency_ms"], row.get("fresh") or {}
    return [
        row["system"],
        row["precision"],
        *(metrics[name] for name in ("ndcg@10", "ndcg@10_low", "ndcg@10_high")),
        *(metrics[name] for name in ("hr@10", "mrr@10")),
        *(latency.get(name) for name in ("p50", "p50_least", "p50_most", "p95", "p99")),
        row["num_timed_calls"],
        latency.get("cpu"),
        row.get("over_limit"),
        *(fresh.get(name) for name in ("load_ms", "first_ms", "peak_mib")),
        row["throughput_per_s"],
        row["size_mib"],
        row["num_parameters"],
    ]


def _cell(value: Any, style: str) -> str:
    shown = "-" if value is None else format(value, style) if style else html.escape(str(value))
    sorted_by = "" if value is None else html.escape(str(value), quote=True)
    return f'<td data-value="{sorted_by}">{shown}</td>'


def _section(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2>\n<ul>{items}</ul>"


def _included(results: dict[str, Any]) -> str:
    """Return the table of what was measured elsewhere, if there is any."""
    included = results.get("included", [])
    if not included:
        return ""
    rows = included_cells(included, results["dataset"]["fingerprint"])
    table = tabulate(rows, headers=HEADERS, tablefmt="html", disable_numparse=True)
    return f'<h2>{HEADING}</h2>\n<div class="scroll">{table}</div>'


def page(results: dict[str, Any]) -> str:
    """Return the page of the content of `benchmark.json`, as `benchmarks.latency` documents it."""
    rows, data, machine = results["rows"], results["dataset"], results["environment"]
    batch_size = results["config"]["throughput_batch_size"]
    charts = {"chart-accuracy": accuracy_chart(rows)}
    sweeps = ""
    for key, heading, titles in (
        ("throughput_by_batch", "Throughput over batch sizes", ("users at once", "users/s")),
        ("p50_ms_by_history", "Latency over history lengths", ("items in the history", "p50 ms")),
    ):
        swept = [row for row in rows if row.get(key)]
        if swept:
            charts[f"chart-{key}"] = sweep_chart(swept, key, *titles)
            sweeps += f'<h2>{heading}</h2>\n<div id="chart-{key}"></div>\n'
    layout = columns(batch_size)
    heads = "".join(
        f'<th scope="col" data-kind="{"number" if style else "text"}">'
        f'<button type="button">{html.escape(name)}</button></th>'
        for name, style in layout
    )
    body = "\n".join(
        "<tr>"
        + "".join(_cell(value, style) for value, (_, style) in zip(cells(row), layout, strict=True))
        + "</tr>"
        for row in rows
    )
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    conditions = (
        f"{machine['cpu']}, {machine['num_cores']} cores, {machine['num_threads']} thread(s) "
        f"for each call; {machine['os']}, Python {machine['python']}, {versions}. "
        + busy_note(machine)
    )
    about = (
        f"{data['num_users']:,} test users, {data['num_items']:,} items, {data['split']}, "
        f"{data['protocol'].replace('_', ' ')}; data set {data['fingerprint'][:12]}."
    )
    return PAGE.format(
        title=html.escape(f"{data['name']}: accuracy over latency"),
        about=html.escape(about),
        sweeps=sweeps,
        heads=heads,
        rows=body,
        failed="".join(
            f"<p>{html.escape(row['system'])} failed: {html.escape(row['reason'])}</p>"
            for row in results.get("failed", [])
        ),
        included=_included(results),
        gains=_section("Gained, with the paired 95 % interval", gain_lines(rows)),
        trainings=_section("How the other libraries were trained", training_lines(rows)),
        machine=html.escape(conditions),
        method=(
            "Every target is ranked against the whole catalogue. All systems got the same test "
            "users in the same order and took turns, 20 of them: least and most are the medians of "
            "the fastest and the slowest. Fewer than 200 calls have no p99. The limit is what one "
            "core needs to read the parameters once and look once at each score"
            + (", without NumPy's own calls" if "limit" in results else "")
            + ". Hollow: trained without the teacher."
        ),
        # "</" would end the script element, whatever string it stands in.
        charts=json.dumps({key: json.loads(f.to_json()) for key, f in charts.items()}).replace(
            "</", "<\\/"
        ),
        plotly=get_plotlyjs(),
    )


def write_report(results: dict[str, Any], path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, page(results))


def main(argv: Sequence[str] | None = None) -> None:
    """Make the page from a file of results."""
    config = parse_flags(ReportConfig, (__doc__ or "").partition("\n")[0], argv)
    results = read_results(config.input, "Measure first: python -m benchmarks.latency")
    write_report(results, config.output)
    logger.info("wrote %s", config.output)


if __name__ == "__main__":
    run_main(main)
