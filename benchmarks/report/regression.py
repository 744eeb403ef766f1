"""Did it get worse? A run compared with an earlier one: `benchmarks.latency --compare-with FILE`.

Each system that both runs have is compared in three ways, each with its tolerance:

    NDCG@10                 may fall by a fiftieth of the earlier value
    MiB                     may grow by a fiftieth
    ratio to lower bound    may grow to one and a half times the earlier value

Machines differ, and so does one machine from hour to hour; the bound is timed in turns with the
systems, so a multiple of it moves less than milliseconds do. A system that the earlier run alone
has is missing, which fails as well: give the flags of that run. Other libraries may be missing, and
what is new counts for nothing; both are named. Exit code 1 if it is worse.
"""

from collections.abc import Callable
from pathlib import Path

from seqrec.errors import DataError

from benchmarks.report.schema import LatencyResults, SystemResult
from benchmarks.report.tables import make_table, number

# What is compared, and how much of the earlier value the later one has at least and at most.
COMPARED: dict[str, tuple[Callable[[SystemResult], float | None], float, float]] = {
    "NDCG@10": (lambda row: row.metrics["ndcg@10"], 0.98, float("inf")),
    "ratio to lower bound": (lambda row: row.ratio_to_lower_bound, 0.0, 1.5),
    "MiB": (lambda row: row.size_mib, 0.0, 1.02),
}


def require_comparable(
    earlier: LatencyResults, file: Path, fingerprint: str, num_threads: int, lower_bound: str | None
) -> None:
    """Refuse an earlier run on other data, with other threads or another lower bound.

    Raises:
        DataError: naming what differs.
    """
    if earlier.dataset.fingerprint != fingerprint:
        raise DataError(
            f"{file} was measured on data set {earlier.dataset.fingerprint[:12]}, this run is on "
            f"{fingerprint[:12]}. Compare runs on the same data"
        )
    threads = earlier.environment.num_threads
    if threads != num_threads:
        raise DataError(
            f"{file} was measured with {threads} thread(s), this run has {num_threads}. "
            f"Compare like with like: --num-threads {threads}"
        )
    if earlier.lower_bound != lower_bound:
        raise DataError(
            f"{file} was measured against another lower bound, so that its ratios mean something "
            "else. Measure the earlier version again with these benchmarks"
        )


def ratios(earlier: SystemResult, later: SystemResult) -> dict[str, float | None]:
    """Return later over earlier of all that is compared, None where a run lacks the value."""
    pairs = {name: (value(later), value(earlier)) for name, (value, *_) in COMPARED.items()}
    return {
        name: None if new is None or not old else new / old for name, (new, old) in pairs.items()
    }


def beyond_tolerance(compared: dict[str, float | None]) -> list[str]:
    """Return what got worse by more than it may."""
    return [
        name
        for name, (_, least, most) in COMPARED.items()
        if (ratio := compared[name]) is not None and not least <= ratio <= most
    ]


def compare_runs(earlier: LatencyResults, later: LatencyResults) -> tuple[str, bool]:
    """Return the comparison as text that ends in a newline, and whether the later run is worse."""
    before, after = ({row.label: row for row in run.rows} for run in (earlier, later))
    compared = {label: ratios(before[label], after[label]) for label in after if label in before}
    worse = {label: beyond_tolerance(values) for label, values in compared.items()}

    def ratio(name: str) -> Callable[[str], str]:
        return lambda label: number(compared[label][name])

    columns: dict[str, Callable[[str], str]] = {"system": str, **{n: ratio(n) for n in COMPARED}}
    columns["beyond tolerance"] = lambda label: ", ".join(worse[label]) or "-"
    lines = ["", "Ratio to the earlier run:", "", make_table(compared, columns), ""]
    for one, other, which in ((before, after, "earlier"), (after, before, "new")):
        lines += [
            f"{label}: in the {which} run only, not compared" for label in one if label not in other
        ]
    num_worse = sum(map(bool, worse.values()))
    num_lost = sum(r.family != "baseline" and r.label not in after for r in earlier.rows)
    if num_worse:
        lines.append(f"Worse than the earlier run: {num_worse} of {len(compared)} systems")
    if num_lost:
        lines.append(f"Missing, with the flags of this run: {num_lost} systems of the earlier run")
    if not num_worse and not num_lost:
        lines.append(f"No worse than the earlier run: {len(compared)} systems compared")
    return "\n".join(lines) + "\n", bool(num_worse or num_lost)
