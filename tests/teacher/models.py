"""Small language models of random weights, by name, and what a fine-tuning does with one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.errors import SeqRecError

import numpy as np
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from teacher import base, text
from teacher.config import FullFinetuneConfig
from teacher.plan import check_model, config_of

SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
DECODER = {**SIZES, "num_key_value_heads": 1, "head_dim": 16}
GPT2 = {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40}
OPT = {**SIZES, "ffn_dim": 48, "max_position_embeddings": 40}
EYES = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}
GEMMA = {"text_config": DECODER, "vision_config": EYES}
SECTIONS = {"mrope_section": [2, 3, 3]}
QWEN2_EYES = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2}
QWEN3_EYES = {
    **{"depth": 1, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2},
    **{"intermediate_size": 32, "deepstack_visual_indexes": [0]},
}
T5 = {"vocab_size": 200, "d_model": 32, "d_ff": 48, "num_layers": 1, "num_heads": 2, "d_kv": 16}
# Name to a class of transformers, and what its configuration is made of.
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaModel", DECODER),
    "gpt2": ("GPT2Model", GPT2),
    "gpt2 with a head": ("GPT2LMHeadModel", GPT2),
    "gpt-neo": (
        "GPTNeoModel",
        {
            **{"vocab_size": 200, "hidden_size": 32, "num_layers": 2, "num_heads": 2},
            **{"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64},
        },
    ),
    "qwen3": ("Qwen3Model", DECODER),
    "gemma-3 of text": ("Gemma3TextModel", DECODER),
    "mixtral": ("MixtralModel", {**DECODER, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "bloom": ("BloomModel", {"vocab_size": 200, "hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "opt": ("OPTModel", OPT),
    "opt-350m": ("OPTModel", {**OPT, "word_embed_proj_dim": 16}),
    "gemma-3": ("Gemma3Model", GEMMA),
    "gemma-3 with a head": ("Gemma3ForConditionalGeneration", GEMMA),
    "qwen2-vl": (
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": {**DECODER, "rope_scaling": {"type": "mrope", **SECTIONS}},
            "vision_config": QWEN2_EYES,
        },
    ),
    "qwen3-vl": (
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": {**DECODER, "rope_scaling": {"rope_type": "default", **SECTIONS}},
            "vision_config": QWEN3_EYES,
        },
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": {**DECODER, "model_type": "llama"},
            "vision_config": {**EYES, "model_type": "clip_vision_model"},
        },
    ),
}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", {**SIZES, "max_position_embeddings": 40}),
    "roberta": ("RobertaModel", {**SIZES, "max_position_embeddings": 42, "pad_token_id": 1}),
    "electra": ("ElectraModel", {**SIZES, "embedding_size": 16}),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5Model", T5),
    "clip": ("CLIPModel", {"text_config": {**SIZES, "projection_dim": 16}, "vision_config": EYES}),
    "vit": ("ViTModel", EYES),
    "albert": ("AlbertModel", {**SIZES, "embedding_size": 16}),
    "xlnet": ("XLNetModel", {"vocab_size": 200, "d_model": 32, "n_layer": 1, "n_head": 2}),
    "mamba": ("MambaModel", {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 1}),
    "canine": ("CanineModel", {**SIZES, "num_hash_buckets": 64}),
}
MODELS = DECODERS | ENCODERS | REFUSED
WEIGHTS = "model.safetensors"
ModelFolder = Callable[[str], Path]  # gives a model's folder by its name
TEXTS = ["Emma", "The War of the Worlds", "Emma Dracula " * 6]


def build(name: str) -> PreTrainedModel:
    """Make a model of random weights."""
    kind, values = MODELS[name]
    model_class = getattr(transformers, kind)
    torch.manual_seed(0)
    model: PreTrainedModel = model_class(model_class.config_class(**values))
    return model.eval()


def flags_for(folder: Path, **changes: Any) -> FullFinetuneConfig:
    """Return the flags of a small fine-tuning of a folder's model, in fp32 if nothing is said."""
    given: dict[str, Any] = {"bits": 32, "num_layers": 1, "max_len": 8, "item_dim": 8}
    given |= {"lora_rank": 2, "batch_size": 4, "num_epochs": 1, "device": "cpu", "num_threads": 1}
    return FullFinetuneConfig(model=str(folder), **{**given, **changes})


def load_as_users_do(folder: Path, **changes: Any) -> PreTrainedModel:
    """Go through what a fine-tuning does with a model before it trains."""
    flags = flags_for(folder, **changes)
    base.resolve_model(flags.model)
    check_model(config_of(flags.model, flags.bits), flags)
    layers = flags.num_layers or None
    reader = base.load_base(folder, bits=flags.bits, num_layers=layers, causal=False)
    vectors = text.mean_of_last_states(reader, base.load_tokenizer(folder), TEXTS)
    assert np.isfinite(vectors).all()
    return base.load_base(folder, bits=flags.bits, num_layers=layers)


def refusal(folder: Path, **changes: Any) -> str:
    """Return the one line with which a folder is refused."""
    with pytest.raises(SeqRecError) as raised:
        load_as_users_do(folder, **changes)
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 700
    return line
