"""RecBole's GRU4Rec and SASRec, trained with cross-entropy on every prefix of every sequence.

RecBole gives items numbers of its own, those of the training events alone; `items.npy` keeps them.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import serving
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed
from serving import Exchange, IntArray, TorchModel, pad_to, rows_and_items

LIBRARIES = ("recbole", "torch")
USER, ITEM, TIME = "user_id", "item_id", "timestamp"
NAME = "events"
WEIGHTS, ITEMS = "weights.pt", "items.npy"


def make_config(exchange: Exchange, num_epochs: int) -> Config:
    """Return RecBole's configuration; what is not said here is as RecBole has it."""
    settings = exchange.settings
    return Config(
        model=settings["model"],
        dataset=NAME,
        config_dict={
            "data_path": ".",
            "checkpoint_dir": ".",
            "load_col": {"inter": [USER, ITEM, TIME]},
            "eval_args": {
                "split": {"RS": [1.0, 0.0, 0.0]},
                "group_by": "none",
                "order": "TO",
                "mode": "full",
            },
            "train_neg_sample_args": None,  # cross-entropy over all items needs none
            "MAX_ITEM_LIST_LENGTH": settings["max_len"],
            "epochs": num_epochs,
            "stopping_step": settings["patience"],
            "metrics": ["NDCG"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "metric_decimal_place": 6,
            "use_gpu": exchange.device == "cuda",
            "show_progress": False,
            "seed": exchange.seed,
            **settings["model_settings"],
        },
    )


def write_events(exchange: Exchange) -> None:
    """Write RecBole's file of events: positions serve as times, validation targets come last."""
    lines = [f"{USER}:token\t{ITEM}:token\t{TIME}:float"]
    target_of = dict(exchange.valid.tolist())
    for user, known in enumerate(exchange.sequences):
        sequence = [*known.tolist(), *([target_of[user]] if user in target_of else [])]
        lines += [f"{user}\t{item}\t{position}" for position, item in enumerate(sequence)]
    folder = Path(NAME)
    folder.mkdir()
    (folder / f"{NAME}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


def split(exchange: Exchange, dataset: Any) -> tuple[Any, Any]:
    """Return RecBole's prefixes with the events to train on as targets, and those to validate."""
    whole = dataset.build()[0]
    rows = whole.inter_feat
    users = dataset.id2token(USER, rows[USER].numpy()).astype(np.int64)
    lengths = np.diff(exchange.offsets)
    valid_position = np.full(len(lengths), -1)
    valid_position[exchange.valid[:, 0]] = lengths[exchange.valid[:, 0]]
    held_out = rows[TIME].numpy().astype(np.int64) == valid_position[users]
    return tuple(whole.copy(rows[np.flatnonzero(mask)]) for mask in (~held_out, held_out))


def train(exchange: Exchange, output: Path, num_epochs: int) -> list[float]:
    """Train; see `serving`."""
    config = make_config(exchange, num_epochs or exchange.settings["max_epochs"])
    init_seed(exchange.seed, reproducibility=True)
    write_events(exchange)
    dataset = create_dataset(config)
    to_train, to_validate = split(exchange, dataset)
    batches = TrainDataLoader(config, to_train, sampler=None, shuffle=True)
    valid_batches = None
    if num_epochs == 0:
        valid_batches = FullSortEvalDataLoader(config, to_validate, sampler=None)
    model = get_model(exchange.settings["model"])(config, to_train).to(config["device"])
    values: list[float] = []

    def save() -> None:
        torch.save(model.state_dict(), output / WEIGHTS)

    def after_epoch(_: int, value: float) -> None:
        serving.note(values, float(value), save)
        if exchange.is_over():
            raise TimeoutError  # RecBole has no gentler way to stop

    with contextlib.suppress(TimeoutError):
        # Not saved: it pickles. The weights are kept by ourselves.
        Trainer(config, model).fit(batches, valid_batches, saved=False, callback_fn=after_epoch)
    if num_epochs:
        save()
    tokens = dataset.field2id_token[ITEM][1:]  # number 0 is padding
    np.save(output / ITEMS, np.concatenate([[0], tokens.astype(np.int64)]))
    return values


class Catalogue:
    """As much of RecBole's data set as its models ask for."""

    def __init__(self, num_items: int) -> None:
        self._num_items = num_items  # padding included

    def num(self, field: str) -> int:
        """Return the number of items."""
        return self._num_items


class RecboleModel(TorchModel):
    """A model of RecBole's."""

    def __init__(self, folder: Path, exchange: Exchange) -> None:
        # RecBole's number to ours, and ours to RecBole's.
        everything = np.arange(exchange.num_items + 1)
        self._items = everything if exchange.is_untrained else np.load(folder / ITEMS)
        self._numbers = np.zeros(exchange.num_items + 1, dtype=np.int64)
        self._numbers[self._items] = np.arange(len(self._items))
        torch.manual_seed(exchange.seed)
        make, config = get_model(exchange.settings["model"]), make_config(exchange, 1)
        super().__init__(make(config, Catalogue(len(self._items))), folder / WEIGHTS, exchange)

    def prepare(self, items: IntArray, excluded: IntArray, k: int) -> Any:
        """Return RecBole's interaction, the columns to leave out, and k."""
        known = pad_to(self._numbers[items], max(items.shape[1], 1), left=False)
        lengths = np.maximum((known > 0).sum(axis=1), 1)  # it reads the place before this one
        interaction = Interaction(
            {f"{ITEM}_list": torch.from_numpy(known), "item_length": torch.from_numpy(lengths)}
        )
        rows, numbers = rows_and_items(excluded)
        padding = np.zeros(len(items), dtype=np.int64)
        left_out = (
            np.concatenate([rows, np.arange(len(items))]),
            np.concatenate([self._numbers[numbers], padding]),
        )
        return interaction, tuple(map(torch.from_numpy, left_out)), k

    def predict(self, batch: Interaction) -> torch.Tensor:
        """Return RecBole's scores, of its own numbers of items."""
        scores: torch.Tensor = self.model.full_sort_predict(batch)
        return scores

    def unpack(self, answered: Any, k: int) -> Any:
        """Return item numbers and scores (B, K)."""
        scores, columns = answered
        return self._items[columns.numpy()], scores.numpy()


def open_model(folder: Path, exchange: Exchange, mode: str) -> RecboleModel:
    """Open the model."""
    return RecboleModel(folder, exchange)


if __name__ == "__main__":
    serving.main(sys.modules[__name__])
