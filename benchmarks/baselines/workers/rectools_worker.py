"""RecTools' SASRec with softmax loss, and its eSASRec.

RecTools trains on the newest `max_len` targets of each user alone, so that it is given the windows
of a training sequence as users of their own (`serving.cut_windows`): it learns from every target,
the newest ones with the histories that it would have given them itself. Users who are answered, in
validation too, have their real histories.

It measures no NDCG while it trains: after each epoch its own `recommend` is asked for the users who
validate. It answers users of a data set, so a history is made one before the clock starts.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning
import serving
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from serving import Exchange, IntArray

LIBRARIES = ("rectools", "torch")
CHECKPOINT = "model.ckpt"
SUFFICES = 10
START = pd.Timestamp("2000-01-01")


def as_dataset(users: Any, sequences: list[Any]) -> Dataset:
    """Bring sequences of our item numbers into RecTools' form, positions as seconds."""
    lengths = [len(sequence) for sequence in sequences]
    positions = np.concatenate([np.arange(length) for length in lengths])
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(users, lengths),
            Columns.Item: np.concatenate(sequences).astype(np.int64),
            Columns.Weight: 1.0,
            Columns.Datetime: START + pd.to_timedelta(positions, unit="s"),
        }
    )
    return Dataset.construct(frame)


def make_model(exchange: Exchange, num_epochs: int) -> SASRecModel:
    """Build the model with the settings of the exchange directory."""
    settings = exchange.settings
    parameters = {
        "n_blocks": settings["num_blocks"],
        "n_heads": settings["num_heads"],
        "n_factors": settings["hidden_dim"],
        "dropout_rate": settings["dropout"],
        "session_max_len": settings["max_len"],
        "loss": "softmax",
        "lr": settings["learning_rate"],
        "batch_size": settings["batch_size"],
        "epochs": num_epochs,
        "deterministic": True,
        "recommend_torch_device": exchange.device,
    }
    return SASRecModel.from_params({**parameters, **settings.get("model_settings", {})})


def validate(model: SASRecModel, exchange: Exchange, dataset: Dataset) -> float:
    """Return NDCG@10 of the validation targets, ranked as the headline protocol does."""
    users, targets = exchange.valid.T
    lists = model.recommend(
        users=users, dataset=dataset, k=SUFFICES, filter_viewed=exchange.exclude_seen
    )
    ranks = {
        (user, item): rank
        for user, item, rank in lists[[Columns.User, Columns.Item, Columns.Rank]].to_numpy()
    }
    return serving.ndcg_at_10(
        [ranks.get(pair, np.inf) for pair in zip(users, targets, strict=True)]
    )


def train(exchange: Exchange, output: Path, num_epochs: int) -> list[float]:
    """Train; see `serving`."""
    pytorch_lightning.seed_everything(exchange.seed)
    windows = exchange.windows()
    to_train_on = as_dataset(np.arange(len(windows)), windows)
    values: list[float] = []
    if num_epochs:
        model = make_model(exchange, num_epochs)
        model.fit(to_train_on)
        model.fit_trainer.save_checkpoint(output / CHECKPOINT)
        return values
    dataset = as_dataset(np.arange(len(exchange.sequences)), exchange.sequences)
    most = exchange.settings["max_epochs"]
    model = make_model(exchange, most)  # it loads no checkpoint of a later epoch
    for epoch in range(most):
        model.fit_partial(to_train_on, min_epochs=1, max_epochs=1)
        value = validate(model, exchange, dataset)
        serving.note(values, value, lambda: model.fit_trainer.save_checkpoint(output / CHECKPOINT))
        waited = epoch - int(np.argmax(values))
        if waited >= exchange.settings["patience"] or exchange.is_over():
            break
    return values


class Recommender:
    """SASRec, asked through its `recommend`."""

    precision = "fp32"

    def __init__(self, folder: Path, exchange: Exchange) -> None:
        # A Lightning checkpoint that we wrote ourselves: RecTools has no other way to load one.
        self._model = SASRecModel.load_from_checkpoint(folder / CHECKPOINT, map_location="cpu")
        self._model.recommend_torch_device = "cpu"  # a training's may have been another
        self.max_len = exchange.settings["max_len"]
        parameters = list(self._model.torch_model.parameters())
        self.num_parameters = sum(p.numel() for p in parameters)
        self.size_bytes = sum(p.numel() * p.element_size() for p in parameters)

    def prepare(self, items: IntArray, excluded: IntArray, k: int) -> Any:
        """Return the arguments of `recommend`: what is to be left out is in the histories."""
        histories = []
        for shown, left_out in zip(items, excluded, strict=True):
            shown = shown[shown > 0]
            older = [item for item in left_out[left_out > 0] if item not in shown]
            if excluded.shape[1] and len(np.setdiff1d(shown, left_out)):
                raise ValueError("RecTools can leave out all that a user has met, or nothing")
            histories.append(np.concatenate([older, shown]).astype(np.int64))
        users = np.arange(len(histories))
        return {
            "users": users,
            "dataset": as_dataset(users, histories),
            "k": k,
            "filter_viewed": excluded.shape[1] > 0,
            "on_unsupported_targets": "ignore",
        }

    def answer(self, prepared: Any) -> Any:
        """Let RecTools do it all."""
        return len(prepared["users"]), self._model.recommend(**prepared)

    def unpack(self, answered: Any, k: int) -> Any:
        """Return item numbers and scores (B, K)."""
        num_users, table = answered
        items = np.zeros((num_users, k), dtype=np.int64)
        scores = np.full((num_users, k), -np.inf, dtype=np.float32)
        rows, columns = table[Columns.User].to_numpy(), table[Columns.Rank].to_numpy() - 1
        items[rows, columns] = table[Columns.Item].to_numpy()
        scores[rows, columns] = table[Columns.Score].to_numpy()
        return items, scores


def open_model(folder: Path, exchange: Exchange, mode: str) -> Recommender:
    """Open the model."""
    torch.set_grad_enabled(False)
    return Recommender(folder, exchange)


if __name__ == "__main__":
    serving.main(sys.modules[__name__])
