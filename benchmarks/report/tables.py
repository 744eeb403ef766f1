"""What surrounds the benchmark's numbers: the machine they come from, and their table."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seqrec.errors import DataError
from seqrec.files import read_json
from seqrec.report import interval

from tabulate import tabulate

PACKAGES = ("onnxruntime", "torch", "numpy")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
BUSY = 0.2  # cores at work for others


def describe_machine(num_threads: int) -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    flags = cpu_info("flags")
    return {
        "cpu": cpu_name(),
        "cpu_flags": flags and [name for name in FLAGS if name in flags.split()],
        "cpu_mhz": float(mhz) if (mhz := cpu_info("cpu MHz")) else None,
        "num_cores": os.cpu_count(),
        "num_threads": num_threads,
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def read_results(file: Path, advice: str) -> dict[str, Any]:
    """Read a benchmark's JSON; a `DataError` that ends in the advice if it cannot be read."""
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"no results in {file} ({error}). {advice}") from error


def cpu_name() -> str:
    """Return the processor's model name."""
    return cpu_info("model name") or platform.processor() or platform.machine()


def cpu_info(key: str) -> str | None:
    """Return what Linux says of the first core, None if it says nothing."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None


def busy_note(environment: dict[str, Any]) -> str:
    """Return a warning, with a line's end, if others worked while it was measured; else nothing."""
    others = environment.get("other_work")
    if others is None or others < BUSY:
        return ""
    return (
        f"The machine was busy: other processes kept {others:.1f} of {environment['num_cores']} "
        "cores at work meanwhile. Compare rows, not machines.\n"
    )


def limit_note(results: dict[str, Any]) -> str:
    """Say what the limit is; of an earlier version's file, which does not tell it, nothing."""
    return f"Over limit: p50 over ({results['limit']})." if "limit" in results else ""


def format_table(results: dict[str, Any]) -> str:
    """Return the results as a text table that ends in a newline, with its conditions below."""
    rows = [
        [
            row["system"],
            row["precision"],
            interval(row["metrics"], "ndcg@10"),
            f"{row['metrics']['hr@10']:.4f}",
            *latency_cells(row),
            f"{row['over_limit']:.1f}" if "over_limit" in row else "-",
            *_fresh_cells(row.get("fresh")),
            f"{row['throughput_per_s']:,.0f}",
            f"{row['size_mib']:.2f}",
            f"{row['num_parameters']:,}",
        ]
        for row in results["rows"]
    ]
    failed = results.get("failed", [])
    rows += [[row["system"], row["precision"], "failed, see below", *["-"] * 10] for row in failed]
    batch = results["config"]["throughput_batch_size"]
    headers = ["system", "precision", "NDCG@10 [95 %]", "HR@10", "p50 ms", "p95 ms", "p99 ms"]
    headers += ["over limit", "load ms", "peak MiB", f"users/s at {batch}", "MiB", "parameters"]
    align = ["left"] * 3 + ["right"] * 10
    # An earlier run's file lacks what was not measured then.
    known = [place for place in range(len(headers)) if any(row[place] != "-" for row in rows)]
    rows, (headers, align) = _pick(rows, known), _pick([headers, align], known)
    table = tabulate(rows, headers=headers, disable_numparse=True, colalign=align)
    data, machine = results["dataset"], results["environment"]
    lines = [
        table,
        "",
        f"{data['name']}: {data['num_users']:,} test users, {data['num_items']:,} items, "
        f"{data['split']}, {data['protocol'].replace('_', ' ')}; one user per call, "
        f"{machine['num_threads']} thread(s), {machine['cpu']}",
    ]
    lines += filter(None, [limit_note(results)])
    lines += [*gain_lines(results["rows"]), *training_lines(results["rows"])]
    lines += [f"{row['system']} failed: {row['reason']}" for row in failed]
    return "\n".join(lines) + "\n" + busy_note(machine)


def full_name(row: dict[str, Any]) -> str:
    """Return a row's system and precision; popularity has none."""
    return row["system"] if row["system"] == "popularity" else f"{row['system']} {row['precision']}"


def is_untaught(row: dict[str, Any]) -> bool:
    """Return whether a system learnt from the interactions alone: a control, another library's."""
    return row["system"].endswith("control") or "peer" in row


def gain_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say how far our rows are above the other libraries' and their controls."""
    lines = []
    for row in rows:
        for peer, gain in row.get("gain_over_peers", {}).items():
            lines.append(f"{full_name(row)} over {peer}: {_gain(gain)}")
        if gain := row.get("gain_over_control"):
            shared = row.get("top10_overlap_with_fp32")
            after = "" if shared is None else f"; top 10 shared with fp32 {shared:.1%}"
            lines.append(f"{full_name(row)} over control: {_gain(gain)}{after}")
    return lines


def training_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say how each of the other libraries was trained."""
    return [
        f"{row['system']}: {_chosen(row['training'])} in {row['training']['minutes']:.1f} CPU "
        "minutes"
        + _trained_on(row["training"].get("device", "cpu"))
        + (", cut short by --peer-minutes" if row["training"]["cut_short"] else "")
        for row in rows
        if "training" in row
    ]


def _trained_on(device: str) -> str:
    return "" if device == "cpu" else f" with a GPU, {device}"


def _chosen(training: dict[str, Any]) -> str:
    """Say what validation chose for a peer: for how long, or how many neighbours."""
    if "num_neighbours" in training:
        return f"{training['num_neighbours']} neighbours"
    tried = training.get("num_tried")  # an earlier run's file lacks it
    return f"{training['num_epochs']} epochs" + (f" of {tried} tried" if tried else "")


def _gain(gain: dict[str, float]) -> str:
    return f"NDCG@10 {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


def _pick(lines: list[list[str]], places: list[int]) -> list[list[str]]:
    return [[line[place] for place in places] for line in lines]


def latency_cells(row: dict[str, Any]) -> list[str]:
    """Return a row's p50, p95 and p99; few calls have no p99."""
    values = (row["latency_ms"][name] for name in ("p50", "p95", "p99"))
    return ["-" if value is None else f"{value:.3f}" for value in values]


def _fresh_cells(fresh: dict[str, float | None] | None) -> list[str]:
    values = [(fresh or {}).get(name) for name in ("load_ms", "peak_mib")]
    return ["-" if value is None else f"{value:,.0f}" for value in values]
