"""Trains students, their controls and auxiliary teachers; `student.distill` is the command."""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from seqrec.config import default_output_dir, recipe_digest
from seqrec.data import SequenceDataset, load_dataset
from seqrec.evaluation import evaluate
from seqrec.files import read_json, selection
from seqrec.knowledge import Knowledge, load_knowledge
from seqrec.processes import start_accelerator
from seqrec.report import metrics_table
from seqrec.schedule import refit_epochs, warn_of_short_log
from seqrec.stage import Stage
from seqrec.tracking import LOGS
from seqrec.training import set_up_cpu
from seqrec.warm_start import describe_overlap, knows_catalogue

from accelerate import Accelerator

from student.config import DistillConfig, FullDistillConfig, scheduled
from student.model import Arch, Student
from student.side_by_side import num_side_by_side, run_side_by_side
from student.soft_targets import SoftTargets, prepare_soft_targets
from student.training import student_recipe, train_student
from student.warm_start import Start

logger = logging.getLogger(__name__)

AUXILIARY_ARCHS: tuple[Arch, ...] = ("transformer", "gru")
Role = Literal["control", "auxiliary", "distilled"]
AUXILIARY_SEED = 1000  # added to the students' seed: they should not share their errors


def auxiliary_config(
    arch: Arch, config: DistillConfig, dataset: SequenceDataset
) -> FullDistillConfig:
    """Return the flags of a student's auxiliary teacher, who learns from next items alone.

    Flags that matter to soft targets alone are reset: students that differ in them share teachers.
    With `init_from` it is the earlier run's student, trained no further.
    """
    alone = DistillConfig(kd_weight=0.0, cold_item_scale=0.0)
    names = ("kd_weight", "cold_item_scale", "teacher_weight", "temperature", "top_k", "keep_rest")
    reset: dict[str, Any] = {name: getattr(alone, name) for name in names}
    reset |= {"arch": arch, "seed": AUXILIARY_SEED + config.seed}
    if config.init_from is not None:
        reset["num_epochs"] = 0
    return scheduled(dataclasses.replace(config, **reset), dataset)


def auxiliary_archs(config: DistillConfig) -> tuple[Arch, ...]:
    """Return the auxiliary teachers: none where the teacher is all that is listened to.

    A run that starts from an earlier one has that one's students for them, as many as there are.
    """
    if config.teacher_weight == 1:
        return ()
    starts = {arch: Start.of(arch, config, is_control=False) for arch in AUXILIARY_ARCHS}
    return tuple(arch for arch, start in starts.items() if start is None or start.is_finished)


def auxiliary_knowledge(config: DistillConfig, knowledge: Knowledge) -> Knowledge | None:
    """Return what auxiliary teachers are given: the item texts if the student's table is fused."""
    return knowledge if config.item_table == "fused" else None


def auxiliary_folder(
    arch: Arch, config: DistillConfig, dataset: SequenceDataset, knowledge: Knowledge
) -> Path:
    """Return where an auxiliary teacher belongs; a recipe has a folder of its own."""
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    wanted = student_recipe(
        arch,
        auxiliary_config(arch, config, dataset),
        dataset,
        auxiliary_knowledge(config, knowledge),
    )
    return output_dir / "auxiliary-teachers" / f"{arch}-{recipe_digest(wanted)}"


def train_auxiliary(
    arch: Arch,
    config: DistillConfig,
    dataset: SequenceDataset,
    knowledge: Knowledge,
    accelerator: Accelerator,
) -> None:
    """Train an auxiliary teacher, unless that is done already."""
    train_student(
        arch,
        auxiliary_config(arch, config, dataset),
        dataset,
        auxiliary_knowledge(config, knowledge),
        auxiliary_folder(arch, config, dataset, knowledge),
        accelerator,
        label=f"{arch} auxiliary teacher",
    )


def make_soft_targets(
    config: DistillConfig, dataset: SequenceDataset, knowledge: Knowledge, accelerator: Accelerator
) -> list[SoftTargets]:
    """Have all teachers, the auxiliary ones trained now if need be, answer the training prefixes.

    Returns:
        The answers of those who do not know the validation events. If there is a refit, then also
        of those who do, to all prefixes before the test: the teacher's weight is the same.
    """
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    archs = auxiliary_archs(config)
    for arch in archs:
        train_auxiliary(arch, config, dataset, knowledge, accelerator)
    folders = [auxiliary_folder(arch, config, dataset, knowledge) for arch in archs]

    def answers(
        known: SequenceDataset, of: Knowledge, auxiliaries: list[Path], weight: float | None
    ) -> SoftTargets:
        wanted: dict[str, Any] = {
            "knowledge": of.fingerprint,
            "teacher_weight": weight,
            "top_k": config.top_k,
            "auxiliary_teachers": [read_json(folder / "recipe.json") for folder in folders],
            "refit": known is not dataset,
        }
        with accelerator.main_process_first():  # the others find them written
            return prepare_soft_targets(
                output_dir / "soft-targets" / recipe_digest(wanted),
                known,
                of,
                [Student.from_pretrained(folder) for folder in auxiliaries],
                teacher_weight=weight,
                top_k=config.top_k,
                recipe=wanted,
                device=accelerator.device,
            )

    selected = [selection(folder) for folder in folders]
    made = [answers(dataset, knowledge, selected, config.teacher_weight)]
    if config.refit_share != 0 and refit_epochs(dataset, 1.0, 1):  # there are events to refit on
        weight = made[0].meta["teacher_weight"]
        made.append(answers(dataset.before_test(), knowledge.before_test(dataset), folders, weight))
    return made


def flags_of(
    arch: Arch, config: DistillConfig, dataset: SequenceDataset, knowledge: Knowledge | None
) -> FullDistillConfig:
    """Return all flags of a student, or of a control, which has no knowledge: a plain table."""
    item_table = config.item_table if knowledge else "plain"
    return scheduled(dataclasses.replace(config, arch=arch, item_table=item_table), dataset)


def is_taught(config: DistillConfig) -> bool:
    """Tell whether students learn from soft targets: not if they learn nothing at all."""
    return config.kd_weight > 0 and config.num_epochs != 0


def distil(
    arch: Arch,
    config: DistillConfig,
    dataset: SequenceDataset,
    knowledge: Knowledge | None,
    folder: Path,
    accelerator: Accelerator,
) -> Student:
    """Return the student in `folder`, trained now unless it is there, after its teachers.

    Args:
        arch: what to train.
        config: the flags; `arch` goes before the one there.
        dataset: what to train on.
        knowledge: the teacher's; None trains a control, on the data alone.
        folder: where the student goes.
        accelerator: moves and distributes.
    """
    flags = flags_of(arch, config, dataset, knowledge)
    targets: list[SoftTargets] = []
    wanted = student_recipe(arch, flags, dataset, knowledge)
    if knowledge is not None and is_taught(config) and not Stage(folder, wanted).is_finished():
        targets = make_soft_targets(config, dataset, knowledge, accelerator)
    label = f"{arch} {'control' if knowledge is None else 'distilled'}"
    train_student(
        arch, flags, dataset, knowledge, folder, accelerator, soft_targets=targets, label=label
    )
    return Student.from_pretrained(folder)


def student_folder(output_dir: Path, role: str, arch: Arch) -> Path:
    """Return where `main` has a student, or the control of one."""
    return output_dir / "students" / arch / role


def train_one(role: Role, arch: Arch, config: DistillConfig, num_threads: int) -> None:
    """Train one of those that `main` asks for, unless that is done already."""
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    accelerator = start_accelerator(config.device, config.log_with, output_dir / LOGS)
    set_up_cpu(num_threads, accelerator.num_processes)
    dataset = load_dataset(config.data_dir)
    knowledge = load_knowledge(output_dir / "knowledge", dataset)
    if role == "auxiliary":
        train_auxiliary(arch, config, dataset, knowledge, accelerator)
    else:
        folder = student_folder(output_dir, role, arch)
        known = knowledge if role == "distilled" else None
        distil(arch, config, dataset, known, folder, accelerator)


def train_all(
    archs: Sequence[Arch],
    config: DistillConfig,
    dataset: SequenceDataset,
    knowledge: Knowledge,
    accelerator: Accelerator,
) -> None:
    """Train controls, auxiliary teachers and then students, as many at once as there are cores."""
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    at_once = num_side_by_side(dataset, accelerator)

    def unfinished(role: Role) -> list[Arch]:
        known = knowledge if role == "distilled" else None
        recipes = {
            arch: student_recipe(arch, flags_of(arch, config, dataset, known), dataset, known)
            for arch in archs
        }
        return [
            arch
            for arch, wanted in recipes.items()
            if not Stage(student_folder(output_dir, role, arch), wanted).is_finished()
        ]

    students = unfinished("distilled")
    first: list[tuple[Role, Arch, DistillConfig]] = []
    if students and is_taught(config):
        first = [("auxiliary", arch, config) for arch in auxiliary_archs(config)]
    first += [("control", arch, config) for arch in unfinished("control")]
    run_side_by_side(train_one, first, at_once)
    if students and is_taught(config):
        make_soft_targets(config, dataset, knowledge, accelerator)
    run_side_by_side(train_one, [("distilled", arch, config) for arch in students], at_once)


def known_start(
    config: DistillConfig, dataset: SequenceDataset, accelerator: Accelerator
) -> DistillConfig:
    """Return the flags without an earlier run that knows too little of the items, and say so.

    Students of other items do harm. Trained on Office, encoder and projection of the texts rank
    Beauty, untrained, at NDCG@10 .0028 (GRU) and .0026 (Transformer); Beauty's texts alone rank it
    at .0201 and .0199. Encoders alone, trained on Beauty's and Games' texts, lose 6 % on Office.
    """
    if config.init_from is None or knows_catalogue(config.init_from, dataset):
        return config
    if accelerator.is_main_process:
        logger.info("%s", describe_overlap(config.init_from, dataset))
    return dataclasses.replace(config, init_from=None)


def check_starts(
    archs: Sequence[Arch],
    config: DistillConfig,
    dataset: SequenceDataset,
    knowledge: Knowledge,
    accelerator: Accelerator,
) -> None:
    """Refuse an earlier run that not all students and controls can start from; say what it knows.

    Raises:
        SeqRecError: see `student.warm_start`.
    """
    if config.init_from is None:
        return
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    students = [(arch, known) for arch in archs for known in (None, knowledge)]
    auxiliaries = [(arch, knowledge) for arch in auxiliary_archs(config) if arch not in archs]
    for arch, known in [*students, *auxiliaries]:
        start = Start.of(arch, config, is_control=known is None)
        assert start is not None
        start.check(flags_of(arch, config, dataset, known), output_dir, known)
    if accelerator.is_main_process:
        logger.info("%s", describe_overlap(config.init_from, dataset))


def run(config: DistillConfig) -> None:
    """Train the asked-for students and their controls, and show what the teacher gave."""
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    accelerator = start_accelerator(config.device, config.log_with, output_dir / LOGS)
    set_up_cpu(config.num_threads, accelerator.num_processes)
    dataset = load_dataset(config.data_dir)
    knowledge = load_knowledge(output_dir / "knowledge", dataset)
    archs: list[Arch] = ["gru", "transformer"] if config.arch == "both" else [config.arch]
    config = known_start(config, dataset, accelerator)
    if accelerator.is_main_process and config.init_from is None:
        warn_of_short_log(dataset, config.num_epochs)
    check_starts(archs, config, dataset, knowledge, accelerator)
    train_all(archs, config, dataset, knowledge, accelerator)
    reports, weights = {}, {}
    for arch in archs:
        for role in ("control", "distilled"):
            folder = student_folder(output_dir, role, arch)
            result = evaluate(
                Student.from_pretrained(selection(folder)).to(accelerator.device),
                dataset,
                "valid",
                max_len=config.max_len,
                device=accelerator.device,
                accelerator=accelerator,
            )
            reports[f"{arch} {role}"] = result.report()
            weights[arch] = read_json(folder / "config.json").get("teacher_weight")
    if accelerator.is_main_process:
        sys.stdout.write("Validation; the test targets are left to the benchmark.\n")
        sys.stdout.write(metrics_table(reports))
        sys.stdout.write(weight_note(weights))
    accelerator.end_training()


def weight_note(weights: dict[Arch, float | None]) -> str:
    """Say how much the language model's answers weigh in each student's soft targets."""
    lines = [
        f"{arch}: the language model's answers have weight {weight:g} in the soft targets, the "
        f"auxiliary teachers' {1 - weight:g}\n"
        for arch, weight in weights.items()
        if weight is not None
    ]
    return "".join(lines)
