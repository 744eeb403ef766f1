"""What no system on one core of this machine can beat: weights read once, scores scanned once.

The lower bound has two parts, each what NumPy needs for it on one core:

    read     the bytes of the parameters, once: a dot product of their two halves
    top_k    the greatest of a catalogue's scores: whoever ranks looks at each of them

What NumPy takes for a call of its own, of one element, is taken off, and with it the clock's part:
nobody has to pay it. It would be half to two thirds of a small bound. The bytes are those of the
parameters, not of a file, which holds nodes and names, too. Not in the bound, although someone has
to do it: the encoder's arithmetic, and all that a runtime or a language takes for a call.

These calls are timed like those of the systems and in turns with them, so that a slow moment of the
machine slows both.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqrec.data import IntArray

import numpy as np

from benchmarks.measure.queries import Answer
from benchmarks.measure.systems import System
from benchmarks.measure.timing import Timing
from benchmarks.report.schema import Identity, Latency, LowerBound
from export.recommender import OUTPUT_NAMES, open_session

if TYPE_CHECKING:
    pass

DEFINITION = "parameters read once + each score looked at once, less NumPy's own calls"
LEAST_MS = 1e-4  # of each part: a tenth of a microsecond is the least that differences tell
BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "f16": 2, "int8": 1}
ONE_ELEMENT = 4  # bytes
IDLE = "idle call"


class TimedCall(System):
    """Any call that is timed like a system's."""

    def __init__(self, name: str, call: Callable[[IntArray, IntArray, IntArray], Any]) -> None:
        self.identity = Identity(system=name, precision="", family="")
        self.call = call

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Make the call that is timed."""
        answer: Answer = self.call(items, excluded, k)
        return answer


@dataclass(frozen=True)
class Bounds:
    """What was timed in turns with the systems."""

    p50_ms: Mapping[str, float]  # of each of `reference_calls`, by name

    def lower_bound(self, num_bytes: int, num_items: int) -> LowerBound:
        """Return the lower bound of a system with parameters of so many bytes."""
        read = self.p50_ms[f"read {num_bytes}"] - self.p50_ms[f"read {ONE_ELEMENT}"]
        top_k = self.p50_ms[f"look {num_items}"] - self.p50_ms["look 1"]
        return LowerBound(read=max(read, LEAST_MS), top_k=max(top_k, LEAST_MS))

    @property
    def idle_call_ms(self) -> float:
        """A call of ONNX Runtime that does nothing."""
        return self.p50_ms[IDLE]


def reference_calls(all_bytes: Iterable[int], num_items: int, num_threads: int) -> list[TimedCall]:
    """Return what is timed so that `Bounds` knows those of systems over one catalogue."""
    readers = [reader(num_bytes) for num_bytes in sorted({ONE_ELEMENT, *all_bytes})]
    return [*readers, *map(one_look, sorted({1, num_items})), idle(num_threads)]


def bounds_of(calls: Sequence[TimedCall], timings: Sequence[Timing]) -> Bounds:
    """Return what the reference calls tell."""
    pairs = zip(calls, timings, strict=True)
    return Bounds({call.identity.system: timing.summary().p50 for call, timing in pairs})


def ratio(latency: Latency, bound: LowerBound) -> float:
    """Return p50 over the lower bound."""
    return latency.p50 / bound.total


def reader(num_bytes: int) -> TimedCall:
    """Return what reads so many bytes as fast as it can: a dot product of two halves."""
    halves = np.ones((2, max(num_bytes // 8, 1)), dtype=np.float32)
    return TimedCall(f"read {num_bytes}", lambda *_: np.dot(halves[0], halves[1]))


def one_look(num_scores: int) -> TimedCall:
    """Return what looks once at each of so many scores, as any top-k has to."""
    scores = np.random.default_rng(0).normal(size=num_scores).astype(np.float32)
    return TimedCall(f"look {num_scores}", lambda *_: scores.max())


def idle(num_threads: int) -> TimedCall:
    """Return a call of ONNX Runtime that does nothing, with a student's inputs and outputs."""
    from onnx import TensorProto, helper

    from export.onnx_graph.builder import IR_VERSION, OPSET
    from export.onnx_graph.graph import INPUTS, OUTPUTS

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
    session = open_session(model.SerializeToString(), num_threads)

    def call(items: IntArray, excluded: IntArray, k: IntArray) -> Any:
        return session.run(OUTPUT_NAMES, {"items": items, "excluded": excluded, "k": k})

    return TimedCall(IDLE, call)
