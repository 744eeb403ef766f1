"""What README and the pages tell to type exists."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.prepare import PrepareConfig

import numpy as np
import pytest

from benchmarks.accuracy import AccuracyConfig
from benchmarks.baselines.libraries import BaselinesConfig
from benchmarks.catalogue import CatalogueConfig
from benchmarks.cold_start import ColdConfig
from benchmarks.latency import LatencyConfig
from benchmarks.measure.queries import NOTHING, Request
from benchmarks.measure.systems import load_runner
from export.add_items import AddItemsConfig
from export.config import PushConfig
from export.score import ScoreConfig
from export.serve_web import ServeConfig
from export.to_executorch import ToExecutorchConfig
from export.to_index import ToIndexConfig
from export.to_web import ToWebConfig
from student.config import DistillConfig
from teacher.config import FinetuneConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_it_names_exists(page: Path) -> None:
    configs = (
        PrepareConfig,
        FinetuneConfig,
        DistillConfig,
        AddItemsConfig,
        ToIndexConfig,
        ToWebConfig,
        ServeConfig,
        LatencyConfig,
        BaselinesConfig,
        CatalogueConfig,
        ColdConfig,
        AccuracyConfig,
        ScoreConfig,
        PushConfig,
        ToExecutorchConfig,
    )
    flags = {
        "--" + field.name.replace("_", "-") for c in configs for field in dataclasses.fields(c)
    }
    flags |= {"--no-" + flag[2:] for flag in flags}
    others = {"--help", "--editable", "--no-deps"}  # pip's
    others |= {"--config_file", "--num_processes"}  # accelerate's
    others |= {"--ignore-scripts", "--logdir"}  # npm's, TensorBoard's
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text)) - others
    assert named <= flags, named - flags


def test_the_runner_that_is_shown_takes_part(
    write_sequences: Callable[[list[list[int]], int], SequenceDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (ROOT / "docs/measured.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(.*?)```", page, re.S)
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
