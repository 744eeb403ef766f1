"""The example answers in Node.js as Python does."""

import json
import subprocess
from pathlib import Path

import pytest

from export.recommender import Recommender

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "history", [["b07", "b08"], ["b01"], [f"b{item:02d}" for item in range(1, 25)]], ids=len
)
def test_node_gives_the_same_list_as_python(
    node_folder: Path, model_dir: Path, history: list[str]
) -> None:
    command = ["node", str(ROOT / "examples/node/recommend.mjs"), str(model_dir), *history]
    told = subprocess.run(command, cwd=node_folder, capture_output=True, text=True, check=True)
    answer = json.loads(told.stdout)
    expected = Recommender.from_pretrained(model_dir).recommend(history)
    assert [item["item_id"] for item in answer] == [item.item_id for item in expected]
    assert [item["title"] for item in answer] == [item.title for item in expected]
    scores = [item["score"] for item in answer]
    assert scores == pytest.approx([item.score for item in expected], abs=1e-4)
