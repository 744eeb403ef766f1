"""Bulk recommendations, held against `Recommender.recommend_batch` on the same histories."""

import json
from collections.abc import Iterator
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError, SeqRecError

import polars as pl
import pytest
import torch

from export import scoring as score_module
from export.config import ScoreConfig
from export.onnx_graph.exporting import export_student
from export.recommender import Recommender
from export.scoring import Part, Scored, list_parts, score
from student.model import Student, StudentConfig

pytestmark = pytest.mark.slow

MAX_LEN = 6


@pytest.fixture(scope="module")
def model_dir(tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    shape = StudentConfig(
        arch="gru", num_items=tiny_dataset.num_items, hidden_dim=16, max_len=MAX_LEN
    )
    path = tmp_path_factory.mktemp("score")
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    Student(shape).eval().save_pretrained(path / "student", **about)
    export_student(path / "student", tiny_dataset, path / "exported", "fp32")
    return path / "exported"


def whole_histories(dataset: SequenceDataset) -> list[list[str]]:
    return [
        [f"b{item:02d}" for item in dataset.sequence(user)] for user in range(dataset.num_users)
    ]


def agree(
    folder: Path, model_dir: Path, users: list[str], histories: list[list[str]], **how: object
) -> bool:
    """Tell whether the files in `folder` hold what the recommender says of all users at once."""
    rows = pl.read_parquet(folder)
    answers = Recommender.from_pretrained(model_dir).recommend_batch(histories, **how)
    assert rows["user_id"].to_list() == users
    assert rows["item_ids"].to_list() == [[item.item_id for item in a] for a in answers]
    for found, answer in zip(rows["scores"].to_list(), answers, strict=True):
        assert found == pytest.approx([item.score for item in answer], abs=1e-5)
    return True


@pytest.mark.parametrize("num_workers", [1, 2])
def test_all_users_of_a_data_set_get_the_recommenders_answers(
    model_dir: Path, tiny_dataset: SequenceDataset, tmp_path: Path, num_workers: int
) -> None:
    score(
        ScoreConfig(
            model_dir=model_dir,
            data_dir=tiny_dataset.path,
            output_dir=tmp_path / "out",
            k=5,
            users_per_part=17,
            batch_size=4,
            num_workers=num_workers,
        )
    )
    users = [f"u{user:02d}" for user in range(40)]
    assert agree(tmp_path / "out", model_dir, users, whole_histories(tiny_dataset), k=5)
    assert [len(pl.read_parquet(file)) for file in sorted((tmp_path / "out").iterdir())] == [
        17,
        17,
        6,
    ]


def test_ray_gives_the_same_answers(
    model_dir: Path, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install -e ".[ray]"')
    score(
        ScoreConfig(
            model_dir=model_dir,
            data_dir=tiny_dataset.path,
            output_dir=tmp_path / "out",
            users_per_part=17,
            engine="ray",
            num_workers=2,
        )
    )
    users = [f"u{user:02d}" for user in range(40)]
    assert agree(tmp_path / "out", model_dir, users, whole_histories(tiny_dataset))


def write_histories(path: Path, users: list[object], histories: list[object]) -> None:
    pl.DataFrame({"who": users, "took": histories}).write_parquet(path)


def test_a_folder_of_histories_is_read_in_the_order_of_its_names(
    model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    first, second = [["b01"], ["b02", "b03"], ["b04"] * 9], [["nothing", "b05"], ["b06"]]
    write_histories(tmp_path / "in" / "1.parquet", [7, 8, 9], first)
    write_histories(tmp_path / "in" / "2.parquet", [3, 4], second)
    config = ScoreConfig(
        model_dir=model_dir,
        histories=tmp_path / "in",
        user_column="who",
        history_column="took",
        output_dir=tmp_path / "out",
        users_per_part=2,
        exclude_seen=False,
        num_workers=1,
    )
    score(config)
    users = ["7", "8", "9", "3", "4"]
    assert agree(tmp_path / "out", model_dir, users, [*first, *second], exclude_seen=False)
    assert [(p.source.name, p.start, p.num_users) for p in list_parts(config)] == [
        ("1.parquet", 0, 2),
        ("1.parquet", 2, 1),
        ("2.parquet", 0, 2),
    ]


def test_whoever_took_nothing_that_is_known_gets_an_empty_list_and_is_counted(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    histories = [["b01"], [], None, ["nobody", None], ["b02", None]]
    write_histories(tmp_path / "in.parquet", list("abcde"), histories)
    config = ScoreConfig(
        model_dir=model_dir,
        histories=tmp_path / "in.parquet",
        user_column="who",
        history_column="took",
        output_dir=tmp_path / "out",
        num_workers=1,
    )
    with caplog.at_level("INFO"):
        score(config)
    rows = pl.read_parquet(tmp_path / "out")
    assert [len(ids) for ids in rows["item_ids"]] == [10, 0, 0, 0, 10]
    assert [len(ids) for ids in rows["scores"]] == [10, 0, 0, 0, 10]
    assert "3 of them have no item of the catalogue" in caplog.text


def test_each_file_names_the_model_that_made_it(
    model_dir: Path, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    score(
        ScoreConfig(model_dir=model_dir, data_dir=tiny_dataset.path, output_dir=out, num_workers=1)
    )
    about = json.loads(pl.read_parquet_metadata(out / "part-00000.parquet")["seqrec.recommender"])
    assert about["sha256"] == json.loads((model_dir / "config.json").read_text())["sha256"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"user": ["a"], "took": [["b01"]]}, "no column 'who'.*--user-column"),
        ({"who": ["a"], "history": [["b01"]]}, "no column 'took'.*--history-column"),
        ({"who": ["a"], "took": ["b01"]}, "'took' is String, expected a list.*seqrec.prepare"),
        ({"who": ["a", None], "took": [["b01"]] * 2}, "row 2: column 'who' is empty"),
        ({"who": [b"a"], "took": [["b01"]]}, "'who' is Binary, but ids are.*--user-column"),
        ({"who": [["a"]], "took": [["b01"]]}, "'who' is List.*, but ids are.*--user-column"),
        ({"who": ["a"], "took": [[b"b01"]]}, "'took' is Binary, but ids are.*--history-column"),
        ({"who": ["a"], "took": [[1.0]]}, "'took' is Float64, but ids are.*--history-column"),
        ({"who": ["a"], "took": [[["b01"]]]}, "'took' is List.*, but ids are.*--history-column"),
        ({"who": ["a"], "took": [[{"id": "b01"}]]}, "'took' is Struct.*, but ids are"),
        ({"who": [], "took": []}, "holds no rows"),
    ],
)
def test_histories_of_another_kind_are_refused_and_nothing_is_written(
    model_dir: Path, tmp_path: Path, frame: dict[str, list[object]], message: str
) -> None:
    types = {"took": pl.List(pl.String)} if not frame["who" if "who" in frame else "user"] else None
    pl.DataFrame(frame, schema_overrides=types).write_parquet(tmp_path / "in.parquet")
    config = ScoreConfig(
        model_dir=model_dir,
        histories=tmp_path / "in.parquet",
        user_column="who",
        history_column="took",
        output_dir=tmp_path / "out",
        num_workers=1,
    )
    with pytest.raises(DataError, match=message):
        score(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([["b01", None, "b02"], []]),
        pl.Series([["b01", "b02"], ["b03", "b04"]], dtype=pl.Array(pl.String, 2)),
        pl.Series([["b01"], ["b02"]], dtype=pl.List(pl.Categorical)),
        pl.Series([[], None], dtype=pl.List(pl.Null)),
    ],
)
def test_lists_of_ids_are_read_however_they_are_stored(
    model_dir: Path, tmp_path: Path, column: pl.Series
) -> None:
    folder = tmp_path / "log [v1]"
    (folder / "day=1").mkdir(parents=True)
    frame = pl.DataFrame({"user_id": [7, 8], "history": column})
    frame.write_parquet(folder / "day=1" / "part*.parquet")
    output = tmp_path / "out [v1]"
    score(ScoreConfig(model_dir=model_dir, histories=folder, output_dir=output, num_workers=1))
    histories = [
        [item for item in row or [] if item] for row in column.cast(pl.List(pl.String)).to_list()
    ]
    recommender = Recommender.from_pretrained(model_dir)
    found = pl.read_parquet(output / "part-00000.parquet", glob=False)
    assert found["user_id"].to_list() == ["7", "8"]
    assert found["item_ids"].to_list() == [
        [item.item_id for item in recommender.recommend(history)] if history else []
        for history in histories
    ]


def test_histories_are_not_taken_for_an_earlier_answer(model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "part-00000.parquet"
    write_histories(file, ["a"], [["b01"]])
    config = ScoreConfig(model_dir=model_dir, histories=tmp_path, output_dir=tmp_path)
    with pytest.raises(DataError, match=r"part-00000\.parquet.*left as it is"):
        score(config)
    assert pl.read_parquet(file).rows() == [("a", ["b01"])]


def test_what_a_killed_worker_left_of_a_part_is_neither_kept_nor_in_the_way(
    model_dir: Path, tiny_dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ScoreConfig(
        model_dir=model_dir, data_dir=tiny_dataset.path, output_dir=tmp_path / "out", num_workers=1
    )
    engine = score_module.local_engine

    def retried(config: ScoreConfig, folder: Path, parts: list[Part]) -> Iterator[Scored]:
        (folder / ".part-00000.parquet.4711.tmp").write_bytes(b"half")
        yield from engine(config, folder, parts)

    monkeypatch.setitem(score_module.ENGINES, "local", retried)
    score(config)
    assert [file.name for file in config.output_dir.iterdir()] == ["part-00000.parquet"]
    (config.output_dir / ".part-00000.parquet.4711.tmp").touch()  # as earlier versions left it
    score(config)
    assert [file.name for file in config.output_dir.iterdir()] == ["part-00000.parquet"]


def test_a_directory_with_anything_else_in_it_is_left_as_it_is(
    model_dir: Path, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    config = ScoreConfig(
        model_dir=model_dir, data_dir=tiny_dataset.path, output_dir=tmp_path / "out", num_workers=1
    )
    score(config)
    score(config)  # an earlier answer is replaced
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"thesis\.tex.*left as it is"):
        score(config)
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_a_killed_worker_is_one_line_and_leaves_nothing(
    model_dir: Path, tiny_dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_module, "_answer", _killed)
    config = ScoreConfig(
        model_dir=model_dir,
        data_dir=tiny_dataset.path,
        output_dir=tmp_path / "out",
        users_per_part=20,
        num_workers=2,
    )
    with pytest.raises(SeqRecError, match=r"workers was killed.*--num-workers"):
        score(config)
    assert not any(tmp_path.iterdir())


def _killed(part: object) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_without_ray_its_engine_says_how_to_get_it(
    model_dir: Path, tiny_dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    config = ScoreConfig(
        model_dir=model_dir, data_dir=tiny_dataset.path, output_dir=tmp_path / "o", engine="ray"
    )
    with pytest.raises(ModelError, match=r"pip install --editable \"\.\[ray\]\""):
        score(config)
