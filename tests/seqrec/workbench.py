"""A folder in which tables are written and prepared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError
from seqrec.prepare import PrepareConfig, prepare

import polars as pl
import pytest

# Not sorted by user or time. "u1": t r e (by time), "u2": r x t, "u3": e.
INTERACTIONS = pl.DataFrame(
    {
        "user_id": ["u2", "u1", "u1", "u3", "u2", "u1", "u2"],
        "item_id": ["x", "r", "t", "e", "r", "e", "t"],
        "timestamp": [30, 20, 10, 15, 20, 30, 40],
    }
)
ITEMS = pl.DataFrame(
    {
        "item_id": ["t", "r", "e", "x", "unseen"],
        "title": ["Treasure Island", "Robinson Crusoe", "Emma", "", "Les Misérables, Vol. 1"],
        "category": ["Sea", "Sea", None, "", 'History, "France"'],
    }
)
WRITERS: dict[str, Callable[[pl.DataFrame, Path], None]] = {
    ".parquet": lambda frame, path: frame.write_parquet(path),
    ".csv": lambda frame, path: frame.write_csv(path),
    ".tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    ".jsonl": lambda frame, path: frame.write_ndjson(path),
    ".ndjson": lambda frame, path: frame.write_ndjson(path),
}


class Workbench:
    """A folder in which tables are written and prepared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "prepared"

    def write(self, name: str, frame: pl.DataFrame) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        WRITERS[path.suffix](frame, path)
        return path

    def prepare(
        self,
        interactions: pl.DataFrame | Path = INTERACTIONS,
        items: pl.DataFrame | Path = ITEMS,
        extension: str = ".parquet",
        **flags: Any,
    ) -> SequenceDataset:
        """Prepare tables, written first if they are frames."""
        if isinstance(interactions, pl.DataFrame):
            interactions = self.write("interactions" + extension, interactions)
        if isinstance(items, pl.DataFrame):
            items = self.write("items" + extension, items)
        flags = {"output_dir": self.output, **flags}
        return prepare(PrepareConfig(interactions=interactions, items=items, **flags))

    def complaint(self, *args: Any, **kwargs: Any) -> str:
        """Return the message of the `DataError`, having checked that nothing was written."""
        with pytest.raises(DataError) as raised:
            self.prepare(*args, **kwargs)
        assert not self.output.exists()
        message = str(raised.value)
        assert "\n" not in message
        return message


def titles(dataset: SequenceDataset, user: int) -> list[str]:
    """Spell out a user's sequence as item ids."""
    return [dataset.item_ids[item - 1] for item in dataset.sequence(user)]


def with_times(times: pl.Series) -> pl.DataFrame:
    return INTERACTIONS.with_columns(times.alias("timestamp"))
