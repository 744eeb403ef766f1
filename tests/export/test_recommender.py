"""Answers for whole histories."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from seqrec.errors import ModelError

import numpy as np
import pytest
import torch

from export.recommender import Recommender
from student.model import Student
from tests.export.answers import MAX_LEN, ids


def expected_order(student: Student, history: list[int], left_out: list[int]) -> list[str]:
    """Rank items with PyTorch, from item numbers to ids such as "b07"."""
    with torch.inference_mode():
        scores = student(torch.tensor([history[-MAX_LEN:]]))[0]
    order = scores.argsort(descending=True).tolist()
    return [f"b{item:02d}" for item in order if item not in [0, *left_out]]


def test_the_answer_is_the_models_in_the_users_own_ids(
    recommender: Recommender, student: Student
) -> None:
    answer = recommender.recommend(["b07", "b08", "b09"], k=5)
    assert ids(answer) == expected_order(student, [7, 8, 9], [7, 8, 9])[:5]
    scores = [recommendation.score for recommendation in answer]
    assert scores == sorted(scores, reverse=True)


def test_titles_belong_to_their_ids(recommender: Recommender) -> None:
    titles = {item.item_id: item.title for item in recommender.recommend(["b07"], k=30)}
    assert titles["b08"] == "Frankenstein"
    assert titles["b30"] == "Les Misérables"


def test_seen_items_come_back_only_when_they_are_wanted(
    recommender: Recommender, student: Student
) -> None:
    answer = recommender.recommend(["b07", "b08"], k=30, exclude_seen=False)
    assert ids(answer) == expected_order(student, [7, 8], [])


def test_what_was_seen_before_the_newest_max_len_items_stays_excluded(
    recommender: Recommender, student: Student
) -> None:
    history = list(range(1, 11))  # ten items, the model looks at the last six
    answer = recommender.recommend([f"b{item:02d}" for item in history], k=30)
    assert ids(answer) == expected_order(student, history, history)


def test_fewer_items_come_back_when_fewer_are_left(recommender: Recommender) -> None:
    history = [f"b{item:02d}" for item in range(1, 29)]
    assert sorted(ids(recommender.recommend(history, k=10))) == ["b29", "b30"]


def test_a_batch_answers_each_user_as_if_alone(recommender: Recommender) -> None:
    histories = [["b01"], ["b07", "b08", "b09", "b10"], ["b30", "b02"]]
    together = recommender.recommend_batch(histories, k=4)
    alone = [recommender.recommend(history, k=4) for history in histories]
    assert [ids(answer) for answer in together] == [ids(answer) for answer in alone]
    for first, second in zip(together, alone, strict=True):
        assert [r.score for r in first] == pytest.approx([r.score for r in second], abs=1e-5)


def test_a_batch_reads_ids_of_other_types_as_a_single_user_is_read(
    recommender: Recommender,
) -> None:
    """Lists of known texts are read at once, all else one by one."""
    plain = [["b01", "b02"], ["b30"]]
    expected = recommender.recommend_batch(plain)
    others = [["b01", "nobody", "b02"], np.array(["b30"])], [(b"b01", "b02"), ["b30", None]]
    for other in others:
        assert recommender.recommend_batch(other) == expected
    assert recommender.recommend_batch([]) == []
    with pytest.raises(ValueError, match=r"histories\[1\] holds no item of the catalogue: 'x'"):
        recommender.recommend_batch([["b01"], ["x"]])
    with pytest.raises(ValueError, match=r"histories\[1\] is empty"):
        recommender.recommend_batch([["b01"], []])
    with pytest.raises(ValueError, match=r"histories\[0\] is the text 'b01'"):
        recommender.recommend_batch(["b01"])


def test_unknown_ids_are_skipped(recommender: Recommender) -> None:
    assert recommender.recommend(["b07", "nobody", "b08"]) == recommender.recommend(["b07", "b08"])


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (["x", "y"], "holds no item of the catalogue: 'x', 'y'"),
        ([], "is empty"),
        ("b07", "is the text 'b07', expected a list"),
    ],
)
def test_a_history_without_any_known_item_is_refused(
    recommender: Recommender, history: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recommender.recommend(history)


def test_k_below_1_is_refused(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="k is 0"):
        recommender.recommend(["b07"], k=0)


@pytest.mark.parametrize("name", ["model.onnx", "items.json"])
def test_a_damaged_file_is_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    damaged = tmp_path / "copy" / name
    contents = bytearray(damaged.read_bytes())
    contents[len(contents) // 2] ^= 1
    damaged.write_bytes(contents)
    with pytest.raises(ModelError, match=f"{name} is damaged: SHA-256"):
        Recommender.from_pretrained(tmp_path / "copy")


def test_a_directory_without_a_recommender_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"python -m export\.to_onnx"):
        Recommender.from_pretrained(tmp_path)


def test_another_version_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**config, "version": 3}))
    with pytest.raises(ModelError, match="version 3, expected seqrec-recommender version 2"):
        Recommender.from_pretrained(tmp_path / "copy")


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
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=root, capture_output=True, text=True
    )
    assert result.stdout.split() == ids(recommender.recommend(["b07", "b08"], k=3)), result.stderr


def test_scores_are_the_models_own(recommender: Recommender, student: Student) -> None:
    answer = recommender.recommend(["b03", "b04"], k=30, exclude_seen=False)
    with torch.inference_mode():
        scores = student(torch.tensor([[3, 4]]))[0].numpy()
    numbers = [int(item.item_id[1:]) for item in answer]
    np.testing.assert_allclose([item.score for item in answer], scores[numbers], rtol=0, atol=1e-4)


def test_candidates_restrict_the_answer_in_the_models_own_order(
    recommender: Recommender, student: Student
) -> None:
    wanted = ["b03", "b20", "b07", "b11", "nobody"]
    answer = recommender.recommend(["b07", "b08"], k=10, candidates=wanted)
    order = expected_order(student, [7, 8], [7, 8])
    assert ids(answer) == [item for item in order if item in wanted]
    kept = recommender.recommend(["b07", "b08"], exclude_seen=False, candidates=iter(wanted))
    assert set(ids(kept)) == {"b03", "b07", "b11", "b20"}


def test_candidates_hold_for_every_user_of_a_batch(recommender: Recommender) -> None:
    histories = [["b01"], ["b07", "b08", "b09"]]
    together = recommender.recommend_batch(histories, candidates=["b02", "b09"])
    assert [sorted(ids(answer)) for answer in together] == [["b02", "b09"], ["b02"]]


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (["x"], "candidates holds no item of the catalogue: 'x'"),
        ([], "candidates is empty"),
        ("b07", "candidates is the text 'b07'"),
    ],
)
def test_candidates_without_any_known_item_are_refused(
    recommender: Recommender, candidates, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recommender.recommend(["b07"], candidates=candidates)
