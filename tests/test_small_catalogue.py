"""Catalogues of fewer items than a list has places: every stage gives a table or an answer."""

import json
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import DataError

import numpy as np
import polars as pl
import pytest

from benchmarks import latency
from benchmarks.measure import speed
from benchmarks.report.files import load
from benchmarks.report.schema import LatencyResults
from export.config import ScoreConfig, ToMobileConfig
from export.mobile.ort_format import to_mobile
from export.onnx_graph.exporting import ensure_exported
from export.parity import best_items, overlap
from export.recommender import Recommender
from export.scoring import score

pytestmark = pytest.mark.slow

Write = Callable[[list[list[int]], int], SequenceDataset]


@pytest.fixture(params=[1, 2, 6])
def small_run(
    write_sequences: Write,
    save_student: Callable[..., Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> tuple[SequenceDataset, Path]:
    """A data set in which each user takes all items, over and over, and students of it."""
    once = list(range(1, request.param + 1))
    dataset = write_sequences([(once[i:] + once[:i]) * 4 for i in range(len(once))], len(once))
    for role in ("control", "distilled"):
        folder = tmp_path / "run" / "students" / "gru" / role
        save_student(folder, dataset, role=role, hidden_dim=8, max_len=5)
    return dataset, tmp_path / "run"


def test_the_benchmark_ends_with_a_table(
    small_run: tuple[SequenceDataset, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset, run = small_run
    monkeypatch.setattr(speed, "NUM_STARTS", 0)
    monkeypatch.setattr(speed, "THROUGHPUT_S", 0.02)
    where = ["--data-dir", str(dataset.path), "--output-dir", str(run)]
    latency.main([*where, "--no-teacher", "--num-calls", "10", "--budget-s", "0.2", "--sweeps"])
    results = load(LatencyResults, run / "benchmark.json")
    table = capsys.readouterr().out
    precisions = ["fp32", "fp32", "fp32", "int8", "int8 call", "int8 step", "int8 optimum"]
    assert [row.precision_label for row in results.rows] == precisions
    for row in results.rows:
        assert row.system in table
        # Where no more than 10 items are ranked the target is among them, if it may be ranked.
        is_kept = results.dataset.protocol == "seen_kept"
        metrics = row.metrics if is_kept else row.metrics_other_protocol
        assert metrics["hr@10"] == 1.0
        assert 1 / np.log2(dataset.num_items + 1) <= metrics["ndcg@10"] <= 1.0
        if row.precision == "int8":  # all items are in both lists
            assert row.top10_overlap_with_fp32 == 1.0


def test_exports_answer_with_all_that_is_left(
    small_run: tuple[SequenceDataset, Path], tmp_path: Path
) -> None:
    dataset, run = small_run
    every = set(dataset.item_ids)
    student = run / "students" / "gru" / "distilled"
    for precision in ("fp32", "int8"):
        folder = ensure_exported(dataset, run, student, precision)
        config = json.loads((folder / "config.json").read_text())
        assert config.get("top10_overlap_with_fp32", 1.0) == 1.0
        recommender = Recommender.from_pretrained(folder)
        answer = recommender.recommend(["title 1"], k=10)
        assert {item.item_id for item in answer} == every - {"title 1"}
        assert len(recommender.recommend(["title 1"], exclude_seen=False)) == len(every)
    mobile = Recommender.from_pretrained(to_mobile(ToMobileConfig(model_dir=folder)))
    assert mobile.recommend(["title 1"]) == recommender.recommend(["title 1"])
    histories = tmp_path / "histories.parquet"
    users = {"user_id": ["some", "none", "unknown"], "history": [["title 1"], [], ["elsewhere"]]}
    pl.DataFrame(users, schema_overrides={"history": pl.List(pl.String)}).write_parquet(histories)
    written = score(ScoreConfig(model_dir=folder, histories=histories, output_dir=tmp_path / "out"))
    lists = pl.read_parquet(written / "part-*.parquet")
    assert lists["item_ids"].list.len().to_list() == [len(every) - 1, 0, 0]


def test_a_data_set_without_validation_targets_is_exported(
    write_sequences: Write, save_student: Callable[..., Path], tmp_path: Path
) -> None:
    """Who has one event or two has no validation target, and so no history to compare on."""
    dataset = write_sequences([[1], [1, 2]], 2)
    assert len(dataset.eval_targets("valid").users) == 0
    student = tmp_path / "run" / "students" / "gru" / "control"
    save_student(student, dataset, hidden_dim=8)
    folder = ensure_exported(dataset, tmp_path / "run", student, "int8")
    config = json.loads((folder / "config.json").read_text())
    assert config["top10_overlap_with_fp32"] == 1.0  # a list of the one item that is left


def test_a_data_set_without_test_targets_is_refused_before_anything_is_opened(
    write_sequences: Write, tmp_path: Path
) -> None:
    dataset = write_sequences([[1], [2]], 2)
    with pytest.raises(DataError, match="has no test target: there is nothing to judge"):
        latency.main(["--data-dir", str(dataset.path), "--output-dir", str(tmp_path / "run")])


def test_answers_without_items_agree() -> None:
    scores = np.full((1, 3), -np.inf, np.float32)
    assert overlap([], best_items(scores, 2)[0]) == 1.0
