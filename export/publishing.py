"""Compares a new recommender with the one that serves, and puts it in its place."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError
from seqrec.files import atomic_directory
from seqrec.metrics import NOT_RANKED, ndcg, relative_gain

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tabulate import tabulate

from export.config import PublishConfig
from export.opening import CARD, HOW, RECOMMENDER, TEXT_MAP, require_trained_on, whole_files
from export.recommender import Recommender

MOST_USERS = 20_000
NUM_CALLS = 500  # of each, timed
CUTOFF = 10
AT_ONCE = 256


class Asked(NamedTuple):
    """What a user took, item ids, oldest first, and what came next."""

    history: list[str]
    target: str


@dataclass(frozen=True)
class Comparison:
    """A figure of the old one and the new one, and how many times that of the old this may be."""

    name: str
    values: Sequence[float]
    least: float = 0.0
    most: float = float("inf")

    @property
    def ratio(self) -> float:
        """The new one's over the old one's; 1 where both are zero."""
        old, new = self.values
        return new / old if old else 1.0 if new == 0 else float("inf")

    @property
    def holds(self) -> bool:
        """Whether the new one is as good as it has to be."""
        return self.least <= self.ratio <= self.most

    @property
    def bound(self) -> str:
        """What the ratio has to be."""
        return f">= {self.least:g}" if self.least else f"<= {self.most:g}"


def publish(config: PublishConfig) -> tuple[str, bool]:
    """Put a recommender in the place of another one, if it is as good.

    Returns:
        What was found, as text that ends in a newline, and whether it was published.

    Raises:
        ModelError: one of the two is damaged, or the new one was trained on other data.
        DataError: nobody can be asked.
    """
    new, old = config.model_dir, config.serving_dir
    names = whole_files(new)
    dataset = load_dataset(config.data_dir)
    require_trained_on(dataset, new, RECOMMENDER.open(new, HOW).description)
    if not old.exists():
        report, is_as_good = f"{old} is new: nothing served before\n", True
    else:
        whole_files(old, f"Move it away, and the new one serves: mv {old} {old}.old")
        asked = draw(dataset, config.since)
        report, is_as_good = compare(old, new, asked, dataset.exclude_seen, config)
    if is_as_good:
        with atomic_directory(old) as beside:
            for name in names:
                if (new / name).is_file():
                    shutil.copy(new / name, beside / name)
    return report, is_as_good


def draw(dataset: SequenceDataset, since: Path | None) -> list[Asked]:
    """Return users with a test target, up to `MOST_USERS`, whose history is not empty.

    Args:
        dataset: whose targets.
        since: an earlier data set; users count whose sequence was shorter there, or who are new.

    Raises:
        DataError: there is none.
    """
    targets = dataset.eval_targets("test")
    chosen = targets.positions > 0
    if since is not None:
        before, now = num_events(load_dataset(since)), num_events(dataset)
        grown = [now[user] > before.get(user, 0) for user in now]
        chosen &= np.array(grown)[targets.users]
    rows = np.flatnonzero(chosen)
    if not len(rows):
        raise DataError(
            f"{dataset.path} has no user with a test target"
            + (f" and new events since {since}" if since else "")
            + ". Nothing was published"
        )
    rows = np.random.default_rng(0).permutation(rows)[:MOST_USERS]
    ids = np.array([None, *dataset.item_ids], dtype=object)
    asked = []
    for user, position in zip(targets.users[rows], targets.positions[rows], strict=True):
        sequence = ids[dataset.sequence(user)]
        asked.append(Asked(sequence[:position].tolist(), sequence[position]))
    return asked


def num_events(dataset: SequenceDataset) -> dict[str, int]:
    """Return how many events each user has, by id, in the data set's order."""
    ids = pl.read_parquet(dataset.path / "user_ids.parquet")["user_id"].to_list()
    return dict(zip(ids, np.diff(dataset.offsets).tolist(), strict=True))


def compare(
    old: Path, new: Path, asked: list[Asked], exclude_seen: bool, config: PublishConfig
) -> tuple[str, bool]:
    """Return the comparison of two recommenders as text, and whether the new one is as good."""
    both = [Recommender.from_pretrained(folder) for folder in (old, new)]
    gains = [gain(one, asked, exclude_seen) for one in both]
    times = p50_in_turns(both, asked, exclude_seen)
    sizes = [size_mib(folder) for folder in (old, new)]
    ndcgs = [float(of_users.mean()) for of_users in gains]
    rows = [
        Comparison(f"NDCG@{CUTOFF}", ndcgs, least=config.min_ndcg),
        Comparison("p50, ms", times, most=config.max_latency),
        Comparison("MiB", sizes, most=config.max_size),
    ]
    table = tabulate(
        [[row.name, *row.values, row.ratio, row.bound, "" if row.holds else "no"] for row in rows],
        headers=["", "serving", "new", "ratio", "allowed", ""],
        floatfmt=".4f",
    )
    lines = [table, f"{len(asked):,} users"]
    if (found := relative_gain(gains[1], gains[0])) is not None:
        lines[-1] += f"; NDCG@{CUTOFF} {found[0]:+.1f} % [{found[1]:+.1f}, {found[2]:+.1f}]"
    is_as_good = all(row.holds for row in rows)
    lines.append(f"{new} serves in {old} now" if is_as_good else f"{old} stays as it is")
    return "\n".join(lines) + "\n", is_as_good


def gain(recommender: Recommender, asked: list[Asked], exclude_seen: bool) -> NDArray[np.float64]:
    """Return NDCG of each user, float64 (N,); 0 where the recommender knows none of the history."""
    ranks = np.full(len(asked), NOT_RANKED)
    known = [
        number
        for number, one in enumerate(asked)
        if not recommender.numbers.keys().isdisjoint(one.history)
    ]
    known.sort(key=lambda number: len(asked[number].history))  # a batch is as wide as its longest
    for start in range(0, len(known), AT_ONCE):
        numbers = known[start : start + AT_ONCE]
        histories = [asked[number].history for number in numbers]
        answers = recommender.recommend_batch(histories, CUTOFF, exclude_seen)
        for number, answer in zip(numbers, answers, strict=True):
            if (target := asked[number].target) in answer.item_ids:
                ranks[number] = answer.item_ids.index(target) + 1
    return ndcg(ranks, CUTOFF)


def p50_in_turns(both: list[Recommender], asked: list[Asked], exclude_seen: bool) -> list[float]:
    """Return the median time of an answer of each, in ms: they are asked in turns."""
    times: list[list[float]] = [[] for _ in both]
    for one in asked[:NUM_CALLS]:
        for recommender, took in zip(both, times, strict=True):
            if recommender.numbers.keys().isdisjoint(one.history):
                continue
            started = time.perf_counter()
            recommender.recommend(one.history, CUTOFF, exclude_seen)
            took.append(1e3 * (time.perf_counter() - started))
    return [float(np.median(took)) if took else 0.0 for took in times]


def size_mib(folder: Path) -> float:
    """Return the size of what a client needs."""
    names = set(whole_files(folder)) - {CARD, TEXT_MAP}
    return sum((folder / name).stat().st_size for name in names) / 2**20
