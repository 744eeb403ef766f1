"""Which operators of an ONNX file take the time."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from benchmarks.measure.queries import Request
from export.contract import OUTPUT_NAMES

NUM_REQUESTS = 50
NUM_OPERATORS = 4  # that are named


def profile(file: Path, requests: Sequence[Request], num_threads: int) -> list[tuple[str, float]]:
    """Return the operators of a file that take most time, each with its fraction of all's.

    ONNX Runtime's profiler writes a line for every node and call, which itself takes microseconds:
    a node's time counts less the fastest node's. Of a branch its nodes count, not the `If`.
    """
    import onnxruntime as ort  # by now after `seqrec`, which turns its telemetry off

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = num_threads, 3
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for request in requests[:NUM_REQUESTS]:
            feeds = {"items": request.items, "excluded": request.excluded, "k": request.k}
            session.run(OUTPUT_NAMES, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    calls = [
        {"operator": event["args"]["op_name"], "node": event["name"], "us": event["dur"]}
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    operators = (
        pl.DataFrame(calls)
        .filter(pl.col("operator") != "If")
        .group_by("operator", "node")
        .agg(pl.col("us").median())
        .with_columns(pl.col("us") - pl.col("us").min())
        .group_by("operator")
        .agg(pl.col("us").sum())
        .with_columns((pl.col("us") / pl.max_horizontal(pl.col("us").sum(), 1e-9)).alias("part"))
        .sort("part", "operator", descending=[True, False])
    )
    return operators.select("operator", "part").head(NUM_OPERATORS).rows()
