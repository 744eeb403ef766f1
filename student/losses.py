"""What a student learns from: the item that came next, and the teachers' opinion of what comes.

Shape letters: P training positions, I items, K items with a share in the answer, M negatives, H
width of the student.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

LOWEST = torch.finfo(torch.float32).min


def soft_cross_entropy(
    states: Tensor,
    table: Tensor,
    items: Tensor,
    weights: Tensor,
    negatives: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the student's softmax with an answer spread over several items.

    With q the student's probabilities it is the sum over positions and items of -weight * log q,
    divided by P. With one item of weight 1 that is the usual loss; with a teacher's probabilities
    as weights it is the distance of Hinton et al. (arXiv:1503.02531, eq. 1) at temperature 1, up to
    the teacher's entropy, a constant.

    With `negatives` the softmax's sum over the catalogue is estimated: an answer's own items enter
    as they are, the M sampled ones stand for all others, each for as many as it has to (the
    correction for uniform sampling; Bengio and Senecal, 2008).

    Args:
        states: float (P, H), the student's.
        table: float (I + 1, H), the item table; row PAD is no item.
        items: int64 (P, K), 1..I, or PAD where there are fewer; an item stands in a row once.
        weights: float (P, K), not below 0; those of PAD are 0.
        negatives: int64 (M,), different items, uniformly sampled; None: the sum is exact.
    """
    if negatives is None:
        logits = states @ table[1:].T  # (P, I)
        chosen = logits.gather(1, (items - 1).clamp(min=0))
        log_sum = logits.logsumexp(dim=1)
    else:
        num_items, num_sampled = len(table) - 1, len(negatives)
        chosen = torch.bmm(F.embedding(items, table), states[:, :, None]).squeeze(2)  # (P, K)
        # A sampled item that belongs to the answer is there already.
        column = torch.full((num_items + 1,), num_sampled, device=items.device)
        column[negatives] = torch.arange(num_sampled, device=items.device)
        twice = torch.zeros(len(items), num_sampled + 1, dtype=torch.bool, device=items.device)
        twice = twice.scatter_(1, column[items], value=True)[:, :-1]  # (P, M)
        others = (num_items - (items != 0).sum(dim=1)).clamp(min=1)  # (P,)
        stands_for = (others / (num_sampled - twice.sum(dim=1)).clamp(min=1)).log()
        sampled = (states @ table[negatives].T + stands_for[:, None]).masked_fill(twice, LOWEST)
        own = chosen.masked_fill(items == 0, LOWEST)
        log_sum = torch.cat([own, sampled], dim=1).logsumexp(dim=1)
    lost = weights.sum(dim=1) * log_sum - (weights * chosen).sum(dim=1)
    return lost.mean()


def mixed_answer(
    targets: Tensor, teacher_items: Tensor, teacher_log_probs: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """Mix the item that came next with the teachers' answer.

    Args:
        targets: int64 (P,), 1..I, or PAD where nothing came next.
        teacher_items: int64 (P, K), 1..I, or PAD in all columns where there is no answer.
        teacher_log_probs: float (P, K).
        share: the teachers', 0 to 1; theirs alone where nothing came next, none where they are
            silent.

    Returns:
        items int64 (P, K + 1) and weights float (P, K + 1) for `soft_cross_entropy`. The weights of
        a position add up to 1, to `share` where nothing came next.
    """
    silent = teacher_items[:, :1] == 0
    opinion = teacher_log_probs.softmax(dim=1).masked_fill(silent, 0.0) * share
    # Where the teachers name the target, their column takes its weight: an item stands once.
    named = (teacher_items == targets[:, None]) & (targets[:, None] != 0)
    truth = torch.where(silent[:, 0], 1.0, 1.0 - share) * (targets != 0)
    opinion = opinion + named * truth[:, None]
    alone = ~named.any(dim=1)
    items = torch.cat([(targets * alone)[:, None], teacher_items], dim=1)
    return items, torch.cat([(truth * alone)[:, None], opinion], dim=1)
