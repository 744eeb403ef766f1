"""One run of the accuracy grid: a variant, an architecture and a seed, trained and judged once.

    python -m benchmarks.grid.run --data-dir data/ml-100k --variant distilled --arch gru --seed 0

A finished run is a folder `OUTPUT_DIR/<data>/cells/<arch>-<variant>-seed<seed>-<digest of recipe>`:

    cell.json           `RunResult` in `benchmarks/report/schema.py`, written last: what is there is
                        finished
    ranks.safetensors   int32 (N,) `excluding_seen` and `keeping_seen`: each test target's rank
    students/, export/  what was trained and exported, laid out as the stages lay it out

Beside `cells/` lies what runs share: teacher, knowledge, auxiliary teachers and soft targets. A
finished run is never computed again: another recipe has another digest, so it gets another folder.
"""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqrec.config import DEFAULT_DATA_DIR, flag, parse_flags
from seqrec.errors import ModelError, run_main
from seqrec.evaluation import Part, evaluate, evaluation_batches, popularity_scores, validation_ndcg
from seqrec.files import read_json, selection, sha256_file, write_json
from seqrec.histories import pad_left
from seqrec.metrics import NOT_RANKED, Evaluation
from seqrec.training import set_up_cpu

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.numpy import load_file, save_file

from benchmarks.grid.ensembles import (
    Scorer,
    TeacherStates,
    average,
    headline_ndcg,
    model_scorer,
    rank_targets,
)
from benchmarks.grid.shared import Stopwatch, share_soft_targets
from benchmarks.grid.variants import VARIANTS, needs_teacher, select_variants
from benchmarks.grid.workspace import (
    DEFAULT_OUTPUT_DIR,
    Device,
    RunKey,
    Workspace,
    open_workspace,
    parts,
    run_folder,
    run_recipe,
    student_config,
    student_folder,
)
from benchmarks.measure.machine import describe_machine
from benchmarks.measure.quality import evaluate_lists, top_lists
from benchmarks.measure.systems import OnnxSystem
from benchmarks.report.files import load, save
from benchmarks.report.schema import RunResult
from export.onnx_graph.exporting import ensure_exported
from student.distilling import distil
from student.model import Student

BEYOND = np.iinfo(np.int32).max  # `NOT_RANKED` in four bytes


def read_finished(key: RunKey, space: Workspace) -> RunResult | None:
    """Return a finished run's `cell.json`, None if it has still to be computed."""
    file = run_folder(key, space) / "cell.json"
    return load(RunResult, file) if file.is_file() else None


def require_finished(key: RunKey, space: Workspace) -> RunResult:
    """Return a finished run's `cell.json`; `ModelError` names the command that computes it."""
    found = read_finished(key, space)
    if found is None:
        raise ModelError(f"{key} is not there: {command(key, space)}")
    return found


def save_ranks(file: Path, result: Evaluation) -> None:
    """Write the ranks of both protocols as int32."""
    arrays = {"excluding_seen": result.excluding_seen, "keeping_seen": result.keeping_seen}
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
    for part in parts(key):
        if read_finished(part, space) is None:
            raise ModelError(
                f"{key} is made from {part}, which is not there: {command(part, space)}"
            )
    # The times of a run that was killed are lost: its successor's are not the run's cost.
    interrupted = (folder / "started.json").is_file()
    write_json(folder / "started.json", recipe)
    evaluation, found = COMPUTE[VARIANTS[key.variant].kind](key, space, watch)
    save_ranks(folder / "ranks.safetensors", evaluation)
    result = RunResult(
        **dataclasses.asdict(key),
        command=command(key, space),
        recipe=recipe,
        environment=describe_machine(num_threads=1),
        times=watch.times,
        interrupted=interrupted,
        **found,
    )
    save(result, folder / "cell.json")
    return result


def command(key: RunKey, space: Workspace) -> str:
    """Return what to type to compute one run."""
    return "python " + shlex.join(arguments(key, space))


def arguments(key: RunKey, space: Workspace) -> list[str]:
    """Return the arguments of Python that compute one run."""
    values = {
        "data-dir": space.dataset.path,
        "output-dir": space.output_dir,
        **{name.replace("_", "-"): value for name, value in dataclasses.asdict(key).items()},
        "device": space.device,
    }
    words = ["-m", "benchmarks.grid.run"]
    words += [f"--{name}={value}" for name, value in values.items() if value is not None]
    return words + ([f"--student-flags={space.student_flags}"] if space.student_flags else [])


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
    states: dict[Part, torch.Tensor] = {}
    item_vectors: dict[Part, torch.Tensor] = {}
    both: tuple[Part, ...] = ("valid", "test")
    with watch.stage("evaluate"), torch.inference_mode():
        for part in both:
            teacher.load_weights(folder if part == "test" else selection(folder))
            item_vectors[part] = teacher.item_vectors().float().cpu()
            targets = space.dataset.eval_targets(part)
            encoded: list[torch.Tensor] = [torch.empty(0)] * len(targets.users)
            for chosen, _, histories in evaluation_batches(space.dataset, targets, 64):
                shown = torch.from_numpy(pad_left(histories, teacher.config.max_len))
                newest = teacher.encode(shown.to(device))[:, -1].float().cpu()
                for index, state in zip(chosen, newest, strict=True):
                    encoded[index] = state
            states[part] = torch.stack(encoded)
        kept = TeacherStates(states, item_vectors)
        result = rank_targets(kept.scorer("test"), space.dataset, "test")
        valid = rank_targets(kept.scorer("valid"), space.dataset, "valid")
    kept.save(run_folder(key, space) / "states.safetensors")
    return result, {
        "valid_ndcg_at_10": headline_ndcg(valid, space.dataset),
        "num_parameters": teacher.num_parameters,
        "file_bytes": read_json(folder / "metrics.json")["size_bytes"],
    }


def _student(key: RunKey, space: Workspace, watch: Stopwatch) -> Computed:
    config, folder = student_config(key, space), student_folder(key, space)
    accelerator: Accelerator = space.accelerator()
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


def _int8(key: RunKey, space: Workspace, watch: Stopwatch) -> Computed:
    (source,) = parts(key)
    with watch.stage("export"):
        trained = student_folder(source, space)
        exported = ensure_exported(space.dataset, run_folder(key, space), trained, "int8")
    system = OnnxSystem.from_pretrained(exported, num_threads=1)
    with watch.stage("evaluate"):
        excluding, keeping = (
            top_lists(system, space.dataset, exclude_seen=exclude) for exclude in (True, False)
        )
        result = evaluate_lists(excluding, keeping, space.dataset)
    # No choice hangs on its validation: it stands or falls with the fp32 student.
    return result, {
        "num_parameters": system.num_parameters,
        **_describe_file(exported / "model.onnx", space),
    }


def _ensemble(key: RunKey, space: Workspace, watch: Stopwatch) -> Computed:
    def scorer(source: RunKey, part: Part) -> Scorer:
        if VARIANTS[source.variant].kind == "teacher":
            file = run_folder(source, space) / "states.safetensors"
            return TeacherStates.load(file).scorer(part)
        folder = student_folder(source, space)
        student = Student.from_pretrained(folder if part == "test" else selection(folder))
        return model_scorer(student, student.config.max_len)

    def judge(part: Part) -> Evaluation:
        averaged = average([scorer(source, part) for source in parts(key)])
        return rank_targets(averaged, space.dataset, part)

    with watch.stage("evaluate"):
        result = judge("test")
    made_of = [require_finished(source, space) for source in parts(key)]
    return result, {
        "valid_ndcg_at_10": headline_ndcg(judge("valid"), space.dataset),
        "num_parameters": sum(part.num_parameters for part in made_of),
        "file_bytes": sum(part.file_bytes or 0 for part in made_of),
    }


COMPUTE = {
    "popularity": _popularity,
    "teacher": _teacher,
    "student": _student,
    "int8": _int8,
    "ensemble": _ensemble,
}


def _describe_file(file: Path, space: Workspace) -> dict[str, Any]:
    return {
        "file": str(file.relative_to(space.root)),
        "file_bytes": file.stat().st_size,
        "file_sha256": sha256_file(file),
    }


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Flags of `benchmarks.grid.run`."""

    data_dir: Path = flag(DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare")
    output_dir: Path = flag(DEFAULT_OUTPUT_DIR, "that of benchmarks.accuracy")
    variant: str = flag("control", "a variant of benchmarks/grid/variants.py")
    arch: Literal["gru", "transformer"] | None = flag(None, "of a student")
    seed: int | None = flag(None, "of a student")
    partner_seed: int | None = flag(None, "of the second student of an ensemble of two seeds")
    student_flags: str = flag("", "flags of student.distill for all students, in quotes")
    device: Device = flag("cpu", "where to train; auto takes a GPU if there is one")


def main(argv: Sequence[str] | None = None) -> None:
    """Compute one run and show its folder."""
    config = parse_flags(RunConfig, (__doc__ or "").partition("\n")[0], argv)
    select_variants([config.variant])
    key = RunKey(config.variant, config.arch, config.seed, config.partner_seed)
    if VARIANTS[key.variant].kind not in ("popularity", "teacher") and None in (key.arch, key.seed):
        raise ModelError(
            f"variant {key.variant} needs --arch gru or --arch transformer, and --seed 0"
        )
    set_up_cpu(num_threads=1, num_processes=1)
    space = open_workspace(
        config.data_dir,
        config.output_dir,
        config.student_flags,
        config.device,
        with_teacher=needs_teacher(config.variant),
    )
    compute_run(key, space)
    sys.stdout.write(f"{key}: {run_folder(key, space)}\n")


if __name__ == "__main__":
    run_main(main)
