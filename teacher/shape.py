"""A language model's shape: how many layers are kept, how wide it is, how many positions it has."""

import contextlib
import copy
import inspect
from collections.abc import Iterator
from typing import Any
from unittest import mock

from seqrec.errors import ModelError

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from teacher.check_folder import article, first_line, model_class, text_config

POSITIONS = ("max_position_embeddings", "max_seq_len", "max_sequence_length")


def set_shape(
    config: PretrainedConfig, num_layers: int | None, *, causal: bool, name: str = "the model"
) -> dict[str, object]:
    """Have a configuration, in place, describe a model as `teacher.base.load_base` wants it.

    Args:
        config: of a whole model; only its text part is changed.
        num_layers: the first layers alone; None: all.
        causal: an encoder attends to earlier positions only.
        name: what messages call it.

    Returns:
        What the model's class has to be told besides.

    Raises:
        ModelError: it has fewer layers than asked for.
    """
    text = text_config(config)
    if num_layers is not None:
        available = text.num_hidden_layers
        if num_layers > available:
            raise ModelError(
                f"{name} has {available} layers, --num-layers {num_layers} asks for more"
            )
        if num_layers < available and hasattr(config, "quantization_config"):
            raise ModelError(
                f"{name} is stored in 4 bit, of which no part can be loaded: all its {available} "
                "layers, --num-layers 0, or the model as it was before"
            )
        for key, value in vars(text).items():  # a list with an entry for each layer
            if isinstance(value, list) and len(value) == available:
                setattr(text, key, value[:num_layers])
        text.num_hidden_layers = num_layers
    if text.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:  # an encoder, such as BERT
        text.is_decoder = causal
    parameters = inspect.signature(model_class(config).__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Make tensors on the meta device inside: models can be built and called without memory."""

    # Positions are computed under a disabled autocast, which does not know this device.
    def no_autocast(*_: object, **__: object) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    with torch.device("meta"), mock.patch("torch.autocast", no_autocast):
        yield


def random_base(
    config: PretrainedConfig,
    num_layers: int,
    dtype: torch.dtype,
    *,
    words: bool = False,
    **options: object,
) -> PreTrainedModel:
    """Build a language model of random weights and as many layers, as `load_base` wants it.

    Args:
        config: of its text part, or of the whole.
        num_layers: the first layers alone.
        dtype: of all weights.
        words: with the vectors of words, as a folder has them.
        **options: for transformers.

    Raises:
        ModelError: it has fewer layers than asked for, or cannot be built so.
    """
    config = copy.deepcopy(text_config(config))
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    options |= set_shape(config, num_layers, causal=True)
    try:
        base: PreTrainedModel = AutoModel.from_config(config, dtype=dtype, **options)
        if not words:
            drop_words(base)
    # A configuration's values meet each other here for the first time.
    except Exception as error:
        raise ModelError(
            f"{article(config.model_type)} of this configuration cannot be built, or not of "
            f"tensors without numbers ({first_line(error)})"
        ) from error
    base.requires_grad_(False)
    base.config.use_cache = False
    return base


def drop_words(model: PreTrainedModel) -> None:
    """Drop the vectors of words from a model that is given vectors; of SmolLM2, 108 MiB in fp32.

    An empty table stands in their place: its width is that of what the model reads.
    """
    words = model.get_input_embeddings().weight
    empty = nn.Embedding(0, words.shape[1], device=words.device, dtype=words.dtype)
    model.set_input_embeddings(empty.requires_grad_(False))


def input_width(model: nn.Module) -> int:
    """Return the width of the vectors that a model reads: in ELECTRA it is less than inside."""
    width: int = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    return width


def output_width(model: nn.Module) -> int:
    """Return the width of a model's last states; OPT-350m brings them back to that of words."""
    config: Any = model.config
    width: int = getattr(config, "word_embed_proj_dim", None) or config.hidden_size
    return width


def num_positions(config: PretrainedConfig, model: nn.Module | None) -> int | None:
    """Return how many positions a model has, None if there is no limit.

    It is what the configuration states, even where positions are computed: nothing longer was
    learnt. RoBERTa and its kin have two rows of their table before the first position; the model
    shows that, if it is given.
    """
    stated = [getattr(config, name, None) for name in POSITIONS]
    limits = [value for value in stated if isinstance(value, int) and value > 0]
    for name, module in model.named_modules() if model else ():
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2]:
            if module.padding_idx is not None:
                limits.append(module.num_embeddings - module.padding_idx - 1)
    return min(limits, default=None)
