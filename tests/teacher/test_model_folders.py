"""Folders of language models as users have them: each works, or one line says what to take."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError, SeqRecError

import numpy as np
import onnx
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from export.new_items import to_text_encoder
from export.new_items.text_encoder import TextEncoder
from export.recommender import open_session
from teacher import base, text
from teacher.base import load_base, load_tokenizer, resolve_model
from teacher.check_folder import model_fingerprint, read_config, text_config
from teacher.config import FinetuneConfig
from teacher.model import Teacher, next_item_loss
from teacher.plan import check_model, config_of, make_plan, teacher_on
from teacher.tuning import run, work_of

pytestmark = pytest.mark.slow

SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
DECODER = {**SIZES, "num_key_value_heads": 1, "head_dim": 16}
GPT2 = {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40}
EYES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
MROPE = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
OPT = {**SIZES, "ffn_dim": 48, "max_position_embeddings": 40}
# Name to a class of transformers, and what its configuration is made of.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaModel", DECODER),
    "gpt2": ("GPT2Model", GPT2),
    "gpt2 with a head": ("GPT2LMHeadModel", GPT2),
    "gpt-neo": (
        "GPTNeoModel",
        {
            "vocab_size": 200,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
        },
    ),
    "qwen3": ("Qwen3Model", DECODER),
    "gemma-3 of text": ("Gemma3TextModel", DECODER),
    "mixtral": ("MixtralModel", {**DECODER, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "bloom": ("BloomModel", {"vocab_size": 200, "hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "opt": ("OPTModel", OPT),
    "opt-350m": ("OPTModel", {**OPT, "word_embed_proj_dim": 16}),
    "bert": ("BertForMaskedLM", {**SIZES, "max_position_embeddings": 40}),
    "roberta": ("RobertaModel", {**SIZES, "max_position_embeddings": 42, "pad_token_id": 1}),
    "electra": ("ElectraModel", {**SIZES, "embedding_size": 16}),
    "gemma-3": ("Gemma3Model", {"text_config": DECODER, "vision_config": EYES}),
    "gemma-3 with a head": (
        "Gemma3ForConditionalGeneration",
        {"text_config": DECODER, "vision_config": EYES},
    ),
    "qwen2-vl": (
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": {**DECODER, **MROPE},
            "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2},
        },
    ),
    "qwen3-vl": (
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": {
                **DECODER,
                "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
            },
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "out_hidden_size": 32,
                "num_heads": 2,
                "intermediate_size": 32,
                "deepstack_visual_indexes": [0],
            },
        },
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": {**DECODER, "model_type": "llama"},
            "vision_config": {**EYES, "model_type": "clip_vision_model"},
        },
    ),
    "t5": (
        "T5Model",
        {"vocab_size": 200, "d_model": 32, "d_ff": 48, "num_layers": 1, "num_heads": 2, "d_kv": 16},
    ),
    "bart": (
        "BartModel",
        {"vocab_size": 200, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        | {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
    ),
    "clip": (
        "CLIPModel",
        {
            "text_config": {**SIZES, "num_hidden_layers": 1, "projection_dim": 16},
            "vision_config": EYES,
        },
    ),
    "vit": ("ViTModel", EYES),
    "albert": ("AlbertModel", {**SIZES, "embedding_size": 16}),
    "xlnet": (
        "XLNetModel",
        {"vocab_size": 200, "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 48},
    ),
    "mamba": (
        "MambaModel",
        {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4},
    ),
    "canine": ("CanineModel", {**SIZES, "num_hash_buckets": 64}),
}
TEXTS = ["Emma", "The War of the Worlds", "Emma Dracula " * 6]


def build(name: str) -> PreTrainedModel:
    """Make a model of random weights."""
    kind, values = MODELS[name]
    model_class = getattr(transformers, kind)
    torch.manual_seed(0)
    model: PreTrainedModel = model_class(model_class.config_class(**values))
    return model.eval()


@pytest.fixture(scope="session")
def model_folder(
    save_model: Callable[[nn.Module, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return what gives a model's folder by its name, saved once."""
    folders: dict[str, Path] = {}

    def give(name: str) -> Path:
        if name not in folders:
            folders[name] = save_model(build(name), tmp_path_factory.mktemp("model") / name)
        return folders[name]

    return give


@pytest.fixture
def copied(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Return what copies a model's folder, to be changed."""

    def copy(name: str = "llama") -> Path:
        return Path(shutil.copytree(model_folder(name), tmp_path / "changed"))

    return copy


def flags_for(folder: Path, **changes: Any) -> FinetuneConfig:
    given: dict[str, Any] = {"bits": 32, "num_layers": 1, "max_len": 8, "item_dim": 8}
    given |= {"lora_rank": 2, "batch_size": 4, "num_epochs": 1, "device": "cpu", "num_threads": 1}
    return FinetuneConfig(model=str(folder), **{**given, **changes})


def load_as_users_do(folder: Path, bits: base.Bits = 32, **changes: Any) -> PreTrainedModel:
    """Go through what a fine-tuning does with a model before it trains."""
    flags = flags_for(folder, bits=bits, **changes)
    resolve_model(flags.model)
    check_model(config_of(flags.model, flags.bits), work_of(flags, 1))
    load_tokenizer(folder)
    layers = flags.num_layers or None
    read = text.mean_of_last_states(
        load_base(folder, bits=bits, num_layers=layers, causal=False),
        load_tokenizer(folder),
        TEXTS,
    )
    assert np.isfinite(read).all()
    return load_base(folder, bits=bits, num_layers=layers)


# --- What works -----------------------------------------------------------------------------------

ENCODERS = {"bert", "roberta", "electra"}
DECODERS = [
    *("llama", "gpt2", "gpt2 with a head", "gpt-neo", "qwen3", "gemma-3 of text", "mixtral"),
    *("bloom", "opt", "opt-350m", "gemma-3", "gemma-3 with a head", "qwen2-vl", "qwen3-vl"),
    *("llava",),
]


def reads(model: Any, words: Tensor) -> Tensor:
    """Let a model of transformers, as it was built, read words: its last states."""
    part = model
    for name in ("model", "transformer", "bert", "language_model"):
        part = getattr(part, name, part)
    states: Tensor = part(input_ids=words, use_cache=False).last_hidden_state
    return states


@pytest.mark.parametrize("name", [*DECODERS, *sorted(ENCODERS)])
@torch.no_grad()
def test_texts_are_read_as_the_model_itself_reads_them(
    model_folder: Callable[[str], Path], name: str
) -> None:
    folder = model_folder(name)
    loaded = load_base(folder, bits=32, causal=False)
    vectors = text.mean_of_last_states(loaded, load_tokenizer(folder), TEXTS)
    original, tokenizer = build(name), AutoTokenizer.from_pretrained(folder)
    for row, words in enumerate(TEXTS):
        states = reads(original, torch.tensor([tokenizer(words)["input_ids"]]))
        np.testing.assert_allclose(vectors[row], states[0].mean(dim=0), atol=2e-5)


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_given_the_vectors_of_words_a_model_without_words_answers_as_one_that_reads_them(
    model_folder: Callable[[str], Path], name: str
) -> None:
    folder = model_folder(name)
    reader, model = load_base(folder, bits=32, causal=False), load_base(folder, bits=32)
    words = torch.tensor([[3, 9, 4, 27]])
    expected = reader(input_ids=words).last_hidden_state
    given = reader.get_input_embeddings()(words)
    torch.testing.assert_close(base.embed_sequence(model, given), expected)
    table = reader.get_input_embeddings().weight
    assert not any(p.shape == table.shape for p in model.parameters())


@pytest.mark.parametrize("bits", [32, 4])
@pytest.mark.parametrize("name", [*DECODERS, *sorted(ENCODERS)])
def test_a_teacher_of_one_layer_learns(
    model_folder: Callable[[str], Path], name: str, bits: base.Bits
) -> None:
    folder = model_folder(name)
    model = load_as_users_do(folder, bits)
    part = text_config(read_config(folder))
    assert model.config.num_hidden_layers == 1 < part.num_hidden_layers
    flags = flags_for(folder, bits=bits, dropout=0.0)
    torch.manual_seed(0)
    teacher = teacher_on(model, 6, torch.zeros(7, dtype=torch.bool), work_of(flags, 1)).train()
    teacher.item_table.components[1:].normal_()
    parts = teacher.named_parameters()
    adapter = {n: p for n, p in parts if "lora_B" in n and "experts" not in n}
    assert adapter
    optimizer = torch.optim.Adam([p for p in teacher.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(8):
        scores = teacher.scores(teacher.encode(torch.tensor([[1, 2, 3, 4], [0, 4, 5, 6]])))
        loss = nn.functional.cross_entropy(scores[:, -1], torch.tensor([5, 1]))
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert min(losses) < losses[0]
    assert all(p.abs().max() > 0 for p in adapter.values())  # they start at zero


@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "bert", "albert", "opt-350m", "gemma-3", "llava"]
)
def test_every_linear_layer_is_in_4_bit_even_the_last(
    model_folder: Callable[[str], Path], name: str
) -> None:
    folder = model_folder(name)
    model = load_base(folder, bits=4, causal=False)
    full = load_base(folder, bits=32, causal=False)
    linear = [m for m in full.modules() if isinstance(m, nn.Linear | Conv1D)]
    assert base.num_4bit_parameters(model) == sum(m.weight.numel() for m in linear)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt-350m"])
@torch.no_grad()
def test_restored_weights_are_those_of_the_model_as_far_as_4_bit_goes(
    model_folder: Callable[[str], Path], name: str
) -> None:
    """GPT-2 holds (inputs, outputs), and square matrices among them: transposed, all would fit."""
    if not base.restores_rows(32):
        pytest.skip("bitsandbytes restores rows of 32 weights wrongly on this processor")
    folder = model_folder(name)
    restored = base.load_restored(folder, bits=4)
    full = load_base(folder, bits=32, causal=False)
    shapes = set()
    for where, module in full.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            found = restored.get_submodule(where).weight
            # NF4's steps are at most 0.305 of a block's largest value apart (its table).
            assert (found - module.weight).abs().max() <= 0.16 * module.weight.abs().max()
            assert (
                torch.corrcoef(torch.stack([found.flatten(), module.weight.flatten()]))[0, 1] > 0.98
            )
            shapes.add(tuple(module.weight.shape))
    assert any(rows == columns for rows, columns in shapes)
    words = torch.tensor([[3, 9, 4, 27]])
    held = load_base(folder, bits=4, causal=False)
    torch.testing.assert_close(
        restored(words).last_hidden_state,
        held(words).last_hidden_state.float(),
        atol=0.05,
        rtol=0.05,
    )


def test_weights_stored_in_nf4_are_taken_as_they_are(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = model_folder("llama")
    stored = Path(shutil.copytree(folder, tmp_path / "stored"))
    (stored / "model.safetensors").unlink()
    quantized = load_base(folder, bits=4, causal=False)
    quantized.save_pretrained(stored)
    again = load_base(stored, bits=4, causal=False)
    words = torch.tensor([[3, 9, 4]])
    with torch.no_grad():
        expected = quantized(words).last_hidden_state
        torch.testing.assert_close(again(words).last_hidden_state, expected)
    with pytest.raises(ModelError, match="stored in 4 bit .*--bits 4"):
        load_as_users_do(stored, bits=16)
    with pytest.raises(ModelError, match="no part can be loaded: .*--num-layers 0"):
        load_base(stored, bits=4, num_layers=1)
    load_as_users_do(stored, bits=4, num_layers=0)


def test_shards_are_read_whatever_their_files_are_called(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, sharded = model_folder("llama"), tmp_path / "in shards [v1] ü"
    shutil.copytree(folder, sharded)
    (sharded / "model.safetensors").unlink()
    build("llama").save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    one, two = (load_as_users_do(f).state_dict() for f in (folder, sharded))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- What is refused ------------------------------------------------------------------------------


def refusal(folder: Path, bits: base.Bits = 32, **changes: Any) -> str:
    """Return the one line with which a folder is refused."""
    with pytest.raises(SeqRecError) as raised:
        load_as_users_do(folder, bits, **changes)
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 700
    return line


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t5", r"a 't5', an encoder with a decoder behind it.*Take a decoder such as SmolLM2"),
        ("bart", r"a 'bart', an encoder with a decoder behind it.*Take a decoder such as SmolLM2"),
        ("clip", r"a 'clip', of which transformers has no language model.*Take a decoder such as"),
        ("vit", r"a 'vit', of which transformers has no language model.*Take a decoder such as"),
        ("albert", r"an 'albert', attends to later positions.*such as BERT"),
        ("xlnet", r"a 'xlnet', attends to later positions.*such as BERT"),
        ("mamba", r"a 'mamba', on which no adapter can be put.*Take a decoder such as SmolLM2"),
        (
            "canine",
            r"a 'canine', cannot be given vectors in place of words.*Take a decoder such as",
        ),
    ],
)
def test_a_model_of_a_kind_that_cannot_teach_is_named(
    model_folder: Callable[[str], Path], name: str, expected: str
) -> None:
    assert re.search(expected, refusal(model_folder(name)))


def say(**values: object) -> Callable[[Path], None]:
    """Return what changes values of a folder's configuration."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def replace(name: str, content: bytes | None) -> Callable[[Path], None]:
    """Return what writes a file, or removes it."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content) if content is not None else (folder / name).unlink()

    return change


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: replace(name, (folder / name).read_bytes()[:-100])(folder)


def rename(name: str, other: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).rename(folder / other) and None


def with_number(value: float) -> Callable[[Path], None]:
    """Return what puts a number into a weight."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["layers.0.mlp.up_proj.weight"][3, 5] = value
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return change


def without(part: str) -> Callable[[Path], None]:
    """Return what removes tensors of weights."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if part not in name}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return change


def in_shards(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        build("llama").save_pretrained(folder, max_shard_size="20KB")
        change(folder)

    return apply


def copy_a_shard_over_the_next(folder: Path) -> None:
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    shutil.copy(first, second)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
WEIGHTS = "model.safetensors"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
LORA = b'{"base_model_name_or_path": "owner/base", "peft_type": "LORA"}'


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (replace(WEIGHTS, POINTER), r"pointer of Git LFS.*git -C .* lfs pull"),
        (replace("tokenizer.json", POINTER), r"tokenizer.json is a pointer of Git LFS"),
        (replace("config.json", POINTER), r"config.json is a pointer of Git LFS"),
        (cut(WEIGHTS), r"model.safetensors is damaged .*Fetch it again"),
        (replace(WEIGHTS, b""), r"model.safetensors is damaged .*0 bytes.*Fetch it again"),
        (
            replace(WEIGHTS, b"<!DOCTYPE html><html>"),
            r"is damaged .*<!DOCTYPE html.*Fetch it again",
        ),
        (replace(WEIGHTS, None), r"holds no weights: expected model.safetensors"),
        (rename(WEIGHTS, "tf_model.h5"), r"weights as tf_model.h5 alone, expected model.safe"),
        (rename(WEIGHTS, "best.safetensors"), r"holds best.safetensors, expected .*Rename it"),
        (rename(WEIGHTS, "pytorch_model.bin"), r"a pickle \(pytorch_model.bin\).*python -c"),
        (rename(WEIGHTS, "model.pt"), r"a pickle \(model.pt\).*python -c"),
        (rename(WEIGHTS, "last.ckpt"), r"a pickle \(last.ckpt\).*python -c"),
        (without("layers.0.mlp"), r"lacks 3 of the weights.*layers.0.mlp.down_proj.weight"),
        (say(num_hidden_layers=7), r"has 3 layers|lacks \d+ of the weights|no such"),
        (say(hidden_size=64), r"cannot be loaded in 32 bit .*do not fit each other"),
        (
            in_shards(lambda folder: next(folder.glob("*-00002-of*")).unlink()),
            r"lacks 1 of the \d+ files of weights .*model-00002-of",
        ),
        (in_shards(copy_a_shard_over_the_next), r"do not fit each other|lacks \d+ of the weights"),
        (in_shards(replace("model.safetensors.index.json", b"{")), r"index.json is damaged"),
        (with_number(float("nan")), r"NaN or infinite numbers, in layers.0.mlp.up_proj.weight"),
        (with_number(float("-inf")), r"NaN or infinite numbers, in layers.0.mlp.up_proj.weight"),
        (replace("config.json", b"{"), r"config.json cannot be read"),
        (replace("config.json", None), r"holds no config.json.*Expected a folder as"),
        (say(model_type=None), r"model_type None, which this version of transformers does not"),
        (say(model_type="new_llm"), r"model_type 'new_llm', which this version of transformers"),
        (
            say(model_type="my_llm", auto_map={"AutoModel": "modeling.MyModel"}),
            r"a 'my_llm', which needs code of its own .*Take a decoder such as SmolLM2",
        ),
        (say(quantization_config=GPTQ), r"quantized already \(gptq in 4 bit\).*was made of"),
        (
            say(quantization_config={"quant_method": "awq", "bits": 4}),
            r"quantized already \(awq in 4 bit\).*Take the model that it was made of",
        ),
        (
            say(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
            r"quantized already \(bitsandbytes in 8 bit\).*Take the model that it was made of",
        ),
        (
            say(quantization_config={"quant_method": "fp8"}),
            r"quantized already \(fp8\).*Take the model that it was made of",
        ),
        (replace("adapter_config.json", LORA), r"holds an adapter of owner/base, not.*Take owner/"),
        (replace("tokenizer.json", None), r"tokenizer"),
        (replace("tokenizer.json", b'{"version": "1.0"}'), r"tokenizer in .* cannot be loaded"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why_in_one_line(
    copied: Callable[[], Path], change: Callable[[Path], None], expected: str
) -> None:
    folder = copied()
    change(folder)
    assert re.search(expected, refusal(folder, num_layers=0))


@pytest.mark.parametrize("bits", [4, 16])
def test_nobody_is_sent_to_another_precision_that_fails_as_well(
    copied: Callable[[], Path], bits: base.Bits
) -> None:
    folder = copied()
    say(quantization_config=GPTQ)(folder)
    assert "--bits" not in refusal(folder, bits)


def test_a_folder_without_weights_of_its_own_says_where_they_are(
    copied: Callable[[], Path], tmp_path: Path
) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    folder = copied().rename(outer / "inner")
    assert f"--model {folder}" in refusal(outer)
    shutil.rmtree(folder)
    (outer / "model.Q4_0.gguf").touch()
    assert f"--model {outer / 'model.Q4_0.gguf'}" in refusal(outer)
    (outer / "model.Q4_0.gguf").unlink()
    (outer / "adapter_config.json").write_bytes(LORA)
    assert "merge_and_unload" in refusal(outer)


def test_the_line_about_a_pickle_is_a_command_that_repairs_it(
    copied: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied()
    weights = load_file(folder / WEIGHTS)
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    _, _, command = refusal(folder).partition("python -c ")
    exec(shlex.split(command)[0], {})  # noqa: S102, what the line asks for
    model = load_as_users_do(folder, num_layers=0)
    assert torch.equal(model.layers[1].mlp.up_proj.weight, weights["layers.1.mlp.up_proj.weight"])


def test_a_refused_model_costs_no_work(
    model_folder: Callable[[str], Path],
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text, "read_texts", lambda *_, **__: pytest.fail("texts were read"))
    given = {"data_dir": tiny_dataset.path, "output_dir": tmp_path / "out"}
    for name, changes in (
        ("t5", {}),
        ("mamba", {}),
        ("bert", {"max_len": 41}),
        ("gpt2", {"num_layers": 9}),
    ):
        with pytest.raises(ModelError):
            run(flags_for(model_folder(name), **given, **changes))
    assert not (tmp_path / "out").exists()


def write_gguf(file: Path, architecture: str) -> None:
    """Write a small GGUF file of a model."""
    from gguf import GGUFWriter

    writer = GGUFWriter(file, architecture)
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((8, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["unknown", "clip", "llama", "cut off", "no gguf"])
def test_a_gguf_file_that_cannot_be_unpacked_is_one_line(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, "nonesuch" if kind == "unknown" else "clip" if kind == "clip" else "llama")
    content = file.read_bytes()
    if kind in ("cut off", "no gguf"):
        file.write_bytes(content[:-200] if kind == "cut off" else b"<html>")
    line = refusal(file)
    assert re.search(r"model.gguf cannot be unpacked .*or take the model's folder", line)
    flags = flags_for(file)
    if kind in ("unknown", "cut off", "no gguf"):
        with pytest.raises(ModelError):  # a plan of it, too
            config_of(flags.model, flags.bits)


# --- Which model it is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_the_fingerprint_is_of_all_that_is_loaded(copied: Callable[[], Path], name: str) -> None:
    folder = copied()
    before, about = model_fingerprint(folder), (folder / name).stat()
    assert model_fingerprint(folder) == before
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    os.utime(folder / name, ns=(about.st_atime_ns, about.st_mtime_ns))  # as `cp -p` leaves it
    assert model_fingerprint(folder) != before


@pytest.mark.parametrize("name", ["merges.txt", "vocab.txt", "tokenizer.model", "vocab.json"])
def test_a_tokenizers_files_count(copied: Callable[[], Path], name: str) -> None:
    folder = copied()
    before = model_fingerprint(folder)
    (folder / name).write_text("a b\n")
    first = model_fingerprint(folder)
    (folder / name).write_text("a c\n")
    assert len({before, first, model_fingerprint(folder)}) == 3


def test_what_is_not_loaded_does_not_count(copied: Callable[[], Path]) -> None:
    folder = copied()
    before = model_fingerprint(folder)
    (folder / "README.md").write_text("a model")
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    assert model_fingerprint(folder) == before
    moved = folder.rename(folder.with_name("elsewhere"))
    assert model_fingerprint(moved) == before


def swap_weights(folder: Path) -> None:
    """Put another model's weights into a folder, as a user who took a newer version does."""
    weights = load_file(folder / WEIGHTS)
    other = {name: -tensor for name, tensor in weights.items()}
    save_file(other, folder / WEIGHTS, {"format": "pt"})


def test_a_model_with_other_weights_in_it_trains_again_and_one_that_moved_does_not(
    copied: Callable[[], Path],
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, out = copied(), tmp_path / "out"
    given = {"data_dir": tiny_dataset.path, "output_dir": out, "refit_share": 0.0}
    caplog.set_level("INFO")

    def figures(where: Path) -> tuple[str, bytes, str]:
        caplog.clear()
        run(flags_for(where, **given))
        about = json.loads((out / "teacher" / "teacher.json").read_text())
        head = (out / "teacher" / "head.safetensors").read_bytes()
        return about["model_fingerprint"], head, caplog.text

    first_print, first, _ = figures(folder)
    assert first_print == model_fingerprint(folder)
    *_, log = figures(folder)
    assert "is finished" in log
    swap_weights(folder)
    second_print, second, log = figures(folder)
    assert second_print == model_fingerprint(folder) != first_print
    assert second != first
    assert "was made with another model_fingerprint: it is made again" in log
    moved = folder.rename(tmp_path / "moved")
    third_print, third, log = figures(moved)
    assert (third_print, third) == (second_print, second)
    assert "is finished" in log
    Teacher.from_pretrained(out / "teacher")  # found where it is now


def test_texts_are_read_anew_by_other_weights_and_not_under_another_name(
    copied: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied()
    first = text.read_texts(["Emma"], folder, bits=32)
    swap_weights(folder)
    second = text.read_texts(["Emma"], folder, bits=32)
    assert not np.allclose(second, first)
    moved = folder.rename(folder.with_name("moved"))
    monkeypatch.setattr(text, "load_base", lambda *_, **__: pytest.fail("read again"))
    assert np.array_equal(text.read_texts(["Emma"], moved, bits=32), second)


# --- Positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "opt"])
def test_a_history_fills_all_positions_and_no_more(
    model_folder: Callable[[str], Path], name: str
) -> None:
    folder = model_folder(name)
    line = refusal(folder, max_len=41)
    assert "has 40 positions" in line
    assert line.endswith("--max-len 40")
    model = load_as_users_do(folder, max_len=40)
    states = base.embed_sequence(model, torch.randn(1, 40, 32))
    assert torch.isfinite(states).all()


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "opt"])
def test_a_text_is_cut_where_positions_end(model_folder: Callable[[str], Path], name: str) -> None:
    folder = model_folder(name)
    model, tokenizer = load_base(folder, bits=32, causal=False), load_tokenizer(folder)
    long, cut_there = (" ".join(["Emma", "Dracula"] * count) for count in (60, 20))  # 40 words
    one, two = text.mean_of_last_states(model, tokenizer, [long, cut_there])
    np.testing.assert_array_equal(one, two)


def test_a_plan_refuses_what_a_training_refuses(
    model_folder: Callable[[str], Path], tiny_dataset: SequenceDataset
) -> None:
    for name, message in (
        ("bert", "has 40 positions"),
        ("t5", "an encoder with a decoder"),
        ("mixtral", "cannot be told from its shape alone.*without --dry-run"),
    ):
        flags = flags_for(model_folder(name), max_len=41)
        with pytest.raises(ModelError, match=message):
            make_plan(tiny_dataset, work_of(flags, 1), torch.device("cpu"))


@pytest.mark.parametrize("name", ["gpt2", "electra", "gemma-3", "bloom"])
def test_a_plan_counts_the_weights_that_are_trained_and_held(
    model_folder: Callable[[str], Path], tiny_dataset: SequenceDataset, name: str
) -> None:
    folder = model_folder(name)
    work = work_of(flags_for(folder, bits=4), 1)
    plan = make_plan(tiny_dataset, work, torch.device("cpu"))
    untrained = torch.zeros(tiny_dataset.num_items + 1, dtype=torch.bool)
    teacher = teacher_on(
        load_base(folder, bits=4, num_layers=1), tiny_dataset.num_items, untrained, work
    )
    assert plan.num_weights == teacher.num_parameters
    assert plan.num_4bit == base.num_4bit_parameters(teacher)


# --- Tokenizers -----------------------------------------------------------------------------------


def change_tokenizer(folder: Path, change: Callable[[Any], None]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    change(tokenizer)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("how", ["no pad", "left", "added pad"])
def test_whatever_pads_a_text_is_read_the_same(copied: Callable[[], Path], how: str) -> None:
    folder = copied()
    expected = text.read_texts([*TEXTS, "Emma " * 70], folder, bits=32)
    model = load_base(folder, bits=32, causal=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if how == "no pad":
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            values = json.loads((folder / file).read_text())
            values.pop("pad_token")
            (folder / file).write_text(json.dumps(values))
        assert AutoTokenizer.from_pretrained(folder).pad_token is None
    elif how == "left":
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        tokenizer.save_pretrained(folder)
    else:
        tokenizer.add_special_tokens({"pad_token": "<added>"})
        tokenizer.save_pretrained(folder)
        assert tokenizer.pad_token_id < 200
        words = model.get_input_embeddings()
        words.weight = nn.Parameter(words.weight[: tokenizer.pad_token_id])  # no row for it
    found = text.mean_of_last_states(model, load_tokenizer(folder), [*TEXTS, "Emma " * 70])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_tokenizer_of_another_model_is_refused(copied: Callable[[], Path]) -> None:
    folder = copied()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = json.loads(tokenizer.to_str())
    vocabulary["model"]["vocab"]["Emma"] = 500
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ModelError, match="makes token 500 of a text, but the model has 200"):
        text.read_texts(["Emma"], folder, bits=32)


def test_a_text_that_is_read_as_no_number_is_named(
    copied: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied()
    model, tokenizer = load_base(folder, bits=32, causal=False), load_tokenizer(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("Emma")["input_ids"][0]] = torch.nan
    with pytest.raises(ModelError, match="reads 'Emma' as NaN"):
        text.mean_of_last_states(model, tokenizer, ["Dracula", "Emma"])


# --- Exported, for where there is no PyTorch ------------------------------------------------------


@pytest.mark.parametrize(("name", "bits"), [("gpt2", 4), ("opt-350m", 32), ("bert", 4)])
def test_an_exported_reader_reads_as_the_model_does_and_as_far(
    model_folder: Callable[[str], Path], tmp_path: Path, name: str, bits: base.Bits
) -> None:
    folder = model_folder(name)
    reader = {"model": name, "bits": bits, "num_layers": None, "max_tokens": 64}
    limit = to_text_encoder._trace(folder, reader, tmp_path)
    assert limit == 40
    model = onnx.load(tmp_path / "model.onnx")
    to_text_encoder.store_in_eight_bit(model)
    matrices = [t for t in model.graph.initializer if len(t.dims) == 2 and min(t.dims) >= 16]
    assert {t.data_type for t in matrices} <= {onnx.TensorProto.INT8}
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    tokenizer.enable_padding()
    encoder = TextEncoder(open_session(model.SerializeToString(), 1), tokenizer, reader)
    texts = [*TEXTS, "Emma Dracula " * 40]  # 80 words
    expected = text.read_texts(texts, folder, bits=bits)
    assert to_text_encoder.cosine(encoder.encode(texts), expected).min() > 0.998


def test_a_model_that_optimum_cannot_trace_is_one_line(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = {"model": "mine", "bits": 32, "num_layers": 1, "max_tokens": 64}
    monkeypatch.setattr(
        "optimum.onnxruntime.ORTModelForFeatureExtraction.from_pretrained",
        lambda *_, **__: (_ for _ in ()).throw(ValueError("no such\nkind")),
    )
    with pytest.raises(ModelError, match=r"mine is a 'bloom', .*items where PyTorch is") as raised:
        to_text_encoder._trace(model_folder("bloom"), reader, tmp_path)
    assert "\n" not in str(raised.value)


# --- What an answer costs -------------------------------------------------------------------------


@pytest.fixture
def teacher(model_folder: Callable[[str], Path], tiny_dataset: SequenceDataset) -> Teacher:
    from teacher.tuning import build_teacher

    flags = flags_for(model_folder("llama"), bits=4)
    return build_teacher(flags, tiny_dataset, torch.device("cpu")).eval()


def test_an_answer_works_out_the_items_once(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = torch.tensor([[0, 3, 1], [4, 5, 6]])
    fresh = teacher(items)  # where gradients are kept, nothing is
    calls = []
    original = Teacher.item_vectors
    monkeypatch.setattr(Teacher, "item_vectors", lambda self: calls.append(1) or original(self))
    with torch.inference_mode():
        answers = [teacher(items) for _ in range(3)]
    assert calls == [1]
    assert all(torch.equal(answer, fresh) for answer in answers)
    teacher.train()
    teacher.item_table.residual.weight.data[1:] += 1
    with torch.no_grad():
        changed = teacher.eval()(items)
    assert not torch.allclose(changed, fresh)


def test_the_bytes_of_an_answer_are_those_of_the_weights_that_it_takes(teacher: Teacher) -> None:
    # Of one layer, width 32 and 48 inside, 2 heads of 16, one of keys and values.
    linear = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48
    layers, blocks = 7, linear // 64
    # A byte for each block's constant, and for each layer: NF4's 16 values, and of the constants
    # the mean, their 256 values and a number for each 256.
    nf4 = linear // 2 + blocks + layers * 4 * (16 + 1 + 256 + 1)
    item_dim, norms = 8, 3 * 32
    lora = sum(p.numel() for n, p in teacher.named_parameters() if "lora_" in n)
    head = 31 * item_dim + (item_dim * 32 + 32) + (32 * item_dim + item_dim)
    frequencies = sum(b.nbytes for b in teacher.base.buffers())
    assert teacher.answer_bytes == {
        "nf4": nf4,
        "other": 4 * (norms + lora + head) + frequencies,
    }


def test_a_batch_is_learnt_without_the_vectors_of_words(
    teacher: Teacher, tiny_dataset: SequenceDataset
) -> None:
    from seqrec.batching import TrainingBatches

    batch = next(TrainingBatches(tiny_dataset, 6, 8, 0).epoch(0)[1])
    next_item_loss(teacher.train(), batch).backward()
    assert 200 not in {len(p) for p in teacher.parameters()}


def test_rows_that_bitsandbytes_restores_wrongly_are_warned_of(
    model_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert base.restores_rows(64)
    monkeypatch.setattr(base, "restores_rows", lambda width: width % 64 == 0)
    load_base(model_folder("llama"), bits=4)
    warned = [
        record.getMessage() for record in caplog.records if "--bits 16" in record.getMessage()
    ]
    assert any("rows of 32 weights" in message for message in warned)
