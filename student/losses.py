"""What a student learns from: the item that came next, and the teacher's opinion.

Shape letters: P training positions, I items, K teacher items per position.
"""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def hard_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with the item that came next, over the whole catalogue.

    Args:
        logits: float (P, I); column j is item j + 1.
        targets: int64 (P,), 1..I.

    Returns:
        The mean over positions.
    """
    return F.cross_entropy(logits, targets - 1)


def soft_loss(
    logits: Tensor, teacher_items: Tensor, teacher_logits: Tensor, temperature: float
) -> Tensor:
    """Distance to the teacher's ranking of its best items (Hinton et al., arXiv:1503.02531, eq. 1).

    With p the teacher's softmax over its K items and q the student's over the catalogue, both at
    temperature t, it is t^2 * KL(p || q), mean over positions: mass that the student gives to items
    outside the K is counted against it.

    Args:
        logits: float (P, I), the student's; column j is item j + 1.
        teacher_items: int64 (P, K), 1..I.
        teacher_logits: float (P, K).
        temperature: t > 0; higher looks further down the teacher's list.
    """
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    student = F.log_softmax(logits / temperature, dim=1).gather(1, teacher_items - 1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=1).mean()
