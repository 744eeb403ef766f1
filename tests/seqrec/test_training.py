import sys
from pathlib import Path

from seqrec import schedule
from seqrec.batching import Batch, TrainingBatches
from seqrec.data import SequenceDataset
from seqrec.errors import SeqRecError
from seqrec.histories import PAD
from seqrec.training import (
    FitConfig,
    Progress,
    RowwiseAdamW,
    clip_gradients,
    draw_different,
    fit,
)

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from student.losses import soft_cross_entropy
from student.model import Student, StudentConfig


class Killed(Exception):
    """Stands for a kill signal."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # so that sums are added up in the same order


def next_item_loss(student: Student, batch: Batch) -> Tensor:
    learn = batch.targets != PAD
    states, targets = student.encode(batch.items)[learn], batch.targets[learn]
    if student.item_embedding.sparse:
        every = torch.arange(student.config.num_items + 1)
        weights, rows = torch.ones(len(targets), 1), student.item_embedding(every)
        return soft_cross_entropy(states, rows, targets[:, None], weights, every[1:])
    logits = student.scores(states)[:, 1:]
    return nn.functional.cross_entropy(logits, targets - 1)


def train(
    dataset: SequenceDataset,
    folder: Path,
    *,
    values: list[float] | None = None,
    kill_at: int | None = None,
    validated: bool = True,
    sparse: bool = False,
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
    student.item_embedding.sparse = sparse
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


@pytest.mark.parametrize("sparse", [False, True])
def test_a_killed_and_resumed_run_ends_as_an_unbroken_one(
    tiny_dataset: SequenceDataset, tmp_path: Path, sparse: bool
) -> None:
    unbroken, _ = train(tiny_dataset, tmp_path / "unbroken", sparse=sparse)
    with pytest.raises(Killed):
        train(tiny_dataset, tmp_path / "broken", kill_at=3, sparse=sparse)
    resumed, progress = train(tiny_dataset, tmp_path / "broken", sparse=sparse)
    assert progress.epoch == 4
    assert same_weights(unbroken, resumed)


def test_a_checkpoint_of_another_recipe_is_left_aside(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    fresh, _ = train(tiny_dataset, tmp_path / "fresh", seed=1)
    train(tiny_dataset, tmp_path / "shared", seed=0)
    after_other, _ = train(tiny_dataset, tmp_path / "shared", seed=1)
    assert same_weights(fresh, after_other)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("progress.json", b'{"epoch": 2'),
        ("progress.json", b"[]"),
        ("optimizer.safetensors", b"cut"),
    ],
)
def test_a_damaged_checkpoint_is_said_and_left_aside(
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    content: bytes,
) -> None:
    whole, _ = train(tiny_dataset, tmp_path / "whole")
    with pytest.raises(Killed):
        train(tiny_dataset, tmp_path / "damaged", kill_at=3)
    (tmp_path / "damaged" / name).write_bytes(content)
    anew, _ = train(tiny_dataset, tmp_path / "damaged")
    assert same_weights(whole, anew)
    assert "is damaged" in caplog.text


def test_the_best_validation_is_kept_not_the_last(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    kept, progress = train(tiny_dataset, tmp_path / "a", values=[0.1, 0.5, 0.4, 0.3])
    assert (progress.best_epoch, progress.best_value) == (2, 0.5)
    # The third validation comes after the weights of epoch 2 were stored.
    with pytest.raises(Killed):
        train(tiny_dataset, tmp_path / "b", values=[0.1, 0.5], kill_at=3)
    stored = load_file(tmp_path / "b" / "best.safetensors")
    assert all(torch.equal(stored[name], p) for name, p in kept.named_parameters())


def test_without_validation_the_last_weights_are_kept(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
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
    said = r"loss became (nan|inf) at step \d+.*half the learning rate"
    with pytest.raises(SeqRecError, match=said):
        train(tiny_dataset, tmp_path, learning_rate=1e30)


# --- Large catalogues ---------------------------------------------------------------------------

ROWS = torch.tensor([[1, 4, 1], [7, 4, 0], [2, 2, 9], [1, 7, 4]])  # what each step looks at


def train_table(
    optimizer_class: type[torch.optim.Optimizer], *, sparse: bool, **options: float
) -> Tensor:
    """Train a table of ten rows for four steps, and return it."""
    torch.manual_seed(0)
    table = nn.Embedding(10, 3, sparse=sparse)
    optimizer = optimizer_class(table.parameters(), lr=0.1, **options)  # type: ignore[call-arg]
    for rows in ROWS:
        optimizer.zero_grad()
        (table(rows) ** 3).sum().backward()
        optimizer.step()
    return table.weight.detach()


def test_rows_with_a_gradient_move_as_torchs_sparse_adam_moves_them_and_others_stay() -> None:
    ours = train_table(RowwiseAdamW, sparse=True, weight_decay=0.0)
    torch.testing.assert_close(ours, train_table(torch.optim.SparseAdam, sparse=True))
    torch.manual_seed(0)
    start = nn.Embedding(10, 3).weight.detach()
    trained, untouched = train_table(RowwiseAdamW, sparse=True, weight_decay=0.1), [3, 5, 6, 8]
    assert torch.equal(trained[untouched], start[untouched])  # no weight decays there


def test_where_every_row_has_a_gradient_it_is_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROWS", torch.arange(10).repeat(4, 2))
    ours = train_table(RowwiseAdamW, sparse=True, weight_decay=0.1)
    torch.testing.assert_close(ours, train_table(torch.optim.AdamW, sparse=False, weight_decay=0.1))


def test_dense_gradients_are_left_to_adamw() -> None:
    ours = train_table(RowwiseAdamW, sparse=False, weight_decay=0.1)
    assert torch.equal(ours, train_table(torch.optim.AdamW, sparse=False, weight_decay=0.1))


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_sparse_gradients_are_clipped_as_dense_ones_are(max_norm: float) -> None:
    def clipped(*, sparse: bool) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        table, other = nn.Embedding(10, 3, sparse=sparse), nn.Linear(3, 1)
        other(table(ROWS).tanh()).sum().backward()
        parameters = [*table.parameters(), *other.parameters()]
        if sparse:
            clip_gradients(parameters, max_norm)
        else:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        assert table.weight.grad is not None
        assert other.weight.grad is not None
        return table.weight.grad.to_dense(), other.weight.grad

    for ours, theirs in zip(clipped(sparse=True), clipped(sparse=False), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("num_large", [5, 1000])
def test_draws_are_different_and_take_each_item_equally_often(
    monkeypatch: pytest.MonkeyPatch, num_large: int
) -> None:
    monkeypatch.setattr(schedule, "LARGE_CATALOGUE", num_large)
    torch.manual_seed(0)
    draws = [draw_different(60, 20) for _ in range(900)]
    assert all(len(set(draw.tolist())) == 20 for draw in draws)
    counts = np.bincount(np.concatenate(draws), minlength=60)
    assert len(counts) == 60
    # Binomial, 900 draws of 1/3: the deviation is 14, and 60 counts stay within five of them.
    assert np.abs(counts - 300).max() < 5 * (900 * 2 / 9) ** 0.5
    torch.manual_seed(0)
    assert draw_different(60, 20).tolist() == draws[0].tolist()
