"""An answer behaves as a list of its items."""

import copy
import dataclasses
import pickle

import pytest

from export.recommendations import Recommendation, Recommendations

IDS, TITLES = ["a", "b", "c", "d"], ["Emma", "Dracula", "Carmilla", "Kidnapped"]
EXPECTED = [
    Recommendation("c", 2.5, "Carmilla"),
    Recommendation("a", 1.0, "Emma"),
    Recommendation("d", -3.0, "Kidnapped"),
]


@pytest.fixture
def answer() -> Recommendations:
    return Recommendations([3, 1, 4, 2], [2.5, 1.0, -3.0, float("-inf")], IDS, TITLES)


def test_it_is_a_list_of_what_was_left(answer: Recommendations) -> None:
    assert list(answer) == EXPECTED
    assert [answer[0], answer[1], answer[-1]] == EXPECTED
    assert len(answer) == 3
    assert answer[:2] == EXPECTED[:2]
    assert list(reversed(answer)) == EXPECTED[::-1]
    assert EXPECTED[1] in answer
    assert answer.index(EXPECTED[2]) == 2
    assert repr(answer) == repr(EXPECTED)
    with pytest.raises(IndexError):
        answer[3]
    nothing = Recommendations([1, 2], [float("-inf")] * 2, IDS, TITLES)
    assert nothing == []
    assert not nothing
    assert not nothing.item_ids


def test_it_equals_lists_of_the_same(answer: Recommendations) -> None:
    assert answer == EXPECTED
    assert EXPECTED == answer
    assert answer == copy.deepcopy(answer)
    assert answer != EXPECTED[:2]
    assert answer != [*EXPECTED[:2], dataclasses.replace(EXPECTED[2], score=0.0)]
    assert answer != "answer"


def test_neither_it_nor_an_item_can_be_changed(answer: Recommendations) -> None:
    assert answer.item_ids == ["c", "a", "d"]
    assert answer.titles == ["Carmilla", "Emma", "Kidnapped"]
    answer.scores.append(0.0)
    assert answer.scores == [2.5, 1.0, -3.0]
    with pytest.raises(TypeError):
        hash(answer)
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer[0].score = 3.0  # type: ignore[misc]
    assert hash(answer[0]) == hash(Recommendation("c", 2.5, "Carmilla"))
    assert dataclasses.asdict(answer[1]) == {"item_id": "a", "score": 1.0, "title": "Emma"}


def test_a_pickle_holds_the_answer_and_not_the_catalogue() -> None:
    ids = [f"item {number}" for number in range(10_000)]
    pickled = pickle.dumps(Recommendations([7, 9], [2.0, 1.0], ids, ids))
    assert len(pickled) < 1000
    assert pickle.loads(pickled) == [  # noqa: S301
        Recommendation("item 6", 2.0, "item 6"),
        Recommendation("item 8", 1.0, "item 8"),
    ]
