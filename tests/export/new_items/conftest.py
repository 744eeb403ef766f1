"""Exports of students that were taught by a language model."""

import shutil
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset

import polars as pl
import pytest

from export.config import AddItemsConfig
from export.onnx_graph.exporting import ensure_exported

ExportOf = Callable[..., Path]


@pytest.fixture(scope="session")
def new_items() -> pl.DataFrame:
    """Three books that the tiny catalogue lacks."""
    return pl.DataFrame(
        {
            "item_id": ["n1", "n2", "n3"],
            "title": ["The Moonstone", "The War of the Roses", "Emma"],
            "category": ["Detective, Mystery", "History", "Romance, Comedy of Manners"],
        }
    )


@pytest.fixture(scope="session")
def export_of(tiny_cold: SequenceDataset, tiny_cold_run: Path) -> ExportOf:
    """Return what exports a student of the run."""

    def export(arch: str = "gru", precision: str = "fp32", role: str = "distilled") -> Path:
        student = tiny_cold_run / "students" / arch / role
        return ensure_exported(tiny_cold, tiny_cold_run, student, precision)  # type: ignore[arg-type]

    return export


@pytest.fixture
def wanted(export_of: ExportOf, new_items: pl.DataFrame, tmp_path: Path) -> AddItemsConfig:
    """What would work: a copy of an export, new items, a free output directory."""
    shutil.copytree(export_of(), tmp_path / "exported")
    new_items.write_parquet(tmp_path / "new.parquet")
    return AddItemsConfig(
        model_dir=tmp_path / "exported",
        items=tmp_path / "new.parquet",
        output_dir=tmp_path / "out",
    )
