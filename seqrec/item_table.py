"""The fused item table: what a language model reads of an item, and what training adds to it.

    row(i) = W c(i) + r(i)

c(i) are the whitened principal components of the text vector of item i, which stay as they are; W
is a projection that all items share; r(i) is the item's residual, zero at first, moved by the
item's own events alone. So an item that was taken twice has a row of use, an item that was never
taken has the row W c(i), and a frequent item has a row as good as a learned one. A finished table
is folded into plain rows: it costs nothing when a recommender answers.

Frozen text vectors under a learned residual are the idea of AlphaFuse (arXiv:2504.19218), which
takes principal components, standardised, and leaves the residual their null space alone; here both
are added in the same space. Whitening follows BERT-whitening (arXiv:2103.15316): without it, a few
directions that all texts share are most of every vector.

Shape letters: I items, N rows at once, L width of the language model, C components, H width.
"""

from seqrec.histories import PAD

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

NUM_COMPONENTS = 128
LEAST_VARIANCE = 1e-6  # of a component, as a fraction of the largest: below it there is only noise
ROWS_AT_ONCE = 65_536
ROW_SCALE = 0.05  # standard deviation of a table's elements at the start


def most_components(num_items: int, width: int) -> int:
    """Return how many components the text vectors of a catalogue have: 128, or what they can."""
    return max(min(NUM_COMPONENTS, width, num_items - 1), 1)


def fit_whitening(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the affine map from text vectors to whitened principal components.

    Each dimension is standardised first, since a language model has a few of far greater variance
    than all others. Then the components come out uncorrelated and of variance 1 over the catalogue.

    Args:
        vectors: (I, L), one for each item of the catalogue.

    Returns:
        float32 (L + 1, C): components are `vectors @ map[:-1] + map[-1]`. C is 128, or less where
        the texts have fewer directions in which they differ, and at least 1.
    """
    mean, scale = np.zeros(vectors.shape[1]), np.zeros(vectors.shape[1])
    parts = [slice(i, i + ROWS_AT_ONCE) for i in range(0, len(vectors), ROWS_AT_ONCE)]
    for part in parts:
        mean += vectors[part].sum(axis=0, dtype=np.float64) / len(vectors)
    for part in parts:
        scale += ((vectors[part] - mean) ** 2).sum(axis=0) / len(vectors)
    scale = np.sqrt(scale) + 1e-6
    correlation = np.zeros((len(mean), len(mean)))
    for part in parts:
        standardised = (vectors[part] - mean) / scale
        correlation += standardised.T @ standardised / len(vectors)
    variances, axes = np.linalg.eigh(correlation)
    variances, axes = variances[::-1], axes[:, ::-1]  # the largest first
    count = int((variances > max(LEAST_VARIANCE * variances[0], 1e-12)).sum())
    count = max(min(count, most_components(*vectors.shape)), 1)
    weight = axes[:, :count] / np.sqrt(variances[:count].clip(1e-12)) / scale[:, None]
    if variances[0] <= 1e-12:  # all texts are the same
        weight = np.zeros_like(weight)
    return np.vstack([weight, -mean @ weight]).astype(np.float32)


def apply_map(vectors: NDArray[np.floating], affine: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return `vectors @ affine[:-1] + affine[-1]`, float32 (N, C)."""
    mapped: NDArray[np.float32] = vectors.astype(np.float32) @ affine[:-1] + affine[-1]
    return mapped


class FusedItemTable(nn.Module):
    """An item table of frozen text components, a projection of them, and residuals.

    It is used as an `nn.Embedding` is: called with items, or asked for its whole `weight`.

    Args:
        components: float (I + 1, C), row PAD zero.
        dim: width of the rows.
        sparse: give the residuals a sparse gradient, of the rows that are looked at.
    """

    components: Tensor

    def __init__(self, components: Tensor, dim: int, *, sparse: bool = False) -> None:
        super().__init__()
        num_rows, num_components = components.shape
        self.register_buffer("components", components)
        self.projection = nn.Linear(num_components, dim, bias=False)
        self.residual = nn.Embedding(num_rows, dim, padding_idx=PAD, sparse=sparse)
        # Rows start as small as those of a plain table, and as the first components: near each
        # other where the texts are alike. Columns beyond the components start at random.
        nn.init.normal_(self.projection.weight, std=ROW_SCALE * num_components**-0.5)
        with torch.no_grad():
            first = self.projection.weight[:num_components]
            first.copy_(ROW_SCALE * torch.eye(*first.shape))
        nn.init.zeros_(self.residual.weight)

    @property
    def weight(self) -> Tensor:
        """All rows, (I + 1, H); row PAD is zero."""
        return self.projection(self.components.to(self.residual.weight)) + self.residual.weight

    def forward(self, items: Tensor) -> Tensor:
        """Return the rows of items, int64 (...): (..., H)."""
        components = self.components[items].to(self.residual.weight)
        rows: Tensor = self.projection(components) + self.residual(items)
        return rows
