"""How good the lists are that a system returns, and how systems compare.

Shape letters: N users, K answers.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import ModelError
from seqrec.metrics import CUTOFFS, Evaluation, bootstrap_interval, list_ranks, ndcg

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
Judged = tuple[System, Quality]


@dataclass(frozen=True)
class Answers:
    """What a system answered to all test users."""

    system: System
    evaluation: Evaluation
    ndcg: NDArray[np.float64]  # (N,), NDCG@10, headline protocol
    lists: IntArray  # (N, 20), headline protocol


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

    `histories` are those of some test users; of all if not given.

    Returns:
        int64 (N, K), K = 20 or the number of items; PAD where there is no answer.

    Raises:
        ModelError: the system does not keep its promises; see `check_answer`.
    """
    requests = make_requests(
        dataset,
        histories_before_test(dataset) if histories is None else histories,
        max_len=system.max_len,
        k=LIST_LENGTH,
        exclude_seen=exclude_seen,
        batch_size=batch_size,
    )
    label = f"{system.identity.label}, seen {'excluded' if exclude_seen else 'kept'}"
    progress = tqdm(requests, desc=label, unit="call", leave=False, mininterval=0.5)
    return np.concatenate([system.checked(request, dataset.num_items) for request in progress])


def affordable_batch_size(
    system: System, dataset: SequenceDataset, batch_size: int, patience_s: float = PATIENCE_S
) -> int:
    """Return how many users are asked at once: one, or a batch where all would take too long.

    The first users are asked both ways, so that answers to batches are checked, too. They are used
    if all users, one at a time, would need longer than `patience_s`, and if the two agree in 99 of
    100 items.

    Raises:
        ModelError: the system does not keep its promises; see `check_answer`.
    """
    histories = histories_before_test(dataset)
    first = histories[:batch_size]
    ask = partial(top_lists, system, dataset, exclude_seen=dataset.exclude_seen, histories=first)
    start = time.perf_counter()
    singly = ask()
    all_singly_s = (time.perf_counter() - start) / len(first) * len(histories)
    at_once = ask(batch_size=batch_size)
    is_alike = mean_overlap(singly, at_once, k=LIST_LENGTH) >= SAME_IN_BATCHES
    return batch_size if all_singly_s > patience_s and is_alike else 1


def evaluate_lists(
    system: System, dataset: SequenceDataset, batch_size: int = 1
) -> tuple[Evaluation, IntArray]:
    """Rank the test targets in a system's lists; also return those of the headline protocol."""
    targets = dataset.eval_targets("test").items
    excluding, keeping = (
        top_lists(system, dataset, exclude_seen=exclude_seen, batch_size=batch_size)
        for exclude_seen in (True, False)
    )
    evaluation = Evaluation(list_ranks(excluding, targets), list_ranks(keeping, targets))
    return evaluation, excluding if dataset.exclude_seen else keeping


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
    """Rank the test targets in what systems answer; one that may fail and does goes to `failed`."""
    answers: list[Answers] = []
    for system in systems:
        try:
            size = affordable_batch_size(system, dataset, batch_size)
            evaluation, lists = evaluate_lists(system, dataset, size)
        except ModelError as error:
            if not system.may_fail:
                raise
            failed.append(failure_of(system.identity, error))
            continue
        values = ndcg(evaluation.ranks(exclude_seen=dataset.exclude_seen), K)
        answers.append(Answers(system, evaluation, values, lists))
    return [(one.system, compare(one, answers, dataset)) for one in answers]


def failure_of(identity: Identity, error: Exception) -> Failure:
    """Return why a system has no figures, on one line, and log it."""
    reason = " ".join(str(error).split())
    logger.warning("%s failed: %s", identity.system, reason)
    return Failure(system=identity.system, precision=identity.precision_label, reason=reason)


def compare(one: Answers, every: Sequence[Answers], dataset: SequenceDataset) -> Quality:
    """Return a system's metrics; compare distilled students with controls, int8 with fp32."""
    who = one.system.identity
    students = {
        (other.system.identity.role, other.system.identity.precision_label): other
        for other in every
        if other.system.identity.family == who.family
    }
    control, fp32 = students.get(("control", "fp32")), students.get((who.role, "fp32"))
    fields: dict[str, Any] = {}
    if who.role == "distilled" and control is not None:
        fields["gain_over_control"] = gain(one, control)
        baselines = [other for other in every if other.system.identity.family == "baseline"]
        if baselines and who.precision_label == "int8":  # what is shipped
            fields["gain_over_baselines"] = {
                other.system.identity.system: gain(one, other) for other in baselines
            }
    if who.precision == "int8" and fp32 is not None:
        fields["gain_over_fp32"] = gain(one, fp32)
        fields["top10_overlap_with_fp32"] = mean_overlap(one.lists, fp32.lists)
    headline, other_protocol = protocols(dataset)
    report = one.evaluation.report()
    return Quality(
        metrics=report[headline], metrics_other_protocol=report[other_protocol], **fields
    )


def gain(one: Answers, other: Answers) -> Gain:
    """Return the difference in NDCG@10, paired over users."""
    difference = one.ndcg - other.ndcg
    low, high = bootstrap_interval(difference)
    return Gain(mean=float(difference.mean()), low=low, high=high)
