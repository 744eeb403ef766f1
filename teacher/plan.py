"""What a fine-tuning will take, before anything is loaded: `teacher/finetune.py --dry-run`.

The language model's configuration is enough (of a hub id nothing else is fetched). The teacher is
built from it of tensors that have shapes and no numbers (PyTorch's meta device), and its weights
are counted; a forward pass of a model of one layer, and of one of two, shows what autograd keeps
for the way back.

Memory is what training has to hold at its peak: on a GPU the CUDA context (about half a gigabyte)
comes on top, on a CPU the libraries, and what loading the weights leaves behind.

Time is operations divided by the rate of one layer of this very model, measured here and now for
half a second, so on a busy machine it is that of a busy machine. Normalisation, attention's
softmax, what adapters cost beside their products, and the optimizer are not in it: it is a lower
bound. With four layers of SmolLM2 and 16 windows a step took three times as long on one CPU core.
"""

import contextlib
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from seqrec.batching import bucketed_order, cut_windows
from seqrec.data import SequenceDataset
from seqrec.schedule import refit_epochs
from seqrec.sources import MODEL_BUNDLES, fetch_model
from seqrec.texts import item_texts

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

from teacher.base import Bits, compute_dtype, shape_options
from teacher.model import Teacher, TeacherConfig

GIB = 2**30
# NF4 with double quantization (arXiv:2305.14314, section 3): half a byte, and for each block of 64
# weights a constant in 8 bit, of which 256 share one in fp32.
BYTES_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
CHARACTERS_PER_TOKEN = 4  # of titles, about
SECONDS_OF_MEASURING = 0.5


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
    activation_bytes: int
    seconds: dict[str, float]

    @property
    def peak_bytes(self) -> int:
        """All of it at once."""
        return self.frozen_bytes + self.trained_bytes + self.text_bytes + self.activation_bytes

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
            ("memory of a process, together", self.peak_bytes),
        ]
        times = [*self.seconds.items(), ("time, together, at least", sum(self.seconds.values()))]
        rows = [
            *counts,
            *([name, f"{size / GIB:.2f} GiB"] for name, size in sizes),
            *([name, f"{seconds / 60:,.1f} min"] for name, seconds in times),
        ]
        return tabulate(rows, tablefmt="plain", disable_numparse=True) + "\n"


def read_config(name: str) -> PretrainedConfig:
    """Read a language model's configuration alone; `name` as in `resolve_model`."""
    path = fetch_model(name) if name in MODEL_BUNDLES else Path(name)
    if path.is_file():
        return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    return AutoConfig.from_pretrained(path if path.exists() else name)


def _no_autocast(*args: object, **options: object) -> contextlib.nullcontext[None]:
    return contextlib.nullcontext()


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Make tensors on the meta device inside: models can be built and called without memory."""
    # Positions are computed under a disabled autocast, which does not know this device.
    with torch.device("meta"), mock.patch("torch.autocast", _no_autocast):
        yield


def shape_of_teacher(
    config: PretrainedConfig, num_layers: int, num_items: int, work: Work
) -> Teacher:
    """Build the teacher; inside `shapes_alone` it takes no memory."""
    config = copy.deepcopy(config)
    for name, value in shape_options(config, num_layers, causal=True).items():
        if name != "add_pooling_layer":
            setattr(config, name, value)
    options = shape_options(config, num_layers, causal=True)
    pooling = {name: options[name] for name in ("add_pooling_layer",) if name in options}
    # What is held in 4 bit passes fp32 from layer to layer, since all else is lifted to fp32.
    dtype = torch.bfloat16 if work.bits == 16 else torch.float32
    # An encoder run as a decoder looks at its mask's numbers before it takes a fused kernel.
    attention = "eager" if "is_decoder" in options else "sdpa"
    base = AutoModel.from_config(config, dtype=dtype, attn_implementation=attention, **pooling)
    base.requires_grad_(False)
    base.config.use_cache = False
    width = base.config.hidden_size
    shape = TeacherConfig(
        model=work.model,
        model_fingerprint="",
        dataset_fingerprint="",
        bits=work.bits,
        num_layers=num_layers,
        num_items=num_items,
        text_dim=width,
        item_dim=work.item_dim,
        max_len=work.max_len,
        lora_rank=work.lora_rank,
        lora_alpha=work.lora_alpha,
        dropout=work.dropout,
    )
    return Teacher(
        base,
        torch.empty(num_items + 1, width),
        torch.empty(2, width),
        torch.zeros(0, dtype=torch.long),  # no item is set to zero: there are no numbers
        shape,
    ).train()


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
        scores = teacher.scores(teacher.encode(items).flatten(0, 1))  # (B * T, I + 1)
        loss = nn.functional.cross_entropy(scores[:, 1:], items.flatten())
    nbytes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    # The gradient of the scores, while the scores are there; then the layers' own are smaller.
    return nbytes + scores.numel() * scores.element_size()


def activation_bytes(config: PretrainedConfig, num_layers: int, num_items: int, work: Work) -> int:
    """Return what a part of a step keeps, all its windows at full length."""
    num_windows = -(-work.batch_size // work.num_parts)
    with shapes_alone():
        one, two = (
            kept_for_backward(shape_of_teacher(config, layers, num_items, work), num_windows)
            for layers in (1, 2)
        )
    layer = two - one
    if not work.gradient_checkpointing:
        return one + (num_layers - 1) * layer
    element = 2 if work.bits == 16 else 4
    given = num_windows * work.max_len * config.hidden_size * element  # a layer's input
    return one - layer + num_layers * given + layer  # and one layer at a time, computed again


def measure_rate(config: PretrainedConfig, work: Work, device: torch.device) -> float:
    """Return operations per second of one frozen layer, forward and back, as training calls it."""
    width = config.hidden_size
    further = getattr(config, "intermediate_size", 4 * width)
    num_windows = -(-work.batch_size // work.num_parts)
    if work.bits == 4:
        from bitsandbytes.nn import Linear4bit

        dtype = compute_dtype(device)
        quantized = Linear4bit(width, further, bias=False, compute_dtype=dtype)
        if hasattr(quantized, "support_avx512bf16_for_cpu"):
            quantized.support_avx512bf16_for_cpu = False  # see `load_base`
        layer: nn.Module = quantized
        given = torch.float32
    else:
        given = torch.bfloat16 if work.bits == 16 else torch.float32
        layer = nn.Linear(width, further, bias=False, dtype=given)
    layer = layer.to(device).requires_grad_(False)
    x = torch.randn(num_windows * work.max_len, width, device=device, dtype=given)
    x.requires_grad_()

    def run() -> None:
        layer(x).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS_OF_MEASURING:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 4 * len(x) * width * further / min(times)


def make_plan(
    dataset: SequenceDataset, work: Work, device: torch.device, num_processes: int = 1
) -> Plan:
    """Estimate what a fine-tuning takes.

    Args:
        dataset: what would be trained on.
        work: what the flags ask for, the schedule's numbers filled in.
        device: of this process; its rate is measured.
        num_processes: they share the time.

    Raises:
        ModelError: the language model has fewer layers than asked for.
        SourceError: a bundle cannot be fetched.
    """
    config = read_config(work.model)
    num_layers = work.num_layers or config.num_hidden_layers
    with shapes_alone():
        teacher = shape_of_teacher(config, num_layers, dataset.num_items, work)
    trained = sum(p.numel() for p in teacher.parameters() if p.requires_grad)
    frozen = {name: p for name, p in teacher.base.named_parameters() if not p.requires_grad}
    linear = {
        id(module.weight)
        for name, module in teacher.base.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.requires_grad
    }
    multiplied = sum(p.numel() for p in frozen.values() if id(p) in linear)
    others = sum(p.numel() for p in frozen.values()) - multiplied
    full = {4: 4, 16: 2, 32: 4}[work.bits]
    frozen_bytes = others * full + multiplied * (BYTES_4BIT if work.bits == 4 else full)
    rate = measure_rate(config, work, device) * num_processes

    windows = cut_windows(dataset, work.max_len, work.max_len)
    lengths = windows.ends - windows.starts
    batches = bucketed_order(lengths, work.batch_size, np.random.default_rng(0))
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    answered = cut_windows(dataset, work.max_len, whole=True)
    histories = np.minimum(np.diff(dataset.offsets), work.max_len).sum()
    further = refit_epochs(dataset, work.refit_share, work.num_epochs)
    # Each weight is multiplied and added to once forward, once back; those that train once more.
    forward = 2 * multiplied
    per_target = 6 * work.item_dim * dataset.num_items
    step = 2 * forward + 6 * trained + per_target + forward * work.gradient_checkpointing
    texts = item_texts(dataset.items)
    characters = sum(len(text) for text in texts)
    answers = int((answered.ends - answered.starts).sum()) * (2 if further else 1)
    seconds = {
        "reading item texts": forward * characters / CHARACTERS_PER_TOKEN / rate * num_processes,
        "training": padded * step * (work.num_epochs + further) / rate,
        "validation and test": int(histories) * forward * (work.num_epochs + 1) / rate,
        "answers for the students": answers * forward / rate,
    }
    return Plan(
        num_layers=num_layers,
        num_weights=sum(p.numel() for p in teacher.parameters()),
        num_4bit=multiplied if work.bits == 4 else 0,
        num_trained=trained,
        frozen_bytes=int(frozen_bytes),
        trained_bytes=5 * 4 * trained,
        text_bytes=sum(b.numel() * b.element_size() for b in teacher.buffers()),
        activation_bytes=activation_bytes(config, num_layers, dataset.num_items, work),
        seconds={name: float(value) for name, value in seconds.items()},
    )
