"""The runs of the accuracy grid: a variant, an architecture and a seed, trained and judged once.

A finished run is a folder `OUTPUT_DIR/<data>/seed<seed>/cells/<arch>-<variant>-<recipe's digest>`:

    cell.json           `RunResult` in `benchmarks/report/schema.py`, written last: what is there is
                        finished
    ranks.safetensors   int32 (N,) `excluding_seen` and `keeping_seen`: each test target's rank
    students/, export/  what was trained and exported, laid out as the stages lay it out

An ensemble is the mean of several systems' log-probabilities over the catalogue.

Beside `cells/` lies what the runs of a seed share: teacher, knowledge, auxiliary teachers and soft
targets. A finished run is never computed again: another recipe has another digest, so it gets
another folder.
Shape letters: N test targets, B users, T history, I items, D width of the teacher's item vectors.
"""

import dataclasses
import logging
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from seqrec.errors import ModelError, set_up_logging
from seqrec.evaluation import (
    ScoreFunction,
    evaluate,
    evaluation_batches,
    popularity_scores,
    validation_ndcg,
)
from seqrec.files import read_json, selection, sha256_file, write_json
from seqrec.histories import PAD, pad_left
from seqrec.metrics import NOT_RANKED, Evaluation
from seqrec.training import set_up_cpu

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor
from tqdm import tqdm

from benchmarks.grid.variants import VARIANTS, RunKey
from benchmarks.grid.workspace import (
    Stopwatch,
    Workspace,
    run_folder,
    run_recipe,
    share_soft_targets,
    student_config,
    student_folder,
)
from benchmarks.measure.machine import describe_machine
from benchmarks.measure.quality import evaluate_lists
from benchmarks.measure.queries import histories_before_test
from benchmarks.measure.students import OnnxSystem
from benchmarks.report.files import load, save
from benchmarks.report.schema import RunResult
from export.onnx_graph.exporting import ensure_exported
from student.distilling import distil
from student.model import Student

logger = logging.getLogger(__name__)

BEYOND = np.iinfo(np.int32).max  # `NOT_RANKED` in four bytes


def read_finished(key: RunKey, space: Workspace) -> RunResult | None:
    """Return a finished run's `cell.json`, None if it has still to be computed."""
    file = run_folder(key, space) / "cell.json"
    return load(RunResult, file) if file.is_file() else None


def save_ranks(file: Path, result: Evaluation) -> None:
    """Write the ranks of both protocols as int32."""
    arrays = dataclasses.asdict(result)
    save_file({name: np.minimum(a, BEYOND).astype(np.int32) for name, a in arrays.items()}, file)


def load_ranks(file: Path) -> Evaluation:
    """Read what `save_ranks` wrote, int64 (N,)."""
    arrays = {name: array.astype(np.int64) for name, array in load_file(file).items()}
    return Evaluation(**{name: np.where(a == BEYOND, NOT_RANKED, a) for name, a in arrays.items()})


def compute_run(key: RunKey, space: Workspace) -> RunResult:
    """Return a run's result, computed now unless it is finished.

    Raises:
        SeqRecError: what the run is made from is missing, or a stage refuses.
    """
    if (finished := read_finished(key, space)) is not None:
        return finished
    folder, recipe, watch = run_folder(key, space), run_recipe(key, space), Stopwatch()
    made_from = []
    for source in key.sources:
        if (result := read_finished(source, space)) is None:
            raise ModelError(
                f"{key} is made from {source}, which is not there. Compute it: "
                f"python -m benchmarks.accuracy --seeds {space.seed} --variants {source.variant}"
            )
        made_from.append(result)
    # The times of a run that was killed are lost: its successor's are not the run's cost.
    interrupted = (folder / "started.json").is_file()
    write_json(folder / "started.json", recipe)
    evaluation, fields = COMPUTE[VARIANTS[key.variant].kind](key, space, watch)
    if VARIANTS[key.variant].kind == "ensemble":
        fields["num_parameters"] = sum(source.num_parameters for source in made_from)
        fields["file_bytes"] = sum(source.file_bytes or 0 for source in made_from)
    save_ranks(folder / "ranks.safetensors", evaluation)
    result = RunResult(
        **dataclasses.asdict(key),
        seed=space.seed,
        recipe=recipe,
        environment=describe_machine(num_threads=1),
        times=watch.times,
        interrupted=interrupted,
        **fields,
    )
    save(result, folder / "cell.json")
    return result


# --- What computes each kind: its ranks on the test targets, and fields of `RunResult` ------------

Computed = tuple[Evaluation, dict[str, Any]]


def _popularity(key: RunKey, space: Workspace, watch: Stopwatch) -> Computed:
    with watch.stage("evaluate"):
        score = popularity_scores(space.dataset.before_test())
        result = evaluate(score, space.dataset, "test", max_len=1)
    valid = validation_ndcg(popularity_scores(space.dataset), space.dataset, max_len=1)
    return result, {"valid_ndcg_at_10": valid, "num_parameters": space.dataset.num_items}


def _teacher(key: RunKey, space: Workspace, watch: Stopwatch) -> Computed:
    from teacher.model import Teacher

    folder, device = space.root / "teacher", space.accelerator().device
    teacher = Teacher.from_pretrained(folder, device=device)
    targets = space.dataset.eval_targets("test")
    with watch.stage("evaluate"), torch.inference_mode():
        item_vectors = teacher.item_vectors().float().cpu().contiguous()
        states = torch.empty(len(targets.users), item_vectors.shape[1])
        for chosen, _, histories in evaluation_batches(space.dataset, targets, 64):
            shown = torch.from_numpy(pad_left(histories, teacher.config.max_len))
            states[torch.from_numpy(chosen)] = teacher.encode(shown.to(device))[:, -1].float().cpu()
        # (N, D) after all histories, and (I + 1, D): ensembles with it need no language model.
        tensors = {"states": states, "item_vectors": item_vectors}
        save_tensors(tensors, run_folder(key, space) / "states.safetensors")
        score, max_len = _model(key, space)
        result = evaluate(score, space.dataset, "test", max_len=max_len)
    metrics = read_json(folder / "metrics.json")
    return result, {
        "valid_ndcg_at_10": metrics["valid_ndcg@10"],
        "num_parameters": teacher.num_parameters,
        "file_bytes": metrics["size_bytes"],
    }


def _student(key: RunKey, space: Workspace, watch: Stopwatch) -> Computed:
    config, folder = student_config(key, space), student_folder(key, space)
    accelerator = space.accelerator()
    knowledge = space.knowledge_for(VARIANTS[key.variant])
    assert key.arch is not None
    shared = share_soft_targets(key, space)
    with watch.stage("train"):
        student = distil(key.arch, config, space.dataset, knowledge, folder, accelerator)
    trained, device = read_json(folder / "config.json"), accelerator.device
    student = student.to(device).eval()
    with watch.stage("evaluate"):
        max_len = student.config.max_len
        result = evaluate(student, space.dataset, "test", max_len=max_len, device=device)
    return result, {
        "valid_ndcg_at_10": trained["valid_metrics"]["ndcg@10"],
        "teacher_weight": trained.get("teacher_weight"),
        "num_parameters": student.num_parameters,
        "shared_times": shared,
        **_describe_file(folder / "model.safetensors", space),
    }


def _selection(key: RunKey, space: Workspace, watch: Stopwatch) -> Computed:
    (source,) = key.sources
    student = Student.from_pretrained(selection(student_folder(source, space)))
    with watch.stage("evaluate"):
        result = evaluate(student, space.dataset, "test", max_len=student.config.max_len)
    return result, {"num_parameters": student.num_parameters}


def _int8(key: RunKey, space: Workspace, watch: Stopwatch) -> Computed:
    (source,) = key.sources
    with watch.stage("export"):
        trained = student_folder(source, space)
        exported = ensure_exported(space.dataset, run_folder(key, space), trained, "int8")
    system = OnnxSystem.from_pretrained(exported, num_threads=1)
    with watch.stage("evaluate"):
        result, _ = evaluate_lists(system, space.dataset)
    # No choice hangs on its validation: it stands or falls with the fp32 student.
    return result, {
        "num_parameters": system.num_parameters,
        **_describe_file(exported / "model.onnx", space),
    }


def _ensemble(key: RunKey, space: Workspace, watch: Stopwatch) -> Computed:
    with watch.stage("evaluate"):
        models = [_model(source, space) for source in key.sources]
        max_len = max(length for _, length in models)
        return evaluate(average(models), space.dataset, "test", max_len=max_len), {}


def _model(key: RunKey, space: Workspace) -> tuple[ScoreFunction, int]:
    """Return what a run has made, and how many of the newest items it is shown."""
    if VARIANTS[key.variant].kind != "teacher":
        student = Student.from_pretrained(student_folder(key, space))
        return student, student.config.max_len
    max_len = int(read_json(space.root / "teacher" / "teacher.json")["max_len"])
    tensors = load_tensors(run_folder(key, space) / "states.safetensors")
    histories = histories_before_test(space.dataset)
    rows = {tuple(shown[-max_len:].tolist()): row for row, shown in enumerate(histories)}

    def score(items: Tensor) -> Tensor:
        shown = [tuple(item for item in row if item != PAD) for row in items.tolist()]
        return tensors["states"][[rows[history] for history in shown]] @ tensors["item_vectors"].T

    return score, max_len


def log_probabilities(scores: Tensor) -> Tensor:
    """Normalise scores (B, I + 1) over items 1..I; column PAD, which is no item, becomes 0.

    >>> log_probabilities(torch.tensor([[9.0, 2.0, 2.0]])).exp().tolist()
    [[1.0, 0.5, 0.5]]
    """
    return torch.nn.functional.pad(scores[:, 1:].log_softmax(dim=1), (1, 0))


def average(models: Sequence[tuple[ScoreFunction, int]]) -> ScoreFunction:
    """Return the mean of models' log-probabilities; each is shown so many of the newest items."""
    return lambda items: torch.stack(
        [log_probabilities(model(items[:, -max_len:]).float()) for model, max_len in models]
    ).mean(dim=0)


COMPUTE = {
    "popularity": _popularity,
    "teacher": _teacher,
    "student": _student,
    "selection": _selection,
    "int8": _int8,
    "ensemble": _ensemble,
}


def _describe_file(file: Path, space: Workspace) -> dict[str, Any]:
    return {
        "file": str(file.relative_to(space.results)),
        "file_bytes": file.stat().st_size,
        "file_sha256": sha256_file(file),
    }


# --- All runs of a grid --------------------------------------------------------------------------


def run_grid(runs: Sequence[tuple[RunKey, Workspace]], jobs: int) -> None:
    """Compute all runs that are not finished, `jobs` at once."""
    todo = [work for work in runs if read_finished(*work) is None]
    num_finished = len(runs) - len(todo)
    logger.info("%d of %d runs are finished", num_finished, len(runs))
    with tqdm(total=len(runs), initial=num_finished, unit="run", desc="accuracy") as bar:
        if jobs == 1:
            for work in todo:
                compute_run(*work)
                bar.update()
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, spawn, max_tasks_per_child=1) as pool:
            try:
                for future in as_completed([pool.submit(compute_logged, *work) for work in todo]):
                    future.result()
                    bar.update()
            except BrokenProcessPool as error:
                raise ModelError(
                    "the process of a run was ended, by the system if memory was short. Type "
                    f"the same command again, with fewer than --jobs {jobs}: it goes on"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)  # what waits in the queue is not begun


def compute_logged(key: RunKey, space: Workspace) -> None:
    """Compute a run in a process of its own; what it prints goes to `log.txt` in its folder."""
    log = run_folder(key, space) / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    set_up_logging()
    set_up_cpu(num_threads=1, num_processes=1)
    try:
        compute_run(key, space)
    except Exception as error:
        logger.exception("failed")
        raise ModelError(f"{key} failed: {error}; see {log}") from error


def share_before(keys: Sequence[RunKey], space: Workspace) -> None:
    """Make what runs share before the first begins: two at once would make the same twice."""
    if space.knowledge is None:  # of other data it is refused here, before anything is trained
        return
    todo = [key for key in keys if read_finished(key, space) is None]
    for key in {key.variant: key for key in reversed(todo)}.values():  # one of each variant
        share_soft_targets(key, space)
