"""An fp32 graph to 8 bit, through Optimum's `ORTQuantizer` (dynamic quantization).

The usual way, and the benchmark's "int8-optimum" variant; what is shipped holds its 8 bit as
`export.onnx_graph.item_table` says. Here, too, one unsigned 8-bit item table is read by the lookup
and, through a `Transpose` that ONNX Runtime folds away, by the score product. But a matrix has one
scale for all its rows, small matrices are multiplied in 8 bit as well, and an activation's scale is
taken over the whole batch: a user's scores depend a little on who else is in it.
"""

import tempfile
from pathlib import Path

from seqrec.errors import ModelError

import onnx
from onnx import ModelProto
from onnxruntime.quantization import QuantFormat, QuantizationMode, QuantType
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import QuantizationConfig

from export.onnx_graph.builder import EIGHT_BIT
from export.onnx_graph.item_table import TABLE, restore_at_lookup
from export.quiet import quiet


def quantize(source: Path, path: Path) -> None:
    """Write an 8-bit version of an fp32 graph.

    Args:
        source: a file from `export.onnx_graph.graph.write_graph`.
        path: the file to write.

    Raises:
        ModelError: lookup and score product do not read one and the same 8-bit table afterwards.
    """
    model = onnx.load(source)
    restore_at_lookup(model)  # or what is worked out of the table at loading would be kept, too
    config = QuantizationConfig(
        is_static=False,
        format=QuantFormat.QOperator,
        mode=QuantizationMode.IntegerOps,
        activations_dtype=QuantType.QUInt8,
        weights_dtype=QuantType.QUInt8,
        per_channel=False,  # one scale for lookup and product: the two can share a table
        operators_to_quantize=["Gather", "Transpose", "MatMul", "Gemm"],
        nodes_to_exclude=_products_of_activations(model),
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        given = Path(folder) / "given.onnx"
        onnx.save(model, given)
        with quiet("optimum", "root"):  # it expects the files of a transformers model, and says so
            ORTQuantizer(given).quantize(config, folder, file_suffix="quantized")
        written = Path(folder) / f"{given.stem}_quantized.onnx"
        constants = onnx.load(written).graph.initializer
        tables = [held for held in constants if held.name.startswith(TABLE) and len(held.dims) == 2]
        if [table.data_type in EIGHT_BIT for table in tables] != [True]:
            raise ModelError("Optimum's graph does not hold its item table once and in 8 bit")
        written.replace(path)


def _products_of_activations(model: ModelProto) -> list[str]:
    """Name the matrix products without a weight: attention. To quantize them gains nothing."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in constants:
            constants.add(node.output[0])
    products = (node for node in model.graph.node if node.op_type == "MatMul")
    return [node.name for node in products if node.input[1] not in constants]
