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
    main(["--num-items", "300", "2000", "--index-lists", "2", *quick])
    return path


@pytest.fixture(scope="module")
def catalogues(folder: Path) -> CatalogueResults:
    return load(CatalogueResults, folder / "catalogue.json")


def test_each_size_is_measured_for_each_student_and_its_lower_bound(
    catalogues: CatalogueResults,
) -> None:
    """The index looks at a part of the items: at most 512 of 2,000."""
    assert catalogues.config["num_items"] == [300, 2000]
    systems = [
        *(("transformer", label) for label in ("fp32", "int8", "int8 index", "int8 optimum")),
        *(("gru", label) for label in ("fp32", "int8", "int8 step", "int8 index", "int8 optimum")),
    ]
    rows = [(row.num_items, row.system, row.precision_label) for row in catalogues.rows]
    assert rows == [(size, *system) for size in (300, 2000) for system in systems]
    for row in catalogues.rows:
        assert row.history_length == (1 if row.variant == "step" else 50)
        expected = row.latency_ms.p50 / row.lower_bound_ms.total
        assert row.ratio_to_lower_bound == pytest.approx(expected)
        assert row.idle_call_ms is not None
        fractions = [fraction for _, fraction in row.profile]
        assert fractions == sorted(fractions, reverse=True)
        assert 0 < sum(fractions) <= 1 + 1e-9
        assert "If" not in dict(row.profile)  # which holds the operators of an index


def test_the_table_shows_its_rows(catalogues: CatalogueResults, folder: Path) -> None:
    head, _, *lines = format_catalogue(catalogues).splitlines()
    assert head.split() == ["300", "2,000"]
    for row in catalogues.rows:
        line = next(line for line in lines if line.startswith(f"{row.label}  "))
        assert f"{row.latency_ms.p50:.3f}" in line.removeprefix(row.label).split()
    assert (folder / "catalogue.png").read_bytes().startswith(b"\x89PNG")


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        CatalogueConfig(num_items=(100, 0))
