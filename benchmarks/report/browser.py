"""Latency that was measured elsewhere: the web page's measure button, another machine's run.

The `benchmark.json` of another machine counts as a result for each of its rows; what is kept of one
are the fields below that it has. The button's schema is "seqrec-browser-latency/1", written by
`export/web/measure.js`:

    schema          "seqrec-browser-latency/1"
    measured_at     ISO 8601, UTC
    device          name (as its owner calls it), user_agent; hardware_concurrency and
                    device_memory_gib, null where the browser keeps them to itself
    runtime         name, version, backend, num_threads
    model           sha256, size_bytes, and of its config.json: arch, role, precision, dataset,
                    dataset_fingerprint, num_items, max_len
    k               answers per request
    histories       kind, min_len, max_len, num_histories, seed
    clock_resolution_ms       the smallest step of the browser's clock
    num_warm_up, num_requests
    calls_per_sample          how many calls were timed together, because the clock is too coarse
                              for one; the percentiles are then those of their means
    latency_ms      p50, p95, p99 of one request
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from seqrec.errors import DataError

from tabulate import tabulate

from benchmarks.report.regression import SCHEMA as BENCHMARK_SCHEMA
from benchmarks.report.tables import latency_cells

SCHEMA = "seqrec-browser-latency/1"
HEADING = "Measured elsewhere, in a browser (histories made by chance) or by this benchmark"
HEADERS = ["device", "system", "precision", "p50 ms", "p95 ms", "p99 ms", "requests", "runtime"]
MAX_TEXT = 400
MAX_BYTES = 1_000_000


def _is_text(value: Any) -> bool:
    """Whether a table can show it: a terminal obeys what is not printable."""
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


Check = tuple[Callable[[Any], bool], str]
TEXT: Check = (_is_text, f"printable text of at most {MAX_TEXT} characters")
COUNT: Check = (_is_count, "a whole number above 0")
DURATION: Check = (lambda value: _is_number(value) and value > 0, "a number above 0")
DIGEST: Check = (_is_sha256, "64 hexadecimal digits")
NUMBER_OR_NULL: Check = (
    lambda value: value is None or (_is_number(value) and value > 0),
    "a number above 0, or null",
)
TEXT_OR_NULL: Check = (lambda value: value is None or _is_text(value), f"{TEXT[1]}, or null")
FIELDS: dict[str, Check] = {
    "measured_at": TEXT,
    "device.name": TEXT,
    "device.user_agent": TEXT,
    "device.hardware_concurrency": NUMBER_OR_NULL,
    "device.device_memory_gib": NUMBER_OR_NULL,
    "runtime.name": TEXT,
    "runtime.version": TEXT,
    "runtime.backend": TEXT,
    "runtime.num_threads": COUNT,
    "model.sha256": DIGEST,
    "model.size_bytes": COUNT,
    "model.arch": TEXT,
    "model.role": TEXT_OR_NULL,
    "model.precision": TEXT,
    "model.dataset": TEXT,
    "model.dataset_fingerprint": TEXT,
    "model.num_items": COUNT,
    "model.max_len": COUNT,
    "k": COUNT,
    "histories.kind": TEXT,
    "histories.min_len": COUNT,
    "histories.max_len": COUNT,
    "histories.num_histories": COUNT,
    "histories.seed": COUNT,
    "clock_resolution_ms": DURATION,
    "num_warm_up": COUNT,
    "num_requests": COUNT,
    "calls_per_sample": COUNT,
    "latency_ms.p50": DURATION,
    "latency_ms.p95": DURATION,
    "latency_ms.p99": DURATION,
}
KEPT_OF_BENCHMARK = (
    *("device.name", "runtime.name", "runtime.version", "runtime.num_threads"),
    *("model.arch", "model.role", "model.precision", "model.dataset", "model.num_items"),
    *("model.dataset_fingerprint", "num_requests", "calls_per_sample"),
    *("latency_ms.p50", "latency_ms.p95", "latency_ms.p99"),
)
OF_BENCHMARK = {name: FIELDS[name] for name in KEPT_OF_BENCHMARK}
OF_BENCHMARK["latency_ms.p99"] = NUMBER_OR_NULL  # of few calls


def read_included(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Read results of the page's measure button, and of the benchmark elsewhere, in order.

    Raises:
        DataError: a file is not there, is none of these, or holds a value that cannot be.
    """
    return [result for file in files for result in _read(file)]


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        value = json.loads(text, parse_constant=_refuse_constant)
    except OSError as error:
        raise DataError(
            f"cannot read {file} ({error.strerror}). Name it: --include FILE"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _refusal(file, f"it is no JSON of that kind ({error})") from error
    found = value.get("schema") if isinstance(value, dict) else None
    if found == BENCHMARK_SCHEMA:
        try:
            rows = [_of_benchmark(value, row) for row in value["rows"]]
        except (KeyError, TypeError, IndexError) as error:
            raise _refusal(file, f"something is missing ({error!r})") from error
        return [_checked(file, row, OF_BENCHMARK) for row in rows]
    if found != SCHEMA:
        raise _refusal(file, f"its schema is {found!r:.60}, expected {SCHEMA!r}")
    return [_checked(file, value, FIELDS)]


def _of_benchmark(results: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Bring a row of another machine's run into the form of the button's results."""
    machine, data = results["environment"], results["dataset"]
    runtime, version = "PyTorch or numpy", "-"
    if "idle_call_ms" in row:
        runtime, version = "onnxruntime", machine["versions"]["onnxruntime"]
    elif "peer" in row:
        runtime, version = next(iter(row["peer"].items()))
    return {
        "schema": BENCHMARK_SCHEMA,
        "device": {"name": machine["cpu"]},
        "runtime": {
            "name": runtime,
            "version": version,
            "num_threads": machine["num_threads"],
        },
        "model": {
            "arch": row["system"],
            "role": None,
            "precision": row["precision"],
            "dataset": data["name"],
            "dataset_fingerprint": data["fingerprint"],
            "num_items": data["num_items"],
        },
        "num_requests": row["num_timed_calls"],
        "calls_per_sample": 1,
        "latency_ms": {name: row["latency_ms"][name] for name in ("p50", "p95", "p99")},
    }


def _checked(file: Path, value: dict[str, Any], fields: dict[str, Check]) -> dict[str, Any]:
    """Return the fields of a result, each of which can be; others are dropped."""
    kept: dict[str, Any] = {"schema": value["schema"]}
    for name, (is_valid, expected) in fields.items():
        group, _, key = name.rpartition(".")
        source = value.get(group) if group else value
        if not isinstance(source, dict) or key not in source:
            raise _refusal(file, f"{name} is missing, expected {expected}")
        if not is_valid(source[key]):
            raise _refusal(file, f"{name} is {source[key]!r:.60}, expected {expected}")
        (kept.setdefault(group, {}) if group else kept)[key] = source[key]
    latency = kept["latency_ms"]
    known = [latency[name] for name in ("p50", "p95", "p99") if latency[name] is not None]
    if known != sorted(known):
        raise _refusal(file, f"latency_ms is {latency}, expected p50 <= p95 <= p99")
    return kept


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _refusal(file: Path, reason: str) -> DataError:
    return DataError(
        f"{file} cannot be included: {reason}. Expected the file that the web page's measure "
        "button offers (python -m export.to_web), or another machine's benchmark.json"
    )


def format_included(included: Sequence[dict[str, Any]], dataset_fingerprint: str) -> str:
    """Return the results as a text table that ends in a newline; empty where there are none."""
    if not included:
        return ""
    rows = included_cells(included, dataset_fingerprint)
    align = ["left"] * 3 + ["right"] * 3 + ["left"] * 2
    table = tabulate(rows, headers=HEADERS, disable_numparse=True, colalign=align)
    return f"\n{HEADING}:\n\n{table}\n"


def included_cells(included: Sequence[dict[str, Any]], dataset_fingerprint: str) -> list[list[str]]:
    """Return the results' cells, row by row; `HEADERS` are their headers."""
    rows = []
    for result in included:
        model, runtime, calls = result["model"], result["runtime"], result["calls_per_sample"]
        other = "" if model["dataset_fingerprint"] == dataset_fingerprint else " (other data)"
        rows.append(
            [
                result["device"]["name"],
                " ".join(filter(None, (model["arch"], model["role"]))) + other,
                model["precision"],
                *latency_cells(result),
                f"{result['num_requests']:,}" + (f", {calls} at a time" if calls > 1 else ""),
                f"{runtime['name']} {runtime['version']}, {runtime['num_threads']} thread(s)",
            ]
        )
    return rows
