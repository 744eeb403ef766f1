"""onnxruntime-node answers as Python does."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from export.recommender import Recommender

ROOT = Path(__file__).parents[2]
PACKAGE = "onnxruntime-node@1.30.0"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime-node, without its install script, which is for GPUs."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not on the PATH (Debian: apt-get install nodejs npm)")
    folder = tmp_path_factory.mktemp("node")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
    try:
        installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not fetch {PACKAGE} within 300 s")
    if installed.returncode != 0:
        pytest.skip(f"npm cannot fetch {PACKAGE}: {installed.stderr.strip().splitlines()[-1:]}")
    return folder


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
