"""Item texts to vectors, read once by the language model and cached by content."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.fetch import cache_dir, cache_error
from seqrec.item_table import apply_map, fit_whitening
from seqrec.texts import MAX_TOKENS, item_texts, texts_as_read

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from teacher.base import load_base, load_tokenizer, resolve_model
from teacher.check_folder import model_fingerprint
from teacher.config import Bits
from teacher.shape import num_positions, output_width

logger = logging.getLogger(__name__)

BATCH_SIZE = 64


def tokenize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Return the tokens of texts and which of them are real, int64 (B, T) both, where the model is.

    Raises:
        ModelError: the tokenizer knows tokens that the model does not.
    """
    tokens = tokenizer(
        # A text without any token has no mean; an empty title is read as a lone space.
        [text or " " for text in texts],
        padding=True,
        truncation=True,
        max_length=max_tokens,
        padding_side="right",
        return_tensors="pt",
    )
    words, mask = tokens["input_ids"], tokens["attention_mask"]
    num_words = len(model.get_input_embeddings().weight)
    if (highest := int((words * mask).max())) >= num_words:
        raise ModelError(
            f"{model.name_or_path}: its tokenizer makes token {highest} of a text, but the model "
            f"has {num_words}. They do not belong together: fetch both from one place"
        )
    words = words.clamp(max=num_words - 1)  # a token that only pads may have been added
    return words.to(model.device), mask.to(model.device)


def mean_of_states(model: nn.Module, words: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over each text's tokens of the last hidden states, float32 (B, D)."""
    states = model(input_ids=words, attention_mask=mask).last_hidden_state
    total = (states.float() * mask[..., None]).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


@torch.inference_mode()
def mean_of_last_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> NDArray[np.float32]:
    """Encode texts as the mean over their tokens of the last hidden states, float32 (N, D).

    A text is cut at `MAX_TOKENS`, or where the model's positions end.

    Raises:
        ModelError: the tokenizer knows tokens that the model does not, or what is read is NaN.
    """
    vectors = np.empty((len(texts), output_width(model)), dtype=np.float32)
    max_tokens = text_limit(model)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in tqdm(
        range(0, len(order), BATCH_SIZE), desc="reading item texts", unit="batch", mininterval=1
    ):
        chosen = order[start : start + BATCH_SIZE]
        words, mask = tokenize(model, tokenizer, [texts[i] for i in chosen], max_tokens)
        vectors[chosen] = mean_of_states(model, words, mask).cpu().numpy()
    if not np.isfinite(vectors).all():
        text = texts[int((~np.isfinite(vectors)).any(axis=1).argmax())]
        raise ModelError(
            f"{model.name_or_path} reads {text[:80]!r} as NaN or infinite numbers. Another "
            "precision may help: --bits 32"
        )
    return vectors


def text_limit(model: PreTrainedModel) -> int:
    """Return how many tokens of a text a language model reads."""
    limit = min(MAX_TOKENS, num_positions(model.config, model) or MAX_TOKENS)
    if limit < MAX_TOKENS:
        logger.info("texts are cut at %d tokens: the language model has no more positions", limit)
    return limit


def read_texts(
    texts: Sequence[str],
    folder: Path,
    *,
    bits: Bits,
    num_layers: int | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Return the vectors of texts as the language model gives them, float32 (N, D).

    They are kept in the cache directory, keyed by model and text: a text is read once, whatever
    catalogue it is in. `folder` is from `resolve_model`; the rest is as in `load_base`.
    """
    model_key = hashlib.sha256(
        f"{model_fingerprint(folder)} {bits} {num_layers} {MAX_TOKENS}".encode()
    ).hexdigest()
    file = cache_dir() / "text-vectors" / f"{model_key[:24]}.safetensors"
    cached = _cached_vectors(file)
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in cached}
    if missing:
        beside = file.with_suffix(f".{os.getpid()}.tmp")
        try:  # before the reading, which takes minutes
            file.parent.mkdir(parents=True, exist_ok=True)
            beside.touch()
        except OSError as error:
            raise cache_error(file.parent, error) from error
        tokenizer = load_tokenizer(folder)
        model = load_base(folder, bits=bits, num_layers=num_layers, causal=False, device=device)
        new = mean_of_last_states(model, tokenizer, list(missing.values()))
        cached |= dict(zip(missing, new, strict=True))
        stored_keys = np.stack(
            [np.frombuffer(bytes.fromhex(key), dtype=np.uint8) for key in cached]
        )
        save_file({"keys": stored_keys, "vectors": np.stack(list(cached.values()))}, beside)
        beside.replace(file)
    logger.info(
        "item texts: %d read now, %d from the cache", len(missing), len(set(keys)) - len(missing)
    )
    return np.stack([cached[key] for key in keys])


def _cached_vectors(file: Path) -> dict[str, NDArray[np.float32]]:
    """Return the vectors by their texts' SHA-256; none if there is no such file, or no good one."""
    if not file.is_file():
        return {}
    try:
        stored = load_file(file)
        return {
            key.tobytes().hex(): v for key, v in zip(stored["keys"], stored["vectors"], strict=True)
        }
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        logger.warning("%s is damaged (%s): all texts are read anew", file, error)
        return {}


def text_components(
    dataset: SequenceDataset,
    folder: Path,
    *,
    bits: Bits,
    num_layers: int | None = None,
    text_map: NDArray[np.float32] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Return the whitened principal components of all items' text vectors, and their map.

    Args:
        dataset: the texts of its cold items are read as well.
        folder: as of `read_texts`, and so are the others.
        bits: see `folder`.
        num_layers: see `folder`.
        text_map: float32 (L + 1, C), of an earlier catalogue, which its teacher's projection was
            trained with; None: one is fitted to this catalogue.
        device: see `folder`.

    Returns:
        Components, float16 (I + 1, C), row PAD zero; the map that makes them of a text vector,
        float32 (L + 1, C), see `seqrec.item_table.fit_whitening`.
    """
    vectors = read_texts(
        item_texts(dataset.items), folder, bits=bits, num_layers=num_layers, device=device
    )
    if text_map is None:
        text_map = fit_whitening(vectors)
    components = np.zeros((len(vectors) + 1, text_map.shape[1]), np.float16)
    components[1:] = apply_map(vectors, text_map)
    return components, text_map


def read_new_texts(
    items: pl.DataFrame, reader: Mapping[str, Any], *, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Read items that came later, float32 (N, D), exactly as a teacher read its catalogue.

    Args:
        items: as in `seqrec.texts.texts_as_read`.
        reader: what `teacher.extracting` wrote of how the catalogue was read.
        device: where the model runs.

    Raises:
        SeqRecError: as of `resolve_reader`.
    """
    return read_texts(
        texts_as_read(items, reader),
        resolve_reader(reader),
        bits=reader["bits"],
        num_layers=reader["num_layers"],
        device=device,
    )


def resolve_reader(reader: Mapping[str, Any]) -> Path:
    """Return the folder of the language model that read a catalogue; see `read_new_texts`.

    Raises:
        ModelError: the language model of that name is another one today, or this version cuts texts
            elsewhere.
        SourceError: the language model cannot be had.
    """
    folder = resolve_model(reader["model"])
    if model_fingerprint(folder) != reader["model_fingerprint"]:
        raise ModelError(
            f"{reader['model']} is not the language model that read the catalogue: its fingerprint "
            f"differs from {reader['model_fingerprint'][:12]}. Put that one back, or train again: "
            f"accelerate launch teacher/finetune.py --model {reader['model']}"
        )
    if reader["max_tokens"] != MAX_TOKENS:
        raise ModelError(
            f"the catalogue was read up to {reader['max_tokens']} tokens of a text, this version "
            f"reads {MAX_TOKENS}. Train again: accelerate launch teacher/finetune.py"
        )
    return folder
