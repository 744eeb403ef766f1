"""Accuracy on cold items, those that training never saw: `python -m benchmarks.cold_start`.

For a data set prepared with `--cold-share`: every test target is ranked among all items, those
that nobody has taken before the test included, and the targets are judged in two groups. A target
is cold if its item has no event before the test, neither for training nor for validation, else
warm: once all is chosen, systems are trained on the validation events, too. All items compete in
one ranking: a system that always put cold items first would win the one group and lose the other.

"chance" is what a random order gives, computed, not drawn. Popularity and the control know nothing
of a cold item: to the one it was never taken, and the other's row for it is zero. Of users with a
test target all are judged, in the headline protocol. Exports that are missing or stale are made
first.

Writes `cold.json` (`ColdResults` in `benchmarks/report/schema.py`) into the output directory, and a
table to stdout.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from seqrec.config import flag, parse_flags, to_json
from seqrec.data import IntArray, SequenceDataset, load_dataset
from seqrec.errors import DataError, run_main
from seqrec.histories import PAD
from seqrec.metrics import bootstrap_interval, hit_rate, list_ranks, ndcg

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.flags import FolderFlags
from benchmarks.measure.machine import describe_machine
from benchmarks.measure.quality import K, describe_dataset, top_lists
from benchmarks.measure.queries import histories_before_test
from benchmarks.measure.students import TeacherSystem, open_students, teacher_quality
from benchmarks.measure.systems import Popularity, System
from benchmarks.report.files import save
from benchmarks.report.schema import ColdResults, ColdRow, Identity, Metrics
from benchmarks.report.tables import format_cold

logger = logging.getLogger(__name__)

CHANCE = Identity(system="chance", precision="", family="chance")
TEACHER_BATCH_SIZE = 64

Values = dict[str, NDArray[np.float64]]  # metric -> one value for each test target


@dataclass(frozen=True, kw_only=True)
class ColdConfig(FolderFlags):
    """Flags of `benchmarks.cold_start`; its data set is one prepared with --cold-share."""

    num_threads: int = flag(1, "threads of each call")


def judge(config: ColdConfig) -> ColdResults:
    """Judge all systems on cold and on warm targets.

    Raises:
        SeqRecError: no item was held out, an earlier stage is missing or was run on other data, or
            a system does not answer as it should.
    """
    dataset = load_dataset(config.data_dir)
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
    machine = describe_machine(config.num_threads)
    systems: list[System] = [Popularity(dataset)]
    if config.teacher:
        teacher_quality(config.folder, dataset)  # refuses a teacher of other data
        systems.append(TeacherSystem(config.folder / "teacher", config.num_threads))
    systems += open_students(dataset, config.folder, config.num_threads)
    exposure = len(untrained) / dataset.num_items
    rows = [make_row(CHANCE, chance_values(dataset), is_cold, exposure)]
    for system in systems:
        batch_size = TEACHER_BATCH_SIZE if system.identity.family == "teacher" else 1
        exclude_seen = dataset.exclude_seen
        lists = top_lists(system, dataset, exclude_seen=exclude_seen, batch_size=batch_size)
        ranks = list_ranks(lists, targets)
        values = {f"hr@{K}": hit_rate(ranks, K), f"ndcg@{K}": ndcg(ranks, K)}
        exposure = exposure_of(lists[:, :K], untrained)
        rows.append(make_row(system.identity, values, is_cold, exposure))
    return ColdResults(
        config=to_json(config),
        environment=machine,
        dataset=describe_dataset(dataset),
        num_cold_items=len(dataset.cold_items),
        num_untrained_items=len(untrained),
        num_cold_targets=int(is_cold.sum()),
        num_warm_targets=int((~is_cold).sum()),
        rows=tuple(rows),
    )


def cold_targets(dataset: SequenceDataset) -> tuple[IntArray, NDArray[np.bool_]]:
    """Return the items that nobody has taken before the test, and whether each test target is one.

    Their events in validation count: systems were trained on these, once all was chosen.
    """
    untrained = dataset.before_test().untrained_items
    return untrained, np.isin(dataset.eval_targets("test").items, untrained)


def exposure_of(lists: IntArray, items: IntArray) -> float:
    """Return how much of the lists (N, K) holds one of the items, from 0 to 1; PAD is no place.

    >>> exposure_of(np.array([[3, 1], [3, PAD]]), np.array([3]))
    0.6666666666666666
    """
    return float(np.isin(lists, items).sum() / max((lists != PAD).sum(), 1))


def make_row(
    identity: Identity, values: Values, is_cold: NDArray[np.bool_], exposure: float
) -> ColdRow:
    """Summarise values (N,) over cold and over warm targets, with intervals."""

    def summarize(members: NDArray[np.bool_]) -> Metrics:
        metrics: Metrics = {}
        for name, value in values.items():
            low, high = bootstrap_interval(value[members])
            metrics |= {name: float(value[members].mean())}
            metrics |= {f"{name}_low": low, f"{name}_high": high}
        return metrics

    cold, warm = summarize(is_cold), summarize(~is_cold)
    return ColdRow(**vars(identity), cold=cold, warm=warm, exposure=exposure)


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


def main(argv: Sequence[str] | None = None) -> None:
    """Judge all systems on cold and warm targets, and write the results."""
    config = parse_flags(ColdConfig, (__doc__ or "").partition("\n")[0], argv)
    results = judge(config)
    save(results, config.folder / "cold.json")
    sys.stdout.write(format_cold(results))
    logger.info("wrote %s", config.folder / "cold.json")


if __name__ == "__main__":
    run_main(main)
