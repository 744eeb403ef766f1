"""Sessions, threads, copies and other processes."""

import copy
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from seqrec.errors import ModelError

import pytest
import torch

from export.recommender import Recommender
from student.model import Student
from tests.export.answers import ids, same

pytestmark = pytest.mark.slow


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


def test_an_unknown_item_changes_nothing_and_an_empty_session_has_no_answer(
    followed: Recommender,
) -> None:
    session = followed.start_session(["b01", "b02"])
    before = session.recommend(5)
    assert not session.add("nobody")
    assert session.recommend(5) == before
    with pytest.raises(ValueError, match="the session is empty. Add an item"):
        followed.start_session().recommend()


def test_threads_share_a_recommender(followed: Recommender) -> None:
    histories = [[f"b{1 + (7 * i + j) % 30:02d}" for j in range(1 + i % 5)] for i in range(40)]
    expected = [followed.recommend(history, k=5) for history in histories]

    def visit(number: int):
        session = followed.start_session(histories[number % 40])
        return followed.recommend(histories[number % 40], k=5), session.recommend(5)

    with ThreadPoolExecutor(8) as pool:
        for number, (alone, visited) in enumerate(pool.map(visit, range(2000))):
            assert alone == expected[number % 40]
            assert same(visited, alone)


def ask(recommender: Recommender, history: list[str]):
    return recommender.recommend(history, k=5)


def go_on(session, item: str):
    session.add(item)
    return session.recommend(5)


def test_a_recommender_is_pickled_and_copied_by_opening_its_folder_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    recommender = Recommender.from_pretrained("copy")
    monkeypatch.chdir("/")  # a worker may be elsewhere
    pickled, expected = pickle.dumps(recommender), recommender.recommend(["b07"])
    assert len(pickled) < 1000  # no weights
    copies = (pickle.loads(pickled), copy.copy(recommender), copy.deepcopy(recommender))  # noqa: S301
    assert [copied.recommend(["b07"]) for copied in copies] == [expected] * 3
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(ModelError, match="no usable recommender in"):
        pickle.loads(pickled)  # noqa: S301


def test_what_was_pickled_does_not_become_another_model(
    folder: Path, followed: Recommender, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    pickled = pickle.dumps(Recommender.from_pretrained(tmp_path / "copy"))
    shutil.rmtree(tmp_path / "copy")
    shutil.copytree(followed._source[0], tmp_path / "copy")
    with pytest.raises(ModelError, match="was exported again"):
        pickle.loads(pickled)  # noqa: S301


def test_copies_of_a_session_go_their_own_ways(followed: Recommender) -> None:
    session = followed.start_session(["b01", "b02"])
    before = session.recommend(5)
    copies = [copy.copy(session), copy.deepcopy(session), pickle.loads(pickle.dumps(session))]  # noqa: S301
    for copied in copies:
        assert same(go_on(copied, "b03"), followed.recommend(["b01", "b02", "b03"], k=5))
    assert copies[1]._recommender is followed  # nothing is opened again
    assert session.recommend(5) == before
    assert same(go_on(session, "b04"), followed.recommend(["b01", "b02", "b04"], k=5))
    assert same(go_on(copies[0], "b05"), followed.recommend(["b01", "b02", "b03", "b05"], k=5))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_answer_alike(followed: Recommender, method: str) -> None:
    """`fork` goes on with what was opened before, `spawn` opens it again."""
    used = Recommender.from_pretrained(followed._source[0], num_threads=2)
    expected = used.recommend(["b01", "b02"], k=5)
    session = used.start_session(["b01"])
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(ask, used, ["b01", "b02"]).result(60) == expected
        assert same(pool.submit(go_on, session, "b02").result(60), expected)
