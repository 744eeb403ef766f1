"""Which models of other libraries are measured, and with what settings each is trained.

Our students' width on the same data and a history of 50 for all; the rest is what each library's
own documentation or examples use, or its default. RecBole's batches alone are smaller than its
default of 2,048 prefixes, of which an epoch of MovieLens-100K has 48: with 256 its GRU4Rec
validates better (.069 and .064), and in fewer epochs, which take minutes. `patience` counts epochs
without a better validation NDCG@10.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "workers"
WIDTH = "width"  # stands in settings for that of our students


@dataclass(frozen=True)
class Baseline:
    """A system that is trained once and served in one or more modes."""

    name: str
    worker: Path  # a script that `serving.main` runs
    requirements: Path  # of the environment that it runs in
    settings: Mapping[str, Any]
    modes: Mapping[str, str]  # the name in tables, by the worker's mode
    can_be_untrained: bool  # its worker can make a model without any events
    is_sparse: bool = False  # an answer takes a part of its weights alone

    def settings_at(self, width: int) -> dict[str, Any]:
        """Return the settings of a model of this width."""

        def filled(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: filled(inner) for name, inner in value.items()}
            return width if value == WIDTH else value

        return {name: filled(value) for name, value in self.settings.items()}


def _baseline(
    name: str, library: str, settings: Mapping[str, Any], modes: Mapping[str, str] | None = None
) -> Baseline:
    return Baseline(
        name=name,
        worker=HERE / f"{library}_worker.py",
        requirements=HERE / f"{library}.txt",
        settings={"max_len": 50, "max_epochs": 200, "patience": 10, **settings},
        modes=modes or {"torch": name},
        can_be_untrained=library in ("recbole", "replay"),
        is_sparse=library == "implicit",
    )


TRANSFORMER = {"hidden_dim": WIDTH, "num_blocks": 2, "num_heads": 2, "dropout": 0.2}
BASELINES = (
    _baseline(
        "implicit item-knn",
        "implicit",
        {"neighbours": [20, 50, 100, 200, 500]},
        {"numpy": "implicit item-knn"},
    ),
    _baseline(
        "replay sasrec",
        "replay",
        {**TRANSFORMER, "learning_rate": 1e-3, "batch_size": 128, "window_step": 25},
        {"torch": "replay sasrec", "openvino": "replay sasrec openvino"},
    ),
    _baseline(
        "recbole gru4rec",
        "recbole",
        {
            "model": "GRU4Rec",
            "model_settings": {
                "embedding_size": WIDTH,
                "hidden_size": WIDTH,
                "loss_type": "CE",
                "learning_rate": 1e-3,
                "train_batch_size": 256,
            },
        },
    ),
    _baseline(
        "recbole sasrec",
        "recbole",
        {
            "model": "SASRec",
            "model_settings": {
                "hidden_size": WIDTH,
                "loss_type": "CE",
                "learning_rate": 1e-3,
                "train_batch_size": 256,
            },
        },
    ),
    _baseline(
        "rectools sasrec", "rectools", {**TRANSFORMER, "learning_rate": 1e-3, "batch_size": 128}
    ),
)
