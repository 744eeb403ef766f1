"""What a fine-tuning will take, before anything is loaded: `teacher/finetune.py --dry-run`.

The language model's configuration is enough (of a hub id nothing else is fetched). The teacher is
built from it of tensors that have shapes and no numbers (PyTorch's meta device), and its weights
are counted; a forward pass of a model of one layer, and of one of two, shows what autograd keeps
for the way back. What the second layer takes is what each further one will take.

Memory is what training has to hold at its peak. On a GPU the CUDA context (about half a gigabyte)
comes on top. On a CPU the libraries count, as this process holds them, and what a step keeps counts
twice: what is freed in between is too small for the next aligned block of the same size, so glibc's
heap grew by 590 MiB where 312 were alive at once.

Time is measured here and now, so on a busy machine it is that of a busy machine (`teacher.pace`).
"""

import contextlib
import copy
from dataclasses import dataclass
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.schedule import NUM_TEACHER_NEGATIVES
from seqrec.sources import MODEL_BUNDLES, fetch_model

import psutil
import torch
from tabulate import tabulate
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from teacher.check_folder import article, first_line, read_config, text_config
from teacher.config import Bits, FullFinetuneConfig
from teacher.model import Teacher, new_teacher
from teacher.pace import stage_seconds
from teacher.shape import num_positions, random_base, set_shape, shapes_alone

GIB = 2**30
# NF4 with double quantization (arXiv:2305.14314, section 3): half a byte, and for each block of 64
# weights a constant in 8 bit, of which 256 share one in fp32.
BYTES_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
HEAP_FACTOR = 2  # memory that a CPU's heap takes for what is alive at once, about


@dataclass(frozen=True)
class Plan:
    """Estimates for each process. Sizes in bytes, times in seconds."""

    num_layers: int
    num_weights: int  # all of the language model that is kept, adapter and head with it
    num_4bit: int
    num_trained: int
    frozen_bytes: int
    trained_bytes: int  # weights, gradients, two moments and the best weights so far
    text_bytes: int
    activation_bytes: int  # or what answering takes, if that is more
    library_bytes: int
    seconds: dict[str, float]  # of each stage

    @property
    def peak_bytes(self) -> int:
        """All of it at once."""
        weights = self.frozen_bytes + self.trained_bytes + self.text_bytes
        return weights + self.activation_bytes + self.library_bytes

    def table(self) -> str:
        """Return the plan as text."""
        sizes = {
            "frozen weights": self.frozen_bytes,
            "trained weights, gradients, optimizer": self.trained_bytes,
            "item texts' vectors": self.text_bytes,
            "activations": self.activation_bytes,
            "libraries": self.library_bytes,
            "memory of a process, together": self.peak_bytes,
        }
        times = self.seconds | {"time, together, about": sum(self.seconds.values())}
        rows = {
            "weights": f"{self.num_weights / 1e6:,.1f} M, {self.num_layers} layers",
            "  held in 4 bit": f"{self.num_4bit / 1e6:,.1f} M",
            "  trained": f"{self.num_trained / 1e6:,.2f} M",
            **{name: f"{size / GIB:.2f} GiB" for name, size in sizes.items()},
            **{name: f"{seconds / 60:,.1f} min" for name, seconds in times.items()},
        }
        return tabulate(rows.items(), tablefmt="plain", disable_numparse=True) + "\n"


def make_plan(
    dataset: SequenceDataset,
    flags: FullFinetuneConfig,
    device: torch.device,
    num_processes: int = 1,
) -> Plan:
    """Estimate what a fine-tuning takes.

    Args:
        dataset: what would be trained on.
        flags: what would be done.
        device: of this process; it is measured on.
        num_processes: they share each step's windows, and the time.

    Raises:
        ModelError: no teacher can be made of the language model, or it has fewer layers than asked
            for.
        SourceError: a bundle cannot be fetched.
    """
    on_cpu = device.type == "cpu"
    library_bytes = psutil.Process().memory_info().rss if on_cpu else 0
    config = config_of(flags.model, flags.bits)
    check_model(config, flags)
    num_layers = flags.num_layers or config.num_hidden_layers
    with shapes_alone():
        teacher = shape_of_teacher(config, num_layers, dataset.num_items, flags)
    trained = sum(p.numel() for p in teacher.parameters() if p.requires_grad)
    multiplied, others = count_frozen(teacher)
    full = {4: 4, 16: 2, 32: 4}[flags.bits]
    frozen_bytes = others * full + multiplied * (BYTES_4BIT if flags.bits == 4 else full)
    table, large = teacher.item_table.residual.weight.numel(), teacher.is_large
    num_windows = flags.windows_at_once(num_processes)
    kept = activation_bytes(config, num_layers, dataset.num_items, flags, num_windows)
    return Plan(
        num_layers=num_layers,
        num_weights=sum(p.numel() for p in teacher.parameters()),
        num_4bit=multiplied if flags.bits == 4 else 0,
        num_trained=trained,
        frozen_bytes=int(frozen_bytes),
        trained_bytes=4 * (5 * trained - table * large),  # a large table's gradient is sparse
        text_bytes=sum(b.nbytes for b in teacher.buffers()),
        # To answer, a large catalogue's vectors are all worked out: texts' part, and the sum.
        activation_bytes=max(kept * (HEAP_FACTOR if on_cpu else 1), 2 * 4 * table * large),
        library_bytes=library_bytes,
        seconds=stage_seconds(config, num_layers, dataset, flags, device, num_processes),
    )


def config_of(name: str, bits: Bits) -> PretrainedConfig:
    """Read the configuration of a language model's text part alone; `name` as in `resolve_model`.

    Raises:
        ModelError: it is of a kind that cannot be used.
        SourceError: a bundle cannot be fetched.
    """
    path = fetch_model(name) if name in MODEL_BUNDLES else Path(name)
    if path.is_file():
        return text_config(read_config(path.parent, gguf_file=path.name))
    if path.is_dir():
        return text_config(read_config(path, bits=bits))
    repository, _, revision = name.partition("@")
    return text_config(read_config(repository, bits=bits, revision=revision or "main"))


def check_model(config: PretrainedConfig, flags: FullFinetuneConfig) -> None:
    """Refuse a language model that cannot be a teacher, before any of its weights is loaded.

    Args:
        config: of its text part.
        flags: what shall be done with it.

    Raises:
        ModelError: it has fewer layers or positions than asked for, or takes no adapter.
    """
    set_shape(copy.deepcopy(config), flags.num_layers or None, causal=True, name=flags.model)
    base = None
    with shapes_alone():
        # Where it cannot be built without numbers, loading will tell.
        with contextlib.suppress(ModelError):
            base = random_base(config, 1, torch.float32)
        if base is not None:
            new_teacher(base, torch.zeros(2, dtype=torch.bool), flags)
    available = num_positions(config, base)
    if available is not None and flags.max_len > available:
        raise ModelError(
            f"{flags.model} has {available} positions, one for each item of a history; --max-len "
            f"{flags.max_len} asks for more. Type --max-len {available}"
        )


def shape_of_teacher(
    config: PretrainedConfig,
    num_layers: int,
    num_items: int,
    flags: FullFinetuneConfig,
    attention: str = "eager",
) -> Teacher:
    """Build the teacher inside `shapes_alone`, where it takes no memory."""
    # What is held in 4 bit passes fp32 from layer to layer, since all else is lifted to fp32.
    dtype = torch.bfloat16 if flags.bits == 16 else torch.float32
    base = random_base(config, num_layers, dtype, attn_implementation=attention)
    return new_teacher(base, torch.zeros(num_items + 1, dtype=torch.bool), flags).train()


def count_frozen(teacher: Teacher) -> tuple[int, int]:
    """Count the frozen weights: of linear layers, which may be held in 4 bit, and all others."""
    linear = {
        id(module.weight)
        for module in teacher.base.modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    frozen = [p for p in teacher.base.parameters() if not p.requires_grad]
    multiplied = sum(p.numel() for p in frozen if id(p) in linear)
    return multiplied, sum(p.numel() for p in frozen) - multiplied


def activation_bytes(
    config: PretrainedConfig,
    num_layers: int,
    num_items: int,
    flags: FullFinetuneConfig,
    num_windows: int,
) -> int:
    """Return what a part of a step keeps, `num_windows` at full length.

    Raises:
        ModelError: the model looks at numbers, as one does that chooses its experts by them.
    """

    def kept_by(num_layers: int) -> int:
        reason = ""
        # Some look at their mask's numbers before they take a fused kernel; others have none.
        for attention in ("sdpa", "eager"):
            try:
                with shapes_alone():
                    teacher = shape_of_teacher(config, num_layers, num_items, flags, attention)
                    return kept_for_backward(teacher, num_windows)
            except Exception as error:  # each kind of model has its way to ask for numbers
                reason = first_line(error)
        raise ModelError(
            f"what {article(config.model_type)} keeps in a step cannot be told from its shape "
            f"alone ({reason}): no plan of it. Train without --dry-run, with a small --batch-size "
            "at first"
        )

    one = kept_by(1)
    layer = kept_by(2) - one
    if not flags.gradient_checkpointing:
        return one + (num_layers - 1) * layer
    element = 2 if flags.bits == 16 else 4
    layer_input = num_windows * flags.max_len * config.hidden_size * element
    return (
        one + num_layers * layer_input
    )  # and one layer at a time, computed again, which is in `one`


def kept_for_backward(teacher: Teacher, num_windows: int) -> int:
    """Return the bytes that autograd keeps of a forward pass, weights not counted."""
    weights = {t.untyped_storage()._cdata for t in [*teacher.parameters(), *teacher.buffers()]}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            saved.setdefault(storage, tensor)  # held fast: a freed storage's number is used again
        return tensor

    items = torch.empty(num_windows, teacher.config.max_len, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states, targets = teacher.encode(items).flatten(0, 1), items.flatten()
        if teacher.is_large:
            negatives = torch.empty(NUM_TEACHER_NEGATIVES, dtype=torch.long)
            scores = teacher.sampled_scores(states, targets, negatives)  # (B * T, 1 + M)
        else:
            scores = teacher.scores(states)[:, 1:]  # (B * T, I)
        loss = nn.functional.cross_entropy(scores, targets)
    nbytes = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    del loss
    # Beside them the gradient of the log-probabilities, and that of the scores which is made of it.
    return nbytes + 2 * scores.nbytes
