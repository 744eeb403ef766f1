"""The encoders as graphs: from rows of the item table to the state after the last item.

What is known when the graph is written is computed then. Of a Transformer's last block only the
newest position is asked for, so a head's query and key become one matrix, its value and the output
projection another one, and gain and bias of the norm before them go into both:

    q . k  =  (Wq y + bq) . (Wk y_t + bk)  =  (A z + a) . z_t + what is the same for all t
    Wo v   =  Wo (Wv y_t + bv) + bo        =  C z_t + c          where y = gain * z + bias

Softmax ignores what is the same for all t, and its weights sum to 1, so that C and c can be applied
to the weighted mean. No key and no value is ever computed. A and C leave the mean of what they are
given out, so `z` may be a row that was scaled, but not centred: see `Rows`.

Shape letters: B users, T history, H hidden, D width of a head.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from export.contract import ITEMS, NEW_STATE, STATE, USER_STATE
from export.onnx_graph.builder import GraphBuilder
from export.onnx_graph.item_table import Rows
from student.model import LOWEST, CausalBlock, GRUEncoder, Student, TransformerEncoder

Weights = NDArray[np.float64]


def encode(graph: GraphBuilder, student: Student, rows: Rows) -> str:
    """Add a student's encoder and return the name of the state (B, H)."""
    encoder = student.encoder
    if isinstance(encoder, GRUEncoder):
        return _gru(graph, encoder, rows.embedded)
    assert isinstance(encoder, TransformerEncoder)
    return _transformer(graph, encoder, rows)


def weights(parameter: Tensor) -> Weights:
    """Return a parameter as float64: products of weights are rounded once, when they are stored."""
    return parameter.detach().double().numpy()


# --- GRU ------------------------------------------------------------------------------------------


def _gru(graph: GraphBuilder, encoder: GRUEncoder, embedded: str) -> str:
    """Add the GRU, and put out its layers' states; return the normed state (B, H)."""
    num_layers = encoder.gru.num_layers
    users = graph.node("Shape", embedded, start=0, end=1)
    one = graph.constant([1])
    shape = graph.node("Concat", one, users, one, axis=0)
    before = graph.node("Expand", STATE, shape)  # (layers, B, H)
    states, after = graph.node("Transpose", embedded, perm=[1, 0, 2]), []  # (T, B, H)
    for layer in range(num_layers):
        given, kept = gru_weights(encoder, layer)
        # A node's outputs are the states after each item, (T, 1, B, H), and the last, (1, B, H).
        states, last = graph.nodes_outputs(
            "GRU",
            states,
            graph.matrix(given),
            graph.matrix(kept),
            "",  # no bias
            "",  # all histories are of the same length, padding included
            before if num_layers == 1 else graph.node("Gather", before, graph.constant([layer])),
            outputs=("", NEW_STATE if num_layers == 1 else ""),
            hidden_size=encoder.gru.hidden_size,
            linear_before_reset=1,
        )
        after.append(last)
        if layer + 1 < num_layers:
            states = graph.node("Squeeze", states, graph.constant([1]))
    if num_layers > 1:
        graph.node("Concat", *after, axis=0, output=NEW_STATE)
    return _norm(graph, graph.node("Squeeze", last, graph.constant([0])), encoder.norm, USER_STATE)


def gru_weights(encoder: GRUEncoder, layer: int) -> tuple[Weights, Weights]:
    """Return a layer's weights as ONNX wants them, for its input and its state: (1, 3H, H) each.

    ONNX has the update gate first. The scale of the encoder's input is in the first layer's.
    """
    matrices = []
    for name in ("ih", "hh"):
        matrix = weights(getattr(encoder.gru, f"weight_{name}_l{layer}"))
        reset, update, new = np.split(matrix, 3)
        matrices.append(np.concatenate([update, reset, new])[None])
    given, kept = matrices
    return (given * encoder.input_scale if layer == 0 else given), kept


def _norm(graph: GraphBuilder, inputs: str, norm: nn.LayerNorm, output: str = "") -> str:
    return graph.norm(inputs, weights(norm.weight), weights(norm.bias), output)


def _linear(graph: GraphBuilder, inputs: str, layer: nn.Linear) -> str:
    return graph.linear(inputs, weights(layer.weight), weights(layer.bias))


# --- Transformer ----------------------------------------------------------------------------------


def _transformer(graph: GraphBuilder, encoder: TransformerEncoder, rows: Rows) -> str:
    """Add the Transformer: whole blocks, then the last one for the newest position alone."""
    *whole, final = [block for block in encoder.blocks if isinstance(block, CausalBlock)]
    hidden, scaled, last = rows.embedded, rows.scaled, rows.last
    masks = _Masks(graph)
    for block in whole:
        hidden = _whole_block(graph, block, hidden, masks)
    if whole:
        last = graph.node("Gather", hidden, graph.constant(-1), axis=1)
        width = final.attention_norm.normalized_shape[0]
        scaled = graph.norm(hidden, np.ones(width), np.zeros(width))
    attended = _attend_from_last(graph, final, scaled, masks)
    hidden = _feed_forward(graph, final, graph.node("Add", attended, last))
    return _norm(graph, hidden, encoder.norm, USER_STATE)


class _Masks:
    """What is added to attention: LOWEST for padding, a bias for the distance."""

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph
        self.length = graph.node("Shape", ITEMS, start=1, end=2)  # (1,)
        padding = graph.node("Equal", ITEMS, graph.constant(0))
        self.padding = graph.node("Unsqueeze", padding, graph.constant([1]))  # (B, 1, T)

    def of_last(self, block: CausalBlock) -> str:
        """Return what is added for the newest position: (B, heads, T)."""
        # The column of distance d is d + 1, read backwards from column T to column 1.
        bias = np.pad(weights(block.distance_bias)[:, ::-1], ((0, 0), (1, 0)))
        ends = [self._graph.constant([value]) for value in (0, 1, -1)]  # end, axis, step
        sliced = self._graph.node("Slice", self._graph.weights(bias), self.length, *ends)
        return self._graph.node("Where", self.padding, self._graph.weights(LOWEST), sliced)

    def of_all(self, block: CausalBlock) -> str:
        """Return what is added for every position: (B, heads, T, T)."""
        size = block.max_len
        distance = np.arange(size)[:, None] - np.arange(size)
        bias = weights(block.distance_bias)[:, (size - 1 - distance).clip(max=size - 1)]
        bias[:, distance < 0] = LOWEST
        start = self._graph.constant([0])
        sliced = self._graph.weights(bias)
        for axis in (1, 2):
            sliced = self._graph.node(
                "Slice", sliced, start, self.length, self._graph.constant([axis])
            )
        padding = self._graph.node("Unsqueeze", self.padding, self._graph.constant([1]))
        return self._graph.node("Where", padding, self._graph.weights(LOWEST), sliced)


def _attend_from_last(graph: GraphBuilder, block: CausalBlock, scaled: str, masks: _Masks) -> str:
    """Add attention from the newest position: (B, T, H) to (B, H)."""
    heads, dim = block.num_heads, block.num_heads * block.head_dim
    gain, bias = weights(block.attention_norm.weight), weights(block.attention_norm.bias)
    centred = gain[:, None] * (np.eye(dim) - 1 / dim)
    query = weights(block.query.weight).reshape(heads, -1, dim)  # (heads, D, H), as the next two
    query_bias = weights(block.query.bias).reshape(heads, -1) + query @ bias
    both = weights(block.key_value.weight).reshape(heads, 2, -1, dim)
    key, value = both[:, 0] * block.head_dim**-0.5, both[:, 1]
    value_bias = weights(block.key_value.bias).reshape(heads, 2, -1)[:, 1] + value @ bias
    out = weights(block.attention_out.weight).reshape(dim, heads, -1)

    keys = key @ centred  # (heads, D, H)
    probe = np.einsum("hdk,hdq->hkq", keys, query @ centred).reshape(heads * dim, dim)
    probe_bias = np.einsum("hdk,hd->hk", keys, query_bias).reshape(-1)
    last = graph.node("Gather", scaled, graph.constant(-1), axis=1)
    probes = graph.linear(last, probe, probe_bias)  # (B, heads * H)
    probes = graph.node("Reshape", probes, graph.constant([-1, heads, dim]))
    logits = graph.node("MatMul", probes, graph.node("Transpose", scaled, perm=[0, 2, 1]))
    logits = graph.node("Add", logits, masks.of_last(block))  # (B, heads, T)
    means = graph.node("MatMul", graph.node("Softmax", logits, axis=-1), scaled)
    means = graph.node("Reshape", means, graph.constant([-1, heads * dim]))
    mixed = np.einsum("ohd,hdk->ohk", out, value @ centred).reshape(dim, heads * dim)
    mixed_bias = np.einsum("ohd,hd->o", out, value_bias) + weights(block.attention_out.bias)
    return graph.linear(means, mixed, mixed_bias)


def _whole_block(graph: GraphBuilder, block: CausalBlock, hidden: str, masks: _Masks) -> str:
    """Add a block for all positions: (B, T, H) to (B, T, H)."""
    heads, dim = block.num_heads, block.num_heads * block.head_dim
    normed = _norm(graph, hidden, block.attention_norm)
    both = weights(block.key_value.weight).reshape(heads, 2, -1, dim)
    both_bias = weights(block.key_value.bias).reshape(heads, 2, -1)
    scale = block.head_dim**-0.5

    def split(matrix: Weights, bias: Weights, order: list[int]) -> str:
        flat = graph.linear(normed, matrix.reshape(dim, dim), bias.reshape(dim))
        shape = graph.constant([0, 0, heads, block.head_dim])
        return graph.node("Transpose", graph.node("Reshape", flat, shape), perm=order)

    query, query_bias = (weights(part) * scale for part in (block.query.weight, block.query.bias))
    queries = split(query, query_bias, [0, 2, 1, 3])
    keys = split(both[:, 0], both_bias[:, 0], [0, 2, 3, 1])
    values = split(both[:, 1], both_bias[:, 1], [0, 2, 1, 3])
    logits = graph.node("Add", graph.node("MatMul", queries, keys), masks.of_all(block))
    attended = graph.node("MatMul", graph.node("Softmax", logits, axis=-1), values)
    attended = graph.node("Transpose", attended, perm=[0, 2, 1, 3])
    attended = graph.node("Reshape", attended, graph.constant([0, 0, dim]))
    out = _linear(graph, attended, block.attention_out)
    return _feed_forward(graph, block, graph.node("Add", out, hidden))


def _feed_forward(graph: GraphBuilder, block: CausalBlock, hidden: str) -> str:
    """Add a block's second half, its residual included: (..., H) to (..., H)."""
    normed = _norm(graph, hidden, block.feed_forward_norm)
    inner = graph.node("Gelu", _linear(graph, normed, block.up))
    return graph.node("Add", _linear(graph, inner, block.down), hidden)
