"""What `--log-with` writes, read back by TensorBoard's own library."""

import dataclasses
from pathlib import Path

from seqrec import tracking
from seqrec.data import SequenceDataset
from seqrec.errors import SeqRecError
from seqrec.files import read_json
from seqrec.processes import start_accelerator

import pytest
import torch

from student.config import DistillConfig
from student.distilling import train_one
from student.model import Student
from student.training import train_student

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason='TensorBoard is not installed: pip install -e ".[track]"',
)


@pytest.fixture
def config(tiny_dataset: SequenceDataset) -> DistillConfig:
    return DistillConfig(
        data_dir=tiny_dataset.path,
        hidden_dim=8,
        max_len=8,
        num_epochs=6,
        evaluate_every=1,
        patience=0,
        batch_size=4,
        learning_rate=0.01,
        refit_share=0.5,
        num_negatives=0,
        keep_rest=True,
        device="cpu",
        log_with="tensorboard",
    )


def train(dataset: SequenceDataset, config: DistillConfig, folder: Path) -> Student:
    accelerator = start_accelerator("cpu", config.log_with, folder / tracking.LOGS)
    student = folder / "student"
    train_student("gru", config, dataset, None, student, accelerator, label="gru control")
    return Student.from_pretrained(student)


def events(folder: Path) -> dict[str, dict[int, float]]:
    """Return the values of a run by tag and step."""
    read = event_accumulator.EventAccumulator(str(folder))
    read.Reload()
    return {tag: {e.step: e.value for e in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


def test_tensorboard_reads_loss_learning_rate_and_validation(
    tiny_dataset: SequenceDataset, config: DistillConfig, tmp_path: Path
) -> None:
    train(tiny_dataset, config, tmp_path)
    runs = tmp_path / "logs"
    assert sorted(run.name for run in runs.iterdir()) == ["gru-control", "gru-control-refit"]
    followed = events(runs / "gru-control")
    assert set(followed) == {"loss", "learning_rate", "ndcg@10"}
    total = max(followed["ndcg@10"])  # the last validation is after the last step
    assert len(followed["ndcg@10"]) == config.num_epochs
    assert list(followed["loss"]) == list(range(10, total + 1, 10))
    best = read_json(tmp_path / "student/selection/config.json")["valid_metrics"]["ndcg@10"]
    assert max(followed["ndcg@10"].values()) == pytest.approx(best)
    rates = list(followed["learning_rate"].values())  # after the warm-up: a half cosine down to 0
    assert 0.0095 < rates[0] < 0.01
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.0003
    assert all(0 < loss < 10 for loss in followed["loss"].values())  # ln 30 = 3.4 by chance
    refit = events(runs / "gru-control-refit")
    assert set(refit) == {"loss", "learning_rate"}  # which has no validation


def test_a_tracker_changes_no_weight_and_without_one_nothing_is_written(
    tiny_dataset: SequenceDataset, config: DistillConfig, tmp_path: Path
) -> None:
    followed = train(tiny_dataset, config, tmp_path / "followed")
    alone = train(tiny_dataset, dataclasses.replace(config, log_with=None), tmp_path / "alone")
    for first, second in zip(followed.parameters(), alone.parameters(), strict=True):
        assert torch.equal(first, second)
    assert not (tmp_path / "alone/logs").exists()


def test_a_tracker_that_accelerate_does_not_know_is_refused_with_those_it_knows() -> None:
    with pytest.raises(SeqRecError, match=r"knows no such tracker.*tensorboard, wandb") as refused:
        start_accelerator("cpu", "tensorbord")
    assert "\n" not in str(refused.value)


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    config: DistillConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    wanted = dataclasses.replace(config, log_with="comet_ml", output_dir=tmp_path / "out")
    with pytest.raises(SeqRecError, match=r"--log-with comet_ml needs .* pip install comet-ml"):
        train_one("control", "gru", wanted, 1)
    assert not (tmp_path / "out").exists()
