"""What no system on one core of this machine can beat: weights read once, scores looked at once.

The limit is a lower bound, of two parts, each what NumPy needs for it on one core:

    read     the bytes of the parameters, once: a dot product of their two halves
    top_k    the greatest of a catalogue's scores: whoever ranks looks at each of them

What NumPy takes for a call of its own, of one element, is taken off, and with it the clock's share:
nobody has to pay it. It would be half to two thirds of a small limit. The bytes are those of the
parameters, not of a file, which holds nodes and names, too. Not in the bound, although someone has
to do it: the encoder's arithmetic, and all that a runtime or a language takes for a call.

These calls are timed like those of the systems and in alternation with them, so that a slow moment
of the machine slows both.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.data import IntArray

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks.baselines.system import PeerRunner
from benchmarks.measure.systems import Answer, OnnxRunner, Runner
from export.graph import INPUTS, OUTPUTS
from export.nodes import IR_VERSION, OPSET
from export.recommender import OUTPUT_NAMES, open_session

DEFINITION = "parameters read once + each score looked at once, less NumPy's own calls"
LEAST_MS = 1e-4  # of each part: a tenth of a microsecond is the least that differences tell
BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "f16": 2, "int8": 1, "int8-optimum": 1}
ONE_ELEMENT = 4  # bytes


@dataclass(frozen=True)
class Timed:
    """Anything that is timed: what `benchmarks.measure.timing.measure_latency` asks of a runner."""

    system: str
    precision: str
    call: Callable[[IntArray, IntArray, IntArray], Any]
    size_mib: float = 0.0
    num_parameters: int = 0
    max_len: int = 1

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Make the call that is timed."""
        answer: Answer = self.call(items, excluded, k)
        return answer


def reader(num_bytes: int) -> Timed:
    """Return what reads so many bytes as fast as it can: a dot product of two halves."""
    halves = np.ones((2, max(num_bytes // 8, 1)), dtype=np.float32)
    return Timed(f"read {num_bytes}", "", lambda *_: np.dot(halves[0], halves[1]))


def one_look(num_scores: int) -> Timed:
    """Return what looks once at each of so many scores, as any top-k has to."""
    scores = np.random.default_rng(0).normal(size=num_scores).astype(np.float32)
    return Timed(f"look {num_scores}", "", lambda *_: scores.max())


def limit_calls(all_bytes: Iterable[int], num_items: int) -> list[Timed]:
    """Return what is timed so that `limit_ms` knows the limits of systems over one catalogue."""
    readers = [reader(num_bytes) for num_bytes in sorted({ONE_ELEMENT, *all_bytes})]
    return [*readers, *map(one_look, sorted({1, num_items}))]


def limit_ms(p50_ms: Mapping[str, float], num_bytes: int, num_items: int) -> dict[str, float]:
    """Return the limit of a system in its two parts, `read` and `top_k`.

    Args:
        p50_ms: what each of `limit_calls` took, by its name.
        num_bytes: of its parameters.
        num_items: of the catalogue.

    >>> calls = {"read 4": 0.001, "read 8000": 0.003, "look 1": 0.002, "look 50": 0.002}
    >>> limit_ms(calls, 8000, 50)
    {'read': 0.002, 'top_k': 0.0001}
    """
    parts = {
        "read": p50_ms[f"read {num_bytes}"] - p50_ms[f"read {ONE_ELEMENT}"],
        "top_k": p50_ms[f"look {num_items}"] - p50_ms["look 1"],
    }
    return {name: max(value, LEAST_MS) for name, value in parts.items()}


def parameter_bytes(runner: Runner | PeerRunner) -> int:
    """Return how many bytes the parameters of a system take: what an answer reads at least.

    They are counted in an ONNX file; another library's are so many, in the precision that it
    computes in. Of any other system it is `parameter_bytes`, if it tells that, or its size.
    """
    if isinstance(runner, OnnxRunner):
        return onnx_bytes(runner.folder / "model.onnx")
    if isinstance(runner, PeerRunner) and runner.precision in BYTES:
        return runner.num_parameters * BYTES[runner.precision]
    return int(getattr(runner, "parameter_bytes", round(runner.size_mib * 2**20)))


def onnx_bytes(file: Path) -> int:
    """Return how many bytes the numbers of an ONNX file's constants take, without whole numbers.

    Constants of int64 are shapes and axes, and no parameters.
    """
    graph = onnx.load(file).graph
    return sum(
        int(np.prod(tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in graph.initializer
        if tensor.data_type != TensorProto.INT64
    )


def idle(num_threads: int) -> Timed:
    """Return a call of ONNX Runtime that does nothing, with a student's inputs and outputs."""
    nodes = [
        helper.make_node("Concat", ["items", "excluded"], ["top_items"], axis=1),
        helper.make_node("Cast", ["k"], ["top_scores"], to=TensorProto.FLOAT),
    ]
    infos = [
        [helper.make_tensor_value_info(name, kind, None) for name, (kind, _) in given.items()]
        for given in (INPUTS, OUTPUTS)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "idle", *infos),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    return Timed("call", "", whole_call(open_session(model.SerializeToString(), num_threads)))


def whole_call(session: ort.InferenceSession) -> Callable[..., Any]:
    """Return the call of a student's graph for a whole history."""

    def call(items: IntArray, excluded: IntArray, k: IntArray) -> Any:
        return session.run(OUTPUT_NAMES, {"items": items, "excluded": excluded, "k": k})

    return call
