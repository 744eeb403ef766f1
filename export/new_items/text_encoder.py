"""The reader of item texts without PyTorch: needs numpy, onnxruntime and tokenizers.

    encoder = TextEncoder.from_pretrained("runs/ml-100k/export/text-encoder")
    encoder.encode(["Heat. Crime"])  # float32 (1, L)

It is a directory from `export.to_text_encoder`:

    model.onnx        token ids to the language model's last hidden states, matrices in 8 bit
    tokenizer.json    of the library `tokenizers`
    config.json       format, version, `reader` (which language model it is, and how it reads),
                      `cosine` with what it was made from, checksums
    README.md         the model card

Shape letters: N texts, T tokens, L width of the language model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.artifact import Kind
from seqrec.errors import ModelError

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from export.recommender import open_session

TEXT_ENCODER = Kind("seqrec-text-encoder", 1, "text encoder", ModelError, file_name="config.json")
MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
IDENTITY = ("model_fingerprint", "bits", "num_layers", "max_tokens")  # of a reader
BATCH_SIZE = 32
HOW = "Export it again: python -m export.to_text_encoder"


@dataclass(frozen=True)
class TextEncoder:
    """A language model that reads item texts as a teacher read its catalogue."""

    session: ort.InferenceSession
    tokenizer: Tokenizer
    reader: Mapping[str, Any]

    @classmethod
    def from_pretrained(cls, folder: str | Path, num_threads: int = 1) -> "TextEncoder":
        """Load a text encoder, its checksums verified.

        Raises:
            ModelError: there is none in `folder`, it is of another version, or it is damaged.
        """
        opened = TEXT_ENCODER.open(Path(folder), HOW)
        with opened.reading():
            reader = opened.description["reader"]
            tokenizer = Tokenizer.from_str(opened.read(TOKENIZER).decode())
            # The language model may have fewer positions than tokens of a text are asked for.
            tokenizer.enable_truncation(opened.description.get("max_tokens", reader["max_tokens"]))
            tokenizer.enable_padding()  # at the end, and masked
            return cls(open_session(opened.read(MODEL), num_threads), tokenizer, reader)

    def require(self, reader: Mapping[str, Any]) -> None:
        """Check that a catalogue was read by this language model, in this way.

        Raises:
            ModelError: it was not.
        """
        for name in IDENTITY:
            if reader[name] != self.reader[name]:
                raise ModelError(
                    f"the text encoder's {name} is {self.reader[name]}, but the catalogue was read "
                    f"with {reader[name]}. Export the one that belongs to it: "
                    "python -m export.to_text_encoder"
                )

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the mean over a text's tokens of the last hidden states, float32 (N, L)."""
        # The longest first: texts of a batch are about equally long, and the most memory is taken
        # at once.
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors: dict[int, NDArray[np.float32]] = {}
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            # A text without any token has no mean; an empty one is read as a lone space.
            means = self._means([texts[index] or " " for index in batch])
            vectors.update(zip(batch, means, strict=True))
        return np.stack([vectors[index] for index in range(len(texts))])

    def _means(self, texts: Sequence[str]) -> NDArray[np.float32]:
        encoded = self.tokenizer.encode_batch(list(texts))
        mask = np.array([tokens.attention_mask for tokens in encoded], dtype=np.int64)  # (N, T)
        given = {
            "input_ids": np.array([tokens.ids for tokens in encoded], dtype=np.int64),
            "attention_mask": mask,
            "position_ids": np.broadcast_to(np.arange(mask.shape[1]), mask.shape),
            "token_type_ids": np.zeros_like(mask),
        }
        asked = {info.name: given[info.name] for info in self.session.get_inputs()}
        (states,) = self.session.run(["last_hidden_state"], asked)  # (N, T, L)
        sums = (states * mask[..., None]).sum(axis=1)
        means: NDArray[np.float32] = sums / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        return means.astype(np.float32)
