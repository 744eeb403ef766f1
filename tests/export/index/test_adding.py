"""Items in an index: scored for everybody, as by the exact graph; nothing else found changes."""

import json
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError

import numpy as np
import onnx
import polars as pl
import pytest
import torch

from export.config import AddItemsConfig, ToIndexConfig
from export.index import graph
from export.index.adding import append_to_lists, require_room
from export.index.building import to_index
from export.index.graph import Depth, build_index, item_rows
from export.index.lists import make_lists
from export.new_items import add_items as module
from export.new_items.add_items import add_items
from export.onnx_graph.exporting import export_student
from export.onnx_graph.graph import build_graph
from export.onnx_graph.item_table import append_rows
from export.opening import DATA
from export.parity import ask
from export.recommender import Recommender, open_session
from student.model import Arch, Student, StudentConfig
from student.text_map import FILE, TextMap

NUM_ITEMS, WIDTH, MAX_LEN, LIST_SIZE = 3_000, 16, 9, 32
rng = np.random.default_rng(0)
NEW_ROWS = [rng.standard_normal((size, WIDTH)).astype(np.float32) for size in (7, 40, 100)]
NOTHING = np.zeros((1, 0), dtype=np.int64)


def graphs(arch: Arch, num_layers: int, depth: int | None = None):
    """An int8 graph, and an index of it that looks at so many lists; None: all."""
    torch.manual_seed(4)
    shape = StudentConfig(
        arch=arch, num_items=NUM_ITEMS, hidden_dim=WIDTH, max_len=MAX_LEN, num_layers=num_layers
    )
    exact = build_graph(Student(shape).eval(), "int8")
    states = rng.standard_normal((50, WIDTH)).astype(np.float32)
    lists = make_lists(item_rows(exact), states, LIST_SIZE)
    source = onnx.ModelProto()
    source.CopyFrom(exact)
    depths = [Depth(10, depth or len(lists.keys)), Depth(100, depth or len(lists.keys))]
    return exact, build_index(source, lists, depths)


def opened(model: onnx.ModelProto):
    return open_session(model.SerializeToString(), 1)


@pytest.mark.parametrize("shape", [("gru", 1), ("transformer", 1), ("transformer", 2)])
def test_at_full_depth_the_answer_is_that_of_the_export_with_the_same_items(shape) -> None:
    """Added three times, the second time beyond a list; new items are in histories, too."""
    exact, index = graphs(*shape)
    for rows in NEW_ROWS:
        append_rows(exact, rows)
        append_to_lists(index, rows)
        one, other = opened(exact), opened(index)
        last = item_rows(exact).shape[0]
        for k, num_excluded in ((10, 0), (10, 9), (100, 200), (1_000, 0), (last, 400)):
            items = rng.integers(1, last + 1, (2, MAX_LEN))
            items[:, -1] = rng.integers(NUM_ITEMS + 1, last + 1, 2)
            excluded = rng.integers(1, last + 1, (2, num_excluded))
            (_, found), (_, expected) = (ask(each, items, excluded, k) for each in (other, one))
            np.testing.assert_array_equal(found, expected)
    onnx.checker.check_model(index, full_check=True)


def test_what_was_found_is_found_still_and_new_items_always() -> None:
    """Few lists: the answer is the best of what was answered before and of all new items."""
    exact, index = graphs("transformer", 1, depth=3)
    before = opened(index)
    for rows in NEW_ROWS:
        append_rows(exact, rows)
        append_to_lists(index, rows)
    one, other = opened(exact), opened(index)
    last = item_rows(exact).shape[0]
    old = np.arange(1, NUM_ITEMS + 1)[None]
    for _ in range(50):
        items = rng.integers(1, NUM_ITEMS + 1, (1, MAX_LEN))
        _, of_old = ask(before, items, items, 10)
        _, of_new = ask(one, items, old, last - NUM_ITEMS)
        expected = np.sort(np.concatenate([of_old, of_new], axis=1))[:, :-11:-1]
        np.testing.assert_array_equal(ask(other, items, items, 10)[1], expected)


def test_beyond_a_tenth_a_new_index_is_asked_for(tmp_path) -> None:
    config = {"num_items": 1_050, "index": {"num_added": 50}}
    require_room(tmp_path, config, 50)
    with pytest.raises(ModelError, match=r"1,000 items and 50 added .* 10%.*export\.to_index"):
        require_room(tmp_path, config, 51)


def test_an_index_of_an_earlier_version_is_refused() -> None:
    _, index = graphs("gru", 1)
    (depths,) = (t for t in index.graph.initializer if t.name == "list_depths")
    depths.name = "another"
    with pytest.raises(ModelError, match=r"earlier version.*python -m export\.to_index"):
        append_to_lists(index, NEW_ROWS[0])


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture(params=["one file", "two files"])
def folders(
    request: pytest.FixtureRequest,
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Path, Path]:
    """An export of a student that has a text map, and its index; texts are read as a 1 each."""
    if request.param == "two files":
        monkeypatch.setattr(graph, "MAPPED_FROM", 1)
        monkeypatch.setattr(graph, "LARGE", 256)
    monkeypatch.setattr(module, "_read_texts", lambda items, *_: np.ones((len(items), 1)))
    torch.manual_seed(2)
    student = Student(StudentConfig(arch="gru", num_items=30, hidden_dim=WIDTH, max_len=MAX_LEN))
    about = {"role": "distilled", "dataset_fingerprint": tiny_dataset.fingerprint}
    reader = {"model": "a model", "text_columns": ["title"]}
    student.eval().save_pretrained(tmp_path / "student", **about, text_reader=reader)
    weight = rng.standard_normal((1, WIDTH)).astype(np.float32)
    TextMap(weight, np.zeros(WIDTH, np.float32)).save(tmp_path / "student" / FILE)
    export = tmp_path / "run" / "export" / "student"
    export_student(tmp_path / "student", tiny_dataset, export, "int8")
    flags = {"data_dir": tiny_dataset.path, "list_size": 2, "min_recall": 1.0}
    return export, to_index(ToIndexConfig(model_dir=export, **flags))


def with_items(folder: Path, *item_ids: str) -> Path:
    """Add items to a recommender."""
    table = folder.parent / f"{item_ids[0]}.csv"
    pl.DataFrame({"item_id": item_ids, "title": item_ids}).write_csv(table)
    out = folder.with_name(f"{folder.name}-{item_ids[0]}")
    add_items(AddItemsConfig(model_dir=folder, items=table, output_dir=out))
    return out


def test_a_recommender_with_an_index_answers_with_new_items_as_the_export_does(
    folders: tuple[Path, Path],
) -> None:
    export, index = folders
    for item_ids in (["n1", "n2"], ["n3"]):
        export, index = (with_items(folder, *item_ids) for folder in (export, index))
    exact, recommender = (Recommender.from_pretrained(folder) for folder in (export, index))
    for history in (["b01", "b02"], ["n2", "b30"], ["n3"]):
        for k in (5, 33):
            theirs, ours = (each.recommend(history, k) for each in (exact, recommender))
            assert ours.scores == theirs.scores
            assert set(ours.item_ids) ^ set(theirs.item_ids) <= {"n1", "n2", "n3"}  # that tie
    assert (index / DATA).exists() == (folders[1] / DATA).exists()
    before, about = (
        json.loads((folder / "config.json").read_text())["index"] for folder in (folders[1], index)
    )
    assert about["num_added"] == 3
    for name in ("10", "100"):
        assert about["lists_looked_at"][name] == before["lists_looked_at"][name] + 2
    card = (index / "README.md").read_text()
    assert f"at {about['lists_looked_at']['10']} of {about['num_lists']} lists" in card


def test_too_many_are_refused_before_any_text_is_read(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_read_texts", lambda *_: pytest.fail("read a text"))
    with pytest.raises(ModelError, match=r"index of 30 items and 0 added .*export\.to_index"):
        with_items(folders[1], "n1", "n2", "n3", "n4")
