"""Did it get worse? A run compared with an earlier one: `benchmarks.latency --baseline FILE`.

Each system that both runs have is compared in three ways, each with its tolerance:

    NDCG@10     may fall by --max-ndcg-loss of the earlier value (default 2 %)
    size        may grow by a fiftieth
    latency     p50 in multiples of the limit measured in the same run (`over_limit`) may grow to
                --max-slowdown times the earlier value (default 1.5)

Machines differ, and so does one machine from hour to hour; the limit is timed in turns with the
systems, so a multiple of it moves less than milliseconds do. A system that the earlier run alone
has is missing, which fails as well: give the flags of that run. Other libraries may be missing, and
what is new counts for nothing; both are named.
"""

from pathlib import Path
from typing import Any

from seqrec.errors import DataError
from seqrec.files import read_json

from tabulate import tabulate

from benchmarks.measure.lower_bound import DEFINITION

MAX_GROWTH = 0.02
SCHEMA = "seqrec-benchmark/2"


def read_baseline(file: Path, fingerprint: str, num_threads: int) -> dict[str, Any]:
    """Read an earlier run's `benchmark.json`.

    Raises:
        DataError: there is none, it is another kind of file, or it was measured on other data,
            with another number of threads or against another limit.
    """
    try:
        baseline = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(
            f"--baseline {file} cannot be read ({error}). Give the benchmark.json of an earlier run"
        ) from error
    if baseline.get("schema") != SCHEMA:
        raise DataError(
            f"--baseline {file} has schema {baseline.get('schema')!r}, expected {SCHEMA!r}"
        )
    found = baseline["dataset"]["fingerprint"]
    if found != fingerprint:
        raise DataError(
            f"--baseline {file} was measured on data set {found[:12]}, this run is on "
            f"{fingerprint[:12]}. Compare runs on the same data"
        )
    threads = baseline["environment"]["num_threads"]
    if threads != num_threads:
        raise DataError(
            f"--baseline {file} was measured with {threads} thread(s), this run has {num_threads}. "
            f"Compare like with like: --num-threads {threads}"
        )
    if baseline.get("limit") != DEFINITION:
        raise DataError(
            f"--baseline {file} was measured against another limit, so that its `over limit` means "
            "something else. Measure the earlier version again with these benchmarks"
        )
    return baseline


def missing(earlier: dict[str, Any], later: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the systems of ours that the earlier run alone has, by system and precision."""
    there = {(row["system"], row["precision"]) for row in later["rows"]}
    keys = [(row["system"], row["precision"]) for row in earlier["rows"] if "peer" not in row]
    return [key for key in keys if key not in there]


def compare_runs(
    earlier: dict[str, Any], later: dict[str, Any], *, max_ndcg_loss: float, max_slowdown: float
) -> list[dict[str, Any]]:
    """Compare the systems that both runs have, in the later run's order.

    Args:
        earlier: content of `benchmark.json`.
        later: the same of the run that is judged.
        max_ndcg_loss: relative, 0.02 is 2 %.
        max_slowdown: ratio of the two runs' `over_limit`.

    Returns:
        For each system: `system`, `precision`; `ndcg@10`, `over_limit` (None where a run lacks it)
        and `size_mib`, ratios of later to earlier; `worse`, which of them are beyond tolerance.
    """
    before = {(row["system"], row["precision"]): row for row in earlier["rows"]}
    compared = []
    for row in later["rows"]:
        old = before.get((row["system"], row["precision"]))
        if old is None:
            continue
        ratios = {
            "ndcg@10": _ratio(row["metrics"]["ndcg@10"], old["metrics"]["ndcg@10"]),
            "over_limit": _ratio(row.get("over_limit"), old.get("over_limit")),
            "size_mib": _ratio(row["size_mib"], old["size_mib"]),
        }
        is_worse = {
            "ndcg@10": lambda ratio: ratio < 1 - max_ndcg_loss,
            "over_limit": lambda ratio: ratio > max_slowdown,
            "size_mib": lambda ratio: ratio > 1 + MAX_GROWTH,
        }
        worse = [n for n, ratio in ratios.items() if ratio is not None and is_worse[n](ratio)]
        named = {"system": row["system"], "precision": row["precision"]}
        compared.append({**named, **ratios, "worse": worse})
    return compared


def _ratio(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or not earlier else later / earlier


def format_comparison(
    compared: list[dict[str, Any]], earlier: dict[str, Any], later: dict[str, Any]
) -> str:
    """Return the comparison as a text table with a verdict, ending in a newline."""
    names = ("ndcg@10", "over_limit", "size_mib")
    rows = [
        [
            row["system"],
            row["precision"],
            *("-" if row[name] is None else f"{row[name]:.3f}" for name in names),
            ", ".join(row["worse"]) or "-",
        ]
        for row in compared
    ]
    headers = ["system", "precision", "NDCG@10", "over limit", "MiB", "beyond tolerance"]
    align = ["left", "left", "right", "right", "right", "left"]
    lines = ["", "Ratio to the baseline:", ""]
    lines += [tabulate(rows, headers=headers, disable_numparse=True, colalign=align), ""]
    keys = [[(row["system"], row["precision"]) for row in run["rows"]] for run in (earlier, later)]
    for own, other, where in ((*keys, "baseline"), (*reversed(keys), "new run")):
        for system, precision in (key for key in own if key not in other):
            lines.append(f"{system} {precision}: in the {where} only, not compared")
    worse = [row for row in compared if row["worse"]]
    lost = missing(earlier, later)
    if worse:
        lines.append(f"Worse than the baseline: {len(worse)} of {len(compared)} systems")
    if lost:
        lines.append(f"Missing, with the flags of this run: {len(lost)} systems of the baseline")
    if not worse and not lost:
        lines.append(f"No worse than the baseline: {len(compared)} systems compared")
    return "\n".join(lines) + "\n"
