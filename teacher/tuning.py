"""Fine-tunes and evaluates the teacher, and writes its knowledge, for `teacher/finetune.py`."""

import dataclasses
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

from seqrec.batching import TrainingBatches
from seqrec.config import (
    DEFAULT_DATA_DIR,
    DEFAULT_DATASET,
    default_output_dir,
    recipe,
    to_json,
)
from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import ModelError
from seqrec.evaluation import evaluate, validation_ndcg
from seqrec.files import SELECTION, read_json, write_json
from seqrec.prepare import prepare_named
from seqrec.processes import start_accelerator
from seqrec.report import metrics_table
from seqrec.schedule import choose_budget, refit_epochs, teacher_layers, teacher_schedule
from seqrec.stage import Stage
from seqrec.tracking import LOGS, tracked
from seqrec.training import FitConfig, Progress, fit, set_up_cpu

import torch
from accelerate import Accelerator

from teacher.base import compute_dtype, load_base, num_4bit_parameters, resolve_model
from teacher.check_folder import TAKE, first_line, model_fingerprint, read_config, text_config
from teacher.config import FinetuneConfig, FullFinetuneConfig
from teacher.extracting import extract_knowledge
from teacher.model import Teacher, TeacherConfig, item_mask, next_item_loss
from teacher.plan import Work, check_model, make_plan
from teacher.text import text_components

logger = logging.getLogger(__name__)


def build_teacher(
    config: FullFinetuneConfig, dataset: SequenceDataset, device: torch.device
) -> Teacher:
    """Load the language model, read the item texts with it, and put the trainable parts on."""
    folder = resolve_model(config.model)
    layers = config.num_layers or None
    components, text_map = text_components(
        dataset, folder, bits=config.bits, num_layers=layers, device=device
    )
    base = load_base(folder, bits=config.bits, num_layers=layers, device=device)
    shape = TeacherConfig(
        model=config.model,
        model_fingerprint=model_fingerprint(folder),
        dataset_fingerprint=dataset.fingerprint,
        bits=config.bits,
        num_layers=base.config.num_hidden_layers,
        num_items=dataset.num_items,
        item_dim=config.item_dim,
        max_len=config.max_len,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        dropout=config.dropout,
    )
    torch.manual_seed(config.seed)
    teacher = Teacher(
        base,
        torch.from_numpy(components),
        torch.from_numpy(text_map),
        item_mask(dataset.untrained_items, dataset.num_items),
        shape,
    ).to(device)
    try:
        with torch.no_grad():
            teacher.encode(torch.ones(1, 1, dtype=torch.int64, device=device))
    except Exception as error:  # a layer of its own kind, which an adapter does not suit
        raise ModelError(
            f"{config.model} cannot be asked through an adapter ({first_line(error)}). {TAKE}"
        ) from error
    if config.gradient_checkpointing:
        teacher.base.gradient_checkpointing_enable({"use_reentrant": False})
    trained = sum(p.numel() for p in teacher.parameters() if p.requires_grad)
    in_4bit = num_4bit_parameters(base)
    others = sum(p.numel() for p in base.parameters() if p.is_floating_point())
    logger.info(
        "teacher: %s, %d layers; of its %.1f M weights, without those of words, %.1f M are in "
        "4 bit, multiplied in %s; %.2f M trained",
        config.model,
        shape.num_layers,
        (in_4bit + others) / 1e6,
        in_4bit / 1e6,
        str(compute_dtype(device)).removeprefix("torch."),
        trained / 1e6,
    )
    return teacher


def run(config: FinetuneConfig) -> None:
    """Fine-tune, evaluate, save, and write the knowledge.

    Raises:
        SeqRecError: what the user can repair: no data, no language model, no 4 bit, divergence.
    """
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    accelerator = start_accelerator(config.device, config.log_with, output_dir / LOGS)
    set_up_cpu(config.num_threads, accelerator.num_processes)
    with accelerator.main_process_first():
        if config.data_dir == DEFAULT_DATA_DIR and not config.data_dir.exists():
            prepare_named(DEFAULT_DATASET, config.data_dir)
        dataset = load_dataset(config.data_dir)
    finetune(scheduled(config, dataset), dataset, output_dir, accelerator)


def finetune(
    config: FullFinetuneConfig, dataset: SequenceDataset, output_dir: Path, accelerator: Accelerator
) -> None:
    """Do what `run` does, with a data set that is there and flags of which none is left open."""
    work = work_of(config, accelerator.num_processes)
    if config.dry_run:
        if accelerator.is_main_process:
            plan = make_plan(dataset, work, accelerator.device, accelerator.num_processes)
            sys.stdout.write(plan.table())
        return
    with accelerator.local_main_process_first():  # the others find what it has unpacked
        model = resolve_model(config.model)
    check_model(text_config(read_config(model, bits=config.bits)), work)
    folder = output_dir / "teacher"
    wanted = teacher_recipe(config, dataset.fingerprint, model_fingerprint(model))
    finished = Stage(folder, wanted, record="metrics.json", key="recipe").is_finished()
    accelerator.wait_for_everyone()  # until all have looked
    if finished:
        reuse(dataset, config, output_dir, accelerator)
        return
    if accelerator.is_main_process:
        write_json(folder / "config.json", to_json(config))
    with accelerator.local_main_process_first():  # the others find text vectors in the cache
        teacher = build_teacher(config, dataset, accelerator.device)
    valid_ndcg = train(teacher, dataset, config, folder, wanted, accelerator)
    finish(teacher, dataset, config, output_dir, wanted, valid_ndcg, accelerator)
    accelerator.end_training()


def scheduled(config: FinetuneConfig, dataset: SequenceDataset) -> FullFinetuneConfig:
    """Put what `seqrec.schedule` says in place of what is left to it."""
    budget = config.budget or choose_budget(config.device)
    schedule = teacher_schedule(dataset, config.max_len, budget)
    rules: dict[str, Any] = {
        "budget": budget,
        "num_layers": teacher_layers(budget),
        "num_epochs": schedule.num_epochs,
        "batch_size": schedule.batch_size,
    }
    left = {name: value for name, value in rules.items() if getattr(config, name) is None}
    return FullFinetuneConfig(**{**vars(config), **left})


def train(
    teacher: Teacher,
    dataset: SequenceDataset,
    config: FullFinetuneConfig,
    folder: Path,
    wanted: dict[str, Any],
    accelerator: Accelerator,
) -> float:
    """Train a teacher, then on the validation events too; return its NDCG@10 before that.

    The teacher as it was selected is left in `selection/` inside `folder`, if there is a refit.
    """
    at_once = work_of(config, accelerator.num_processes).windows_at_once

    def fit_on(known: SequenceDataset, num_epochs: int, label: str) -> Progress:
        def validate(model: Teacher) -> float:
            return validation_ndcg(
                model,
                dataset,
                max_len=config.max_len,
                batch_size=at_once,
                device=accelerator.device,
                accelerator=accelerator,
            )

        with tracked(accelerator, label, wanted):
            return fit(
                teacher,
                next_item_loss,
                # An item more in a window costs a pass through the language model: read each once.
                TrainingBatches(
                    known, config.max_len, config.batch_size, config.seed, stride=config.max_len
                ),
                validate if known is dataset else None,
                FitConfig(
                    num_epochs=num_epochs,
                    learning_rate=config.learning_rate,
                    gradient_accumulation=config.gradient_accumulation,
                    seed=config.seed,
                ),
                accelerator=accelerator,
                checkpoint_dir=folder / "checkpoint" / label,
                recipe=wanted,
                label=label,
            )

    selected = fit_on(dataset, config.num_epochs, "teacher")
    if further := refit_epochs(dataset, config.refit_share, config.num_epochs):
        if accelerator.is_main_process:
            teacher.save_pretrained(folder / SELECTION)
        complete = dataset.before_test()
        teacher.untrained.copy_(item_mask(complete.untrained_items, complete.num_items))
        fit_on(complete, further, "teacher refit")
    return selected.best_value


def reuse(
    dataset: SequenceDataset, config: FullFinetuneConfig, output_dir: Path, accelerator: Accelerator
) -> None:
    """Show a finished teacher's figures; write its knowledge again if that is gone."""
    folder = output_dir / "teacher"
    logger.info("the teacher in %s is finished; remove the folder to train it again", folder)
    if accelerator.is_main_process:
        described = read_json(folder / "teacher.json")
        if described["model"] != config.model:  # the same model, in another folder today
            write_json(folder / "teacher.json", {**described, "model": config.model})
    accelerator.wait_for_everyone()
    if not (output_dir / "knowledge").is_dir():
        teacher = Teacher.from_pretrained(folder, device=accelerator.device)
        write_knowledge(teacher, dataset, config, output_dir, accelerator)
    if accelerator.is_main_process:
        report = read_json(folder / "metrics.json")["test"]
        sys.stdout.write(metrics_table({"teacher": report}))


def work_of(config: FullFinetuneConfig, num_processes: int) -> Work:
    """Return what `config`, its schedule filled in, asks for."""
    shared = {field.name for field in dataclasses.fields(Work)} - {"num_parts"}
    given = {name: getattr(config, name) for name in shared}
    return Work(**given, num_parts=num_processes * config.gradient_accumulation)


def teacher_recipe(
    config: FullFinetuneConfig, dataset_fingerprint: str, model_fingerprint: str
) -> dict[str, Any]:
    """Return what decides the teacher: of the language model, what is in it and not its name."""
    wanted = recipe(
        config, dataset_fingerprint=dataset_fingerprint, model_fingerprint=model_fingerprint
    )
    return {key: value for key, value in wanted.items() if key != "model"}


def finish(
    teacher: Teacher,
    dataset: SequenceDataset,
    config: FullFinetuneConfig,
    output_dir: Path,
    wanted: dict[str, Any],
    valid_ndcg: float,
    accelerator: Accelerator,
) -> None:
    """Save the teacher, write its knowledge, and judge it once on the test targets."""
    folder = output_dir / "teacher"
    if accelerator.is_main_process:
        teacher.save_pretrained(folder)
    accelerator.wait_for_everyone()
    write_knowledge(teacher, dataset, config, output_dir, accelerator)
    result = evaluate(
        teacher,
        dataset,
        "test",
        max_len=config.max_len,
        batch_size=work_of(config, accelerator.num_processes).windows_at_once,
        device=teacher.device,
        accelerator=accelerator,
    )
    if not accelerator.is_main_process:
        return
    report = result.report()
    held = teacher.answer_bytes
    metrics = {
        "dataset_fingerprint": dataset.fingerprint,
        "valid_ndcg@10": valid_ndcg,
        "test": report,
        "num_parameters": teacher.num_parameters,
        "size_bytes": sum(held.values()),
        "size_by_precision": held,
        "recipe": wanted,
    }
    write_json(folder / "metrics.json", metrics)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    sys.stdout.write(metrics_table({"teacher": report}))


def write_knowledge(
    teacher: Teacher,
    dataset: SequenceDataset,
    config: FullFinetuneConfig,
    output_dir: Path,
    accelerator: Accelerator,
) -> None:
    """Write the teacher's answers for the students, as large as the flags allow."""
    extract_knowledge(
        teacher,
        output_dir / "teacher",
        dataset,
        output_dir / "knowledge",
        prefixes_per_user=config.prefixes_per_user,
        batch_size=work_of(config, accelerator.num_processes).windows_at_once,
        accelerator=accelerator,
    )
