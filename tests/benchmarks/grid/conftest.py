"""A whole small grid: one data set, one architecture, two seeds."""

from pathlib import Path

from seqrec.data import SequenceDataset

import pytest

from benchmarks.accuracy import AccuracyConfig, run
from benchmarks.grid.workspace import Workspace
from benchmarks.report.files import load
from benchmarks.report.schema import AccuracyResults

VARIANTS_HERE = (
    *("popularity", "teacher", "control", "distilled", "distilled-int8"),
    *("distilled-before-refit", "control+teacher"),
)
STUDENT_FLAGS = (
    "--num-epochs 3 --evaluate-every 1 --hidden-dim 8 --batch-size 16 --max-len 8 --patience 0"
)


@pytest.fixture(scope="session")
def config(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory
) -> AccuracyConfig:
    teacher = f"--model {tiny_llm} --num-layers 1 --num-epochs 1 --item-dim 8 --max-len 6"
    return AccuracyConfig(
        data_dir=(tiny_dataset.path,),
        output_dir=tmp_path_factory.mktemp("accuracy"),
        seeds=(0, 1),
        arch="gru",
        variants=VARIANTS_HERE,
        student_flags=STUDENT_FLAGS,
        teacher_flags=teacher,
    )


@pytest.fixture(scope="session")
def grid(config: AccuracyConfig) -> AccuracyResults:
    """What a whole small grid wrote."""
    run(config, "python -m benchmarks.accuracy")
    return load(AccuracyResults, config.output_dir / "tiny" / "accuracy.json")


@pytest.fixture
def spaces(config: AccuracyConfig, grid: AccuracyResults) -> list[Workspace]:
    """Both replications, by seed."""
    (data_dir,), results = config.data_dir, config.output_dir / "tiny"
    return [Workspace.open(data_dir, results, seed, STUDENT_FLAGS, "cpu") for seed in config.seeds]


@pytest.fixture
def space(spaces: list[Workspace]) -> Workspace:
    return spaces[0]


@pytest.fixture
def elsewhere(tiny_dataset: SequenceDataset, tmp_path: Path) -> Workspace:
    """A folder where nothing is finished, without a teacher."""
    return Workspace.open(tiny_dataset.path, tmp_path, 0, STUDENT_FLAGS, "cpu")
