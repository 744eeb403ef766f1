"""What a fine-tuning is asked to do, and the teacher that does it."""

from dataclasses import dataclass

from seqrec.item_table import most_components

import torch
from torch import Tensor
from transformers import PreTrainedModel

from teacher.base import Bits
from teacher.model import Teacher, TeacherConfig
from teacher.shape import output_width


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the flags of a fine-tuning ask for; widths and counts."""

    model: str
    bits: Bits
    num_layers: int  # 0: all
    lora_rank: int
    lora_alpha: int
    item_dim: int
    max_len: int
    batch_size: int  # windows per step
    num_parts: int  # processes times parts of gradient accumulation: they share a step's windows
    num_epochs: int
    refit_share: float
    dropout: float
    gradient_checkpointing: bool

    @property
    def windows_at_once(self) -> int:
        """A part of a step, which memory suffices for: validation and answers take no more."""
        return -(-self.batch_size // self.num_parts)


def teacher_on(base: PreTrainedModel, num_items: int, untrained: Tensor, work: Work) -> Teacher:
    """Put a teacher's trainable parts on a language model; the items' text components are zero."""
    shape = TeacherConfig(
        model=work.model,
        model_fingerprint="",
        dataset_fingerprint="",
        bits=work.bits,
        num_layers=base.config.num_hidden_layers,
        num_items=num_items,
        item_dim=work.item_dim,
        max_len=work.max_len,
        lora_rank=work.lora_rank,
        lora_alpha=work.lora_alpha,
        dropout=work.dropout,
    )
    width = output_width(base)
    num_components = most_components(num_items, width)
    components = torch.zeros(num_items + 1, num_components, dtype=torch.float16)
    text_map = torch.zeros(width + 1, num_components)
    return Teacher(base, components, text_map, untrained, shape)
