"""Which models of other libraries are measured, and with what settings and flags each is trained.

Our students' width on the same data and a history of 50 for all; the rest is what each library's
own documentation or examples use, or its default. RecBole's batches alone are smaller than its
default of 2,048 prefixes, of which an epoch of MovieLens-100K has 48: with 256 its GRU4Rec
validates better (.069 and .064), and in fewer epochs, which take minutes. eSASRec has what its
authors found best on all sets (arXiv:2508.06450, github.com/blondered/transformer_benchmark).
UniSRec has the optimizer of RecTools' own benchmark of it: with the learning rate of .0001 of its
guide it has hardly begun after three epochs of MovieLens-100K (.022 and .036). `patience` counts
epochs without a better validation NDCG@10.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqrec.config import flag

from benchmarks.latency import LatencyConfig
from benchmarks.report.schema import Identity

HERE = Path(__file__).parent / "workers"
Settings = Callable[[int], dict[str, Any]]  # of a model of a width


@dataclass(frozen=True)
class Baseline:
    """A system that is trained once and served in one or more modes."""

    name: str
    worker: Path  # a script that `serving.main` runs
    requirements: Path  # of the environment that it runs in
    settings: Settings
    modes: Mapping[str, str]  # the name in tables, by the worker's mode
    can_be_untrained: bool  # its worker can make a model without any events
    is_sparse: bool = False  # an answer takes a part of its weights alone
    reads_texts: bool = False  # needs the knowledge of our own students

    @property
    def folder_name(self) -> str:
        """Where its models are, below the folder of all baselines."""
        return self.name.replace(" ", "-")

    def identity(self, mode: str) -> Identity:
        """Who it is in tables; its worker knows the precision."""
        role = "texts" if self.reads_texts else None
        return Identity(system=self.modes[mode], precision="-", family="baseline", role=role)


def _baseline(
    name: str,
    library: str,
    settings: Settings,
    modes: Mapping[str, str] | None = None,
    worker: str | None = None,  # of its own; else the library has one
) -> Baseline:
    common = {"max_len": 50, "max_epochs": 200, "patience": 10}
    return Baseline(
        name=name,
        worker=HERE / f"{worker or library}_worker.py",
        requirements=HERE / f"{library}.txt",
        settings=lambda width: {**common, **settings(width)},
        modes=modes or {"torch": name},
        can_be_untrained=library in ("recbole", "replay"),
        is_sparse=library == "implicit",
        reads_texts=worker == "unisrec",
    )


def _transformer(width: int) -> dict[str, Any]:
    shape = {"hidden_dim": width, "num_blocks": 2, "num_heads": 2, "dropout": 0.2}
    return {**shape, "learning_rate": 1e-3, "batch_size": 128}


def _rectools(**others: Any) -> Settings:
    return lambda width: {**_transformer(width), "window_step": 50, **others}


ESASREC = {
    "transformer_layers_type": "rectools.models.nn.transformers.ligr.LiGRLayers",
    "use_key_padding_mask": True,
    "loss": "sampled_softmax",
    "n_negatives": 256,
}
UNISREC = {"optimizer": "adam", "weight_decay": 0.0}


def _recbole(model: str, *widths: str) -> Settings:
    common = {"loss_type": "CE", "learning_rate": 1e-3, "train_batch_size": 256}
    return lambda width: {
        "model": model,
        "model_settings": {**dict.fromkeys(widths, width), **common},
    }


BASELINES = (
    _baseline(
        "implicit item-knn",
        "implicit",
        lambda _: {"neighbours": [20, 50, 100, 200, 500]},
        {"numpy": "implicit item-knn"},
    ),
    _baseline(
        "replay sasrec",
        "replay",
        lambda width: {**_transformer(width), "window_step": 25},
        {"torch": "replay sasrec", "openvino": "replay sasrec openvino"},
    ),
    _baseline("recbole gru4rec", "recbole", _recbole("GRU4Rec", "embedding_size", "hidden_size")),
    _baseline("recbole sasrec", "recbole", _recbole("SASRec", "hidden_size")),
    _baseline("rectools sasrec", "rectools", _rectools()),
    _baseline("rectools esasrec", "rectools", _rectools(model_settings=ESASREC)),
    _baseline(
        "rectools unisrec",
        "rectools",
        _rectools(dropout=0.1, model_settings=UNISREC),
        worker="unisrec",
    ),
)


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig(LatencyConfig):
    """Flags of `benchmarks.baselines`: those of `benchmarks.latency`, and these."""

    names: tuple[str, ...] = flag((), "these baselines alone, by their names in the table")
    minutes: float = flag(0, "CPU minutes in which each chooses its number of epochs; 0: no limit")
    train_device: Literal["cpu", "cuda"] = flag(
        "cpu", "where they are trained; they are timed on the CPU"
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if strange := set(self.names) - {baseline.name for baseline in BASELINES}:
            raise ValueError(
                f"--names {min(strange)!r} is none of "
                + ", ".join(repr(baseline.name) for baseline in BASELINES)
            )
        if self.minutes < 0:
            raise ValueError(f"--minutes {self.minutes:g} is below 0")
