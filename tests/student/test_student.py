import dataclasses
from pathlib import Path

from seqrec.errors import ModelError
from seqrec.files import read_json, write_json
from seqrec.histories import PAD

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import layer_norm

from student.model import Arch, Dropout, Student, StudentConfig

ARCHS: tuple[Arch, ...] = ("gru", "transformer")
NUM_ITEMS = 17


def make_student(arch: Arch, **changes: int) -> Student:
    """Make a student with weights large enough that every one of them matters."""
    torch.manual_seed(0)
    shape = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "max_len": 8, **changes}
    student = Student(StudentConfig(arch=arch, num_items=NUM_ITEMS, **shape)).eval()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name != "item_embedding.weight":
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return student


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_scores_do_not_depend_on_padding_or_on_others_in_the_batch(
    arch: Arch, num_layers: int
) -> None:
    student = make_student(arch, num_layers=num_layers)
    histories = [[3, 1, 4], [5], [9, 2, 6, 5, 3, 5, 8, 7]]
    batch = torch.tensor([[PAD] * (8 - len(h)) + h for h in histories])
    together = student(batch)
    for row, history in enumerate(histories):
        alone = student(torch.tensor([history]))
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_state_after_an_item_is_what_a_history_ending_there_gives(arch: Arch) -> None:
    student = make_student(arch)
    items = torch.tensor([[3, 1, 4, 1, 5, 9]])
    states = student.encode(items)
    for end in range(1, 7):
        torch.testing.assert_close(
            student.scores(states[:, end - 1]), student(items[:, :end]), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("arch", ARCHS)
def test_the_order_of_the_history_matters(arch: Arch) -> None:
    student = make_student(arch)
    forward, backward = student(torch.tensor([[3, 1, 4]])), student(torch.tensor([[1, 3, 4]]))
    assert not torch.allclose(forward, backward, atol=1e-3)


@pytest.mark.parametrize("num_heads", [1, 2])
def test_an_untrained_student_answers_with_a_decaying_mean_of_the_history(num_heads: int) -> None:
    def untrained(arch: Arch) -> tuple[Student, torch.Tensor]:
        shape = {"hidden_dim": 4, "num_heads": num_heads, "max_len": 3}
        student = Student(StudentConfig(arch=arch, num_items=2, **shape)).eval()
        rows = torch.tensor([[0.0, 0, 0, 0], [1, -1, 0, 0], [0, 0, 3, 1]])
        student.item_embedding.weight.data = rows
        return student, rows

    items = torch.tensor([[1, 1, 2]])  # the oldest first
    student, rows = untrained("gru")
    first, second = torch.tanh(2 * rows[1]), torch.tanh(2 * rows[2])  # inputs times sqrt(4)
    mean = (0.125 + 0.25) * first + 0.5 * second
    torch.testing.assert_close(student.encode(items)[0, -1], layer_norm(mean, (4,)))

    student, rows = untrained("transformer")
    weights = torch.tensor([-1.0, -0.5, 0.0]).softmax(dim=0)  # e^-0.5 of the next newer one
    mean = (weights[:2].sum() * layer_norm(rows[1], (4,))) + weights[2] * layer_norm(rows[2], (4,))
    torch.testing.assert_close(student.encode(items)[0, -1], layer_norm(rows[2] + mean, (4,)))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_student_comes_back_from_disk_as_it_was(arch: Arch, tmp_path: Path) -> None:
    student = make_student(arch)
    student.save_pretrained(tmp_path, role="control")
    again = Student.from_pretrained(tmp_path)
    items = torch.tensor([[1, 2, 3]])
    assert dataclasses.asdict(again.config) == dataclasses.asdict(student.config)
    assert torch.equal(again(items), student(items))


def test_a_folder_without_a_student_is_refused_with_the_command_that_trains_one(
    tmp_path: Path,
) -> None:
    with pytest.raises(ModelError, match=r"Train one: python -m student.distill"):
        Student.from_pretrained(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    make_student("gru").save_pretrained(tmp_path / "a")
    make_student("gru", hidden_dim=8).save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(ModelError, match="no usable student"):
        Student.from_pretrained(tmp_path / "a")


def test_weights_of_another_student_of_the_same_shape_are_refused(tmp_path: Path) -> None:
    make_student("gru").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(ModelError, match=r"model\.safetensors is not the file that was written"):
        Student.from_pretrained(tmp_path)


# Dropout.


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.75])
def test_dropout_zeroes_its_share_and_keeps_the_mean(probability: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(probability)(torch.ones(1001, 200))
    assert (dropped == 0).float().mean().item() == pytest.approx(probability, abs=0.005)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert len(dropped.unique()) == 2
    # Neighbours, which are decided by the same draw of 64 bits, are dropped independently.
    both = ((dropped[:, ::2] == 0) & (dropped[:, 1::2] == 0)).float().mean().item()
    assert both == pytest.approx(probability**2, abs=0.005)


def test_dropout_stops_the_gradient_of_what_it_zeroes_and_scales_the_other() -> None:
    torch.manual_seed(0)
    values = torch.ones(50, requires_grad=True)
    dropped = Dropout(0.25)(values)
    dropped.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, dropped.detach())
    assert sorted(set(values.grad.tolist())) == pytest.approx([0, 4 / 3])


def test_dropout_is_reproducible_and_off_in_evaluation() -> None:
    module, values = Dropout(0.5), torch.randn(30)
    torch.manual_seed(3)
    first = module(values)
    torch.manual_seed(3)
    assert torch.equal(module(values), first)
    assert torch.equal(module.eval()(values), values)


@pytest.mark.parametrize(
    "values",
    [
        {"num_layers": True},
        {"num_heads": 0},
        {"max_len": -1},
        {"num_items": 1.5},
        {"dropout": float("inf")},
        {"hidden_dim": 2**63},
    ],
)
def test_a_shape_that_cannot_be_is_refused_before_memory_is_taken(
    tmp_path: Path, values: dict[str, object]
) -> None:
    Student(StudentConfig(arch="gru", num_items=9, hidden_dim=8)).save_pretrained(tmp_path)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**config, **values})
    with pytest.raises(ModelError, match="no usable student"):
        Student.from_pretrained(tmp_path)
