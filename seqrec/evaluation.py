"""The ranks of all targets among all items, by the scores of a model.

Ties are broken the same way always: of two items with the same score the lower item number ranks
first, as ONNX's TopK does. Shape letters: N users, I items.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from seqrec.data import EvalTargets, SequenceDataset
from seqrec.histories import PAD, pad_left
from seqrec.metrics import NOT_RANKED, Evaluation, ndcg
from seqrec.processes import gathered

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

USERS_AT_ONCE = 256
SCORES_AT_ONCE = 2**25  # 128 MiB, and a few times that in between
MAX_VALIDATION_SCORES = 5 * 10**9
Part = Literal["valid", "test"]
ScoreFunction = Callable[[Tensor], Tensor]


def target_ranks(scores: Tensor, targets: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Rank each user's target among all items.

    Args:
        scores: float (N, I + 1); column PAD is no item and is ignored.
        targets: int64 (N,), 1..I.
        excluded: int64 (N, M), items left out of the ranking, PAD where there are fewer. A target
            that is itself excluded cannot be recommended: its rank is `NOT_RANKED`.

    Returns:
        int64 (N,), 1 is best.

    Raises:
        ValueError: a score is NaN.

    >>> target_ranks(torch.tensor([[9.0, 1.0, 3.0, 3.0]]), torch.tensor([3])).tolist()
    [2]
    """
    if scores.amax(dim=1).isnan().any():  # the largest of anything and NaN is NaN
        raise ValueError("scores hold NaN")
    scores = scores.clone()
    scores[:, PAD] = -torch.inf
    hidden = torch.zeros_like(targets, dtype=torch.bool)
    if excluded is not None:
        hidden = (excluded == targets[:, None]).any(dim=1)
        scores.scatter_(1, excluded, -torch.inf)
    target_scores = scores.gather(1, targets[:, None])  # (N, 1)
    better = (scores > target_scores).sum(dim=1)
    before = torch.zeros_like(better)  # of equal score and lower number
    # Ties are rare, and to look for them takes most of the time: only where there are any.
    tied = ((scores >= target_scores).sum(dim=1) - better > 1).nonzero().squeeze(1)
    columns = torch.arange(scores.shape[1], device=scores.device)
    lower = columns < targets[tied, None]
    before[tied] = ((scores[tied] == target_scores[tied]) & lower).sum(dim=1)
    return torch.where(hidden, NOT_RANKED, better + before + 1)


def evaluation_batches(
    dataset: SequenceDataset, targets: EvalTargets, batch_size: int
) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[np.int32]]]]:
    """Yield (indices into `targets`, target items, whole histories), longest histories together."""
    order = np.argsort(-targets.positions, kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        histories = [
            dataset.sequence(user)[:position]
            for user, position in zip(targets.users[chosen], targets.positions[chosen], strict=True)
        ]
        yield chosen, targets.items[chosen], histories


def users_at_once(wanted: int, num_items: int) -> int:
    """Return how many users' scores over the catalogue may be held at once, at most `wanted`."""
    return max(min(wanted, SCORES_AT_ONCE // num_items), 1)


def sample_targets(targets: EvalTargets, at_most: int) -> EvalTargets:
    """Return the targets, or a sample of them that is always the same, users in order."""
    if len(targets.users) <= at_most:
        return targets
    drawn = np.random.default_rng(0).permutation(len(targets.users))[: max(at_most, 1)]
    drawn.sort()
    return EvalTargets(targets.users[drawn], targets.positions[drawn], targets.items[drawn])


def judged_targets(dataset: SequenceDataset, part: Part) -> EvalTargets:
    """Return the targets that `evaluate` ranks: all, or in validation a sample of very many."""
    targets = dataset.eval_targets(part)
    if part == "test":
        return targets
    return sample_targets(targets, MAX_VALIDATION_SCORES // dataset.num_items)


def within_catalogue(
    scores: Tensor, dataset: SequenceDataset, targets: NDArray[np.int64]
) -> Tensor:
    """Return scores (N, I + 1) with -inf for items of other catalogues than the target's, (N,)."""
    if len(dataset.catalogues) == 1:
        return scores
    ends = np.cumsum([0, *dataset.catalogues.values()])
    own = dataset.catalogue_of(targets)
    first, last = (torch.from_numpy(ends[k])[:, None] for k in (own, own + 1))
    items = torch.arange(scores.shape[1])
    return scores.masked_fill((items <= first) | (items > last), -torch.inf)


def evaluate(
    score: ScoreFunction,
    dataset: SequenceDataset,
    part: Part,
    *,
    max_len: int,
    batch_size: int = USERS_AT_ONCE,
    device: torch.device | str = "cpu",
    accelerator: Accelerator | None = None,
) -> Evaluation:
    """Rank every target of a part of the split among all items, under both protocols.

    Where several catalogues are united it is ranked among the items of its own.

    Args:
        score: maps left-padded histories, int64 (B, T), to scores (B, I + 1), T at most `max_len`.
        dataset: where histories and targets come from.
        part: "valid" while anything is still being chosen; "test" once, at the end. Of validation
            targets a fixed sample is taken if users times items are more than 5 * 10^9: 5,000 of
            them with a million items.
        max_len: how many of the newest items the model is shown. Seen items are excluded over the
            whole history all the same.
        batch_size: users at once; fewer if the catalogue is so large that their scores would be
            more than 128 MiB.
        device: where `score` wants its input.
        accelerator: of several processes, each ranks a part of the targets, every one of them
            once, and all get the whole; all have to call this. None: this process ranks all.
    """
    protocols = (True, False)
    ranks = _ranks(score, dataset, part, protocols, max_len, batch_size, device, accelerator)
    return Evaluation(*ranks)


def validation_ndcg(score: ScoreFunction, dataset: SequenceDataset, **how: Any) -> float:
    """Return what training chooses by: NDCG@10 on the validation targets, headline protocol.

    Arguments as of `evaluate`. Of several catalogues it is the mean of theirs.
    """
    return float(np.mean(list(validation_ndcgs(score, dataset, **how).values())))


def validation_ndcgs(
    score: ScoreFunction,
    dataset: SequenceDataset,
    *,
    max_len: int,
    batch_size: int = USERS_AT_ONCE,
    device: torch.device | str = "cpu",
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """Return the same for each catalogue, by its name."""
    protocols = (dataset.exclude_seen,)
    ranks = _ranks(score, dataset, "valid", protocols, max_len, batch_size, device, accelerator)
    values = by_catalogue(ndcg(ranks[0], 10), dataset, "valid")
    return {name: float(part.mean()) for name, part in values.items()}


def by_catalogue(
    values: NDArray[Any], dataset: SequenceDataset, part: Part
) -> dict[str, NDArray[Any]]:
    """Return the values of targets, (N, ...), those of each catalogue that has any, by its name."""
    of = dataset.catalogue_of(judged_targets(dataset, part).items)
    parts = {name: values[of == k] for k, name in enumerate(dataset.catalogues)}
    return {name: part for name, part in parts.items() if len(part)}


@torch.inference_mode()
def _ranks(
    score: ScoreFunction,
    dataset: SequenceDataset,
    part: Part,
    protocols: Sequence[bool],  # whether seen items are left out
    max_len: int,
    batch_size: int,
    device: torch.device | str,
    accelerator: Accelerator | None,
) -> NDArray[np.int64]:
    """Return the ranks under each protocol, (len(protocols), N)."""
    targets = judged_targets(dataset, part)
    batch_size = users_at_once(batch_size, dataset.num_items)
    first, step = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    batches = itertools.islice(evaluation_batches(dataset, targets, batch_size), first, None, step)

    def parts() -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.int64]]]]:
        for chosen, items, histories in batches:
            shown = torch.from_numpy(pad_left(histories, max_len)).to(device)
            scores, wanted = score(shown).float().cpu(), torch.from_numpy(items)
            scores = within_catalogue(scores, dataset, items)
            seen = torch.from_numpy(pad_left(histories)) if any(protocols) else None
            excluded = [seen if exclude_seen else None for exclude_seen in protocols]
            yield chosen, [target_ranks(scores, wanted, items).numpy() for items in excluded]

    ranks = np.empty((len(protocols), len(targets.users)), dtype=np.int64)
    for chosen, ranked in gathered(accelerator, parts()):
        ranks[:, chosen] = ranked
    return ranks


def popularity_scores(dataset: SequenceDataset) -> ScoreFunction:
    """Return the popularity baseline: every user gets the items most frequent in training."""
    counts = torch.from_numpy(dataset.train_counts()).float()  # (I + 1,)
    return lambda items: counts.expand(len(items), -1)
