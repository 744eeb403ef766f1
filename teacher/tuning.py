"""Fine-tunes and evaluates the teacher, and writes its knowledge, for `teacher/finetune.py`."""

import logging
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from seqrec.batching import TrainingBatches
from seqrec.config import (
    DEFAULT_DATA_DIR,
    DEFAULT_DATASET,
    default_output_dir,
    recipe,
    to_json,
)
from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.evaluation import by_catalogue, evaluate, validation_ndcgs
from seqrec.files import SELECTION, read_json, write_json
from seqrec.metrics import Evaluation
from seqrec.prepare import prepare_named
from seqrec.processes import start_accelerator
from seqrec.report import metrics_table
from seqrec.schedule import (
    WARM_TEACHER_EPOCHS,
    choose_budget,
    refit_epochs,
    teacher_layers,
    teacher_schedule,
    warn_of_short_log,
)
from seqrec.stage import Stage
from seqrec.tracking import LOGS, tracked
from seqrec.training import FitConfig, fit, set_up_cpu
from seqrec.uniting import open_united, united_path
from seqrec.warm_start import describe_overlap, fingerprint_of, knows_catalogue, stated

import numpy as np
import torch
from accelerate import Accelerator

from teacher.base import compute_dtype, load_base, num_4bit_parameters, resolve_model
from teacher.check_folder import TAKE, first_line, model_fingerprint, read_config, text_config
from teacher.config import FinetuneConfig, FullFinetuneConfig
from teacher.extracting import extract_knowledge
from teacher.model import Teacher, item_mask, new_teacher, next_item_loss
from teacher.plan import check_model, make_plan
from teacher.text import text_components
from teacher.warm_start import carry_over, check_start, earlier_text_map

logger = logging.getLogger(__name__)


def run(config: FinetuneConfig) -> None:
    """Fine-tune, evaluate, save, and write the knowledge; what is finished stays as it is.

    Raises:
        SeqRecError: what the user can repair: no data, no language model, no 4 bit, divergence.
    """
    output_dir = config.output_dir or default_output_dir(united_path(config.data_dir))
    accelerator = start_accelerator(config.device, config.log_with, output_dir / LOGS)
    set_up_cpu(config.num_threads, accelerator.num_processes)
    with accelerator.main_process_first():  # the others find what it has made
        if DEFAULT_DATA_DIR in config.data_dir and not DEFAULT_DATA_DIR.exists():
            prepare_named(DEFAULT_DATASET, DEFAULT_DATA_DIR)
        dataset = open_united(config.data_dir)
    flags = scheduled(config, dataset)
    if accelerator.is_main_process and config.init_from is None:
        warn_of_short_log(dataset, config.num_epochs)
    if not flags.dry_run:
        finetune(flags, dataset, output_dir, accelerator)
    elif accelerator.is_main_process:
        plan = make_plan(dataset, flags, accelerator.device, accelerator.num_processes)
        sys.stdout.write(plan.table())


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
    if config.init_from is not None:
        if knows_catalogue(config.init_from, dataset):
            rules["num_epochs"] = WARM_TEACHER_EPOCHS
        rules |= stated(config.init_from / "teacher" / "teacher.json", "num_layers")
    left = {name: value for name, value in rules.items() if getattr(config, name) is None}
    return FullFinetuneConfig(**{**vars(config), **left})


def finetune(
    flags: FullFinetuneConfig, dataset: SequenceDataset, output_dir: Path, accelerator: Accelerator
) -> None:
    """Make what is not there yet of a teacher and its knowledge, and show the teacher's figures."""
    with accelerator.local_main_process_first():  # the others find what it has unpacked
        model = resolve_model(flags.model)
    model_config = text_config(read_config(model, bits=flags.bits))
    check_model(model_config, flags)
    folder = output_dir / "teacher"
    # What decides the teacher: of the language model, what is in it and not its name.
    wanted = recipe(
        flags, dataset_fingerprint=dataset.fingerprint, model_fingerprint=model_fingerprint(model)
    )
    del wanted["model"]
    if flags.init_from is not None:
        num_layers = flags.num_layers or model_config.num_hidden_layers
        check_start(flags, output_dir, wanted["model_fingerprint"], num_layers)
        wanted["init_fingerprint"] = fingerprint_of(flags.init_from, flags.init_from / "teacher")
        if accelerator.is_main_process:
            logger.info("%s", describe_overlap(flags.init_from, dataset))
    finished = Stage(folder, wanted, record="metrics.json", key="recipe").is_finished()
    accelerator.wait_for_everyone()  # until all have looked
    teacher = None  # as long as nothing is asked of it
    if not finished:
        if accelerator.is_main_process:
            write_json(folder / "config.json", to_json(flags))
        with accelerator.local_main_process_first():  # the others find text vectors in the cache
            teacher = build_teacher(flags, dataset, accelerator.device)
        valid_ndcgs = train(teacher, dataset, flags, folder, wanted, accelerator)
        if accelerator.is_main_process:
            teacher.save_pretrained(folder)
        accelerator.wait_for_everyone()
    else:
        logger.info("the teacher in %s is finished; remove the folder to train it again", folder)
        if accelerator.is_main_process:
            described = read_json(folder / "teacher.json")
            if described["model"] != flags.model:  # the same model, in another folder today
                write_json(folder / "teacher.json", {**described, "model": flags.model})
        accelerator.wait_for_everyone()
        if not (output_dir / "knowledge").is_dir():
            teacher = Teacher.from_pretrained(folder, device=accelerator.device)
    if teacher is not None:
        extract_knowledge(
            teacher,
            dataset,
            output_dir,
            accelerator,
            prefixes_per_user=flags.prefixes_per_user,
            batch_size=flags.windows_at_once(accelerator.num_processes),
        )
        if not finished:
            judge(teacher, dataset, flags, folder, wanted, valid_ndcgs, accelerator)
    if accelerator.is_main_process:
        metrics = read_json(folder / "metrics.json")
        reports = {"teacher": metrics["test"]}
        for name, report in metrics.get("test_by_catalogue", {}).items():
            reports[f"teacher, {name}"] = report
        sys.stdout.write(metrics_table(reports))
    accelerator.end_training()


def build_teacher(
    flags: FullFinetuneConfig, dataset: SequenceDataset, device: torch.device
) -> Teacher:
    """Load the language model, read the item texts with it, and put the trainable parts on."""
    folder = resolve_model(flags.model)
    layers = flags.num_layers or None
    start = flags.init_from
    components, text_map = text_components(
        dataset,
        folder,
        bits=flags.bits,
        num_layers=layers,
        text_map=None if start is None else earlier_text_map(start, dataset),
        device=device,
    )
    base = load_base(folder, bits=flags.bits, num_layers=layers, device=device)
    in_4bit = num_4bit_parameters(base)
    others = sum(p.numel() for p in base.parameters() if p.is_floating_point())
    torch.manual_seed(flags.seed)
    teacher = new_teacher(
        base,
        item_mask(dataset.untrained_items, dataset.num_items),
        flags,
        components=torch.from_numpy(components),
        text_map=torch.from_numpy(text_map),
        model_fingerprint=model_fingerprint(folder),
        dataset_fingerprint=dataset.fingerprint,
    ).to(device)
    if start is not None:
        carry_over(teacher, start, dataset)
    try:
        with torch.no_grad():
            teacher.encode(torch.ones(1, 1, dtype=torch.int64, device=device))
    except Exception as error:  # a layer of its own kind, which an adapter does not suit
        raise ModelError(
            f"{flags.model} cannot be asked through an adapter ({first_line(error)}). {TAKE}"
        ) from error
    if flags.gradient_checkpointing:
        teacher.base.gradient_checkpointing_enable({"use_reentrant": False})
    trained = sum(p.numel() for p in teacher.parameters() if p.requires_grad)
    logger.info(
        "teacher: %s, %d layers; of its %.1f M weights, without those of words, %.1f M are in "
        "4 bit, multiplied in %s; %.2f M trained",
        flags.model,
        teacher.config.num_layers,
        (in_4bit + others) / 1e6,
        in_4bit / 1e6,
        str(compute_dtype(device)).removeprefix("torch."),
        trained / 1e6,
    )
    return teacher


def train(
    teacher: Teacher,
    dataset: SequenceDataset,
    flags: FullFinetuneConfig,
    folder: Path,
    wanted: dict[str, Any],
    accelerator: Accelerator,
) -> dict[str, float]:
    """Train a teacher, then on the validation events too.

    The teacher as it was selected is left in `selection/` inside `folder`, if there is a refit.

    Returns:
        Its NDCG@10 before that, on the validation targets of each catalogue.
    """

    def validate(model: Teacher) -> dict[str, float]:
        return validation_ndcgs(
            model,
            dataset,
            max_len=flags.max_len,
            batch_size=flags.windows_at_once(accelerator.num_processes),
            device=accelerator.device,
            accelerator=accelerator,
        )

    def fit_on(known: SequenceDataset, num_epochs: int, label: str) -> float:
        with tracked(accelerator, label, wanted):
            return fit(
                teacher,
                next_item_loss,
                # An item more in a window costs a pass through the language model: read each once.
                TrainingBatches(
                    known, flags.max_len, flags.batch_size, flags.seed, stride=flags.max_len
                ),
                (lambda model: fmean(validate(model).values())) if known is dataset else None,
                FitConfig(
                    num_epochs=num_epochs,
                    learning_rate=flags.learning_rate,
                    gradient_accumulation=flags.gradient_accumulation,
                    seed=flags.seed,
                ),
                accelerator=accelerator,
                checkpoint_dir=folder / "checkpoint" / label,
                recipe=wanted,
                label=label,
            ).best_value

    untouched = flags.init_from if flags.num_epochs == 0 else None
    if flags.num_epochs:
        best = {dataset.name: fit_on(dataset, flags.num_epochs, "teacher")}
    if not flags.num_epochs or len(dataset.catalogues) > 1:
        best = validate(teacher.eval())
    further = refit_epochs(dataset, flags.refit_share, flags.num_epochs)
    if accelerator.is_main_process:  # of another recipe, it would be taken for this one's
        shutil.rmtree(folder / SELECTION, ignore_errors=True)
    if further or (untouched and (untouched / "teacher" / SELECTION).is_dir()):
        if accelerator.is_main_process:
            teacher.save_pretrained(folder / SELECTION)
        complete = dataset.before_test()
        teacher.untrained.copy_(item_mask(complete.untrained_items, complete.num_items))
        if untouched:
            carry_over(teacher, untouched, dataset, refitted=True)
        else:
            fit_on(complete, further, "teacher refit")
    return best


def judge(
    teacher: Teacher,
    dataset: SequenceDataset,
    flags: FullFinetuneConfig,
    folder: Path,
    wanted: dict[str, Any],
    valid_ndcgs: dict[str, float],
    accelerator: Accelerator,
) -> None:
    """Evaluate once on the test targets, and write `metrics.json`: the teacher is finished."""
    result = evaluate(
        teacher,
        dataset,
        "test",
        max_len=flags.max_len,
        batch_size=flags.windows_at_once(accelerator.num_processes),
        device=teacher.device,
        accelerator=accelerator,
    )
    if not accelerator.is_main_process:
        return
    sizes = teacher.answer_bytes
    metrics = {
        "dataset_fingerprint": dataset.fingerprint,
        "valid_ndcg@10": fmean(valid_ndcgs.values()),
        "test": result.report(),
        **(_by_catalogue(result, valid_ndcgs, dataset) if len(dataset.catalogues) > 1 else {}),
        "num_parameters": teacher.num_parameters,
        "size_bytes": sum(sizes.values()),
        "size_by_precision": sizes,
        "recipe": wanted,
    }
    write_json(folder / "metrics.json", metrics)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)


def _by_catalogue(
    result: Evaluation, valid_ndcgs: dict[str, float], dataset: SequenceDataset
) -> dict[str, Any]:
    """Return validation and test figures of each catalogue."""
    ranks = np.stack(list(asdict(result).values()), axis=1)  # (N, 2)
    parts = by_catalogue(ranks, dataset, "test")
    tested = {name: Evaluation(*part.T).report() for name, part in parts.items()}
    return {"valid_ndcg@10_by_catalogue": valid_ndcgs, "test_by_catalogue": tested}
