"""Answers for whole histories."""

import subprocess
import sys
from pathlib import Path

from seqrec.errors import ModelError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.recommender import Recommender
from student.model import Student
from tests.export.answers import MAX_LEN, ids, same

NUMBERS = st.integers(1, 30)


def named(numbers: list[int] | None) -> list[str] | None:
    return None if numbers is None else [f"b{number:02d}" for number in numbers]


@settings(deadline=None)  # another program may have the core
@given(
    history=st.lists(NUMBERS, min_size=1, max_size=2 * MAX_LEN),
    k=st.integers(1, 31),
    exclude_seen=st.booleans(),
    candidates=st.none() | st.lists(NUMBERS, min_size=1),
)
def test_an_answer_is_what_pytorch_scores_highest_of_what_is_wanted(
    recommender: Recommender,
    student: Student,
    history: list[int],
    k: int,
    exclude_seen: bool,
    candidates: list[int] | None,
) -> None:
    """What was seen before the newest `MAX_LEN` items is left out, too."""
    with torch.inference_mode():
        scores = student(torch.tensor([history[-MAX_LEN:]]))[0]
    left = set(candidates or range(1, 31)) - set(history if exclude_seen else [])
    answer = recommender.recommend(named(history), k, exclude_seen, named(candidates))
    highest = sorted(scores[sorted(left)].tolist(), reverse=True)[:k]
    assert answer.scores == pytest.approx(highest, abs=1e-4)
    numbers = [int(item.item_id[1:]) for item in answer]
    assert scores[numbers].tolist() == pytest.approx(highest, abs=1e-4)
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= left
    # So it is in a batch, whoever else is in it.
    histories = [named(history), ["b01", "b30"]]
    first, other = recommender.recommend_batch(histories, k, exclude_seen, named(candidates))
    assert same(first, answer)
    assert same(other, recommender.recommend(histories[1], k, exclude_seen, named(candidates)))


def test_titles_belong_to_their_ids(recommender: Recommender) -> None:
    titles = {item.item_id: item.title for item in recommender.recommend(["b07"], k=30)}
    assert titles["b08"] == "Frankenstein"
    assert titles["b30"] == "Les Misérables"


def test_unknown_ids_are_skipped(recommender: Recommender) -> None:
    expected = recommender.recommend(["b07", "b08"], candidates=["b03", "b20"])
    history, candidates = ["b07", "nobody", "b08"], ["b03", "nobody", "b20"]
    assert recommender.recommend(history, candidates=iter(candidates)) == expected
    assert recommender.recommend_batch([history], candidates=candidates) == [expected]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["x", "y"], "holds no item of the catalogue: 'x', 'y'"),
        ([], "is empty"),
        ("b07", "is the text 'b07', expected a list"),
    ],
)
def test_a_list_without_any_known_item_is_refused(
    recommender: Recommender, given: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=f"history {message}"):
        recommender.recommend(given)
    with pytest.raises(ValueError, match=rf"histories\[1\] {message}"):
        recommender.recommend_batch([["b01"], given])
    with pytest.raises(ValueError, match=f"candidates {message}"):
        recommender.recommend(["b07"], candidates=given)


def test_a_directory_without_a_recommender_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"python -m export\.to_onnx"):
        Recommender.from_pretrained(tmp_path)


def test_a_client_needs_nothing_but_numpy_and_onnxruntime(
    folder: Path, recommender: Recommender
) -> None:
    program = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "onnx", "polars", "optimum", "tqdm"}:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
from export.recommender import Recommender
answer = Recommender.from_pretrained(sys.argv[1]).recommend(["b07", "b08"], k=3)
sys.stdout.write(" ".join(item.item_id for item in answer))
"""
    command = [sys.executable, "-c", program, str(folder)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.stdout.split() == ids(recommender.recommend(["b07", "b08"], k=3)), result.stderr
