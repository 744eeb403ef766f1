"""Train tiny students from the teacher's knowledge, each beside a control without a teacher.

    python -m student.distill

Writes into the output directory:

    assistants/<arch>-<recipe>/    a GRU and a Transformer trained on the data alone, who answer
                                   beside the teacher (see `student.targets`)
    targets/<recipe>/              what all together answer to each training prefix
    students/<arch>/distilled/     the student
    students/<arch>/control/       its control: the same shape, data, epochs and seed, no teacher

Each is trained twice over. At first the validation events are held out, and choose: the epoch, the
teacher's share, how often new items are recommended. What came of that is kept in `selection/`
inside the folder. Then the same weights are trained on, for a third of the epochs, with the
validation events among the others: what a user did last says most about what comes next. The test
targets are in neither.
"""

import copy
import dataclasses
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqrec.batching import Batch, TrainingBatches
from seqrec.config import (
    DEFAULT_DATA_DIR,
    default_output_dir,
    flag,
    parse_flags,
    recipe,
    recipe_digest,
)
from seqrec.data import PAD, SequenceDataset, load_dataset
from seqrec.errors import run_main
from seqrec.files import SELECTION, atomic_directory, read_json, selection, write_json
from seqrec.knowledge import Knowledge, load_knowledge
from seqrec.metrics import evaluate, validation_ndcg
from seqrec.processes import start_accelerator
from seqrec.report import metrics_table
from seqrec.schedule import (
    is_dense,
    is_large,
    num_negatives,
    refit_epochs,
    student_learning_rate,
    student_schedule,
    student_width,
)
from seqrec.training import FitConfig, LossFunction, draw_different, fit, set_up_cpu

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from student.cold import fill_untrained_rows, fit_text_map, user_states
from student.losses import mixed_answer, soft_cross_entropy
from student.model import Arch, Student, StudentConfig
from student.targets import Targets, prepare_targets
from student.text_map import FILE as TEXT_MAP_FILE
from student.text_map import TextMap

logger = logging.getLogger(__name__)

NEW_ITEM_SHARES = (0.5, 0.2, 0.1, 0.05, 0.0)
MAX_WARM_LOSS = 0.005
ASSISTANTS: tuple[Arch, ...] = ("transformer", "gru")
ASSISTANT_SEED = 1000  # another than the students', whose errors it should not share
# Flags that say nothing to who has no teacher: students that differ in them share assistants.
OF_THE_TAUGHT = (
    "kd_weight",
    "teacher_share",
    "temperature",
    "top_k",
    "keep_rest",
    "init",
    "new_item_share",
)


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Flags of `student.distill`."""

    data_dir: Path = flag(DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare")
    output_dir: Path | None = flag(None, "where all stages write; default runs/<name of data-dir>")
    arch: Literal["gru", "transformer", "both"] = flag(
        "both", "what to train: a GRU, a Transformer, or both to choose by the benchmark"
    )
    hidden_dim: int = flag(
        0, "width of the student and of its item table; 0: by the data's density"
    )
    num_layers: int = flag(1, "layers of the encoder")
    num_heads: int = flag(1, "attention heads of the Transformer")
    dropout: float = flag(0.2, "dropout while training")
    max_len: int = flag(50, "newest items of a history that the student reads")
    kd_weight: float = flag(0.5, "share of the loss that is the soft targets', 0 to 1")
    teacher_share: float | None = flag(
        None, "the teacher's share of the soft targets, 0 to 1, else its assistants'; by validation"
    )
    temperature: float = flag(1.0, "above 1 softens the soft targets")
    top_k: int = flag(32, "items kept per soft target")
    keep_rest: bool | None = flag(
        None,
        "count what a soft target leaves to items that are not kept; by the data's density: "
        "sparse sets learn faster from sharper answers",
    )
    init: Literal["teacher", "text", "random"] = flag(
        "teacher", "what the item table starts from: the teacher's item vectors, the texts', chance"
    )
    new_item_share: float | None = flag(
        None,
        "how often items without training events are recommended, 1: as the average item is; by "
        "validation: as often as costs it at most 0.5 %",
    )
    num_negatives: int | None = flag(
        None, "items sampled for the softmax, 0: all; by the size of the data, see seqrec.schedule"
    )
    num_epochs: int = flag(0, "passes over the training sequences, at most; 0: by the data's size")
    refit_share: float = flag(
        0.35,
        "further training on the validation events too, once all is chosen, as a share of the "
        "epochs; 0: none",
    )
    patience: int = flag(4, "validations without a better one before stopping; 0: never")
    evaluate_every: int = flag(2, "epochs between validations")
    batch_size: int = flag(0, "windows per step, shared by the processes; 0: by the data's size")
    learning_rate: float = flag(0.0, "peak learning rate; 0: by the batch size")
    device: Literal["auto", "cpu", "cuda"] = flag(
        "auto", "where to train; auto takes a GPU if there is one"
    )
    num_threads: int = flag(0, "CPU threads per process; 0: all cores, shared by the processes")
    seed: int = flag(0, "seed of all randomness")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if not 0 <= self.kd_weight <= 1:
            raise ValueError(f"--kd-weight {self.kd_weight} is not between 0 and 1")
        if self.new_item_share is not None and not 0 <= self.new_item_share <= 1:
            raise ValueError(f"--new-item-share {self.new_item_share} is not between 0 and 1")
        if self.teacher_share is not None and not 0 <= self.teacher_share <= 1:
            raise ValueError(f"--teacher-share {self.teacher_share} is not between 0 and 1")
        if self.refit_share < 0:
            raise ValueError(f"--refit-share {self.refit_share} is below 0")
        if self.temperature <= 0:
            raise ValueError(f"--temperature {self.temperature} is not above 0")


def scheduled(config: DistillConfig, dataset: SequenceDataset) -> DistillConfig:
    """Put what `seqrec.schedule` says in place of what is left to it."""
    schedule = student_schedule(dataset, config.max_len)
    batch_size = config.batch_size or schedule.batch_size
    negatives = config.num_negatives
    return dataclasses.replace(
        config,
        hidden_dim=config.hidden_dim or student_width(dataset),
        keep_rest=is_dense(dataset) if config.keep_rest is None else config.keep_rest,
        num_epochs=config.num_epochs or schedule.num_epochs,
        batch_size=batch_size,
        learning_rate=config.learning_rate or student_learning_rate(batch_size),
        num_negatives=num_negatives(dataset) if negatives is None else negatives,
    )


def make_loss(
    config: DistillConfig, dataset: SequenceDataset, targets: Targets | None
) -> LossFunction:
    """Return the training loss: cross-entropy with the next item, mixed with the soft targets.

    Items without a training event are never sampled as negatives.
    """
    trained = np.flatnonzero(dataset.train_counts() > 0)
    sampled = config.num_negatives and min(config.num_negatives, len(trained))

    def loss(student: Student, batch: Batch) -> Tensor:
        asked = batch.prefixes >= 0 if targets is not None else batch.targets != PAD
        items, weights = batch.targets[asked][:, None], torch.ones(())
        if targets is None:
            weights = torch.ones_like(items, dtype=torch.float32)
        else:
            opinion, log_probs = targets(batch.prefixes[asked])
            items, weights = mixed_answer(
                items[:, 0],
                opinion,
                log_probs,
                config.kd_weight,
                temperature=config.temperature,
                keep_rest=bool(config.keep_rest),
            )
        negatives = None
        if sampled:
            negatives = torch.from_numpy(trained[draw_different(len(trained), sampled)])
            negatives = negatives.to(items.device)
        states, table = student.encode(batch.items)[asked], student.item_embedding
        return soft_cross_entropy(
            states, table.weight, items, weights, negatives, sparse=table.sparse
        )

    return loss


def principal_components(vectors: Tensor, dim: int) -> Tensor:
    """Project vectors (N, D) onto their first `dim` principal axes, (N, dim), zero mean.

    If D is smaller than `dim` the further columns are zero.
    """
    centred = vectors - vectors.mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    projected = centred @ axes[:dim].T
    return torch.nn.functional.pad(projected, (0, dim - projected.shape[1]))


def init_item_table(student: Student, vectors: NDArray[np.floating]) -> None:
    """Start the item table from item vectors (I + 1, D), at the scale it had.

    After LLM2BERT4Rec (arXiv:2309.03613): the language model's item vectors, reduced by principal
    components.
    """
    weight = student.item_embedding.weight
    start = principal_components(
        torch.from_numpy(vectors[1:].astype(np.float32)), student.config.hidden_dim
    )
    with torch.no_grad():
        weight[1:] = start * (weight[1:].std() / start.std())


def assistant_config(config: DistillConfig, dataset: SequenceDataset) -> DistillConfig:
    """Return the flags of a student's assistants: what it learns of a teacher says nothing."""
    untaught = {name: getattr(DistillConfig, name) for name in OF_THE_TAUGHT}
    return scheduled(dataclasses.replace(config, seed=ASSISTANT_SEED, **untaught), dataset)


def assistant_folder(arch: Arch, config: DistillConfig, dataset: SequenceDataset) -> Path:
    """Return where an assistant belongs; students whose assistants differ do not meet there."""
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    wanted = student_recipe(arch, assistant_config(config, dataset), dataset, None)
    return output_dir / "assistants" / f"{arch}-{recipe_digest(wanted)}"


def train_assistant(
    arch: Arch, config: DistillConfig, dataset: SequenceDataset, accelerator: Accelerator
) -> None:
    """Train an assistant, unless that is done already; it knows nothing of a teacher's."""
    own, folder = assistant_config(config, dataset), assistant_folder(arch, config, dataset)
    train_student(arch, own, dataset, None, folder, accelerator, label=f"{arch} assistant")


def soft_targets(
    config: DistillConfig, dataset: SequenceDataset, knowledge: Knowledge, accelerator: Accelerator
) -> list[Targets]:
    """Have the teacher and its assistants, trained now if need be, answer all training prefixes.

    Returns:
        The answers of those who do not know the validation events. If there is a refit, then also
        of those who do, to all prefixes before the test: the teacher's share is the same.
    """
    config = scheduled(config, dataset)
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    archs = ASSISTANTS if config.teacher_share != 1 else ()
    for arch in archs:
        train_assistant(arch, config, dataset, accelerator)
    folders = [assistant_folder(arch, config, dataset) for arch in archs]

    def answers(
        known: SequenceDataset, teacher: Knowledge, assistants: list[Path], share: float | None
    ) -> Targets:
        wanted: dict[str, Any] = {
            "knowledge": teacher.fingerprint,
            "teacher_share": share,
            "top_k": config.top_k,
            "assistants": [read_json(folder / "recipe.json") for folder in folders],
            "refit": known is not dataset,
        }
        with accelerator.main_process_first():  # the others find them written
            return prepare_targets(
                output_dir / "targets" / recipe_digest(wanted),
                known,
                teacher,
                [Student.from_pretrained(folder) for folder in assistants],
                share=share,
                top_k=config.top_k,
                recipe=wanted,
                device=accelerator.device,
            )

    selected = [selection(folder) for folder in folders]
    targets = [answers(dataset, knowledge, selected, config.teacher_share)]
    if refit_epochs(dataset, config.refit_share, config.num_epochs):
        refitted, share = knowledge.before_test(dataset), targets[0].meta["share"]
        targets.append(answers(dataset.before_test(), refitted, folders, share))
    return targets


def learn_new_items(
    student: Student, dataset: SequenceDataset, knowledge: Knowledge, share: float
) -> TextMap:
    """Fit a map from texts to rows, make the rows of untrained items by it, and return it.

    Args:
        student: trained; the rows of items without a training event are changed in place.
        dataset: what it was trained on.
        knowledge: has the texts' vectors.
        share: as in `fit_text_map`.
    """
    counts = dataset.train_counts()
    text_map = fit_text_map(
        student.item_embedding.weight.detach().float().cpu().numpy(),
        knowledge.text_vectors,
        counts,
        states=user_states(student.eval(), dataset),
        share=share,
        text_stats=knowledge.text_stats,
    )
    fill_untrained_rows(student, text_map, knowledge.text_vectors, counts)
    return text_map


def choose_new_item_share(
    student: Student,
    dataset: SequenceDataset,
    knowledge: Knowledge,
    validate: Callable[[Student], float],
) -> float:
    """Return the largest of `NEW_ITEM_SHARES` that costs known items next to nothing.

    That is, at most `MAX_WARM_LOSS` of the validation figure. The rows of untrained items change.
    """
    enough = (1 - MAX_WARM_LOSS) * validate(student)
    for share in NEW_ITEM_SHARES:
        learn_new_items(student, dataset, knowledge, share)
        if validate(student) >= enough:
            break
    return share


def student_recipe(
    arch: Arch, config: DistillConfig, dataset: SequenceDataset, knowledge: Knowledge | None
) -> dict[str, Any]:
    """Return what decides how a student comes out; `config` with its schedule filled in."""
    return recipe(
        dataclasses.replace(config, arch=arch),
        role="control" if knowledge is None else "distilled",
        dataset_fingerprint=dataset.fingerprint,
        knowledge_fingerprint=knowledge and knowledge.fingerprint,
    )


def train_student(
    arch: Arch,
    config: DistillConfig,
    dataset: SequenceDataset,
    knowledge: Knowledge | None,
    folder: Path,
    accelerator: Accelerator,
    *,
    label: str | None = None,
) -> Student:
    """Train one student, or its control where `knowledge` is None, and write it into `folder`.

    A student that was finished with the same recipe is loaded, not trained again.

    Args:
        arch: what to train.
        config: the flags; `config.arch` is not looked at.
        dataset: what to train on.
        knowledge: the teacher's; None trains on the data alone.
        folder: where the student goes.
        accelerator: moves and distributes.
        label: shown on the progress bar; by default the architecture and the role.
    """
    config = scheduled(config, dataset)
    role = "control" if knowledge is None else "distilled"
    label = label or f"{arch} {role}"
    wanted = student_recipe(arch, config, dataset, knowledge)
    if (folder / "recipe.json").is_file() and read_json(folder / "recipe.json") == wanted:
        logger.info("%s: already trained, in %s", label, folder)
        return Student.from_pretrained(folder)
    soft: list[Targets] = []
    if knowledge is not None and config.kd_weight > 0:
        soft = soft_targets(config, dataset, knowledge, accelerator)
    student = new_student(arch, config, dataset, knowledge).to(accelerator.device)
    checkpoint_dir = folder.with_name(f"{folder.name}-checkpoint")

    def validate(model: Student) -> float:
        return validation_ndcg(
            model,
            dataset,
            max_len=config.max_len,
            device=accelerator.device,
            accelerator=accelerator,
        )

    def train(known: SequenceDataset, part: int, num_epochs: int) -> None:
        selecting = part == 0
        targets = soft[part] if soft else None
        # The teachers' answers to prefixes that are asked in the test are no part of the refit.
        whole = selecting and targets is not None
        fit(
            student,
            make_loss(config, known, targets),
            TrainingBatches(known, config.max_len, config.batch_size, config.seed, whole=whole),
            validate if selecting else None,
            FitConfig(
                num_epochs=num_epochs,
                learning_rate=config.learning_rate,
                patience=config.patience,
                evaluate_every=config.evaluate_every,
                seed=config.seed,
            ),
            accelerator=accelerator,
            checkpoint_dir=checkpoint_dir / (SELECTION if selecting else "refit"),
            recipe=wanted,
            label=label if selecting else f"{label} refit",
        )

    train(dataset, 0, config.num_epochs)
    share, text_map = config.new_item_share, None
    if knowledge is not None:
        if share is None:
            share = choose_new_item_share(student, dataset, knowledge, validate)
        text_map = learn_new_items(student, dataset, knowledge, share)
    # The new rows compete with those that were there when training chose its best epoch.
    about = {
        "role": role,
        "seed": config.seed,
        "dataset_fingerprint": dataset.fingerprint,
        "valid_metrics": {"ndcg@10": validate(student)},
    }
    if knowledge is not None:
        about["text_reader"] = knowledge.meta["teacher"]
    selected = copy.deepcopy(student)
    further = refit_epochs(dataset, config.refit_share, config.num_epochs)
    if further:
        complete = dataset.before_test()
        train(complete, 1, further)
        if knowledge is not None and share is not None:
            text_map = learn_new_items(student, complete, knowledge, share)
    if accelerator.is_main_process:
        with atomic_directory(folder) as beside:
            if further:
                selected.save_pretrained(beside / SELECTION, **about)
            student.save_pretrained(beside, **about)
            if text_map is not None:
                text_map.save(beside / TEXT_MAP_FILE)
            write_json(beside / "recipe.json", wanted)
        shutil.rmtree(checkpoint_dir, ignore_errors=True)
    accelerator.wait_for_everyone()
    return student


def new_student(
    arch: Arch, config: DistillConfig, dataset: SequenceDataset, knowledge: Knowledge | None
) -> Student:
    """Return a student before training, its item table from what is known, if anything is."""
    torch.manual_seed(config.seed)
    student = Student(
        StudentConfig(
            arch=arch,
            num_items=dataset.num_items,
            hidden_dim=config.hidden_dim,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            dropout=config.dropout,
            max_len=config.max_len,
        )
    )
    if knowledge is not None and config.init != "random":
        by_text = config.init == "text"
        init_item_table(student, knowledge.text_vectors if by_text else knowledge.item_vectors)
    student.item_embedding.sparse = bool(config.num_negatives) and is_large(dataset.num_items)
    return student


def main() -> None:
    """Train the asked-for students and their controls, and show what the teacher gave."""
    config = parse_flags(
        DistillConfig, "Distil the teacher's knowledge into a tiny GRU and Transformer."
    )
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    accelerator = start_accelerator(config.device)
    set_up_cpu(config.num_threads, accelerator.num_processes)
    dataset = load_dataset(config.data_dir)
    knowledge = load_knowledge(output_dir / "knowledge", dataset)
    archs: list[Arch] = ["gru", "transformer"] if config.arch == "both" else [config.arch]
    reports = {}
    for arch in archs:
        for role, teacher in (("control", None), ("distilled", knowledge)):
            folder = output_dir / "students" / arch / role
            train_student(arch, config, dataset, teacher, folder, accelerator)
            result = evaluate(
                Student.from_pretrained(selection(folder)).to(accelerator.device),
                dataset,
                "valid",
                max_len=config.max_len,
                device=accelerator.device,
                accelerator=accelerator,
            )
            reports[f"{arch} {role}"] = result.report()
    if accelerator.is_main_process:
        sys.stdout.write("Validation; the test targets are left to the benchmark.\n")
        sys.stdout.write(metrics_table(reports))
    accelerator.end_training()


if __name__ == "__main__":
    run_main(main)
