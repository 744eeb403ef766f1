"""A baseline's worker that needs no library: it ranks by popularity, or lies, or stops."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

WORKERS = Path(__file__).parents[3] / "benchmarks" / "baselines" / "workers"
LIBRARIES = ("numpy",)


def train(exchange: Any, output: Any, num_epochs: int) -> list[float]:
    import serving  # type: ignore[import-not-found]

    with open(output.parent / "trainings.txt", "a") as file:
        file.write(f"{num_epochs}\n")
    with open(output.parent / "devices.txt", "a") as file:
        file.write(f"{exchange.device} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    if exchange.settings["does"] == "fail":
        raise RuntimeError("no gradient today")
    counts = np.bincount(exchange.events, minlength=exchange.num_items + 1)
    values: list[float] = []
    if num_epochs:
        np.save(output / "counts.npy", counts)
        return values
    for value in [0.1, 0.3, 0.2] + (0 if exchange.is_over() else 2) * [0.1]:
        serving.note(values, value, lambda: np.save(output / "counts.npy", counts + len(values)))
    return values


class Model:
    precision, size_bytes, num_parameters, max_len = "fp32", 2**20, 30, 5

    def __init__(self, folder: Path, does: str) -> None:
        self.counts, self.does = np.load(folder / "counts.npy"), does

    def prepare(self, items: Any, excluded: Any, k: int) -> Any:
        if self.does == "prepare slowly":
            time.sleep(0.03)
        return items, excluded, k

    def answer(self, prepared: Any) -> Any:
        items, excluded, k = prepared
        if self.does == "stop":
            sys.stderr.write("out of ideas\n")
            sys.stderr.flush()
            os._exit(3)
        if self.does == "answer slowly":
            time.sleep(0.03)
        if self.does == "compute":
            start = time.process_time()
            while time.process_time() < start + 0.03:
                pass
        scores = np.repeat(self.counts[None].astype(np.float32), len(items), axis=0)
        np.put_along_axis(scores, excluded, -np.inf, axis=1)
        scores[:, 0] = -np.inf
        top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return top, np.take_along_axis(scores, top, axis=1)

    def unpack(self, answered: Any, k: int) -> Any:
        items, scores = answered
        if self.does == "shape":
            return items[:, :-1], scores[:, :-1]
        if self.does == "nan":
            return items, scores * np.nan
        return items, scores


def open_model(folder: Path, exchange: Any, mode: str) -> Model:
    if mode == "refuse":
        raise RuntimeError("this mode needs another processor")
    if exchange.is_untrained:
        np.save(folder / "counts.npy", np.arange(exchange.num_items + 1))
    return Model(folder, mode)


if __name__ == "__main__":
    sys.path.insert(0, str(WORKERS))
    import serving

    serving.main(sys.modules[__name__])
