"""Building blocks of the graphs: nodes, constants, and matrices in 8 bit.

An 8-bit matrix holds, for row n, a scale and levels from -127 to 127: the row is `scale * levels`.
Scales are the rows' own, so that rows of different size lose alike.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 10
TOP_LEVEL = 127
EIGHT_BIT = (TensorProto.INT8, TensorProto.UINT8)
EPSILON = 1e-5  # of all norms: the default of `torch.nn.LayerNorm`

Precision = Literal["fp32", "int8"]
FloatArray = NDArray[np.float32]


def quantize_rows(matrix: NDArray[np.floating]) -> tuple[NDArray[np.int8], FloatArray]:
    """Round a matrix (..., K) to 8 bit, each row by its own largest value.

    Returns:
        Levels int8 (..., K), from -127 to 127, and scales float32 (..., 1). Of a row of zeros the
        scale is 1.

    >>> levels, scales = quantize_rows(np.array([[1.27, -0.5], [0.0, 0.0]]))
    >>> levels.tolist(), scales.round(4).tolist()
    ([[127, -50], [0, 0]], [[0.01], [1.0]])
    """
    largest = np.abs(matrix).max(axis=-1, keepdims=True)
    scales = np.where(largest > 0, largest / TOP_LEVEL, 1.0).astype(np.float32)
    return np.rint(matrix / scales).clip(-TOP_LEVEL, TOP_LEVEL).astype(np.int8), scales


@dataclass
class GraphBuilder:
    """Collects nodes and constants, and names what they put out.

    Attributes:
        precision: in what matrices are stored.
        prefix: of all names that are made up, where nodes are added to a graph that has some.
    """

    precision: Precision
    prefix: str = field(default="", kw_only=True)
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, value: Any, dtype: Any = None, name: str = "") -> str:
        """Add a constant and return its name."""
        name = name or f"{self.prefix}constant_{len(self.constants)}"
        array = np.asarray(value, dtype=dtype, order="C")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weights(self, value: Any) -> str:
        """Add a float32 constant and return its name."""
        return self.constant(value, np.float32)

    def matrix(self, matrix: NDArray[np.floating], *, transposed: bool = False) -> str:
        """Add a matrix (..., K) in the graph's precision, and return its name as float32.

        In 8 bit the file is smaller, but not the work: ONNX Runtime restores the matrix when it
        loads the file. To multiply small matrices in 8 bit gains no time.

        Args:
            matrix: rows have a scale each.
            transposed: put it out as (..., K, N).
        """
        flip = (lambda array: np.swapaxes(array, -1, -2)) if transposed else (lambda array: array)
        if self.precision == "fp32":
            return self.weights(flip(matrix))
        levels, scales = quantize_rows(matrix)
        restored = self.node("Cast", self.constant(flip(levels)), to=TensorProto.FLOAT)
        return self.node("Mul", restored, self.constant(flip(scales)))

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return the output's name; "": one made for it."""
        return self.nodes_outputs(operator, *inputs, outputs=(output,), **attributes)[0]

    def nodes_outputs(
        self, operator: str, *inputs: str, outputs: tuple[str, ...], **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs, and return their names; "": one made for it."""
        number = len(self.nodes)
        made = [
            f"{self.prefix}{operator.lower()}_{number}_{index}" for index in range(len(outputs))
        ]
        names = [name or default for name, default in zip(outputs, made, strict=True)]
        self.nodes.append(
            helper.make_node(
                operator, inputs, names, name=f"{self.prefix}{operator}_{number}", **attributes
            )
        )
        return names

    def linear(self, inputs: str, matrix: NDArray[np.floating], bias: Any) -> str:
        """Multiply (..., K) by a matrix (N, K), transposed, and add a bias (N,): (..., N)."""
        product = self.node("MatMul", inputs, self.matrix(matrix, transposed=True))
        return self.node("Add", product, self.weights(bias))

    def norm(self, inputs: str, gain: Any, bias: Any, output: str = "") -> str:
        """Normalise the last axis."""
        return self.node(
            "LayerNormalization",
            inputs,
            self.weights(gain),
            self.weights(bias),
            output=output,
            axis=-1,
            epsilon=EPSILON,
        )

    def model(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> ModelProto:
        """Return the model; inputs and outputs are given as name: (type, shape)."""
        infos = [
            [
                helper.make_tensor_value_info(name, *type_and_shape)
                for name, type_and_shape in given.items()
            ]
            for given in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "recommender", *infos, initializer=self.constants)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def eight_bit_share(model: ModelProto) -> float:
    """Return the share of a file's weights that are held in 8 bit."""
    sizes = [
        (tensor.data_type in EIGHT_BIT, int(np.prod(tensor.dims)))
        for tensor in model.graph.initializer
    ]
    return sum(size for eight_bit, size in sizes if eight_bit) / sum(size for _, size in sizes)
