"""How much of the exact answers an index finds, and how many lists that takes.

Some validation users of a data set decide how an index is made: half of them its lists, half how
many of these are looked at. Others decide how good it is said to be.
Nothing is asked of test targets.

Shape letters: N users, T history, S seen, H width, K answers, L lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError
from seqrec.histories import PAD
from seqrec.metrics import list_ranks, ndcg

import numpy as np
from onnx import ModelProto, helper

from export.contract import EXCLUDED, ITEMS, OUTPUT_NAMES, USER_STATE, K
from export.index.graph import MOST_EXCLUDED, Depth
from export.index.lists import ItemLists
from export.parity import ask, overlap
from export.recommender import FloatArray, IntArray, open_session

NUM_CHOOSING = 1_024  # users; or half of them, if there are fewer than twice as many
NUM_JUDGING = 2_048
CUTOFF = 10
ANSWERS = (CUTOFF, 100)  # up to these k an index answers; above, all items are scored
NUM_COMPARED = 16  # histories


@dataclass(frozen=True)
class Asked:
    """What a user is asked, and what they took next.

    Attributes:
        newest: int64 (1, T).
        seen: int64 (1, S), all of the history.
        target: what they took next.
    """

    newest: IntArray
    seen: IntArray
    target: int


@dataclass(frozen=True)
class Exact:
    """What scoring all items answers to N users.

    Attributes:
        states: float32 (N, H).
        items: int64 (N, K), K the largest of `ANSWERS`, or all items.
        scores: float32 (N, K), -inf where there is no answer.
    """

    states: FloatArray
    items: IntArray
    scores: FloatArray

    def parts(self, first: int) -> tuple["Exact", "Exact"]:
        """Return the answers to the first so many users, and to the others."""
        halves = ([part[at] for part in vars(self).values()] for at in np.s_[:first, first:])
        one, other = (Exact(*half) for half in halves)
        return one, other


def draw_users(dataset: SequenceDataset, max_len: int) -> tuple[list[Asked], list[Asked]]:
    """Draw validation users: those who choose, and those who judge."""
    targets = dataset.eval_targets("valid")
    drawn = np.random.default_rng(0).permutation(len(targets.users))[: NUM_CHOOSING + NUM_JUDGING]
    asked = []
    for user, position in zip(targets.users[drawn], targets.positions[drawn], strict=True):
        sequence = dataset.sequence(user).astype(np.int64)
        seen = sequence[:position]
        if len(seen):
            asked.append(Asked(seen[None, -max_len:], seen[None], int(sequence[position])))
    if len(asked) < 2:
        raise DataError(
            f"{dataset.path} has {len(asked)} validation users, and the recall of an index is "
            "measured on 2 or more. Prepare a larger log: python -m seqrec.prepare"
        )
    num_choosing = min(NUM_CHOOSING, len(asked) // 2)
    return asked[:num_choosing], asked[num_choosing:]


def score_all(model: ModelProto, asked: Sequence[Asked], num_items: int) -> Exact:
    """Ask the graph without an index; it puts out the states, too, but only here."""
    model.graph.output.append(helper.make_empty_tensor_value_info(USER_STATE))
    session = open_session(model.SerializeToString(), num_threads=1)
    model.graph.output.pop()
    k = np.array([min(max(ANSWERS), num_items)])
    answers = [
        session.run((USER_STATE, *OUTPUT_NAMES), {ITEMS: one.newest, EXCLUDED: one.seen, K: k})
        for one in asked
    ]
    states, items, scores = map(np.concatenate, zip(*answers, strict=True))
    return Exact(states, items, scores)


def choose_depths(lists: ItemLists, exact: Exact, recall: float) -> list[Depth]:
    """Return the fewest lists that hold so much of the exact answers, for each k of `ANSWERS`.

    Args:
        lists: of all items.
        exact: the answers.
        recall: a share from 0 to 1.
    """
    num_lists, list_size = lists.numbers.shape
    promise = lists.promise(exact.states)
    ranks = np.empty(promise.shape, dtype=np.int64)
    np.put_along_axis(
        ranks, np.argsort(-promise, axis=1, kind="stable"), np.arange(num_lists)[None], 1
    )
    needed = np.take_along_axis(ranks, lists.places[exact.items] // list_size, axis=1) + 1
    needed[np.isneginf(exact.scores)] = 1
    depths: list[Depth] = []
    for k in ANSWERS:
        sorted_needs = np.sort(needed[:, :k], axis=None)
        enough = sorted_needs[int(np.ceil(recall * len(sorted_needs))) - 1]
        depths.append(Depth(k, max(int(enough), depths[-1].num_lists if depths else 1)))
    return depths


def measure(file: Path, asked: Sequence[Asked], exact: Exact) -> dict[str, Any]:
    """Compare a file with an index with the answers of scoring all items.

    Returns:
        `recall`, by k the mean share of the exact answer that is in the index's; `ndcg@10` of both;
        `num_users`.

    Raises:
        ModelError: where it scores all items it does not score as the graph that it is made from.
    """
    session = open_session(file, num_threads=1)
    targets = np.array([one.target for one in asked])
    recall, gains = {}, {}
    for k in ANSWERS:
        expected = exact.items[:, :k], exact.scores[:, :k]
        answers = [ask(session, one.newest, one.seen, expected[0].shape[1]) for one in asked]
        found = tuple(map(np.concatenate, zip(*answers, strict=True)))
        shares = map(overlap, _listed(*found), _listed(*expected))
        recall[str(k)] = float(np.mean(list(shares)))
        if k == CUTOFF:
            for name, (items, _) in (("exact", expected), ("index", found)):
                gains[name] = float(ndcg(list_ranks(items, targets), k).mean())
    # With so many left out, PAD among them, all items are scored.
    nobody = np.full((1, MOST_EXCLUDED + 1), PAD)
    for one, scores in list(zip(asked, exact.scores, strict=True))[:NUM_COMPARED]:
        left_out = np.concatenate([one.seen, nobody], axis=1)
        _, found_scores = ask(session, one.newest, left_out, len(scores))
        if not np.array_equal(found_scores[0], scores):
            raise ModelError(
                "the index does not score as the recommender does that it is made of. Nothing was "
                "written. Export it again: python -m export.to_onnx"
            )
    return {"recall": recall, f"ndcg@{CUTOFF}": gains, "num_users": len(asked)}


def _listed(items: IntArray, scores: FloatArray) -> list[IntArray]:
    """Return each user's items, without what is no answer."""
    return [row[given > -np.inf] for row, given in zip(items, scores, strict=True)]
