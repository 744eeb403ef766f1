"""What a new day reads of the day before, damaged at random: see `test_damaged_files`."""

import logging
import shutil
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import SeqRecError
from seqrec.knowledge import load_knowledge
from seqrec.prepare import main as prepare
from seqrec.warm_start import describe_overlap, fingerprint_of

import polars as pl
import pytest
import torch
from accelerate import Accelerator

from export.config import PublishConfig, ScoreConfig
from export.publishing import publish
from export.recommender import Recommender
from export.scoring import score
from student.config import DistillConfig
from student.distilling import check_starts, distil
from teacher import tuning
from teacher.check_folder import model_fingerprint
from teacher.config import FinetuneConfig
from teacher.warm_start import carry_over, check_start
from tests.export.answers import export_random
from tests.reliability.test_damaged_files import TRIES, Format, read_damaged, read_data

pytestmark = pytest.mark.slow

ANY_COST = {"min_ndcg": 0.0, "max_latency": 1e9, "max_size": 1e9}
RECOMMENDER = ("model.onnx", "items.json")
LISTS = ("item_ids.npy", "titles.npy")  # of a run's knowledge


@pytest.fixture
def continued(tiny_dataset: SequenceDataset, tmp_path: Path) -> Format:
    """A prepared data set, and a new log that goes on from it."""
    rows = [
        (f"u{user}", tiny_dataset.item_ids[item - 1], when)
        for user in range(tiny_dataset.num_users)
        for when, item in enumerate(tiny_dataset.sequence(user))
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.write_csv(tmp_path / "log.csv")
    log[::50].write_csv(tmp_path / "new.csv")
    tiny_dataset.items.write_csv(tmp_path / "items.csv")
    names = {name: str(tmp_path / f"{name}.csv") for name in ("log", "new", "items")}
    base, out = tmp_path / "base", tmp_path / "continued"
    tables = ["--interactions", names["log"], "--items", names["items"]]
    prepare([*tables, "--output-dir", str(base)])

    def read(folder: Path) -> None:
        for items in ([], ["--items", names["items"]]):
            shutil.rmtree(out, ignore_errors=True)
            tables = ["--interactions", names["new"], *items]
            try:
                prepare([*tables, "--continue", str(folder), "--output-dir", str(out)])
            except SystemExit as stopped:  # a flag that was kept cannot be
                raise SeqRecError(stopped) from stopped
            read_data(out)

    arrays = [f"{name}.npy" for name in ("events", "offsets", "split", "times")]
    return Format(base, read, (*arrays, "items.parquet", "user_ids.parquet"))


@pytest.fixture
def teacher_start(
    tiny_cold_run: Path, tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path: Path
) -> Format:
    """A run whose teacher another one starts from; it is read, and trained no further."""
    run, out = tmp_path / "run", tmp_path / "next"
    for part in ("teacher", "knowledge"):
        shutil.copytree(tiny_cold_run / part, run / part)
    where: dict[str, Any] = {"data_dir": tiny_dataset.path, "output_dir": out, "device": "cpu"}
    flags = {"model": str(tiny_llm), "item_dim": 16, "num_epochs": 0}

    def read(folder: Path) -> None:
        config = FinetuneConfig(init_from=folder, **where, **flags)
        full = tuning.scheduled(config, tiny_dataset)
        check_start(full, out, model_fingerprint(tiny_llm), full.num_layers)
        fingerprint_of(folder, folder / "teacher")
        describe_overlap(folder, tiny_dataset)
        teacher = tuning.build_teacher(full, tiny_dataset, torch.device("cpu"))
        carry_over(teacher, folder, tiny_dataset, refitted=True)

    return Format(run, read, LISTS)


@pytest.fixture
def student_start(tiny_cold_run: Path, tiny_cold: SequenceDataset, tmp_path: Path) -> Format:
    """A run whose GRU and control others start from, of the same data."""
    run, out = tmp_path / "run", tmp_path / "next"
    for part in ("knowledge", "students/gru"):
        shutil.copytree(tiny_cold_run / part, run / part)
    known = load_knowledge(tiny_cold_run / "knowledge", tiny_cold)
    where: dict[str, Any] = {"data_dir": tiny_cold.path, "output_dir": out, "device": "cpu"}
    shape = {"hidden_dim": 16, "max_len": 7, "num_epochs": 0}

    def read(folder: Path) -> None:
        shutil.rmtree(out, ignore_errors=True)
        config = DistillConfig(init_from=folder, **where, **shape)
        accelerator = Accelerator(cpu=True)
        check_starts(["gru"], config, tiny_cold, known, accelerator)
        for role, knowledge in (("control", None), ("distilled", known)):
            distil("gru", config, tiny_cold, knowledge, out / role, accelerator)

    return Format(run, read, LISTS)


@pytest.fixture
def serving(tiny_dataset: SequenceDataset, tmp_path: Path) -> Format:
    """The recommender that serves, and another one that comes in its place."""
    where = [tmp_path / "old", tmp_path / "new"]
    old, new = (
        export_random(run, tiny_dataset, precision="int8", hidden_dim=8, seed=seed)
        for seed, run in enumerate(where)
    )

    def read(folder: Path) -> None:
        where = {"serving_dir": folder, "data_dir": tiny_dataset.path}
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        try:
            publish(PublishConfig(model_dir=new, **where, **ANY_COST))
        except SeqRecError:
            assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
            raise
        Recommender.from_pretrained(folder)

    return Format(old, read, RECOMMENDER)


@pytest.fixture
def published(serving: Format, tiny_dataset: SequenceDataset, tmp_path: Path) -> Format:
    """The recommender that is to come in the place of the one that serves, or of none."""
    place = tmp_path / "place"

    def read(folder: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        for _ in range(2):
            where = {"serving_dir": place, "data_dir": tiny_dataset.path}
            publish(PublishConfig(model_dir=folder, **where, **ANY_COST))
            Recommender.from_pretrained(place)

    return Format(serving.folder, read, RECOMMENDER)


@pytest.fixture
def answers(tiny_dataset: SequenceDataset, tmp_path: Path) -> Format:
    """Lists of all users, which are kept where they are still right."""
    model = export_random(tmp_path, tiny_dataset, hidden_dim=8)
    flags: dict[str, Any] = {"model_dir": model, "data_dir": tiny_dataset.path}
    flags |= {"num_workers": 1, "users_per_part": 25}
    whole = pl.read_parquet(score(ScoreConfig(output_dir=tmp_path / "answers", **flags)))

    def read(folder: Path) -> None:
        again = pl.read_parquet(score(ScoreConfig(output_dir=folder, **flags)))
        assert again.select("user_id", "item_ids").equals(whole.select("user_id", "item_ids"))
        for found, expected in zip(again["scores"], whole["scores"], strict=True):
            assert found.to_list() == pytest.approx(expected.to_list(), abs=1e-5)

    return Format(tmp_path / "answers", read)


@pytest.mark.parametrize(
    "name", ["continued", "teacher_start", "student_start", "serving", "published", "answers"]
)
def test_damage_is_refused_or_does_no_harm(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    caplog.set_level(logging.ERROR)
    read_damaged(request.getfixturevalue(name), tmp_path / "work", TRIES)
