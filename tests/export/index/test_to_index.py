"""The directory with an index: a recommender like any other, and what is refused about it."""

import dataclasses
import json
import shutil
from pathlib import Path

from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError, ModelError

import numpy as np
import polars as pl
import pytest
import torch

from export.config import ToIndexConfig, ToMobileConfig
from export.index import building
from export.index.building import to_index
from export.index.graph import Depth
from export.index.measuring import draw_users
from export.mobile.ort_format import to_mobile
from export.onnx_graph.exporting import ensure_exported, export_student
from export.recommender import Recommender
from export.user_states import user_states
from student.model import Student, StudentConfig
from tests.export.answers import MAX_LEN, ids

HISTORIES = [["b07", "b08"], ["b01"], ["b30", "b02", "b11", "b05", "b06", "b07", "b08", "b09"]]


@pytest.fixture(scope="module", params=["gru", "transformer"])
def export(
    request: pytest.FixtureRequest,
    tiny_dataset: SequenceDataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    torch.manual_seed(2)
    shape = StudentConfig(
        arch=request.param, num_items=tiny_dataset.num_items, hidden_dim=16, max_len=MAX_LEN
    )
    path = tmp_path_factory.mktemp("run")
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    Student(shape).eval().save_pretrained(path / "student", **about)
    export_student(path / "student", tiny_dataset, path / "export" / "student", "int8")
    return path / "export" / "student"


@pytest.fixture(scope="module")
def folder(export: Path, tiny_dataset: SequenceDataset) -> Path:
    flags = {"data_dir": tiny_dataset.path, "min_recall": 1.0, "list_size": 4}
    return to_index(ToIndexConfig(model_dir=export, **flags))


def test_it_answers_as_the_export_does_where_it_has_to_find_everything(
    export: Path, folder: Path
) -> None:
    assert folder == export.parent.parent / "index" / export.name
    exact, index = Recommender.from_pretrained(export), Recommender.from_pretrained(folder)
    for history in HISTORIES:
        for more in ({}, {"exclude_seen": False}, {"candidates": ["b03", "b29", "b07"]}):
            for k in (1, 10, 30, 1_000):
                theirs = exact.recommend(history, k, **more)
                assert index.recommend(history, k, **more) == theirs
        sessions = [recommender.start_session(history) for recommender in (exact, index)]
        for session in sessions:
            session.recommend()
            session.add("b20")
        assert ids(sessions[0].recommend(5)) == ids(sessions[1].recommend(5))
    assert [ids(a) for a in index.recommend_batch(HISTORIES)] == [
        ids(exact.recommend(history)) for history in HISTORIES
    ]


def test_candidates_are_ranked_exactly_by_an_index_that_finds_nothing_else(
    export: Path, tiny_dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at one list of four items; candidates stand in others."""
    monkeypatch.setattr(building, "choose_depths", lambda *_: [Depth(10, 1), Depth(100, 1)])
    monkeypatch.setattr("export.index.graph.MOST_EXCLUDED", 20)
    flags = {"data_dir": tiny_dataset.path, "min_recall": 1e-9, "list_size": 4}
    config = ToIndexConfig(model_dir=export, output_dir=tmp_path / "out", **flags)
    index, exact = (Recommender.from_pretrained(at) for at in (to_index(config), export))
    for candidates in (["b01"], ["b02", "b12", "b22"], [f"b{n:02d}" for n in range(1, 9)]):
        answer = index.recommend(["b30"], candidates=candidates)
        assert answer == exact.recommend(["b30"], candidates=candidates)
        assert set(ids(answer)) == set(candidates)


def test_what_the_model_card_says_was_measured_on_users_who_chose_nothing(
    folder: Path, export: Path, tiny_dataset: SequenceDataset
) -> None:
    about = json.loads((folder / "config.json").read_text())["index"]
    assert about["recall"] == {"10": 1.0, "100": 1.0}
    assert about["ndcg@10"]["index"] == about["ndcg@10"]["exact"]
    assert about["num_users"] == len(tiny_dataset.eval_targets("valid").users) // 2
    card = (folder / "README.md").read_text()
    assert card.startswith((export / "README.md").read_text())
    assert "100.00% of the exact top 10" in card


@pytest.fixture
def wide(write_sequences, tmp_path: Path) -> ToIndexConfig:
    """An export of 600 items, and flags of an index that may miss half of the answers."""
    rng = np.random.default_rng(0)
    sequences = [rng.choice(600, 6, replace=False) + 1 for _ in range(80)]
    dataset = write_sequences([sequence.tolist() for sequence in sequences], 600)
    torch.manual_seed(3)
    shape = StudentConfig(arch="transformer", num_items=600, hidden_dim=16, max_len=MAX_LEN)
    about = {"role": "control", "dataset_fingerprint": dataset.fingerprint}
    Student(shape).eval().save_pretrained(tmp_path / "student", **about)
    export_student(tmp_path / "student", dataset, tmp_path / "exact", "int8")
    return ToIndexConfig(
        model_dir=tmp_path / "exact",
        data_dir=dataset.path,
        output_dir=tmp_path / "index",
        list_size=16,
        min_recall=0.4,
    )


def test_the_recall_that_is_stated_is_what_a_client_finds(wide: ToIndexConfig) -> None:
    """Counted with the lists that the client gives to the users who judge."""
    exact, index = (Recommender.from_pretrained(at) for at in (wide.model_dir, to_index(wide)))
    dataset, shares = load_dataset(wide.data_dir), []
    for one in draw_users(dataset, MAX_LEN)[1]:
        history = [dataset.item_ids[number - 1] for number in one.seen[0]]
        theirs, ours = (set(ids(each.recommend(history))) for each in (exact, index))
        shares.append(len(theirs & ours) / len(theirs))
    about = index.config["index"]
    assert len(shares) == about["num_users"] == 40
    assert about["recall"]["10"] == pytest.approx(np.mean(shares))
    assert 0.4 <= np.mean(shares) < 1


def test_the_users_state_and_the_vectors_make_the_scores(
    export: Path, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    flags = {"data_dir": tiny_dataset.path, "list_size": 4, "min_recall": 1.0}
    out, file = tmp_path / "out", tmp_path / "new" / "vectors.parquet"
    to_index(ToIndexConfig(model_dir=export, output_dir=out, vectors_to=file, **flags))
    index, vectors = Recommender.from_pretrained(out), pl.read_parquet(file)
    assert vectors["item_id"].to_list() == tiny_dataset.item_ids
    states = user_states(index, HISTORIES)
    assert states.shape == (3, 16)
    assert user_states(index, []).shape == (0, 16)
    scores = states @ vectors["vector"].to_numpy().T
    for history, row in zip(HISTORIES, scores, strict=True):
        for item in index.recommend(history, 30):
            assert item.score == pytest.approx(row[index.numbers[item.item_id] - 1], abs=0.02)
    with pytest.raises(DataError, match=r"vectors\.parquet exists.*--vectors-to"):
        to_index(ToIndexConfig(model_dir=export, output_dir=out, vectors_to=file, **flags))


def test_without_an_index_there_is_no_state_to_be_had(export: Path) -> None:
    with pytest.raises(ModelError, match=r"no index.*python -m export\.to_index"):
        user_states(Recommender.from_pretrained(export), HISTORIES)


# --- What is refused ------------------------------------------------------------------------------


def test_too_little_recall_is_not_written(
    wide: ToIndexConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "choose_depths", lambda *_: [Depth(10, 2), Depth(100, 30)])
    with pytest.raises(ModelError, match=r"the index finds 0\.\d+ of the top 10 .*--min-recall is"):
        to_index(dataclasses.replace(wide, min_recall=0.9))
    assert wide.output_dir is not None
    assert not wide.output_dir.exists()


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "items.json"):
        damaged = tmp_path / name
        damaged.mkdir()
        for file in folder.iterdir():
            (damaged / file.name).write_bytes(file.read_bytes())
        content = bytearray((damaged / name).read_bytes())
        content[len(content) // 2] ^= 1
        (damaged / name).write_bytes(content)
        with pytest.raises(ModelError, match=f"{name} is damaged"):
            Recommender.from_pretrained(damaged)


def test_what_has_an_index_is_no_export(folder: Path, tiny_dataset: SequenceDataset) -> None:
    with pytest.raises(ModelError, match=r"holds an index.*--model-dir"):
        to_index(ToIndexConfig(model_dir=folder, data_dir=tiny_dataset.path))
    with pytest.raises(ModelError, match=r"holds an index.*--model-dir"):
        to_mobile(ToMobileConfig(model_dir=folder))


def test_another_data_set_is_refused(export: Path, write_sequences) -> None:
    other = write_sequences([[1, 2, 3, 4]] * 3, 30)
    with pytest.raises(ModelError, match=r"was trained on data set .*--data-dir"):
        to_index(ToIndexConfig(model_dir=export, data_dir=other.path))


def test_other_precisions_and_older_exports_are_refused(
    export: Path, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    fp32 = tmp_path / "fp32"
    export_student(export.parent.parent / "student", load_dataset(tiny_dataset.path), fp32, "fp32")
    with pytest.raises(ModelError, match=r"holds fp32, .*int8"):
        to_index(ToIndexConfig(model_dir=fp32, data_dir=tiny_dataset.path))


def test_to_onnx_makes_an_older_export_anew(
    export: Path, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    """As the message says that an older one is refused with."""
    student = tmp_path / "students" / "gru" / "control"
    shutil.copytree(export.parent.parent / "student", student)
    folder = ensure_exported(tiny_dataset, tmp_path, student, "int8")
    inode = (folder / "model.onnx").stat().st_ino
    assert ensure_exported(tiny_dataset, tmp_path, student, "int8") == folder
    assert (folder / "model.onnx").stat().st_ino == inode
    about = json.loads((folder / "config.json").read_text())
    del about["graph_version"]
    (folder / "config.json").write_text(json.dumps(about))
    ensure_exported(tiny_dataset, tmp_path, student, "int8")
    assert (folder / "model.onnx").stat().st_ino != inode
    assert "graph_version" in json.loads((folder / "config.json").read_text())


def test_it_replaces_its_own_and_nothing_else(
    export: Path, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    flags = {"data_dir": tiny_dataset.path, "list_size": 4, "min_recall": 0.5}
    for _ in range(2):
        to_index(ToIndexConfig(model_dir=export, output_dir=tmp_path / "out", **flags))
    with pytest.raises(DataError, match=r"holds no index.*--output-dir"):
        to_index(ToIndexConfig(model_dir=export, output_dir=export, **flags))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"min_recall": 0.0}, "--min-recall 0.0 is not"),
        ({"min_recall": 1.5}, "--min-recall 1.5 is not"),
        ({"list_size": 0}, "--list-size 0 is below 1"),
        ({"vectors_to": Path("vectors.csv")}, "does not end in .parquet"),
    ],
)
def test_impossible_flags_are_refused(flags: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ToIndexConfig(**flags)
