"""What the benchmark's tests share: students that were trained for nobody, and a run of them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from seqrec.data import SequenceDataset

import pytest
import torch

from benchmarks import latency
from benchmarks.measure import speed
from benchmarks.report.files import load
from benchmarks.report.schema import LatencyResults
from student.model import Student, StudentConfig


@pytest.fixture(scope="session", autouse=True)
def short_measurements() -> Iterator[None]:
    """Start each system in one new process instead of three, and time few batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "NUM_STARTS", 1)
        patch.setattr(speed, "THROUGHPUT_S", 0.02)
        yield


@pytest.fixture(scope="session")
def untouched_students(
    tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An output directory with a GRU, as `student.distill` leaves it, and no teacher."""
    folder = tmp_path_factory.mktemp("students")
    shape = StudentConfig(arch="gru", num_items=tiny_dataset.num_items, hidden_dim=8, max_len=7)
    for seed, role in enumerate(("control", "distilled")):
        torch.manual_seed(seed)
        fields = {"role": role, "dataset_fingerprint": tiny_dataset.fingerprint}
        Student(shape).save_pretrained(folder / "students" / "gru" / role, **fields)
    return folder


@pytest.fixture(scope="session")
def quick(tiny_dataset: SequenceDataset) -> Callable[[Path], list[str]]:
    """Return what makes the flags of a quick run in an output directory."""
    data = ["--data-dir", str(tiny_dataset.path), "--num-calls", "20", "--budget-s", "0.1"]
    return lambda folder: [*data, "--output-dir", str(folder)]


@pytest.fixture(scope="session")
def run_folder(
    untouched_students: Path,
    quick: Callable[[Path], list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The output directory of a whole run of `benchmarks.latency`, without a teacher."""
    folder = tmp_path_factory.mktemp("run") / "run"
    shutil.copytree(untouched_students, folder)
    latency.main([*quick(folder), "--no-teacher", "--sweeps"])
    return folder


@pytest.fixture(scope="session")
def results(run_folder: Path) -> LatencyResults:
    """What that run wrote."""
    return load(LatencyResults, run_folder / "benchmark.json")
