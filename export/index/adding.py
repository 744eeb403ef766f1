"""New items in a recommender with an index: lists of their own, which every request looks at.

The lists that are there stay as they are, and as many of them are looked at as before. So every new
item is scored for everybody, and each other item of an exact answer is found if it was found
before: the recall that was measured when the index was made can only rise. It need not be measured
again, for which add_items would have to have users. In the lists of like items the new ones would
cost no time, but how many of them are found would be unknown.

The price is time: one list more for as many items as a list holds. So beyond `MOST_ADDED` the index
has to be made anew.
"""

import math
from pathlib import Path
from typing import Any

from seqrec.errors import ModelError
from seqrec.histories import PAD

import numpy as np
from onnx import ModelProto, numpy_helper

from export.index.graph import (
    DEPTHS,
    LIST_KEYS,
    LIST_NUMBERS,
    LIST_OFFSETS,
    LIST_SCALES,
    PLACES,
    RoundedState,
    list_constants,
)
from export.index.lists import ItemLists
from export.onnx_graph.builder import FloatArray
from export.onnx_graph.item_table import NORMS, SCALES, TABLE, ZERO_LEVEL, stored

LISTED = (LIST_SCALES, LIST_NUMBERS, LIST_KEYS, LIST_OFFSETS, DEPTHS, PLACES)
CHANGED = (TABLE, SCALES, NORMS, *LISTED)
MOST_ADDED = 0.1  # as a share of the items that the index was made of


def require_room(folder: Path, config: dict[str, Any], num_new: int) -> None:
    """Refuse more new items than an index takes.

    Raises:
        ModelError: they would be more than `MOST_ADDED`, together with those of earlier times.
    """
    added = config["index"].get("num_added", 0)
    made_of = config["num_items"] - added
    if added + num_new > MOST_ADDED * made_of:
        raise ModelError(
            f"{folder} has an index of {made_of:,} items and {added:,} added ones, and with "
            f"{num_new:,} more they would be more than {MOST_ADDED:.0%}. Add them to the export "
            "that it was made of, and then: python -m export.to_index"
        )


def append_to_lists(model: ModelProto, rows: FloatArray) -> None:
    """Append items' rows (N, H) to an index from `export.index.graph`, in place.

    Raises:
        ModelError: the index is of an earlier version.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if DEPTHS not in tensors:
        raise ModelError(
            "the index is of an earlier version. Make it again: python -m export.to_index"
        )
    held = {name: numpy_helper.to_array(tensors[name]) for name in CHANGED if name in tensors}
    num_items, list_size = len(held[PLACES]) - 1, held[TABLE].shape[2]
    is_tail = np.isposinf(held[LIST_OFFSETS])  # lists of items that were added before
    is_item = held[LIST_NUMBERS][is_tail] != PAD
    first = num_items - is_item.sum() + 1  # item that was added
    new = stored(rows, [name for name in (TABLE, SCALES, NORMS) if name in held])
    nobody = np.full((1, rows.shape[1]), ZERO_LEVEL, dtype=np.uint8)
    before = held[TABLE][is_tail].swapaxes(1, 2)[is_item]
    levels = np.concatenate([nobody, before, new.pop(TABLE)])
    for name, value in new.items():
        held[name] = np.concatenate([held[name][: num_items + 1], value])

    places = np.arange(len(levels) - 1)
    num_lists = math.ceil(len(places) / list_size)
    numbers = np.zeros((num_lists, list_size), dtype=np.int32)
    numbers.flat[places] = places + 1  # of rows of `levels`
    keys = np.zeros((num_lists, rows.shape[1]))
    tail = ItemLists(numbers, keys, np.full(num_lists, np.inf))  # it promises most
    scales = held[SCALES][first - 1 :] * RoundedState.of(model).step
    constants = list_constants(tail, levels, scales)
    constants[LIST_NUMBERS] = np.where(numbers == PAD, PAD, numbers + (first - 1)).astype(np.int32)
    for name, value in constants.items():
        axis = 1 if name == LIST_KEYS else 0
        kept = np.compress(~is_tail, held[name], axis)
        held[name] = np.concatenate([kept, value], axis)
    places = (places + (~is_tail).sum() * list_size).astype(np.int32)
    held[PLACES] = np.concatenate([held[PLACES][:first], places])
    more = num_lists - is_tail.sum()
    held[DEPTHS] = np.where(held[DEPTHS] > 0, held[DEPTHS] + more, 0)
    for name, value in held.items():
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))


def with_added(index: dict[str, Any], num_new: int) -> dict[str, Any]:
    """Return what config.json says of an index once so many items were added."""
    before, size = index.get("num_added", 0), index["list_size"]
    more = math.ceil((before + num_new) / size) - math.ceil(before / size)
    return {
        **index,
        "num_added": before + num_new,
        "num_lists": index["num_lists"] + more,
        "lists_looked_at": {k: num + more for k, num in index["lists_looked_at"].items()},
    }


def card_of_added(index: dict[str, Any]) -> str:
    """Return what the model card says of the items that were added, after how many they are."""
    for_10, for_100 = (index["lists_looked_at"][k] for k in ("10", "100"))
    return (
        f"They stand in lists of the index that every request looks at: at {for_10} of "
        f"{index['num_lists']:,} lists\nfor up to 10 answers now, and at {for_100} for up to 100. "
        "No share that it finds is smaller than stated above.\n"
    )
