"""New items in an exported student, and what the benchmark says of items that were held out."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset, write_dataset
from seqrec.errors import DataError, ModelError
from seqrec.evaluation import evaluate
from seqrec.files import selection, sha256_file
from seqrec.knowledge import load_knowledge
from seqrec.metrics import hit_rate, ndcg
from seqrec.splits import choose_cold_items, hold_out_items

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from onnx import numpy_helper
from tokenizers import Tokenizer

from benchmarks import cold_start as cold
from benchmarks.cold_start import CHANCE, chance_values, make_row
from benchmarks.report.files import load
from benchmarks.report.schema import ColdResults
from export.config import AddItemsConfig, ToTextEncoderConfig
from export.new_items import add_items as module
from export.new_items import to_text_encoder as to_text_encoder_module
from export.new_items.add_items import add_items
from export.new_items.text_encoder import TextEncoder
from export.new_items.to_text_encoder import cosine, to_text_encoder
from export.onnx_graph.exporting import ensure_exported
from export.onnx_graph.item_table import append_rows
from export.recommender import OUTPUT_NAMES, Recommender, open_session
from student.config import DistillConfig
from student.distilling import distil
from student.model import Student
from student.text_map import FILE, TextMap
from teacher.config import FinetuneConfig
from teacher.model import Teacher
from teacher.text import read_new_texts, read_texts
from teacher.tuning import run

NEW_ITEMS = pl.DataFrame(
    {
        "item_id": ["n1", "n2", "n3"],
        "title": ["The Moonstone", "The War of the Roses", "Emma"],
        "category": ["Detective, Mystery", "History", "Romance, Comedy of Manners"],
    }
)


@pytest.fixture(scope="module")
def cold_dataset(
    tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> SequenceDataset:
    """The tiny set with six of the thirty books held out."""
    cold_items = choose_cold_items(tiny_dataset.events, 0.2, seed=0)
    events, offsets, split = hold_out_items(
        tiny_dataset.events, tiny_dataset.offsets, tiny_dataset.split, cold_items
    )
    return write_dataset(
        tmp_path_factory.mktemp("cold") / "tiny-cold",
        name="tiny-cold",
        items=tiny_dataset.items,
        user_ids=pl.read_parquet(tiny_dataset.path / "user_ids.parquet")["user_id"],
        events=events,
        offsets=offsets,
        split=split,
        split_name="leave-one-out",
        provenance={},
        cold_items=cold_items,
    )


@pytest.fixture(scope="module")
def output_dir(
    cold_dataset: SequenceDataset, tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run: teacher, knowledge, and a GRU and a Transformer with their controls."""
    path = tmp_path_factory.mktemp("run")
    run(
        FinetuneConfig(
            data_dir=cold_dataset.path,
            output_dir=path,
            model=str(tiny_llm),
            num_layers=1,
            num_epochs=1,
            item_dim=16,
            device="cpu",
            num_threads=1,
        )
    )
    knowledge = load_knowledge(path / "knowledge", cold_dataset)
    config = DistillConfig(
        output_dir=path, num_epochs=2, hidden_dim=16, batch_size=16, max_len=7, device="cpu"
    )
    for arch in ("gru", "transformer"):
        for role, known in (("control", None), ("distilled", knowledge)):
            folder = path / "students" / arch / role
            distil(arch, config, cold_dataset, known, folder, Accelerator(cpu=True))  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module", params=["gru", "transformer"])
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def pair(
    request: pytest.FixtureRequest,
    arch: str,
    output_dir: Path,
    cold_dataset: SequenceDataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """An exported student, and the same with three items more."""
    student = output_dir / "students" / arch / "distilled"
    old = ensure_exported(cold_dataset, output_dir, student, request.param)
    folder = tmp_path_factory.mktemp("more")
    NEW_ITEMS.write_parquet(folder / "new.parquet")
    add_items(
        AddItemsConfig(model_dir=old, items=folder / "new.parquet", output_dir=folder / "out")
    )
    return old, folder / "out"


def scores(folder: Path, items: np.ndarray, num_items: int) -> np.ndarray:
    """Read every item's score out of a file's answer, (num_items + 1,); PAD is -inf."""
    session = open_session(folder / "model.onnx", num_threads=1)
    feeds = {
        "items": items,
        "excluded": np.zeros((1, 0), dtype=np.int64),
        "k": np.array([num_items + 1]),
    }
    top_items, top_scores = session.run(OUTPUT_NAMES, feeds)
    return top_scores[0, np.argsort(top_items[0])]


def constants(folder: Path) -> dict[str, np.ndarray]:
    """Return the constants in a file, by name."""
    graph = onnx.load(folder / "model.onnx").graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def table_of(folder: Path) -> np.ndarray:
    """Return the item table in a file, float32 or uint8."""
    return constants(folder)["item_table"]


def restored(model: onnx.ModelProto) -> np.ndarray:
    """Return what the rows of an 8-bit table stand for, float32 (rows, H)."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return (values["item_table"].astype(np.float32) - 128) * values["item_scales"]


def new_rows(folder: Path) -> np.ndarray:
    """Return the rows of the new items as the parts that are tested elsewhere make them."""
    text_map = TextMap.load(folder / FILE)
    reader = json.loads((folder / "config.json").read_text())["text_map"]["reader"]
    return text_map.rows(read_new_texts(NEW_ITEMS, reader))


# --- What distillation leaves -------------------------------------------------------------------


def test_a_distilled_students_untrained_rows_are_those_that_the_stored_map_predicts(
    output_dir: Path, cold_dataset: SequenceDataset, arch: str
) -> None:
    folder = output_dir / "students" / arch / "distilled"
    table = Student.from_pretrained(folder).item_embedding.weight.detach().numpy()
    reader = json.loads((folder / "config.json").read_text())["text_reader"]
    predicted = np.zeros_like(table)
    predicted[1:] = TextMap.load(folder / FILE).rows(read_new_texts(cold_dataset.items, reader))
    untrained = cold_dataset.before_test().untrained_items
    assert len(untrained) >= 6
    # The catalogue's components are kept in half precision.
    np.testing.assert_allclose(table[untrained], predicted[untrained], rtol=1e-2, atol=1e-3)
    others = np.setdiff1d(np.arange(1, len(table)), untrained)
    assert np.abs(table[others] - predicted[others]).max(axis=1).min() > 1e-4
    assert not (output_dir / "students" / arch / "control" / FILE).exists()


def test_the_recorded_validation_is_that_of_the_student_before_its_refit(
    output_dir: Path, cold_dataset: SequenceDataset, arch: str
) -> None:
    folder = output_dir / "students" / arch / "distilled"
    student = Student.from_pretrained(selection(folder))
    result = evaluate(student, cold_dataset, "valid", max_len=7)
    recorded = json.loads((folder / "config.json").read_text())["valid_metrics"]["ndcg@10"]
    assert recorded == pytest.approx(float(ndcg(result.excluding_seen, 10).mean()))


def test_the_knowledge_holds_the_texts_as_the_teacher_has_them(
    output_dir: Path, cold_dataset: SequenceDataset
) -> None:
    knowledge = load_knowledge(output_dir / "knowledge", cold_dataset)
    teacher = Teacher.from_pretrained(output_dir / "teacher")
    assert np.array_equal(knowledge.text_components, teacher.item_table.components.numpy())
    assert np.array_equal(knowledge.text_map, teacher.text_map.numpy())


# --- Adding items -------------------------------------------------------------------------------


def test_old_rows_stay_as_they_were_to_the_last_bit_and_so_do_old_scores(
    pair: tuple[Path, Path],
) -> None:
    old, new = pair
    before, after = table_of(old), table_of(new)
    assert after.dtype == before.dtype
    assert len(after) == len(before) + 3
    assert np.array_equal(after[: len(before)], before)
    rng = np.random.default_rng(0)
    for length in (1, 3, 7):
        items = rng.integers(1, 31, (1, length))
        assert np.array_equal(scores(new, items, 33)[:31], scores(old, items, 30))


def test_a_new_item_scores_the_product_of_the_users_state_and_its_row(
    pair: tuple[Path, Path], output_dir: Path, arch: str
) -> None:
    _, new = pair
    student = Student.from_pretrained(output_dir / "students" / arch / "distilled")
    items = np.array([[3, 1, 4]])
    with torch.no_grad():
        state = student.encode(torch.from_numpy(items))[0, -1].numpy()
    found, expected = scores(new, items, 33)[31:], new_rows(new) @ state
    if table_of(new).dtype == np.float32:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    else:  # 8 bit of the table's range on each side
        spread = np.abs(scores(new, items, 33)[1:31]).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.1 * spread)


def test_new_rows_of_an_8_bit_table_are_rounded_to_the_nearest_of_their_own_levels(
    pair: tuple[Path, Path],
) -> None:
    _, new = pair
    if table_of(new).dtype == np.float32:
        assert np.array_equal(table_of(new)[31:], new_rows(new))
        return
    wanted = new_rows(new)
    step = np.abs(wanted).max(axis=1, keepdims=True) / 127
    found = restored(onnx.load(new / "model.onnx"))[31:]
    assert (np.abs(found - wanted) <= step * 0.5001).all()


def test_a_copy_of_an_untrained_item_scores_as_the_item_does(
    output_dir: Path, cold_dataset: SequenceDataset, tmp_path: Path
) -> None:
    """The catalogue's items and later ones are read and projected in one and the same way."""
    student = output_dir / "students" / "gru" / "distilled"
    old = ensure_exported(cold_dataset, output_dir, student, "fp32")
    number = int(cold_dataset.cold_items[0])
    row = cold_dataset.items[number - 1].with_columns(item_id=pl.lit("copy"))
    row.write_csv(tmp_path / "copy.csv")
    add_items(
        AddItemsConfig(model_dir=old, items=tmp_path / "copy.csv", output_dir=tmp_path / "out")
    )
    found = scores(tmp_path / "out", np.array([[2, 5, 3]]), 31)
    # The catalogue's components are kept in half precision.
    assert found[31] == pytest.approx(found[number], abs=1e-3)


def test_the_recommender_recommends_the_new_items_and_knows_them_in_histories(
    pair: tuple[Path, Path],
) -> None:
    recommender = Recommender.from_pretrained(pair[1])
    answers = recommender.recommend(["b01", "b02"], k=40)
    assert len(answers) == 31
    found = {answer.item_id: answer.title for answer in answers}
    assert [found[item_id] for item_id in ("n1", "n2", "n3")] == NEW_ITEMS["title"].to_list()
    assert "n1" not in {a.item_id for a in recommender.recommend(["n1", "b02"], k=40)}
    about = json.loads((pair[1] / "config.json").read_text())
    before = json.loads((pair[0] / "config.json").read_text())
    assert (about["num_items"], about["num_added_items"]) == (33, 3)
    assert about["num_parameters"] == before["num_parameters"] + 3 * 16
    card = (pair[1] / "README.md").read_text()
    assert "3 items were added from their texts" in card
    # Who passes the model on has to know whose terms it is under.
    model = json.loads((pair[1] / "config.json").read_text())["text_map"]["reader"]["model"]
    assert f"learned from: {model}, under its publisher's terms" in card


def test_items_can_be_added_to_what_items_were_added_to(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    pl.DataFrame({"item_id": ["n4"], "title": ["The Monk"]}).write_csv(tmp_path / "new.csv")
    add_items(
        AddItemsConfig(model_dir=pair[1], items=tmp_path / "new.csv", output_dir=tmp_path / "again")
    )
    recommender = Recommender.from_pretrained(tmp_path / "again")
    assert recommender.item_ids[-4:] == ["n1", "n2", "n3", "n4"]
    assert recommender.config["num_added_items"] == 4


def test_rows_of_any_size_are_kept_in_8_bit(pair: tuple[Path, Path]) -> None:
    model = onnx.load(pair[0] / "model.onnx")
    if table_of(pair[0]).dtype == np.float32:
        pytest.skip("an fp32 table has no levels")
    rows = np.stack([np.full(16, 1e6), np.full(16, -1e-6)]).astype(np.float32)
    append_rows(model, rows)
    np.testing.assert_allclose(restored(model)[31:], rows, rtol=1e-6)


def test_a_file_without_an_item_table_of_ours_is_refused(pair: tuple[Path, Path]) -> None:
    model = onnx.load(pair[0] / "model.onnx")
    (table,) = (t for t in model.graph.initializer if t.name == "item_table")
    table.name = "weight"
    with pytest.raises(ModelError, match="no constant 'item_table'. Export it again"):
        append_rows(model, np.zeros((1, 16), dtype=np.float32))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"item_id": ["n1", "b07"], "title": ["A", "B"]}, r"row 2: item 'b07' is in .* already"),
        ({"item_id": ["n1", "n1"], "title": ["A", "B"]}, r"row 2: item id 'n1' occurs a second"),
        ({"item_id": ["n1"], "name": ["A"]}, r"no column 'title'; .* with --title-column"),
        ({"title": ["A"]}, r"no column 'item_id'; .* with --items-id-column"),
        ({"item_id": ["n1", "n2"], "title": ["A", " "]}, r"row 2: item 'n2' has no title"),
        ({"item_id": ["n1", ""], "title": ["A", "B"]}, r"row 2: column 'item_id' is empty"),
    ],
)
def test_items_that_cannot_be_added_are_refused_before_any_text_is_read(
    pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    items: dict[str, list[str]],
    message: str,
) -> None:
    monkeypatch.setattr(module, "_read_texts", lambda *_: pytest.fail("read a text"))
    pl.DataFrame(items).write_parquet(tmp_path / "new.parquet")
    config = AddItemsConfig(
        model_dir=pair[0], items=tmp_path / "new.parquet", output_dir=tmp_path / "out"
    )
    with pytest.raises(DataError, match=message) as caught:
        add_items(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def wanted(output_dir: Path, cold_dataset: SequenceDataset, tmp_path: Path) -> AddItemsConfig:
    """What would work: a copy of an export, new items, a free output directory."""
    student = output_dir / "students" / "gru" / "distilled"
    shutil.copytree(
        ensure_exported(cold_dataset, output_dir, student, "fp32"), tmp_path / "exported"
    )
    NEW_ITEMS.write_parquet(tmp_path / "new.parquet")
    return AddItemsConfig(
        model_dir=tmp_path / "exported",
        items=tmp_path / "new.parquet",
        output_dir=tmp_path / "out",
    )


def refusal(config: AddItemsConfig, kind: type[Exception] = ModelError) -> str:
    """Return the one line with which a config is refused, having checked nothing was written."""
    assert config.output_dir is not None
    before = sorted(config.output_dir.parent.rglob("*"))
    with pytest.raises(kind) as caught:
        add_items(config)
    assert sorted(config.output_dir.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_a_recommender_is_refused(wanted: AddItemsConfig, tmp_path: Path) -> None:
    message = refusal(dataclasses.replace(wanted, model_dir=tmp_path / "nothing"))
    assert "python -m export.to_onnx" in message


def test_a_control_is_refused(
    wanted: AddItemsConfig, output_dir: Path, cold_dataset: SequenceDataset
) -> None:
    student = output_dir / "students" / "gru" / "control"
    folder = ensure_exported(cold_dataset, output_dir, student, "fp32")
    message = refusal(dataclasses.replace(wanted, model_dir=folder))
    assert "no text map, which only a distilled student has (this one: control)" in message


def test_an_output_directory_that_is_taken_is_left_alone(wanted: AddItemsConfig) -> None:
    message = refusal(dataclasses.replace(wanted, output_dir=wanted.model_dir), DataError)
    assert "exists. Give another --output-dir" in message


def test_a_damaged_text_map_is_refused(wanted: AddItemsConfig) -> None:
    assert wanted.model_dir is not None
    file = wanted.model_dir / FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "is damaged: SHA-256" in refusal(wanted)
    file.unlink()
    assert "no usable text map" in refusal(wanted)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_fingerprint", "f" * 64, "is not the language model that read the catalogue"),
        ("max_tokens", 7, "was read up to 7 tokens of a text, this version reads 64"),
    ],
)
def test_a_text_that_would_be_read_otherwise_is_refused(
    wanted: AddItemsConfig, key: str, value: Any, message: str
) -> None:
    assert wanted.model_dir is not None
    file = wanted.model_dir / "config.json"
    config = json.loads(file.read_text())
    config["text_map"]["reader"][key] = value
    file.write_text(json.dumps(config))
    assert message in refusal(wanted)


@pytest.mark.parametrize("missing", ["model_dir", "items", "output_dir"])
def test_all_three_paths_must_be_given(missing: str) -> None:
    paths = {name: Path("x") for name in ("model_dir", "items", "output_dir") if name != missing}
    with pytest.raises(ValueError, match="give --model-dir, --items and --output-dir"):
        AddItemsConfig(**paths)


def test_an_export_with_another_text_map_is_out_of_date(
    output_dir: Path, cold_dataset: SequenceDataset, tmp_path: Path
) -> None:
    shutil.copytree(output_dir / "students" / "gru", tmp_path / "students" / "gru")
    student = tmp_path / "students" / "gru" / "distilled"
    folder = ensure_exported(cold_dataset, tmp_path, student, "fp32")
    text_map = TextMap.load(student / FILE)
    dataclasses.replace(text_map, bias=text_map.bias + 1).save(student / FILE)
    ensure_exported(cold_dataset, tmp_path, student, "fp32")
    assert sha256_file(folder / FILE) == sha256_file(student / FILE)


# --- Without PyTorch ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_encoder(
    output_dir: Path, cold_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The language model that read the tiny catalogue, exported."""
    student = output_dir / "students" / "gru" / "distilled"
    return to_text_encoder(
        ToTextEncoderConfig(
            model_dir=ensure_exported(cold_dataset, output_dir, student, "int8"),
            output_dir=tmp_path_factory.mktemp("reader") / "text-encoder",
        )
    )


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
    about = json.loads((text_encoder / "config.json").read_text())
    assert about["eight_bit_share"] > 0.95
    graph = onnx.load(text_encoder / "model.onnx").graph
    large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) >= 64 * 64]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}


def test_items_are_added_without_pytorch(
    wanted: AddItemsConfig, text_encoder: Path, tmp_path: Path
) -> None:
    add_items(wanted)
    command = f"""
import sys
from export.add_items import main
main({["--model-dir", str(wanted.model_dir), "--items", str(wanted.items)]!r}
     + ["--output-dir", {str(tmp_path / "light")!r}, "--text-encoder", {str(text_encoder)!r}])
assert not {{"torch", "transformers", "optimum"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [
        table_of(folder)[-len(NEW_ITEMS) :] for folder in (tmp_path / "out", tmp_path / "light")
    ]
    assert cosine(*rows).min() > 0.99


def test_the_reader_of_another_catalogue_is_refused(
    wanted: AddItemsConfig, text_encoder: Path
) -> None:
    assert wanted.model_dir is not None
    file = wanted.model_dir / "config.json"
    config = json.loads(file.read_text())
    config["text_map"]["reader"]["num_layers"] = 2
    file.write_text(json.dumps(config))
    config = dataclasses.replace(wanted, text_encoder=text_encoder)
    assert "num_layers is 1, but the catalogue was read with 2" in refusal(config)


def test_a_damaged_reader_is_refused(
    wanted: AddItemsConfig, text_encoder: Path, tmp_path: Path
) -> None:
    shutil.copytree(text_encoder, tmp_path / "reader")
    file = tmp_path / "reader" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    config = dataclasses.replace(wanted, text_encoder=tmp_path / "reader")
    assert "model.onnx is damaged" in refusal(config)
    file.unlink()
    assert "no usable text encoder" in refusal(config)


def test_what_is_no_text_encoder_is_not_replaced(
    output_dir: Path, cold_dataset: SequenceDataset, text_encoder: Path, tmp_path: Path
) -> None:
    student = output_dir / "students" / "gru" / "distilled"
    folder = ensure_exported(cold_dataset, output_dir, student, "int8")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds no text encoder"):
        to_text_encoder(ToTextEncoderConfig(model_dir=folder, output_dir=tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "mine"
    # An earlier one is.
    to_text_encoder(ToTextEncoderConfig(model_dir=folder, output_dir=text_encoder))
    assert ModelCard.load(text_encoder / "README.md").data.license == "other"  # its publisher's


def test_an_encoder_that_looks_both_ways_is_exported_too(tiny_bert: Path, tmp_path: Path) -> None:
    reader = {"bits": 32, "num_layers": 1, "max_tokens": 64}
    to_text_encoder_module._trace(tiny_bert, reader, tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    to_text_encoder_module.store_in_eight_bit(model)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_padding()
    encoder = TextEncoder(open_session(model.SerializeToString(), 1), tokenizer, reader)
    titles = ["Emma", "The War of the Roses"]
    expected = read_texts(titles, tiny_bert, bits=32, num_layers=1)
    assert cosine(encoder.encode(titles), expected).min() > 0.999


def test_a_reader_that_says_something_else_is_not_written(
    output_dir: Path,
    cold_dataset: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student = output_dir / "students" / "gru" / "distilled"
    folder = ensure_exported(cold_dataset, output_dir, student, "int8")

    def spoil(model: onnx.ModelProto) -> None:
        (table,) = (t for t in model.graph.initializer if "embed" in t.name)
        values = numpy_helper.to_array(table)[::-1]
        table.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), table.name))

    monkeypatch.setattr(to_text_encoder_module, "store_in_eight_bit", spoil)
    with pytest.raises(ModelError, match="otherwise than it did"):
        to_text_encoder(ToTextEncoderConfig(model_dir=folder, output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# --- The benchmark ------------------------------------------------------------------------------


def test_groups_are_averaged_apart() -> None:
    values = {"hr@10": np.array([1.0, 0.0, 1.0, 1.0])}
    row = make_row(CHANCE, values, np.array([True, True, False, False]), exposure=0.0)
    assert row.cold["hr@10"] == 0.5
    assert row.warm == {"hr@10": 1.0, "hr@10_low": 1.0, "hr@10_high": 1.0}


def test_chance_is_the_mean_over_all_orders_of_the_candidates(
    cold_dataset: SequenceDataset,
) -> None:
    values = chance_values(cold_dataset)
    targets = cold_dataset.eval_targets("test")
    for row in (0, 17, len(targets.users) - 1):
        history = cold_dataset.sequence(targets.users[row])[: targets.positions[row]]
        candidates = 30 - len(set(history.tolist()))
        ranks = np.arange(1, candidates + 1)  # each once: every rank is equally likely
        assert values["hr@10"][row] == pytest.approx(hit_rate(ranks, 10).mean())
        assert values["ndcg@10"][row] == pytest.approx(ndcg(ranks, 10).mean())


@pytest.fixture(scope="module")
def results(output_dir: Path, cold_dataset: SequenceDataset) -> ColdResults:
    cold.main(["--data-dir", str(cold_dataset.path), "--output-dir", str(output_dir)])
    return load(ColdResults, output_dir / "cold.json")


def test_the_json_holds_what_the_schema_promises(
    results: ColdResults, cold_dataset: SequenceDataset
) -> None:
    targets = cold_dataset.eval_targets("test").items
    # Items with an event that is no test target, by the sequences themselves.
    before = [
        cold_dataset.sequence(user)[: split[2] if split[2] >= 0 else None]
        for user, split in enumerate(cold_dataset.split)
    ]
    taken = np.unique(np.concatenate(before))
    num_cold = int((~np.isin(targets, taken)).sum())
    assert (results.dataset.name, results.dataset.num_items) == ("tiny-cold", 30)
    assert results.dataset.fingerprint == cold_dataset.fingerprint
    assert results.dataset.protocol == "seen_excluded"
    assert (results.num_cold_items, results.num_untrained_items) == (6, 30 - len(taken))
    assert results.num_cold_targets == num_cold
    assert results.num_warm_targets == len(targets) - num_cold
    students = [
        (f"{arch} {role}", precision)
        for arch in ("gru", "transformer")
        for role, precision in (("control", "fp32"), ("distilled", "fp32"), ("distilled", "int8"))
    ]
    assert [(row.system, row.precision) for row in results.rows] == [
        ("chance", ""),
        ("popularity", "fp32"),
        ("teacher", "nf4"),
        *students,
    ]


@pytest.mark.parametrize("system", ["teacher", "gru distilled"])
def test_the_figures_are_those_of_the_pytorch_model(
    results: ColdResults, output_dir: Path, cold_dataset: SequenceDataset, system: str
) -> None:
    if system == "teacher":
        model: Any = Teacher.from_pretrained(output_dir / "teacher")
    else:
        model = Student.from_pretrained(output_dir / "students" / "gru" / "distilled")
    ranks = evaluate(model, cold_dataset, "test", max_len=model.config.max_len).excluding_seen
    _, is_cold = cold.cold_targets(cold_dataset)
    row = next(row for row in results.rows if row.system == system)
    for metrics, members in ((row.cold, is_cold), (row.warm, ~is_cold)):
        assert metrics["hr@10"] == pytest.approx(hit_rate(ranks[members], 10).mean())
        assert metrics["ndcg@10"] == pytest.approx(ndcg(ranks[members], 10).mean())


def test_an_item_that_only_validation_saw_is_not_cold(
    write_sequences: Callable[[list[list[int]], int], SequenceDataset],
) -> None:
    """The last events are test targets, 4 and 3, those before them validation targets, 3 and 5."""
    dataset = write_sequences([[1, 2, 3, 4], [1, 2, 5, 3]], 6)
    assert dataset.untrained_items.tolist() == [3, 4, 5, 6]  # while validation chooses
    untrained, is_cold = cold.cold_targets(dataset)
    assert untrained.tolist() == [4, 6]
    assert is_cold.tolist() == [True, False]


def test_without_two_groups_there_is_nothing_to_compare(
    cold_dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = np.zeros(len(cold_dataset.eval_targets("test").items), dtype=bool)
    monkeypatch.setattr(cold, "cold_targets", lambda _: (np.array([1]), nobody))
    with pytest.raises(DataError, match="0 of the .* test targets .* are cold.* --cold-share"):
        cold.main(["--data-dir", str(cold_dataset.path), "--output-dir", str(tmp_path)])


def test_a_set_without_cold_items_is_refused_with_the_flag_that_makes_one(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"holds no item out .* with --cold-share"):
        cold.main(["--data-dir", str(tiny_dataset.path), "--output-dir", str(tmp_path)])
