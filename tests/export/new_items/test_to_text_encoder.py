"""The language model that read the catalogue, exported: what reads new items without PyTorch."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from seqrec.errors import DataError, ModelError
from seqrec.files import read_json

import numpy as np
import onnx
import polars as pl
import pytest
from huggingface_hub import ModelCard
from onnx import numpy_helper
from tokenizers import Tokenizer

from export.config import AddItemsConfig, ToTextEncoderConfig
from export.new_items import to_text_encoder as module
from export.new_items.add_items import add_items
from export.new_items.text_encoder import TextEncoder
from export.new_items.to_text_encoder import cosine, to_text_encoder
from export.recommender import open_session
from teacher.text import read_new_texts, read_texts
from tests.export.new_items.changes import change_reader, refusal


@pytest.fixture(scope="module")
def config(export_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("reader") / "text-encoder"
    return ToTextEncoderConfig(model_dir=export_of(precision="int8"), output_dir=folder)


@pytest.fixture(scope="module")
def text_encoder(config: ToTextEncoderConfig) -> Path:
    return to_text_encoder(config)


def test_the_exported_reader_says_what_the_language_model_says(text_encoder: Path) -> None:
    encoder = TextEncoder.from_pretrained(text_encoder)
    titles = ["Emma", "", "The War of the Roses", "Emma " * 100, "Zazie dans le m\u00e9tro"]
    items = pl.DataFrame({"item_id": titles, "title": titles})
    expected = read_new_texts(items, {**encoder.reader, "text_columns": ["title"]})
    vectors = encoder.encode(titles)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[1], expected[1])  # of no word of this tokenizer's
    assert np.delete(cosine(vectors, expected), 1).min() > 0.999
    # Who else is in a batch changes nothing but rounding.
    np.testing.assert_allclose(encoder.encode(titles[:1]), vectors[:1], atol=1e-5)


def test_the_exported_reader_holds_its_matrices_in_8_bit(text_encoder: Path) -> None:
    about = read_json(text_encoder / "config.json")
    assert about["eight_bit_share"] > 0.95
    graph = onnx.load(text_encoder / "model.onnx").graph
    large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) >= 64 * 64]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}
    card = ModelCard.load(text_encoder / "README.md")
    assert card.data.license == "other"  # its publisher's
    assert f"{about['cosine']['mean']:.4f}, at least {about['cosine']['least']:.4f}" in card.text


def test_items_are_added_without_pytorch(
    wanted: AddItemsConfig, text_encoder: Path, tmp_path: Path
) -> None:
    add_items(wanted)
    flags = ["--model-dir", wanted.model_dir, "--items", wanted.items]
    flags += ["--output-dir", tmp_path / "light", "--text-encoder", text_encoder]
    command = f"""
import sys
from export.add_items import main
main({[str(flag) for flag in flags]!r})
assert not {{"torch", "transformers", "optimum"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tables = []
    for folder in (tmp_path / "out", tmp_path / "light"):
        held = onnx.load(folder / "model.onnx").graph.initializer
        (table,) = (numpy_helper.to_array(part) for part in held if part.name == "item_table")
        tables.append(table[-3:])
    assert cosine(*tables).min() > 0.99


def test_the_reader_of_another_catalogue_is_refused(
    wanted: AddItemsConfig, text_encoder: Path
) -> None:
    change_reader(wanted.model_dir, "num_layers", 2)
    config = dataclasses.replace(wanted, text_encoder=text_encoder)
    refusal(config, "num_layers is 1, but the catalogue was read with 2")


def test_what_is_no_text_encoder_is_not_replaced(
    config: ToTextEncoderConfig, text_encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds no text encoder"):
        to_text_encoder(dataclasses.replace(config, output_dir=tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert to_text_encoder(config) == text_encoder  # an earlier one is


def test_an_encoder_that_looks_both_ways_is_exported_too(tiny_bert: Path, tmp_path: Path) -> None:
    reader = {"bits": 32, "num_layers": 1, "max_tokens": 64}
    module._trace(tiny_bert, reader, tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    module.store_in_eight_bit(model)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_padding()
    encoder = TextEncoder(open_session(model.SerializeToString(), 1), tokenizer, reader)
    titles = ["Emma", "The War of the Roses"]
    expected = read_texts(titles, tiny_bert, bits=32, num_layers=1)
    assert cosine(encoder.encode(titles), expected).min() > 0.999


def test_a_reader_that_says_something_else_is_not_written(
    config: ToTextEncoderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        (table,) = (t for t in model.graph.initializer if "embed" in t.name)
        values = numpy_helper.to_array(table)[::-1]
        table.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), table.name))

    monkeypatch.setattr(module, "store_in_eight_bit", spoil)
    with pytest.raises(ModelError, match="otherwise than it did"):
        to_text_encoder(dataclasses.replace(config, output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
