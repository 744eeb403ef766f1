"""Appends new items to the item table of an exported student; `export.add_items` is the command."""

import logging
import shutil
from pathlib import Path
from typing import Any

from seqrec.catalogue import read_items
from seqrec.errors import DataError, ModelError
from seqrec.files import atomic_directory, sha256_file, write_json
from seqrec.texts import texts_as_read

import numpy as np
import onnx
import polars as pl
from numpy.typing import NDArray
from onnx import ModelProto

from export.cards import fill
from export.config import AddItemsConfig
from export.index.adding import append_to_lists, card_of_added, require_room, with_added
from export.index.graph import load, save
from export.onnx_graph.item_table import append_rows
from export.parity import all_scores, ask, require_same
from export.recommender import RECOMMENDER, Recommender, open_session
from student.text_map import FILE as TEXT_MAP_FILE
from student.text_map import TextMap

logger = logging.getLogger(__name__)

NUM_COMPARED_HISTORIES = 32


def add_items(config: AddItemsConfig) -> None:
    """Write a recommender that knows the new items too, whole or not at all.

    Raises:
        DataError: the table is not usable, or an item of it is in the catalogue or has no text.
        ModelError: the folder holds no distilled student, or the language model is another one.
        SourceError: the language model cannot be had.
    """
    assert config.model_dir is not None  # __post_init__ has seen to it
    assert config.items is not None
    assert config.output_dir is not None
    old = Recommender.from_pretrained(config.model_dir)
    text_map = read_text_map(config.model_dir, old.config)
    if config.output_dir.exists() and (
        not config.output_dir.is_dir() or any(config.output_dir.iterdir())
    ):
        raise DataError(f"{config.output_dir} exists. Give another --output-dir, or move it away")
    items = _read_new_items(config, old)
    index = old.config.get("index")
    if index is not None:
        require_room(config.model_dir, old.config, len(items))
    read = _read_texts(items, old.config["text_map"]["reader"], config.text_encoder)
    rows = text_map.rows(read)
    model = load(config.model_dir)
    if index is None:
        append_rows(model, rows)
    else:
        append_to_lists(model, rows)
    _check_old_answers(config.model_dir / "model.onnx", model, old, len(items))
    description = old.config
    with atomic_directory(config.output_dir) as beside:
        names = ["model.onnx"]
        if index is None:
            onnx.save(model, beside / "model.onnx")
        else:
            names = save(model, beside)
            description = {**description, "index": with_added(index, len(items))}
        write_json(
            beside / "items.json",
            {
                "ids": old.item_ids + items["item_id"].to_list(),
                "titles": old.titles + items["title"].to_list(),
            },
        )
        shutil.copy(config.model_dir / TEXT_MAP_FILE, beside / TEXT_MAP_FILE)
        description = {
            **description,
            "num_items": description["num_items"] + len(items),
            "num_parameters": description["num_parameters"] + rows.size,
            "num_added_items": description.get("num_added_items", 0) + len(items),
        }
        RECOMMENDER.write(beside, description, [*names, "items.json"])
        card = (config.model_dir / "README.md").read_text(encoding="utf-8")
        card += "\n" + fill("added_items", {"num_new": f"{len(items):,}"})
        if index is not None:
            card += card_of_added(description["index"])
        (beside / "README.md").write_text(card, encoding="utf-8")
    logger.info(
        "wrote %s: %s items, %s of them new",
        config.output_dir,
        f"{description['num_items']:,}",
        f"{len(items):,}",
    )


def read_text_map(folder: Path, config: dict[str, Any]) -> TextMap:
    """Open the text map beside a recommender; a `ModelError` if there is none, or a damaged one."""
    stated = config.get("text_map")
    if stated is None:
        raise ModelError(
            f"{folder} has no text map, which only a distilled student has (this one: "
            f"{config.get('role')}). Give the folder of a distilled one; if it is one, export it "
            "again: python -m export.to_onnx"
        )
    file = folder / TEXT_MAP_FILE
    text_map = TextMap.load(file)
    if (actual := sha256_file(file)) != stated["sha256"]:
        raise ModelError(
            f"{file} is damaged: SHA-256 is {actual}, expected {stated['sha256']}. Export it "
            "again: python -m export.to_onnx"
        )
    return text_map


def _read_new_items(config: AddItemsConfig, old: Recommender) -> pl.DataFrame:
    """Read the table of new items, and refuse those that are known or have no text."""
    assert config.items is not None
    items = read_items(
        config.items, id_column=config.items_id_column, title_column=config.title_column
    )
    known = items["item_id"].is_in(old.item_ids)
    if known.any():
        row, value = known.arg_true()[0] + 1, items["item_id"].filter(known)[0]
        raise DataError(
            f"{config.items}, row {row}: item {value!r} is in {config.model_dir} already "
            f"({int(known.sum()):,} such rows). Give new items only"
        )
    empty = items["title"].str.strip_chars() == ""
    if empty.any():
        row, value = empty.arg_true()[0] + 1, items["item_id"].filter(empty)[0]
        raise DataError(
            f"{config.items}, row {row}: item {value!r} has no title ({int(empty.sum()):,} such "
            "rows), and its text is all that is known of it. Fill it in or remove the row"
        )
    catalogue = old.config["text_map"]["reader"]["text_columns"]
    ours = [name for name in items.columns if name != "item_id"]
    for name in ours:
        if name not in catalogue:
            logger.info("column %r is not read: the catalogue had none of that name", name)
    for name in catalogue:
        if name not in ours:
            logger.info("column %r, which the catalogue had, is taken to be empty", name)
    return items


def _read_texts(
    items: pl.DataFrame, reader: dict[str, Any], text_encoder: Path | None
) -> NDArray[np.float32]:
    """Read the new texts with the language model that read the catalogue, float32 (N, L)."""
    if text_encoder is not None:
        from export.new_items.text_encoder import TextEncoder

        encoder = TextEncoder.from_pretrained(text_encoder)
        encoder.require(reader)
        return encoder.encode(texts_as_read(items, reader))
    # Not at the top: where an exported one reads there is no PyTorch.
    from teacher.text import read_new_texts

    return read_new_texts(items, reader)


def _check_old_answers(file: Path, model: ModelProto, old: Recommender, num_new: int) -> None:
    """Compare old and new graph on random histories, the new items left out.

    Raises:
        ModelError: an old item's score differs by more than rounding does.
    """
    before, after = (open_session(source, 1) for source in (file, model.SerializeToString()))
    num_items, max_len = len(old.item_ids), old.max_len
    new = np.arange(num_items + 1, num_items + num_new + 1)[None]
    rng = np.random.default_rng(0)
    for _ in range(NUM_COMPARED_HISTORIES):
        items = rng.integers(1, num_items + 1, (1, rng.integers(1, max_len + 1)))
        expected = all_scores(before, items, new[:, :0], num_items)
        answer = ask(after, items, new, num_items)
        require_same(*answer, expected, "the new rows change the scores of old items")
