"""The plan of a fine-tuning, weights against the teacher that is then built and run."""

from pathlib import Path
from typing import Any

from seqrec.batching import TrainingBatches
from seqrec.data import SequenceDataset
from seqrec.errors import ModelError

import pytest
import torch
from transformers import AutoConfig

from teacher.base import load_base, num_4bit_parameters
from teacher.config import Bits, FullFinetuneConfig
from teacher.model import Teacher, new_teacher, next_item_loss
from teacher.plan import BYTES_4BIT, activation_bytes, make_plan
from teacher.tuning import build_teacher
from tests.teacher.models import ModelFolder, flags_for

CPU = torch.device("cpu")


def make_flags(llm: Path, **changes: Any) -> FullFinetuneConfig:
    given = {"num_layers": 2, "item_dim": 16, "lora_rank": 4, "dropout": 0.0, "bits": 4}
    return flags_for(llm, **{**given, **changes})


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "electra", "gemma-3", "bloom"])
def test_the_weights_of_the_plan_are_those_of_the_teacher(
    tiny_dataset: SequenceDataset, model_folder: ModelFolder, name: str
) -> None:
    flags = make_flags(model_folder(name), num_layers=1)
    base = load_base(model_folder(name), bits=4, num_layers=1)
    teacher = new_teacher(base, torch.zeros(31, dtype=torch.bool), flags)
    planned = make_plan(tiny_dataset, flags, CPU)
    assert planned.num_weights == teacher.num_parameters
    assert planned.num_4bit == num_4bit_parameters(teacher)
    assert planned.num_trained == sum(p.numel() for p in teacher.parameters() if p.requires_grad)
    frozen = [p for p in teacher.parameters() if not p.requires_grad]
    in_4bit = sum(p.nbytes for p in frozen) + int((BYTES_4BIT - 0.5) * planned.num_4bit)
    # On a processor with bf16, bitsandbytes holds the biases of 4-bit layers in that, not in fp32.
    biases = sum(p.numel() for p in frozen if p.dtype == torch.bfloat16)
    assert planned.frozen_bytes == in_4bit + 2 * biases
    assert all(seconds > 0 for seconds in planned.seconds.values())


def saved_bytes(teacher: Teacher, num_windows: int) -> int:
    """Count what autograd keeps of a real forward pass, weights not counted."""
    weights = {t.untyped_storage().data_ptr() for t in [*teacher.parameters(), *teacher.buffers()]}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    items = torch.randint(1, 30, (num_windows, 8))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = teacher.train().scores(teacher.encode(items).flatten(0, 1))
        loss = torch.nn.functional.cross_entropy(scores[:, 1:], items.flatten() - 1)
    loss.backward()
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) + 2 * scores.nbytes


@pytest.mark.parametrize("bits", [32, 16])
def test_the_activations_of_the_plan_are_those_of_a_step(
    tiny_dataset: SequenceDataset, tiny_llm: Path, bits: Bits
) -> None:
    flags = make_flags(tiny_llm, bits=bits, num_layers=3)
    teacher = build_teacher(flags, tiny_dataset, CPU)
    planned = activation_bytes(AutoConfig.from_pretrained(tiny_llm), 3, 30, flags, 4)
    real = saved_bytes(teacher, 4)
    # Without numbers attention takes no fused kernel, and keeps its matrix of probabilities.
    assert real <= planned <= 1.12 * real


def test_what_a_step_keeps_grows_with_the_catalogue_until_it_is_sampled(tiny_llm: Path) -> None:
    config, flags = AutoConfig.from_pretrained(tiny_llm), make_flags(tiny_llm)
    sizes = (20_000, 40_000, 1_000_000, 2_000_000)
    small, twice, large, larger = (activation_bytes(config, 2, size, flags, 4) for size in sizes)
    assert twice > 1.9 * small
    assert large == larger < twice


def test_parts_and_checkpoints_take_less_memory(
    tiny_dataset: SequenceDataset, tiny_llm: Path
) -> None:
    def size(num_processes: int = 1, **changes: Any) -> int:
        flags = make_flags(tiny_llm, num_layers=3, **changes)
        return make_plan(tiny_dataset, flags, CPU, num_processes).activation_bytes

    assert size(gradient_accumulation=2) == size(2) == pytest.approx(size() / 2, rel=0.1)
    assert size(gradient_checkpointing=True) < size()


def test_a_plan_loads_no_weight(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((tiny_llm / "config.json").read_text())
    assert "held in 4 bit" in make_plan(tiny_dataset, make_flags(tmp_path), CPU).table()


@pytest.mark.slow
def test_a_model_that_looks_at_numbers_has_no_plan(
    tiny_dataset: SequenceDataset, model_folder: ModelFolder
) -> None:
    flags = make_flags(model_folder("mixtral"))
    with pytest.raises(ModelError, match=r"cannot be told from its shape alone.*without --dry-run"):
        make_plan(tiny_dataset, flags, CPU)


@pytest.mark.parametrize("bits", [4, 32])
def test_checkpoints_change_no_gradient(
    tiny_dataset: SequenceDataset, tiny_llm: Path, bits: Bits
) -> None:
    def gradients(gradient_checkpointing: bool) -> dict[str, torch.Tensor]:
        flags = make_flags(
            tiny_llm, bits=bits, dropout=0.1, gradient_checkpointing=gradient_checkpointing
        )
        teacher = build_teacher(flags, tiny_dataset, CPU).train()
        (batch, *_) = TrainingBatches(tiny_dataset, 8, 4, seed=0).epoch(0)[1]
        torch.manual_seed(0)
        next_item_loss(teacher, batch).backward()
        assert teacher.base.is_gradient_checkpointing == gradient_checkpointing
        return {name: p.grad for name, p in teacher.named_parameters() if p.grad is not None}

    without, with_checkpoints = gradients(False), gradients(True)
    assert without.keys() == with_checkpoints.keys()
    for name, gradient in without.items():
        torch.testing.assert_close(with_checkpoints[name], gradient, msg=name)
