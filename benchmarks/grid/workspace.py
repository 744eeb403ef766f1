"""Where the runs of one data set are, and what decides their results."""

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from seqrec.config import parse_flags, recipe, recipe_digest
from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import ModelError
from seqrec.knowledge import Knowledge, load_knowledge

from accelerate import Accelerator

from benchmarks.grid.bag_of_words import with_bag_of_words
from benchmarks.grid.plan import RunKey
from benchmarks.grid.variants import VARIANTS, Variant
from benchmarks.report.schema import SCHEMA
from student.config import DistillConfig, scheduled

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Workspace:
    """Where the runs of one data set are, and what they share."""

    dataset: SequenceDataset
    root: Path  # teacher/, knowledge/, soft-targets/ ... as the stages write them, and cells/
    student_flags: str  # of `student.distill`, for all students alike
    device: Device

    @classmethod
    def open(cls, data_dir: Path, root: Path, student_flags: str, device: Device) -> "Workspace":
        """Open a data set and its folder of results; `DataError` if there is no such data."""
        return cls(load_dataset(data_dir), root, student_flags, device)

    def __reduce__(self) -> tuple[Callable[..., "Workspace"], tuple[Any, ...]]:
        """Have another process map the data set's files itself."""
        return Workspace.open, (self.dataset.path, self.root, self.student_flags, self.device)

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
    of_run: dict[str, Any] = {
        "data_dir": space.dataset.path,
        "output_dir": space.root,
        "arch": key.arch,
        "seed": key.seed,
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
    seed = None if key.seed is None else f"seed{key.seed}"
    name = "-".join(part for part in (key.arch, key.variant, seed, digest) if part)
    return space.root / "cells" / name


def student_folder(key: RunKey, space: Workspace) -> Path:
    """Return where a run's trained student is."""
    return run_folder(key, space) / "students" / str(key.arch) / key.variant
