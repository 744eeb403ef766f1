"""The short table says what the long one says."""

from pathlib import Path

from benchmarks.report.files import load
from benchmarks.report.schema import LatencyResults
from benchmarks.report.tables import BRIEF, format_latency

KEPT = Path(__file__).parents[3] / "benchmarks" / "results" / "ml-100k" / "benchmark.json"


def test_the_brief_table_has_some_columns_of_the_whole_one() -> None:
    results = load(LatencyResults, KEPT)
    brief = format_latency(results, brief=True).splitlines()
    whole = format_latency(results).splitlines()
    assert all(name in brief[0] for name in BRIEF)
    assert max(map(len, brief[: len(results.rows)])) <= 100  # fits a terminal
    for row, short, long in zip(results.rows, brief[2:], whole[2:], strict=False):
        assert row.system in short
        assert f"{row.latency_ms.p50:.3f}" in short
        cells = [cell.strip() for cell in short.split("  ") if cell.strip()]
        assert all(cell in long for cell in cells)
    assert f"{results.dataset.num_users:,} test users" in "\n".join(brief)
