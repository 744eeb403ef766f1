"""Latency over catalogue sizes: `python -m benchmarks.latency --catalogue-sizes 1700 10000 50000`.

Speed does not depend on what the weights are, so students of random weights are exported and timed;
the rows say so. Beside each time stands its limit on this machine: to read the item table once and
to look at each score once (see `measure.lower_bound`), in alternation with the students, as
is a call of ONNX Runtime that does nothing. A profile says where the rest goes. Writes
`catalogue.json` and `catalogue.png`, the chart of growth; schema "seqrec-catalogue/2":

    schema, config, environment, limit     as in `benchmark.json`, see `benchmarks.latency`
    rows            a list, one object per size, student and precision:
      num_items
      system        "transformer", "gru", "gru, one new event" (the state before it is given); with
                    --peers also RePlay's and RecBole's models, which time themselves in processes
                    of their own (implicit and RecTools make no model without events)
      precision     as in `benchmark.json`
      weights       "random"
      latency_ms    as in `benchmark.json`, without cpu: a history of `history_length` items, all of
                    them left out of the top 10
      num_timed_calls
      size_mib      of the file
      limit_ms      read (the table), top_k (one pass over the scores), less NumPy's own calls
      over_limit    latency_ms.p50 over the sum of these
      idle_call_ms  of a graph that does nothing, ONNX files only
      profile       the operators that take most, as [operator, share of all operators' time]; ONNX
                    files only
    failed          with --peers: num_items, system, precision, reason
"""

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqrec.data import IntArray

import numpy as np
import onnxruntime as ort
import torch
from tabulate import tabulate

from benchmarks.baselines.libraries import Peer
from benchmarks.baselines.opening import open_untrained_peers
from benchmarks.baselines.system import PeerRunner
from benchmarks.measure.lower_bound import (
    BYTES,
    DEFINITION,
    Timed,
    idle,
    limit_calls,
    limit_ms,
    whole_call,
)
from benchmarks.measure.systems import Request
from benchmarks.measure.timing import TIMED_K, measure_latency
from benchmarks.report.tables import busy_note, describe_machine, latency_cells, limit_note
from export.graph import write_graph
from export.quantize import quantize
from export.recommender import OUTPUT_NAMES, open_session
from student.model import Arch, Student, StudentConfig

logger = logging.getLogger(__name__)

SCHEMA = "seqrec-catalogue/2"
WIDTH = StudentConfig.hidden_dim
HISTORY_LENGTH = 50
NUM_REQUESTS = 64
NUM_PROFILED = 50
NUM_OPERATORS = 4  # that a profile names


def measure_catalogues(
    sizes: Sequence[int],
    *,
    num_threads: int,
    num_calls: int,
    budget_s: float,
    seed: int,
    peers: Sequence[Peer] = (),
) -> dict[str, Any]:
    """Time students of all sizes; return the content of `catalogue.json` but for `config`."""
    environment = describe_machine(num_threads)
    rows, failed = [], []
    for num_items in sizes:
        logger.info("%s items", f"{num_items:,}")
        with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
            folder = Path(temporary)
            runners, failures = open_untrained_peers(
                peers,
                num_items,
                folder,
                width=WIDTH,
                seed=seed,
                num_threads=num_threads,
                stack=stack,
            )
            failed += [{"num_items": num_items, **asdict(failure)} for failure in failures]
            rows += _measure(num_items, folder, runners, num_threads, num_calls, budget_s, seed)
    found = {"schema": SCHEMA, "environment": environment, "limit": DEFINITION, "rows": rows}
    return found | ({"failed": failed} if peers else {})


def _measure(
    num_items: int,
    folder: Path,
    peers: Sequence[PeerRunner],
    num_threads: int,
    num_calls: int,
    budget_s: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the rows of one catalogue size."""
    rng = np.random.default_rng(seed)
    requests = [
        Request(items, items, np.array([min(TIMED_K, num_items)]))
        for items in rng.integers(1, num_items + 1, (NUM_REQUESTS, 1, HISTORY_LENGTH))
    ]
    students, files = _students(num_items, folder, num_threads, requests[0], seed)
    timed: list[Timed | PeerRunner] = [*students, *peers]
    tables = [num_items * WIDTH * BYTES[runner.precision] for runner in timed]
    limits = [*limit_calls(tables, num_items), idle(num_threads)]
    everything = [*timed, *limits]
    measured = measure_latency(
        everything, [requests] * len(everything), num_calls=num_calls, budget_s=budget_s
    )
    found = [timing.summary() for timing in measured]
    p50 = {runner.system: value["p50"] for runner, value in zip(everything, found, strict=True)}
    rows = []
    for place, runner in enumerate(timed):
        own = limit_ms(p50, tables[place], num_items)
        latency_ms = {key: value for key, value in found[place].items() if key != "cpu"}
        is_ours = not isinstance(runner, PeerRunner)
        rows.append(
            {
                "num_items": num_items,
                "system": runner.system,
                "precision": runner.precision,
                "weights": "random",
                "history_length": 1 if "event" in runner.system else HISTORY_LENGTH,
                "latency_ms": latency_ms,
                "num_timed_calls": len(measured[place].durations_ns),
                "size_mib": runner.size_mib,
                "limit_ms": own,
                "over_limit": latency_ms["p50"] / sum(own.values()),
                **({"idle_call_ms": p50["call"]} if is_ours else {}),
                "profile": (
                    profile(files[place], requests, num_threads, folder)
                    if place < len(files)
                    else []
                ),
            }
        )
    return rows


def _students(
    num_items: int, folder: Path, num_threads: int, request: Request, seed: int
) -> tuple[list[Timed], list[Path]]:
    """Export students of random weights; return what is timed, and its files."""
    timed, files = [], []
    for arch in ("transformer", "gru"):
        student = random_student(arch, num_items, seed)
        for precision in ("fp32", "int8", "int8-optimum"):
            path = folder / f"{arch}-{precision}.onnx"
            if precision == "int8-optimum":
                quantize(folder / f"{arch}-fp32.onnx", path)
            else:
                write_graph(student, path, precision)  # type: ignore[arg-type]
            session = open_session(path, num_threads)
            size = path.stat().st_size / 2**20
            timed.append(Timed(arch, precision, whole_call(session), size))
            files.append(path)
            if arch == "gru" and precision == "int8":
                step = _step(session, request)
                timed.append(Timed("gru, one new event", precision, step, size))
                files.append(path)
    return timed, files


def random_student(arch: Arch, num_items: int, seed: int) -> Student:
    """Return a student of the default shape whose weights were drawn by chance."""
    torch.manual_seed(seed)
    return Student(StudentConfig(arch=arch, num_items=num_items)).eval()


def _step(session: ort.InferenceSession, request: Request) -> Callable[..., Any]:
    """Return the call for a history's newest item, the state of those before it given."""
    feeds = {"items": request.items[:, :-1], "excluded": request.excluded, "k": request.k}
    (state,) = session.run(["new_state"], feeds)
    wanted = [*OUTPUT_NAMES, "new_state"]

    def call(items: IntArray, excluded: IntArray, k: IntArray) -> Any:
        newest = {"items": items[:, -1:], "excluded": excluded, "k": k, "state": state}
        return session.run(wanted, newest)

    return call


def profile(
    path: Path, requests: Sequence[Request], num_threads: int, folder: Path
) -> list[tuple[str, float]]:
    """Return the operators of a file that take most time, with their shares of all operators'.

    ONNX Runtime's profiler writes a line for every node and call, which itself takes microseconds:
    a node's time counts less the fastest node's.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = num_threads, 3
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for request in list(requests)[:NUM_PROFILED]:
        whole_call(session)(request.items, request.excluded, request.k)
    durations: dict[tuple[str, str], list[int]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["args"]["op_name"], event["name"])
            durations.setdefault(key, []).append(event["dur"])
    medians = {key: float(np.median(values)) for key, values in durations.items()}
    least = min(medians.values())
    shares: dict[str, float] = {}
    for (operator, _), value in medians.items():
        shares[operator] = shares.get(operator, 0.0) + value - least
    total = sum(shares.values()) or 1.0
    ordered = sorted(shares.items(), key=lambda pair: -pair[1])[:NUM_OPERATORS]
    return [(operator, value / total) for operator, value in ordered]


HEADERS = ["items", "system", "precision", "p50 ms", "p95 ms", "p99 ms", "MiB"]
HEADERS += ["limit ms: read + top-k", "over limit", "where the time goes"]


def table_cells(results: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the results' table, row by row; `HEADERS` are its headers."""
    return [
        [
            f"{row['num_items']:,}",
            row["system"],
            row["precision"],
            *latency_cells(row),
            f"{row['size_mib']:.2f}",
            " + ".join(f"{row['limit_ms'][part]:.3f}" for part in ("read", "top_k")),
            f"{row['over_limit']:.1f}",
            ", ".join(f"{operator} {share:.0%}" for operator, share in row["profile"]),
        ]
        for row in results["rows"]
    ]


def describe(results: dict[str, Any]) -> str:
    """Return in a sentence what the table shows."""
    machine = results["environment"]
    idle = max(row.get("idle_call_ms", 0.0) for row in results["rows"])
    sentences = [
        f"Random weights; one user per call, a history of {HISTORY_LENGTH}, all of it left out of "
        f"the top {TIMED_K}; {machine['num_threads']} thread(s), {machine['cpu']}, "
        f"{machine['num_cores']} cores. A call of ONNX Runtime that does nothing takes "
        f"{idle:.3f} ms here.",
        limit_note(results),
        busy_note(machine),
    ]
    return " ".join(filter(None, sentences)).rstrip()


def format_catalogues(results: dict[str, Any]) -> str:
    """Return the results as a text table that ends in a newline."""
    align = ["right", "left", "left"] + ["right"] * 6 + ["left"]
    table = tabulate(table_cells(results), headers=HEADERS, disable_numparse=True, colalign=align)
    failed = "".join(
        f"{row['system']}, {row['num_items']:,} items, failed: {row['reason']}\n"
        for row in results.get("failed", [])
    )
    return f"{table}\n\n{describe(results)}\n{failed}"
