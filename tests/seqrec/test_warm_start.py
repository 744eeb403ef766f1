"""Items of an earlier run, found again by id, and the fingerprint of what is started from."""

import shutil
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset, write_dataset
from seqrec.errors import SeqRecError
from seqrec.knowledge import Knowledge
from seqrec.splits import leave_one_out
from seqrec.uniting import open_united
from seqrec.warm_start import (
    describe_overlap,
    earlier_numbers,
    fingerprint_of,
    knows_catalogue,
)

import numpy as np
import polars as pl
import pytest

IDS = ["7", "07", "a\nb", "ä", "👾", ' "', "[1]"]


def catalogue(
    folder: Path, item_ids: list[str], titles: list[str] | None = None
) -> SequenceDataset:
    events = np.arange(1, len(item_ids) + 1, dtype=np.int32)
    return write_dataset(
        folder,
        name="c",
        items=pl.DataFrame({"item_id": item_ids, "title": titles or item_ids}),
        user_ids=pl.Series(["u"]),
        events=events,
        offsets=np.array([0, len(events)]),
        split=leave_one_out(np.array([len(events)])),
        split_name="leave-one-out",
        provenance={},
    )


def test_items_are_found_by_their_ids_alone(
    tmp_path: Path, make_knowledge: Callable[..., Knowledge]
) -> None:
    make_knowledge(catalogue(tmp_path / "a", IDS))  # into tmp_path / "knowledge"
    today = catalogue(tmp_path / "b", ["new", *reversed(IDS), "7 "])
    assert earlier_numbers(tmp_path, today).tolist() == [0, 0, 7, 6, 5, 4, 3, 2, 1, 0]
    others = catalogue(tmp_path / "c", ["x", "y", "z"])
    assert earlier_numbers(tmp_path, others).tolist() == [0, 0, 0, 0]


def test_ids_that_mean_other_items_are_not_taken_for_the_same(
    tmp_path: Path, make_knowledge: Callable[..., Knowledge]
) -> None:
    make_knowledge(catalogue(tmp_path / "films", ["1", "2", "3", "4"], ["a", "b", "c", "d"]))
    books = catalogue(tmp_path / "books", ["1", "2", "3"], ["x", "y", "z"])
    assert earlier_numbers(tmp_path, books).tolist() == [0, 0, 0, 0]
    assert not knows_catalogue(tmp_path, books)
    assert "3 of the 3 item ids" in describe_overlap(tmp_path, books)
    # Half of the titles are enough: one may be written anew.
    again = catalogue(tmp_path / "again", ["2", "4", "5"], ["b", "D", "e"])
    assert earlier_numbers(tmp_path, again).tolist() == [0, 2, 4, 0]
    assert knows_catalogue(tmp_path, again)
    # A new catalogue in which a few items are known is no other day of the same.
    grown = catalogue(tmp_path / "grown", ["1", "5", "6"], ["a", "e", "f"])
    assert earlier_numbers(tmp_path, grown).tolist() == [0, 1, 0, 0]
    assert not knows_catalogue(tmp_path, grown)


def test_of_several_catalogues_the_one_is_found_that_is_this(
    tmp_path: Path, make_knowledge: Callable[..., Knowledge]
) -> None:
    films = catalogue(tmp_path / "films", ["1", "2"], ["a", "b"])
    books = catalogue(tmp_path / "books", ["1", "2", "3"], ["x", "y", "z"])
    make_knowledge(open_united([films.path, books.path]))
    assert earlier_numbers(tmp_path, books).tolist() == [0, 3, 4, 5]
    assert earlier_numbers(tmp_path, films).tolist() == [0, 1, 2]
    both = open_united([books.path, films.path])  # in another order today
    assert earlier_numbers(tmp_path, both).tolist() == [0, 3, 4, 5, 1, 2]


def test_damaged_ids_are_refused(tmp_path: Path, make_knowledge: Callable[..., Knowledge]) -> None:
    dataset = catalogue(tmp_path / "a", IDS)
    make_knowledge(dataset)
    file = tmp_path / "knowledge" / "item_ids.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(SeqRecError, match=r"item_ids\.npy is damaged"):
        earlier_numbers(tmp_path, dataset)


def test_the_fingerprint_is_of_the_weights_and_the_ids_and_not_of_the_place(
    tmp_path: Path, make_knowledge: Callable[..., Knowledge]
) -> None:
    run = tmp_path / "run"
    make_knowledge(catalogue(tmp_path / "a", IDS), name="run/knowledge")
    for part in ("student", "student/selection"):
        (run / part).mkdir()
        (run / part / "model.safetensors").write_bytes(part.encode())
    found = fingerprint_of(run, run / "student")
    (run / "student" / "config.json").write_text("{}")
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    assert fingerprint_of(moved, moved / "student") == found
    (moved / "student" / "selection" / "model.safetensors").write_bytes(b"other")
    assert fingerprint_of(moved, moved / "student") != found
    make_knowledge(catalogue(tmp_path / "b", IDS[::-1]), name="run/knowledge")
    assert fingerprint_of(run, run / "student") != found
