"""How good the lists are that a system returns, and how systems compare.

Shape letters: N users, K answers.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import ModelError
from seqrec.metrics import (
    CUTOFFS,
    Evaluation,
    bootstrap_interval,
    list_ranks,
    ndcg,
)

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.measure.queries import histories_before_test, make_requests
from benchmarks.measure.systems import System
from benchmarks.report.schema import DataSet, Failure, Gain, Identity, Protocol, Quality
from export.parity import overlap

logger = logging.getLogger(__name__)

LIST_LENGTH = max(CUTOFFS)
K = 10
PATIENCE_S = 120.0  # for one system's lists of all test users
SAME_IN_BATCHES = 0.99  # of the items: rounding may exchange neighbours
Histories = Sequence[NDArray[np.integer]]


@dataclass(frozen=True)
class Judged:
    """A system and how good it is."""

    system: System
    quality: Quality


def protocols(dataset: SequenceDataset) -> tuple[Protocol, Protocol]:
    """Return the names of the headline protocol and of the other one."""
    if dataset.exclude_seen:
        return "seen_excluded", "seen_kept"
    return "seen_kept", "seen_excluded"


def describe_dataset(dataset: SequenceDataset) -> DataSet:
    """Return what systems are judged on."""
    return DataSet(
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        num_items=dataset.num_items,
        num_users=len(dataset.eval_targets("test").users),
        split=dataset.meta["split"],
        protocol=protocols(dataset)[0],
    )


def top_lists(
    system: System,
    dataset: SequenceDataset,
    *,
    exclude_seen: bool,
    batch_size: int = 1,
    histories: Histories | None = None,
) -> IntArray:
    """Ask for every test user's list, as a rule one user at a time as in the timed calls.

    Args:
        system: who is asked.
        dataset: whose test users.
        exclude_seen: the protocol.
        batch_size: users at once.
        histories: those of some test users; of all if not given.

    Returns:
        int64 (N, K), K = 20 or the number of items; PAD where there is no answer.

    Raises:
        ModelError: the system does not keep its promises; see `check_answer`.
    """
    requests = make_requests(
        histories_before_test(dataset) if histories is None else histories,
        max_len=system.max_len,
        k=min(LIST_LENGTH, dataset.num_items),
        exclude_seen=exclude_seen,
        batch_size=batch_size,
    )
    label = f"{system.identity.label}, seen {'excluded' if exclude_seen else 'kept'}"
    progress = tqdm(requests, desc=label, unit="call", leave=False, mininterval=0.5)
    return np.concatenate([system.checked(request, dataset.num_items) for request in progress])


def affordable_lists(
    system: System,
    dataset: SequenceDataset,
    *,
    exclude_seen: bool,
    batch_size: int,
    patience_s: float = PATIENCE_S,
) -> IntArray:
    """Ask for every test user's list, in batches if a system would take too long otherwise.

    The first users are asked one at a time. If all would need longer than `patience_s` like that,
    and a batch of these users agrees in 99 of 100 items, all are asked in batches.

    Returns:
        As `top_lists`.

    Raises:
        ModelError: the system does not keep its promises; see `check_answer`.
    """

    def ask(histories: Histories, size: int) -> IntArray:
        protocol = {"exclude_seen": exclude_seen, "batch_size": size}
        return top_lists(system, dataset, histories=histories, **protocol)  # type: ignore[arg-type]

    histories = histories_before_test(dataset)
    first, rest = histories[:batch_size], histories[batch_size:]
    start = time.perf_counter()
    singly = ask(first, 1)
    if not rest:
        return singly
    size = 1
    if (time.perf_counter() - start) / len(first) * len(histories) > patience_s:
        if mean_overlap(singly, ask(first, batch_size), k=LIST_LENGTH) >= SAME_IN_BATCHES:
            size = batch_size
    return np.concatenate([singly, ask(rest, size)])


def evaluate_lists(excluding: IntArray, keeping: IntArray, dataset: SequenceDataset) -> Evaluation:
    """Rank the test targets in the lists (N, K) of both protocols."""
    targets = dataset.eval_targets("test").items
    return Evaluation(list_ranks(excluding, targets), list_ranks(keeping, targets))


def mean_overlap(first: IntArray, second: IntArray, k: int = K) -> float:
    """Return how many of the first `k` items two systems' lists (N, K) have in common, from 0 to 1.

    Places without an answer, PAD, are none.

    >>> mean_overlap(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 5]]), k=2)
    0.75
    """
    pairs = zip(first[:, :k], second[:, :k], strict=True)
    return float(np.mean([overlap(a, b) for a, b in pairs]))


def judge(
    systems: Sequence[System], dataset: SequenceDataset, failed: list[Failure], *, batch_size: int
) -> list[Judged]:
    """Rank the test targets in what systems answer; one that may fail and does goes to `failed`.

    A batch of the size that throughput is measured with is checked, too, and used where single
    users would take too long.
    """
    judged: list[System] = []
    evaluations: list[Evaluation] = []
    lists: list[IntArray] = []
    some = histories_before_test(dataset)[:batch_size]
    for system in systems:
        try:
            (batch,) = make_requests(
                some,
                max_len=system.max_len,
                k=min(K, dataset.num_items),
                exclude_seen=dataset.exclude_seen,
                batch_size=batch_size,
            )
            system.checked(batch, dataset.num_items)
            excluding, keeping = (
                affordable_lists(system, dataset, exclude_seen=exclude, batch_size=batch_size)
                for exclude in (True, False)
            )
        except ModelError as error:
            if not system.may_fail:
                raise
            failed.append(failure_of(system.identity, error))
            continue
        judged.append(system)
        evaluations.append(evaluate_lists(excluding, keeping, dataset))
        lists.append(excluding if dataset.exclude_seen else keeping)
    return compare(judged, evaluations, lists, dataset)


def failure_of(identity: Identity, error: Exception) -> Failure:
    """Return why a system has no figures, on one line, and log it."""
    reason = " ".join(str(error).split())
    logger.warning("%s failed: %s", identity.system, reason)
    return Failure(system=identity.system, precision=identity.precision_label, reason=reason)


def compare(
    systems: Sequence[System],
    evaluations: Sequence[Evaluation],
    lists: Sequence[IntArray],
    dataset: SequenceDataset,
) -> list[Judged]:
    """Compare distilled students with their control, and int8 files with fp32 and baselines."""
    who = [system.identity for system in systems]
    index = {(one.family, one.role, one.precision, one.variant): i for i, one in enumerate(who)}
    baselines = {one.system: i for i, one in enumerate(who) if one.family == "baseline"}
    values = [
        ndcg(evaluation.ranks(exclude_seen=dataset.exclude_seen), K) for evaluation in evaluations
    ]

    def gain(own: int, other: int) -> Gain:
        difference = values[own] - values[other]
        low, high = bootstrap_interval(difference)
        return Gain(mean=float(difference.mean()), low=low, high=high)

    headline, other_protocol = protocols(dataset)
    judged = []
    for i, (one, system) in enumerate(zip(who, systems, strict=True)):
        report = evaluations[i].report()
        control = index.get((one.family, "control", "fp32", None))
        fp32 = index.get((one.family, one.role, "fp32", None))
        is_distilled, is_int8 = one.role == "distilled", one.precision == "int8"
        is_shipped = is_distilled and is_int8 and one.variant is None
        has_control = is_distilled and control is not None
        quality = Quality(
            metrics=report[headline],
            metrics_other_protocol=report[other_protocol],
            gain_over_control=gain(i, control) if has_control else None,  # type: ignore[arg-type]
            gain_over_fp32=None if fp32 is None or not is_int8 else gain(i, fp32),
            gain_over_baselines={name: gain(i, other) for name, other in baselines.items()}
            if is_shipped and has_control and baselines
            else None,
            top10_overlap_with_fp32=None
            if fp32 is None or not is_int8
            else mean_overlap(lists[i], lists[fp32]),
        )
        judged.append(Judged(system, quality))
    return judged
