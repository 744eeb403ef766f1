"""What no system on one core of this machine can beat: weights read once, scores looked at once.

The limits are calls like those of the systems, timed in alternation with them, so that a slow
moment of the machine slows both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seqrec.data import IntArray

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks.runners import Answer
from export.graph import INPUTS, OUTPUTS
from export.nodes import IR_VERSION, OPSET
from export.recommender import OUTPUT_NAMES, open_session


@dataclass(frozen=True)
class Timed:
    """Anything that is timed: what `benchmarks.measure.measure_latency` asks of a runner."""

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


def one_look(num_items: int) -> Timed:
    """Return what looks once at each of a catalogue's scores, as any top-k has to."""
    scores = np.random.default_rng(0).normal(size=num_items + 1).astype(np.float32)
    return Timed("top_k", "", lambda *_: scores.max())


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
