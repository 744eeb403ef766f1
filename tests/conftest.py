"""A data set small enough to train on within seconds, with an order that can be learned."""

import numpy as np
import polars as pl
import pytest

from seqrec.data import SequenceDataset, leave_one_out, write_dataset

# In shelf order: whoever finishes one book takes the next on the shelf, or skips it now and then.
SHELF = {
    "Detective, Mystery": [
        "A Study in Scarlet",
        "The Sign of the Four",
        "The Hound of the Baskervilles",
        "The Moonstone",
        "The Woman in White",
        "Trent's Last Case",
    ],
    "Horror, Gothic": [
        "The Castle of Otranto",
        "Frankenstein",
        "Carmilla",
        "Dracula",
        "The Turn of the Screw",
        "The Monk",
    ],
    "Science Fiction": [
        "The Time Machine",
        "The War of the Worlds",
        "The Invisible Man",
        "From the Earth to the Moon",
        "Journey to the Center of the Earth",
        "Twenty Thousand Leagues Under the Sea",
    ],
    "Adventure, Sea": [
        "Treasure Island",
        "Robinson Crusoe",
        "Moby-Dick",
        "The Sea-Wolf",
        "Kidnapped",
        "King Solomon's Mines",
    ],
    "Romance, Comedy of Manners": [
        "Pride and Prejudice",
        "Emma",
        "Persuasion",
        "Jane Eyre",
        "Wuthering Heights",
        "Les Misérables",
    ],
}
NUM_USERS = 40
SKIP_PROBABILITY = 0.1


@pytest.fixture(scope="session")
def tiny_items() -> pl.DataFrame:
    """Thirty books: `item_id` "b01".."b30", `title`, `category`; row i is item i + 1."""
    rows = [(title, category) for category, titles in SHELF.items() for title in titles]
    return pl.DataFrame(
        {
            "item_id": [f"b{number:02d}" for number in range(1, len(rows) + 1)],
            "title": [title for title, _ in rows],
            "category": [category for _, category in rows],
        }
    )


@pytest.fixture(scope="session")
def tiny_sequences(tiny_items: pl.DataFrame) -> list[list[int]]:
    """Forty users with 3 to 20 books each, none twice, as item numbers 1..30."""
    rng = np.random.default_rng(0)
    sequences = []
    for user in range(NUM_USERS):
        length = 3 + user * 17 // (NUM_USERS - 1)  # 3..20
        steps = 1 + (rng.random(length) < SKIP_PROBABILITY)
        shelf_places = rng.integers(len(tiny_items)) + np.cumsum(steps)
        sequences.append((shelf_places % len(tiny_items) + 1).tolist())
    return sequences


@pytest.fixture(scope="session")
def tiny_dataset(
    tiny_items: pl.DataFrame,
    tiny_sequences: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> SequenceDataset:
    """The thirty books and forty users as a prepared data set, split leave-one-out."""
    lengths = np.array([len(sequence) for sequence in tiny_sequences], dtype=np.int64)
    return write_dataset(
        tmp_path_factory.mktemp("data") / "tiny",
        name="tiny",
        items=tiny_items,
        user_ids=pl.Series([f"u{user:02d}" for user in range(NUM_USERS)]),
        events=np.concatenate(tiny_sequences).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        split=leave_one_out(lengths),
        split_name="leave-one-out",
        provenance={"source": "made by tests/conftest.py"},
    )
