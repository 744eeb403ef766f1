"""An approximate index of items in the ONNX graph of a recommender, instead of the scan of all.

The graph takes and gives what `export.contract` says, and the user's state besides. It is an
inverted file of standard operators: the state is multiplied by the keys of the lists, which tells
what the best score in each may be; the items of the most promising lists are scored exactly, in 8
bit as before, and the best of them are the answer. How many lists are looked at depends on k alone
(`Depth`). Where more is asked than the lists can promise, all of them are scored in the same
request: k above that of the last depth, or more items left out than `MOST_EXCLUDED`, as when few
candidates are given. In a batch the longest `excluded` decides for all.

Constants of the graph:

    item_table      uint8 (L, H, P)   levels + 128; of an empty place 128
    list_scales     float32 (L, 1, P) of the rows of the table
    list_numbers    int32 (L, P)      items, PAD: an empty place
    list_keys       float32 (H, L)
    list_offsets    float32 (L,)
    list_depths     int64 (D + 1,)    how many lists are looked at, by D ranges of k; 0: above them
    item_places     int32 (I + 1,)    where an item is in the lists; of PAD an empty place
    item_scales, item_norms           of the lookup, as in `export.onnx_graph.item_table`

A list holds its rows as columns: ONNX Runtime multiplies these three times as fast.

Of the items that tie the lower number comes first, unless the last place of an answer is tied for
by items of different lists.

Shape letters: B users, T history, E excluded, I items, H width, L lists, N lists that are looked
at, P places in a list, D depths, F places that are looked at closely, K answers.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrec.errors import ModelError
from seqrec.histories import PAD

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from export.contract import EXCLUDED, NEW_STATE, TOP_ITEMS, TOP_SCORES, USER_STATE, K
from export.index.lists import ItemLists
from export.onnx_graph.builder import FloatArray, GraphBuilder
from export.onnx_graph.item_table import (
    NO_ITEMS,
    SCALES,
    TABLE,
    ZERO_LEVEL,
    restore_at_lookup,
)
from export.opening import DATA

LIST_SCALES, LIST_NUMBERS = "list_scales", "list_numbers"
LIST_KEYS, LIST_OFFSETS = "list_keys", "list_offsets"
DEPTHS = "list_depths"
PLACES = "item_places"
PREFIX = "index_"
MOST_EXCLUDED = 256  # with more, all items are scored
MAPPED_FROM = 2**26  # bytes of large constants: from there on they are in a file of their own
LARGE = 2**20  # bytes of such a constant


@dataclass(frozen=True)
class Depth:
    """Up to which k how many lists are looked at."""

    most_answers: int
    num_lists: int


def item_rows(model: ModelProto) -> FloatArray:
    """Return the items' rows that an int8 graph holds, float32 (I, H).

    Raises:
        ModelError: it is no int8 graph of `export.onnx_graph.graph`, or of an earlier version.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {name for node in model.graph.node for name in node.output}
    if not {TABLE, SCALES, NO_ITEMS} <= tensors.keys() or USER_STATE not in outputs:
        raise ModelError(
            "model.onnx names no item table in 8 bit, or no user state, as older ones do. "
            "Export it again: python -m export.to_onnx"
        )
    table, scales = (numpy_helper.to_array(tensors[name]) for name in (TABLE, SCALES))
    num_items = len(table) - tensors[NO_ITEMS].dims[1]
    rows: FloatArray = table[1 : num_items + 1].astype(np.float32)
    rows -= ZERO_LEVEL  # in place: they are most of what an index needs of memory
    rows *= scales[1 : num_items + 1]
    return rows


def build_index(model: ModelProto, lists: ItemLists, depths: Sequence[Depth]) -> ModelProto:
    """Return the graph with an index.

    Args:
        model: an int8 graph of `export.onnx_graph.graph`; it is changed.
        lists: of the items that `item_rows` returns.
        depths: k ascends.
    """
    restore_at_lookup(model)  # of the rows that a request looks up, not of the whole table
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    held = {name: numpy_helper.to_array(tensors[name]) for name in (TABLE, SCALES)}
    graph = GraphBuilder("int8", prefix=PREFIX)
    rounded = RoundedState.of(model)
    for node in _needed(model, (rounded.levels, NEW_STATE)):
        if node.op_type == "Gather" and node.input[0] == TABLE:
            _look_up(graph, lists, *node.input[1:], *node.output)
        else:
            graph.nodes.append(node)
    constants = list_constants(lists, held[TABLE], held[SCALES] * rounded.step)
    for name, value in {**constants, PLACES: lists.places}.items():
        graph.constant(value, name=name)
    _add_answer(graph, lists, depths, rounded)
    needed = {name for node in graph.nodes for name in node.input}
    kept = [t for name, t in tensors.items() if name in needed and name != TABLE]
    state = helper.make_tensor_value_info(
        USER_STATE, TensorProto.FLOAT, ["batch", lists.keys.shape[1]]
    )
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend([*kept, *graph.constants])
    model.graph.output.append(state)
    return model


def save(model: ModelProto, folder: Path) -> list[str]:
    """Write `model.onnx`, and beside it what is large as ONNX external data; return the names.

    ONNX Runtime maps that file into memory: nothing of it is copied, and processes share it.
    """
    large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= LARGE]
    is_apart = sum(len(tensor.raw_data) for tensor in large) >= MAPPED_FROM
    for tensor in large if is_apart else ():
        set_external_data(tensor, DATA)
    onnx.save(model, folder / "model.onnx")
    if not is_apart:
        return ["model.onnx"]
    shutil.copymode(folder / "model.onnx", folder / DATA)  # it was made for its owner alone
    return ["model.onnx", DATA]


def load(folder: Path) -> ModelProto:
    """Read what `save` wrote, or any export.

    Raises:
        ModelError: the tables are behind a link, which onnx does not follow.
    """
    try:
        return onnx.load(folder / "model.onnx")
    except onnx.checker.ValidationError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{reason}. Name a copy of the folder: cp -rL {folder} COPY") from error


@dataclass(frozen=True)
class RoundedState:
    """A state in 8 bit, as the graph that scores all items rounds it; names of values.

    Attributes:
        levels: uint8 (B, H).
        zero: the level of 0.
        largest: (B, 1), by which scores are multiplied.
        step: of a level, as a share of the largest.
    """

    levels: str
    zero: str
    largest: str
    step: np.float32

    @classmethod
    def of(cls, model: ModelProto) -> "RoundedState":
        """Find it in an int8 graph."""
        made_by = {name: node for node in model.graph.node for name in node.output}
        (rounding,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        share, step, zero = rounding.input
        (value,) = [tensor for tensor in model.graph.initializer if tensor.name == step]
        return cls(
            levels=rounding.output[0],
            zero=zero,
            largest=made_by[share].input[1],
            step=np.float32(numpy_helper.to_array(value)),
        )


def _needed(model: ModelProto, outputs: Sequence[str]) -> list[NodeProto]:
    """Return the nodes that make the outputs, in order."""
    needed, nodes = set(outputs), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    return nodes[::-1]


def _look_up(graph: GraphBuilder, lists: ItemLists, items: str, rows: str) -> None:
    """Add the lookup of items' levels (..., H), uint8; they are columns of the lists."""
    list_size, width = lists.numbers.shape[1], lists.keys.shape[1]
    beyond = np.iinfo(np.int64).max  # all places, of lists that are appended too
    places = graph.node("Cast", graph.node("Gather", PLACES, items), to=TensorProto.INT64)
    places = graph.node("Unsqueeze", places, graph.constant([-2, -1]))
    # To (list, 0, place in it), and from there to (list, column, place in it).
    places = graph.node("Div", places, graph.constant([list_size, beyond, 1]))
    places = graph.node("Mod", places, graph.constant([beyond, beyond, list_size]))
    columns = np.arange(width)[:, None] * [0, 1, 0]
    places = graph.node("Add", places, graph.constant(columns))  # (..., H, 3)
    graph.node("GatherND", TABLE, places, output=rows)


def list_constants(
    lists: ItemLists, table: NDArray[np.uint8], scales: FloatArray
) -> dict[str, NDArray]:
    """Return the table and what else has as many entries as there are lists, by name.

    Args:
        lists: of all items.
        table: uint8 (R, H), row n is item n.
        scales: float32 (R, 1), by which products of integers are multiplied.
    """
    levels = np.where((lists.numbers == PAD)[..., None], ZERO_LEVEL, table[lists.numbers])
    return {
        TABLE: levels.swapaxes(1, 2).astype(np.uint8),
        LIST_SCALES: scales[lists.numbers, 0][:, None].astype(np.float32),
        LIST_NUMBERS: lists.numbers.astype(np.int32),
        LIST_KEYS: lists.keys.T.astype(np.float32),
        LIST_OFFSETS: lists.offsets.astype(np.float32),
    }


def _add_answer(
    graph: GraphBuilder, lists: ItemLists, depths: Sequence[Depth], rounded: RoundedState
) -> None:
    """Add what makes an answer of the user's state: from few lists, or from all."""
    list_size = lists.numbers.shape[1]
    zeros = (rounded.zero, graph.constant(ZERO_LEVEL, np.uint8))
    above = graph.node("Greater", K, graph.constant([depth.most_answers for depth in depths]))
    above = graph.node("Cast", above, to=TensorProto.INT64)
    level = graph.node("ReduceSum", above, graph.constant([0]))  # (1,), how many depths lie above
    num_excluded = graph.node("Shape", EXCLUDED, start=1, end=2)
    close = graph.node("Add", K, num_excluded)  # so many are left if what is excluded is among them
    most = [min(d.most_answers + MOST_EXCLUDED, d.num_lists * list_size) for d in depths]
    enough = graph.node("Gather", graph.constant([*most, 0]), level)
    graph.constant([*(depth.num_lists for depth in depths), 0], name=DEPTHS)
    num_lists = graph.node("Gather", DEPTHS, level)
    branches = {
        "then_branch": _answer_from_few(graph, rounded.levels, zeros, num_lists, close),
        "else_branch": _answer_from_all(graph, list_size, rounded.levels, zeros),
    }
    are_few = graph.node("LessOrEqual", close, enough)
    _, best = graph.nodes_outputs("If", are_few, outputs=(TOP_ITEMS, ""), **branches)
    graph.node("Mul", best, rounded.largest, output=TOP_SCORES)


def _answer_from_few(
    graph: GraphBuilder, levels: str, zeros: tuple[str, str], num_lists: str, close: str
) -> GraphProto:
    """Return what looks at the most promising lists, and leaves out of the best what is excluded.

    Args:
        graph: gets the constants.
        levels: of the state, uint8 (B, H).
        zeros: the levels of 0, of the state and of the table.
        num_lists: N, (1,).
        close: F, (1,), at least K + E.
    """
    few = GraphBuilder("int8", constants=graph.constants, prefix=f"{PREFIX}few_")
    flat, nothing = few.constant([0, -1]), few.weights(-np.inf)
    promise = few.node("Add", few.node("MatMul", USER_STATE, LIST_KEYS), LIST_OFFSETS)
    _, chosen = few.nodes_outputs("TopK", promise, num_lists, outputs=("", ""), axis=1)  # (B, N)
    rows = few.node("Gather", TABLE, chosen)  # (B, N, H, P)
    levels = few.node("Unsqueeze", levels, few.constant([1, 2]))
    products = few.node("MatMulInteger", levels, rows, *zeros)  # (B, N, 1, P)
    products = few.node("Cast", products, to=TensorProto.FLOAT)
    scores = few.node("Mul", products, few.node("Gather", LIST_SCALES, chosen))
    scores = few.node("Reshape", scores, flat)  # (B, N * P)
    numbers = few.node("Reshape", few.node("Gather", LIST_NUMBERS, chosen), flat)
    scores = few.node("Where", few.node("Cast", numbers, to=TensorProto.BOOL), scores, nothing)
    best, at = few.nodes_outputs("TopK", scores, close, outputs=("", ""), axis=1)
    found = few.node("GatherElements", numbers, at, axis=1)  # (B, F)
    excluded = few.node("Cast", EXCLUDED, to=TensorProto.INT32)
    matches = few.node(
        "Equal",
        few.node("Unsqueeze", found, few.constant([2])),
        few.node("Unsqueeze", excluded, few.constant([1])),
    )
    matches = few.node("Cast", matches, to=TensorProto.INT32)  # (B, F, E)
    count = few.node("ReduceSum", matches, few.constant([2]), keepdims=0)
    is_barred = few.node("Cast", count, to=TensorProto.BOOL)
    return _ranked(few, "few", found, few.node("Where", is_barred, nothing, best))


def _answer_from_all(
    graph: GraphBuilder, list_size: int, levels: str, zeros: tuple[str, str]
) -> GraphProto:
    """Return what looks at all lists; the other arguments as in `_answer_from_few`."""
    every = GraphBuilder("int8", constants=graph.constants, prefix=f"{PREFIX}all_")
    products = every.node("MatMulInteger", levels, TABLE, *zeros)  # (L, B, P)
    products = every.node("Cast", products, to=TensorProto.FLOAT)
    scores = every.node("Mul", products, LIST_SCALES)
    scores = every.node("Transpose", scores, perm=[1, 0, 2])
    is_item = every.node("Cast", LIST_NUMBERS, to=TensorProto.BOOL)  # when the file is loaded
    scores = every.node("Where", is_item, scores, every.weights(-np.inf))
    scores = every.node("Reshape", scores, every.constant([0, -1]))  # (B, L * P)
    places = every.node("Cast", every.node("Gather", PLACES, EXCLUDED), to=TensorProto.INT64)
    lowest = helper.make_tensor("value", TensorProto.FLOAT, [1], [-np.inf])
    nothing = every.node("ConstantOfShape", every.node("Shape", places), value=lowest)
    scores = every.node("ScatterElements", scores, places, nothing, axis=1)
    # The k lists with the best leaders hold the k best, as in `export.onnx_graph.graph`.
    scores = every.node("Reshape", scores, every.constant([0, -1, list_size]))
    leaders = every.node("ReduceMax", scores, every.constant([2]), keepdims=0)
    count = every.node("Min", K, every.node("Shape", leaders, start=1, end=2))
    _, chosen = every.nodes_outputs("TopK", leaders, count, outputs=("", ""), axis=1)
    which = every.node("Unsqueeze", chosen, every.constant([2]))
    flat = every.constant([0, -1])
    scores = every.node("Reshape", every.node("GatherND", scores, which, batch_dims=1), flat)
    numbers = every.node("Reshape", every.node("Gather", LIST_NUMBERS, chosen), flat)
    best, at = every.nodes_outputs("TopK", scores, K, outputs=("", ""), axis=1)
    return _ranked(every, "all", every.node("GatherElements", numbers, at, axis=1), best)


def _ranked(graph: GraphBuilder, name: str, numbers: str, scores: str) -> GraphProto:
    """Return a branch that puts out the best K: items int64 (B, K) and scores float32 (B, K).

    Args:
        graph: the branch.
        name: of the branch.
        numbers: of items, int32 (B, at least K).
        scores: of them, not sorted; sorted here so that ties go to the lower number.
    """
    count = graph.node("Shape", numbers, start=1, end=2)
    numbers, at = graph.nodes_outputs("TopK", numbers, count, outputs=("", ""), axis=1, largest=0)
    scores = graph.node("GatherElements", scores, at, axis=1)
    best, at = graph.nodes_outputs("TopK", scores, K, outputs=("", ""), axis=1)
    items = graph.node("GatherElements", numbers, at, axis=1)
    items = graph.node("Cast", items, to=TensorProto.INT64)
    shape = ["batch", "num_answers"]
    outputs = [
        helper.make_tensor_value_info(items, TensorProto.INT64, shape),
        helper.make_tensor_value_info(best, TensorProto.FLOAT, shape),
    ]
    return helper.make_graph(graph.nodes, name, [], outputs)
