"""One training loop for teacher and student: Accelerate, early stopping, resumable checkpoints."""

import contextlib
import ctypes
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from seqrec.batching import Batch
from seqrec.config import recipe_digest
from seqrec.errors import SeqRecError
from seqrec.files import atomic_directory, read_json, write_json
from seqrec.processes import require_agreement
from seqrec.progress import progress_bar
from seqrec.schedule import is_large
from seqrec.tracking import LOG_EVERY

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

LossFunction = Callable[[Any, Batch], Tensor]
WEIGHT_DECAY = 0.01
WARMUP = 0.05  # of all steps
MAX_GRAD_NORM = 1.0


class Batches(Protocol):
    """What to train on, the same for the same epoch: `seqrec.batching.TrainingBatches`, say."""

    def epoch(self, epoch: int) -> tuple[int, Iterator[Batch]]:
        """Return how many batches an epoch has, and the batches."""

    def steps_per_epoch(self) -> int:
        """Return roughly how many batches an epoch has."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how fast to train."""

    num_epochs: int
    learning_rate: float
    patience: int = 0  # evaluations without a new best before stopping; 0: never stop early
    evaluate_every: int = 1  # epochs
    gradient_accumulation: int = 1  # parts that a batch is computed in, one after the other
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.num_epochs < 1 or self.evaluate_every < 1:
            raise ValueError("num_epochs and evaluate_every must be at least 1")
        if self.gradient_accumulation < 1:
            raise ValueError("gradient_accumulation must be at least 1")


class Objective(nn.Module):
    """Model and loss as one module, so that a wrapper such as DDP sees a single forward call."""

    def __init__(self, model: nn.Module, loss_function: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_function = model, loss_function

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        return self.loss_function(self.model, batch)


@dataclass
class Progress:
    """Where a training stands; what a checkpoint remembers besides tensors."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_value: float = -math.inf


class RowwiseAdamW(torch.optim.AdamW):
    """AdamW that takes sparse gradients: a step costs what the rows cost that have one.

    A row with a gradient is updated as in AdamW (arXiv:1711.05101), by moments of its own and the
    bias correction of all steps so far. A row without one stays as it is: its moments do not fade,
    move nothing, and no weight decays, as in `torch.optim.SparseAdam`. AdamW would read and write
    all rows, moments and gradients in each step. Dense gradients are AdamW's; where several
    processes train together, all are dense.
    """

    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._update_rows(parameter, group)
                    parameter.grad = None  # which AdamW would refuse
        return super().step(closure)

    @torch.no_grad()
    def _update_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        square = state["exp_avg_sq"][rows].lerp_(values.square(), 1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        step, rate = state["step"].item(), group["lr"]
        root = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        kept = parameter[rows] * (1 - rate * group["weight_decay"])
        parameter[rows] = kept.addcdiv_(mean, root, value=-rate / (1 - beta1**step))


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> None:
    """Do what `torch.nn.utils.clip_grad_norm_` does, for sparse gradients as well."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # the same row's parts added up
            gradients.append(parameter.grad.values())
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(gradients)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


def draw_different(num_items: int, count: int) -> NDArray[np.int64]:
    """Draw `count` different numbers below `num_items`, int64 (count,); torch's seed decides."""
    if not is_large(num_items):
        return torch.randperm(num_items)[:count].numpy()
    seed = int(torch.randint(2**63 - 1, ()))  # a permutation of all would take too long
    return np.random.default_rng(seed).choice(num_items, count, replace=False)


def set_up_cpu(num_threads: int | None, num_processes: int) -> None:
    """Use `num_threads` CPU threads, None: the cores shared out; keep freed memory.

    `accelerate launch` leaves each process with one thread unless it is told otherwise. And glibc
    returns every freed logits tensor to the kernel, which clears the pages anew at the next step:
    a third of a student's training time. With these two settings (mallopt(3)) it keeps them.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            libc = ctypes.CDLL("libc.so.6")
            m_mmap_max, m_trim_threshold = -4, -1
            libc.mallopt(m_mmap_max, 0)
            libc.mallopt(m_trim_threshold, 2**31 - 1)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))  # of them, on this machine
    torch.set_num_threads(num_threads or max(1, (os.cpu_count() or 1) // here))


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that train, by name, on the CPU."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def load_trainable_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy tensors made by `trainable_state` into a model of the same shape."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if parameters.keys() != state.keys():
        raise SeqRecError(
            "the checkpoint holds other parameters than the model trains; remove its folder"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value.cpu() for i, entry in state.items() for key, value in entry.items()}


def _load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _save_checkpoint(
    folder: Path, progress: Progress, recipe: str, parts: dict[str, dict[str, Tensor]]
) -> None:
    with atomic_directory(folder) as beside:
        for name, tensors in parts.items():
            save_file(tensors, beside / f"{name}.safetensors")
        write_json(beside / "progress.json", {**vars(progress), "recipe": recipe})


def _read_checkpoint(
    folder: Path, recipe: str
) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]] | None:
    """Return progress, model, best model and optimizer; None: no whole one of this recipe."""
    if not (folder / "progress.json").is_file():
        return None
    try:
        values = read_json(folder / "progress.json")
        if values.pop("recipe", None) != recipe:
            logger.info("%s holds another recipe's checkpoint: starting anew", folder)
            return None
        progress = Progress(**values)
        if not all(type(value) is int for value in (progress.epoch, progress.step)):
            raise ValueError(f"epoch {progress.epoch!r}, step {progress.step!r}")
        model, best, optimizer = (
            load_file(folder / f"{name}.safetensors") for name in ("model", "best", "optimizer")
        )
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        logger.warning("the checkpoint in %s is damaged (%s): starting anew", folder, error)
        return None
    return progress, model, best, optimizer


def cosine_with_warmup(step: int, total_steps: int) -> float:
    """Return the learning-rate factor: linear to 1, then a half cosine to 0 (arXiv:1608.03983).

    >>> [cosine_with_warmup(step, 100) for step in (0, 4, 100)]
    [0.2, 1.0, 0.0]
    """
    warmup = max(1, round(total_steps * WARMUP))
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return 0.5 * (1 + math.cos(math.pi * done))


# Longer than other functions: the order of these steps is what resuming relies on, so they stand in
# one piece.
def fit(
    model: nn.Module,
    loss_function: LossFunction,
    batches: Batches,
    validate: Callable[[Any], float] | None,
    config: FitConfig,
    *,
    accelerator: Accelerator,
    checkpoint_dir: Path,
    recipe: dict[str, Any],
    label: str,
) -> Progress:
    """Train `model` in place and leave it with the weights of its best validation, or its last.

    Each epoch draws its batches and its dropout from (seed, epoch) alone, so a run that was killed
    and resumed from its last checkpoint computes what an unbroken one computes. Each batch is
    shared out among the processes, and cut into the parts of gradient accumulation; however many
    there are, the gradient is that of the whole batch, and only dropout draws other numbers.

    Args:
        model: its trainable parameters are trained.
        loss_function: maps (model, batch) to the mean loss over all that is asked: `prefixes` >= 0.
        batches: the training batches.
        validate: maps the model to the value to maximise, NDCG@10 as a rule, and to the same in
            all processes; None trains to the end and keeps the last weights.
        config: how long and how fast.
        accelerator: moves and distributes; one process or many.
        checkpoint_dir: written after every evaluation, read if it holds the same recipe.
        recipe: everything that decides the result, as JSON values; a checkpoint of another recipe
            is left aside.
        label: shown on the progress bar.

    Raises:
        SeqRecError: the loss is no longer a finite number.
    """
    digest = recipe_digest(recipe)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if accelerator.num_processes > 1:  # among GPUs, NCCL adds up dense gradients alone
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.sparse = False
    optimizer = RowwiseAdamW(parameters, lr=config.learning_rate, weight_decay=WEIGHT_DECAY)
    progress, best = Progress(), trainable_state(model)
    if (checkpoint := _read_checkpoint(checkpoint_dir, digest)) is not None:
        progress, weights, best, moments = checkpoint
        load_trainable_state(model, weights)
        _load_optimizer_tensors(optimizer, moments)
        logger.info("%s: resumed after epoch %d from %s", label, progress.epoch, checkpoint_dir)
    require_agreement(accelerator, progress.step, f"{checkpoint_dir} at step")
    objective, prepared = accelerator.prepare(Objective(model, loss_function), optimizer)
    total_steps = config.num_epochs * batches.steps_per_epoch()
    bar = progress_bar(
        total=total_steps,
        initial=progress.step,
        desc=label,
        unit="step",
        disable=not accelerator.is_main_process,
    )
    while progress.epoch < config.num_epochs and not _out_of_patience(progress, config):
        objective.train()
        # Processes drop out, and sample, different things.
        rank = accelerator.process_index
        torch.manual_seed(config.seed * 100_003 + progress.epoch + rank * 1_000_003)
        for batch in batches.epoch(progress.epoch)[1]:
            rate = config.learning_rate * cosine_with_warmup(progress.step, total_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = _backward(objective, batch, config, accelerator)
            if not math.isfinite(loss):
                raise SeqRecError(
                    f"{label}: the loss became {loss} at step {progress.step}. The last good state "
                    f"is in {checkpoint_dir}. Try half the learning rate: --learning-rate "
                    f"{config.learning_rate / 2:g}"
                )
            clip_gradients(parameters, MAX_GRAD_NORM)
            prepared.step()
            prepared.zero_grad()
            progress.step += 1
            bar.update()
            if progress.step % LOG_EVERY == 0:  # to trackers, if there are any
                accelerator.log({"loss": loss, "learning_rate": rate}, step=progress.step)
        progress.epoch += 1
        if progress.epoch % config.evaluate_every and progress.epoch < config.num_epochs:
            continue
        model.eval()
        value = 0.0 if validate is None else validate(model)
        if validate is None or value > progress.best_value:
            progress.best_value, progress.best_epoch = value, progress.epoch
            best = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
        if validate is not None:
            accelerator.log({"ndcg@10": value}, step=progress.step)
            bar.set_postfix_str(
                f"epoch {progress.epoch}, NDCG@10 {value:.4f}, best {progress.best_value:.4f}"
            )
        if accelerator.is_main_process:
            parts = {"model": trainable_state(model), "best": best}
            parts["optimizer"] = _optimizer_tensors(optimizer)
            _save_checkpoint(checkpoint_dir, progress, digest, parts)
    bar.close()
    load_trainable_state(model, best)
    model.eval()
    return progress


def _backward(
    objective: nn.Module, batch: Batch, config: FitConfig, accelerator: Accelerator
) -> float:
    """Add up this process's part of the gradient of a batch; stop at a loss that is not finite.

    Returns the last part's loss.
    """
    rank, num_processes = accelerator.process_index, accelerator.num_processes
    num_parts = num_processes * config.gradient_accumulation
    for index in range(rank, num_parts, num_processes):
        part, share = batch.share(index, num_parts)
        is_last = index + num_processes >= num_parts
        # Processes exchange their gradients once, after the last part.
        waiting = contextlib.nullcontext() if is_last else accelerator.no_sync(objective)
        with waiting:
            loss = objective(part.to(accelerator.device))
            if not torch.isfinite(loss):
                break
            # The exchange takes the mean over processes, and what is wanted is the sum.
            accelerator.backward(loss * (share * num_processes))
    return loss.item()


def _out_of_patience(progress: Progress, config: FitConfig) -> bool:
    waited = progress.epoch - progress.best_epoch
    return (
        config.patience > 0
        and progress.best_epoch > 0
        and waited >= config.patience * config.evaluate_every
    )
