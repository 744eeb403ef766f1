"""Where the time of an ONNX file goes."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure.queries import Request
from export.recommender import OUTPUT_NAMES

NUM_PROFILED = 50
NUM_OPERATORS = 4  # that are named


def profile(path: Path, requests: Sequence[Request], num_threads: int) -> list[tuple[str, float]]:
    """Return the operators of a file that take most time, each with its fraction of all's.

    ONNX Runtime's profiler writes a line for every node and call, which itself takes microseconds:
    a node's time counts less the fastest node's. Of a branch its nodes count, not the `If`.
    """
    import onnxruntime as ort  # by now after `seqrec`, which turns its telemetry off

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = num_threads, 3
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for request in list(requests)[:NUM_PROFILED]:
            feeds = {"items": request.items, "excluded": request.excluded, "k": request.k}
            session.run(OUTPUT_NAMES, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: dict[tuple[str, str], list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["args"]["op_name"], event["name"])
            if key[0] != "If":
                durations.setdefault(key, []).append(event["dur"])
    medians = {key: float(np.median(values)) for key, values in durations.items()}
    least = min(medians.values())
    times: dict[str, float] = {}
    for (operator, _), value in medians.items():
        times[operator] = times.get(operator, 0.0) + value - least
    total = sum(times.values()) or 1.0
    ordered = sorted(times.items(), key=lambda pair: -pair[1])[:NUM_OPERATORS]
    return [(operator, value / total) for operator, value in ordered]
