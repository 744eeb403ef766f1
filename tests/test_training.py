from pathlib import Path

from seqrec.batching import Batch, TrainingBatches
from seqrec.data import PAD, SequenceDataset
from seqrec.errors import SeqRecError
from seqrec.training import FitConfig, Progress, fit

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from student.model import Student, StudentConfig


class Killed(Exception):
    """Stands for a kill signal."""


def next_item_loss(student: Student, batch: Batch) -> Tensor:
    learn = batch.targets != PAD
    logits = student.logits(student.encode(batch.items)[learn])
    return nn.functional.cross_entropy(logits, batch.targets[learn] - 1)


def train(
    dataset: SequenceDataset,
    folder: Path,
    *,
    values: list[float] | None = None,
    kill_at: int | None = None,
    validated: bool = True,
    seed: int = 0,
    dropout: float = 0.2,
    **changes: float,
) -> tuple[Student, Progress]:
    """Train a small student; `values` are what validation says, `kill_at` when it is killed."""
    torch.manual_seed(0)
    student = Student(
        StudentConfig(
            arch="gru", num_items=dataset.num_items, hidden_dim=8, max_len=5, dropout=dropout
        )
    )
    calls = 0

    def validate(model: Student) -> float:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            raise Killed
        return values[calls - 1] if values else model.item_embedding.weight.abs().sum().item()

    config = FitConfig(**{"num_epochs": 4, "learning_rate": 0.01, "seed": seed, **changes})  # type: ignore[arg-type]
    progress = fit(
        student,
        next_item_loss,
        TrainingBatches(dataset, 5, 8, seed),
        validate if validated else None,
        config,
        accelerator=Accelerator(cpu=True),
        checkpoint_dir=folder,
        recipe={"seed": seed},
        label="test",
    )
    return student, progress


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_a_killed_and_resumed_run_ends_as_an_unbroken_one(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    unbroken, _ = train(tiny_dataset, tmp_path / "unbroken")
    with pytest.raises(Killed):
        train(tiny_dataset, tmp_path / "broken", kill_at=3)
    resumed, progress = train(tiny_dataset, tmp_path / "broken")
    assert progress.epoch == 4
    assert same_weights(unbroken, resumed)


def test_a_checkpoint_of_another_recipe_is_left_aside(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    fresh, _ = train(tiny_dataset, tmp_path / "fresh", seed=1)
    train(tiny_dataset, tmp_path / "shared", seed=0)
    after_other, _ = train(tiny_dataset, tmp_path / "shared", seed=1)
    assert same_weights(fresh, after_other)


def test_the_best_validation_is_kept_not_the_last(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    two_epochs, _ = train(tiny_dataset, tmp_path / "a", values=[0.1, 0.5, 0.4, 0.3])
    _, progress = train(tiny_dataset, tmp_path / "b", values=[0.1, 0.5, 0.4, 0.3])
    assert (progress.best_epoch, progress.best_value) == (2, 0.5)
    with pytest.raises(
        Killed
    ):  # the third validation comes after the weights of epoch 2 were stored
        train(tiny_dataset, tmp_path / "c", values=[0.1, 0.5], kill_at=3)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "c" / "best.safetensors")
    assert all(torch.equal(stored[name], p) for name, p in two_epochs.named_parameters())


def test_without_validation_the_last_weights_are_kept(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    # Where each validation is better than the one before, the best weights are the last as well.
    rising, _ = train(tiny_dataset, tmp_path / "a", values=[0.1, 0.2, 0.3, 0.4])
    last, progress = train(tiny_dataset, tmp_path / "b", validated=False)
    assert progress.epoch == 4
    assert same_weights(rising, last)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_in_parts_trains_as_the_whole_one(
    tiny_dataset: SequenceDataset, tmp_path: Path, parts: int
) -> None:
    whole, _ = train(tiny_dataset, tmp_path / "whole", dropout=0.0)
    cut, _ = train(tiny_dataset, tmp_path / "cut", dropout=0.0, gradient_accumulation=parts)
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_training_stops_when_patience_is_spent(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    _, progress = train(
        tiny_dataset, tmp_path, values=[0.3, 0.2, 0.1, 0.5, 0.6, 0.7], num_epochs=6, patience=2
    )
    assert progress.epoch == 3


def test_a_loss_that_is_not_finite_stops_with_the_step_and_advice(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    with pytest.raises(
        SeqRecError, match=r"loss became (nan|inf) at step \d+.*half the learning rate"
    ):
        train(tiny_dataset, tmp_path, learning_rate=1e30, max_grad_norm=1e30)
