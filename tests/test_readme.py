"""What the README says holds: its table is a kept run's, and its flags exist."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.files import read_json
from seqrec.prepare import PrepareConfig

import numpy as np
import pytest

from benchmarks.accuracy import AccuracyConfig
from benchmarks.cold_start import ColdConfig
from benchmarks.latency import BenchmarkConfig
from benchmarks.measure.systems import checked_answer, load_runner
from benchmarks.report.tables import format_table
from export.add_items import AddItemsConfig
from export.score import ScoreConfig
from export.serve_web import ServeConfig
from export.to_executorch import ToExecutorchConfig
from export.to_web import ToWebConfig
from student.config import DistillConfig
from teacher.finetune import FinetuneConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "ml-100k"


def test_the_table_is_that_of_the_kept_results() -> None:
    table = format_table(read_json(RESULTS / "benchmark.json"))
    for line in filter(None, table.splitlines()):
        assert line.rstrip() in README, line


@pytest.mark.parametrize(
    "data", ["amazon-beauty", "amazon-games", "amazon-office", "ml-1m", "ml-100k"]
)
def test_the_gains_it_states_are_those_of_the_kept_results(data: str) -> None:
    results = read_json(RESULTS.parent / data / "accuracy.json")
    rows = {row["arch"]: row for row in results["rows"] if row["row"] == "distilled-int8"}
    cells = []
    for arch in ("gru", "transformer"):
        ndcg = rows[arch]["metrics"]["seen_excluded"]["ndcg@10"]["mean"]
        gain = rows[arch]["gain_over"]["control"]
        interval = f"[{gain['low']:.1f}, {gain['high']:.1f}]"
        cells.append(f"{ndcg:.4f}".lstrip("0") + f", {gain['mean']:+.1f} % {interval}")
    assert f"| {data} | {' | '.join(cells)} |" in README


def test_every_flag_it_names_exists() -> None:
    configs = (
        PrepareConfig,
        FinetuneConfig,
        DistillConfig,
        AddItemsConfig,
        ToWebConfig,
        ServeConfig,
        BenchmarkConfig,
        ColdConfig,
        AccuracyConfig,
        ScoreConfig,
        ToExecutorchConfig,
    )
    flags = {
        "--" + field.name.replace("_", "-") for c in configs for field in dataclasses.fields(c)
    }
    others = {"--help", "--editable", "--config_file", "--num_processes"}  # pip's, accelerate's
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", README)) - others
    assert named <= flags, named - flags


def test_the_runner_that_it_shows_takes_part(
    write_sequences: Callable[[list[list[int]], int], SequenceDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    (shown,) = (block for block in blocks if "Markov" in block)
    assert len(shown.splitlines()) < 20
    (tmp_path / "markov.py").write_text(shown, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    # The last event of each user is the test target: 1 is followed by 2 twice and by 3 once.
    dataset = write_sequences([[1, 2, 4], [1, 2, 4], [1, 3, 4]], 4)
    runner = load_runner("markov:Markov", dataset)
    nothing = np.zeros((1, 0), dtype=np.int64)
    answer = checked_answer(runner, np.array([[4, 1]]), nothing, np.array([2]), 4)
    assert answer.tolist() == [[2, 3]]
    without_best = checked_answer(runner, np.array([[1]]), np.array([[2]]), np.array([1]), 4)
    assert without_best.tolist() == [[3]]
