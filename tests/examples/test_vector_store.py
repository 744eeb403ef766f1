"""The example with a vector database answers as the recommender does."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from seqrec.data import SequenceDataset

import pytest

from export.config import ToIndexConfig
from export.index.building import to_index
from export.recommender import Recommender

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "vector_store.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("qdrant_client") is None,
        reason='Qdrant\'s client is not installed: pip install -e ".[vectors]"',
    ),
]


@pytest.fixture(scope="module")
def files(
    model_dir: Path, tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A recommender with an index, and the items' vectors."""
    folder = tmp_path_factory.mktemp("store")
    flags = ToIndexConfig(
        model_dir=model_dir,
        data_dir=tiny_dataset.path,
        output_dir=folder / "index",
        vectors_to=folder / "vectors.parquet",
        min_recall=1.0,
        list_size=4,
    )
    return to_index(flags), folder / "vectors.parquet"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vector_store", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("history", [["b01"], ["b07", "unknown", "b08"], ["b30", "b29", "b30"]])
def test_the_database_finds_what_the_recommender_answers(
    files: tuple[Path, Path], example: ModuleType, history: list[str]
) -> None:
    from qdrant_client import QdrantClient

    client, recommender = QdrantClient(":memory:"), Recommender.from_pretrained(files[0])
    example.fill(client, str(files[1]))
    found = example.recommend(client, recommender, history, k=30)
    expected = {item.item_id: item.score for item in recommender.recommend(history, k=30)}
    assert {item_id for item_id, _ in found} == expected.keys()
    # Scores differ by the 8 bit that the recommender rounds states to, and order by no more.
    for item_id, score in found:
        assert score == pytest.approx(expected[item_id], abs=0.02)
    ours = [expected[item_id] for item_id, _ in found]
    assert all(first > second - 0.04 for first, second in zip(ours, ours[1:], strict=False))


def test_the_command_prints_items_and_titles(files: tuple[Path, Path]) -> None:
    command = [sys.executable, str(EXAMPLE), *map(str, files), "b07", "b08"]
    told = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line.split("\t") for line in told.stdout.splitlines()]
    titles = {
        item.item_id: item.title
        for item in Recommender.from_pretrained(files[0]).recommend(["b07", "b08"], k=30)
    }
    assert len(lines) == 10
    assert all(titles[item_id] == title for item_id, _, title in lines)
