"""Latency over catalogue sizes."""

from pathlib import Path

import pytest

from benchmarks.catalogue import CatalogueConfig, main
from benchmarks.report.files import load
from benchmarks.report.schema import CatalogueResults
from benchmarks.report.tables import format_catalogue

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalogues")
    quick = ["--num-calls", "20", "--budget-s", "0.2", "--output-dir", str(path)]
    main(["--num-items", "300", "400", *quick])
    return path


@pytest.fixture(scope="module")
def catalogues(folder: Path) -> CatalogueResults:
    return load(CatalogueResults, folder / "catalogue.json")


def test_each_size_is_measured_for_each_student_and_its_lower_bound(
    catalogues: CatalogueResults,
) -> None:
    assert catalogues.config["num_items"] == [300, 400]
    systems = [
        *(("transformer", label) for label in ("fp32", "int8", "int8 optimum")),
        *(("gru", label) for label in ("fp32", "int8", "int8 step", "int8 optimum")),
    ]
    found = [(row.num_items, row.system, row.precision_label) for row in catalogues.rows]
    assert found == [(size, *system) for size in (300, 400) for system in systems]
    for row in catalogues.rows:
        assert row.history_length == (1 if row.variant == "step" else 50)
        expected = row.latency_ms.p50 / row.lower_bound_ms.total
        assert row.ratio_to_lower_bound == pytest.approx(expected)
        assert row.idle_call_ms is not None
        fractions = [fraction for _, fraction in row.profile]
        assert fractions == sorted(fractions, reverse=True)
        assert 0 < sum(fractions) <= 1 + 1e-9


def test_an_index_is_measured_where_one_is_wanted(tmp_path: Path) -> None:
    """It is among the rows, and looks at a part of the items: 512 of 2,000."""
    quick = ["--num-calls", "20", "--budget-s", "0.2", "--output-dir", str(tmp_path)]
    main(["--num-items", "2000", "--index-lists", "2", *quick])
    rows = load(CatalogueResults, tmp_path / "catalogue.json").rows
    indexed = [(row.system, row.precision_label) for row in rows if row.variant == "index"]
    assert indexed == [("transformer", "int8 index"), ("gru", "int8 index")]
    for row in rows:
        assert "If" not in dict(row.profile)  # which holds the operators of an index
        assert sum(fraction for _, fraction in row.profile) <= 1 + 1e-9


def test_the_table_shows_its_rows(catalogues: CatalogueResults, folder: Path) -> None:
    lines = [" ".join(line.split()) for line in format_catalogue(catalogues).splitlines()]
    rows = [line for line in lines if line.startswith(("300 ", "400 "))]
    assert len(rows) == len(catalogues.rows)
    assert f"{catalogues.rows[0].latency_ms.p50:.3f}" in rows[0]
    assert (folder / "catalogue.png").read_bytes().startswith(b"\x89PNG")


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        CatalogueConfig(num_items=(100, 0))
