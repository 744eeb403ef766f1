"""Language models of many kinds, loaded: each reads, answers and learns as transformers' own."""

import shutil
import sys
from pathlib import Path
from typing import Any

from seqrec.errors import ModelError, SourceError

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer
from transformers.pytorch_utils import Conv1D

from teacher import base, text
from teacher.base import load_base, load_tokenizer, resolve_model
from teacher.check_folder import read_config, text_config
from teacher.config import Bits
from teacher.model import new_teacher
from tests.teacher.models import (
    DECODERS,
    ENCODERS,
    TEXTS,
    WEIGHTS,
    ModelFolder,
    build,
    flags_for,
    load_as_users_do,
    refusal,
)


def states_of(model: Any, words: Tensor) -> Tensor:
    """Let a model of transformers, as it was built, read words: its last states."""
    part = model
    for name in ("model", "transformer", "bert", "language_model"):
        part = getattr(part, name, part)
    states: Tensor = part(input_ids=words, use_cache=False).last_hidden_state
    return states


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
@torch.no_grad()
def test_texts_are_read_as_the_model_itself_reads_them(
    model_folder: ModelFolder, name: str
) -> None:
    folder = model_folder(name)
    loaded = load_base(folder, bits=32, causal=False)
    vectors = text.mean_of_last_states(loaded, load_tokenizer(folder), TEXTS)
    original, tokenizer = build(name), AutoTokenizer.from_pretrained(folder)
    for row, words in enumerate(TEXTS):
        states = states_of(original, torch.tensor([tokenizer(words)["input_ids"]]))
        np.testing.assert_allclose(vectors[row], states[0].mean(dim=0), atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_given_the_vectors_of_words_a_model_without_words_answers_as_one_that_reads_them(
    model_folder: ModelFolder, name: str
) -> None:
    folder = model_folder(name)
    reader, model = load_base(folder, bits=32, causal=False), load_base(folder, bits=32)
    words = torch.tensor([[3, 9, 4, 27]])
    expected = reader(input_ids=words).last_hidden_state
    given = reader.get_input_embeddings()(words)
    torch.testing.assert_close(base.embed_sequence(model, given), expected)
    table = reader.get_input_embeddings().weight
    assert not any(p.shape == table.shape for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 4])
@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_a_teacher_of_one_layer_learns(model_folder: ModelFolder, name: str, bits: Bits) -> None:
    folder = model_folder(name)
    model = load_as_users_do(folder, bits=bits)
    part = text_config(read_config(folder))
    assert model.config.num_hidden_layers == 1 < part.num_hidden_layers
    torch.manual_seed(0)
    flags = flags_for(folder, bits=bits, dropout=0.0)
    teacher = new_teacher(model, torch.zeros(7, dtype=torch.bool), flags).train()
    teacher.item_table.components[1:].normal_()
    parts = teacher.named_parameters()
    adapter = [p for name, p in parts if "lora_B" in name and "experts" not in name]
    assert adapter
    optimizer = torch.optim.Adam([p for p in teacher.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(8):
        scores = teacher(torch.tensor([[1, 2, 3, 4], [0, 4, 5, 6]]))
        loss = nn.functional.cross_entropy(scores, torch.tensor([5, 1]))
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert min(losses) < losses[0]
    assert all(p.abs().max() > 0 for p in adapter)  # they start at zero


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "opt"])
def test_a_history_fills_all_positions_and_no_more(model_folder: ModelFolder, name: str) -> None:
    folder = model_folder(name)
    line = refusal(folder, max_len=41)
    assert "has 40 positions" in line
    assert line.endswith("--max-len 40")
    model = load_as_users_do(folder, max_len=40)
    states = base.embed_sequence(model, torch.randn(1, 40, 32))
    assert torch.isfinite(states).all()


@pytest.mark.slow
def test_shards_are_read_whatever_their_files_are_called(
    model_folder: ModelFolder, tmp_path: Path
) -> None:
    folder, sharded = model_folder("llama"), tmp_path / "in shards [v1] ü"
    shutil.copytree(folder, sharded)
    (sharded / WEIGHTS).unlink()
    build("llama").save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    one, two = (load_as_users_do(f).state_dict() for f in (folder, sharded))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- Precisions -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "bert", "albert", "opt-350m", "gemma-3", "llava"]
)
def test_every_linear_layer_is_in_4_bit_even_the_last(model_folder: ModelFolder, name: str) -> None:
    folder = model_folder(name)
    model = load_base(folder, bits=4, causal=False)
    full = load_base(folder, bits=32, causal=False)
    modules = full.modules()
    linear = sum(m.weight.numel() for m in modules if isinstance(m, nn.Linear | Conv1D))
    assert base.num_4bit_parameters(model) == linear
    stored = sum(p.nbytes for p in model.parameters() if p.dtype == torch.uint8)
    assert stored * 2 == linear  # two weights to a byte


def test_other_precisions_hold_no_4_bit_weight(tiny_llm: Path) -> None:
    model = load_base(tiny_llm, bits=16)
    assert base.num_4bit_parameters(model) == 0
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_without_4_bit_support_loading_stops_and_names_the_flag_for_16_bit(
    tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"--bits 16"):
        load_base(tiny_llm, bits=4)


@pytest.mark.slow
def test_rows_that_bitsandbytes_restores_wrongly_are_warned_of(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert base.restores_rows(64)
    monkeypatch.setattr(base, "restores_rows", lambda width: width % 64 == 0)
    load_base(model_folder("llama"), bits=4)
    warnings = [record.getMessage() for record in caplog.records]
    assert any("rows of 32 weights" in line and "--bits 16" in line for line in warnings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt-350m"])
@torch.no_grad()
def test_restored_weights_are_those_of_the_model_as_far_as_4_bit_goes(
    model_folder: ModelFolder, name: str
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
            weight, expected = restored.get_submodule(where).weight, module.weight
            # NF4's steps are at most 0.305 of a block's largest value apart (its table).
            assert (weight - expected).abs().max() <= 0.16 * expected.abs().max()
            both = torch.stack([weight.flatten(), expected.flatten()])
            assert torch.corrcoef(both)[0, 1] > 0.98
            shapes.add(tuple(expected.shape))
    assert any(rows == columns for rows, columns in shapes)
    words = torch.tensor([[3, 9, 4, 27]])
    in_4bit = load_base(folder, bits=4, causal=False)(words).last_hidden_state.float()
    states = restored(words).last_hidden_state
    torch.testing.assert_close(states, in_4bit, atol=0.05, rtol=0.05)


@pytest.mark.slow
def test_weights_stored_in_nf4_are_taken_as_they_are(
    model_folder: ModelFolder, copied: Path
) -> None:
    quantized = load_base(model_folder("llama"), bits=4, causal=False)
    (copied / WEIGHTS).unlink()
    quantized.save_pretrained(copied)
    again = load_base(copied, bits=4, causal=False)
    words = torch.tensor([[3, 9, 4]])
    with torch.no_grad():
        expected = quantized(words).last_hidden_state
        torch.testing.assert_close(again(words).last_hidden_state, expected)
    with pytest.raises(ModelError, match="stored in 4 bit .*--bits 4"):
        load_as_users_do(copied, bits=16)
    with pytest.raises(ModelError, match="no part can be loaded: .*--num-layers 0"):
        load_as_users_do(copied, bits=4, num_layers=1)
    load_as_users_do(copied, bits=4, num_layers=0)


# --- By name --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no/such/folder/here", "./missing", "misspelt-bundle"])
def test_a_model_that_is_nowhere_is_refused_with_what_is_accepted(name: str) -> None:
    with pytest.raises(SourceError, match=r"expected a folder .* hub id .*smollm2-135m"):
        resolve_model(name)


def test_a_model_of_the_hub_can_be_pinned(monkeypatch: pytest.MonkeyPatch, tiny_llm: Path) -> None:
    asked = []

    def snapshot(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in allow_patterns)
        return str(tiny_llm)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for name in ("owner/name", "owner/name@0123abc"):
        assert resolve_model(name) == tiny_llm
    assert asked == [("owner/name", None), ("owner/name", "0123abc")]


def test_a_hub_that_cannot_be_reached_is_one_line_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(
        SourceError, match=r"did not give 'Qwen/Qwen2.5-0.5B'.*--model smollm2-135m"
    ) as caught:
        resolve_model("Qwen/Qwen2.5-0.5B")
    assert "\n" not in str(caught.value)
