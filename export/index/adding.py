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
)
from export.onnx_graph.builder import FloatArray
from export.onnx_graph.item_table import NORMS, SCALES, TABLE, ZERO_LEVEL, _stored

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
    is_tail = np.isposinf(held[LIST_OFFSETS])  # of items that were added before
    num_items, list_size = len(held[PLACES]) - 1, held[TABLE].shape[2]
    added = held[LIST_NUMBERS][is_tail].ravel()
    num_base = num_items - np.count_nonzero(added)
    of_items = [name for name in (TABLE, SCALES, NORMS) if name in held]
    new = _stored(rows, of_items)
    before = held[TABLE][is_tail].swapaxes(1, 2).reshape(-1, rows.shape[1])[added != PAD]
    for name in of_items[1:]:
        held[name] = np.concatenate([held[name][: num_items + 1], new[name]])

    levels = np.concatenate([before, new[TABLE]])
    numbers = np.arange(num_base + 1, num_base + 1 + len(levels))
    num_tail = -(-len(levels) // list_size)
    rest = num_tail * list_size - len(levels)
    levels = np.pad(levels, ((0, rest), (0, 0)), constant_values=ZERO_LEVEL)
    tail_numbers = np.pad(numbers, (0, rest), constant_values=PAD).reshape(num_tail, list_size)
    scales = held[SCALES][tail_numbers, 0] * RoundedState.of(model).step
    places = (~is_tail).sum() * list_size + np.arange(len(numbers))
    tail = {
        TABLE: levels.reshape(num_tail, list_size, -1).swapaxes(1, 2),
        LIST_SCALES: scales[:, None],
        LIST_NUMBERS: tail_numbers,
        LIST_OFFSETS: np.full(num_tail, np.inf),  # promises more than any other list
    }
    for name, value in tail.items():
        held[name] = np.concatenate([held[name][~is_tail], value.astype(held[name].dtype)])
    kept = held[LIST_KEYS][:, ~is_tail]
    held[LIST_KEYS] = np.pad(kept, ((0, 0), (0, num_tail)))
    held[PLACES] = np.concatenate([held[PLACES][: num_base + 1], places.astype(np.int32)])
    more = num_tail - is_tail.sum()
    held[DEPTHS] = np.where(held[DEPTHS] > 0, held[DEPTHS] + more, 0)
    for name, value in held.items():
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))


def after_adding(index: dict[str, Any], num_new: int) -> dict[str, Any]:
    """Return what config.json says of an index once so many items were added."""
    before, size = index.get("num_added", 0), index["list_size"]
    more = math.ceil((before + num_new) / size) - math.ceil(before / size)
    return {
        **index,
        "num_added": before + num_new,
        "num_lists": index["num_lists"] + more,
        "lists_looked_at": {k: num + more for k, num in index["lists_looked_at"].items()},
    }
