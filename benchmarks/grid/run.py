"""One cell of the accuracy benchmark: a row, an architecture and a seed, trained and judged once.

    python -m benchmarks.grid.run --data-dir data/ml-100k --row distilled --arch gru --seed 0

A finished cell is a folder `OUTPUT_DIR/<data>/cells/<arch>-<row>-seed<seed>-<digest of recipe>`:

    cell.json           schema "seqrec-accuracy-cell/1", written last: what is there is finished
    ranks.safetensors   int32 (N,) `excluding_seen` and `keeping_seen`: each test target's rank
    students/, export/  what was trained and exported, laid out as the stages lay it out

Beside `cells/` lies what cells share: teacher, knowledge, auxiliary teachers and soft targets. A
finished cell is never computed again: another recipe has another digest, so it gets another folder.
"""

import contextlib
import ctypes
import dataclasses
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqrec.config import DEFAULT_DATA_DIR, flag, parse_flags, recipe, recipe_digest
from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import ModelError, run_main
from seqrec.files import read_json, selection, sha256_file, write_json
from seqrec.knowledge import Knowledge, load_knowledge
from seqrec.metrics import (
    NOT_RANKED,
    Evaluation,
    Part,
    evaluate,
    evaluation_batches,
    pad_left,
    popularity_scores,
    validation_ndcg,
)
from seqrec.training import set_up_cpu

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.numpy import load_file, save_file

from benchmarks.grid.ensembles import (
    Scorer,
    TeacherStates,
    fuse,
    headline_ndcg,
    model_scorer,
    rank_targets,
)
from benchmarks.grid.variants import ROWS, needs_teacher, select_rows
from benchmarks.measure.systems import OnnxRunner
from benchmarks.measure.timing import evaluate_lists, top_lists
from benchmarks.report.tables import describe_machine
from export.to_onnx import ensure_exported
from student.config import DistillConfig, scheduled
from student.distill import (
    AUXILIARY_ARCHS,
    auxiliary_folder,
    distil,
    make_soft_targets,
    train_auxiliary,
)
from student.model import Arch, Student

logger = logging.getLogger(__name__)

SCHEMA = "seqrec-accuracy-cell/1"
DEFAULT_OUTPUT_DIR = Path("runs") / "accuracy"
END_WITH_PARENT = "SEQREC_END_WITH_PARENT"  # the process number of the grid
BEYOND = np.iinfo(np.int32).max  # `NOT_RANKED` in four bytes
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Cell:
    """What is computed; None where a row has no architecture or no seed."""

    row: str
    arch: Arch | None = None
    seed: int | None = None
    partner_seed: int | None = None  # a row averaged with itself: the other one's seed

    def __str__(self) -> str:
        """Return its name in messages, such as `gru distilled seed 0`."""
        seed = None if self.seed is None else f"seed {self.seed}"
        partner = None if self.partner_seed is None else f"and {self.partner_seed}"
        return " ".join(part for part in (self.arch, self.row, seed, partner) if part)


@dataclass(frozen=True)
class Workplace:
    """Where the cells of one data set are, and what they share."""

    dataset: SequenceDataset
    root: Path  # teacher/, knowledge/, soft-targets/ ... as the stages write them, and cells/
    output_dir: Path  # the parent of `root`, as `--output-dir` gave it
    student_flags: str  # of `student.distill`, for all students alike
    device: Device
    knowledge: Knowledge | None  # None: no teacher is needed, or none is there yet


def open_workplace(
    data_dir: Path, output_dir: Path, student_flags: str, device: Device, *, with_teacher: bool
) -> Workplace:
    """Open a data set and its place among the results; `DataError` if there is no such data."""
    dataset = load_dataset(data_dir)
    root = output_dir / data_dir.resolve().name
    knowledge = load_knowledge(root / "knowledge", dataset) if with_teacher else None
    return Workplace(dataset, root, output_dir, student_flags, device, knowledge)


def student_config(cell: Cell, place: Workplace) -> DistillConfig:
    """Return the flags that a student is trained with: shared ones, then its row's."""
    shared = parse_flags(DistillConfig, "Flags of all students.", shlex.split(place.student_flags))
    own: dict[str, Any] = {
        "data_dir": place.dataset.path,
        "output_dir": place.root,
        "arch": cell.arch,
        "seed": cell.seed,
        "device": place.device,
        "num_threads": 1,
    }
    return dataclasses.replace(shared, **own, **ROWS[cell.row].overrides)


def sources(cell: Cell) -> list[Cell]:
    """Return the cells that a cell is made from."""
    made_of = ROWS[cell.row].made_of
    seeds = [cell.seed, cell.seed if cell.partner_seed is None else cell.partner_seed]
    return [
        Cell(name) if ROWS[name].kind == "teacher" else Cell(name, cell.arch, seed)
        for name, seed in zip(made_of, seeds, strict=False)
    ]


def cell_recipe(cell: Cell, place: Workplace) -> dict[str, Any]:
    """Return all that decides a cell's result, as JSON values.

    Raises:
        ModelError: the cell needs a teacher, and there is none.
    """
    row = ROWS[cell.row]
    about: dict[str, Any] = {"schema": SCHEMA, "kind": row.kind}
    if row.made_of:
        return about | {"made_of": [cell_recipe(source, place) for source in sources(cell)]}
    about["dataset_fingerprint"] = place.dataset.fingerprint
    if needs_teacher(cell.row):
        if place.knowledge is None:
            raise ModelError(f"{cell}: no teacher in {place.root}")
        about["knowledge_fingerprint"] = place.knowledge.fingerprint
    if row.kind == "student":
        # With the schedule filled in: a cell of other rules is another cell.
        about["student"] = recipe(scheduled(student_config(cell, place), place.dataset))
    return about


def cell_folder(cell: Cell, place: Workplace) -> Path:
    """Return where a cell belongs."""
    digest = recipe_digest(cell_recipe(cell, place))
    seed = None if cell.seed is None else f"seed{cell.seed}"
    name = "-".join(part for part in (cell.arch, cell.row, seed, digest) if part)
    return place.root / "cells" / name


def student_folder(cell: Cell, place: Workplace) -> Path:
    """Return where a cell's trained student is."""
    return cell_folder(cell, place) / "students" / str(cell.arch) / cell.row


def read_finished(cell: Cell, place: Workplace) -> dict[str, Any] | None:
    """Return a finished cell's `cell.json`, None if it has still to be computed."""
    file = cell_folder(cell, place) / "cell.json"
    return read_json(file) if file.is_file() else None


def save_ranks(file: Path, result: Evaluation) -> None:
    """Write the ranks of both protocols as int32."""
    arrays = {"excluding_seen": result.excluding_seen, "keeping_seen": result.keeping_seen}
    save_file({name: np.minimum(a, BEYOND).astype(np.int32) for name, a in arrays.items()}, file)


def load_ranks(file: Path) -> Evaluation:
    """Read what `save_ranks` wrote, int64 (N,)."""
    arrays = {name: array.astype(np.int64) for name, array in load_file(file).items()}
    return Evaluation(**{name: np.where(a == BEYOND, NOT_RANKED, a) for name, a in arrays.items()})


class Stopwatch:
    """Wall and CPU seconds of named stages; CPU seconds are this process's, all threads."""

    def __init__(self) -> None:
        self.times: dict[str, dict[str, float]] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.times[name] = {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
        }


def share_soft_targets(cell: Cell, place: Workplace) -> dict[str, dict[str, float]]:
    """Make what a taught student learns from and shares with others, unless it is there.

    Returns:
        What it cost, by stage ("gru auxiliary teacher", "transformer auxiliary teacher", "soft
        targets"): wall_s and cpu_s, kept beside what they made. A stage is missing if the student
        does without it, or if its cost is not known.
    """
    if ROWS[cell.row].kind != "student" or not ROWS[cell.row].taught:
        return {}
    config, accelerator = student_config(cell, place), Accelerator(cpu=place.device == "cpu")
    if config.kd_weight == 0:
        return {}
    if place.knowledge is None:
        raise ModelError(f"{cell}: no teacher in {place.root}")
    watch, files = Stopwatch(), {}
    for arch in AUXILIARY_ARCHS if config.teacher_weight != 1 else ():
        stage = f"{arch} auxiliary teacher"
        folder = auxiliary_folder(arch, config, place.dataset, place.knowledge)
        files[stage] = folder.with_name(f"{folder.name}_times.json")
        trained = folder / "recipe.json"
        before = read_json(trained) if trained.is_file() else None
        # The times of a run that was killed are lost.
        interrupted = folder.with_name(f"{folder.name}-checkpoint").is_dir()
        with watch.stage(stage):
            train_auxiliary(arch, config, place.dataset, place.knowledge, accelerator)
        if read_json(trained) != before:
            files[stage].unlink(missing_ok=True)
            if not interrupted:
                write_json(files[stage], watch.times[stage])
    there = set((place.root / "soft-targets").glob("*"))
    with watch.stage("soft targets"):
        made = make_soft_targets(config, place.dataset, place.knowledge, accelerator)[0].path
    files["soft targets"] = made.with_name(f"{made.name}_times.json")
    if made not in there:
        write_json(files["soft targets"], watch.times["soft targets"])
    return {stage: read_json(file) for stage, file in files.items() if file.is_file()}


def run_cell(cell: Cell, place: Workplace) -> dict[str, Any]:
    """Return a cell's `cell.json`, computed now unless it is finished.

    Raises:
        SeqRecError: what the cell is made from is missing, or a stage refuses.
    """
    if (finished := read_finished(cell, place)) is not None:
        return finished
    folder, wanted, watch = cell_folder(cell, place), cell_recipe(cell, place), Stopwatch()
    for source in sources(cell):
        if read_finished(source, place) is None:
            raise ModelError(
                f"{cell} is made from {source}, which is not there: {command(source, place)}"
            )
    # The times of a run that was killed are lost: its successor's are not the cell's cost.
    interrupted = (folder / "started.json").is_file()
    write_json(folder / "started.json", wanted)
    result, found = COMPUTE[ROWS[cell.row].kind](cell, place, watch)
    save_ranks(folder / "ranks.safetensors", result)
    about = {
        "schema": SCHEMA,
        **dataclasses.asdict(cell),
        "command": command(cell, place),
        "recipe": wanted,
        "dataset": {"name": place.dataset.name, "fingerprint": place.dataset.fingerprint},
        "environment": describe_machine(num_threads=1),
        "times": watch.times,
        "interrupted": interrupted,
        **found,
    }
    write_json(folder / "cell.json", about)
    return about


def command(cell: Cell, place: Workplace) -> str:
    """Return what to type to compute one cell."""
    return "python " + shlex.join(arguments(cell, place))


def arguments(cell: Cell, place: Workplace) -> list[str]:
    """Return the arguments of Python that compute one cell."""
    values = {
        "data-dir": place.dataset.path,
        "output-dir": place.output_dir,
        **{name.replace("_", "-"): value for name, value in dataclasses.asdict(cell).items()},
        "device": place.device,
    }
    words = ["-m", "benchmarks.grid.run"]
    words += [f"--{name}={value}" for name, value in values.items() if value is not None]
    return words + ([f"--student-flags={place.student_flags}"] if place.student_flags else [])


Computed = tuple[Evaluation, dict[str, Any]]


def _popularity(cell: Cell, place: Workplace, watch: Stopwatch) -> Computed:
    score = popularity_scores(place.dataset.before_test())
    with watch.stage("evaluate"):
        result = evaluate(score, place.dataset, "test", max_len=1)
    valid = validation_ndcg(popularity_scores(place.dataset), place.dataset, max_len=1)
    return result, {"valid_ndcg@10": valid, "num_parameters": place.dataset.num_items}


def _teacher(cell: Cell, place: Workplace, watch: Stopwatch) -> Computed:
    from teacher.model import Teacher

    accelerator = Accelerator(cpu=place.device == "cpu")
    teacher = Teacher.from_pretrained(place.root / "teacher", device=accelerator.device)
    states: dict[Part, torch.Tensor] = {}
    parts: tuple[Part, ...] = ("valid", "test")
    item_vectors: dict[Part, torch.Tensor] = {}
    with watch.stage("evaluate"), torch.inference_mode():
        for part in parts:
            folder = place.root / "teacher"
            teacher.load_weights(folder if part == "test" else selection(folder))
            item_vectors[part] = teacher.item_vectors().float().cpu()
            targets = place.dataset.eval_targets(part)
            rows: list[torch.Tensor] = [torch.empty(0)] * len(targets.users)
            for chosen, _, histories in evaluation_batches(place.dataset, targets, 64):
                shown = torch.from_numpy(pad_left(histories, teacher.config.max_len))
                encoded = teacher.encode(shown.to(accelerator.device))[:, -1].float().cpu()
                for index, state in zip(chosen, encoded, strict=True):
                    rows[index] = state
            states[part] = torch.stack(rows)
        kept = TeacherStates(states, item_vectors)
        result = rank_targets(kept.scorer("test"), place.dataset, "test")
        valid = rank_targets(kept.scorer("valid"), place.dataset, "valid")
    kept.save(cell_folder(cell, place) / "states.safetensors")
    return result, {
        "valid_ndcg@10": headline_ndcg(valid, place.dataset),
        "num_parameters": teacher.num_parameters,
        "file_bytes": read_json(place.root / "teacher" / "metrics.json")["size_bytes"],
    }


def _student(cell: Cell, place: Workplace, watch: Stopwatch) -> Computed:
    config, folder = student_config(cell, place), student_folder(cell, place)
    accelerator = Accelerator(cpu=place.device == "cpu")
    knowledge = place.knowledge if ROWS[cell.row].taught else None
    assert cell.arch is not None
    shared = share_soft_targets(cell, place)
    with watch.stage("train"):
        student = distil(cell.arch, config, place.dataset, knowledge, folder, accelerator)
    about = read_json(folder / "config.json")
    student = student.to(accelerator.device).eval()
    max_len = student.config.max_len
    with watch.stage("evaluate"):
        result = evaluate(
            student, place.dataset, "test", max_len=max_len, device=accelerator.device
        )
    return result, {
        "valid_ndcg@10": about["valid_metrics"]["ndcg@10"],
        "teacher_weight": about.get("teacher_weight"),
        "num_parameters": student.num_parameters,
        "shared_times": shared,
        **_describe_file(folder / "model.safetensors", place),
    }


def _int8(cell: Cell, place: Workplace, watch: Stopwatch) -> Computed:
    (source,) = sources(cell)
    with watch.stage("export"):
        exported = ensure_exported(
            place.dataset, cell_folder(cell, place), student_folder(source, place), "int8"
        )
    runner = OnnxRunner.from_pretrained(exported, num_threads=1)
    with watch.stage("evaluate"):
        excluding, keeping = (
            top_lists(runner, place.dataset, exclude_seen=exclude) for exclude in (True, False)
        )
        result = evaluate_lists(excluding, keeping, place.dataset)
    # No choice hangs on its validation: it stands or falls with the fp32 student.
    return result, {
        "valid_ndcg@10": None,
        "num_parameters": runner.num_parameters,
        **_describe_file(exported / "model.onnx", place),
    }


def _fusion(cell: Cell, place: Workplace, watch: Stopwatch) -> Computed:
    def scorer(source: Cell, part: Part) -> Scorer:
        if ROWS[source.row].kind == "teacher":
            return TeacherStates.load(cell_folder(source, place) / "states.safetensors").scorer(
                part
            )
        folder = student_folder(source, place)
        student = Student.from_pretrained(folder if part == "test" else selection(folder))
        return model_scorer(student, student.config.max_len)

    def judge(part: Part) -> Evaluation:
        fused = fuse([scorer(source, part) for source in sources(cell)])
        return rank_targets(fused, place.dataset, part)

    with watch.stage("evaluate"):
        result = judge("test")
    made_of = [read_finished(source, place) or {} for source in sources(cell)]
    return result, {
        "valid_ndcg@10": headline_ndcg(judge("valid"), place.dataset),
        "num_parameters": sum(about["num_parameters"] for about in made_of),
        "file_bytes": sum(about["file_bytes"] for about in made_of),
    }


COMPUTE = {
    "popularity": _popularity,
    "teacher": _teacher,
    "student": _student,
    "int8": _int8,
    "fusion": _fusion,
}


def _describe_file(file: Path, place: Workplace) -> dict[str, Any]:
    return {
        "file": str(file.relative_to(place.root)),
        "file_bytes": file.stat().st_size,
        "file_sha256": sha256_file(file),
    }


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """Flags of `benchmarks.grid.run`."""

    data_dir: Path = flag(DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare")
    output_dir: Path = flag(DEFAULT_OUTPUT_DIR, "that of benchmarks.accuracy")
    row: str = flag("control", "a row of benchmarks/rows.py")
    arch: Literal["gru", "transformer"] | None = flag(None, "of a student")
    seed: int | None = flag(None, "of a student")
    partner_seed: int | None = flag(None, "of the second student where a row is fused with itself")
    student_flags: str = flag("", "flags of student.distill for all students, in quotes")
    device: Device = flag("cpu", "where to train; auto takes a GPU if there is one")


def end_with_parent() -> None:
    """Have Linux end this process when the grid that started it ends, killed or not (prctl(2)).

    Otherwise the same command, typed again, would compute the cell beside the one still running.
    """
    parent = os.environ.get(END_WITH_PARENT)
    if sys.platform == "linux" and parent:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != int(parent):  # it ended while we were being loaded
            raise SystemExit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Compute one cell and show its validation figure."""
    config = parse_flags(CellConfig, (__doc__ or "").partition("\n")[0], argv)
    select_rows([config.row])
    cell = Cell(config.row, config.arch, config.seed, config.partner_seed)
    if ROWS[cell.row].kind in ("student", "int8", "fusion") and None in (cell.arch, cell.seed):
        raise ModelError(f"row {cell.row} needs --arch gru or --arch transformer, and --seed 0")
    end_with_parent()
    set_up_cpu(num_threads=1, num_processes=1)
    place = open_workplace(
        config.data_dir,
        config.output_dir,
        config.student_flags,
        config.device,
        with_teacher=needs_teacher(config.row),
    )
    run_cell(cell, place)
    sys.stdout.write(f"{cell}: {cell_folder(cell, place)}\n")


if __name__ == "__main__":
    run_main(main)
