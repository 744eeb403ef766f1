"""An fp32 graph to 8 bit, through Optimum's `ORTQuantizer` (dynamic quantization).

Weights become unsigned 8-bit numbers with one scale per tensor; activations are quantized while
the graph runs. The item table stays one table: the history lookup reads it as it is, and the score
product reads it through a `Transpose` that ONNX Runtime folds away when it loads the file. GRU
cells stay fp32, for which ONNX Runtime has no 8-bit operator.

Both sides of a product are unsigned: signed weights would be a little faster on some machines, but
on x86 without VNNI ONNX Runtime adds their products in 16 bits, which overflow.

An activation's scale is taken over the whole batch. In 8 bit, unlike in fp32, a user's scores
therefore depend a little on who else is in the batch.
"""

import tempfile
from pathlib import Path

from seqrec.errors import ModelError

import numpy as np
import onnx
from onnx import ModelProto, TensorProto
from onnxruntime.quantization import QuantFormat, QuantizationMode, QuantType
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import QuantizationConfig

from export.graph import quiet

EIGHT_BIT = (TensorProto.INT8, TensorProto.UINT8)


def quantize(source: Path, path: Path) -> None:
    """Write an 8-bit version of an fp32 graph.

    Args:
        source: a file from `export.graph.write_graph`.
        path: the file to write.

    Raises:
        ModelError: the item table, or the product with it, is not 8-bit afterwards.
    """
    config = QuantizationConfig(
        is_static=False,
        format=QuantFormat.QOperator,
        mode=QuantizationMode.IntegerOps,
        activations_dtype=QuantType.QUInt8,
        weights_dtype=QuantType.QUInt8,
        per_channel=False,  # one scale for lookup and product: the two can share a table
        operators_to_quantize=["Gather", "Transpose", "MatMul", "Gemm"],
        nodes_to_exclude=_products_of_activations(onnx.load(source)),
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        with quiet("optimum", "root"):  # it expects the files of a transformers model, and says so
            ORTQuantizer(source).quantize(config, folder, file_suffix="quantized")
        written = Path(folder) / f"{source.stem}_quantized.onnx"
        require_eight_bit(onnx.load(written))
        written.replace(path)


def _products_of_activations(model: ModelProto) -> list[str]:
    """Name the matrix products without a weight: attention. To quantize them gains nothing."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in constants:
            constants.add(node.output[0])
    products = (node for node in model.graph.node if node.op_type == "MatMul")
    return [node.name for node in products if node.input[1] not in constants]


def require_eight_bit(model: ModelProto) -> None:
    """Check that history lookup and score product both read one and the same 8-bit table.

    Raises:
        ModelError: they do not.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    transposed = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Transpose"}
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    multiplied = {node.input[1] for node in model.graph.node if node.op_type == "MatMulInteger"}
    tables = looked_up & {transposed.get(name, name) for name in multiplied}
    if not any(name in weights and weights[name].data_type in EIGHT_BIT for name in tables):
        raise ModelError(
            "the quantized graph holds no 8-bit item table that both lookup and scores read"
        )


def eight_bit_share(model: ModelProto) -> float:
    """Return the share of a file's weights that are held in 8 bit."""
    sizes = [
        (tensor.data_type in EIGHT_BIT, int(np.prod(tensor.dims)))
        for tensor in model.graph.initializer
    ]
    return sum(size for eight_bit, size in sizes if eight_bit) / sum(size for _, size in sizes)
