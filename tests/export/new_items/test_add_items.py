"""New items in an exported student."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import DataError
from seqrec.files import read_json, sha256_file

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from onnx import numpy_helper

from export.add_items import main
from export.config import AddItemsConfig
from export.new_items import add_items as module
from export.new_items.add_items import add_items
from export.onnx_graph.exporting import ensure_exported
from export.parity import all_scores
from export.recommender import Recommender, open_session
from student.model import Student
from student.text_map import FILE, TextMap
from student.training import save
from teacher.text import read_new_texts
from tests.export.answers import flip_a_byte, ids
from tests.export.new_items.changes import change_reader, refusal

ExportOf = Callable[..., Path]
NUM_OLD = 30


@pytest.fixture(scope="module", params=["gru", "transformer"])
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def pair(
    request: pytest.FixtureRequest,
    arch: str,
    export_of: ExportOf,
    new_items: pl.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """An exported student, and the same with three items more."""
    old, folder = export_of(arch, request.param), tmp_path_factory.mktemp("more")
    new_items.write_parquet(folder / "new.parquet")
    add_items(
        AddItemsConfig(model_dir=old, items=folder / "new.parquet", output_dir=folder / "out")
    )
    return old, folder / "out"


def scores(folder: Path, items: np.ndarray, num_items: int) -> np.ndarray:
    """Return one user's score of every item, (num_items + 1,); PAD is -inf."""
    session = open_session(folder / "model.onnx", num_threads=1)
    return all_scores(session, items, items[:, :0], num_items)[0]


def constants(folder: Path) -> dict[str, np.ndarray]:
    """Return the constants in a file, by name."""
    graph = onnx.load(folder / "model.onnx").graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.fixture(scope="module")
def new_rows(pair: tuple[Path, Path], new_items: pl.DataFrame) -> np.ndarray:
    """The rows of the new items as the parts that are tested elsewhere make them."""
    reader = read_json(pair[1] / "config.json")["text_map"]["reader"]
    return TextMap.load(pair[1] / FILE).rows(read_new_texts(new_items, reader))


def test_old_rows_stay_as_they_were_to_the_last_bit_and_so_do_old_scores(
    pair: tuple[Path, Path],
) -> None:
    before, after = (constants(folder)["item_table"] for folder in pair)
    assert after.dtype == before.dtype
    assert len(after) == len(before) + 3
    assert np.array_equal(after[: len(before)], before)
    rng = np.random.default_rng(0)
    for length in (1, 3, 7):
        items = rng.integers(1, NUM_OLD + 1, (1, length))
        old, new = (scores(folder, items, n) for folder, n in zip(pair, (30, 33), strict=True))
        assert np.array_equal(new[: NUM_OLD + 1], old)


def test_new_rows_are_stored_and_scored_as_they_were_made(
    pair: tuple[Path, Path], new_rows: np.ndarray, tiny_cold_run: Path, arch: str
) -> None:
    student = Student.from_pretrained(tiny_cold_run / "students" / arch / "distilled")
    items = np.array([[3, 1, 4]])
    with torch.no_grad():
        state = student.encode(torch.from_numpy(items))[0, -1].numpy()
    found, held = scores(pair[1], items, 33), constants(pair[1])
    table = held["item_table"][NUM_OLD + 1 :]
    if table.dtype == np.float32:
        assert np.array_equal(table, new_rows)
        tolerance = 1e-5
    else:  # each row is rounded to the nearest of its own levels
        step = np.abs(new_rows).max(axis=1, keepdims=True) / 127
        restored = (table.astype(np.float32) - 128) * held["item_scales"][NUM_OLD + 1 :]
        assert (np.abs(restored - new_rows) <= step * 0.5001).all()
        tolerance = 0.1 * np.abs(found[1 : NUM_OLD + 1]).max()
    np.testing.assert_allclose(found[NUM_OLD + 1 :], new_rows @ state, rtol=0, atol=tolerance)


def test_a_copy_of_an_untrained_item_scores_as_the_item_does(
    export_of: ExportOf, tiny_cold: SequenceDataset, tmp_path: Path
) -> None:
    """The catalogue's items and later ones are read and projected in one and the same way."""
    number = int(tiny_cold.cold_items[0])
    row = tiny_cold.items[number - 1].with_columns(item_id=pl.lit("copy"))
    row.write_csv(tmp_path / "copy.csv")
    config = AddItemsConfig(
        model_dir=export_of(), items=tmp_path / "copy.csv", output_dir=tmp_path / "out"
    )
    add_items(config)
    found = scores(tmp_path / "out", np.array([[2, 5, 3]]), 31)
    # The catalogue's components are kept in half precision.
    assert found[31] == pytest.approx(found[number], abs=1e-3)


def test_the_recommender_recommends_the_new_items_and_knows_them_in_histories(
    pair: tuple[Path, Path], new_items: pl.DataFrame, tmp_path: Path
) -> None:
    old, recommender = (Recommender.from_pretrained(folder) for folder in pair)
    answers = recommender.recommend(["b01", "b02"], k=40)
    assert len(answers) == 31
    found = {answer.item_id: answer.title for answer in answers}
    assert [found[item_id] for item_id in ("n1", "n2", "n3")] == new_items["title"].to_list()
    assert "n1" not in ids(recommender.recommend(["n1", "b02"], k=40))
    about = recommender.config
    assert (about["num_items"], about["num_added_items"]) == (33, 3)
    assert about["num_parameters"] == old.config["num_parameters"] + 3 * 16
    card = (pair[1] / "README.md").read_text()
    assert "3 items were added from their texts" in card
    # Who passes the model on has to know whose terms it is under.
    model = about["text_map"]["reader"]["model"]
    assert f"learned from: {model}, under its publisher's terms" in card
    # Items can be added to what items were added to.
    pl.DataFrame({"item_id": ["n4"], "title": ["The Monk"]}).write_csv(tmp_path / "new.csv")
    flags = {"items": tmp_path / "new.csv", "output_dir": tmp_path / "again"}
    add_items(AddItemsConfig(model_dir=pair[1], **flags))
    again = Recommender.from_pretrained(tmp_path / "again")
    assert again.item_ids[-4:] == ["n1", "n2", "n3", "n4"]
    assert again.config["num_added_items"] == 4


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
    wanted: AddItemsConfig,
    monkeypatch: pytest.MonkeyPatch,
    items: dict[str, list[str]],
    message: str,
) -> None:
    monkeypatch.setattr(module, "_read_texts", lambda *_: pytest.fail("read a text"))
    pl.DataFrame(items).write_parquet(wanted.items)
    refusal(wanted, message, DataError)


def test_only_the_folder_of_a_distilled_student_will_do(
    wanted: AddItemsConfig, export_of: ExportOf, tmp_path: Path
) -> None:
    nothing = dataclasses.replace(wanted, model_dir=tmp_path / "nothing")
    refusal(nothing, r"python -m export\.to_onnx")
    control = dataclasses.replace(wanted, model_dir=export_of(role="control"))
    refusal(control, r"no text map, which only a distilled student has \(this one: control\)")


def test_an_output_directory_that_is_taken_is_left_alone(wanted: AddItemsConfig) -> None:
    taken = dataclasses.replace(wanted, output_dir=wanted.model_dir)
    refusal(taken, "exists. Give another --output-dir", DataError)


def test_a_damaged_text_map_is_refused(wanted: AddItemsConfig) -> None:
    file = wanted.model_dir / FILE
    flip_a_byte(file)
    refusal(wanted, "is damaged: SHA-256")
    file.unlink()
    refusal(wanted, "no usable text map")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_fingerprint", "f" * 64, "is not the language model that read the catalogue"),
        ("max_tokens", 7, "was read up to 7 tokens of a text, this version reads 64"),
    ],
)
def test_a_text_that_would_be_read_otherwise_is_refused(
    wanted: AddItemsConfig, key: str, value: str | int, message: str
) -> None:
    change_reader(wanted.model_dir, key, value)
    refusal(wanted, message)


def test_all_three_paths_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "required: --model-dir, --items, --output-dir" in capsys.readouterr().err


def test_an_export_with_another_text_map_is_out_of_date(
    tiny_cold: SequenceDataset, tiny_cold_run: Path, tmp_path: Path
) -> None:
    student = tmp_path / "students" / "gru" / "distilled"
    shutil.copytree(tiny_cold_run / "students" / "gru" / "distilled", student)
    folder = ensure_exported(tiny_cold, tmp_path, student, "fp32")
    text_map = TextMap.load(student / FILE)
    other = dataclasses.replace(text_map, bias=text_map.bias + 1)
    save(student, Student.from_pretrained(student), other, read_json(student / "config.json"))
    ensure_exported(tiny_cold, tmp_path, student, "fp32")
    assert sha256_file(folder / FILE) == sha256_file(student / FILE)


def test_a_graph_that_scores_old_items_otherwise_is_not_written(
    wanted: AddItemsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: onnx.ModelProto, rows: np.ndarray) -> None:
        (table,) = (held for held in model.graph.initializer if held.name == "item_table")
        changed = np.concatenate([numpy_helper.to_array(table) * 1.01, rows])
        table.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), table.name))

    monkeypatch.setattr(module, "append_rows", spoil)
    refusal(wanted, "the new rows change the scores of old items")
