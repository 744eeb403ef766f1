"""Did it get worse? A run compared with an earlier one: `benchmarks.latency --compare-with FILE`.

    python -m benchmarks.report.regression --earlier kept.json --later runs/ml-100k/benchmark.json

Each system that both runs have is compared in three ways, each with its tolerance:

    NDCG@10     may fall by --max-ndcg-loss of the earlier value (default 2 %)
    size        may grow by a fiftieth
    latency     p50 in multiples of the lower bound measured in the same run may grow to
                --max-slowdown times the earlier value (default 1.5)

Machines differ, and so does one machine from hour to hour; the bound is timed in turns with the
systems, so a multiple of it moves less than milliseconds do. A system that the earlier run alone
has is missing, which fails as well: give the flags of that run. Other libraries may be missing, and
what is new counts for nothing; both are named. Exit code 1 if it is worse.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrec.config import flag, parse_flags
from seqrec.errors import DataError, run_main

from benchmarks.report.files import load
from benchmarks.report.schema import Identity, LatencyResults, SystemResult
from benchmarks.report.tables import make_table, number

MAX_GROWTH = 0.02


@dataclass(frozen=True, kw_only=True)
class RegressionConfig:
    """Flags of `benchmarks.report.regression`."""

    earlier: Path = flag(Path("earlier.json"), "benchmark.json of an earlier run")
    later: Path = flag(Path("benchmark.json"), "benchmark.json of the run that is judged")
    max_ndcg_loss: float = flag(0.02, "how much of its NDCG@10 may be lost")
    max_slowdown: float = flag(1.5, "how many times as far from the lower bound a system may be")

    def __post_init__(self) -> None:
        """Refuse tolerances that would let all pass."""
        if not 0 <= self.max_ndcg_loss < 1 or self.max_slowdown < 1:
            raise ValueError(
                f"--max-ndcg-loss {self.max_ndcg_loss:g} is a fraction from 0 to 1 (0.02: 2 %), "
                f"--max-slowdown {self.max_slowdown:g} a factor of at least 1"
            )


@dataclass(frozen=True)
class Comparison:
    """Ratios of later to earlier, None where a run lacks a value, and which are too bad."""

    key: tuple[str, str]  # system and precision
    ndcg: float | None
    slowdown: float | None
    size: float | None
    worse: tuple[str, ...]


def _key(identity: Identity) -> tuple[str, str]:
    return identity.system, identity.precision_label


def _by_key(results: LatencyResults) -> dict[tuple[str, str], SystemResult]:
    return {_key(row): row for row in results.rows}


def require_comparable(
    earlier: LatencyResults,
    file: Path,
    *,
    fingerprint: str,
    num_threads: int,
    lower_bound: str | None,
) -> None:
    """Refuse an earlier run on other data, with other threads or another lower bound.

    Raises:
        DataError: naming what differs.
    """
    found = earlier.dataset.fingerprint
    if found != fingerprint:
        raise DataError(
            f"{file} was measured on data set {found[:12]}, this run is on {fingerprint[:12]}. "
            "Compare runs on the same data"
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


def missing(earlier: LatencyResults, later: LatencyResults) -> list[tuple[str, str]]:
    """Return the systems of ours that the earlier run alone has, by system and precision."""
    there = _by_key(later)
    keys = [_key(row) for row in earlier.rows if row.family != "baseline"]
    return [key for key in keys if key not in there]


def compare_runs(
    earlier: LatencyResults, later: LatencyResults, config: RegressionConfig
) -> list[Comparison]:
    """Compare the systems that both runs have, in the later run's order."""
    before = _by_key(earlier)
    compared = []
    for row in later.rows:
        if (old := before.get(_key(row))) is None:
            continue
        ndcg = _ratio(row.metrics["ndcg@10"], old.metrics["ndcg@10"])
        slowdown = _ratio(row.ratio_to_lower_bound, old.ratio_to_lower_bound)
        size = _ratio(row.size_mib, old.size_mib)
        worse = {
            "NDCG@10": ndcg is not None and ndcg < 1 - config.max_ndcg_loss,
            "ratio to lower bound": slowdown is not None and slowdown > config.max_slowdown,
            "MiB": size is not None and size > 1 + MAX_GROWTH,
        }
        named = tuple(name for name, is_worse in worse.items() if is_worse)
        compared.append(Comparison(_key(row), ndcg, slowdown, size, named))
    return compared


def _ratio(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or not earlier else later / earlier


def format_comparison(
    compared: Sequence[Comparison], earlier: LatencyResults, later: LatencyResults
) -> str:
    """Return the comparison as a text table with a verdict, ending in a newline."""
    rows = [
        [*one.key, *map(number, (one.ndcg, one.slowdown, one.size)), ", ".join(one.worse) or "-"]
        for one in compared
    ]
    headers = ["system", "precision", "NDCG@10", "ratio to lower bound", "MiB", "beyond tolerance"]
    lines = ["", "Ratio to the earlier run:", "", make_table(headers, rows, "llrrrl"), ""]
    keys = (_by_key(earlier), _by_key(later))
    for own, other, where in ((*keys, "earlier"), (*reversed(keys), "new")):
        for system, precision in (key for key in own if key not in other):
            lines.append(f"{system} {precision}: in the {where} run only, not compared")
    worse = [one for one in compared if one.worse]
    lost = missing(earlier, later)
    if worse:
        lines.append(f"Worse than the earlier run: {len(worse)} of {len(compared)} systems")
    if lost:
        lines.append(f"Missing, with the flags of this run: {len(lost)} systems of the earlier run")
    if not worse and not lost:
        lines.append(f"No worse than the earlier run: {len(compared)} systems compared")
    return "\n".join(lines) + "\n"


def report(earlier: LatencyResults, later: LatencyResults, config: RegressionConfig) -> None:
    """Print the comparison; exit code 1 if the later run is worse or lacks a system."""
    compared = compare_runs(earlier, later, config)
    sys.stdout.write(format_comparison(compared, earlier, later))
    if missing(earlier, later) or any(one.worse for one in compared):
        raise SystemExit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare two files."""
    config = parse_flags(RegressionConfig, (__doc__ or "").partition("\n")[0], argv)
    earlier, later = (load(LatencyResults, file) for file in (config.earlier, config.later))
    require_comparable(
        earlier,
        config.earlier,
        fingerprint=later.dataset.fingerprint,
        num_threads=later.environment.num_threads,
        lower_bound=later.lower_bound,
    )
    report(earlier, later, config)


if __name__ == "__main__":
    run_main(main)
