"""One process or several: what was started, and how the processes work as one.

`accelerate launch` or `torchrun` start them. Each step's batch is shared out among them
(`seqrec.batching.Batch.share`), so their number changes how long a run takes and not what it
computes, and so are validation, test and the teacher's answers. Process 0 alone writes; the output
directory has to be the same for all.
"""

import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from seqrec.errors import SeqRecError
from seqrec.tracking import require_tracker

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    gather_object,
)

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

# Others wait while process 0 reads a catalogue's texts with a language model.
TIMEOUT = timedelta(hours=6)
# Weights are read, saved and judged whole, by name; these leave a process a part of each. Without
# a GPU accelerate passes over them, but transformers does not.
SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM": "MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
}
HOW_ON_GPU = "accelerate launch --config_file configs/multi_gpu.yaml"
HOW_ON_CPU = (
    "accelerate launch --config_file configs/cpu_2_processes.yaml, or torchrun --nproc_per_node 2"
)


def start_accelerator(
    device: str, log_with: str | None = None, log_dir: Path | None = None
) -> Accelerator:
    """Return the accelerator of this process, and say so if fewer run than were asked for.

    Args:
        device: "cpu", or else a GPU is taken if there is one.
        log_with: a tracker for `seqrec.tracking`; None: none.
        log_dir: where a tracker that writes files does so.

    Raises:
        SeqRecError: several processes were started that know nothing of each other, or that are to
            hold a part of the model each; or there is no GPU, or no tracker, where one was asked
            for by name.
    """
    has_gpu = torch.accelerator.is_available()
    for variable, name in SHARDED.items():
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "y", "on"):
            raise SeqRecError(
                f"accelerate was told to split the model over the processes ({name}); here each "
                "holds the whole of it, which in 4 bit takes half a gigabyte for each billion of "
                f"weights. Type: {HOW_ON_GPU if has_gpu else HOW_ON_CPU}"
            )
    if device == "cuda" and not torch.cuda.is_available():
        raise SeqRecError(
            "--device cuda asks for an NVIDIA GPU, and PyTorch finds none. Type --device cpu"
        )
    if log_with is not None:
        require_tracker(log_with)
    _say_what_is_left_aside()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    # Without cpu=True Accelerate leaves processes without GPUs to themselves.
    on_cpu = device == "cpu" or (started > 1 and not has_gpu)
    accelerator = Accelerator(
        cpu=on_cpu,
        log_with=log_with,
        project_config=ProjectConfiguration(logging_dir=None if log_dir is None else str(log_dir)),
        # What accelerate's configuration says of these is not asked: our own flags say it.
        mixed_precision="no",
        dynamo_backend="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[
            # All hold the same item texts; without this they would be sent around at every step.
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=TIMEOUT),
        ],
    )
    if accelerator.num_processes != started and started > 1:
        raise SeqRecError(
            f"{started} processes were started, but accelerate takes each for the only one "
            f"({accelerator.distributed_type.value}): they would overwrite each other's files. "
            f"On CPUs add --device cpu; type: {HOW_ON_CPU}"
        )
    if asked_for_more():
        logger.warning(
            "accelerate launch was asked for several processes and started one: without GPUs it "
            "starts no more. For two type: %s",
            HOW_ON_CPU,
        )
    return accelerator


def _say_what_is_left_aside() -> None:
    """Say which settings of accelerate's configuration change nothing here."""
    settings = {
        "ACCELERATE_MIXED_PRECISION": ("no", "--bits says how numbers are held"),
        "ACCELERATE_DYNAMO_BACKEND": ("no", "nothing is compiled"),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "--gradient-accumulation is the flag"),
    }
    for variable, (usual, why) in settings.items():
        value = os.environ.get(variable, usual).lower()
        if value not in (usual, "none", ""):
            logger.warning("accelerate's %s=%s is not used: %s", variable, value, why)


def asked_for_more() -> bool:
    """Tell whether `accelerate launch` was asked for several processes and started a single one.

    Its launcher for one process sets the address of process 0 if, and only if, it was asked for
    more than one (accelerate 1.15, `prepare_simple_launcher_cmd_env`); those that start several
    set WORLD_SIZE as well.
    """
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    return by_accelerate and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ


def gathered(accelerator: Accelerator | None, values: Iterator[Value]) -> Iterator[Value]:
    """Yield what all processes yield, to all of them; each has to read on until the last ends.

    Args:
        accelerator: of this process; None: there is no other.
        values: of this process; none is None.
    """
    if accelerator is None or accelerator.num_processes == 1:
        yield from values
        return
    while step := [v for v in gather_object([next(values, None)]) if v is not None]:
        yield from step


def require_agreement(accelerator: Accelerator, value: Any, what: str) -> None:
    """Raise a `SeqRecError` unless all processes hold the same value; they go on together or not.

    Args:
        accelerator: of this process.
        value: small, and comparable.
        what: what the message calls it.
    """
    if accelerator.num_processes == 1:
        return
    values = gather_object([value])
    for number, other in enumerate(values):
        if other != values[0]:
            raise SeqRecError(
                f"process {number} finds {what} {other}, process 0 {values[0]}. Give an "
                "--output-dir that is the same on all machines, on a file system that they share"
            )
