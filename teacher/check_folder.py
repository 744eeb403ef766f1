"""What is refused about a language model's folder before its weights are loaded.

Each message says what the folder holds and what to take instead. Weights are read as safetensors
alone: other formats can run code when they are read.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seqrec.errors import ModelError
from seqrec.files import read_json, sha256_file

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
)

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
READ = {".safetensors", ".json", ".model", ".txt", ".tiktoken", ".bpe", ".vocab"}  # files' suffixes
POINTER = b"version https://git-lfs"
TAKE = "Take a decoder such as SmolLM2, Qwen3 or Llama, or an encoder such as BERT"
Result = TypeVar("Result")
NUMBERS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_folder(folder: Path) -> None:
    """Refuse a folder from which no language model can be loaded.

    Raises:
        ModelError: a file is missing, cut off, a pickle, or stands for one that was not fetched;
            or it is an adapter.
    """
    for file in _files(folder):
        if file.stat().st_size < 1024 and file.read_bytes().startswith(POINTER):
            raise ModelError(
                f"{file} is a pointer of Git LFS, not the file itself. Fetch the files: "
                f"git -C {shlex.quote(str(folder))} lfs pull"
            )
    if (folder / ADAPTER).is_file():
        raise _adapter_error(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json. {_what_to_give(folder)}")
    for file in _weight_files(folder):
        _check_weights(file)


def _adapter_error(folder: Path) -> ModelError:
    """Return what to say of a PEFT adapter: transformers would load its model from elsewhere."""
    try:
        base = read_json(folder / ADAPTER).get("base_model_name_or_path")
    except (OSError, ValueError):
        base = None
    code = (
        "from peft import AutoPeftModelForCausalLM as M; "
        f'M.from_pretrained({json.dumps(str(folder))}).merge_and_unload().save_pretrained("merged")'
    )
    return ModelError(
        f"{folder} holds an adapter of {base or 'another model'}, not a language model. Take "
        f"{base or 'that model'} itself, or put both together: python -c {shlex.quote(code)}, copy "
        "the tokenizer's files there, and --model merged"
    )


def _files(folder: Path) -> list[Path]:
    """Return the files in a folder of which transformers may read some, by name."""
    return sorted(f for f in folder.iterdir() if f.suffix in READ and f.is_file())


def model_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over all files of a folder that a model and its tokenizer are made of."""
    digest = hashlib.sha256()
    for file in _files(folder):
        digest.update(f"{file.name} {_sha256(file)}\n".encode())
    return digest.hexdigest()


def _once_per_version(read: Callable[[Path], Result]) -> Callable[[Path], Result]:
    """Remember what was read of a file, as long as it stays: of large models it takes minutes."""

    @functools.lru_cache(maxsize=1024)
    def remembered(file: Path, size: int, changed: int) -> Result:
        return read(file)

    def read_once(file: Path) -> Result:
        status = file.stat()
        return remembered(file, status.st_size, status.st_ctime_ns)  # which cannot be set back

    return read_once


_sha256 = _once_per_version(sha256_file)


def _what_to_give(folder: Path) -> str:
    """Say what to give to `--model` instead of a folder without a configuration."""
    if ggufs := sorted(folder.glob("*.gguf")):
        return f"Give the GGUF file itself: --model {shlex.quote(str(ggufs[0]))}"
    if inside := sorted(folder.glob("*/config.json")):
        return f"Is it this folder? --model {shlex.quote(str(inside[0].parent))}"
    return "Expected a folder as transformers' save_pretrained writes it"


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's weights.

    Raises:
        ModelError: there are none, or some of them are missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{folder / INDEX} is damaged ({error}). Fetch it again") from error
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ModelError(
                f"{folder} lacks {len(missing)} of the {len(names)} files of weights that {INDEX} "
                f"names: {', '.join(missing[:3])}{', ...' if missing[3:] else ''}. Fetch them"
            )
        return [folder / name for name in names]
    raise _without_weights(folder)


def _without_weights(folder: Path) -> ModelError:
    """Return what to say of a folder without weights that are read, by what it holds instead."""

    def first(*patterns: str) -> str | None:
        return min((f.name for pattern in patterns for f in folder.glob(pattern)), default=None)

    if name := first("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"):
        code = (
            f"from transformers import AutoModel; d = {json.dumps(str(folder))}; "
            "AutoModel.from_pretrained(d).save_pretrained(d, safe_serialization=True)"
        )
        return ModelError(
            f"{folder} holds its weights as a pickle ({name}), which can run code when it is read "
            "and is not read here. If you trust it, have transformers write them as safetensors: "
            f"python -c {shlex.quote(code)}"
        )
    if name := first("*.h5", "*.msgpack", "*.onnx", "onnx/*.onnx", "*.mlmodel", "*.npz"):
        return ModelError(
            f"{folder} holds weights as {name} alone, expected {WEIGHTS}. Fetch that file as well"
        )
    expected = f"expected {WEIGHTS}, or several and {INDEX}"
    if name := first("*.safetensors"):
        return ModelError(f"{folder} holds {name}, {expected}. Rename it")
    return ModelError(f"{folder} holds no weights: {expected}")


def _check_weights(file: Path) -> None:
    """Check that a file of weights is whole, without reading them."""
    try:
        with safe_open(file, framework="pt") as stored:
            if not stored.keys():
                raise ModelError(f"{file} holds no tensor. Fetch it again")
    except (OSError, SafetensorError) as error:
        beginning = bytes(file.open("rb").read(16))
        raise ModelError(
            f"{file} is damaged or no safetensors file ({error}; {file.stat().st_size:,} bytes, "
            f"beginning with {beginning!r}). Fetch it again"
        ) from error


def check_numbers(folder: Path) -> None:
    """Refuse weights in which some number is NaN or infinite.

    Raises:
        ModelError: naming the tensors.
    """
    for file in _weight_files(folder):
        if wrong := _tensors_with_wrong_numbers(file):
            raise ModelError(
                f"{file} holds NaN or infinite numbers, in {', '.join(wrong[:3])}"
                f"{', ...' if wrong[3:] else ''}: its training diverged, or it is damaged. Fetch "
                "it again, or take another model"
            )


@_once_per_version
def _tensors_with_wrong_numbers(file: Path) -> list[str]:
    wrong = []
    with safe_open(file, framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118, it is no dictionary
            tensor = stored.get_tensor(name)
            if tensor.dtype in NUMBERS and not torch.isfinite(tensor).all():
                wrong.append(name)
    return wrong


# --- Its configuration ----------------------------------------------------------------------------


def read_config(folder: Path | str, *, bits: int | None = None, **where: str) -> PretrainedConfig:
    """Read a model's configuration, and refuse what no teacher can be made of.

    Args:
        folder: the model's, or a hub id.
        bits: what it shall be loaded in, if it shall be.
        **where: what else transformers has to be told: `gguf_file`, `revision`.

    Raises:
        ModelError: it is unknown, of a kind that cannot be used, or quantized already.
    """
    name = Path(folder).name
    try:
        if "model_type" not in PretrainedConfig.get_config_dict(folder, **where)[0]:
            raise ValueError("it names no model_type")  # transformers would go by the folder's name
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, **where
        )
    # Whatever stands in the file goes into a class of transformers.
    except Exception as error:
        raise ModelError(
            f"{name}: its config.json cannot be used ({first_line(error)}). No model's code is run "
            f"here. {TAKE}, whose code transformers has"
        ) from error
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name} is {article(config.model_type)}, an encoder with a decoder behind it, which "
            f"cannot go on with a sequence that it is given. {TAKE}"
        )
    if _class_of(config) is None or not _reads_vectors(text_config(config)):
        raise ModelError(
            f"{name} is {article(config.model_type)}, of which transformers has no language model "
            f"that reads vectors in place of words (as of those for pictures, or for sound). {TAKE}"
        )
    quantization = getattr(config, "quantization_config", None)
    if bits is not None and quantization is not None:
        _check_quantization(quantization, bits, name)
    return config


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of the part that reads text; of most models, that is the whole."""
    with contextlib.suppress(ValueError):  # it has several
        text: PretrainedConfig = config.get_text_config()
        return text
    return config


def _class_of(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    if text_config(config) is not config:  # names of weights are those of the class that wrote them
        for name in config.architectures or []:
            kind = getattr(transformers, name, None)
            if isinstance(kind, type) and issubclass(kind, PreTrainedModel):
                return kind
    known = MODEL_MAPPING.get(type(config), None)
    return known[0] if isinstance(known, Sequence) else known


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return the class that loads a configuration's model, without a head if that can be."""
    kind = _class_of(config)
    assert kind is not None, "checked by read_config"
    return kind


def _reads_vectors(config: PretrainedConfig) -> bool:
    """Tell whether a model can be given vectors in place of words, and says how it is shaped."""
    kind = _class_of(config)
    taken = inspect.signature(kind.forward).parameters if kind else {}
    states_shape = hasattr(config, "hidden_size") and hasattr(config, "num_hidden_layers")
    return states_shape and {"input_ids", "attention_mask", "inputs_embeds"} <= set(taken)


def _check_quantization(quantization: Any, bits: int, name: str) -> None:
    """Refuse weights that are quantized already, but for the very kind that is asked for."""
    settings = quantization if isinstance(quantization, dict) else quantization.to_dict()
    method, kind = str(settings.get("quant_method", "?")), settings.get("bnb_4bit_quant_type")
    if method.startswith("bitsandbytes") and settings.get("load_in_4bit") and kind == "nf4":
        if bits == 4:
            return
        raise ModelError(f"{name} is stored in 4 bit (NF4) and cannot be had in {bits}: --bits 4")
    width = settings.get("bits") or ("8" if settings.get("load_in_8bit") else None)
    in_bits = f" in {width} bit" if width else ""
    raise ModelError(
        f"{name} is quantized already ({method}{in_bits}), so it can neither be held in NF4 nor "
        "trained on. Take the model that it was made of, as it was before (bf16, fp16 or fp32)"
    )


def article(kind: object) -> str:
    """Return a model's kind with "a" before it.

    >>> article("albert"), article("t5")
    ("an 'albert'", "a 't5'")
    """
    return f"{'an' if str(kind)[:1].lower() in tuple('aeiou') else 'a'} {str(kind)!r}"


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return a library's complaint in one line of bearable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else ""
    return f"{type(error).__name__}: {line[:limit]}{'...' if len(line) > limit else ''}"
