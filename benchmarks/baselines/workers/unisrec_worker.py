"""RecTools' UniSRec: a Transformer over item texts that a language model has read.

Its texts are those that our students are given. RecTools trains it on the newest `max_len` targets
of each user alone, and knows the items of its events alone, so that it is given the windows of a
training sequence as users of their own (`serving.cut_windows`), and each item as the only event of
one more: it trains on no such user, and its numbers of items are ours.

It measures no NDCG while it trains; a callback does after each epoch, as its documentation ranks:
by the product of the last state and all projected items.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning
import serving
import torch
from pytorch_lightning.callbacks import Callback
from rectools.fast_transformers import UniSRecModel, UniSRecNet
from serving import Exchange, IntArray, TorchModel, pad_to, rows_and_items

LIBRARIES = ("rectools", "torch")
WEIGHTS = "weights.pt"
USERS_AT_ONCE = 256


def text_vectors(exchange: Exchange) -> torch.Tensor:
    """Return what is known of the items' texts, float32 (I + 1, C)."""
    return torch.from_numpy(exchange.texts.astype(np.float32))


def shape(exchange: Exchange) -> dict[str, Any]:
    """Return what RecTools calls the architecture."""
    settings = exchange.settings
    return {
        "n_factors": settings["hidden_dim"],
        "n_blocks": settings["num_blocks"],
        "n_heads": settings["num_heads"],
        "session_max_len": settings["max_len"],
        "dropout": settings["dropout"],
    }


class Model(UniSRecModel):
    """UniSRec with a callback; RecTools takes none."""

    callback: Callback

    def _make_trainer(self, *args: Any, **kwargs: Any) -> pytorch_lightning.Trainer:
        trainer = super()._make_trainer(*args, **kwargs)
        trainer.callbacks.append(self.callback)
        return trainer


class Validation(Callback):
    """Notes NDCG@10 after each epoch, keeps the best weights, and says when it is enough."""

    def __init__(self, exchange: Exchange, output: Path) -> None:
        self.values: list[float] = []
        self._exchange, self._weights = exchange, output / WEIGHTS

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Rank the validation targets as the headline protocol does."""
        net = pl_module.net.eval()
        value = serving.ndcg_at_10(validation_ranks(net, self._exchange))
        net.train()
        serving.note(self.values, value, lambda: torch.save(net.state_dict(), self._weights))
        waited = len(self.values) - 1 - int(np.argmax(self.values))
        is_enough = waited >= self._exchange.settings["patience"]
        trainer.should_stop |= is_enough or self._exchange.is_over()


@torch.no_grad()
def validation_ranks(net: UniSRecNet, exchange: Exchange) -> list[int]:
    """Return the ranks of the validation targets."""
    items, ranks = net.project_all(), []
    for start in range(0, len(exchange.valid), USERS_AT_ONCE):
        part = exchange.valid[start : start + USERS_AT_ONCE]
        histories = [exchange.sequences[user] for user in part[:, 0]]
        scores = net.encode_last(as_inputs(histories, exchange).to(items.device)) @ items.T
        scores[:, 0] = float("-inf")  # padding
        for own, history, target in zip(scores, histories, part[:, 1], strict=True):
            if exchange.exclude_seen:
                own[history] = float("-inf")
            ranks.append(1 + int((own > own[target]).sum()))
    return ranks


def as_inputs(histories: list[Any], exchange: Exchange) -> torch.Tensor:
    """Return the newest events of histories, int64 (B, T), left-padded."""
    max_len = exchange.settings["max_len"]
    return torch.from_numpy(
        np.concatenate([pad_to(one[None], max_len, left=True) for one in histories])
    )


def train(exchange: Exchange, output: Path, num_epochs: int) -> list[float]:
    """Train; see `serving`."""
    pytorch_lightning.seed_everything(exchange.seed)
    settings = exchange.settings
    model = Model(
        text_vectors(exchange),
        **shape(exchange),
        epochs=num_epochs or settings["max_epochs"],
        lr=settings["learning_rate"],
        batch_size=settings["batch_size"],
        **settings["model_settings"],
    )
    validation = Validation(exchange, output)
    model.callback = Callback() if num_epochs else validation
    windows = exchange.windows()
    windows += list(np.arange(1, exchange.num_items + 1)[:, None])  # see above
    lengths = [len(window) for window in windows]
    users, items = np.repeat(np.arange(len(windows)), lengths), np.concatenate(windows)
    positions = np.concatenate([np.arange(length) for length in lengths])
    model.fit(*(torch.from_numpy(array.astype(np.int64)) for array in (users, items, positions)))
    if num_epochs:
        torch.save(model.net.state_dict(), output / WEIGHTS)
    return validation.values


class Recommender(TorchModel):
    """UniSRec, its items projected once."""

    def __init__(self, folder: Path, exchange: Exchange) -> None:
        net = UniSRecNet(exchange.num_items, text_vectors(exchange), **shape(exchange))
        super().__init__(net, folder / WEIGHTS, exchange)
        with torch.no_grad():
            self._items = net.project_all()
        self.num_parameters += self._items.numel()  # an answer takes them, and no text

    def prepare(self, items: IntArray, excluded: IntArray, k: int) -> Any:
        """Return the padded histories, what to leave out (padding, too), and k."""
        rows, numbers = rows_and_items(excluded)
        left_out = (
            np.concatenate([rows, np.arange(len(items))]),
            np.concatenate([numbers, np.zeros(len(items), dtype=np.int64)]),
        )
        inputs = torch.from_numpy(pad_to(items, self.max_len, left=True))
        return inputs, tuple(map(torch.from_numpy, left_out)), k

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        """Return scores (B, I + 1)."""
        scores: torch.Tensor = self.model.encode_last(batch) @ self._items.T
        return scores

    def unpack(self, answered: Any, k: int) -> Any:
        """Return item numbers and scores (B, K)."""
        scores, items = answered
        return items.numpy(), scores.numpy()


def open_model(folder: Path, exchange: Exchange, mode: str) -> Recommender:
    """Open the model."""
    return Recommender(folder, exchange)


if __name__ == "__main__":
    serving.main(sys.modules[__name__])
