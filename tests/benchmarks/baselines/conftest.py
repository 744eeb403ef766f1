"""A baseline whose worker needs no library, trained once, and served in whatever mode."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from seqrec.data import SequenceDataset

import pytest

from benchmarks.baselines import system
from benchmarks.baselines.libraries import Baseline, BaselinesConfig
from benchmarks.baselines.system import BaselineSystem
from benchmarks.baselines.training import ensure_trained

PYTHON = Path(sys.executable)
Train = Callable[..., Path]
Serve = Callable[[str], BaselineSystem]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    folder = tmp_path_factory.mktemp("baseline")
    (folder / "fake.txt").write_text("numpy\n")
    return Baseline(
        name="fake popularity",
        worker=Path(__file__).with_name("fake_worker.py"),
        requirements=folder / "fake.txt",
        settings=lambda _: {"does": "train", "patience": 3},
        modes={"honest": "fake popularity"},
        can_be_untrained=True,
    )


@pytest.fixture
def train(baseline: Baseline, tiny_dataset: SequenceDataset, tmp_path: Path) -> Train:
    """Train it in an empty directory, with the flags given, and return its folder."""

    def ensure(baseline: Baseline = baseline, **flags: object) -> Path:
        config = BaselinesConfig(output_dir=tmp_path, **flags)  # type: ignore[arg-type]
        return ensure_trained(baseline, PYTHON, tiny_dataset, config)

    return ensure


@pytest.fixture(scope="module")
def trained(
    baseline: Baseline, tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    config = BaselinesConfig(output_dir=tmp_path_factory.mktemp("run"))
    return ensure_trained(baseline, PYTHON, tiny_dataset, config)


@pytest.fixture
def serve(baseline: Baseline, trained: Path) -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(mode: str) -> BaselineSystem:
            served = replace(baseline, modes={mode: "fake"})
            runner = BaselineSystem(served, mode, PYTHON, trained, num_threads=1)
            return stack.enter_context(closing(runner))

        yield start


@pytest.fixture
def our_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every environment is the one that the tests run in."""
    monkeypatch.setattr(system, "ensure_environment", lambda _: PYTHON)
