"""A baseline whose worker needs no library, trained once, and served in whatever mode."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from seqrec.data import SequenceDataset

import pytest

from benchmarks.baselines.libraries import Baseline
from benchmarks.baselines.system import BaselineSystem
from benchmarks.baselines.training import ensure_trained
from tests.benchmarks.baselines.settings import FLAGS, PYTHON, Serve, settings


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    folder = tmp_path_factory.mktemp("baseline")
    (folder / "fake.txt").write_text("numpy\n")
    return Baseline(
        name="fake popularity",
        worker=Path(__file__).with_name("fake_worker.py"),
        requirements=folder / "fake.txt",
        settings=settings("train"),
        modes={"honest": "fake popularity"},
        can_be_untrained=True,
    )


@pytest.fixture(scope="module")
def trained(
    baseline: Baseline, tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output_dir = tmp_path_factory.mktemp("run")
    return ensure_trained(baseline, PYTHON, tiny_dataset, output_dir, FLAGS)


@pytest.fixture
def serve(baseline: Baseline, trained: Path) -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(mode: str) -> BaselineSystem:
            runner = BaselineSystem(
                replace(baseline, modes={mode: "fake"}), mode, PYTHON, trained, num_threads=1
            )
            stack.callback(runner.close)
            return runner

        yield start
