"""An fp32 graph to 8 bit, through Optimum's `ORTQuantizer` (dynamic quantization).

This is the usual way, and the benchmark's "int8-optimum" row; what is shipped holds its 8 bit as
`export.table` says. Here, too, one unsigned 8-bit item table is read by the lookup and, through a
`Transpose` that ONNX Runtime folds away, by the score product. But a matrix has one scale for all
its rows, small matrices are multiplied in 8 bit as well, and an activation's scale is taken over
the whole batch: a user's scores depend a little on who else is in it.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from seqrec.errors import ModelError

import numpy as np
import onnx
from onnx import ModelProto, TensorProto
from onnxruntime.quantization import QuantFormat, QuantizationMode, QuantType
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import QuantizationConfig

from export.table import restore_at_lookup

EIGHT_BIT = (TensorProto.INT8, TensorProto.UINT8)


def quantize(source: Path, path: Path) -> None:
    """Write an 8-bit version of an fp32 graph.

    Args:
        source: a file from `export.graph.write_graph`.
        path: the file to write.

    Raises:
        ModelError: the item table, or the product with it, is not 8-bit afterwards.
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


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Silence a library's warnings, info messages and prints while it works for us."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
