"""From an item's text vector to its row of a student's table, for items that come later.

It is the projection that the student was trained with (see `seqrec.item_table`), after the map to
text components. Needs no PyTorch: new items are added where there is none.

Shape letters: N items, L width of the language model, C text components, H width of the student.
"""

from dataclasses import dataclass
from pathlib import Path

from seqrec.errors import ModelError

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

FILE = "text_map.safetensors"


@dataclass(frozen=True)
class TextMap:
    """Maps a text vector x to a row of the item table: x @ weight + bias."""

    weight: NDArray[np.float32]  # (L, H)
    bias: NDArray[np.float32]  # (H,)

    @classmethod
    def compose(
        cls, to_components: NDArray[np.floating], projection: NDArray[np.floating]
    ) -> "TextMap":
        """Return the map to components, (L + 1, C), followed by the projection, (H, C)."""
        affine = (to_components.astype(np.float64) @ projection.T.astype(np.float64)).astype(
            np.float32
        )
        return cls(weight=affine[:-1], bias=affine[-1])

    def rows(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the rows, float32 (N, H), for text vectors (N, L)."""
        rows: NDArray[np.float32] = vectors.astype(np.float32) @ self.weight + self.bias
        return rows

    def save(self, file: Path) -> None:
        """Write the map as safetensors."""
        save_file({name: np.ascontiguousarray(value) for name, value in vars(self).items()}, file)

    @classmethod
    def load(cls, file: Path) -> "TextMap":
        """Read what `save` wrote.

        Raises:
            ModelError: there is none, or it is damaged.
        """
        try:
            loaded = cls(**load_file(file))
            if loaded.weight.ndim != 2 or loaded.bias.shape != loaded.weight.shape[1:]:
                raise ValueError(f"shapes {loaded.weight.shape} and {loaded.bias.shape}")
            return loaded
        except (OSError, TypeError, ValueError, SafetensorError) as error:
            raise ModelError(
                f"no usable text map at {file} ({error}). Distil and export the student again: "
                "python -m student.distill, python -m export.to_onnx"
            ) from error
