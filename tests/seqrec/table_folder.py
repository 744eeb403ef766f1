"""A folder in which tables are written and prepared."""

from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError
from seqrec.prepare import PrepareConfig, prepare

import polars as pl
import pytest

HEADER = "user_id,item_id,timestamp"
ABC = "item_id,title\na,Alpha\nb,Beta\nc,Gamma\n"
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
EXTENSIONS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
Content = str | bytes | pl.DataFrame | dict[str, Any]


class Tables:
    """A folder of tables; where nothing else is said, of the books above."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "out"

    def write(self, name: str, content: Content) -> Path:
        """Write text, bytes, or a frame in the format of the name's extension."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            return path
        frame = pl.DataFrame(content)
        if path.suffix == ".parquet":
            frame.write_parquet(path)
        elif path.suffix in (".csv", ".tsv"):
            frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
        else:
            frame.write_ndjson(path)
        return path

    def prepare(
        self,
        log: pl.DataFrame | Path = INTERACTIONS,
        items: pl.DataFrame | Path = ITEMS,
        extension: str = ".parquet",
        **flags: Any,
    ) -> SequenceDataset:
        """Prepare tables, written first if they are frames."""
        if isinstance(log, pl.DataFrame):
            log = self.write("log" + extension, log)
        if isinstance(items, pl.DataFrame):
            items = self.write("items" + extension, items)
        flags = {"output_dir": self.output, **flags}
        return prepare(PrepareConfig(interactions=log, items=items, **flags))

    def read(self, log: Path, **flags: Any) -> dict[str, str]:
        """Return each user's items in order of time, spelt out; the items are a, b and c."""
        dataset = self.prepare(log, self.write("items.csv", ABC), **flags)
        return {user: "".join(items) for user, items in sequences(dataset).items()}

    def texts(self, items: Path, **flags: Any) -> pl.DataFrame:
        """Return what is kept of a catalogue of a, b and c."""
        return self.prepare(self.write("log.csv", rows("u")), items, **flags).items

    def refusal(self, *args: Any, **flags: Any) -> str:
        """Return the line of the `DataError`, having checked that nothing was written."""
        with pytest.raises(DataError) as raised:
            self.prepare(*args, **{"output_dir": self.folder / "refused", **flags})
        assert not (self.folder / "refused").exists()
        assert "\n" not in str(raised.value)
        return str(raised.value)


def sequences(dataset: SequenceDataset) -> dict[str, list[str]]:
    """Return each user's item ids in order of time."""
    users = pl.read_parquet(dataset.path / "user_ids.parquet", glob=False)["user_id"]
    return {
        user: [dataset.item_ids[item - 1] for item in dataset.sequence(row)]
        for row, user in enumerate(users)
    }


def rows(*users: str, header: str = HEADER) -> str:
    """Write a log in which each user takes a, b, c."""
    events = [f"{user},{item},{time}" for user in users for time, item in enumerate("abc", 1)]
    return "\n".join([header, *events]) + "\n"
