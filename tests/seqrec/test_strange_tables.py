"""Tables of all kinds of text, number and time: what plain Python makes of them, or one line."""

import tempfile
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.onnx_graph.exporting import export_student
from export.recommender import Recommender
from student.model import Student, StudentConfig
from tests.seqrec.table_folder import Tables, sequences

FORMATS = (".parquet", ".csv", ".jsonl")
STRANGE = (
    "0",
    "007",
    "7",
    "-7",
    "1e5",
    "100000.0",
    "NaN",
    "null",
    "None",
    "true",
    " padded ",
    "a,b",
    'a "quoted" one',
    "two\nlines",
    "tab\there",
    "\u202egnp.exe",  # read from right to left
    "e\u0301",  # two code points that look like the next one
    "\u00e9",
    "\U0001f469\u200d\U0001f680",
    "مرحبا",
    "日本語",
    "\ufeffmarked",
    "x" * 500,
)
# No surrogates: no file of text can hold them. No NUL and no lone carriage return: CSV cannot.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=12)
ids = st.one_of(st.sampled_from(STRANGE), texts.filter(lambda text: text.strip() != ""))
times = st.integers(-(10**13), 10**13)  # seconds or milliseconds, before 1970 too


@st.composite
def logs(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Draw a log and its catalogue; one user has three events at least, as a split needs."""
    catalogue = draw(st.lists(ids, min_size=1, max_size=8, unique=True))
    users = draw(st.lists(ids, min_size=1, max_size=5, unique=True))
    events = draw(
        st.lists(st.tuples(st.sampled_from(users), st.sampled_from(catalogue), times), max_size=20)
    )
    first = [(users[0], catalogue[0], draw(times)) for _ in range(3)]
    frame = pl.DataFrame(
        first + events, schema=["user_id", "item_id", "timestamp"], orient="row"
    ).cast({"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64})
    titles = draw(st.lists(texts, min_size=len(catalogue), max_size=len(catalogue)))
    titles[0] = titles[0].strip() or "a title"
    return frame, pl.DataFrame({"item_id": catalogue, "title": titles})


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=40, deadline=None)
@given(tables=logs())
def test_any_text_and_any_time_give_what_plain_python_makes_of_them(
    suffix: str, tables: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    log, items = tables
    with tempfile.TemporaryDirectory() as folder:
        dataset = Tables(Path(folder)).prepare(log, items, suffix)
        taken_by_user, kept = sequences(dataset), dataset.items
    expected: dict[str, list[tuple[int, str]]] = {}
    for user, item, time in log.iter_rows():
        expected.setdefault(user, []).append((time, item))
    assert taken_by_user == {
        user: [item for _, item in sorted(events, key=lambda event: event[0])]
        for user, events in expected.items()
    }
    assert kept.rows() == items.rows()


def test_strange_ids_and_titles_are_recommended_as_they_were_given(
    tables: Tables, tmp_path: Path
) -> None:
    items = pl.DataFrame({"item_id": STRANGE, "title": [f"{text}!" for text in STRANGE]})
    log = pl.DataFrame(
        {"user_id": ["u"] * len(STRANGE), "item_id": STRANGE, "timestamp": range(len(STRANGE))}
    )
    dataset = tables.prepare(log, items)
    torch.manual_seed(0)
    student = Student(StudentConfig(arch="gru", num_items=len(STRANGE), hidden_dim=8, max_len=9))
    description = {"role": "control", "dataset_fingerprint": dataset.fingerprint}
    student.save_pretrained(tmp_path / "student", **description)
    export_student(tmp_path / "student", dataset, tmp_path / "export", "int8")
    answers = Recommender.from_pretrained(tmp_path / "export").recommend(
        [STRANGE[0]], k=len(STRANGE), exclude_seen=False
    )
    assert Counter((answer.item_id, answer.title) for answer in answers) == Counter(
        (text, f"{text}!") for text in STRANGE
    )


def test_a_title_of_100_kilobytes_is_kept(tables: Tables) -> None:
    long = "wörd " * 20_000
    log = pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a"] * 3, "timestamp": [1, 2, 3]})
    items = pl.DataFrame({"item_id": ["a"], "title": [long]})
    for suffix in FORMATS:
        assert tables.prepare(log, items, suffix).items["title"].to_list() == [long]
