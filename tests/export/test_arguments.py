"""Arguments of the types of any library."""

import shutil
import uuid
from collections import deque
from decimal import Decimal
from pathlib import Path

from seqrec.errors import ModelError

import numpy as np
import onnxruntime as ort
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.arguments import as_list
from export.recommender import Recommender
from tests.export.answers import ids, rename_items, same


class Series:
    """As pandas has it: no truth value, a label for each place, and `to_list`."""

    def __init__(self, values: list) -> None:
        self.values = values

    def __bool__(self) -> bool:
        raise ValueError("The truth value of a Series is ambiguous")

    def __getitem__(self, label: int):
        raise KeyError(label)

    def __iter__(self):
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def to_list(self) -> list:
        return self.values


class NAType:
    """As pandas.NA: what it is compared with is unknown, and so has no truth value."""

    def __ne__(self, other: object):
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


class Scalar:
    """As PyArrow has it: an array's element that is no Python value yet."""

    def __init__(self, value) -> None:
        self.value = value

    def as_py(self):
        return self.value


class Frame:
    """A table, as all libraries have it: who goes through it gets the names of its columns."""

    columns = ("b07", "b08")

    def __iter__(self):
        return iter(self.columns)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Recommender:
    """The same student over a catalogue whose ids are "1" to "30", "-5" and "007" among them."""
    path = tmp_path_factory.mktemp("numbered") / "copy"
    shutil.copytree(folder, path)
    names = [str(number) for number in range(1, 29)] + ["-5", "007"]
    rename_items(path, ids=names, titles=names)
    return Recommender.from_pretrained(path)


HISTORIES = {
    "ints": [7, 8, 9],
    "mixed": [7, "8", b"9"],
    "numpy scalars": [np.int64(7), np.str_("8"), np.bytes_(b"9")],
    "numpy ints": np.array([7, 8, 9], dtype=np.uint8),
    "numpy texts": np.array(["7", "8", "9"]),
    "numpy objects": np.array([7, "8", None, 9], dtype=object),
    "numpy 0-d inside": [np.array(7), np.array("8"), np.array(9.0)],
    "numpy masked": np.ma.masked_array([1.0, 7.0, 8.0, 9.0], mask=[True, False, False, False]),
    "numpy floats": np.array([7, np.nan, 8, 9]),
    "numpy float32": np.array([7, np.nan, 8, 9], dtype=np.float32),
    "decimals": [Decimal(7), Decimal("8"), 9],
    "missing": [None, 7, float("nan"), 8, NAType(), np.datetime64("NaT"), 9],
    "padded": [0, 0, 7, 8, 9],
    "not in the catalogue": [7, uuid.uuid4(), 8, 7.5, b"\xff", 10**30, 9],
    "polars": pl.Series(["7", "8", "9"]),
    "polars ints": pl.Series([7, 8, None, 9]),
    "polars floats": pl.Series([7.0, 8.0, None, 9.0]),
    "polars categories": pl.Series(["7", "8", "9"], dtype=pl.Categorical),
    "pandas": Series([7, 8, 9]),
    "arrow scalars": [Scalar("7"), Scalar(8), Scalar(None), Scalar("9")],
    "arrow list": Scalar(["7", "8", "9"]),
    "torch": torch.tensor([7, 8, 9]),
    "torch floats": torch.tensor([7.0, 8.0, 9.0], requires_grad=True),
    "torch scalars": list(torch.tensor([7, 8, 9])),
    "tuple": (7, 8, 9),
    "range": range(7, 10),
    "deque": deque([7, 8, 9]),
    "keys": dict.fromkeys(["7", "8", "9"]).keys(),
}


@pytest.mark.parametrize("kind", HISTORIES)
def test_a_history_may_be_of_any_library_and_its_ids_of_any_type(
    numbered: Recommender, kind: str
) -> None:
    """What is 7, 8, 9 in whatever form is the history "7", "8", "9"."""
    history, expected = HISTORIES[kind], numbered.recommend(["7", "8", "9"], k=30)
    assert numbered.recommend(history, k=30) == expected
    assert numbered.recommend(iter(as_list(history, "history")), k=30) == expected
    (alone,) = numbered.recommend_batch(Series([history]), k=30)
    assert ids(alone) == ids(expected)
    assert same(numbered.start_session(history).recommend(30), expected)
    for candidates in (history, frozenset([7, b"8", "9"])):  # they need no order
        only = numbered.recommend(["1"], k=30, candidates=candidates)
        assert sorted(ids(only)) == ["7", "8", "9"]


@settings(deadline=None)  # another program may have the core
@given(st.lists(st.integers(-9, 40), min_size=1), st.integers(1, 40), st.data())
def test_ids_answer_alike_as_texts_and_as_numbers(
    numbered: Recommender, history: list[int], k: int, data: st.DataObject
) -> None:
    forms = (int, str, np.int16, np.int64, float, lambda item: str(item).encode())
    given_as = [data.draw(st.sampled_from(forms))(item) for item in history]
    texts = [str(item) for item in history]
    if not set(texts) & set(numbered.item_ids):
        with pytest.raises(ValueError, match="holds no item of the catalogue"):
            numbered.recommend(given_as)
        return
    answer = numbered.recommend(given_as, k=data.draw(st.sampled_from((int, np.uint8)))(k))
    assert answer == numbered.recommend(texts, k=k)
    assert not set(ids(answer)) & set(texts)
    assert len(answer) == min(k, 30 - len(set(texts) & set(numbered.item_ids)))


def test_an_id_is_a_text_and_nothing_like_it(numbered: Recommender) -> None:
    assert numbered.number("007") == 30
    assert numbered.number(7) == 7
    assert numbered.number(-5.0) == 29
    assert numbered.number("7.0") is None
    assert numbered.number(" 7") is None
    assert numbered.number("\uff17") is None  # a full-width seven, which int() would read


BATCHES = {
    "numpy": np.array([[7, 8, 9], [1, 2, 3]]),
    "numpy texts": np.array([["7", "8", "9"], ["1", "2", "3"]]),
    "numpy objects": np.array([[7, "8", 9], ["1", 2, b"3"]], dtype=object),
    "numpy arrays": [np.array([7, 8, 9]), np.array(["1", "2", "3"])],
    "numpy float32": np.array([[7, 8, 9, np.nan], [1, 2, 3, np.nan]], dtype=np.float32),
    "polars": pl.Series([["7", "8", "9"], ["1", "2", "3"]]),
    "polars floats": pl.Series([[7.0, 8.0, 9.0], [1.0, 2.0, 3.0]]),
    "polars arrays": pl.Series([[7, 8, 9], [1, 2, 3]], dtype=pl.Array(pl.Int64, 3)),
    "pandas": Series([[7, 8, 9], [1, 2, 3]]),
    "pandas of pandas": Series([Series([7, 8, 9]), Series(["1", "2", "3"])]),
    "arrow": [Scalar(["7", "8", "9"]), Scalar([1, 2, None, 3])],
    "torch": torch.tensor([[7, 8, 9], [1, 2, 3]]),
    "generators": (iter(own) for own in ([7, 8, 9], [1, 2, 3])),
    "values": {"u1": [7, 8, 9], "u2": [1, 2, 3]}.values(),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_histories_may_be_of_any_library(numbered: Recommender, kind: str) -> None:
    expected = numbered.recommend_batch([["7", "8", "9"], ["1", "2", "3"]])
    assert numbered.recommend_batch(BATCHES[kind]) == expected


@pytest.mark.parametrize("none", [[], np.array([]), pl.Series([], dtype=pl.Int64), iter(())])
def test_no_histories_have_no_answers(numbered: Recommender, none) -> None:
    assert numbered.recommend_batch(none) == []


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ([["7", "8"]], TypeError, r"history\[0\] is \['7', '8'\] \(list\), expected one id"),
        (np.array([[7, 8]]), TypeError, r"history\[0\] is \[7, 8\] \(list\)"),
        (["7", {"8"}], TypeError, r"history\[1\] is \{'8'\} \(set\)"),
        (["7", object], TypeError, r"history\[1\] is <class 'object'>"),
        ([True, "7"], TypeError, r"history\[0\] is True \(bool\), expected an id"),
        ([1e17, "7"], ValueError, r"history\[0\] is 1e\+17 \(float\): so large a float has lost"),
        (np.array([16777217, 7], np.float32), ValueError, "so large a float has lost digits"),
        (np.str_("78"), ValueError, "history is the text '78', expected a list of item ids"),
        (b"78", TypeError, r"history is b'78' \(bytes\), expected a list of item ids"),
        (7, TypeError, r"history is 7 \(int\), expected a list of item ids"),
        (np.array("78"), TypeError, r"history is array\('78', dtype='<U2'\) \(ndarray\)"),
        (Scalar("78"), TypeError, r"history is .* \(Scalar\), expected a list of item ids"),
        (None, TypeError, r"history is None \(NoneType\), expected a list of item ids"),
        ({"7", "8"}, TypeError, "which has no order"),
        ({"7": 1}, TypeError, r"history is \{'7': 1\} \(dict\), expected a list of item ids"),
        (Frame(), TypeError, r"history is .* \(Frame\), .* such as one column of a table"),
        (pl.DataFrame({"item": ["7"]}), TypeError, "such as one column of a table"),
        ([None, float("nan")], ValueError, "holds no item of the catalogue: None, nan"),
    ],
)
def test_what_is_no_history_is_named(
    numbered: Recommender, history, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        numbered.recommend(history)
    with pytest.raises(error, match=message.replace("history", r"histories\[0\]", 1)):
        numbered.recommend_batch([history])


@pytest.mark.parametrize(
    ("histories", "error", "message"),
    [
        ("78", ValueError, "histories is the text '78', expected a list of histories"),
        (["7", "8"], ValueError, r"histories\[0\] is the text '7', expected a list of item ids"),
        ([["7"], 8], TypeError, r"histories\[1\] is 8 \(int\), expected a list of item ids"),
        ({"u": ["7"]}, TypeError, "histories is .* expected a list of histories"),
        (Frame(), TypeError, "histories is .* expected a list of histories, such as one column"),
        (None, TypeError, "histories is None"),
    ],
)
def test_what_are_no_histories_is_named(
    numbered: Recommender, histories, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        numbered.recommend_batch(histories)


@pytest.mark.parametrize(
    ("k", "num_items"),
    [(np.int32(5), 5), (np.uint8(5), 5), (np.array(5), 5), (torch.tensor(5), 5), (10**30, 29)],
)
def test_k_may_be_a_whole_number_of_any_library(numbered: Recommender, k, num_items: int) -> None:
    assert len(numbered.recommend(["7"], k=k)) == num_items
    assert len(numbered.recommend_batch([["7"]], k=k)[0]) == num_items
    assert len(numbered.start_session(["7"]).recommend(k)) == num_items


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (5.0, TypeError, r"k is 5\.0 \(float\), expected a whole number"),
        (np.float32(5), TypeError, r"k is np\.float32\(5\.0\)"),
        (True, TypeError, r"k is True \(bool\)"),
        (np.True_, TypeError, r"k is np\.True_ \(bool\)"),
        ("5", TypeError, r"k is '5' \(str\)"),
        (None, TypeError, r"k is None \(NoneType\)"),
        (np.array([5]), TypeError, r"k is array\(\[5\]\) \(ndarray\)"),
        (np.int64(-3), ValueError, "k is -3, expected at least 1"),
    ],
)
def test_another_k_is_named(numbered: Recommender, k, error: type[Exception], message: str) -> None:
    calls = (
        lambda: numbered.recommend(["7"], k=k),
        lambda: numbered.recommend_batch([], k=k),
        lambda: numbered.start_session(["7"]).recommend(k),
    )
    for call in calls:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("exclude_seen", ["no", None, np.array([True, False])])
def test_only_yes_or_no_leaves_out_what_was_seen(numbered: Recommender, exclude_seen) -> None:
    with pytest.raises(TypeError, match="exclude_seen is .* expected True or False"):
        numbered.recommend(["7"], exclude_seen=exclude_seen)
    assert len(numbered.recommend(["7"], k=30, exclude_seen=np.False_)) == 30


@pytest.mark.parametrize(
    ("candidates", "message"),
    [([["7"], ["8"]], r"candidates\[0\] is \['7'\]"), ({"7": 1}, "dict"), (7, "candidates is 7")],
)
def test_what_are_no_candidates_is_named(numbered: Recommender, candidates, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        numbered.recommend(["1"], candidates=candidates)


def test_a_session_adds_ids_of_any_type_and_refuses_what_is_none(numbered: Recommender) -> None:
    session = numbered.start_session()
    assert all([session.add(7), session.add(np.int64(8)), session.add(b"9")])
    assert not any([session.add(None), session.add(float("nan")), session.add(99)])
    assert same(session.recommend(30), numbered.recommend(["7", "8", "9"], k=30))
    with pytest.raises(TypeError, match=r"item_id is \['7'\] \(list\)"):
        session.add(["7"])
    assert same(session.recommend(30), numbered.recommend(["7", "8", "9"], k=30))


@pytest.mark.parametrize(
    ("num_threads", "error"),
    [(None, TypeError), (2.0, TypeError), (True, TypeError), (0, ValueError), (-1, ValueError)],
)
def test_another_number_of_threads_is_named(
    folder: Path, num_threads, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"num_threads is {num_threads}"):
        Recommender.from_pretrained(folder, num_threads)


def test_an_older_onnxruntime_that_refuses_the_model_is_to_be_upgraded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args, **_kwargs):
        raise RuntimeError("Unsupported model IR version: 10, max supported IR version: 9")

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(ModelError, match="IR version: 9.*Export it again"):
        Recommender.from_pretrained(folder)  # as new as the export's
    made_with = ort.__version__
    monkeypatch.setattr(ort, "__version__", "1.17.3")
    expected = rf"onnxruntime {made_with}, and 1\.17\.3 is .* pip install --upgrade onnxruntime"
    with pytest.raises(ModelError, match=expected) as caught:
        Recommender.from_pretrained(folder)
    assert "Export it again" not in str(caught.value)
