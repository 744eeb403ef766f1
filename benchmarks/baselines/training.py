"""Training a peer as our students are trained: validation chooses, then its events are learnt too.

First the validation targets are held out, and the library stops by NDCG@10 on them, the weights of
the best epoch kept; that epoch is how long it trains again, from scratch, on all that precedes the
test targets. Where so few events are new that our own students are not refitted
(`seqrec.schedule.refit_epochs`), there is no second training. A limit on the minutes of the first
ends it early; its row says so.

    <output>/peers/<name>/choice/   exchange/, trained.json, what the library wrote
    <output>/peers/<name>/final/    the same of the second training; served if it is there
"""

import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import atomic_directory, read_json, sha256_file, write_json
from seqrec.schedule import refit_epochs, student_width

import numpy as np

from benchmarks.baselines.exchange import write_exchange, write_untrained_exchange
from benchmarks.baselines.libraries import Peer

logger = logging.getLogger(__name__)

# As `seqrec.training.set_up_cpu` has it for our own trainings: glibc keeps what a step frees, or
# the kernel clears it anew at the next one, a fifth of RePlay's and RecBole's time.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


def worker_command(peer: Peer, python: Path, *arguments: str) -> list[str]:
    """Return what starts a worker.

    Nothing from our environment variables, no user's packages, and what it prints at once: who
    waits for a training can follow it.
    """
    return [str(python), "-E", "-s", "-u", str(peer.worker), *arguments]


def worker_environment(num_threads: int, device: str = "cpu") -> dict[str, str]:
    """Return the environment variables of a worker: ours, its threads limited, GPUs hidden."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    # cuBLAS repeats itself only with a workspace of fixed size, and RecTools insists on it.
    gpu = (
        {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    )
    return {
        **os.environ,
        **dict.fromkeys(threads, str(num_threads)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "CI": "true",  # where OpenVINO reports nothing; what `seqrec` sets for others is ours
        **gpu,
    }


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def ensure_trained(
    peer: Peer,
    python: Path,
    dataset: SequenceDataset,
    output_dir: Path,
    *,
    seed: int,
    num_threads: int,
    max_minutes: float = 0,
    device: str = "cpu",
) -> Path:
    """Return the folder of a trained peer; a training whose recipe is the same is reused.

    Args:
        peer: what is trained.
        python: the interpreter of its environment.
        dataset: what to train on.
        output_dir: `peers` below it holds what is trained.
        seed: of the training.
        num_threads: of the training.
        max_minutes: of CPU time; once they are over, the epoch that is running is the last one to
            choose from; 0: no limit.
        device: "cpu" or "cuda", where it is trained.

    Returns:
        The folder of what is served.

    Raises:
        ModelError: the library could not be trained.
    """
    folder = output_dir / "peers" / peer.name.replace(" ", "-")
    settings = peer.settings_at(student_width(dataset))
    train = _Training(peer, python, settings, seed, num_threads, max_minutes, device)
    choice = train.ensure(folder / "choice", dataset, num_epochs=0)
    num_epochs = int(read_json(choice / "trained.json")["num_epochs"])
    if not refit_epochs(dataset, 1.0, num_epochs):
        return choice
    return train.ensure(folder / "final", dataset.before_test(), num_epochs=num_epochs)


def _run(
    peer: Peer, python: Path, log: Path, num_threads: int, *arguments: str, device: str = "cpu"
) -> None:
    """Run a worker to its end; what it prints goes to a log."""
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            worker_command(peer, python, *arguments),
            env={**worker_environment(num_threads, device), **KEEP_MEMORY},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise ModelError(
            f"{peer.name} could not be trained (exit code {done.returncode}: {last_line(log)}). "
            f"All that it printed is in {log}"
        )


def make_untrained(
    peer: Peer,
    python: Path,
    num_items: int,
    folder: Path,
    *,
    width: int,
    seed: int,
    num_threads: int,
) -> Path:
    """Write a peer's model of random weights into a new folder, and return it.

    Raises:
        ModelError: the library could not make one.
    """
    folder = folder.absolute()
    (folder / "exchange").mkdir(parents=True)
    settings = peer.settings_at(width)
    write_untrained_exchange(folder / "exchange", num_items, seed=seed, settings=settings)
    log = folder / "untrained.log"
    _run(peer, python, log, num_threads, "untrained", str(folder / "exchange"), str(folder))
    return folder


def training_report(folder: Path) -> dict[str, Any]:
    """Return how the peer that is served from a folder was trained.

    Returns:
        num_epochs, or num_neighbours if that is what was chosen; num_tried, how many epochs or
        numbers of neighbours validation chose from; minutes of CPU time, all
        trainings together; cut_short, whether the limit on the minutes ended the choice; device,
        "cpu" or the name of the GPU; versions of the libraries that trained it.
    """
    folders = {folder.parent / "choice", folder}
    trained = {part.name: read_json(part / "trained.json") for part in folders}
    num_epochs = trained["choice"]["num_epochs"]
    chosen = {"num_epochs": num_epochs}
    if choices := read_json(folder / "recipe.json")["settings"].get("neighbours"):
        chosen = {"num_neighbours": choices[num_epochs - 1]}
    return {
        **chosen,
        "num_tried": len(trained["choice"]["valid_ndcg@10"]),
        "minutes": sum(part["minutes"] for part in trained.values()),
        "cut_short": trained["choice"]["cut_short"],
        # A folder that an earlier checkout has trained lacks these.
        "device": trained[folder.name].get("device", "cpu"),
        "versions": trained[folder.name].get("versions", {}),
    }


class _Training:
    """One peer's trainings, in its own environment."""

    def __init__(
        self,
        peer: Peer,
        python: Path,
        settings: Mapping[str, Any],
        seed: int,
        num_threads: int,
        max_minutes: float,
        device: str,
    ) -> None:
        self._peer, self._python, self._settings = peer, python, settings
        self._seed, self._threads, self._max_minutes = seed, num_threads, max_minutes
        self._device = device

    def _recipe(self, dataset: SequenceDataset, num_epochs: int) -> dict[str, Any]:
        """Return what decides the result; what is trained on a GPU counts on any machine."""
        return {
            "dataset_fingerprint": dataset.fingerprint,
            "num_train_events": int(np.sum(dataset.train_lengths)),
            "requirements_sha256": sha256_file(self._peer.requirements),
            "seed": self._seed,
            "settings": dict(self._settings),
            "num_epochs": num_epochs,
        }

    def ensure(self, folder: Path, dataset: SequenceDataset, *, num_epochs: int) -> Path:
        recipe = self._recipe(dataset, num_epochs)
        if (folder / "recipe.json").is_file() and read_json(folder / "recipe.json") == recipe:
            trained = read_json(folder / "trained.json")
            if not trained["cut_short"] or 0 < self._max_minutes <= trained["minutes"]:
                return folder
        what = f"{num_epochs} epochs" if num_epochs else "choosing the epoch"
        log = folder.parent / f"{folder.name}.log"
        logger.info("%s: training, %s; what it prints is in %s", self._peer.name, what, log)
        with atomic_directory(folder) as unfinished:
            (unfinished / "exchange").mkdir()
            write_exchange(
                unfinished / "exchange", dataset, seed=self._seed, settings=self._settings
            )
            minutes = 0 if num_epochs else self._max_minutes
            arguments = (
                str(unfinished / "exchange"),
                str(unfinished),
                f"{num_epochs}",
                f"{minutes}",
                self._device,
            )
            _run(
                self._peer,
                self._python,
                log,
                self._threads,
                "train",
                *arguments,
                device=self._device,
            )
            write_json(unfinished / "recipe.json", recipe)
        return folder
