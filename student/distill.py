"""Train tiny students from the teacher's knowledge, each beside a control without a teacher.

    python -m student.distill

Writes `students/<arch>/distilled/` and `students/<arch>/control/` into the output directory. The
control has the same shape, the same data, the same number of epochs and the same seed; all it lacks
is the teacher.

After training, a distilled student's rows of items that have no training event are made from their
texts (see `student.cold`). A control knows no texts: its rows for such items are random ones that
training only ever pushed down as wrong answers.
"""

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqrec.batching import Batch, TrainingBatches
from seqrec.config import DEFAULT_DATA_DIR, default_output_dir, flag, parse_flags, recipe
from seqrec.data import PAD, SequenceDataset, load_dataset
from seqrec.errors import run_main
from seqrec.files import atomic_directory, read_json, write_json
from seqrec.knowledge import Knowledge, load_knowledge
from seqrec.metrics import evaluate, validation_ndcg
from seqrec.report import metrics_table
from seqrec.training import FitConfig, LossFunction, fit, set_up_cpu

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from student.cold import FILE as TEXT_MAP_FILE
from student.cold import TextMap, fill_untrained_rows, fit_text_map, user_states
from student.losses import hard_loss, soft_loss
from student.model import Arch, Student, StudentConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Flags of `student.distill`."""

    data_dir: Path = flag(DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare")
    output_dir: Path | None = flag(None, "where all stages write; default runs/<name of data-dir>")
    arch: Literal["gru", "transformer", "both"] = flag(
        "both", "what to train: a GRU, a Transformer, or both to choose by the benchmark"
    )
    hidden_dim: int = flag(64, "width of the student and of its item table")
    num_layers: int = flag(1, "layers of the encoder")
    num_heads: int = flag(1, "attention heads of the Transformer")
    dropout: float = flag(0.2, "dropout while training")
    max_len: int = flag(50, "newest items of a history that the student reads")
    kd_weight: float = flag(0.5, "share of the loss that is the teacher's, 0 to 1")
    temperature: float = flag(1.0, "above 1 softens the teacher's answers")
    init_from_teacher: bool = flag(True, "start the item table from the teacher's item vectors")
    new_item_share: float = flag(
        0.5,
        "how often an item without training events is recommended; 1: as the average item is",
    )
    num_epochs: int = flag(20, "passes over the training sequences, at most")
    patience: int = flag(4, "validations without a better one before stopping; 0: never")
    evaluate_every: int = flag(2, "epochs between validations")
    batch_size: int = flag(128, "windows per step")
    learning_rate: float = flag(2e-3, "peak learning rate")
    device: Literal["auto", "cpu", "cuda"] = flag(
        "auto", "where to train; auto takes a GPU if there is one"
    )
    num_threads: int = flag(0, "CPU threads; 0: all cores")
    seed: int = flag(0, "seed of all randomness")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if not 0 <= self.kd_weight <= 1:
            raise ValueError(f"--kd-weight {self.kd_weight} is not between 0 and 1")
        if not 0 < self.new_item_share <= 1:
            raise ValueError(f"--new-item-share {self.new_item_share} is not above 0 and up to 1")
        if self.temperature <= 0:
            raise ValueError(f"--temperature {self.temperature} is not above 0")


class TeacherSignal:
    """Looks up the teacher's answers for the prefixes of a batch."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge

    def __call__(self, prefixes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return which prefixes (P,) have a row, bool (P,), and those rows' items and logits."""
        rows = self.knowledge.rows[prefixes.cpu().numpy()]
        known = rows >= 0
        items = self.knowledge.item_ids[rows[known]].astype(np.int64)
        logits = self.knowledge.logits[rows[known]].astype(np.float32)
        device = prefixes.device
        return (
            torch.from_numpy(known).to(device),
            torch.from_numpy(items).to(device),
            torch.from_numpy(logits).to(device),
        )


def make_loss(config: DistillConfig, knowledge: Knowledge | None) -> LossFunction:
    """Return the training loss: (1 - kd_weight) * hard + kd_weight * soft, or hard alone.

    Prefixes without a row in the knowledge add nothing to the soft part.
    """
    signal = TeacherSignal(knowledge) if knowledge is not None else None

    def loss(student: Student, batch: Batch) -> Tensor:
        learn = batch.targets != PAD
        logits = student.logits(student.encode(batch.items)[learn])  # (P, I)
        hard = hard_loss(logits, batch.targets[learn])
        if signal is None:
            return hard
        known, items, teacher_logits = signal(batch.rows[learn])
        if not known.any():
            return hard
        soft = soft_loss(logits[known], items, teacher_logits, config.temperature)
        return (1 - config.kd_weight) * hard + config.kd_weight * soft

    return loss


def principal_components(vectors: Tensor, dim: int) -> Tensor:
    """Project vectors (N, D) onto their first `dim` principal axes, (N, dim), zero mean.

    If D is smaller than `dim` the further columns are zero.
    """
    centred = vectors - vectors.mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    projected = centred @ axes[:dim].T
    return torch.nn.functional.pad(projected, (0, dim - projected.shape[1]))


def init_item_table(student: Student, knowledge: Knowledge) -> None:
    """Start the item table from the teacher's item vectors, at the scale it had.

    After LLM2BERT4Rec (arXiv:2309.03613): the language model's item vectors, reduced by principal
    components.
    """
    vectors = torch.from_numpy(knowledge.item_vectors[1:].astype(np.float32))
    weight = student.item_embedding.weight
    start = principal_components(vectors, student.config.hidden_dim)
    with torch.no_grad():
        weight[1:] = start * (weight[1:].std() / start.std())


def learn_new_items(
    student: Student, dataset: SequenceDataset, knowledge: Knowledge, share: float
) -> TextMap:
    """Fit a map from texts to rows, make the rows of untrained items by it, and return it."""
    counts = dataset.train_counts()
    table = student.item_embedding.weight.detach().float().cpu().numpy()
    text_map = fit_text_map(
        table,
        knowledge.text_vectors,
        counts,
        states=user_states(student.eval(), dataset),
        share=share,
        text_stats=knowledge.text_stats,
    )
    fill_untrained_rows(student, text_map, knowledge.text_vectors, counts)
    return text_map


def train_student(
    arch: Arch,
    config: DistillConfig,
    dataset: SequenceDataset,
    knowledge: Knowledge | None,
    folder: Path,
    accelerator: Accelerator,
) -> Student:
    """Train one student, or its control where `knowledge` is None, and write it into `folder`.

    A student that was finished with the same recipe is loaded, not trained again.
    """
    role = "control" if knowledge is None else "distilled"
    wanted = recipe(
        config,
        arch=arch,
        role=role,
        dataset_fingerprint=dataset.fingerprint,
        knowledge_fingerprint=knowledge and knowledge.fingerprint,
    )
    if (folder / "recipe.json").is_file() and read_json(folder / "recipe.json") == wanted:
        logger.info("%s %s: already trained, in %s", arch, role, folder)
        return Student.from_pretrained(folder)
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
    ).to(accelerator.device)
    if knowledge is not None and config.init_from_teacher:
        init_item_table(student, knowledge)

    checkpoint_dir = folder.with_name(f"{folder.name}-checkpoint")
    progress = fit(
        student,
        make_loss(config, knowledge),
        TrainingBatches(dataset, config.max_len, config.batch_size, config.seed),
        lambda model: validation_ndcg(
            model, dataset, max_len=config.max_len, device=accelerator.device
        ),
        FitConfig(
            num_epochs=config.num_epochs,
            learning_rate=config.learning_rate,
            patience=config.patience,
            evaluate_every=config.evaluate_every,
            seed=config.seed,
        ),
        accelerator=accelerator,
        checkpoint_dir=checkpoint_dir,
        recipe=wanted,
        label=f"{arch} {role}",
    )
    about: dict[str, Any] = {"valid_metrics": {"ndcg@10": progress.best_value}}
    if knowledge is not None:
        text_map = learn_new_items(student, dataset, knowledge, config.new_item_share)
        # The new rows compete with those that were there when training chose its best epoch.
        value = validation_ndcg(student, dataset, max_len=config.max_len, device=accelerator.device)
        about = {"valid_metrics": {"ndcg@10": value}, "text_reader": knowledge.meta["teacher"]}
    if accelerator.is_main_process:
        with atomic_directory(folder) as beside:
            student.save_pretrained(
                beside,
                role=role,
                seed=config.seed,
                dataset_fingerprint=dataset.fingerprint,
                **about,
            )
            if knowledge is not None:
                text_map.save(beside / TEXT_MAP_FILE)
            write_json(beside / "recipe.json", wanted)
        shutil.rmtree(checkpoint_dir, ignore_errors=True)
    return student


def main() -> None:
    """Train the asked-for students and their controls, and show what the teacher gave."""
    config = parse_flags(
        DistillConfig, "Distil the teacher's knowledge into a tiny GRU and Transformer."
    )
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    accelerator = Accelerator(cpu=config.device == "cpu")
    set_up_cpu(config.num_threads, accelerator.num_processes)
    dataset = load_dataset(config.data_dir)
    knowledge = load_knowledge(output_dir / "knowledge", dataset)
    archs: list[Arch] = ["gru", "transformer"] if config.arch == "both" else [config.arch]
    reports = {}
    for arch in archs:
        for role, teacher in (("control", None), ("distilled", knowledge)):
            folder = output_dir / "students" / arch / role
            student = train_student(arch, config, dataset, teacher, folder, accelerator)
            result = evaluate(
                student.to(accelerator.device),
                dataset,
                "valid",
                max_len=config.max_len,
                device=accelerator.device,
            )
            reports[f"{arch} {role}"] = result.report()
    if accelerator.is_main_process:
        sys.stdout.write("Validation; the test targets are left to the benchmark.\n")
        sys.stdout.write(metrics_table(reports))


if __name__ == "__main__":
    run_main(main)
