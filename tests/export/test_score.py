"""Bulk recommendations, held against `Recommender.recommend_batch` on the same histories."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError, SeqRecError
from seqrec.files import read_json

import polars as pl
import pytest

from export import scoring as module
from export.config import ScoreConfig
from export.recommender import Recommender
from export.scoring import METADATA, Part, Scored, list_parts, score
from tests.export.answers import export_random

pytestmark = pytest.mark.slow

Configure = Callable[..., ScoreConfig]


@pytest.fixture
def configure(folder: Path, tiny_dataset: SequenceDataset, tmp_path: Path) -> Configure:
    """Return what makes a config that scores the tiny data set in this process."""

    def make(**flags: Any) -> ScoreConfig:
        where = {"model_dir": folder, "data_dir": tiny_dataset.path, "output_dir": tmp_path / "out"}
        return ScoreConfig(**{**where, "num_workers": 1, **flags})

    return make


def write(file: Path, users: list[Any], histories: list[Any]) -> dict[str, Any]:
    """Write histories, and return the flags that name them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"who": users, "took": histories}).write_parquet(file)
    return {"histories": file, "user_column": "who", "history_column": "took"}


def require_answers(
    config: ScoreConfig, users: list[str], histories: list[list[str]], **how: Any
) -> None:
    """Check that the files hold what the recommender says of all users at once."""
    rows = pl.read_parquet(score(config))
    answers = Recommender.from_pretrained(config.model_dir).recommend_batch(histories, **how)
    assert rows["user_id"].to_list() == users
    assert rows["item_ids"].to_list() == [answer.item_ids for answer in answers]
    for found, answer in zip(rows["scores"].to_list(), answers, strict=True):
        assert found == pytest.approx(answer.scores, abs=1e-5)


@pytest.mark.parametrize(("engine", "num_workers"), [("local", 1), ("local", 2), ("ray", 2)])
def test_all_users_of_a_data_set_get_the_recommenders_answers(
    configure: Configure, tiny_dataset: SequenceDataset, engine: str, num_workers: int
) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason='Ray is not installed: pip install -e ".[ray]"')
    flags = {"k": 5, "users_per_part": 17, "batch_size": 4}
    config = configure(engine=engine, num_workers=num_workers, **flags)
    numbers = range(tiny_dataset.num_users)
    histories = [[f"b{item:02d}" for item in tiny_dataset.sequence(user)] for user in numbers]
    require_answers(config, [f"u{user:02d}" for user in numbers], histories, k=5)
    files = sorted(config.output_dir.iterdir())
    assert [len(pl.read_parquet(file)) for file in files] == [17, 17, 6]
    for file in files:
        assert read_json(config.model_dir / "config.json")["sha256"] == made_by(file)["sha256"]


def made_by(file: Path) -> dict[str, Any]:
    """Return what a file says of the model that made it."""
    said: dict[str, Any] = json.loads(pl.read_parquet_metadata(file)[METADATA])
    return said


def test_a_folder_of_histories_is_read_in_the_order_of_its_names(
    configure: Configure, tmp_path: Path
) -> None:
    first, second = [["b01"], ["b02", "b03"], ["b04"] * 9], [["nothing", "b05"], ["b06"]]
    write(tmp_path / "in" / "1.parquet", [7, 8, 9], first)
    flags = write(tmp_path / "in" / "2.parquet", [3, 4], second)
    flags["histories"] = tmp_path / "in"
    config = configure(**flags, users_per_part=2, exclude_seen=False)
    users = ["7", "8", "9", "3", "4"]
    require_answers(config, users, [*first, *second], exclude_seen=False)
    parts = [(part.source.name, part.start, part.num_users) for part in list_parts(config)]
    assert parts == [("1.parquet", 0, 2), ("1.parquet", 2, 1), ("2.parquet", 0, 2)]


def test_whoever_took_nothing_that_is_known_gets_an_empty_list_and_is_counted(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    histories = [["b01"], [], None, ["nobody", None], ["b02", None]]
    with caplog.at_level("INFO"):
        score(configure(**write(tmp_path / "in.parquet", list("abcde"), histories)))
    rows = pl.read_parquet(tmp_path / "out")
    for column in ("item_ids", "scores"):
        assert rows[column].list.len().to_list() == [10, 0, 0, 0, 10]
    assert "3 of them have no item of the catalogue" in caplog.text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list of all histories that a recommender is asked about from here on."""
    histories: list[list[str]] = []
    ask = Recommender.recommend_batch

    def ask_and_note(self: Recommender, batch: list[list[str]], *how: Any) -> Any:
        histories.extend(batch)
        return ask(self, batch, *how)

    monkeypatch.setattr(Recommender, "recommend_batch", ask_and_note)
    return histories


def test_only_who_has_another_history_is_asked_again(
    configure: Configure, tmp_path: Path, asked: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """The folder is what asking everybody gives, and nobody else's row changes."""
    users = [[7, 8, 9, 10], [7, 8, 9, 10, 11]]  # in parts of three
    before = [["b01"], ["b02", "b03"], [], ["b04"] * 9]
    now = [["b01"], ["b02", "b03", "b07"], [], ["b04"] * 9, ["b05", "b06"]]
    flags = write(tmp_path / "in.parquet", users[0], before)
    yesterday = pl.read_parquet(score(configure(**flags, users_per_part=3)))
    asked.clear()
    flags = write(tmp_path / "in.parquet", users[1], now)
    with caplog.at_level("INFO"):
        today = pl.read_parquet(score(configure(**flags, users_per_part=3)))
    assert asked == [now[1], now[4]]
    assert "3 of them were answered there already" in caplog.text
    assert today[[0, 2, 3]].equals(yesterday[[0, 2, 3]])
    whole = pl.read_parquet(score(configure(**flags, output_dir=tmp_path / "whole")))
    assert today.select("user_id", "item_ids").equals(whole.select("user_id", "item_ids"))
    for found, expected in zip(today["scores"], whole["scores"], strict=True):
        assert found.to_list() == pytest.approx(expected.to_list(), abs=1e-5)


def test_the_same_data_set_again_asks_nobody_and_another_recommender_or_flag_everybody(
    configure: Configure,
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
    asked: list[list[str]],
) -> None:
    other = export_random(tmp_path, tiny_dataset, seed=5)
    score(configure())
    for flags in ({}, {"model_dir": other}, {"k": 3}, {"exclude_seen": False}):
        asked.clear()
        changed = configure(**flags)
        rows = pl.read_parquet(score(changed))
        assert len(asked) == (tiny_dataset.num_users if flags else 0)
        whole = pl.read_parquet(score(configure(**flags, output_dir=tmp_path / "whole")))
        assert rows.equals(whole)
        shutil.rmtree(tmp_path / "whole")
        score(configure())


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows.with_columns(pl.col("item_ids").reverse()),
        lambda rows: rows.with_columns(pl.col("scores").list.eval(pl.element() + 1)),
        lambda rows: rows.with_columns(pl.col("user_id").reverse()),
        lambda rows: rows.with_columns(pl.col("scores").cast(pl.List(pl.String))),
        lambda rows: rows.drop("digest"),  # as an earlier version wrote them
    ],
)
def test_rows_that_are_not_right_are_answered_anew(
    configure: Configure, damage: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    file = score(configure()) / "part-00000.parquet"
    whole, metadata = pl.read_parquet(file), pl.read_parquet_metadata(file)
    damage(whole).write_parquet(file, metadata=metadata)
    score(configure())
    assert pl.read_parquet(file).equals(whole)


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
    configure: Configure, tmp_path: Path, frame: dict[str, list[object]], message: str
) -> None:
    types = {"took": pl.List(pl.String)} if frame.get("who") == [] else None
    file = tmp_path / "in.parquet"
    pl.DataFrame(frame, schema_overrides=types).write_parquet(file)
    config = configure(histories=file, user_column="who", history_column="took")
    with pytest.raises(DataError, match=message):
        score(config)
    assert not config.output_dir.exists()


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
    configure: Configure, tmp_path: Path, column: pl.Series
) -> None:
    histories, output = tmp_path / "log [v1]", tmp_path / "out [v1]"
    (histories / "day=1").mkdir(parents=True)
    frame = pl.DataFrame({"user_id": [7, 8], "history": column})
    frame.write_parquet(histories / "day=1" / "part*.parquet")
    config = configure(histories=histories, output_dir=output)
    score(config)
    stored = column.cast(pl.List(pl.String)).to_list()
    lists = [[item for item in row or [] if item] for row in stored]
    ask = Recommender.from_pretrained(config.model_dir).recommend
    found = pl.read_parquet(output / "part-00000.parquet", glob=False)
    assert found["user_id"].to_list() == ["7", "8"]
    assert found["item_ids"].to_list() == [ask(ids).item_ids if ids else [] for ids in lists]


def test_only_earlier_recommendations_are_replaced(configure: Configure, tmp_path: Path) -> None:
    config = configure()
    for _ in range(2):
        score(config)
    (config.output_dir / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"thesis\.tex.*left as it is"):
        score(config)
    assert (config.output_dir / "thesis.tex").exists()
    file = tmp_path / "in" / "part-00000.parquet"  # histories that are named as we name ours
    flags = write(file, ["a"], [["b01"]])
    with pytest.raises(DataError, match=r"part-00000\.parquet.*left as it is"):
        score(configure(**flags, output_dir=file.parent))
    assert pl.read_parquet(file).rows() == [("a", ["b01"])]


def test_what_a_killed_worker_left_of_a_part_is_not_kept(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = module.local_engine

    def retried(config: ScoreConfig, folder: Path, parts: list[Part]) -> Iterator[Scored]:
        (folder / ".part-00000.parquet.4711.tmp").write_bytes(b"half")
        yield from engine(config, folder, parts)

    monkeypatch.setattr(module, "local_engine", retried)
    folder = score(configure())
    assert [file.name for file in folder.iterdir()] == ["part-00000.parquet"]


def _killed(part: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line_and_leaves_nothing(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_answer", _killed)
    with pytest.raises(SeqRecError, match=r"workers was killed.*--num-workers"):
        score(configure(users_per_part=20, num_workers=2))
    assert not any(tmp_path.iterdir())


def test_without_ray_its_engine_says_how_to_get_it(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModelError, match=r"pip install --editable \"\.\[ray\]\""):
        score(configure(engine="ray"))
