"""`benchmarks.baselines` and `benchmarks.catalogue` with baselines that work and that fail."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqrec.errors import ModelError, SourceError

import numpy as np
import pytest
import torch

from benchmarks import catalogue
from benchmarks.baselines import __main__ as command
from benchmarks.baselines import system
from benchmarks.baselines.libraries import Baseline, BaselinesConfig
from benchmarks.report.files import load
from benchmarks.report.schema import CatalogueResults, LatencyResults
from tests.benchmarks.baselines.conftest import PYTHON

pytestmark = pytest.mark.slow

Quick = Callable[[Path], list[str]]


def failing(does: str) -> dict[str, Any]:
    return {"settings": lambda _: {"does": does, "patience": 3}}


@pytest.fixture
def folder(untouched_students: Path, tmp_path: Path) -> Path:
    """An output directory with a student and its control, and no teacher."""
    return Path(shutil.copytree(untouched_students, tmp_path / "run"))


@pytest.mark.usefixtures("our_python")
def test_the_device_of_trainings_reaches_the_workers(
    folder: Path, baseline: Baseline, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choice and final training alike, and the GPU is not hidden from them."""
    monkeypatch.setattr(command, "BASELINES", (baseline,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    command.main([*quick(folder), "--no-teacher", "--train-device", "cuda"])
    (devices,) = (folder / "baselines").glob("*/devices.txt")
    assert devices.read_text().splitlines() == ["cuda 7", "cuda 7"]


def test_baselines_stand_in_the_same_table_and_those_that_fail_say_why(
    folder: Path,
    baseline: Baseline,
    quick: Quick,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = replace(
        baseline, name="missing", modes={"honest": "missing"}, requirements=Path("gone")
    )
    untrained = replace(baseline, name="untrained", modes={"": "untrained"}, **failing("fail"))
    modes = {"honest": "fake", "nan": "fake liar", "refuse": "fake refuser"}

    def ensure(requirements: Path) -> Path:
        if requirements.name == "gone":
            raise SourceError("gone could not be installed\n(pip: no network)")
        return PYTHON

    monkeypatch.setattr(system, "ensure_environment", ensure)
    chosen = (replace(baseline, modes=modes), missing, untrained)
    monkeypatch.setattr(command, "BASELINES", chosen)
    command.main([*quick(folder), "--no-teacher"])
    results = load(LatencyResults, folder / "benchmark.json")
    rows = {row.label: row for row in results.rows}
    assert list(rows)[:2] == ["popularity", "gru control fp32"]
    assert list(rows)[-1] == "fake fp32"
    fake = rows["fake fp32"]
    assert fake.metrics == rows["popularity"].metrics
    assert (fake.family, fake.is_untaught) == ("baseline", True)
    assert fake.latency_ms.p50 > 0
    assert fake.library_versions == {"numpy": np.__version__}
    assert fake.training is not None
    assert fake.training.num_epochs == 2
    reasons = {failure.system: failure.reason for failure in results.failed}
    assert list(reasons) == ["fake refuser", "missing", "untrained", "fake liar"]
    assert "this mode needs another processor" in reasons["fake refuser"]
    assert reasons["missing"] == "gone could not be installed (pip: no network)"
    assert "exit code 1: RuntimeError: no gradient today" in reasons["untrained"]
    assert "NaN" in reasons["fake liar"]
    ours = rows["gru distilled int8"]
    assert ours.gain_over_baselines is not None
    (gain,) = ours.gain_over_baselines.values()
    difference = ours.metrics["ndcg@10"] - fake.metrics["ndcg@10"]
    assert gain.mean == pytest.approx(difference)
    assert gain.low <= gain.mean <= gain.high
    table = capsys.readouterr().out.splitlines()
    said = f"gru distilled int8 over fake: NDCG@10 {difference:+.4f} ["
    assert any(line.startswith(said) for line in table)
    for name, reason in reasons.items():
        assert f"{name} failed: {reason}" in table
    assert (folder / "benchmark.png").is_file()


@pytest.mark.usefixtures("our_python")
def test_untrained_baselines_are_timed_over_catalogue_sizes(
    baseline: Baseline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = (
        replace(baseline, modes={"answer slowly": "fake", "refuse": "broken"}),
        replace(baseline, name="eventful", can_be_untrained=False, modes={"": "eventful"}),
    )
    monkeypatch.setattr(catalogue, "BASELINES", chosen)
    quick = ["--num-calls", "10", "--budget-s", "0.2", "--output-dir", str(tmp_path)]
    catalogue.main(["--num-items", "300", "--baselines", *quick])
    results = load(CatalogueResults, tmp_path / "catalogue.json")
    row = results.rows[-1]
    assert (row.num_items, row.system, row.family) == (300, "fake", "baseline")
    assert row.latency_ms.p50 > 30  # by its own clock
    assert (row.idle_call_ms, row.profile) == (None, ())
    (failure,) = results.failed
    assert (failure.num_items, failure.system) == (300, "broken")
    assert "RuntimeError: this mode needs another processor" in failure.reason
    assert f"broken, 300 items, failed: {failure.reason}" in capsys.readouterr().out


def test_a_baseline_that_is_none_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="--names 'sasrec' is none of 'implicit item-knn', "):
        BaselinesConfig(names=("sasrec",))
    with pytest.raises(ValueError, match="--minutes -1 is below 0"):
        BaselinesConfig(minutes=-1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_to_train_on_is_refused_in_words(tmp_path: Path, quick: Quick) -> None:
    message = "--train-device cuda: PyTorch finds no GPU here. Use --train-device cpu"
    with pytest.raises(ModelError, match=message):
        command.main([*quick(tmp_path), "--train-device", "cuda"])
