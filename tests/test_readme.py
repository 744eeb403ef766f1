"""What the README says holds: its table is a kept run's, and its flags exist."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.prepare import PrepareConfig

import numpy as np
import pytest

from benchmarks.accuracy import AccuracyConfig
from benchmarks.baselines.__main__ import BaselinesConfig
from benchmarks.catalogue import CatalogueConfig
from benchmarks.cold_start import ColdConfig
from benchmarks.latency import LatencyConfig
from benchmarks.measure.queries import NOTHING, Request
from benchmarks.measure.systems import load_runner
from benchmarks.report.files import load
from benchmarks.report.schema import AccuracyResults, LatencyResults
from benchmarks.report.tables import format_latency
from export.add_items import AddItemsConfig
from export.score import ScoreConfig
from export.serve_web import ServeConfig
from export.to_executorch import ToExecutorchConfig
from export.to_web import ToWebConfig
from student.config import DistillConfig
from teacher.config import FinetuneConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "ml-100k"
# It is written anew after the benchmark's commands; then this mark goes.
FOLLOWS = pytest.mark.xfail(reason="README.md follows")


@FOLLOWS
def test_the_table_is_that_of_the_kept_results() -> None:
    table = format_latency(load(LatencyResults, RESULTS / "benchmark.json"))
    for line in filter(None, table.splitlines()):
        assert line.rstrip() in README, line


@pytest.mark.parametrize(
    "data", ["amazon-beauty", "amazon-games", "amazon-office", "ml-1m", "ml-100k"]
)
def test_the_gains_it_states_are_those_of_the_kept_results(data: str) -> None:
    results = load(AccuracyResults, RESULTS.parent / data / "accuracy.json")
    cells = []
    for arch in ("gru", "transformer"):
        row = results.find("distilled-int8", arch)
        assert row is not None
        gain = row.gain_over["control"]
        assert gain is not None
        ndcg = f"{row.metrics['seen_excluded']['ndcg@10'].mean:.4f}".lstrip("0")
        cells.append(f"{ndcg}, {gain.mean:+.1f} % [{gain.low:.1f}, {gain.high:.1f}]")
    assert f"| {data} | {' | '.join(cells)} |" in README


@FOLLOWS
def test_every_flag_it_names_exists() -> None:
    configs = (
        PrepareConfig,
        FinetuneConfig,
        DistillConfig,
        AddItemsConfig,
        ToWebConfig,
        ServeConfig,
        LatencyConfig,
        BaselinesConfig,
        CatalogueConfig,
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


@FOLLOWS
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
    system = load_runner("markov:Markov", dataset)
    best = system.checked(Request(np.array([[4, 1]]), NOTHING, np.array([2])), 4)
    assert best.tolist() == [[2, 3]]
    without_best = Request(np.array([[1]]), np.array([[2]]), np.array([1]))
    assert system.checked(without_best, 4).tolist() == [[3]]
