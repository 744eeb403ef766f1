"""The item table of a graph: stored once, read by history lookup and scores.

The table is most of a file. In fp32 it is the constant `item_table`, float32 (R, H). In int8 it is
these (see `export.onnx_graph.builder`), where the first holds levels + 128: on x86 without VNNI,
ONNX Runtime adds products of signed levels in 16 bits, which overflow.

    item_table      uint8 (R, H)
    item_scales     float32 (R, 1)
    item_norms      float32 (R, 1)  Transformers of one block only: one over the row's standard
                                    deviation, which makes the norm of a row one product

Rows of a small table are restored for good when the file is loaded, in memory and not in the file,
so that a lookup is one node. Up to `GROUPED_FROM` rows there is memory enough; of a larger table,
what a request looks up is restored then.

Scores are products of integers. A user's state is rounded to 8 bit by its own largest value,
so that its scores do not depend on who else is in the batch. From `SIGNED_FROM` rows on it is
rounded to 7 bit, so that no sum of 16 bits can overflow and the table can be multiplied with signed
levels: ONNX Runtime does that with half the time for a table that does not fit into the cache.

Row n is item n, row PAD is zero. From `GROUPED_FROM` rows on, zero rows fill the last group of
`GROUP` (see `export.onnx_graph.graph`). The constant `no_items`, int64 (1, M), names the rows that
are no items: PAD and those.

Shape letters: R rows, M rows without an item, B users, T history, H hidden.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqrec.errors import ModelError

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.onnx_graph.builder import EPSILON, TOP_LEVEL, FloatArray, GraphBuilder, quantize_rows

if TYPE_CHECKING:  # where items are added to a finished file there may be no PyTorch
    from student.model import Student

TABLE, SCALES, NORMS, NO_ITEMS = "item_table", "item_scales", "item_norms", "no_items"
ZERO_LEVEL = 128
SMALLEST = 1e-30  # in place of a state of zeros' largest value, by which it is divided
GROUP = 64  # rows whose best score is found first
SHORT_LEVEL = 63  # of a state in 7 bit: two products of 126 + 1 and 127 fit into 16 bits
SIGNED_FROM = 100_000  # rows; below, 8 bit of the state are worth more than the time
GROUPED_FROM = 20_000  # with fewer rows, plain top-k is as fast
RESTORING = ("Cast", "Sub", "Mul", "LayerNormalization")  # makes fp32 rows of the table


@dataclass(frozen=True)
class Rows:
    """A history's rows of the item table.

    Attributes:
        embedded: (B, T, H), or "": a Transformer of one block needs it for the newest item alone.
        scaled: (B, T, H), the rows over their standard deviation, for a Transformer of one block.
        last: (B, H), the newest item's row.
    """

    embedded: str
    scaled: str
    last: str


@dataclass(frozen=True)
class ItemTable:
    """The table in a graph that is being built."""

    graph: GraphBuilder
    num_rows: int
    width: int
    for_one_block: bool  # of a Transformer

    @property
    def is_grouped(self) -> bool:
        """Whether the best items are looked for group by group."""
        return self.num_rows >= GROUPED_FROM

    @classmethod
    def add(cls, graph: GraphBuilder, student: "Student") -> "ItemTable":
        """Add a student's table to a graph."""
        embedding = student.item_embedding.weight.detach().numpy()
        for_one_block = (student.config.arch, student.config.num_layers) == ("transformer", 1)
        num_items = len(embedding) - 1
        size = _num_rows(num_items, grouped=num_items + 1 >= GROUPED_FROM)
        rows = np.pad(embedding, ((0, size - len(embedding)), (0, 0)))
        names = (TABLE, SCALES, NORMS) if for_one_block else (TABLE, SCALES)
        for name, value in stored(rows, names if graph.precision == "int8" else (TABLE,)).items():
            graph.constant(value, name=name)
        graph.constant(_no_items(num_items, size), name=NO_ITEMS)
        return cls(graph, size, embedding.shape[1], for_one_block)

    def look_up(self, items: str) -> Rows:
        """Add the lookup of items (B, T)."""
        graph, newest = self.graph, self.graph.constant(-1)
        if self.is_grouped:
            rows, scaled = self._restored(lambda name: graph.node("Gather", name, items))
            return Rows(rows, scaled, graph.node("Gather", rows, newest, axis=1))
        table, scaled_table = self._restored(lambda name: name)  # all of it, when it is loaded
        last = graph.node("Gather", table, graph.node("Gather", items, newest, axis=1))
        if scaled_table:
            return Rows("", graph.node("Gather", scaled_table, items), last)
        return Rows(graph.node("Gather", table, items), "", last)

    def _restored(self, look_up: Callable[[str], str]) -> tuple[str, str]:
        """Add what makes rows of what `look_up` returns for the constants of the table.

        Returns:
            The rows in fp32, and the same over their standard deviation, "" if nobody asks.
        """
        graph = self.graph
        rows, scaled = look_up(TABLE), ""
        if graph.precision == "int8":
            levels = graph.node("Cast", rows, to=TensorProto.FLOAT)
            levels = graph.node("Sub", levels, graph.weights(ZERO_LEVEL))
            rows = graph.node("Mul", levels, look_up(SCALES))
        if self.for_one_block and graph.precision == "int8":
            scaled = graph.node("Mul", rows, look_up(NORMS))
        elif self.for_one_block:
            scaled = graph.norm(rows, np.ones(self.width), np.zeros(self.width))
        return rows, scaled

    def scores(self, state: str) -> tuple[str, str]:
        """Add the scores of all rows for states (B, H).

        Returns:
            Scores (B, R), and by what a user's are to be multiplied, (B, 1); "" if by nothing.
        """
        graph = self.graph
        table = graph.node("Transpose", TABLE, perm=[1, 0])  # done when the file is loaded
        if graph.precision == "fp32":
            return graph.node("MatMul", state, table), ""
        top = TOP_LEVEL if self.num_rows < SIGNED_FROM else SHORT_LEVEL
        levels, largest, zero = quantized_state(graph, state, top)
        zeros = [zero, zero]
        if top == SHORT_LEVEL:  # the signed levels are the stored ones, the highest bit flipped
            bits = graph.node("BitwiseXor", TABLE, graph.constant(ZERO_LEVEL, np.uint8))
            signed = graph.node("Cast", bits, to=TensorProto.INT8)
            table = graph.node("Transpose", signed, perm=[1, 0])  # all done when it is loaded
            zeros = [zero]
        products = graph.node("MatMulInteger", levels, table, *zeros)
        scales = graph.node("Mul", SCALES, graph.weights(1 / top))
        scales = graph.node("Reshape", scales, graph.constant([-1]))  # both when it is loaded
        products = graph.node("Cast", products, to=TensorProto.FLOAT)
        return graph.node("Mul", products, scales), largest


def quantized_state(graph: GraphBuilder, state: str, top: int) -> tuple[str, str, str]:
    """Add what rounds states (B, H) to whole levels from -top to top.

    Returns:
        Levels + top + 1, uint8 (B, H); what `top` levels stand for, (B, 1); and the constant
        top + 1.
    """
    largest = graph.node("ReduceMax", graph.node("Abs", state), graph.constant([1]))
    largest = graph.node("Max", largest, graph.weights(SMALLEST))
    zero = graph.constant(top + 1, np.uint8)
    scaled = graph.node("Div", state, largest)
    levels = graph.node("QuantizeLinear", scaled, graph.weights(1 / top), zero)
    return levels, largest, zero


def restore_at_lookup(model: ModelProto) -> None:
    """Let a model from `export.onnx_graph.graph` restore only what a request looks up, in place.

    For formats that keep what is computed when a file is loaded: a small table would be in them in
    8 bit and in fp32.
    """
    per_row = {tensor.name for tensor in model.graph.initializer} & {TABLE, SCALES, NORMS}
    restoring: dict[str, NodeProto] = {}  # by its output: what makes rows of the whole table
    nodes: list[NodeProto] = []

    def look_up(name: str, rows: str) -> str:
        """Add the lookup of a constant's rows, or of what is made of them."""
        if name in per_row:
            nodes.append(helper.make_node("Gather", [name, rows], [f"{name}_at_{rows}"]))
        elif name in restoring:
            node = NodeProto()
            node.CopyFrom(restoring[name])
            node.input[:] = [look_up(given, rows) for given in node.input]
            node.output[:] = [f"{name}_at_{rows}"]
            node.name = f"{node.name}_at_{rows}"
            nodes.append(node)
        else:
            return name
        return f"{name}_at_{rows}"

    for node in model.graph.node:
        first = node.input[0]
        if node.op_type in RESTORING and (first == TABLE or first in restoring):
            restoring[node.output[0]] = node
        elif node.op_type == "Gather" and first in restoring:
            look_up(first, node.input[1])
            nodes[-1].output[:] = node.output
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def append_rows(model: ModelProto, rows: FloatArray) -> None:
    """Append items' rows (N, H) to the table of a model from `export.onnx_graph.graph`, in place.

    The rows that are there stay as they are to the last bit: in 8 bit, too, each has its own scale.

    Raises:
        ModelError: the model has no such table.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if TABLE not in tensors or NO_ITEMS not in tensors:
        raise ModelError(
            f"the graph has no constant {TABLE!r}. Export it again: python -m export.to_onnx"
        )
    names = [name for name in (TABLE, SCALES, NORMS) if name in tensors]
    held = {name: numpy_helper.to_array(tensors[name]) for name in names}
    old_size = len(held[TABLE])
    num_old = old_size - tensors[NO_ITEMS].dims[1]
    num_items = num_old + len(rows)
    grouped = any(node.op_type == "GatherND" for node in model.graph.node)
    size = _num_rows(num_items, grouped=grouped)
    filled = np.pad(rows, ((0, size - num_items - 1), (0, 0)))
    for name, values in stored(filled, names).items():
        extended = np.concatenate([held[name][: num_old + 1], values])
        tensors[name].CopyFrom(numpy_helper.from_array(extended, name))
    tensors[NO_ITEMS].CopyFrom(numpy_helper.from_array(_no_items(num_items, size), NO_ITEMS))


def _num_rows(num_items: int, *, grouped: bool) -> int:
    """Return how many rows a table has for so many items.

    >>> _num_rows(100, grouped=False), _num_rows(100, grouped=True)
    (101, 128)
    """
    return -(-(num_items + 1) // GROUP) * GROUP if grouped else num_items + 1


def _no_items(num_items: int, num_rows: int) -> NDArray[np.int64]:
    """Return the numbers of rows that are no items, int64 (1, M)."""
    return np.concatenate([[0], np.arange(num_items + 1, num_rows)])[None].astype(np.int64)


def stored(rows: FloatArray, names: tuple[str, ...] | list[str]) -> dict[str, NDArray]:
    """Return rows (R, H) as the constants `names` hold them; with `SCALES` among these in 8 bit."""
    if SCALES not in names:
        return {TABLE: rows.astype(np.float32)}
    levels, scales = quantize_rows(rows)
    variance = (levels.astype(np.float64) * scales).var(axis=1, keepdims=True)
    constants = {
        TABLE: (levels.astype(np.int16) + ZERO_LEVEL).astype(np.uint8),
        SCALES: scales,
        NORMS: (1 / np.sqrt(variance + EPSILON)).astype(np.float32),
    }
    return {name: constants[name] for name in names}
