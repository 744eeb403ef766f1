"""All the commands, one after the other, on thirty items."""

import json
import os
import subprocess
import sys
from pathlib import Path

from seqrec.data import SequenceDataset

import polars as pl
import pytest

from export.recommender import Recommender

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ARCHS = ("gru", "transformer")
FINETUNE = ("-m", "accelerate.commands.launch", "teacher/finetune.py", "--log-with", "tensorboard")
DISTILL = ("-m", "student.distill", "--log-with", "tensorboard")
SMALL = ("--num-epochs", "60", "--batch-size", "16", "--hidden-dim", "32")


def type_in(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def finished(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The output directory of a whole run from the user's own tables, and the printed table."""
    folder = tmp_path_factory.mktemp("user")
    item_ids = tiny_dataset.item_ids
    interactions = [
        {"who": f"u{user:02d}", "what": item_ids[item - 1], "when": when}
        for user in range(tiny_dataset.num_users)
        for when, item in enumerate(tiny_dataset.sequence(user))
    ]
    pl.DataFrame(interactions).write_csv(folder / "log.csv")
    tiny_dataset.items.write_ndjson(folder / "items.jsonl")
    data, out = str(folder / "data"), str(folder / "out")
    type_in(
        *("-m", "seqrec.prepare", "--interactions", str(folder / "log.csv"), "--output-dir", data),
        *("--items", str(folder / "items.jsonl")),
        *("--user-column", "who", "--item-column", "what", "--time-column", "when"),
    )
    where = ("--data-dir", data, "--output-dir", out)
    type_in(*FINETUNE, *where, "--model", str(tiny_llm), "--num-layers", "2", "--num-epochs", "20")
    type_in(*DISTILL, *where, *SMALL)
    table = type_in("-m", "benchmarks.latency", *where, "--device", "cpu")
    return folder / "out", table


def test_the_table_has_a_row_for_each_system(finished: tuple[Path, str]) -> None:
    out, table = finished
    rows = json.loads((out / "benchmark.json").read_text())["rows"]
    systems = {(row["system"], row["precision"]) for row in rows}
    students = {(f"{arch} {role}", "fp32") for arch in ARCHS for role in ("control", "distilled")}
    assert systems >= students | {(f"{arch} distilled", "int8") for arch in ARCHS}
    assert {"popularity", "teacher"} <= {row["system"] for row in rows}
    for system, _ in systems:
        assert system in table


def test_what_was_learned_beats_popularity(finished: tuple[Path, str]) -> None:
    rows = json.loads((finished[0] / "benchmark.json").read_text())["rows"]
    value = {(row["system"], row["precision"]): row["metrics"]["ndcg@10"] for row in rows}
    popularity = next(v for (system, _), v in value.items() if system == "popularity")
    for system in ("gru distilled", "transformer distilled"):
        assert value[system, "int8"] > 2 * popularity


def test_every_training_can_be_followed(finished: tuple[Path, str]) -> None:
    students = {f"{arch}-{role}" for arch in ARCHS for role in ("control", "distilled")}
    auxiliary = {f"{arch}-auxiliary-teacher" for arch in ARCHS}
    trained = {"teacher"} | students | auxiliary
    runs = {run.name: list(run.glob("events.*")) for run in (finished[0] / "logs").iterdir()}
    assert runs.keys() == trained | {f"{run}-refit" for run in trained}
    assert all(runs.values())


def test_the_picture_is_there(finished: tuple[Path, str]) -> None:
    assert (finished[0] / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_the_shipped_directory_recommends_the_next_book_on_the_shelf(
    finished: tuple[Path, str],
) -> None:
    recommender = Recommender.from_pretrained(finished[0] / "export" / "transformer-distilled-int8")
    answers = recommender.recommend(["b01", "b02", "b03"], k=3)
    assert "b04" in [answer.item_id for answer in answers]


def test_a_second_run_trains_nothing_again(finished: tuple[Path, str]) -> None:
    out = finished[0]
    before = {file: file.stat().st_mtime_ns for file in out.glob("students/*/*/model.safetensors")}
    type_in(*DISTILL, *SMALL, "--data-dir", str(out.parent / "data"), "--output-dir", str(out))
    assert {file: file.stat().st_mtime_ns for file in before} == before
