"""Sorts the rows of an item table into lists of one length, of which a request looks at a few.

As in an inverted file (Jegou et al., 2011) rows that are alike stand together: k-means finds the
clusters. Two rows are alike if users' states give them like scores: their distance is the root mean
square of the difference of their scores, and a row's length that of its scores. In directions in
which states do not vary rows may differ as they like.

A cluster is cut into lists by length, longest first. Scores are inner products, so that long rows
win most answers: they share lists, which are found among few, and what hardly anybody is ever
answered fills lists that hardly anybody looks at.

Shape letters: I items, N users, H width, C clusters, L lists, P places in a list.
"""

import warnings
from dataclasses import dataclass

from seqrec.histories import PAD

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SHORT, LONG, LARGE = 256, 1024, 4_000_000  # places of a list, below and from so many items on
LISTS_PER_CLUSTER = 4  # half a list of a cluster is empty on average: an eighth of its places
SAMPLED_PER_CLUSTER = 256  # rows that k-means looks at, as in faiss
LEAST_SAMPLED, MOST_SAMPLED = 64, 2**18  # a cluster, where those would be more rows than these
NUM_ITERATIONS = 15
NUM_TYPICAL = 64  # the mean of so many of its rows, the longest, is what a list is found by
NUM_OFFSET = 128  # users whose best scores in the lists are compared with what the keys say
STATES_AT_ONCE = 16
ROWS_AT_ONCE = 2**12


@dataclass(frozen=True)
class ItemLists:
    """Lists of items.

    Attributes:
        numbers: int32 (L, P), items 1..I, each once, or PAD where a place is empty; at least one
            place is. In a list they ascend, so that the lower of two that tie is found first.
        keys: float32 (L, H).
        offsets: float32 (L,). A state's inner product with a list's key, and its offset added, says
            what the best score in the list may be.
    """

    numbers: NDArray[np.int32]
    keys: FloatArray
    offsets: FloatArray

    @property
    def places(self) -> NDArray[np.int32]:
        """The place of each item, counted through all lists, int32 (I + 1,); of PAD an empty one.

        >>> ItemLists(np.int32([[2, 0], [1, 3]]), np.zeros((2, 1)), np.zeros(2)).places.tolist()
        [1, 2, 0, 3]
        """
        flat = self.numbers.ravel()
        places = np.empty(flat.max() + 1, dtype=np.int32)
        places[flat] = np.arange(len(flat))
        return places

    def promise(self, states: FloatArray) -> FloatArray:
        """Return how promising each list is for states (N, H): float32 (N, L)."""
        promise: FloatArray = states @ self.keys.T + self.offsets
        return promise


def list_size_for(num_items: int) -> int:
    """Return how long lists are: longer in the largest catalogues, or their keys took the time."""
    return SHORT if num_items < LARGE else LONG


def make_lists(rows: FloatArray, states: FloatArray, list_size: int, seed: int = 0) -> ItemLists:
    """Sort items into lists.

    Args:
        rows: float32 (I, H), row i is item i + 1.
        states: float32 (N, H), of some users.
        list_size: P.
        seed: of the clusters.
    """
    # |x M| with M M' the mean of s s' is the root mean square of s . x.
    sizes, directions = np.linalg.eigh(states.T @ states / len(states))
    scored = rows @ (directions * np.sqrt(sizes.clip(min=0))).astype(np.float32)
    clusters = _cluster(scored, max(1, len(rows) // (list_size * LISTS_PER_CLUSTER)), seed)
    lengths = np.sqrt(np.einsum("ih,ih->i", scored, scored))
    del scored  # as large as the rows
    order = np.lexsort((-lengths, clusters))
    ordered = clusters[order]
    in_cluster = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    in_list = in_cluster % list_size
    list_of = np.cumsum(in_list == 0) - 1
    typical = in_list < NUM_TYPICAL
    keys = _means(rows[order[typical]], list_of[typical])
    offsets = _offsets(rows, order, list_of, keys, states[:NUM_OFFSET])
    numbers = np.full((len(keys), list_size), PAD, dtype=np.int32)
    numbers[list_of, in_list] = order + 1
    if not (numbers == PAD).any():
        numbers = np.pad(numbers, ((0, 1), (0, 0)), constant_values=PAD)
        keys = np.pad(keys, ((0, 1), (0, 0)))
        offsets = np.pad(offsets, (0, 1), constant_values=-np.inf)
    empty_last = np.where(numbers == PAD, np.iinfo(np.int32).max, numbers)
    ascending = np.take_along_axis(numbers, np.argsort(empty_last, axis=1), axis=1)
    return ItemLists(ascending, keys, offsets)


def _cluster(rows: FloatArray, num_clusters: int, seed: int) -> NDArray[np.int64]:
    """Return each row's cluster, int64 (I,)."""
    # They take a second to load.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rng = np.random.default_rng(seed)
    num_sampled = min(num_clusters * SAMPLED_PER_CLUSTER, MOST_SAMPLED)
    num_sampled = min(len(rows), max(num_sampled, num_clusters * LEAST_SAMPLED))
    sample = rows[rng.choice(len(rows), num_sampled, replace=False)]
    means = KMeans(
        num_clusters, init="random", n_init=1, max_iter=NUM_ITERATIONS, tol=0, random_state=seed
    )
    with warnings.catch_warnings():  # that fewer rows differ than there are clusters: they may
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres = means.fit(sample).cluster_centers_.astype(np.float32)
    halves = (centres**2).sum(axis=1) / 2
    parts = range(0, len(rows), ROWS_AT_ONCE)
    return np.concatenate(
        [(rows[at : at + ROWS_AT_ONCE] @ centres.T - halves).argmax(axis=1) for at in parts]
    )


def _means(rows: FloatArray, list_of: NDArray[np.int64]) -> FloatArray:
    """Return the means of the lists' rows (L, H); each list's rows stand together."""
    starts = np.flatnonzero(np.diff(list_of, prepend=-1))
    means = np.add.reduceat(rows, starts) / np.diff(starts, append=len(rows))[:, None]
    return means.astype(np.float32)


def _offsets(
    rows: FloatArray,
    order: NDArray[np.int64],
    list_of: NDArray[np.int64],
    keys: FloatArray,
    states: FloatArray,
) -> FloatArray:
    """Return how much higher a list's best score is than what its key says, in the mean of users.

    Without it lists whose rows differ much would be looked at too late. In `order` the rows of a
    list stand together, as their lists do in `list_of`.
    """
    starts, total = np.flatnonzero(np.diff(list_of, prepend=-1)), np.zeros(len(keys))
    for at in range(0, len(states), STATES_AT_ONCE):
        some = states[at : at + STATES_AT_ONCE].T
        best = np.maximum.reduceat((rows @ some)[order], starts)
        total += (best - keys @ some).sum(axis=1)
    return (total / len(states)).astype(np.float32)
