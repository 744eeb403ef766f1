"""What the workers have in common. It runs in a library's environment and imports nothing of ours.

    worker.py train FOLDER NUM_EPOCHS MINUTES DEVICE
    worker.py serve FOLDER MODE

FOLDER/exchange holds what a training may know. 0 epochs: their number is chosen by the validation
targets, and once MINUTES are over (0: never) the epoch that is running is the last; the weights are
those of the best one. Minutes are those of CPU time: a busy machine changes nothing. Training
writes `trained.json` beside the weights: num_epochs, minutes, cut_short (the time was over before
validation said to stop), valid_ndcg@10 after each epoch where that was measured, device ("cpu" or
the GPU's name), and versions. Of an exchange without events a model is served whose weights are
random, by libraries that can make one: it answers as fast as a trained one.

Serving answers lines of JSON on stdin with lines of JSON on stdout. The first line says what is
served: precision, size_bytes, num_parameters, max_len, versions. Then, for each line with
`requests`, a list of objects with items (B, T) left-padded with 0, excluded (B, E), and k, one line
with `answers`, a list of objects with items (B, K), scores (B, K), and wall_ns and cpu_ns of the
library's own call and, where it returns scores alone, of leaving out and top-k.

A worker is a module with `LIBRARIES` (names of packages, for their versions) and

    train(exchange, output, num_epochs)   writes weights into `output`, which is also the working
                                          directory; returns NDCG@10 after each epoch
    open_model(folder, exchange, mode)    returns a model of what was written

A model has `precision`, `num_parameters`, `size_bytes`, `max_len`, and

    prepare(items, excluded, k)   brings a request into the form that the library takes; not timed
    answer(prepared)              lets the library answer; timed
    unpack(answered, k)           brings an answer into arrays (B, K) of items and scores; not timed
"""

import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
PAD = 0


@dataclass(frozen=True)
class Exchange:
    """What a training may know; see `baselines/training.py`."""

    events: NDArray[np.int32]  # (E,)
    offsets: IntArray  # (U + 1,)
    valid: IntArray  # (V, 2), user and target
    num_items: int
    exclude_seen: bool
    seed: int
    settings: dict[str, Any]
    deadline: float = math.inf  # by time.process_time; for choosing the number of epochs
    device: str = "cpu"  # or "cuda"; of the training
    texts: NDArray[np.float16] | None = None  # (I + 1, C), of a model that reads them

    @classmethod
    def open(cls, folder: Path, minutes: float = 0, device: str = "cpu") -> "Exchange":
        """Read what is in `folder/exchange`; the minutes are counted from now."""
        meta = json.loads((folder / "exchange" / "meta.json").read_text(encoding="utf-8"))
        deadline = time.process_time() + 60 * minutes if minutes else math.inf
        texts = folder / "exchange" / "texts.npy"
        with np.load(folder / "exchange" / "events.npz") as arrays:
            return cls(
                **arrays,
                **meta,
                deadline=deadline,
                device=device,
                texts=np.load(texts) if texts.is_file() else None,
            )

    def is_over(self) -> bool:
        """Tell whether the time for choosing is over."""
        return time.process_time() >= self.deadline

    @property
    def is_untrained(self) -> bool:
        """Whether there is nothing to learn from: weights are random."""
        return not len(self.events)

    @cached_property
    def sequences(self) -> list[NDArray[np.int32]]:
        """Each user's events in time order, int32 (T,)."""
        return np.split(self.events, self.offsets[1:-1])

    def windows(self) -> list[NDArray[np.int32]]:
        """Return all users' windows; see `cut_windows`."""
        max_len, step = self.settings["max_len"], self.settings["window_step"]
        return [window for one in self.sequences for window in cut_windows(one, max_len, step)]


def main(library: Any) -> None:
    """Run a worker."""
    output = _keep_stdout()
    command, *arguments = sys.argv[1:]
    folder = Path(arguments[0])
    if command == "train":
        _, num_epochs, minutes, device = arguments
        exchange = Exchange.open(folder, float(minutes), device)
        _train(library, exchange, folder, int(num_epochs))
    else:
        _serve(library, folder, arguments[1], output)


def _keep_stdout() -> Any:
    """Keep stdout for answers; what libraries print goes to stderr."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def _train(library: Any, exchange: Exchange, output: Path, num_epochs: int) -> None:
    os.chdir(output)
    start = time.process_time()
    values = library.train(exchange, output, num_epochs)
    waited = len(values) - 1 - int(np.argmax(values)) if values else 0
    trained = {
        "num_epochs": num_epochs or len(values) - waited,
        "minutes": (time.process_time() - start) / 60,
        "cut_short": exchange.is_over() and waited < exchange.settings["patience"],
        "valid_ndcg@10": values,
        "device": _device_name(library, exchange.device),
        "versions": versions(library),
    }
    (output / "trained.json").write_text(json.dumps(trained, indent=2) + "\n", encoding="utf-8")


def _serve(library: Any, folder: Path, mode: str, output: Any) -> None:
    model = library.open_model(folder, Exchange.open(folder), mode)
    names = ("precision", "num_parameters", "size_bytes", "max_len")
    description = {name: getattr(model, name) for name in names}
    description["versions"] = versions(library)
    gc.collect()
    gc.freeze()  # what libraries have loaded need not be gone through before each request
    print(json.dumps(description), file=output, flush=True)  # noqa: T201
    for line in sys.stdin:
        answered = answer_all(model, json.loads(line)["requests"])
        print(json.dumps({"answers": answered}), file=output, flush=True)  # noqa: T201


def versions(library: Any) -> dict[str, str]:
    """Return the versions of a worker's libraries."""
    return {name: version(name) for name in library.LIBRARIES}


def _device_name(library: Any, device: str) -> str:
    """Return what a training ran on: "cpu", or the name of the GPU."""
    if device == "cpu" or "torch" not in library.LIBRARIES:  # implicit's neighbours need no GPU
        return "cpu"
    import torch

    return torch.cuda.get_device_name()


def answer_all(model: Any, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answer requests one after another, nothing but the answering between two of them."""
    prepared = [
        model.prepare(as_rows(request["items"]), as_rows(request["excluded"]), request["k"])
        for request in requests
    ]
    answered = []
    gc.collect()
    gc.disable()
    try:
        for request in prepared:
            cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            answer = model.answer(request)
            durations = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
            answered.append((answer, durations))
    finally:
        gc.enable()
    answers = []
    for request, (answer, (wall, cpu)) in zip(requests, answered, strict=True):
        items, scores = map(np.ndarray.tolist, model.unpack(answer, request["k"]))
        answers.append({"items": items, "scores": scores, "wall_ns": wall, "cpu_ns": cpu})
    return answers


def as_rows(rows: Sequence[Sequence[int]]) -> IntArray:
    """Return int64 (B, T) of equally long lists, which may be empty."""
    return np.array(rows, dtype=np.int64).reshape(len(rows), -1)


def pad_to(items: IntArray, width: int, *, left: bool) -> IntArray:
    """Return left-padded histories (B, T) as (B, width), padded on one side.

    >>> pad_to(np.array([[0, 7, 8]]), 4, left=False).tolist()
    [[7, 8, 0, 0]]
    """
    padded = np.full((len(items), width), PAD, dtype=np.int64)
    for row, history in zip(padded, items, strict=True):
        real = history[history != PAD][-width:]
        if len(real):
            row[slice(-len(real), None) if left else slice(len(real))] = real
    return padded


def cut_windows(sequence: NDArray[Any], max_len: int, step: int) -> list[NDArray[Any]]:
    """Return windows of up to `max_len` inputs and the target after each, cut from the newest end.

    With a step of `max_len`, neighbours share one event, the newest target of the older window and
    the first input of the newer one, and each event but a user's first is a target exactly once.

    >>> [window.tolist() for window in cut_windows(np.arange(6), 2, 2)]
    [[3, 4, 5], [1, 2, 3], [0, 1]]
    """
    ends = range(len(sequence), 1, -step)
    return [sequence[max(end - max_len - 1, 0) : end] for end in ends]


def rows_and_items(excluded: IntArray) -> tuple[IntArray, IntArray]:
    """Return rows and item numbers of what excluded (B, E) names, padding left out."""
    rows, columns = np.nonzero(excluded)
    return rows, excluded[rows, columns]


class TorchModel:
    """A model in PyTorch that returns scores alone.

    Its `prepare` returns a batch for `predict`, two tensors, rows and columns of what is to be left
    out of the scores (B, V) that `predict` returns, and k.
    """

    precision = "fp32"

    def __init__(self, model: Any, weights: Path, exchange: Exchange) -> None:
        """Load the weights into a model that was just made; of an untrained one, write them."""
        import torch

        if exchange.is_untrained:
            torch.save(model.state_dict(), weights)
        model.load_state_dict(torch.load(weights, "cpu", weights_only=True))
        self.model = model.eval()
        self.max_len = exchange.settings["max_len"]
        self.num_parameters = sum(p.numel() for p in model.parameters())
        self.size_bytes = weights.stat().st_size

    def predict(self, batch: Any) -> Any:
        """Return the library's scores (B, V)."""
        raise NotImplementedError

    def answer(self, prepared: Any) -> Any:
        """Score, leave out, choose; returns scores and columns (B, K)."""
        import torch

        batch, left_out, k = prepared
        with torch.inference_mode():
            scores = self.predict(batch)
            scores[left_out] = float("-inf")
            return scores.topk(k, dim=1)


def note(values: list[float], value: float, save: Callable[[], object]) -> None:
    """Append an epoch's validation NDCG@10, save its weights if it is the best one so far.

    It is printed, too, for who follows the log.
    """
    values.append(value)
    if values.index(max(values)) == len(values) - 1:
        save()
    print(f"epoch {len(values)}: valid NDCG@10 {value:.4f}")  # noqa: T201


def ndcg_at_10(ranks: Sequence[float]) -> float:
    """Return the mean NDCG@10 of targets with these ranks; infinite: not in the list.

    >>> ndcg_at_10([1, 3, 11, float("inf")])
    0.375
    """
    known = np.array(ranks, dtype=np.float64)
    return float(np.where(known <= 10, 1 / np.log2(np.minimum(known, 10) + 1), 0).mean())
