"""What a fine-tuning will take, before anything is loaded: `teacher/finetune.py --dry-run`.

The language model's configuration is enough (of a hub id nothing else is fetched). The teacher is
built from it of tensors that have shapes and no numbers (PyTorch's meta device), and its weights
are counted; a forward pass of a model of one layer, and of one of two, shows what autograd keeps
for the way back.

Memory is what training has to hold at its peak. On a GPU the CUDA context (about half a gigabyte)
comes on top. On a CPU the libraries count, as this process holds them, and what a step keeps counts
twice: what is freed in between is too small for the next aligned block of the same size, so glibc's
heap grew by 590 MiB where 312 were alive at once.

Time is measured here and now, so on a busy machine it is that of a busy machine: teachers of one
layer and of two, of this model's shape and random weights, learn one batch of the data and answer
it. What the second layer took is what each further one will take. The optimizer is not in it.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from seqrec.batching import bucketed_order, cut_windows
from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.schedule import NUM_TEACHER_NEGATIVES, refit_epochs
from seqrec.sources import MODEL_BUNDLES, fetch_model
from seqrec.texts import item_texts

import numpy as np
import psutil
import torch
from tabulate import tabulate
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from teacher.base import Bits
from teacher.check_folder import article, first_line, read_config, text_config
from teacher.model import Teacher
from teacher.pace import Pace, measure_pace
from teacher.shape import num_positions, random_base, shapes_alone
from teacher.work import Work, teacher_on

GIB = 2**30
# NF4 with double quantization (arXiv:2305.14314, section 3): half a byte, and for each block of 64
# weights a constant in 8 bit, of which 256 share one in fp32.
BYTES_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
CHARACTERS_PER_TOKEN = 4  # of titles, about
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
    seconds: dict[str, float]

    @property
    def peak_bytes(self) -> int:
        """All of it at once."""
        weights = self.frozen_bytes + self.trained_bytes + self.text_bytes
        return weights + self.activation_bytes + self.library_bytes

    def table(self) -> str:
        """Return the plan as text."""
        counts = [
            ["weights", f"{self.num_weights / 1e6:,.1f} M, {self.num_layers} layers"],
            ["  held in 4 bit", f"{self.num_4bit / 1e6:,.1f} M"],
            ["  trained", f"{self.num_trained / 1e6:,.2f} M"],
        ]
        sizes = [
            ("frozen weights", self.frozen_bytes),
            ("trained weights, gradients, optimizer", self.trained_bytes),
            ("item texts' vectors", self.text_bytes),
            ("activations", self.activation_bytes),
            ("libraries", self.library_bytes),
            ("memory of a process, together", self.peak_bytes),
        ]
        times = [*self.seconds.items(), ("time, together, about", sum(self.seconds.values()))]
        rows = [
            *counts,
            *([name, f"{size / GIB:.2f} GiB"] for name, size in sizes),
            *([name, f"{seconds / 60:,.1f} min"] for name, seconds in times),
        ]
        return tabulate(rows, tablefmt="plain", disable_numparse=True) + "\n"


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


def shape_of_teacher(
    config: PretrainedConfig, num_layers: int, num_items: int, work: Work, attention: str = "eager"
) -> Teacher:
    """Build the teacher inside `shapes_alone`, where it takes no memory."""
    # What is held in 4 bit passes fp32 from layer to layer, since all else is lifted to fp32.
    dtype = torch.bfloat16 if work.bits == 16 else torch.float32
    base = random_base(config, num_layers, dtype, attn_implementation=attention)
    # No item is set to zero: there are no numbers.
    return teacher_on(base, num_items, torch.zeros(0, dtype=torch.long), work).train()


def check_model(config: PretrainedConfig, work: Work) -> None:
    """Refuse a language model that cannot be a teacher, before any of its weights is loaded.

    Args:
        config: of its text part.
        work: what shall be done with it.

    Raises:
        ModelError: it has fewer layers or positions than asked for, or takes no adapter.
    """
    if work.num_layers > config.num_hidden_layers:
        raise ModelError(
            f"{work.model} has {config.num_hidden_layers} layers, --num-layers {work.num_layers} "
            "asks for more"
        )
    base = None
    with shapes_alone():
        # Where it cannot be built without numbers, loading will tell.
        with contextlib.suppress(ModelError):
            base = random_base(config, 1, torch.float32)
        if base is not None:
            teacher_on(base, 1, torch.zeros(0, dtype=torch.long), work)
    available = num_positions(config, base)
    if available is not None and work.max_len > available:
        raise ModelError(
            f"{work.model} has {available} positions, one for each item of a history; --max-len "
            f"{work.max_len} asks for more. Type --max-len {available}"
        )


def kept_for_backward(teacher: Teacher, num_windows: int) -> int:
    """Return the bytes that autograd keeps of a forward pass, weights not counted."""
    held = {t.untyped_storage()._cdata for t in [*teacher.parameters(), *teacher.buffers()]}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in held:
            kept.setdefault(storage, tensor)  # held fast: a freed storage's number is used again
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
    nbytes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    # Beside them the gradient of the log-probabilities, and that of the scores which is made of it.
    return nbytes + 2 * scores.numel() * scores.element_size()


def kept_by_layers(config: PretrainedConfig, num_layers: int, num_items: int, work: Work) -> int:
    """Return what `kept_for_backward` says of so many layers.

    Raises:
        ModelError: the model looks at numbers, as one does that chooses its experts by them.
    """
    reason = ""
    # Some look at their mask's numbers before they take a fused kernel; others have none.
    for attention in ("sdpa", "eager"):
        try:
            with shapes_alone():
                teacher = shape_of_teacher(config, num_layers, num_items, work, attention)
                return kept_for_backward(teacher, work.windows_at_once)
        except Exception as error:  # each kind of model has its own way to ask for numbers
            reason = first_line(error)
    raise ModelError(
        f"what {article(config.model_type)} keeps in a step cannot be told from its shape alone "
        f"({reason}): no plan of it. Train without --dry-run, with a small --batch-size at first"
    )


def activation_bytes(config: PretrainedConfig, num_layers: int, num_items: int, work: Work) -> int:
    """Return what a part of a step keeps, all its windows at full length."""
    num_windows = work.windows_at_once
    one, two = (kept_by_layers(config, layers, num_items, work) for layers in (1, 2))
    layer = two - one
    if not work.gradient_checkpointing:
        return one + (num_layers - 1) * layer
    element = 2 if work.bits == 16 else 4
    given = num_windows * work.max_len * config.hidden_size * element  # a layer's input
    return one - layer + num_layers * given + layer  # and one layer at a time, computed again


def make_plan(
    dataset: SequenceDataset, work: Work, device: torch.device, num_processes: int = 1
) -> Plan:
    """Estimate what a fine-tuning takes.

    Args:
        dataset: what would be trained on.
        work: what the flags ask for, the schedule's numbers filled in.
        device: of this process; it is measured on.
        num_processes: they share the time.

    Raises:
        ModelError: no teacher can be made of the language model, or it has fewer layers than asked
            for.
        SourceError: a bundle cannot be fetched.
    """
    on_cpu = device.type == "cpu"
    library_bytes = psutil.Process().memory_info().rss if on_cpu else 0
    config = config_of(work.model, work.bits)
    check_model(config, work)
    num_layers = work.num_layers or config.num_hidden_layers
    with shapes_alone():
        teacher = shape_of_teacher(config, num_layers, dataset.num_items, work)
    trained = sum(p.numel() for p in teacher.parameters() if p.requires_grad)
    multiplied, others = count_frozen(teacher)
    full = {4: 4, 16: 2, 32: 4}[work.bits]
    frozen_bytes = others * full + multiplied * (BYTES_4BIT if work.bits == 4 else full)
    table, large = teacher.item_table.residual.weight.numel(), teacher.is_large
    kept = activation_bytes(config, num_layers, dataset.num_items, work)
    pace = measure_pace(config, num_layers, dataset, work, device)
    return Plan(
        num_layers=num_layers,
        num_weights=sum(p.numel() for p in teacher.parameters()),
        num_4bit=multiplied if work.bits == 4 else 0,
        num_trained=trained,
        frozen_bytes=int(frozen_bytes),
        trained_bytes=4 * (5 * trained - table * large),  # a large table's gradient is sparse
        text_bytes=sum(b.numel() * b.element_size() for b in teacher.buffers()),
        # To answer, a large catalogue's vectors are all worked out: texts' part, and the sum.
        activation_bytes=max(kept * (HEAP_FACTOR if on_cpu else 1), 2 * 4 * table * large),
        library_bytes=library_bytes,
        seconds=stage_seconds(dataset, work, pace, num_processes),
    )


def count_frozen(teacher: Teacher) -> tuple[int, int]:
    """Count the frozen weights: of linear layers, which may be held in 4 bit, and all others."""
    frozen = {name: p for name, p in teacher.base.named_parameters() if not p.requires_grad}
    linear = {
        id(module.weight)
        for module in teacher.base.modules()
        if isinstance(module, nn.Linear | Conv1D) and not module.weight.requires_grad
    }
    multiplied = sum(p.numel() for p in frozen.values() if id(p) in linear)
    return multiplied, sum(p.numel() for p in frozen.values()) - multiplied


def stage_seconds(
    dataset: SequenceDataset, work: Work, pace: Pace, num_processes: int
) -> dict[str, float]:
    """Return the seconds that each stage takes."""
    windows = cut_windows(dataset, work.max_len, work.max_len)
    lengths = windows.ends - windows.starts
    batches = bucketed_order(lengths, work.batch_size, np.random.default_rng(0))
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    answered = cut_windows(dataset, work.max_len, whole=True)
    histories = int(np.minimum(np.diff(dataset.offsets), work.max_len).sum())
    further = refit_epochs(dataset, work.refit_share, work.num_epochs)
    characters = sum(len(text) for text in item_texts(dataset.items))
    answers = int((answered.ends - answered.starts).sum()) * (2 if further else 1)
    evaluated = histories * (work.num_epochs + 1)
    seconds = {
        "reading item texts": characters / CHARACTERS_PER_TOKEN * pace.reading,
        "training": padded * (work.num_epochs + further) * pace.training / num_processes,
        "validation and test": evaluated * pace.answering / num_processes,
        "answers for the students": answers * pace.answering / num_processes,
    }
    return {name: float(value) for name, value in seconds.items()}
