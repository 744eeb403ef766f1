"""Flags of `python -m student.distill`, and what they are once the data set has had its say."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqrec.config import DEFAULT_DATA_DIR, Budget, flag

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
    init_from: Path | None = flag(
        None,
        "output directory of an earlier run of this catalogue to start from: its students' "
        "weights, items by id; of a run that knows less than half of the items, nothing is taken",
        affects_result=False,  # what was found there does (see `student.training`)
    )
    arch: Literal["gru", "transformer", "both"] = flag(
        "both", "what to train: a GRU, a Transformer, or both to choose by the benchmark"
    )
    item_table: Literal["fused", "plain"] = flag(
        "fused",
        "fused: an item's row is a projection of what the language model reads in its text, plus a "
        "residual; plain: a row of its own that starts at random",
    )
    budget: Budget | None = flag(
        None,
        "quick: GRUs have a short schedule, for CPUs; best: all a long one; not given: best on a "
        "GPU, else quick",
        affects_result=False,  # the numbers do that it stands for
    )
    hidden_dim: int | None = flag(
        None, "width of the student and of its item table; not given: by the data's density"
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
        None, "items sampled for the softmax, 0: all; not given: by the size of the data"
    )
    num_epochs: int | None = flag(
        None,
        "passes over the training sequences, at most; 0: ranks by texts, or as --init-from does; "
        "not given: by budget and size of the data",
    )
    refit_share: float | None = flag(
        None,
        "further training on the validation events too, once all is chosen, as a share of the "
        "epochs; 0: none; not given: by the budget",
    )
    patience: int = flag(4, "validations without a better one before stopping; 0: never")
    evaluate_every: int = flag(2, "epochs between validations")
    batch_size: int | None = flag(
        None, "windows per step, shared by the processes; not given: by the size of the data"
    )
    learning_rate: float | None = flag(None, "peak learning rate; not given: by the batch size")
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
        for name in ("kd_weight", "teacher_weight"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"--{name.replace('_', '-')} {value} is not between 0 and 1")
        if self.cold_item_scale is not None and self.cold_item_scale < 0:
            raise ValueError(f"--cold-item-scale {self.cold_item_scale} is below 0")
        if self.refit_share is not None and self.refit_share < 0:
            raise ValueError(f"--refit-share {self.refit_share} is below 0")
        if self.num_epochs is not None and self.num_epochs < 0:
            raise ValueError(f"--num-epochs {self.num_epochs} is below 0")
        for name in ("hidden_dim", "batch_size", "learning_rate", "num_threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"--{name.replace('_', '-')} {value} is not above 0")
        if self.temperature <= 0:
            raise ValueError(f"--temperature {self.temperature} is not above 0")


class FullDistillConfig(DistillConfig):
    """The flags with nothing left open: the same fields, of which these are not None."""

    budget: Budget
    hidden_dim: int
    keep_rest: bool
    num_negatives: int
    num_epochs: int
    refit_share: float
    batch_size: int
    learning_rate: float


def scheduled(config: DistillConfig, dataset: "SequenceDataset") -> FullDistillConfig:
    """Put what `seqrec.schedule` says, for one architecture, in place of what is left to it."""
    from seqrec.schedule import (
        WARM_EPOCHS,
        WARM_REFIT_SHARE,
        choose_budget,
        is_dense,
        num_negatives,
        student_learning_rate,
        student_refit_share,
        student_schedule,
        student_width,
    )
    from seqrec.warm_start import stated

    budget = config.budget or choose_budget(config.device)
    is_short = budget == "quick" and config.item_table == "fused" and config.arch == "gru"
    schedule = student_schedule(dataset, config.max_len, is_short=is_short)
    batch_size = config.batch_size or schedule.batch_size
    rules: dict[str, Any] = {
        "budget": budget,
        "hidden_dim": student_width(dataset),
        "keep_rest": is_dense(dataset),
        "num_epochs": schedule.num_epochs,
        "refit_share": student_refit_share(is_short=is_short),
        "batch_size": batch_size,
        "learning_rate": student_learning_rate(batch_size),
        "num_negatives": num_negatives(dataset),
    }
    if config.init_from is not None:
        rules |= {"num_epochs": WARM_EPOCHS, "refit_share": WARM_REFIT_SHARE}
        described = config.init_from / "students" / config.arch / "distilled" / "config.json"
        rules |= stated(described, "hidden_dim")
    left = {name: value for name, value in rules.items() if getattr(config, name) is None}
    return FullDistillConfig(**{**vars(config), **left})
