"""The Ray Data example answers as the client does."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from export.recommender import Recommender

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install -e ".[ray]"'
)
def test_ray_data_gives_the_same_lists(model_dir: Path, tmp_path: Path) -> None:
    histories = [["b01", "b02"], ["b07"], ["b30", "b29", "b28"]]
    users = pl.DataFrame({"user_id": ["u1", "u2", "u3"], "history": histories})
    users.write_parquet(tmp_path / "histories.parquet")
    command = [sys.executable, str(ROOT / "examples/ray_data.py"), str(model_dir)]
    command += [str(tmp_path / "histories.parquet"), str(tmp_path / "out")]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=300)
    written = pl.read_parquet(tmp_path / "out" / "*.parquet").sort("user_id")
    expected = Recommender.from_pretrained(model_dir).recommend_batch(histories)
    assert written["item_ids"].to_list() == [[i.item_id for i in answer] for answer in expected]
