"""Item texts to vectors, read once by the language model and cached by content."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.sources import cache_dir

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from teacher.base import Bits, load_base, load_tokenizer, model_fingerprint

logger = logging.getLogger(__name__)

MAX_TOKENS = 64  # a title, a brand and a category fit; a long description is cut
BATCH_SIZE = 64


def item_texts(items: pl.DataFrame) -> list[str]:
    """Join an item's text columns into one line: title first, then the others in file order.

    >>> item_texts(pl.DataFrame({"item_id": ["1"], "title": ["Heat"], "category": ["Crime"]}))
    ['Heat. Crime']
    """
    columns = ["title", *(c for c in items.columns if c not in ("item_id", "title"))]
    return [". ".join(part for part in row if part) for row in items.select(columns).iter_rows()]


@torch.inference_mode()
def mean_of_last_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> NDArray[np.float32]:
    """Encode texts as the mean over their tokens of the last hidden states, float32 (N, D)."""
    vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in tqdm(
        range(0, len(order), BATCH_SIZE), desc="reading item texts", unit="batch", mininterval=1
    ):
        chosen = order[start : start + BATCH_SIZE]
        tokens = tokenizer(
            # A text without any token has no mean; an empty title is read as a lone space.
            [texts[i] or " " for i in chosen],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            padding_side="right",
            return_tensors="pt",
        ).to(model.device)
        states = model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        means = (states.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        vectors[chosen] = means.cpu().numpy()
    return vectors


def text_vectors(
    dataset: SequenceDataset,
    folder: Path,
    *,
    bits: Bits,
    num_layers: int | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Return the vectors of all items' texts, standardised per dimension, float32 (I + 1, D).

    The raw vectors are kept in the cache directory, keyed by model and text: a text is read once,
    whatever catalogue it is in. Row PAD is zero.

    Args:
        dataset: its items' texts are read.
        folder: the language model, from `resolve_model`.
        bits: as in `load_base`.
        num_layers: how many of the model's layers read; None is all.
        device: where the model runs.
    """
    texts = item_texts(dataset.items)
    model_key = hashlib.sha256(
        f"{model_fingerprint(folder)} {bits} {num_layers} {MAX_TOKENS}".encode()
    ).hexdigest()
    file = cache_dir() / "text-vectors" / f"{folder.name}-{model_key[:12]}.safetensors"
    cached: dict[str, NDArray[np.float32]] = {}
    if file.is_file():
        stored = load_file(file)
        cached = {
            key.tobytes().hex(): v for key, v in zip(stored["keys"], stored["vectors"], strict=True)
        }
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in cached}
    if missing:
        model = load_base(folder, bits=bits, num_layers=num_layers, causal=False, device=device)
        new = mean_of_last_states(model, load_tokenizer(folder), list(missing.values()))
        cached |= dict(zip(missing, new, strict=True))
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".tmp")
        stored_keys = np.stack(
            [np.frombuffer(bytes.fromhex(key), dtype=np.uint8) for key in cached]
        )
        save_file({"keys": stored_keys, "vectors": np.stack(list(cached.values()))}, beside)
        beside.replace(file)
    logger.info(
        "item texts: %d read now, %d from the cache", len(missing), len(set(keys)) - len(missing)
    )
    vectors = np.stack([cached[key] for key in keys])
    standardised = (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-6)
    return np.concatenate(
        [np.zeros((1, vectors.shape[1]), np.float32), standardised.astype(np.float32)]
    )
