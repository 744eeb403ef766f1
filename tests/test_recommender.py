import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError

import numpy as np
import pytest
import torch

from export.recommender import Recommender
from export.to_onnx import export_student
from student.model import Student, StudentConfig

MAX_LEN = 6


@pytest.fixture(scope="module")
def student(tiny_dataset: SequenceDataset) -> Student:
    torch.manual_seed(1)
    shape = StudentConfig(
        arch="gru", num_items=tiny_dataset.num_items, hidden_dim=16, max_len=MAX_LEN
    )
    return Student(shape).eval()


@pytest.fixture(scope="module")
def folder(
    student: Student, tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("recommender")
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    student.save_pretrained(path / "student", **about)
    export_student(path / "student", tiny_dataset, path / "exported", "fp32")
    return path / "exported"


@pytest.fixture(scope="module")
def recommender(folder: Path) -> Recommender:
    return Recommender.from_pretrained(folder)


def expected_order(student: Student, history: list[int], left_out: list[int]) -> list[str]:
    """Rank items with PyTorch, from item numbers to ids such as "b07"."""
    with torch.inference_mode():
        scores = student(torch.tensor([history[-MAX_LEN:]]))[0]
    order = scores.argsort(descending=True).tolist()
    return [f"b{item:02d}" for item in order if item not in [0, *left_out]]


def ids(answer) -> list[str]:
    return [recommendation.item_id for recommendation in answer]


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
    root = Path(__file__).parents[1]
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


# --- Candidates -----------------------------------------------------------------------------------


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


# --- Sessions -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["gru", "transformer"])
def followed(
    request: pytest.FixtureRequest,
    tiny_dataset: SequenceDataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Recommender:
    """A recommender of either kind, in 8 bit."""
    torch.manual_seed(2)
    shape = StudentConfig(
        arch=request.param, num_items=tiny_dataset.num_items, hidden_dim=16, max_len=MAX_LEN
    )
    path = tmp_path_factory.mktemp("followed")
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    Student(shape).eval().save_pretrained(path / "student", **about)
    export_student(path / "student", tiny_dataset, path / "exported", "int8")
    return Recommender.from_pretrained(path / "exported")


def same(first, second) -> bool:
    scores = [[r.score for r in answer] for answer in (first, second)]
    return ids(first) == ids(second) and scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.parametrize("num_before", [0, 1, 3])
def test_a_session_answers_after_each_item_as_the_whole_history_does(
    followed: Recommender, num_before: int
) -> None:
    history = ["b03", "b14", "b15", "b09", "b02", "b06"]  # max_len of them
    session = followed.start_session(history[:num_before])
    for length in range(num_before + 1, len(history) + 1):
        assert session.add(history[length - 1])
        if length % 2:  # not every item is followed by a question
            assert same(session.recommend(5), followed.recommend(history[:length], k=5))
    again = session.recommend(5)
    assert same(again, followed.recommend(history, k=5))
    assert session.recommend(5) == again
    only = session.recommend(5, exclude_seen=False, candidates=["b03", "b30"])
    assert sorted(ids(only)) == ["b03", "b30"]


def test_a_gru_session_remembers_what_has_left_the_window(
    recommender: Recommender, student: Student
) -> None:
    numbers = [3, 14, 15, 9, 2, 6, 5, 11, 20]  # nine items, the window holds six
    session = recommender.start_session()
    for number in numbers:
        session.add(f"b{number:02d}")
        answer = session.recommend(30)
    with torch.inference_mode():
        scores = student(torch.tensor([numbers]))[0]
    order = [i for i in scores.argsort(descending=True).tolist() if i not in [0, *numbers]]
    assert ids(answer) == [f"b{item:02d}" for item in order]


def test_an_unknown_item_changes_nothing_in_a_session(followed: Recommender) -> None:
    session = followed.start_session(["b01", "b02"])
    before = session.recommend(5)
    assert not session.add("nobody")
    assert session.recommend(5) == before


def test_an_empty_session_has_no_answer(followed: Recommender) -> None:
    with pytest.raises(ValueError, match="the session is empty. Add an item"):
        followed.start_session().recommend()


def test_threads_share_a_recommender(followed: Recommender) -> None:
    histories = [[f"b{1 + (7 * i + j) % 30:02d}" for j in range(1 + i % 5)] for i in range(40)]
    expected = [followed.recommend(history, k=5) for history in histories]

    def visit(number: int):
        session = followed.start_session(histories[number])
        return followed.recommend(histories[number], k=5), session.recommend(5)

    with ThreadPoolExecutor(8) as pool:
        for number, (alone, visited) in enumerate(pool.map(visit, range(40))):
            assert alone == expected[number]
            assert same(visited, alone)
