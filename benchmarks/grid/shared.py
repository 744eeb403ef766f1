"""What runs of one data set share: the teacher, auxiliary teachers, soft targets; their cost."""

import contextlib
import dataclasses
import logging
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError, SeqRecError
from seqrec.files import read_json, sha256_file, write_json
from seqrec.knowledge import load_knowledge

from benchmarks.grid.variants import VARIANTS
from benchmarks.grid.workspace import RunKey, Workspace, student_config
from benchmarks.report.schema import Cost
from student.distilling import AUXILIARY_ARCHS, auxiliary_folder, make_soft_targets, train_auxiliary

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]


class Stopwatch:
    """Wall and CPU seconds of named stages; CPU seconds are this process's, all threads."""

    def __init__(self) -> None:
        self.times: dict[str, Cost] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.times[name] = Cost(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)


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
    watch, files = Stopwatch(), {}
    for arch in AUXILIARY_ARCHS if config.teacher_weight != 1 else ():
        stage = f"{arch} auxiliary teacher"
        folder = auxiliary_folder(arch, config, space.dataset, knowledge)
        files[stage] = folder.with_name(f"{folder.name}_times.json")
        trained = folder / "recipe.json"
        before = read_json(trained) if trained.is_file() else None
        # The times of a run that was killed are lost.
        interrupted = folder.with_name(f"{folder.name}-checkpoint").is_dir()
        with watch.stage(stage):
            train_auxiliary(arch, config, space.dataset, knowledge, accelerator)
        if read_json(trained) != before:
            files[stage].unlink(missing_ok=True)
            if not interrupted:
                write_json(files[stage], dataclasses.asdict(watch.times[stage]))
    there = set((space.root / "soft-targets").glob("*"))
    with watch.stage("soft targets"):
        made = make_soft_targets(config, space.dataset, knowledge, accelerator)[0].path
    files["soft targets"] = made.with_name(f"{made.name}_times.json")
    if made not in there:
        write_json(files["soft targets"], dataclasses.asdict(watch.times["soft targets"]))
    return {stage: Cost(**read_json(file)) for stage, file in files.items() if file.is_file()}


def ensure_teacher(
    data_dir: Path, dataset: SequenceDataset, root: Path, *, teacher_flags: str, num_threads: int
) -> None:
    """Train the teacher unless there is one of this data; all seeds and students share it.

    Raises:
        ModelError: training failed.
    """
    metrics, checkpoint = root / "teacher" / "metrics.json", root / "teacher" / "checkpoint"
    if not teacher_flags and metrics.is_file():
        try:
            load_knowledge(root / "knowledge", dataset)
        except SeqRecError as error:
            logger.info("%s", error)
        else:
            return
    words = ["teacher/finetune.py", f"--data-dir={data_dir.resolve()}"]
    words += [f"--output-dir={root.resolve()}", f"--num-threads={num_threads}"]
    words += shlex.split(teacher_flags)
    command = f"accelerate launch {shlex.join(words)}"
    logger.info("%s", command)
    before = sha256_file(metrics) if metrics.is_file() else None
    interrupted = checkpoint.is_dir()  # the times of a run that was killed are lost
    wall, cpu = time.perf_counter(), _children_cpu_s()
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *words], cwd=ROOT, check=False
    )
    if done.returncode:
        raise ModelError(
            f"the teacher of {data_dir} was not trained: exit code {done.returncode}, its reason "
            f"stands above. To try it alone: {command}"
        )
    if sha256_file(metrics) != before:  # else it was finished already
        cost = {"wall_s": time.perf_counter() - wall, "cpu_s": _children_cpu_s() - cpu}
        about = {"command": command, "interrupted": interrupted}
        write_json(root / "teacher_times.json", {**about, **cost})


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
