"""Item texts, read by the language model and kept in the cache."""

import dataclasses
import json
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.texts import item_texts

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoTokenizer

from export.new_items import to_text_encoder
from export.new_items.text_encoder import TextEncoder
from export.recommender import open_session
from teacher import text
from teacher.base import load_base, load_tokenizer
from teacher.config import Bits
from tests.teacher.models import TEXTS, ModelFolder


@pytest.fixture
def texts_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The texts that the language model is made to read, with an empty cache at first."""
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "cache"))
    read: list[str] = []
    original = text.mean_of_last_states

    def recording(model: object, tokenizer: object, texts: list[str]) -> np.ndarray:
        read.extend(texts)
        return original(model, tokenizer, texts)

    monkeypatch.setattr(text, "mean_of_last_states", recording)
    return read


def test_a_text_is_read_once_whatever_catalogue_it_is_in(
    tiny_dataset: SequenceDataset, tiny_llm: Path, texts_read: list[str]
) -> None:
    first, text_map = text.text_components(tiny_dataset, tiny_llm, bits=32)
    again, _ = text.text_components(tiny_dataset, tiny_llm, bits=32)
    assert len(texts_read) == tiny_dataset.num_items
    assert np.array_equal(first, again)
    raw = text.read_texts(item_texts(tiny_dataset.items), tiny_llm, bits=32)
    np.testing.assert_allclose(first[1:], raw @ text_map[:-1] + text_map[-1], atol=2e-3)
    assert (first[0] == 0).all()
    items = tiny_dataset.items.with_columns(
        title=tiny_dataset.items["title"].replace("Emma", "Emma 2")
    )
    changed = dataclasses.replace(tiny_dataset)
    object.__setattr__(changed, "items", items)
    text.text_components(changed, tiny_llm, bits=32)
    assert texts_read[tiny_dataset.num_items :] == ["Emma 2. Romance, Comedy of Manners"]


def test_damaged_vectors_in_the_cache_are_read_anew(
    tiny_llm: Path, texts_read: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = text.read_texts(["Emma", "Dracula"], tiny_llm, bits=32, num_layers=1)
    for file in (tmp_path / "cache" / "text-vectors").iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    again = text.read_texts(["Emma", "Dracula"], tiny_llm, bits=32, num_layers=1)
    assert np.array_equal(again, whole)
    assert texts_read == 2 * ["Emma", "Dracula"]
    assert "is damaged" in caplog.text


def test_a_texts_vector_does_not_depend_on_the_texts_beside_it(tiny_llm: Path) -> None:
    model, tokenizer = load_base(tiny_llm, bits=32, causal=False), load_tokenizer(tiny_llm)
    texts = ["Emma", "Journey to the Center of the Earth", "Dracula and the War of the Worlds"]
    together = text.mean_of_last_states(model, tokenizer, texts)
    for row, alone in enumerate(texts):
        (vector,) = text.mean_of_last_states(model, tokenizer, [alone])
        np.testing.assert_allclose(together[row], vector, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "opt"])
def test_a_text_is_cut_where_positions_end(model_folder: ModelFolder, name: str) -> None:
    folder = model_folder(name)
    model, tokenizer = load_base(folder, bits=32, causal=False), load_tokenizer(folder)
    long, cut_there = (" ".join(["Emma", "Dracula"] * count) for count in (60, 20))  # 40 words
    one, two = text.mean_of_last_states(model, tokenizer, [long, cut_there])
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("how", ["no pad", "left", "added pad"])
def test_whatever_pads_a_text_is_read_the_same(copied: Path, how: str) -> None:
    texts = [*TEXTS, "Emma " * 70]
    model = load_base(copied, bits=32, causal=False)
    expected = text.mean_of_last_states(model, load_tokenizer(copied), texts)
    tokenizer = AutoTokenizer.from_pretrained(copied)
    if how == "no pad":
        for file in (copied / "tokenizer_config.json", copied / "special_tokens_map.json"):
            values = json.loads(file.read_text())
            values.pop("pad_token")
            file.write_text(json.dumps(values))
        assert AutoTokenizer.from_pretrained(copied).pad_token is None
    elif how == "left":
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        tokenizer.save_pretrained(copied)
    else:
        tokenizer.add_special_tokens({"pad_token": "<added>"})
        tokenizer.save_pretrained(copied)
        words = model.get_input_embeddings()
        words.weight = nn.Parameter(words.weight[: tokenizer.pad_token_id])  # no row for it
    vectors = text.mean_of_last_states(model, load_tokenizer(copied), texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_a_tokenizer_of_another_model_is_refused(copied: Path) -> None:
    file = copied / "tokenizer.json"
    vocabulary = json.loads(file.read_text())
    vocabulary["model"]["vocab"]["Emma"] = 500
    file.write_text(json.dumps(vocabulary))
    with pytest.raises(ModelError, match="makes token 500 of a text, but the model has 200"):
        text.read_texts(["Emma"], copied, bits=32)


def test_a_tokenizer_that_knows_no_word_is_refused(copied: Path) -> None:
    """As transformers makes one up for some kinds of models, where its files are missing."""
    file = copied / "tokenizer.json"
    vocabulary = json.loads(file.read_text())
    words = vocabulary["model"]["vocab"]
    vocabulary["model"]["vocab"] = {name: words[name] for name in ("[UNK]", "[PAD]")}
    file.write_text(json.dumps(vocabulary))
    with pytest.raises(ModelError, match=r"cannot be loaded .*knows no word.*tokenizer.json first"):
        load_tokenizer(copied)


def test_a_text_that_is_read_as_no_number_is_named(copied: Path) -> None:
    model, tokenizer = load_base(copied, bits=32, causal=False), load_tokenizer(copied)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("Emma")["input_ids"][0]] = torch.nan
    with pytest.raises(ModelError, match="reads 'Emma' as NaN"):
        text.mean_of_last_states(model, tokenizer, ["Dracula", "Emma"])


# --- Exported, for where there is no PyTorch ------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bits"), [("gpt2", 4), ("opt-350m", 32), ("bert", 4)])
def test_an_exported_reader_reads_as_the_model_does_and_as_far(
    model_folder: ModelFolder, tmp_path: Path, name: str, bits: Bits
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


@pytest.mark.slow
def test_a_model_that_optimum_cannot_trace_is_one_line(
    model_folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = {"model": "mine", "bits": 32, "num_layers": 1, "max_tokens": 64}
    monkeypatch.setattr(
        "optimum.onnxruntime.ORTModelForFeatureExtraction.from_pretrained",
        lambda *_, **__: (_ for _ in ()).throw(ValueError("no such\nkind")),
    )
    with pytest.raises(ModelError, match=r"mine is a 'bloom', .*items where PyTorch is") as raised:
        to_text_encoder._trace(model_folder("bloom"), reader, tmp_path)
    assert "\n" not in str(raised.value)
