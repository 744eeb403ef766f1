"""Whether a stage's work is done."""

import logging
from pathlib import Path

from seqrec.files import read_json, write_json
from seqrec.stage import Stage

import pytest

RECIPE = {"seed": 0, "arch": "gru"}


def test_a_stage_is_finished_once_its_folder_is_replaced(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "out", RECIPE)
    assert not stage.is_finished()
    with stage.replacing() as unfinished:
        (unfinished / "model").write_text("weights")
        assert not stage.is_finished()
    assert stage.is_finished()
    assert read_json(tmp_path / "out" / "recipe.json") == RECIPE
    assert (tmp_path / "out" / "model").read_text() == "weights"


def test_a_stage_that_fails_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "out", RECIPE)
    with stage.replacing() as unfinished:
        (unfinished / "model").write_text("old")
    with pytest.raises(ZeroDivisionError), Stage(tmp_path / "out", {"seed": 1}).replacing():
        _ = 1 / 0
    assert stage.is_finished()
    assert (tmp_path / "out" / "model").read_text() == "old"


def test_another_recipe_is_not_finished_and_what_differs_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Stage(tmp_path / "out", RECIPE).replacing():
        pass
    other = {"seed": 1, "arch": "gru", "new": None, "k": 2}
    assert not Stage(tmp_path / "out", other).is_finished()
    assert "was made with another k, new, seed: it is made again" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_a_damaged_record_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "recipe.json").write_text(content)
    assert not Stage(tmp_path, RECIPE).is_finished()


def test_a_record_may_hold_the_recipe_under_a_key(tmp_path: Path) -> None:
    stage = Stage(tmp_path, RECIPE, record="metrics.json", key="recipe")
    write_json(tmp_path / "metrics.json", {"ndcg@10": 0.5})
    assert not stage.is_finished()
    write_json(tmp_path / "metrics.json", {"ndcg@10": 0.5, "recipe": RECIPE})
    assert stage.is_finished()
