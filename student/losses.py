"""What a student learns from: the item that came next, and the teachers' opinion of what comes.

Shape letters: P training positions, I items, K items with a share in the answer, M negatives, H
width of the student.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

LOWEST = torch.finfo(torch.float32).min
ALMOST_NOTHING = 1e-6  # the least share of the rest
SLICE = 256  # positions; times 1,024 items, a megabyte of scores


class _Softmax(torch.autograd.Function):
    """log sum_j exp(states_i . rows_j), and the scores of named columns, without rows of their own.

    Slices of positions stay in a core's cache while they are scored, exponentiated and summed, as
    in fused linear cross-entropy (Liger Kernel, arXiv:2410.10989). Scores of named columns are read
    from the slice, and their gradients put back into it: to fetch K rows for each position and
    multiply them again would take as long as all the rest of a training step.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, rows: Tensor, named: Tensor, blanked: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # (P, H), (M, H), int64 (P, K) columns, int64 (P, B) columns left out of the sum
        # -> (P,), (P, K)
        odds = states.new_empty(len(states), len(rows))
        chosen = states.new_empty(named.shape)
        totals, highest = states.new_empty(len(states), 1), states.new_empty(len(states), 1)
        for part in _slices(len(states)):
            scores = torch.mm(states[part], rows.T, out=odds[part])
            torch.gather(scores, 1, named[part], out=chosen[part])
            if blanked is not None:
                scores.scatter_(1, blanked[part], LOWEST)
            highest[part] = scores.amax(dim=1, keepdim=True)
            totals[part] = scores.sub_(highest[part]).exp_().sum(dim=1, keepdim=True)
        ctx.save_for_backward(states, rows, named, odds, totals)
        return (totals.log() + highest).squeeze(1), chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sum: Tensor, of_chosen: Tensor) -> tuple[Tensor, Tensor, None, None]:
        states, rows, named, odds, totals = ctx.saved_tensors
        of_states, of_rows = torch.empty_like(states), torch.zeros_like(rows)
        weights = of_sum[:, None] / totals
        for part in _slices(len(states)):
            pull = odds[part] * weights[part]
            pull.scatter_add_(1, named[part], of_chosen[part])
            torch.mm(pull, rows, out=of_states[part])
            of_rows.addmm_(pull.T, states[part])
        return of_states, of_rows, None, None


def _slices(length: int) -> list[slice]:
    return [slice(start, start + SLICE) for start in range(0, length, SLICE)]


def soft_cross_entropy(
    states: Tensor,
    table: Tensor,
    items: Tensor,
    weights: Tensor,
    negatives: Tensor | None = None,
    *,
    num_candidates: int | None = None,
) -> Tensor:
    """Cross-entropy of the student's softmax with an answer spread over several items.

    With q the student's probabilities it is the sum over positions and items of -weight * log q,
    divided by P. With one item of weight 1 that is the usual loss; with a teacher's probabilities
    as weights it is the distance of Hinton et al. (arXiv:1503.02531, eq. 1) at temperature 1, up to
    the teacher's entropy, a constant. What an answer gives to the items that it does not name, it
    gives to all of them together: q of the rest is 1 less those of the named.

    With `negatives` the softmax's sum over the catalogue is estimated: an answer's own items enter
    as they are, the M sampled ones stand for all others, each for as many as it has to (the
    correction for uniform sampling; Bengio and Senecal, 2008).

    Args:
        states: float (P, H), the student's.
        table: float (I + 1, H), rows of the items that take part; row PAD is no item.
        items: int64 (P, K), 1..I, or PAD for the rest; an item stands in a row once.
        weights: float (P, K), not below 0.
        negatives: int64 (M,), different items, uniformly sampled; None: the sum is exact.
        num_candidates: with `negatives`, how many items they were drawn from, those of the answers
            among them; by default I.
    """
    is_rest = items == 0
    if negatives is None:
        log_sum, chosen = _Softmax.apply(states, table[1:], (items - 1).clamp(min=0), None)
        log_named = chosen.masked_fill(is_rest, LOWEST).logsumexp(dim=1)
        named_share = (log_named - log_sum).clamp(max=-ALMOST_NOTHING)
        log_rest = log_sum + (-torch.expm1(named_share)).log()
    else:
        chosen = torch.bmm(F.embedding(items, table), states[:, :, None]).squeeze(2)  # (P, K)
        log_named = chosen.masked_fill(is_rest, LOWEST).logsumexp(dim=1)
        num_sampled = len(negatives)
        if num_candidates is None:
            num_candidates = len(table) - 1
        # A sampled item that belongs to the answer is there already: its column is blanked. The
        # last column is nobody's, blanked where there is nothing to blank.
        ascending, columns = negatives.sort()
        place = torch.searchsorted(ascending, items).clamp(max=num_sampled - 1)
        column = torch.where(ascending[place] == items, columns[place], num_sampled)
        blanked = F.pad(column, (0, 1), value=num_sampled)  # (P, K + 1)
        sampled_rows = F.embedding(F.pad(negatives, (0, 1)), table)
        sampled, _ = _Softmax.apply(states, sampled_rows, blanked[:, :0], blanked)
        others = (num_candidates - (~is_rest).sum(dim=1)).clamp(min=1)
        standing = (blanked == num_sampled).sum(dim=1) - 1 + num_sampled - items.shape[1]
        log_rest = sampled + (others / standing.clamp(min=1)).log()
        log_sum = torch.logaddexp(log_named, log_rest)
    of_rest = (weights * is_rest).sum(dim=1)
    named = (weights.masked_fill(is_rest, 0.0) * chosen).sum(dim=1)
    return (weights.sum(dim=1) * log_sum - named - of_rest * log_rest).mean()


def mixed_answer(
    targets: Tensor,
    teacher_items: Tensor,
    teacher_log_probs: Tensor,
    kd_weights: Tensor,
    *,
    temperature: float = 1.0,
    keep_rest: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mix the item that came next with the teachers' answer.

    Args:
        targets: int64 (P,), 1..I, or PAD where nothing came next.
        teacher_items: int64 (P, K), 1..I, or PAD in all columns where there is no answer.
        teacher_log_probs: float (P, K), over the whole catalogue.
        kd_weights: float (P,), what the teachers get, 0 to 1; nobody gets the rest where nothing
            came next, and the target all where they are silent.
        temperature: above 1 evens out what the named items get.
        keep_rest: whether what the teachers give to items that they do not name is the rest's. If
            not, the named get it all: the answer is sharper than the teachers are.

    Returns:
        items int64 (P, K + 2) and weights float (P, K + 2) for `soft_cross_entropy`. The weights of
        a position add up to 1, to its KD weight where nothing came next.
    """
    silent = teacher_items[:, :1] == 0
    heard = kd_weights[:, None].masked_fill(silent, 0.0)
    mass = teacher_log_probs.exp().sum(dim=1, keepdim=True).clamp(max=1) if keep_rest else 1.0
    opinion = (teacher_log_probs / temperature).softmax(dim=1) * mass * heard
    rest = heard * (1 - mass)
    # Where the teachers name the target, their column takes its weight: an item stands once.
    named = (teacher_items == targets[:, None]) & (targets[:, None] != 0)
    truth = (1.0 - heard[:, 0]) * (targets != 0)
    opinion = opinion + named * truth[:, None]
    alone = ~named.any(dim=1)
    items = torch.cat([(targets * alone)[:, None], teacher_items], dim=1)
    weights = torch.cat([(truth * alone)[:, None], opinion, rest], dim=1)
    return F.pad(items, (0, 1)), weights
