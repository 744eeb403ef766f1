"""A folder of tables of the items a, b and c."""

from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError
from seqrec.prepare import PrepareConfig, prepare

import polars as pl
import pytest

HEADER = "user_id,item_id,timestamp"
ITEMS = "item_id,title\na,Alpha\nb,Beta\nc,Gamma\n"


class Tables:
    """A folder of tables."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("items.csv", ITEMS)

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def parquet(self, name: str, columns: dict[str, Any]) -> Path:
        path = self.write(name, b"")
        pl.DataFrame(columns).write_parquet(path)
        return path

    def prepare(self, log: Path, items: Path | None = None, **flags: Any) -> SequenceDataset:
        flags = {"output_dir": self.folder / "out", **flags}
        items = items or self.folder / "items.csv"
        return prepare(PrepareConfig(interactions=log, items=items, **flags))

    def read(self, log: Path, **flags: Any) -> dict[str, str]:
        """Return each user's items in order of time, spelt out."""
        dataset = self.prepare(log, **flags)
        users = pl.read_parquet(dataset.path / "user_ids.parquet", glob=False)["user_id"].to_list()
        return {
            user: "".join(dataset.item_ids[item - 1] for item in dataset.sequence(row))
            for row, user in enumerate(users)
        }

    def texts(self, items: Path, **flags: Any) -> pl.DataFrame:
        """Return what is kept of a catalogue of a, b and c."""
        return self.prepare(self.write("log.csv", rows("u")), items, **flags).items

    def refusal(self, log: Path, items: Path | None = None, **flags: Any) -> str:
        output = self.folder / "refused"
        with pytest.raises(DataError) as raised:
            self.prepare(log, items, output_dir=output, **flags)
        assert not output.exists()
        assert "\n" not in str(raised.value)
        return str(raised.value)


def rows(*users: str, header: str = HEADER) -> str:
    """Write a log in which each user takes a, b, c."""
    events = [f"{user},{item},{time}" for user in users for time, item in enumerate("abc", 1)]
    return "\n".join([header, *events]) + "\n"
