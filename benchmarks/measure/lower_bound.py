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

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seqrec.data import IntArray

import numpy as np

from benchmarks.measure.flags import TimingFlags
from benchmarks.measure.queries import Answer
from benchmarks.measure.systems import System
from benchmarks.measure.timing import Requests, latency_of, measure_latency
from benchmarks.report.schema import Identity, LowerBound
from export.contract import OUTPUT_NAMES
from export.recommender import open_session

DEFINITION = "parameters read once + each score looked at once, less NumPy's own calls"
LEAST_MS = 1e-4  # of each part: a tenth of a microsecond is the least that differences tell
BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "f16": 2, "int8": 1}
ONE_ELEMENT = 4  # bytes
IDLE = "idle call"


class ReferenceCall(System):
    """Any call that is timed like a system's."""

    def __init__(self, name: str, call: Callable[[IntArray, IntArray, IntArray], Any]) -> None:
        self.identity = Identity(system=name, precision="", family="")
        self.call = call

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Make the call that is timed."""
        answer: Answer = self.call(items, excluded, k)
        return answer


def time_beside_bound(
    systems: Sequence[System],
    requests: Requests,
    num_bytes: Sequence[int | None],
    num_items: int,
    flags: TimingFlags,
) -> list[dict[str, Any]]:
    """Time systems, and in turns with them what their lower bounds are made of.

    Args:
        systems: over one catalogue.
        requests: those of each system, as of `measure_latency`.
        num_bytes: of each system's parameters; None: it has no lower bound.
        num_items: of the catalogue.
        flags: how calls are timed.

    Returns:
        Of each system the fields `latency_ms`, `num_timed_calls` and, where they apply,
        `lower_bound_ms`, `ratio_to_lower_bound` and `idle_call_ms` of its row.
    """
    sizes = {ONE_ELEMENT} | {size for size in num_bytes if size is not None}
    references = [reader(size) for size in sorted(sizes)]
    references += [one_look(size) for size in sorted({1, num_items})] + [idle(flags.num_threads)]
    asked = [*requests, *[requests[0]] * len(references)]
    timings = measure_latency([*systems, *references], asked, flags)
    latencies = list(map(latency_of, timings))
    p50_ms = {
        reference.identity.system: latency.p50
        for reference, latency in zip(references, latencies[len(systems) :], strict=True)
    }
    rows = []
    for system, size, latency, timing in zip(systems, num_bytes, latencies, timings, strict=False):
        row: dict[str, Any] = {"latency_ms": latency, "num_timed_calls": len(timing)}
        if size is not None:
            row["lower_bound_ms"] = bound = lower_bound(p50_ms, size, num_items)
            row["ratio_to_lower_bound"] = latency.p50 / bound.total
        if system.runs_on_onnxruntime:
            row["idle_call_ms"] = p50_ms[IDLE]
        rows.append(row)
    return rows


def lower_bound(p50_ms: Mapping[str, float], num_bytes: int, num_items: int) -> LowerBound:
    """Return the lower bound of a system with parameters of so many bytes.

    `p50_ms` are the medians of the reference calls, by name.
    """
    read = p50_ms[f"read {num_bytes}"] - p50_ms[f"read {ONE_ELEMENT}"]
    top_k = p50_ms[f"look {num_items}"] - p50_ms["look 1"]
    return LowerBound(read=max(read, LEAST_MS), top_k=max(top_k, LEAST_MS))


def reader(num_bytes: int) -> ReferenceCall:
    """Return what reads so many bytes as fast as it can: a dot product of two halves."""
    halves = np.ones((2, max(num_bytes // 8, 1)), dtype=np.float32)
    return ReferenceCall(f"read {num_bytes}", lambda *_: np.dot(halves[0], halves[1]))


def one_look(num_scores: int) -> ReferenceCall:
    """Return what looks once at each of so many scores, as any top-k has to."""
    scores = np.random.default_rng(0).normal(size=num_scores).astype(np.float32)
    return ReferenceCall(f"look {num_scores}", lambda *_: scores.max())


def idle(num_threads: int) -> ReferenceCall:
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

    return ReferenceCall(IDLE, call)
