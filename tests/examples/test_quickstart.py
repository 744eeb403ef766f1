"""The notebook runs from its first cell to its last, with a tiny language model."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_notebook_runs_and_recommends_the_next_books(
    tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    notebook = json.loads((ROOT / "examples/quickstart.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "quickstart"}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"], "outputs are of another machine: clear them"
        exec("".join(cell["source"]), names)  # noqa: S102  our own notebook
        if "parameters" in cell["metadata"].get("tags", []):
            names["MODEL"], names["FOLDER"] = str(tiny_llm), str(tmp_path)
            names["TEACHER_FLAGS"] = ["--num-layers", "2", "--num-epochs", "10"]
            names["STUDENT_FLAGS"] = ["--num-epochs", "30", "--batch-size", "16"]
    answer = [item.item_id for item in names["answer"]]
    assert "b03" in answer[:3], answer
