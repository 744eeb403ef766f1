"""Files from strangers: nothing in them is run, and nothing outside of their folder is read."""

import ast
import pickle
import pickletools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError, ModelError
from seqrec.files import read_json, sha256_file, write_json

import numpy as np
import onnx
import pytest
import torch

from export.recommender import Recommender
from student.model import Student
from tests.export.answers import export_random

ROOT = Path(__file__).parents[1]
CODE = [
    file
    for package in ("seqrec", "teacher", "student", "export", "benchmarks")
    for file in sorted((ROOT / package).rglob("*.py"))
]


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


UNPICKLERS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_code_unpickles_or_trusts(file: Path) -> None:
    """Calls of eval, exec, a shell and unsafe loaders are found by ruff (S102, S307, S506, ...)."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            for name in ("allow_pickle", "trust_remote_code", "shell"):
                assert keywords.get(name, "False") == "False", ast.unparse(node)
            if ast.unparse(node.func) == "torch.load":
                assert keywords.get("weights_only") == "True", ast.unparse(node)
    assert not imported & UNPICKLERS


def test_the_trap_asks_for_a_call() -> None:
    """What an unpickler would do with it, read from the pickle's opcodes and not done."""
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(pickle.dumps(Trap(Path("mark"))))}
    assert {"STACK_GLOBAL", "REDUCE"} <= opcodes


def with_array(dataset: SequenceDataset, folder: Path, name: str, array: np.ndarray) -> Path:
    """Copy a data set with another array in it, and the checksum that its maker would state."""
    shutil.copytree(dataset.path, folder)
    np.save(folder / name, array, allow_pickle=True)
    meta = read_json(folder / "meta.json")
    meta["sha256"][name] = sha256_file(folder / name)
    write_json(folder / "meta.json", meta)
    return folder


def test_a_pickle_in_a_data_set_is_refused_and_not_run(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    trap = np.array([Trap(tmp_path / "mark")], dtype=object)
    folder = with_array(tiny_dataset, tmp_path / "data", "events.npy", trap)
    with pytest.raises(DataError, match="pickle"):
        load_dataset(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("events.npy", 3, 10**9),  # a table of counts for so many items would fill the memory
        ("events.npy", 3, 0),
        ("offsets.npy", 1, -5),
        ("split.npy", (0, 0), 10**6),
        ("split.npy", (0, 1), -2),
    ],
)
def test_numbers_out_of_range_are_refused_though_the_checksum_is_right(
    tiny_dataset: SequenceDataset, tmp_path: Path, name: str, index: Any, value: int
) -> None:
    array = np.load(tiny_dataset.path / name)
    array[index] = value
    folder = with_array(tiny_dataset, tmp_path / "data", name, array)
    with pytest.raises(DataError, match="out of range"):
        load_dataset(folder)


def test_a_pickle_in_place_of_weights_is_refused_and_not_run(
    tiny_dataset: SequenceDataset, save_student: Callable[..., Path], tmp_path: Path
) -> None:
    save_student(tmp_path / "s", tiny_dataset)
    torch.save({"trap": Trap(tmp_path / "mark")}, tmp_path / "s" / "model.safetensors")
    with pytest.raises(ModelError, match="no usable student"):
        Student.from_pretrained(tmp_path / "s")
    assert not (tmp_path / "mark").exists()


@pytest.fixture
def export(tiny_dataset: SequenceDataset, tmp_path: Path) -> Path:
    return export_random(tmp_path, tiny_dataset, "gru", "fp32", hidden_dim=8, max_len=9)


def change(folder: Path, *files: str, **values: object) -> None:
    """Change what a recommender says of itself, and the checksums of files beside it."""
    config = read_json(folder / "config.json")
    sums = {name: sha256_file(folder / name) for name in files}
    write_json(folder / "config.json", {**config, **values, "sha256": {**config["sha256"], **sums}})


@pytest.mark.parametrize("outside", ["../model.onnx", "{}/model.onnx"])
def test_a_recommender_reads_no_file_outside_of_its_folder(export: Path, outside: str) -> None:
    stranger = export.parent / "model.onnx"
    stranger.write_bytes((export / "model.onnx").read_bytes())
    name = outside.format(export.parent)
    change(export, name, model_file=name)
    with pytest.raises(ModelError, match="no usable recommender"):
        Recommender.from_pretrained(export)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ids": ["only one"]}, "has 1 ids, not 30"),
        ({"titles": [1] * 30}, "titles is no list of texts"),
        ({"ids": "x" * 30}, "ids is no list of texts"),
    ],
)
def test_a_list_of_items_that_does_not_fit_is_refused(
    export: Path, values: dict[str, object], message: str
) -> None:
    write_json(export / "items.json", {**read_json(export / "items.json"), **values})
    change(export, "items.json")
    with pytest.raises(ModelError, match=message):
        Recommender.from_pretrained(export)


@pytest.mark.parametrize("value", [-5, 0, float("inf"), "50"])
def test_a_window_that_cannot_be_is_refused(export: Path, value: object) -> None:
    change(export, max_len=value)
    with pytest.raises(ModelError, match="max_len"):
        Recommender.from_pretrained(export)


def test_a_graph_reads_no_weights_from_elsewhere(export: Path) -> None:
    model = onnx.load(export / "model.onnx")
    (table,) = (t for t in model.graph.initializer if t.name == "item_table")
    (export.parent / "secret.bin").write_bytes(table.raw_data)
    onnx.external_data_helper.set_external_data(table, location="../secret.bin")
    table.ClearField("raw_data")
    (export / "model.onnx").write_bytes(model.SerializeToString())
    change(export, "model.onnx")
    with pytest.raises(ModelError, match="no usable recommender"):
        Recommender.from_pretrained(export)
