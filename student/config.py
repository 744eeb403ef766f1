"""Flags of `python -m student.distill`, and what they are once the data set has had its say."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seqrec.config import DEFAULT_DATA_DIR, flag

if TYPE_CHECKING:  # loads Polars, and `seqrec.schedule` PyTorch, which `--help` needs not
    from seqrec.data import SequenceDataset


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Flags of `student.distill`."""

    data_dir: Path = flag(
        DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare", affects_result=False
    )
    output_dir: Path | None = flag(
        None, "where all stages write; default runs/<name of data-dir>", affects_result=False
    )
    arch: Literal["gru", "transformer", "both"] = flag(
        "both", "what to train: a GRU, a Transformer, or both to choose by the benchmark"
    )
    item_table: Literal["fused", "plain"] = flag(
        "fused",
        "fused: an item's row is a projection of what the language model reads in its text, plus a "
        "residual; plain: a row of its own that starts at random",
    )
    hidden_dim: int = flag(
        0, "width of the student and of its item table; 0: by the data's density"
    )
    num_layers: int = flag(1, "layers of the encoder")
    num_heads: int = flag(1, "attention heads of the Transformer")
    dropout: float = flag(0.2, "dropout while training")
    max_len: int = flag(50, "newest items of a history that the student reads")
    kd_weight: float = flag(0.5, "weight of the soft targets in the loss, 0 to 1")
    teacher_weight: float | None = flag(
        None,
        "weight of the language model in the soft targets, 0 to 1, the auxiliary teachers have the "
        "rest; not given: chosen by validation",
    )
    temperature: float = flag(1.0, "above 1 softens the soft targets")
    top_k: int = flag(32, "items kept per soft target")
    keep_rest: bool | None = flag(
        None,
        "count the probability of items that a soft target does not keep; not given: on dense data "
        "sets only, since sparse ones learn faster from sharper targets",
    )
    cold_item_scale: float | None = flag(
        None,
        "length of the rows of items without training events, 1: as their texts give it; above, "
        "they are recommended more often; not given: the largest that costs validation at most "
        "0.5 %",
    )
    num_negatives: int | None = flag(
        None, "items sampled for the softmax, 0: all; by the size of the data, see seqrec.schedule"
    )
    num_epochs: int = flag(0, "passes over the training sequences, at most; 0: by the data's size")
    refit_share: float = flag(
        0.35,
        "further training on the validation events too, once all is chosen, as a share of the "
        "epochs; 0: none",
    )
    patience: int = flag(4, "validations without a better one before stopping; 0: never")
    evaluate_every: int = flag(2, "epochs between validations")
    batch_size: int = flag(0, "windows per step, shared by the processes; 0: by the data's size")
    learning_rate: float = flag(0.0, "peak learning rate; 0: by the batch size")
    device: Literal["auto", "cpu", "cuda"] = flag(
        "auto", "where to train; auto takes a GPU if there is one", affects_result=False
    )
    num_threads: int = flag(
        0, "CPU threads per process; 0: all cores, shared by the processes", affects_result=False
    )
    seed: int = flag(0, "seed of all randomness")
    log_with: str | None = flag(
        None,
        "tracker to follow the training with: tensorboard, or another that Accelerate knows",
        affects_result=False,
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("kd_weight", "teacher_weight"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"--{name.replace('_', '-')} {value} is not between 0 and 1")
        if self.cold_item_scale is not None and self.cold_item_scale < 0:
            raise ValueError(f"--cold-item-scale {self.cold_item_scale} is below 0")
        if self.refit_share < 0:
            raise ValueError(f"--refit-share {self.refit_share} is below 0")
        if self.temperature <= 0:
            raise ValueError(f"--temperature {self.temperature} is not above 0")


def scheduled(config: DistillConfig, dataset: "SequenceDataset") -> DistillConfig:
    """Put what `seqrec.schedule` says in place of what is left to it."""
    from seqrec.schedule import (
        is_dense,
        num_negatives,
        student_learning_rate,
        student_schedule,
        student_width,
    )

    schedule = student_schedule(dataset, config.max_len)
    batch_size = config.batch_size or schedule.batch_size
    negatives = config.num_negatives
    return dataclasses.replace(
        config,
        hidden_dim=config.hidden_dim or student_width(dataset),
        keep_rest=is_dense(dataset) if config.keep_rest is None else config.keep_rest,
        num_epochs=config.num_epochs or schedule.num_epochs,
        batch_size=batch_size,
        learning_rate=config.learning_rate or student_learning_rate(batch_size),
        num_negatives=num_negatives(dataset) if negatives is None else negatives,
    )
