"""Accuracy on items that training never saw. Entry point: `python -m benchmarks.cold_start`.

For a data set prepared with `--cold-share`: every test target is ranked among all items, those
that nobody has taken before the test included, and the targets are judged in two groups. A target
is cold if its item has no event before the test, neither for training nor for validation, else
warm: once all is chosen, systems are trained on the validation events, too. All items compete in
one ranking: a system that always put cold items first would win the one group and lose the other.

"chance" is what a random order gives, computed, not drawn. Popularity and the control know nothing
of a cold item: to the one it was never taken, and the other's row for it is zero. Of users with a
test target all are judged, in the headline protocol. Exports that are missing or stale are made
first.

Writes `cold.json` into the output directory, and a table to stdout. Schema "seqrec-cold/1":

    schema          "seqrec-cold/1"
    config          the flags of the run
    environment     as in `benchmarks.latency`
    dataset         name, fingerprint, num_items, split, protocol, num_cold_items (held out),
                    num_untrained_items (without an event before the test), num_cold_targets,
                    num_warm_targets
    rows            a list, one object per system and precision:
      system          "chance", "popularity", "teacher", "gru control", "gru distilled", ...
      precision       "fp32", "int8", "nf4", "bf16"; null for chance
      cold, warm      metrics of each group: `hr@10` and `ndcg@10`, each with `_low` and `_high`, a
                      95 % bootstrap interval over its users
      cold_share_of_top10   share of all places in the top 10 that hold an item without an event
                      before the test; compare with the share of such targets
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import DEFAULT_DATA_DIR, default_output_dir, flag, parse_flags, to_json
from seqrec.data import PAD, IntArray, SequenceDataset, load_dataset
from seqrec.errors import DataError, run_main
from seqrec.files import write_json
from seqrec.metrics import bootstrap_interval, hit_rate, list_ranks, ndcg
from seqrec.report import interval

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from benchmarks.latency import open_students, protocols, teacher_report
from benchmarks.measure.systems import PopularityRunner, Runner, TeacherRunner
from benchmarks.measure.timing import histories_before_test, top_lists
from benchmarks.report.tables import describe_machine

logger = logging.getLogger(__name__)

SCHEMA = "seqrec-cold/1"
K = 10
TEACHER_BATCH_SIZE = 64

Values = dict[str, NDArray[np.float64]]  # metric -> one value for each test target


@dataclass(frozen=True, kw_only=True)
class ColdConfig:
    """Flags of `benchmarks.cold_start`."""

    data_dir: Path = flag(
        DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare with --cold-share"
    )
    output_dir: Path | None = flag(None, "where all stages write; default runs/<name of data-dir>")
    teacher: bool = flag(True, "judge the teacher as well; loads its language model")
    num_threads: int = flag(1, "threads of each call")


def judge(config: ColdConfig) -> dict[str, Any]:
    """Judge all systems and return the content of `cold.json`.

    Raises:
        SeqRecError: no item was held out, an earlier stage is missing or was run on other data, or
            a system does not answer as it should.
    """
    dataset = load_dataset(config.data_dir)
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    if len(dataset.cold_items) == 0:
        raise DataError(
            f"{dataset.path} holds no item out of training. Prepare it again with --cold-share 0.1"
        )
    targets = dataset.eval_targets("test").items
    untrained, is_cold = cold_targets(dataset)
    if not 0 < is_cold.sum() < len(targets):
        raise DataError(
            f"{is_cold.sum():,} of the {len(targets):,} test targets of {dataset.path} are cold: "
            "there are not two groups to compare. Prepare it again with another --cold-share"
        )
    environment = describe_machine(config.num_threads)
    runners: list[Runner] = [PopularityRunner(dataset)]
    if config.teacher:
        teacher_report(output_dir, dataset)  # refuses a teacher of other data
        runners.append(TeacherRunner(output_dir / "teacher", config.num_threads))
    runners += open_students(dataset, output_dir, config.num_threads)
    rows = [{"system": "chance", "precision": None, **by_group(chance_values(dataset), is_cold)}]
    rows[0]["cold_share_of_top10"] = len(untrained) / dataset.num_items
    for runner in runners:
        lists = top_lists(
            runner,
            dataset,
            exclude_seen=dataset.exclude_seen,
            batch_size=TEACHER_BATCH_SIZE if isinstance(runner, TeacherRunner) else 1,
        )
        ranks = list_ranks(lists, targets)
        values = {f"hr@{K}": hit_rate(ranks, K), f"ndcg@{K}": ndcg(ranks, K)}
        rows.append(
            {
                "system": runner.system,
                "precision": runner.precision,
                **by_group(values, is_cold),
                "cold_share_of_top10": share_of_places(lists[:, :K], untrained),
            }
        )
    return {
        "schema": SCHEMA,
        "config": to_json(config),
        "environment": environment,
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "num_items": dataset.num_items,
            "split": dataset.meta["split"],
            "protocol": protocols(dataset)[0],
            "num_cold_items": len(dataset.cold_items),
            "num_untrained_items": len(untrained),
            "num_cold_targets": int(is_cold.sum()),
            "num_warm_targets": int((~is_cold).sum()),
        },
        "rows": rows,
    }


def cold_targets(dataset: SequenceDataset) -> tuple[IntArray, NDArray[np.bool_]]:
    """Return the items that nobody has taken before the test, and whether each test target is one.

    Their events in validation count: systems were trained on these, once all was chosen.
    """
    untrained = dataset.before_test().untrained_items
    return untrained, np.isin(dataset.eval_targets("test").items, untrained)


def share_of_places(lists: IntArray, items: IntArray) -> float:
    """Return the share of the places in lists (N, K) that hold one of the items; PAD is no place.

    >>> share_of_places(np.array([[3, 1], [3, PAD]]), np.array([3]))
    0.6666666666666666
    """
    return float(np.isin(lists, items).sum() / max((lists != PAD).sum(), 1))


def by_group(values: Values, is_cold: NDArray[np.bool_]) -> dict[str, Any]:
    """Summarise values (N,) over cold and over warm targets, with intervals."""
    groups: dict[str, Any] = {}
    for group, members in (("cold", is_cold), ("warm", ~is_cold)):
        groups[group] = {}
        for name, value in values.items():
            low, high = bootstrap_interval(value[members])
            groups[group][name] = float(value[members].mean())
            groups[group] |= {f"{name}_low": low, f"{name}_high": high}
    return groups


def chance_values(dataset: SequenceDataset) -> Values:
    """Return what each test target gets on average from a random order of its user's candidates.

    With C candidates, each rank has probability 1 / C: HR@K = min(K, C) / C, and NDCG@K is the sum
    of 1 / log2(r + 1) over the ranks up to min(K, C), over C. An excluded target gets nothing.
    """
    discounts = np.cumsum(1 / np.log2(np.arange(1, K + 1) + 1))
    targets = dataset.eval_targets("test").items
    hr, gain = np.zeros(len(targets)), np.zeros(len(targets))
    for row, (history, target) in enumerate(
        zip(histories_before_test(dataset), targets, strict=True)
    ):
        seen = np.unique(history if dataset.exclude_seen else history[:0])
        if target not in seen:
            candidates = dataset.num_items - len(seen)
            reached = min(K, candidates)
            hr[row], gain[row] = reached / candidates, discounts[reached - 1] / candidates
    return {f"hr@{K}": hr, f"ndcg@{K}": gain}


def format_table(results: dict[str, Any]) -> str:
    """Return the results as a text table that ends in a newline, with its conditions below."""
    names = (f"hr@{K}", f"ndcg@{K}")
    rows = [
        [
            row["system"],
            row["precision"] or "",
            *(interval(row[group], name) for group in ("cold", "warm") for name in names),
            f"{row['cold_share_of_top10']:.1%}",
        ]
        for row in results["rows"]
    ]
    headers = ["system", "precision"]
    headers += [f"{group} {name.upper()} [95 %]" for group in ("cold", "warm") for name in names]
    headers.append(f"cold in top {K}")
    table = tabulate(
        rows, headers=headers, disable_numparse=True, colalign=["left"] * 6 + ["right"]
    )
    data = results["dataset"]
    cold, warm = data["num_cold_targets"], data["num_warm_targets"]
    return (
        f"{table}\n\n{data['name']}: {data['num_untrained_items']:,} of {data['num_items']:,} "
        f"items without an event before the test ({data['num_cold_items']:,} held out); {cold:,} "
        f"cold and {warm:,} warm test targets, {cold / (cold + warm):.1%} cold; all items ranked, "
        f"{data['protocol'].replace('_', ' ')}\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Judge all systems on cold and warm targets, and write the results."""
    config = parse_flags(ColdConfig, (__doc__ or "").partition("\n")[0], argv)
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    results = judge(config)
    write_json(output_dir / "cold.json", results)
    sys.stdout.write(format_table(results))
    logger.info("wrote %s", output_dir / "cold.json")


if __name__ == "__main__":
    run_main(main)
