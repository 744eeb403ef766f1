"""Rows of the item table for items that training never saw, from their texts.

A ridge regression maps the language model's reading of an item's text to the row that training gave
the item; it is fitted on items with training events, and used for those without. So an item can be
recommended before anyone took it. (The idea of a map from content to trained item factors is that
of Gantner et al., ICDM 2010, and of van den Oord et al., NeurIPS 2013.)

Shape letters: I items, N items of a group, M users, L width of the language model, H width of the
student, P penalties.
"""

from collections.abc import Sequence

from seqrec.data import IntArray, SequenceDataset
from seqrec.metrics import pad_left

import numpy as np
import torch
from numpy.typing import NDArray

from student.model import Student
from student.text_map import TextMap

NUM_FOLDS = 5
NUM_USERS, STATES_AT_ONCE = 2048, 256
MAX_ITEMS, ITEMS_AT_ONCE = 100_000, 2**16
TOP_K = 10
# Penalties that are tried, as multiples of the mean variance of a dimension of the texts.
PENALTIES = tuple(10.0**exponent for exponent in np.arange(-3, 3.01, 0.5))

Matrix = NDArray[np.float64]


def fit_text_map(
    table: NDArray[np.floating],
    vectors: NDArray[np.floating],
    counts: IntArray,
    *,
    states: NDArray[np.floating],
    share: float = 1.0,
    text_stats: NDArray[np.floating] | None = None,
) -> TextMap:
    """Fit the map from text to table row on the items with training events.

    Minimises sum_i w_i |x_i W + b - row_i|^2 + penalty |W|^2. An item's weight w = n / (n + median)
    grows with its n training events: a row that was trained twice is mostly where it started. The
    penalty is the one with the least weighted error on items that were left out, in five folds.

    A regression predicts rows that are shorter than those it learned from, and an item with such a
    row would hardly ever be recommended. So W and b are multiplied by one factor: that with which
    left-out items, each fold beside the others' own rows, take a given share of the places in the
    users' top 10 that the same items take with their own rows. Every place is taken from an item
    that is known better, so the share is a choice: between new items being found, and old ones. No
    target of validation or test enters. Of more than 100,000 items with events so many are drawn:
    the map has far fewer numbers than they have.

    Args:
        table: (I + 1, H), trained; row PAD is ignored.
        vectors: (I + 1, L), the texts' vectors, standardised; row PAD is ignored.
        counts: int64 (I + 1,), training events of each item.
        states: (M, H), users' states, from `user_states`.
        share: how often an item without events is to be recommended; 1: as the average item is.
        text_stats: (2, L), what standardised `vectors`; kept with the map for later items.

    Raises:
        ValueError: the shapes disagree, or fewer than two items have training events.
    """
    if not len(table) == len(vectors) == len(counts):
        raise ValueError(
            f"{len(table)} rows, {len(vectors)} vectors and {len(counts)} counts, expected equal"
        )
    known = np.flatnonzero(counts[1:] > 0) + 1
    if len(known) < 2:
        raise ValueError(f"{len(known)} items with training events, expected at least 2")
    if len(known) > MAX_ITEMS:
        known = np.sort(np.random.default_rng(0).permutation(known)[:MAX_ITEMS])
    texts, rows = vectors[known].astype(np.float64), table[known].astype(np.float64)
    weights = counts[known] / (counts[known] + np.median(counts[known]))
    # The order of a catalogue may mean something; a fixed shuffle does not.
    folds = np.random.default_rng(0).permutation(len(known)) % NUM_FOLDS
    penalty, predicted = _leave_out(texts, rows, weights, folds)
    (weight,), (bias,) = _solve(texts, rows, weights, [penalty])
    factor = fair_factor(states, rows, predicted, folds, share)
    if text_stats is None:
        text_stats = np.stack([np.zeros(texts.shape[1]), np.ones(texts.shape[1])])
    return TextMap(
        weight=(weight * factor).astype(np.float32),
        bias=(bias * factor).astype(np.float32),
        text_stats=text_stats.astype(np.float32),
    )


def _leave_out(
    texts: Matrix, rows: Matrix, weights: Matrix, folds: IntArray
) -> tuple[float, Matrix]:
    """Choose the penalty, and predict each of N items' rows from other folds by it: (N, H)."""
    errors = np.zeros(len(PENALTIES))
    splits = [(folds != fold, folds == fold) for fold in np.unique(folds)]
    for inside, outside in splits:
        solutions, biases = _solve(texts[inside], rows[inside], weights[inside], PENALTIES)
        for number, (weight, bias) in enumerate(zip(solutions, biases, strict=True)):
            error = (texts[outside] @ weight + bias - rows[outside]) ** 2
            errors[number] += (weights[outside] * error.sum(axis=1)).sum()
    penalty = PENALTIES[int(errors.argmin())]
    predicted = np.empty_like(rows)
    for inside, outside in splits:  # again, so that not all penalties' predictions are held
        (weight,), (bias,) = _solve(texts[inside], rows[inside], weights[inside], [penalty])
        predicted[outside] = texts[outside] @ weight + bias
    return penalty, predicted


def fair_factor(
    states: NDArray[np.floating],
    rows: Matrix,
    predicted: Matrix,
    folds: IntArray,
    share: float = 1.0,
) -> float:
    """Return the factor at which predicted rows are recommended so often, compared with own rows.

    Each fold's items in turn get their predicted rows, times the factor s; the others keep theirs.
    Of a user's K best, the fold's j-th best item, of score s q_j, takes a place if it beats the
    others' (K + 1 - j)-th best score: from s = that score / q_j on. With their own rows all folds
    together take K places of each user's, so s is the (share K M)-th smallest of these ratios, or 1
    if that is less: predictions are not shortened.

    Args:
        states: (M, H), users.
        rows: (N, H), the items' own.
        predicted: (N, H), from their texts, each by a map that did not know the item.
        folds: int (N,), which items were left out together.
        share: places to take, as a share of those that the items' own rows take.
    """
    members = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    k = min(TOP_K, len(folds) - max(map(len, members)))
    ratios = []
    for start in range(0, len(states), STATES_AT_ONCE):
        chunk = states[start : start + STATES_AT_ONCE]
        own, new = chunk @ rows.T, chunk @ predicted.T  # (C, N)
        for left_out in members:
            others = np.partition(np.delete(own, left_out, axis=1), -k, axis=1)[:, -k:]
            best = -np.sort(-new[:, left_out], axis=1)[:, :k]  # (C, J), best first
            bar = np.sort(others, axis=1)[:, : best.shape[1]]  # the K-th best first
            # A score below zero does not rise with s.
            ratios.append((bar / np.where(best > 0, best, np.nan)).ravel())
    reached = np.sort(np.concatenate(ratios))
    reached = reached[np.isfinite(reached)]
    if len(reached) == 0:
        return 1.0  # no text says anything of use: there is nothing to stretch
    places = min(max(round(share * k * len(states)), 1), len(reached))
    return max(float(reached[places - 1]), 1.0)


def _solve(
    texts: Matrix, rows: Matrix, weights: Matrix, penalties: Sequence[float]
) -> tuple[Matrix, Matrix]:
    """Solve the weighted ridge regression for each of P penalties: (P, L, H) and (P, H)."""
    text_mean = np.average(texts, axis=0, weights=weights)
    row_mean = np.average(rows, axis=0, weights=weights)
    centred = texts - text_mean
    gram = centred.T @ (centred * weights[:, None])  # (L, L)
    moments = centred.T @ ((rows - row_mean) * weights[:, None])  # (L, H)
    # One decomposition serves all penalties.
    values, axes = np.linalg.eigh(gram)
    values = values.clip(min=0)
    unit = values.mean() or 1.0
    projected = axes.T @ moments
    solutions = np.stack([axes @ (projected / (values + p * unit)[:, None]) for p in penalties])
    return solutions, row_mean - text_mean @ solutions


@torch.inference_mode()
def user_states(student: Student, dataset: SequenceDataset) -> NDArray[np.float32]:
    """Return states of up to 2,048 users after their training events, (M, H)."""
    users = np.flatnonzero(dataset.train_lengths > 0)
    users = np.random.default_rng(0).permutation(users)[:NUM_USERS]
    device = student.item_embedding.weight.device
    states = []
    for start in range(0, len(users), STATES_AT_ONCE):
        chosen = users[start : start + STATES_AT_ONCE]
        items = pad_left([dataset.train_sequence(user) for user in chosen], student.config.max_len)
        encoded = student.encode(torch.from_numpy(items).to(device), last_only=True)
        states.append(encoded[:, -1].float().cpu().numpy())
    return np.concatenate(states)


def fill_untrained_rows(
    student: Student, text_map: TextMap, vectors: NDArray[np.floating], counts: IntArray
) -> None:
    """Give the items without a training event the rows that their texts predict.

    Args:
        student: changed in place; the rows of other items, and of PAD, stay as they are.
        text_map: from `fit_text_map` on this student's table.
        vectors: (I + 1, L), the texts' vectors, standardised.
        counts: int64 (I + 1,), training events of each item.
    """
    untrained = np.flatnonzero(counts[1:] == 0) + 1
    table = student.item_embedding.weight
    with torch.no_grad():
        for start in range(0, len(untrained), ITEMS_AT_ONCE):
            items = untrained[start : start + ITEMS_AT_ONCE]
            rows = torch.from_numpy(text_map.rows(vectors[items]))
            table[torch.from_numpy(items)] = rows.to(table.device)
