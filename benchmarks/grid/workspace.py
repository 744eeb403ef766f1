"""A replication of the accuracy grid: what its runs share, and what decides their results.

A replication has a seed and everything of its own. Its runs share the teacher, the auxiliary
teachers and the soft targets; what these cost is kept.
"""

import contextlib
import dataclasses
import logging
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from seqrec.config import parse_flags, recipe, recipe_digest
from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import ModelError, SeqRecError
from seqrec.files import read_json, sha256_file, write_json
from seqrec.knowledge import Knowledge, load_knowledge

from accelerate import Accelerator

from benchmarks.grid.bag_of_words import with_bag_of_words
from benchmarks.grid.variants import VARIANTS, RunKey, Variant
from benchmarks.report.schema import SCHEMA, Cost
from student.config import DistillConfig, scheduled
from student.distilling import auxiliary_archs, auxiliary_folder, make_soft_targets, train_auxiliary

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Workspace:
    """Where the runs of one replication on a data set are, and what they share."""

    dataset: SequenceDataset
    # OUTPUT_DIR/<data>/seed<seed>: teacher/, knowledge/ ... as the stages write them, and cells/
    root: Path
    seed: int  # of all that is trained there
    student_flags: str  # of `student.distill`, for all students alike
    device: Device

    @classmethod
    def open(
        cls, data_dir: Path, results: Path, seed: int, student_flags: str, device: Device
    ) -> "Workspace":
        """Open a replication in a data set's folder of results; `DataError` if there is no data."""
        return cls(load_dataset(data_dir), results / f"seed{seed}", seed, student_flags, device)

    def __reduce__(self) -> tuple[Callable[..., "Workspace"], tuple[Any, ...]]:
        """Have another process map the data set's files itself."""
        flags = (self.seed, self.student_flags, self.device)
        return Workspace.open, (self.dataset.path, self.results, *flags)

    @property
    def results(self) -> Path:
        """The data set's folder of results, which holds the folders of all replications."""
        return self.root.parent

    @cached_property
    def knowledge(self) -> Knowledge | None:
        """The teacher's; None: there is none yet. `SeqRecError` if it is of other data."""
        folder = self.root / "knowledge"
        return load_knowledge(folder, self.dataset) if (folder / "meta.json").is_file() else None

    def accelerator(self) -> Accelerator:
        """Return what says where to compute."""
        return Accelerator(cpu=self.device == "cpu")

    def knowledge_for(self, variant: Variant) -> Knowledge | None:
        """Return what a variant's student is given of the teacher's; None: nothing."""
        if not variant.taught or self.knowledge is None:
            return None
        return with_bag_of_words(self.knowledge, self.dataset) if variant.words else self.knowledge


def student_config(key: RunKey, space: Workspace) -> DistillConfig:
    """Return the flags that a student is trained with: shared ones, then its variant's."""
    shared = parse_flags(DistillConfig, "Flags of all students.", shlex.split(space.student_flags))
    if shared.init_from is not None:  # each variant would have to start from its own
        raise ModelError("--student-flags cannot hold --init-from: a grid trains all students anew")
    of_run: dict[str, Any] = {
        "data_dir": space.dataset.path,
        "output_dir": space.root,
        "arch": key.arch,
        "seed": space.seed,
        "device": space.device,
        "num_threads": 1,
    }
    return dataclasses.replace(shared, **of_run, **VARIANTS[key.variant].overrides)


def run_recipe(key: RunKey, space: Workspace) -> dict[str, Any]:
    """Return all that decides a run's result, as JSON values.

    Raises:
        ModelError: the run needs a teacher, and there is none.
    """
    variant = VARIANTS[key.variant]
    wanted: dict[str, Any] = {"schema": SCHEMA, "kind": variant.kind}
    if variant.made_of:
        return wanted | {"made_of": [run_recipe(source, space) for source in key.sources]}
    wanted["dataset_fingerprint"] = space.dataset.fingerprint
    if variant.needs_teacher:
        if space.knowledge is None:
            raise ModelError(f"{key}: no teacher in {space.root}")
        wanted["knowledge_fingerprint"] = space.knowledge.fingerprint
    if variant.words:
        wanted["texts"] = "bags of words"
    if variant.kind == "student":  # with the schedule filled in: other rules make another run
        wanted["student"] = recipe(scheduled(student_config(key, space), space.dataset))
    return wanted


def run_folder(key: RunKey, space: Workspace) -> Path:
    """Return where a run belongs."""
    digest = recipe_digest(run_recipe(key, space))
    name = "-".join(part for part in (key.arch, key.variant, digest) if part)
    return space.root / "cells" / name


def student_folder(key: RunKey, space: Workspace) -> Path:
    """Return where a run's trained student is."""
    return run_folder(key, space) / "students" / str(key.arch) / key.variant


# --- What runs share, and what it cost ---------------------------------------------------------


class Stopwatch:
    """Wall and CPU seconds of named stages, those of processes that ended inside included."""

    def __init__(self) -> None:
        self.times: dict[str, Cost] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        wall, cpu = time.perf_counter(), _cpu_s()
        yield
        self.times[name] = Cost(wall_s=time.perf_counter() - wall, cpu_s=_cpu_s() - cpu)


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def times_file(folder: Path) -> Path:
    """Return where it is kept what making a folder cost."""
    return folder.with_name(f"{folder.name}_times.json")


def make_once(record: Path, checkpoint: Path, make: Callable[[], object], **notes: str) -> None:
    """Make a folder unless it is there; keep what that cost, and the notes, beside it.

    The cost of what was killed once and went on from its checkpoint is not known.

    Args:
        record: the file in the folder that is written last.
        checkpoint: a folder that is there while the work is not done.
        make: makes the folder, or finds it finished.
        notes: more to be kept.
    """
    before = sha256_file(record) if record.is_file() else None
    was_killed, watch = checkpoint.is_dir(), Stopwatch()
    with watch.stage("all"):
        make()
    if sha256_file(record) != before:  # else it was finished already
        times_file(record.parent).unlink(missing_ok=True)
        if not was_killed:
            cost = dataclasses.asdict(watch.times["all"])
            write_json(times_file(record.parent), {**notes, **cost})


def share_soft_targets(key: RunKey, space: Workspace) -> dict[str, Cost]:
    """Make what a taught student learns from and shares with others, unless it is there.

    Returns:
        What it cost, by stage ("gru auxiliary teacher", "transformer auxiliary teacher", "soft
        targets"), kept beside what they made. A stage is missing if the student does without it,
        or if its cost is not known.
    """
    variant = VARIANTS[key.variant]
    if variant.kind != "student" or not variant.taught:
        return {}
    config, accelerator = student_config(key, space), space.accelerator()
    if config.kd_weight == 0:
        return {}
    knowledge = space.knowledge_for(variant)
    if knowledge is None:
        raise ModelError(f"{key}: no teacher in {space.root}")
    folders: dict[str, Path] = {}
    for arch in auxiliary_archs(config):
        folder = auxiliary_folder(arch, config, space.dataset, knowledge)
        train = partial(train_auxiliary, arch, config, space.dataset, knowledge, accelerator)
        checkpoint = folder.with_name(f"{folder.name}-checkpoint")
        make_once(folder / "recipe.json", checkpoint, train)
        folders[f"{arch} auxiliary teacher"] = folder
    before, watch = set((space.root / "soft-targets").glob("*")), Stopwatch()
    with watch.stage("soft targets"):
        made = make_soft_targets(config, space.dataset, knowledge, accelerator)[0].path
    folders["soft targets"] = made
    if made not in before:
        write_json(times_file(made), dataclasses.asdict(watch.times["soft targets"]))
    files = {stage: times_file(folder) for stage, folder in folders.items()}
    return {stage: Cost(**read_json(file)) for stage, file in files.items() if file.is_file()}


def ensure_teacher(space: Workspace, teacher_flags: str, num_threads: int) -> None:
    """Train the replication's teacher unless there is one of this data; all its students share it.

    Raises:
        ModelError: training failed.
    """
    data_dir, root = space.dataset.path, space.root
    metrics = root / "teacher" / "metrics.json"
    if not teacher_flags and metrics.is_file():
        try:
            load_knowledge(root / "knowledge", space.dataset)
        except SeqRecError as error:
            logger.info("%s", error)
        else:
            return
    words = ["teacher/finetune.py", f"--data-dir={data_dir.resolve()}"]
    words += [f"--output-dir={root.resolve()}", f"--num-threads={num_threads}"]
    words += [*shlex.split(teacher_flags), f"--seed={space.seed}"]
    command = f"accelerate launch {shlex.join(words)}"
    logger.info("%s", command)

    def train() -> None:
        launch = [sys.executable, "-m", "accelerate.commands.launch", *words]
        if code := subprocess.run(launch, cwd=ROOT, check=False).returncode:
            raise ModelError(
                f"the teacher of {data_dir} was not trained: exit code {code}, its reason stands "
                f"above. To try it alone: {command}"
            )

    make_once(metrics, root / "teacher" / "checkpoint", train, command=command)
