"""What is changed so that items cannot be added, and how that is said."""

from pathlib import Path

from seqrec.errors import ModelError
from seqrec.files import read_json, write_json

import pytest

from export.config import AddItemsConfig
from export.new_items.add_items import add_items


def change_reader(folder: Path, key: str, value: object) -> None:
    """Let an export say something else of the language model that read its catalogue."""
    config = read_json(folder / "config.json")
    config["text_map"]["reader"][key] = value
    write_json(folder / "config.json", config)


def refusal(config: AddItemsConfig, message: str, kind: type[Exception] = ModelError) -> None:
    """Check that a config is refused in one line that holds this, and that nothing is written."""
    before = sorted(config.output_dir.parent.rglob("*"))
    with pytest.raises(kind, match=message) as caught:
        add_items(config)
    assert sorted(config.output_dir.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)
