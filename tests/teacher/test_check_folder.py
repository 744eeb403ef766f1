"""Folders of language models that cannot be used: one line says why, and what to take."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file

from teacher import text
from teacher.check_folder import model_fingerprint
from teacher.config import Bits
from teacher.model import Teacher
from teacher.plan import config_of, make_plan
from teacher.tuning import run
from tests.teacher.models import WEIGHTS, ModelFolder, build, flags_for, load_as_users_do, refusal

pytestmark = pytest.mark.slow

Change = Callable[[Path], object]
INSTEAD = "Take a decoder such as SmolLM2"


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("t5", {}, rf"a 't5', an encoder with a decoder behind it.*{INSTEAD}"),
        ("clip", {}, rf"a 'clip', of which transformers has no language model.*{INSTEAD}"),
        ("vit", {}, rf"a 'vit', of which transformers has no language model.*{INSTEAD}"),
        ("albert", {}, r"an 'albert', attends to later positions.*such as BERT"),
        ("xlnet", {}, r"a 'xlnet', attends to later positions.*such as BERT"),
        ("mamba", {}, rf"a 'mamba', on which no adapter can be put.*{INSTEAD}"),
        ("canine", {}, rf"a 'canine', cannot be given vectors in place of words.*{INSTEAD}"),
        ("gpt2", {"num_layers": 7}, r"has 2 layers, --num-layers 7 asks for more"),
    ],
)
def test_a_model_that_cannot_teach_is_named(
    model_folder: ModelFolder, name: str, changes: dict[str, Any], expected: str
) -> None:
    assert re.search(expected, refusal(model_folder(name), **changes))


def test_a_refused_model_costs_no_work(
    model_folder: ModelFolder,
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text, "read_texts", lambda *_, **__: pytest.fail("texts were read"))
    cases: list[tuple[str, dict[str, Any]]] = [
        *(("t5", {}), ("mamba", {}), ("bert", {"max_len": 41}), ("gpt2", {"num_layers": 9})),
    ]
    for name, changes in cases:
        out = tmp_path / "out"
        flags = flags_for(
            model_folder(name), data_dir=(tiny_dataset.path,), output_dir=out, **changes
        )
        with pytest.raises(ModelError):
            run(flags)
        assert not out.exists()
        with pytest.raises(ModelError):
            make_plan(tiny_dataset, flags, torch.device("cpu"))


def say(**values: object) -> Change:
    """Return what changes values of a folder's configuration."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def quantized(**values: object) -> Change:
    return say(quantization_config=values)


def replace(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def rename(name: str, other: str) -> Change:
    return lambda folder: (folder / name).rename(folder / other)


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Return what changes a folder's tensors, by their names."""

    def apply(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, {"format": "pt"})

    return apply


def with_number(value: float) -> Change:
    return change_weights(lambda w: w["layers.0.mlp.up_proj.weight"][3].fill_(value))


def without(part: str) -> Change:
    return change_weights(lambda w: [w.pop(name) for name in list(w) if part in name])


def in_shards(change: Change) -> Change:
    def apply(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        build("llama").save_pretrained(folder, max_shard_size="20KB")
        change(folder)

    return apply


def copy_a_shard_over_the_next(folder: Path) -> None:
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    shutil.copy(first, second)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
ADAPTER = replace(
    "adapter_config.json", b'{"base_model_name_or_path": "owner/base", "peft_type": "LORA"}'
)
GPTQ = quantized(quant_method="gptq", bits=4, group_size=128)
BEFORE = "Take the model that it was made of"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (replace(WEIGHTS, POINTER), r"pointer of Git LFS.*git -C .* lfs pull"),
        (replace("tokenizer.json", POINTER), r"tokenizer.json is a pointer of Git LFS"),
        (replace("config.json", POINTER), r"config.json is a pointer of Git LFS"),
        (cut, r"model.safetensors is damaged .*Fetch it again"),
        (replace(WEIGHTS, b""), r"model.safetensors is damaged .*0 bytes.*Fetch it again"),
        (replace(WEIGHTS, b"<!DOCTYPE html>"), r"is damaged .*<!DOCTYPE html.*Fetch it again"),
        (remove(WEIGHTS), r"holds no weights: expected model.safetensors"),
        (rename(WEIGHTS, "tf_model.h5"), r"weights as tf_model.h5 alone, expected model.safe"),
        (rename(WEIGHTS, "best.safetensors"), r"holds best.safetensors, expected .*Rename it"),
        (rename(WEIGHTS, "pytorch_model.bin"), r"a pickle \(pytorch_model.bin\).*python -c"),
        (rename(WEIGHTS, "model.pt"), r"a pickle \(model.pt\).*python -c"),
        (rename(WEIGHTS, "last.ckpt"), r"a pickle \(last.ckpt\).*python -c"),
        (without("layers.0.mlp"), r"lacks 3 of the weights.*layers.0.mlp.down_proj.weight"),
        (say(num_hidden_layers=7), r"lacks \d+ of the weights"),
        (say(hidden_size=64), r"cannot be loaded in 32 bit .*do not fit each other"),
        (
            in_shards(lambda folder: next(folder.glob("*-00002-of*")).unlink()),
            r"lacks 1 of the \d+ files of weights .*model-00002-of",
        ),
        (in_shards(copy_a_shard_over_the_next), r"do not fit each other|lacks \d+ of the weights"),
        (in_shards(replace(f"{WEIGHTS}.index.json", b"{")), r"index.json is damaged"),
        (with_number(float("nan")), r"NaN or infinite numbers, in layers.0.mlp.up_proj.weight"),
        (with_number(float("-inf")), r"NaN or infinite numbers, in layers.0.mlp.up_proj.weight"),
        (replace("config.json", b"{"), rf"config.json cannot be used .*JSON.*{INSTEAD}"),
        (remove("config.json"), r"holds no config.json.*Expected a folder as"),
        (replace("config.json", b'{"hidden_size": 8}'), rf"it names no model_type.*{INSTEAD}"),
        (say(model_type=None), rf"config.json cannot be used .*model type `None`.*{INSTEAD}"),
        (say(model_type="new_llm"), rf"cannot be used .*model type `new_llm`.*{INSTEAD}"),
        (
            say(model_type="my_llm", auto_map={"AutoConfig": "modeling.MyConfig"}),
            rf"cannot be used .*No model's code is run here. {INSTEAD}",
        ),
        (GPTQ, rf"quantized already \(gptq in 4 bit\).*{BEFORE}"),
        (quantized(quant_method="awq", bits=4), rf"already \(awq in 4 bit\).*{BEFORE}"),
        (
            quantized(quant_method="bitsandbytes", load_in_8bit=True),
            rf"quantized already \(bitsandbytes in 8 bit\).*{BEFORE}",
        ),
        (quantized(quant_method="fp8"), rf"quantized already \(fp8\).*{BEFORE}"),
        (ADAPTER, r"holds an adapter of owner/base, not.*Take owner/"),
        (remove("tokenizer.json"), r"tokenizer in .* cannot be loaded"),
        (replace("tokenizer.json", b'{"version": "1.0"}'), r"tokenizer in .* cannot be loaded"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why_in_one_line(
    copied: Path, change: Change, expected: str
) -> None:
    change(copied)
    assert re.search(expected, refusal(copied, num_layers=0))


@pytest.mark.parametrize("bits", [4, 16])
def test_nobody_is_sent_to_another_precision_that_fails_as_well(copied: Path, bits: Bits) -> None:
    GPTQ(copied)
    assert "--bits" not in refusal(copied, bits=bits)


def test_a_folder_without_weights_says_where_they_are(copied: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    folder = copied.rename(outer / "inner")
    assert f"--model {folder}" in refusal(outer)
    shutil.rmtree(folder)
    (outer / "model.Q4_0.gguf").touch()
    assert f"--model {outer / 'model.Q4_0.gguf'}" in refusal(outer)
    (outer / "model.Q4_0.gguf").unlink()
    ADAPTER(outer)
    assert "merge_and_unload" in refusal(outer)


def test_the_line_about_a_pickle_is_a_command_that_repairs_it(copied: Path) -> None:
    weights = load_file(copied / WEIGHTS)
    torch.save(weights, copied / "pytorch_model.bin")
    (copied / WEIGHTS).unlink()
    _, _, command = refusal(copied).partition("python -c ")
    exec(shlex.split(command)[0], {})  # noqa: S102, what the line asks for
    model = load_as_users_do(copied, num_layers=0)
    assert torch.equal(model.layers[1].mlp.up_proj.weight, weights["layers.1.mlp.up_proj.weight"])


def write_gguf(file: Path, architecture: str) -> None:
    """Write a small GGUF file of a model."""
    writer = GGUFWriter(file, architecture)
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((8, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("architecture", "change", "has_no_config"),
    [
        ("nonesuch", None, True),
        ("clip", None, False),
        ("llama", None, False),
        ("llama", lambda content: content[:-200], True),
        ("llama", lambda content: b"<html>", True),
    ],
    ids=["unknown", "clip", "llama", "cut off", "no gguf"],
)
def test_a_gguf_file_that_cannot_be_unpacked_is_one_line(
    tmp_path: Path,
    architecture: str,
    change: Callable[[bytes], bytes] | None,
    has_no_config: bool,
) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, architecture)
    if change is not None:
        file.write_bytes(change(file.read_bytes()))
    assert re.search(r"model.gguf cannot be unpacked .*or take the model's folder", refusal(file))
    if has_no_config:
        with pytest.raises(ModelError):  # a plan of it, too
            config_of(str(file), 32)


# --- Which model it is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"),
        *("merges.txt", "vocab.txt", "tokenizer.model", "vocab.json"),
    ],
)
def test_the_fingerprint_is_of_all_that_is_loaded(copied: Path, name: str) -> None:
    file = copied / name
    if not file.exists():
        file.write_text("a b\n")
    before, status = model_fingerprint(copied), file.stat()
    assert model_fingerprint(copied) == before
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` leaves it
    changed = model_fingerprint(copied)
    file.unlink()
    assert len({before, changed, model_fingerprint(copied)}) == 3


def test_what_is_not_loaded_does_not_count(copied: Path) -> None:
    before = model_fingerprint(copied)
    (copied / "README.md").write_text("a model")
    (copied / "pytorch_model.bin").write_bytes(b"not read")
    assert model_fingerprint(copied) == before
    moved = copied.rename(copied.with_name("elsewhere"))
    assert model_fingerprint(moved) == before


@change_weights
def take_a_newer_version(weights: dict[str, torch.Tensor]) -> None:
    weights.update({name: -tensor for name, tensor in weights.items()})


def test_a_model_with_other_weights_in_it_trains_again_and_one_that_moved_does_not(
    copied: Path, tiny_dataset: SequenceDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    caplog.set_level("INFO")

    def teach(folder: Path) -> tuple[str, bytes]:
        caplog.clear()
        run(flags_for(folder, data_dir=(tiny_dataset.path,), output_dir=out, refit_share=0.0))
        trained_on = json.loads((out / "teacher" / "teacher.json").read_text())
        head = (out / "teacher" / "head.safetensors").read_bytes()
        return trained_on["model_fingerprint"], head

    first = teach(copied)
    assert first[0] == model_fingerprint(copied)
    assert teach(copied) == first
    assert "is finished" in caplog.text
    take_a_newer_version(copied)
    second = teach(copied)
    assert second[0] == model_fingerprint(copied) != first[0]
    assert second[1] != first[1]
    assert "was made with another model_fingerprint: it is made again" in caplog.text
    moved = copied.rename(tmp_path / "moved")
    assert teach(moved) == second
    assert "is finished" in caplog.text
    Teacher.from_pretrained(out / "teacher")  # which looks where the model is now


def test_texts_are_read_anew_by_other_weights_and_not_under_another_name(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = text.read_texts(["Emma"], copied, bits=32)
    take_a_newer_version(copied)
    second = text.read_texts(["Emma"], copied, bits=32)
    assert not np.allclose(second, first)
    moved = copied.rename(copied.with_name("moved"))
    monkeypatch.setattr(text, "load_base", lambda *_, **__: pytest.fail("read again"))
    assert np.array_equal(text.read_texts(["Emma"], moved, bits=32), second)
