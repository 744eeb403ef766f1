"""A student as an ONNX graph that answers a request whole: histories in, best items out.

`export.contract` names inputs and outputs. Items that tie are listed by the lower number.

A GRU's graph also keeps a state between requests, so that one new event costs one step: it takes
the state before `items`, and puts out the one after them. Without a state, `items` are the whole
history.

A Transformer's graph has no state: it would be the rows of the window's items, and to look these up
again takes a few of the graph's forty nodes. With several blocks a kept state would also remember
items that have left the window, and so answer otherwise than the whole history does.

Files hold standard ONNX operators only. In int8, all matrices are stored in 8 bit, and scores are
products of integers (see `export.onnx_graph.item_table`); the encoder computes in fp32 in both
precisions, since small products gain no time in 8 bit and ONNX Runtime has no 8-bit GRU.

Graphs are written node by node rather than traced: what a tracer writes holds twice the nodes, and
each costs about as much as the arithmetic of a batch of one.

Shape letters: B users, T history, E excluded, I items, R rows of the table, K answers, G groups.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import set_external_data

from export.contract import EXCLUDED, ITEMS, NEW_STATE, STATE, TOP_ITEMS, TOP_SCORES, K
from export.onnx_graph.builder import GraphBuilder, Precision
from export.onnx_graph.encoders import encode
from export.onnx_graph.item_table import GROUP, NO_ITEMS, ItemTable
from student.model import GRUEncoder, Student

MOST_BYTES = 2**31 - 2**20  # of weights: a protobuf message ends at 2 GiB, and holds nodes too
VERSION = 2  # to be raised when graphs are built otherwise: `to_onnx` makes older exports anew
INPUTS = {
    ITEMS: (TensorProto.INT64, ["batch", "length"]),
    EXCLUDED: (TensorProto.INT64, ["batch", "num_excluded"]),
    K: (TensorProto.INT64, [1]),
}
OUTPUTS = {
    TOP_ITEMS: (TensorProto.INT64, ["batch", "num_answers"]),
    TOP_SCORES: (TensorProto.FLOAT, ["batch", "num_answers"]),
}


def write_graph(student: Student, path: Path, precision: Precision = "fp32") -> bool:
    """Write a student as an ONNX file.

    Args:
        student: in evaluation mode.
        path: the file to write.
        precision: "int8" holds the item table and all matrices but a GRU's in 8 bit.

    Returns:
        Whether it is one file. What is larger than 2 GiB is two, the second with `.data` after its
        name: no ONNX file can be as large.
    """
    model = build_graph(student, precision)
    sizes = [len(tensor.raw_data) for tensor in model.graph.initializer]
    is_one = sum(sizes) <= MOST_BYTES
    if not is_one:
        largest = model.graph.initializer[int(np.argmax(sizes))]
        set_external_data(largest, f"{path.name}.data")
    onnx.save(model, path)
    return is_one


def build_graph(student: Student, precision: Precision = "fp32") -> ModelProto:
    """Return a student as an ONNX model; arguments as in `write_graph`."""
    graph = GraphBuilder(precision)
    table = ItemTable.add(graph, student)
    state = encode(graph, student, table.look_up(ITEMS))
    add_answer(graph, table, state, ITEMS)
    if not isinstance(student.encoder, GRUEncoder):
        return graph.model(INPUTS, OUTPUTS)
    shape = [student.config.num_layers, "batch", student.config.hidden_dim]
    type_and_shape = (TensorProto.FLOAT, shape)
    # An input that is also a constant has a default value.
    graph.constant(np.zeros((shape[0], 1, shape[2])), np.float32, STATE)
    return graph.model({**INPUTS, STATE: type_and_shape}, {**OUTPUTS, NEW_STATE: type_and_shape})


def add_answer(graph: GraphBuilder, table: ItemTable, state: str, items: str) -> None:
    """Add what makes an answer of states (B, H): scores, exclusions, top-k.

    Args:
        graph: gets the nodes.
        table: of the same graph.
        state: (B, H).
        items: any integers (B, at least 1), for their number of users.
    """
    scores, unit = table.scores(state)  # (B, R), (B, 1)
    # Rows that are no items are left out like `excluded`.
    if table.is_grouped:  # zero times an item makes them (B, M)
        first = graph.node("Gather", items, graph.constant([0]), axis=1)
        nobody = graph.node("Add", graph.node("Mul", first, graph.constant(0)), NO_ITEMS)
        left_out = graph.node("Concat", EXCLUDED, nobody, axis=1)
    else:  # it is PAD alone
        left_out = graph.node("Pad", EXCLUDED, graph.constant([0, 0, 0, 1]), NO_ITEMS)
    lowest = helper.make_tensor("value", TensorProto.FLOAT, [1], [-np.inf])
    nothing = graph.node("ConstantOfShape", graph.node("Shape", left_out), value=lowest)
    scores = graph.node("ScatterElements", scores, left_out, nothing, axis=1)
    best = "" if unit else TOP_SCORES
    if table.is_grouped:
        best = _grouped_top_k(graph, scores, best)
    else:
        best, _ = graph.nodes_outputs("TopK", scores, K, outputs=(best, TOP_ITEMS), axis=1)
    if unit:
        graph.node("Mul", best, unit, output=TOP_SCORES)


def _grouped_top_k(graph: GraphBuilder, scores: str, best: str) -> str:
    """Add an exact top-k that looks closely only at the k groups with the best leaders.

    A group's leader is its best score. An item outside of those groups has k items before it: the
    leaders, each of which scores higher, or the same with a lower number. To take maxima is several
    times as fast as to keep a sorted list. The groups are put in order, so that ties among the
    candidates go to the lower item number, too.

    Args:
        graph: gets the nodes.
        scores: (B, R), R a multiple of `GROUP`.
        best: a name for the best scores, or "".

    Returns:
        The name of the best scores (B, K); their items are `top_items`.
    """
    groups = graph.node("Reshape", scores, graph.constant([0, -1, GROUP]))  # (B, G, GROUP)
    leaders = graph.node("ReduceMax", groups, graph.constant([2]), keepdims=0)
    count = graph.node("Min", K, graph.node("Shape", leaders, start=1, end=2))
    _, best_groups = graph.nodes_outputs("TopK", leaders, count, outputs=("", ""), axis=1)
    best_groups, _ = graph.nodes_outputs(
        "TopK", best_groups, count, outputs=("", ""), axis=1, largest=0
    )
    best_groups = graph.node("Unsqueeze", best_groups, graph.constant([2]))  # (B, K, 1)
    flat = graph.constant([0, -1])
    candidates = graph.node("GatherND", groups, best_groups, batch_dims=1)
    candidates = graph.node("Reshape", candidates, flat)  # (B, K * GROUP)
    starts = graph.node("Mul", best_groups, graph.constant(GROUP))
    numbers = graph.node("Add", starts, graph.constant(np.arange(GROUP)))
    numbers = graph.node("Reshape", numbers, flat)
    best, positions = graph.nodes_outputs("TopK", candidates, K, outputs=(best, ""), axis=1)
    graph.node("GatherElements", numbers, positions, axis=1, output=TOP_ITEMS)
    return best
