"""Several data sets as one: whose is what, what is read of an item, where a target is ranked."""

from pathlib import Path

from seqrec.data import SequenceDataset, load_dataset, write_dataset
from seqrec.errors import DataError
from seqrec.evaluation import evaluate, validation_ndcg, validation_ndcgs
from seqrec.splits import Split, leave_one_out
from seqrec.texts import item_texts
from seqrec.uniting import open_united

import numpy as np
import polars as pl
import pytest
import torch

BOOKS = {"title": ["Emma", "Ulysses", ""], "author": ["Austen", "", "Homer"]}
FILMS = {"title": ["Heat", "Alien"], "year": ["1995", "1979"], "genre": ["crime", "horror"]}


def shop(
    folder: Path, texts: dict[str, list[str]], sequences: list[list[int]], split: Split
) -> SequenceDataset:
    lengths = np.array([len(sequence) for sequence in sequences])
    ids = [str(number) for number in range(1, len(texts["title"]) + 1)]
    return write_dataset(
        folder,
        name=folder.name,
        items=pl.DataFrame({"item_id": ids, **texts}),
        user_ids=pl.Series([f"u{user}" for user in range(len(sequences))]),
        events=np.concatenate(sequences).astype(np.int32),
        offsets=np.cumsum([0, *lengths]),
        split=leave_one_out(lengths),
        split_name=split,
        provenance={},
    )


@pytest.fixture
def books(tmp_path: Path) -> SequenceDataset:
    return shop(tmp_path / "books", BOOKS, [[1, 2, 3], [3, 2, 1], [2, 1]], "leave-one-out")


@pytest.fixture
def films(tmp_path: Path) -> SequenceDataset:
    return shop(tmp_path / "films", FILMS, [[1, 2, 1, 2]], "leave-one-out")


def test_users_and_items_are_whose_they_were(
    books: SequenceDataset, films: SequenceDataset, tmp_path: Path
) -> None:
    united = open_united([books.path, films.path])
    assert united.path == tmp_path / "books+films"
    assert united.item_ids == ["books/1", "books/2", "books/3", "films/1", "films/2"]
    assert united.catalogues == {"books": 3, "films": 2}
    assert [united.sequence(user).tolist() for user in range(4)] == [
        [1, 2, 3],
        [3, 2, 1],
        [2, 1],
        [4, 5, 4, 5],
    ]
    np.testing.assert_array_equal(united.split, np.concatenate([books.split, films.split]))
    user_ids = pl.read_parquet(united.path / "user_ids.parquet")["user_id"].to_list()
    assert user_ids == ["books/u0", "books/u1", "books/u2", "films/u0"]


def test_the_language_model_reads_of_an_item_what_it_reads_in_its_own_catalogue(
    books: SequenceDataset, films: SequenceDataset
) -> None:
    united = open_united([books.path, films.path])
    assert item_texts(united.items) == item_texts(books.items) + item_texts(films.items)
    assert item_texts(united.items)[2:4] == ["Homer", "Heat. 1995. crime"]


def test_a_target_is_ranked_in_its_catalogue_and_each_catalogue_counts_alike(
    books: SequenceDataset, films: SequenceDataset
) -> None:
    united = open_united([books.path, films.path])
    # Films are always above books, and the higher number above the lower.
    scores = torch.arange(6.0)

    def score(items: torch.Tensor) -> torch.Tensor:
        return scores.expand(len(items), -1)

    # Test: book 3 of three, book 1 of three; film 2 of two.
    ranks = evaluate(score, united, "test", max_len=5).keeping_seen
    assert ranks.tolist() == [1, 3, 1]
    # Validation: book 2 with book 1 seen, book 2 with book 3 seen; film 1, seen before.
    found = validation_ndcgs(score, united, max_len=5)
    seen = 1.0 if united.exclude_seen else 1 / np.log2(3)
    assert found["books"] == pytest.approx((1 / np.log2(3) + seen) / 2)
    assert validation_ndcg(score, united, max_len=5) == pytest.approx(
        (found["books"] + found["films"]) / 2
    )


def test_one_set_is_opened_and_the_same_sets_are_united_once(
    books: SequenceDataset, films: SequenceDataset
) -> None:
    assert open_united([books.path]).path == books.path
    path = open_united([books.path, films.path]).path
    written = (path / "meta.json").stat().st_mtime_ns
    open_united([books.path, films.path])
    assert (path / "meta.json").stat().st_mtime_ns == written
    shop(films.path, FILMS, [[2, 1, 2, 1]], "leave-one-out")  # another log today
    assert open_united([books.path, films.path]).sequence(3).tolist() == [5, 4, 5, 4]


def test_sets_that_cannot_be_told_apart_or_were_split_differently_are_refused(
    books: SequenceDataset, films: SequenceDataset, tmp_path: Path
) -> None:
    others = shop(tmp_path / "more" / "books", BOOKS, [[1, 2, 3]], "leave-one-out")
    with pytest.raises(DataError, match="two data sets of the name books"):
        open_united([books.path, others.path])
    by_time = shop(tmp_path / "by-time", FILMS, [[1, 2, 1]], "temporal")
    with pytest.raises(DataError, match="books is leave-one-out, .*by-time is temporal"):
        open_united([books.path, by_time.path])
    own = shop(tmp_path / "books+films", FILMS, [[1, 2, 1]], "leave-one-out")
    with pytest.raises(DataError, match="a data set of its own"):
        open_united([books.path, films.path])
    assert load_dataset(own.path).fingerprint == own.fingerprint


def test_a_set_whose_catalogues_do_not_add_up_is_refused(
    books: SequenceDataset, films: SequenceDataset
) -> None:
    meta = open_united([books.path, films.path]).path / "meta.json"
    meta.write_text(meta.read_text().replace('"books": 3', '"books": 4'))
    with pytest.raises(DataError, match="differ in length"):
        load_dataset(meta.parent)
