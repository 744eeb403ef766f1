"""Files from strangers: nothing in them is run, and nothing outside of their folder is read."""

import ast
import json
import pickle
import pickletools
from pathlib import Path

from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError, ModelError
from seqrec.files import read_json, sha256_file, write_json

import numpy as np
import onnx
import pytest
import torch

from export.onnx_graph.exporting import export_student
from export.recommender import Recommender
from student.model import Student, StudentConfig

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


def test_the_trap_asks_for_a_call() -> None:
    """What an unpickler would do with it, read from the pickle's opcodes and not done."""
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(pickle.dumps(Trap(Path("mark"))))}
    assert {"STACK_GLOBAL", "REDUCE"} <= opcodes


def forbidden(call: ast.Call) -> str:
    """Return what is wrong with a call, "" if nothing."""
    name = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name.startswith(("pickle.", "marshal.", "dill.", "joblib.")) or name in ("eval", "exec"):
        return name
    if name == "torch.load" and keywords.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if name in ("os.system", "os.popen", "yaml.load"):
        return name
    for keyword in ("allow_pickle", "trust_remote_code", "shell"):
        if keywords.get(keyword, "False") != "False":
            return f"{name}({keyword}={keywords[keyword]})"
    return ""


def unpicklers(node: ast.AST) -> list[str]:
    """Return the libraries that unpickle, of those that a statement imports."""
    names = []
    if isinstance(node, ast.Import):
        names = [name.name for name in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    known = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    return sorted(known & {name.partition(".")[0] for name in names})


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_code_unpickles_evaluates_or_trusts(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = [forbidden(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert list(filter(None, found)) == []
    assert [name for node in ast.walk(tree) for name in unpicklers(node)] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from pickle import loads", ["pickle"]),
        ("import joblib.numpy_pickle as x", ["joblib"]),
        ("from . import pickle_free", []),
    ],
)
def test_an_import_of_what_unpickles_is_seen(line: str, found: list[str]) -> None:
    assert unpicklers(ast.parse(line).body[0]) == found


def test_a_pickle_in_a_data_set_is_refused_and_not_run(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for file in tiny_dataset.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    trap = np.empty(1, dtype=object)
    trap[0] = Trap(tmp_path / "mark")
    np.save(folder / "events.npy", trap, allow_pickle=True)
    meta = read_json(folder / "meta.json")
    meta["sha256"]["events.npy"] = sha256_file(folder / "events.npy")  # its maker's own
    write_json(folder / "meta.json", meta)
    with pytest.raises(DataError, match="pickle"):
        load_dataset(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("events", 3, 10**9),  # a table of counts for so many items would fill the memory
        ("events", 3, 0),
        ("offsets", 1, -5),
        ("split", (0, 0), 10**6),
        ("split", (0, 1), -2),
    ],
)
def test_numbers_out_of_range_are_refused_though_the_checksum_is_right(
    tiny_dataset: SequenceDataset, tmp_path: Path, name: str, place: object, value: int
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for file in tiny_dataset.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    array = np.load(folder / f"{name}.npy")
    array[place] = value
    np.save(folder / f"{name}.npy", array)
    meta = read_json(folder / "meta.json")
    meta["sha256"][f"{name}.npy"] = sha256_file(folder / f"{name}.npy")
    write_json(folder / "meta.json", meta)
    with pytest.raises(DataError, match="out of range"):
        load_dataset(folder)


def test_a_pickle_in_place_of_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    Student(StudentConfig(arch="gru", num_items=9, hidden_dim=8)).save_pretrained(tmp_path / "s")
    torch.save({"trap": Trap(tmp_path / "mark")}, tmp_path / "s" / "model.safetensors")
    with pytest.raises(ModelError, match="no usable student"):
        Student.from_pretrained(tmp_path / "s")
    assert not (tmp_path / "mark").exists()


@pytest.fixture
def export(tiny_dataset: SequenceDataset, tmp_path: Path) -> Path:
    """An exported student of random weights."""
    torch.manual_seed(0)
    shape = StudentConfig(arch="gru", num_items=tiny_dataset.num_items, hidden_dim=8, max_len=9)
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    Student(shape).save_pretrained(tmp_path / "student", **about)
    export_student(tmp_path / "student", tiny_dataset, tmp_path / "export", "fp32")
    return tmp_path / "export"


def change(folder: Path, **values: object) -> None:
    """Change what a recommender says of itself."""
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, **values})


def checksums(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "config.json").read_text())["sha256"]
    return found


@pytest.mark.parametrize("outside", ["../model.onnx", "{}/model.onnx"])
def test_a_recommender_reads_no_file_outside_of_its_folder(export: Path, outside: str) -> None:
    stranger = export.parent / "model.onnx"
    stranger.write_bytes((export / "model.onnx").read_bytes())
    name = outside.format(export.parent)
    sums = {**checksums(export), name: sha256_file(stranger)}
    change(export, model_file=name, sha256=sums)
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
    items = json.loads((export / "items.json").read_text())
    (export / "items.json").write_text(json.dumps({**items, **values}))
    change(export, sha256={**checksums(export), "items.json": sha256_file(export / "items.json")})
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
    change(export, sha256={**checksums(export), "model.onnx": sha256_file(export / "model.onnx")})
    with pytest.raises(ModelError, match="no usable recommender"):
        Recommender.from_pretrained(export)
