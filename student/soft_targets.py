"""Soft targets: what the teacher and the auxiliary teachers together answer to training prefixes.

The teacher, a language model, and the auxiliary teachers, students of each architecture that learn
from next items alone, err differently: the mean of their log-probabilities ranks better than each
of them (a logarithmic opinion pool; Hinton, 2002, eq. 1). The auxiliary teachers count alike; the
weight of the teacher beside them is chosen by validation, and may be zero: five weights are tried,
and the top of the parabola through what they give is taken. The best of the five would be so by
chance often, where few users validate. Items without training
events are left out: nobody has learned anything of them but their texts. Students learn from the
best K items of that mixture, which is worked out once per data set, once more for the refit, and
kept:

    meta.json        format, version, recipe, teacher_weight, tried_weights with their NDCG@10 in
                     validation, checksums of the arrays
    item_ids.npy     int32 (R, K), the best items per training prefix, best first
    log_probs.npy    float16 (R, K), their log-probabilities among all items with training events

Rows are those of the knowledge (see `seqrec.knowledge`).
Shape letters: R rows, K items kept, N prefixes at once, C items with training events.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seqrec.artifact import Kind
from seqrec.batching import cut_windows, make_batch, prefix_offsets
from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import SeqRecError
from seqrec.evaluation import (
    MAX_VALIDATION_SCORES,
    sample_targets,
    target_ranks,
    users_at_once,
)
from seqrec.files import atomic_directory
from seqrec.histories import pad_left
from seqrec.knowledge import Knowledge
from seqrec.metrics import ndcg

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from student.model import Student

logger = logging.getLogger(__name__)

TEACHER_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
MIN_USERS = 100  # with fewer to validate on, a choice would be chance
FALLBACK_WEIGHT = 0.25  # validation chose .15 to .5 on MovieLens-100K and two Amazon sets
WINDOWS_AT_ONCE = 64
ROWS_AT_ONCE = 512
ARRAYS = {"item_ids": np.int32, "log_probs": np.float16}
SOFT_TARGETS = Kind("seqrec-soft-targets", 1, "soft targets", SeqRecError, suffix=".npy")


@dataclass(frozen=True)
class SoftTargets:
    """Soft targets of a data set, memory-mapped."""

    path: Path
    meta: dict[str, Any]
    item_ids: NDArray[np.int32]  # (R, K)
    log_probs: NDArray[np.float16]  # (R, K)
    rows: IntArray  # prefix -> row or -1

    def __call__(self, prefixes: Tensor) -> tuple[Tensor, Tensor]:
        """Return items int64 (N, K), PAD where there is no answer, and log-probabilities."""
        rows = self.rows[prefixes.cpu().numpy()]
        known = (rows >= 0)[:, None]
        items = np.where(known, self.item_ids[rows], 0).astype(np.int64)
        log_probs = np.where(known, self.log_probs[rows], 0).astype(np.float32)
        return (
            torch.from_numpy(items).to(prefixes.device),
            torch.from_numpy(log_probs).to(prefixes.device),
        )


@dataclass(frozen=True)
class TeacherPool:
    """The teacher and the auxiliary teachers, who answer as one."""

    knowledge: Knowledge
    auxiliaries: Sequence[Student]  # none: the teacher answers alone
    candidates: Tensor  # int64 (C,), the items with training events: all others are left out
    device: torch.device

    @classmethod
    def of(
        cls,
        knowledge: Knowledge,
        auxiliaries: Sequence[Student],
        dataset: SequenceDataset,
        device: torch.device,
    ) -> "TeacherPool":
        """Gather teachers who were trained on `dataset`."""
        trained = torch.from_numpy(np.flatnonzero(dataset.train_counts() > 0)).to(device)
        return cls(knowledge, [model.to(device).eval() for model in auxiliaries], trained, device)

    @cached_property
    def teacher_rows(self) -> Tensor:
        """The teacher's vectors of the candidates, (C, D)."""
        vectors = self.knowledge.item_vectors[self.candidates.cpu().numpy()]
        return torch.from_numpy(vectors.astype(np.float32)).to(self.device)

    @cached_property
    def auxiliary_rows(self) -> list[Tensor]:
        """Each auxiliary teacher's rows of the candidates, (C, H)."""
        return [model.item_embedding.weight[self.candidates] for model in self.auxiliaries]

    @property
    def max_len(self) -> int:
        """How many of the newest items the auxiliary teachers read."""
        return max((model.config.max_len for model in self.auxiliaries), default=1)

    def by_teacher(self, rows: IntArray) -> Tensor:
        """Return the teacher's log-probabilities after known prefixes: (N, C)."""
        states = torch.from_numpy(self.knowledge.states[rows].astype(np.float32)).to(self.device)
        return (states @ self.teacher_rows.T).log_softmax(dim=1)

    def by_auxiliaries(self, states: Sequence[Tensor]) -> Tensor | None:
        """Return the auxiliaries' mean log-probabilities (N, C) for the states of each, (N, H)."""
        total = None
        for rows, own in zip(self.auxiliary_rows, states, strict=True):
            log_probs = (own @ rows.T).log_softmax(dim=1)
            total = log_probs if total is None else total + log_probs
        return None if total is None else total / len(states)

    def answer(self, rows: IntArray, states: Sequence[Tensor], teacher_weight: float) -> Tensor:
        """Return the scores of the mixture (N, C), not normalised."""
        auxiliaries = self.by_auxiliaries(states)
        if auxiliaries is None:
            return self.by_teacher(rows)
        if teacher_weight == 0:
            return auxiliaries
        return auxiliaries.lerp(self.by_teacher(rows), teacher_weight)


@torch.inference_mode()
def try_teacher_weights(
    pool: TeacherPool, dataset: SequenceDataset, batch_size: int = 256
) -> dict[str, float]:
    """Return the validation NDCG@10 of the mixture for each weight of the teacher.

    A user counts if what comes before the validation target is all training events: to that prefix
    the teacher's answer is known. Seen items are left out as in the headline figures.

    Returns:
        {"0.0": value, ...}; empty if fewer than 100 users count.
    """
    targets = sample_targets(
        dataset.eval_targets("valid"), MAX_VALIDATION_SCORES // dataset.num_items
    )
    batch_size = users_at_once(batch_size, dataset.num_items)
    last_prefixes = prefix_offsets(dataset)[1:] - 1
    lengths = dataset.train_lengths[targets.users]
    counted = np.flatnonzero((targets.positions == lengths) & (lengths > 0))
    if len(counted) < MIN_USERS:
        return {}
    values = np.zeros((len(TEACHER_WEIGHTS), len(counted)))
    for start in range(0, len(counted), batch_size):
        chosen = counted[start : start + batch_size]
        histories = [dataset.train_sequence(user) for user in targets.users[chosen]]
        shown = torch.from_numpy(pad_left(histories, pool.max_len)).to(pool.device)
        states = [model.encode(shown, last_only=True)[:, -1] for model in pool.auxiliaries]
        rows = pool.knowledge.rows[last_prefixes[targets.users[chosen]]]
        wanted = torch.from_numpy(targets.items[chosen])
        seen = torch.from_numpy(pad_left(histories)) if dataset.exclude_seen else None
        for number, weight in enumerate(TEACHER_WEIGHTS):
            scores = torch.full((len(chosen), dataset.num_items + 1), -torch.inf)
            scores[:, pool.candidates.cpu()] = pool.answer(rows, states, weight).cpu()
            ranks = target_ranks(scores, wanted, seen).numpy()
            values[number, start : start + len(chosen)] = ndcg(ranks, 10)
    return {str(weight): float(v.mean()) for weight, v in zip(TEACHER_WEIGHTS, values, strict=True)}


def best_weight(tried: dict[str, float]) -> float:
    """Return where a parabola through the tried weights, {"0.0": NDCG@10, ...}, is highest.

    To two digits; where it has no top between 0 and 1, the better end.

    >>> best_weight({"0.0": 0.3, "0.5": 0.4, "1.0": 0.2})
    0.42
    """
    values = list(tried.values())
    bend, slope, _ = np.polyfit([float(weight) for weight in tried], values, 2)
    if bend > -1e-9:
        return float(values[-1] > values[0])
    return round(float(np.clip(-slope / (2 * bend), 0, 1)), 2)


@torch.inference_mode()
def answers(
    pool: TeacherPool, dataset: SequenceDataset, teacher_weight: float, top_k: int
) -> Iterator[tuple[IntArray, NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (rows (N,), best items (N, K), their log-probabilities (N, K)) for all known rows."""
    offsets = prefix_offsets(dataset)
    windows = cut_windows(dataset, pool.max_len, whole=True)
    order = np.argsort(windows.ends - windows.starts, kind="stable")
    steps = range(0, len(order), WINDOWS_AT_ONCE)
    for start in tqdm(steps, desc="soft targets", unit="batch", mininterval=1):
        batch = make_batch(dataset, offsets, windows, order[start : start + WINDOWS_AT_ONCE])
        rows = np.full(batch.prefixes.shape, -1)
        asked = batch.prefixes.numpy() >= 0
        rows[asked] = pool.knowledge.rows[batch.prefixes.numpy()[asked]]
        known, items = torch.from_numpy(rows >= 0), batch.items.to(pool.device)
        states = [model.encode(items)[known] for model in pool.auxiliaries]
        rows = rows[rows >= 0]
        at_once = users_at_once(ROWS_AT_ONCE, dataset.num_items)
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            mixed = pool.answer(rows[part], [own[part] for own in states], teacher_weight)
            best, chosen = mixed.log_softmax(dim=1).topk(top_k, dim=1)
            yield rows[part], pool.candidates[chosen].cpu().numpy(), best.cpu().numpy()


def prepare_soft_targets(
    folder: Path,
    dataset: SequenceDataset,
    knowledge: Knowledge,
    auxiliaries: Sequence[Student],
    *,
    teacher_weight: float | None,
    top_k: int,
    recipe: dict[str, Any],
    device: torch.device,
) -> SoftTargets:
    """Return the soft targets in `folder`, made now unless it holds those of this recipe.

    Args:
        folder: where they are kept.
        dataset: its training prefixes are answered.
        knowledge: the teacher's.
        auxiliaries: who answer with it; may be none.
        teacher_weight: of the teacher in the mixture, 0 to 1; None: by validation.
        top_k: items kept per prefix.
        recipe: all that decides the result, as JSON values.
        device: where to compute.
    """
    kept = _load(folder, recipe, knowledge, dataset.num_items)
    if kept is not None:
        return kept
    pool = TeacherPool.of(knowledge, auxiliaries, dataset, device)
    tried: dict[str, float] = {}
    if not auxiliaries:
        teacher_weight = 1.0
    elif teacher_weight is None:
        tried = try_teacher_weights(pool, dataset)
        teacher_weight = best_weight(tried) if tried else FALLBACK_WEIGHT
    with atomic_directory(folder) as unfinished:
        shape = (len(knowledge.states), min(top_k, len(pool.candidates)))
        maps = {
            name: np.lib.format.open_memmap(unfinished / f"{name}.npy", "w+", dtype, shape)
            for name, dtype in ARRAYS.items()
        }
        for rows, items, log_probs in answers(pool, dataset, teacher_weight, shape[1]):
            maps["item_ids"][rows], maps["log_probs"][rows] = items, log_probs
        for array in maps.values():
            array.flush()
        description = {"teacher_weight": teacher_weight, "tried_weights": tried, "recipe": recipe}
        SOFT_TARGETS.write(unfinished, description)
    made = _load(folder, recipe, knowledge, dataset.num_items)
    assert made is not None
    return made


def _load(
    folder: Path, recipe: dict[str, Any], knowledge: Knowledge, num_items: int
) -> SoftTargets | None:
    """Open the soft targets of a recipe; None if there are none, or, with a warning, damaged ones.

    They follow from what else is kept, so that they can be made anew.
    """
    if not folder.is_dir():
        return None
    try:
        opened = SOFT_TARGETS.open(folder, "They are made anew")
        if opened.description.get("recipe") != recipe:
            return None
        with opened.reading():
            arrays = {name: opened.array(name, dtype, 2) for name, dtype in ARRAYS.items()}
            shapes = {name: array.shape for name, array in arrays.items()}
            if len(set(shapes.values())) > 1 or len(arrays["item_ids"]) != len(knowledge.states):
                raise ValueError(f"{shapes}, expected {len(knowledge.states)} rows in each")
            items = arrays["item_ids"]
            if items.min(initial=1) < 1 or items.max(initial=1) > num_items:
                raise ValueError(f"item_ids.npy has items outside 1..{num_items}")
        return SoftTargets(folder, opened.description, **arrays, rows=knowledge.rows)
    except SeqRecError as error:
        logger.warning("%s", error)
        return None
