"""Flags of `teacher/finetune.py`, `teacher.extract` and `teacher.tune_reader`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqrec.config import DEFAULT_DATA_DIR, Budget, flag

Bits = Literal[4, 16, 32]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Flags of `teacher/finetune.py`."""

    data_dir: tuple[Path, ...] = flag(
        (DEFAULT_DATA_DIR,),
        "prepared data set, from seqrec.prepare; several are united beside the first, as a+b, and "
        "one adapter is tuned on all",
        affects_result=False,
    )
    output_dir: Path | None = flag(
        None, "where all stages write; default runs/<name of data-dir>", affects_result=False
    )
    init_from: Path | None = flag(
        None,
        "output directory of an earlier run, of any data set, to start from: its teacher's "
        "weights, items by id; to another catalogue the adapter alone",
        affects_result=False,  # what was found there does (see `teacher.tuning`)
    )
    model: str = flag(
        "smollm2-135m",
        "language model: a bundle (smollm2-135m, minilm-l6), a hub id, a folder or a .gguf file",
    )
    bits: Bits = flag(4, "4: NF4 through bitsandbytes; 16: bf16; 32: fp32")
    budget: Budget | None = flag(
        None,
        "quick: a teacher for a CPU; best: more layers and epochs; not given: best on a GPU, else "
        "quick",
        affects_result=False,  # the numbers do that it stands for
    )
    num_layers: int | None = flag(
        None, "first layers of the language model that are kept, 0: all; not given: by the budget"
    )
    lora_rank: int = flag(16, "rank of the LoRA adapter, on all linear layers")
    lora_alpha: int = flag(32, "scale of the LoRA adapter")
    item_dim: int = flag(128, "width of the teacher's item vectors")
    max_len: int = flag(50, "newest items of a history that the teacher reads")
    num_epochs: int | None = flag(
        None,
        "passes over the training sequences; 0: ranks by texts, or as --init-from does; not given: "
        "by budget and size of the data",
    )
    batch_size: int | None = flag(
        None, "windows per step, shared by the processes; not given: by the size of the data"
    )
    gradient_accumulation: int = flag(
        1,
        "parts that a step's windows are computed in, for less memory; the result is the same",
        affects_result=False,
    )
    gradient_checkpointing: bool = flag(
        False,
        "keep layers' inputs alone and compute the rest again, for less memory; same result",
        affects_result=False,
    )
    refit_share: float = flag(
        0.25,
        "further training on the validation events too, once all is chosen, as a share of the "
        "epochs; 0: none",
    )
    learning_rate: float = flag(1e-3, "peak learning rate")
    dropout: float = flag(0.1, "dropout on item vectors and states")
    prefixes_per_user: int = flag(
        500, "newest prefixes kept per user for the student; bounds the size on disk"
    )
    device: Literal["auto", "cpu", "cuda"] = flag(
        "auto", "where to train; auto takes a GPU if there is one", affects_result=False
    )
    num_threads: int | None = flag(
        None, "CPU threads per process; not given: the cores, shared out", affects_result=False
    )
    seed: int = flag(0, "seed of all randomness")
    log_with: str | None = flag(
        None,
        "tracker to follow the training with: tensorboard, or another that Accelerate knows",
        affects_result=False,
    )
    dry_run: bool = flag(
        False, "show weights, memory and time that it would take, and stop", affects_result=False
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("gradient_accumulation", "num_epochs", "batch_size", "num_threads"):
            value = getattr(self, name)
            least = 0 if name == "num_epochs" else 1
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value} is below {least}")


class FullFinetuneConfig(FinetuneConfig):
    """The flags with nothing left open: the same fields, of which these are not None."""

    budget: Budget
    num_layers: int
    num_epochs: int
    batch_size: int

    def windows_at_once(self, num_processes: int) -> int:
        """Return the windows of a part of a step, which memory suffices for.

        Validation, test and the answers for the students take no more.
        """
        return -(-self.batch_size // (num_processes * self.gradient_accumulation))


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Flags of `teacher.extract`."""

    data_dir: Path = flag(DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare")
    output_dir: Path | None = flag(None, "where all stages write; default runs/<name of data-dir>")
    prefixes_per_user: int = flag(500, "newest prefixes kept per user; bounds the size on disk")
    batch_size: int = flag(32, "windows at once")
    device: Literal["auto", "cpu", "cuda"] = flag(
        "auto", "where the teacher answers; auto takes a GPU if there is one"
    )
    num_threads: int | None = flag(
        None, "CPU threads per process; not given: the cores, shared out"
    )


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """Flags of `teacher.tune_reader`."""

    data_dir: tuple[Path, ...] = flag(
        (DEFAULT_DATA_DIR,),
        "prepared data sets, from seqrec.prepare; several are united beside the first, as a+b",
        affects_result=False,
    )
    output_dir: Path | None = flag(
        None,
        "where the tuned language model goes; default runs/<name of data-dir>/reader",
        affects_result=False,
    )
    model: str = flag(
        "smollm2-135m",
        "language model: a bundle (smollm2-135m, minilm-l6), a hub id, a folder or a .gguf file",
    )
    bits: Bits = flag(4, "4: NF4 through bitsandbytes; 16: bf16; 32: fp32")
    num_layers: int | None = flag(
        None, "first layers that are kept, 0: all; not given: as many as a teacher has"
    )
    lora_rank: int = flag(16, "rank of the LoRA adapter, on all linear layers")
    lora_alpha: int = flag(32, "scale of the LoRA adapter")
    num_steps: int = flag(300, "steps of training, rounded up to a multiple of 50")
    batch_size: int = flag(64, "pairs of items per step, shared by the processes")
    learning_rate: float = flag(1e-3, "peak learning rate")
    device: Literal["auto", "cpu", "cuda"] = flag(
        "auto", "where to train; auto takes a GPU if there is one", affects_result=False
    )
    num_threads: int | None = flag(
        None, "CPU threads per process; not given: the cores, shared out", affects_result=False
    )
    seed: int = flag(0, "seed of all randomness")
    log_with: str | None = flag(
        None,
        "tracker to follow the training with: tensorboard, or another that Accelerate knows",
        affects_result=False,
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name, least in (("num_steps", 1), ("batch_size", 2), ("num_threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value} is below {least}")
