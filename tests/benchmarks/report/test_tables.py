"""The table that a terminal shows after the benchmark."""

from pathlib import Path

from benchmarks.report.files import load
from benchmarks.report.schema import LatencyResults
from benchmarks.report.tables import BRIEF, format_latency, grid

KEPT = Path(__file__).parents[3] / "benchmarks" / "results" / "ml-100k" / "benchmark.json"


def test_the_table_of_a_benchmark_fits_a_terminal_and_shows_all_systems() -> None:
    results = load(LatencyResults, KEPT)
    table = format_latency(results).splitlines()
    assert all(name in table[0] for name in BRIEF)
    assert max(map(len, table[: len(results.rows)])) <= 100
    for row, line in zip(results.rows, table[2:], strict=False):
        assert row.system in line
        assert f"{row.latency_ms.p50:.3f}" in line
    assert f"{results.dataset.num_users:,} test users" in "\n".join(table)


def test_cells_make_a_table_in_their_order() -> None:
    cells = [("b", "y", "1"), ("a", "x", "2"), ("b", "x", "3")]
    assert [line.split() for line in grid(cells, "plain").splitlines()] == [
        ["y", "x"],
        ["b", "1", "3"],
        ["a", "-", "2"],
    ]
    assert grid([]) == ""
