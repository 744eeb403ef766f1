"""Students small enough to be trained in tests."""

from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.knowledge import Knowledge

import pytest
import torch
from accelerate import Accelerator

from student import training
from student.config import DistillConfig
from student.distilling import distil
from student.model import Arch, Student


@pytest.fixture
def config(tiny_dataset: SequenceDataset, tmp_path: Path) -> DistillConfig:
    return DistillConfig(
        data_dir=tiny_dataset.path,
        output_dir=tmp_path / "out",
        hidden_dim=8,
        max_len=8,
        num_epochs=1,
        evaluate_every=1,
        batch_size=16,
        refit_share=0.0,
        device="cpu",
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the label of every training."""
    labels: list[str] = []
    fit = training.fit

    def counting(*arguments: Any, **named: Any) -> Any:
        labels.append(named["label"])
        return fit(*arguments, **named)

    monkeypatch.setattr(training, "fit", counting)
    return labels


def train(
    arch: Arch, config: DistillConfig, dataset: SequenceDataset, knowledge: Knowledge | None
) -> Student:
    assert config.output_dir is not None
    role = "control" if knowledge is None else "distilled"
    folder = config.output_dir / "students" / arch / role
    return distil(arch, config, dataset, knowledge, folder, Accelerator(cpu=True))


def same_weights(first: Student, second: Student) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
