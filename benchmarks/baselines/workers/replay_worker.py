"""RePlay's SasRec, in PyTorch and compiled by its SasRecCompiled with OpenVINO.

Trained on sliding windows, as RePlay's documentation advises for long histories, with full
cross-entropy. RePlay numbers items from 0; the number after the last one is padding.
"""

import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import serving
import torch
from lightning.pytorch.callbacks import EarlyStopping
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import (
    PandasSequentialDataset,
    TensorFeatureInfo,
    TensorFeatureSource,
    TensorSchema,
)
from replay.models.nn.optimizer_utils import FatOptimizerFactory
from replay.models.nn.sequential.callbacks import ValidationMetricsCallback
from replay.models.nn.sequential.postprocessors import RemoveSeenItems
from replay.models.nn.sequential.sasrec import (
    SasRec,
    SasRecTrainingDataset,
    SasRecValidationDataset,
)
from serving import Exchange, IntArray, TorchModel, pad_to, rows_and_items
from torch.utils.data import DataLoader

LIBRARIES = ("replay-rec", "torch", "openvino")
ITEM, QUERY = "item_id", "user_id"
METRIC = "ndcg@10"
WEIGHTS = "weights.pt"


def make_schema(num_items: int, width: int) -> TensorSchema:
    """Describe the one feature, the item's number."""
    return TensorSchema(
        TensorFeatureInfo(
            name=ITEM,
            is_seq=True,
            cardinality=num_items,
            padding_value=num_items,
            embedding_dim=width,
            feature_type=FeatureType.CATEGORICAL,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)],
            feature_hint=FeatureHint.ITEM_ID,
        )
    )


def make_model(exchange: Exchange) -> SasRec:
    """Build the model with the settings of the exchange directory."""
    settings = exchange.settings
    return SasRec(
        make_schema(exchange.num_items, settings["hidden_dim"]),
        block_count=settings["num_blocks"],
        head_count=settings["num_heads"],
        hidden_size=settings["hidden_dim"],
        max_seq_len=settings["max_len"],
        dropout_rate=settings["dropout"],
        loss_type="CE",
        optimizer_factory=FatOptimizerFactory(learning_rate=settings["learning_rate"]),
    )


def as_sequences(
    schema: TensorSchema, users: Any, sequences: list[np.ndarray]
) -> PandasSequentialDataset:
    """Bring sequences of our item numbers into RePlay's form."""
    frame = pd.DataFrame({QUERY: users, ITEM: [sequence - 1 for sequence in sequences]})
    return PandasSequentialDataset(schema, QUERY, ITEM, frame)


class Recorder(lightning.Callback):
    """Notes what validation measures after each epoch, and ends it all when the time is over."""

    def __init__(self, exchange: Exchange, output: Path) -> None:
        self.values: list[float] = []
        self._exchange, self._weights = exchange, output / WEIGHTS

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Note the metric, and keep the best weights."""
        value = float(trainer.callback_metrics[METRIC])
        serving.note(self.values, value, lambda: torch.save(pl_module.state_dict(), self._weights))
        trainer.should_stop |= self._exchange.is_over()


def validation(
    exchange: Exchange, schema: TensorSchema
) -> tuple[DataLoader, list[lightning.Callback]]:
    """Return the validation batches, and the callbacks that measure and stop."""
    users = exchange.valid[:, 0]
    histories = as_sequences(schema, users, [exchange.sequences[user] for user in users])
    targets = as_sequences(schema, users, [exchange.valid[i : i + 1, 1] for i in range(len(users))])
    batches = DataLoader(
        SasRecValidationDataset(
            histories, targets, histories, max_sequence_length=exchange.settings["max_len"]
        ),
        batch_size=exchange.settings["batch_size"],
    )
    seen = [RemoveSeenItems(histories)] if exchange.exclude_seen else []
    patience = exchange.settings["patience"]
    return batches, [
        ValidationMetricsCallback(["ndcg"], [10], seen, item_count=exchange.num_items),
        EarlyStopping(METRIC, mode="max", patience=patience),
    ]


def train(exchange: Exchange, output: Path, num_epochs: int) -> list[float]:
    """Train; see `serving`."""
    lightning.seed_everything(exchange.seed)
    settings, recorder = exchange.settings, Recorder(exchange, output)
    model = make_model(exchange)
    schema = make_schema(exchange.num_items, settings["hidden_dim"])
    lengths = np.diff(exchange.offsets)
    users = np.flatnonzero(lengths >= 2)  # one event has nothing to predict
    windows = SasRecTrainingDataset(
        as_sequences(schema, users, [exchange.sequences[user] for user in users]),
        max_sequence_length=settings["max_len"],
        sliding_window_step=settings["window_step"],
    )
    batches = DataLoader(windows, batch_size=settings["batch_size"], shuffle=True)
    valid_batches: DataLoader | None = None
    callbacks: list[Any] = []
    if num_epochs == 0:
        valid_batches, callbacks = validation(exchange, schema)
        callbacks = [*callbacks, recorder]
    trainer = lightning.Trainer(
        max_epochs=num_epochs or settings["max_epochs"],
        accelerator=exchange.device,
        devices=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, batches, valid_batches)
    if num_epochs:
        torch.save(model.state_dict(), output / WEIGHTS)
    return recorder.values


class SasRecModel(TorchModel):
    """SasRec in PyTorch."""

    def __init__(self, folder: Path, exchange: Exchange) -> None:
        torch.manual_seed(exchange.seed)
        super().__init__(make_model(exchange), folder / WEIGHTS, exchange)
        self._padding = exchange.num_items

    def prepare(self, items: IntArray, excluded: IntArray, k: int) -> Any:
        """Return RePlay's batch, the columns to leave out, and k."""
        padded = pad_to(items, self.max_len, left=True)
        batch = {
            "feature_tensor": {
                ITEM: torch.from_numpy(np.where(padded > 0, padded - 1, self._padding))
            },
            "padding_mask": torch.from_numpy(padded > 0),
        }
        rows, numbers = rows_and_items(excluded)
        return batch, (torch.from_numpy(rows), torch.from_numpy(numbers - 1)), k

    def predict(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return RePlay's scores (B, I)."""
        scores: torch.Tensor = self.model.predict(batch)
        return scores

    def unpack(self, answered: Any, k: int) -> Any:
        """Return item numbers and scores (B, K)."""
        scores, items = answered
        return items.numpy() + 1, scores.numpy()


class CompiledModel(SasRecModel):
    """SasRec compiled with OpenVINO, once for each batch size that is asked for.

    OpenVINO computes in bf16 on processors that can, without a word; `precision` says which.
    """

    def __init__(self, folder: Path, exchange: Exchange) -> None:
        super().__init__(folder, exchange)
        self._by_batch: dict[int, Any] = {}
        self._onnx = folder / "model.onnx"
        kind = self._compiled(1)._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.precision = {"f32": "fp32"}.get(kind, kind)
        self.size_bytes = self._onnx.stat().st_size

    def _compiled(self, batch_size: int) -> Any:
        from replay.models.nn.sequential.compiled import SasRecCompiled

        if batch_size not in self._by_batch:
            self._by_batch[batch_size] = SasRecCompiled.compile(
                self.model,
                mode="batch",
                batch_size=batch_size,
                num_threads=torch.get_num_threads(),
                onnx_path=str(self._onnx),
            )
        return self._by_batch[batch_size]

    def prepare(self, items: IntArray, excluded: IntArray, k: int) -> Any:
        """As in PyTorch; what is missing is compiled before the clock starts."""
        self._compiled(len(items))
        return super().prepare(items, excluded, k)

    def predict(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return RePlay's scores (B, I)."""
        scores: torch.Tensor = self._by_batch[len(batch["padding_mask"])].predict(batch)
        return scores


def open_model(folder: Path, exchange: Exchange, mode: str) -> SasRecModel:
    """Open the model in one of its modes."""
    return SasRecModel(folder, exchange) if mode == "torch" else CompiledModel(folder, exchange)


if __name__ == "__main__":
    serving.main(sys.modules[__name__])
