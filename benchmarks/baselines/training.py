"""Training a baseline as our students are: validation chooses, then its events are learnt too.

First the validation targets are held out, and the library stops by NDCG@10 on them, the weights of
the best epoch kept; that epoch is how long it trains again, from scratch, on all that precedes the
test targets. Where so few events are new that our own students are not refitted
(`seqrec.schedule.refit_epochs`), there is no second training. A limit on the minutes of the first
ends it early; its row says so.

    <output>/baselines/<name>/choice/   exchange/, trained.json, what the library wrote
    <output>/baselines/<name>/final/    the same of the second training; served if it is there

A worker is told of a data set by plain arrays and JSON in `exchange/`:

    meta.json     num_items, exclude_seen (the headline protocol), seed, settings
    events.npz    events int32 (E,): those to train on, user by user, each in time order;
                  offsets int64 (U + 1,): user u owns events[offsets[u]:offsets[u + 1]];
                  valid int64 (V, 2): user and validation target, none in the second training
    texts.npy     float16 (I + 1, C): the items' text components in the knowledge of our own
                  students, of a model that reads texts alone

A validation target is no event to train on as long as it is one. A test target is in neither
directory: the histories that are asked about are sent when they are asked about.
"""

import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import read_json, sha256_file, write_json
from seqrec.knowledge import load_knowledge
from seqrec.schedule import refit_epochs, student_width
from seqrec.stage import Stage

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines.libraries import Baseline, BaselinesConfig
from benchmarks.measure.startup import last_line
from benchmarks.report.schema import Training

logger = logging.getLogger(__name__)

# As `seqrec.training.set_up_cpu` has it for our own trainings: glibc keeps what a step frees, or
# the kernel clears it anew at the next one, a fifth of RePlay's and RecBole's time.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


def worker_command(baseline: Baseline, python: Path, *arguments: str) -> list[str]:
    """Return what starts a worker.

    Nothing from our environment variables, no user's packages, and what it prints at once: who
    waits for a training can follow it.
    """
    return [str(python), "-E", "-s", "-u", str(baseline.worker), *arguments]


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


def read_log(log: Path) -> str:
    """Return what a worker printed."""
    return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""


def write_exchange(
    folder: Path,
    dataset: SequenceDataset | None,
    *,
    num_items: int,
    seed: int,
    settings: Mapping[str, Any],
    texts: NDArray[np.float16] | None = None,
) -> None:
    """Write what one training of a baseline may know into a new folder.

    These are the training events of the data set, and its validation targets, if it has any:
    `dataset.before_test()` has none. None: of a model that is made without events.
    """
    folder.mkdir(parents=True)
    meta = {"exclude_seen": dataset.exclude_seen if dataset else True, "settings": dict(settings)}
    write_json(folder / "meta.json", {"num_items": num_items, "seed": seed, **meta})
    sequences, offsets, valid = [np.zeros(0, np.int32)], np.zeros(1, np.int64), np.zeros((0, 2))
    if dataset is not None:
        sequences = [dataset.train_sequence(user) for user in range(dataset.num_users)]
        offsets = np.concatenate([[0], np.cumsum(dataset.train_lengths)])
        targets = dataset.eval_targets("valid")
        valid = np.stack([targets.users, targets.items], axis=1)
    events = np.concatenate(sequences).astype(np.int32)
    arrays = {"events": events, "offsets": offsets, "valid": valid.astype(np.int64)}
    np.savez(folder / "events.npz", **arrays)  # type: ignore[arg-type]
    if texts is not None:
        np.save(folder / "texts.npy", texts)


def write_untrained(
    baseline: Baseline, num_items: int, folder: Path, width: int, seed: int
) -> Path:
    """Write what a model of random weights is made from into a new folder, and return it."""
    settings = baseline.settings(width)
    write_exchange(folder / "exchange", None, num_items=num_items, seed=seed, settings=settings)
    return folder


def ensure_trained(
    baseline: Baseline, python: Path, dataset: SequenceDataset, config: BaselinesConfig
) -> Path:
    """Return the folder of a trained baseline; a training whose recipe is the same is reused.

    `python` is the interpreter of its environment.

    Raises:
        ModelError: the library could not be trained.
        StaleKnowledgeError: it reads texts, and there is no knowledge of the data set.
    """
    texts = None
    if baseline.reads_texts:
        texts = load_knowledge(config.folder / "knowledge", dataset)
    folder = config.folder / "baselines" / baseline.folder_name
    settings = baseline.settings(student_width(dataset))

    def train(part: str, known: SequenceDataset, num_epochs: int) -> Path:
        recipe = {
            "dataset_fingerprint": known.fingerprint,
            "num_train_events": int(np.sum(known.train_lengths)),
            "requirements_sha256": sha256_file(baseline.requirements),
            "seed": config.seed,
            "settings": settings,
            "num_epochs": num_epochs,
        }  # no device: what is trained on a GPU counts on any machine
        if texts is not None:
            recipe["text_fingerprint"] = texts.text_fingerprint
        stage = Stage(folder / part, recipe)
        if stage.is_finished() and _has_had_its_time(stage.folder, config.minutes):
            return stage.folder
        log = folder / f"{part}.log"
        what = f"{num_epochs} epochs" if num_epochs else "choosing the epoch"
        logger.info("%s: training, %s; what it prints is in %s", baseline.name, what, log)
        with stage.replacing() as unfinished:
            write_exchange(
                unfinished / "exchange",
                known,
                num_items=known.num_items,
                seed=config.seed,
                settings=settings,
                texts=None if texts is None else texts.text_components,
            )
            minutes = 0 if num_epochs else config.minutes
            words = [str(unfinished), str(num_epochs), str(minutes), config.train_device]
            _train(baseline, worker_command(baseline, python, "train", *words), log, config)
        return stage.folder

    choice = train("choice", dataset, 0)
    num_epochs = int(read_json(choice / "trained.json")["num_epochs"])
    if not refit_epochs(dataset, 1.0, num_epochs):
        return choice
    return train("final", dataset.before_test(), num_epochs)


def _has_had_its_time(folder: Path, max_minutes: float) -> bool:
    """Whether a training was not cut short, or had as many minutes as there are now."""
    trained = read_json(folder / "trained.json")
    return not trained["cut_short"] or 0 < max_minutes <= trained["minutes"]


def _train(baseline: Baseline, command: list[str], log: Path, config: BaselinesConfig) -> None:
    """Run a worker to its end; what it prints goes to a log."""
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            command,
            env={**worker_environment(config.num_threads, config.train_device), **KEEP_MEMORY},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise ModelError(
            f"{baseline.name} could not be trained (exit code {done.returncode}: "
            f"{last_line(read_log(log))}). All that it printed is in {log}"
        )


def training_report(folder: Path) -> Training:
    """Return how the baseline that is served from a folder was trained, all trainings together."""
    parts = {folder.parent / "choice", folder}
    trained = {part.name: read_json(part / "trained.json") for part in parts}
    choice, served = trained["choice"], trained[folder.name]
    num_epochs = int(choice["num_epochs"])
    choices = read_json(folder / "recipe.json")["settings"].get("neighbours")
    return Training(
        num_epochs=None if choices else num_epochs,
        num_neighbours=choices[num_epochs - 1] if choices else None,
        num_tried=len(choice["valid_ndcg@10"]),
        minutes=sum(part["minutes"] for part in trained.values()),
        cut_short=choice["cut_short"],
        device=served["device"],
        versions=served["versions"],
    )
