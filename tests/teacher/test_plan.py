"""The plan of a fine-tuning, held against the teacher that is then built and run."""

import dataclasses
from pathlib import Path

from seqrec.batching import TrainingBatches
from seqrec.data import SequenceDataset
from seqrec.errors import ModelError

import pytest
import torch
from transformers import AutoConfig

from teacher.base import Bits
from teacher.config import FinetuneConfig
from teacher.model import Teacher, next_item_loss
from teacher.plan import BYTES_4BIT, Work, activation_bytes, make_plan
from teacher.tuning import build_teacher, work_of

CPU = torch.device("cpu")


def make_config(llm: Path, **changes: object) -> FinetuneConfig:
    given = {"num_layers": 2, "max_len": 8, "item_dim": 16, "lora_rank": 4, "dropout": 0.0}
    return FinetuneConfig(model=str(llm), **{**given, **changes})  # type: ignore[arg-type]


def make_work(config: FinetuneConfig, **changes: object) -> Work:
    config = dataclasses.replace(config, batch_size=4, num_epochs=2)
    return dataclasses.replace(work_of(config, 1), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["llm", "bert"])
def test_the_weights_of_the_plan_are_those_of_the_teacher(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tiny_bert: Path, kind: str
) -> None:
    config = make_config(tiny_llm if kind == "llm" else tiny_bert)
    teacher = build_teacher(config, tiny_dataset, CPU)
    planned = make_plan(tiny_dataset, make_work(config), CPU)
    assert planned.num_weights == teacher.num_parameters
    assert planned.num_trained == sum(p.numel() for p in teacher.parameters() if p.requires_grad)
    frozen = [p for p in teacher.parameters() if not p.requires_grad]
    stored = sum(p.numel() * p.element_size() for p in frozen)
    in_4bit = stored + int((BYTES_4BIT - 0.5) * planned.num_4bit)
    # On a processor with bf16, bitsandbytes holds the biases of 4-bit layers in that, not in fp32.
    biases = sum(p.numel() for p in frozen if p.dtype == torch.bfloat16)
    assert planned.frozen_bytes == in_4bit + 2 * biases
    assert all(seconds > 0 for seconds in planned.seconds.values())


def saved_bytes(teacher: Teacher, num_windows: int) -> int:
    """Count what autograd keeps of a real forward pass, weights not counted."""
    held = {t.untyped_storage().data_ptr() for t in [*teacher.parameters(), *teacher.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in held:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    items = torch.randint(1, 30, (num_windows, 8))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = teacher.train().scores(teacher.encode(items).flatten(0, 1))
        loss = torch.nn.functional.cross_entropy(scores[:, 1:], items.flatten() - 1)
    loss.backward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) + 2 * scores.nbytes


@pytest.mark.parametrize("bits", [32, 16])
def test_the_activations_of_the_plan_are_those_of_a_step(
    tiny_dataset: SequenceDataset, tiny_llm: Path, bits: Bits
) -> None:
    config = make_config(tiny_llm, bits=bits, num_layers=3)
    teacher = build_teacher(config, tiny_dataset, CPU)
    planned = activation_bytes(AutoConfig.from_pretrained(tiny_llm), 3, 30, make_work(config))
    real = saved_bytes(teacher, 4)
    # Without numbers attention takes no fused kernel, and keeps its matrix of probabilities.
    assert real <= planned <= 1.12 * real


def test_what_a_step_keeps_grows_with_the_catalogue_until_it_is_sampled(tiny_llm: Path) -> None:
    config, work = AutoConfig.from_pretrained(tiny_llm), make_work(make_config(tiny_llm))
    sizes = (20_000, 40_000, 1_000_000, 2_000_000)
    small, twice, large, larger = (activation_bytes(config, 2, size, work) for size in sizes)
    assert twice > 1.9 * small
    assert large == larger < twice


def test_parts_and_checkpoints_take_less_memory(tiny_llm: Path) -> None:
    work = make_work(make_config(tiny_llm))

    def size(**changes: object) -> int:
        config = AutoConfig.from_pretrained(tiny_llm)
        return activation_bytes(config, 3, 30, dataclasses.replace(work, **changes))  # type: ignore[arg-type]

    assert size(num_parts=2) == pytest.approx(size() / 2, rel=0.1)
    assert size(gradient_checkpointing=True) < size()


def test_a_plan_loads_no_weight(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((tiny_llm / "config.json").read_text())
    config = make_config(tmp_path)
    assert "held in 4 bit" in make_plan(tiny_dataset, make_work(config), CPU).table()


def test_a_plan_with_more_layers_than_there_are_is_refused(
    tiny_dataset: SequenceDataset, tiny_llm: Path
) -> None:
    with pytest.raises(ModelError, match="has 3 layers, --num-layers 7"):
        make_plan(tiny_dataset, make_work(make_config(tiny_llm, num_layers=7)), CPU)


@pytest.mark.parametrize("bits", [4, 32])
def test_checkpoints_change_no_gradient(
    tiny_dataset: SequenceDataset, tiny_llm: Path, bits: Bits
) -> None:
    def gradients(gradient_checkpointing: bool) -> dict[str, torch.Tensor]:
        config = make_config(
            tiny_llm, bits=bits, dropout=0.1, gradient_checkpointing=gradient_checkpointing
        )
        teacher = build_teacher(config, tiny_dataset, CPU).train()
        (batch, *_) = TrainingBatches(tiny_dataset, 8, 4, seed=0).epoch(0)[1]
        torch.manual_seed(0)
        next_item_loss(teacher, batch).backward()
        assert teacher.base.is_gradient_checkpointing == gradient_checkpointing
        return {name: p.grad for name, p in teacher.named_parameters() if p.grad is not None}

    without, with_checkpoints = gradients(False), gradients(True)
    assert without.keys() == with_checkpoints.keys()
    for name, gradient in without.items():
        torch.testing.assert_close(with_checkpoints[name], gradient, msg=name)
