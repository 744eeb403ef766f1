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

from export.cards import fill
from export.config import AddItemsConfig
from export.index.adding import append_to_lists, card_of_added, require_room, with_added
from export.index.graph import load, save
from export.onnx_graph.item_table import append_rows
from export.parity import require_same_answers
from export.recommender import RECOMMENDER, Recommender, open_session
from student.text_map import FILE as TEXT_MAP_FILE
from student.text_map import TextMap

logger = logging.getLogger(__name__)


def add_items(config: AddItemsConfig) -> None:
    """Write a recommender that knows the new items too, whole or not at all.

    Raises:
        DataError: the table is not usable, or an item of it is in the catalogue or has no text.
        ModelError: the folder holds no distilled student, or the language model is another one.
        SourceError: the language model cannot be had.
    """
    old = Recommender.from_pretrained(config.model_dir)
    text_map = read_text_map(config.model_dir, old.config)
    output_dir = config.output_dir
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise DataError(f"{output_dir} exists. Give another --output-dir, or move it away")
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
    num_items = len(old.item_ids) + len(items)
    require_same_answers(
        open_session(model.SerializeToString(), num_threads=1),
        old,
        "the new rows change the scores of old items",
        num_new=len(items),
    )
    with atomic_directory(output_dir) as beside:
        names = ["model.onnx"]
        if index is None:
            onnx.save(model, beside / "model.onnx")
        else:
            names = save(model, beside)
        ids, titles = (items[name].to_list() for name in ("item_id", "title"))
        write_json(
            beside / "items.json", {"ids": old.item_ids + ids, "titles": old.titles + titles}
        )
        shutil.copy(config.model_dir / TEXT_MAP_FILE, beside / TEXT_MAP_FILE)
        description = {
            **old.config,
            "num_items": num_items,
            "num_parameters": old.config["num_parameters"] + rows.size,
            "num_added_items": old.config.get("num_added_items", 0) + len(items),
        }
        if index is not None:
            description["index"] = with_added(index, len(items))
        RECOMMENDER.write(beside, description, [*names, "items.json"])
        card = (config.model_dir / "README.md").read_text(encoding="utf-8")
        card += "\n" + fill("added_items", {"num_new": len(items)})
        if index is not None:
            card += card_of_added(description["index"])
        (beside / "README.md").write_text(card, encoding="utf-8")
    logger.info("wrote %s: %d items, %d of them new", config.output_dir, num_items, len(items))


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
    items = read_items(
        config.items, id_column=config.items_id_column, title_column=config.title_column
    )
    for is_wrong, what, remedy in (
        (items["item_id"].is_in(old.item_ids), "is in the catalogue already", "Give new items"),
        (items["title"].str.strip_chars() == "", "has no title to be read", "Fill it in"),
    ):
        if is_wrong.any():
            row, value = is_wrong.arg_true()[0], items["item_id"].filter(is_wrong)[0]
            raise DataError(
                f"{config.items}, row {row + 1}: item {value!r} {what} ({int(is_wrong.sum()):,} "
                f"such rows). {remedy}, or remove the row"
            )
    catalogue = old.config["text_map"]["reader"]["text_columns"]
    for name in items.columns:
        if name not in ("item_id", *catalogue):
            logger.info("column %r is not read: the catalogue had none of that name", name)
    for name in catalogue:
        if name not in items.columns:
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
