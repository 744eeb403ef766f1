"""Train one student: the loss on a batch, selection by validation, and the refit.

A student is trained twice over. At first the validation events are held out, and choose the epoch
and how long the rows of cold items are. What came of that is kept in `selection/` inside its
folder. Then the same weights are trained on, for `refit_share` of the epochs, with the validation
events among the others: what a user did last says most about what comes next. The test targets are
in neither. What starts from an earlier run (`student.warm_start`) is selected from that run's
`selection/`, and refitted from what that run had refitted.
"""

import dataclasses
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seqrec.batching import Batch, TrainingBatches
from seqrec.config import recipe
from seqrec.data import IntArray, SequenceDataset
from seqrec.evaluation import validation_ndcg
from seqrec.files import SELECTION
from seqrec.histories import PAD
from seqrec.item_table import FusedItemTable
from seqrec.knowledge import Knowledge
from seqrec.schedule import is_large, refit_epochs
from seqrec.stage import Stage
from seqrec.tracking import tracked
from seqrec.training import FitConfig, LossFunction, draw_different, fit

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from student.config import FullDistillConfig
from student.losses import mixed_answer, soft_cross_entropy
from student.model import Arch, Student, StudentConfig
from student.soft_targets import SoftTargets
from student.text_map import FILE as TEXT_MAP_FILE
from student.text_map import TextMap
from student.warm_start import Start

logger = logging.getLogger(__name__)

COLD_ITEM_SCALES = (1.2, 1.1, 1.0, 0.9, 0.8, 0.7)
MAX_WARM_LOSS = 0.005
FEW_EVENTS = 10  # of an item: with so many, soft targets have half of their weight


def student_recipe(
    arch: Arch, config: FullDistillConfig, dataset: SequenceDataset, knowledge: Knowledge | None
) -> dict[str, Any]:
    """Return what decides how a student comes out; `config` with its schedule filled in."""
    fused = knowledge is not None and config.item_table == "fused"
    taught = knowledge is not None and config.kd_weight > 0
    start = Start.of(arch, config, is_control=knowledge is None)
    return recipe(
        dataclasses.replace(config, arch=arch),
        role="control" if knowledge is None else "distilled",
        dataset_fingerprint=dataset.fingerprint,
        text_fingerprint=knowledge.text_fingerprint if knowledge and fused else None,
        knowledge_fingerprint=knowledge.fingerprint if knowledge and taught else None,
        # The recipes of others stay as they always were.
        **({} if start is None else {"init_fingerprint": start.fingerprint}),
    )


def new_student(
    arch: Arch,
    config: FullDistillConfig,
    dataset: SequenceDataset,
    components: NDArray[np.floating] | None = None,
) -> Student:
    """Return a student before training, with a fused table if text components (I + 1, C) are given.

    In a large catalogue these stay in half precision, and the table's gradient is sparse.
    """
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
    large = is_large(dataset.num_items)
    sparse = large and bool(config.num_negatives)
    if components is None:
        student.item_embedding.sparse = sparse
    else:
        kept = torch.from_numpy(components.astype(np.float16 if large else np.float32))
        student.item_embedding = FusedItemTable(kept, config.hidden_dim, sparse=sparse)
    return student


def make_loss(
    config: FullDistillConfig, dataset: SequenceDataset, soft_targets: SoftTargets | None
) -> LossFunction:
    """Return the training loss: cross-entropy with the next item, mixed with the soft targets.

    The softmax is over the items with training events, all or a sample of them. The others are
    never right there: to push them down would teach the projection of their texts to avoid them.

    Teachers name what is popular. So where an item of n training events came next the soft targets
    have n / (n + `FEW_EVENTS`) of their weight (compare the weights by instance of DLLM2Rec,
    arXiv:2405.00338).
    """
    counts = dataset.train_counts()
    trained = torch.from_numpy(np.flatnonzero(counts > 0))
    kd_weights = torch.from_numpy(counts / (counts + FEW_EVENTS)).float() * config.kd_weight
    kd_weights[PAD] = config.kd_weight  # nothing came next
    num_sampled = min(config.num_negatives or 0, len(trained))
    exact_rows = torch.cat([torch.tensor([PAD]), trained])
    all_are_trained = len(trained) == dataset.num_items

    def loss(student: Student, batch: Batch) -> Tensor:
        asked = batch.prefixes >= 0 if soft_targets is not None else batch.targets != PAD
        items = batch.targets[asked][:, None]
        weights = torch.ones(items.shape, device=items.device)
        if soft_targets is not None:
            targets = items[:, 0]
            items, weights = mixed_answer(
                targets,
                *soft_targets(batch.prefixes[asked]),
                kd_weights.to(targets.device)[targets],
                temperature=config.temperature,
                keep_rest=bool(config.keep_rest),
            )
        negatives, needed = None, None if all_are_trained else exact_rows.to(items.device)
        if num_sampled:
            drawn = torch.from_numpy(draw_different(len(trained), num_sampled))
            negatives = trained[drawn].to(items.device)
            needed = None
            if is_large(dataset.num_items):  # rows are made of the items of this step alone
                looked_at = (batch.items.flatten(), items.flatten(), negatives, items.new_zeros(1))
                needed = torch.cat(looked_at).unique()
        rows = student.item_embedding.weight
        history = batch.items
        if needed is not None:  # from here on an item is its place among the needed ones
            rows = student.item_embedding(needed)
            history, items = torch.searchsorted(needed, history), torch.searchsorted(needed, items)
            negatives = None if negatives is None else torch.searchsorted(needed, negatives)
        states = student.encode(history, rows)[asked]
        return soft_cross_entropy(
            states, rows, items, weights, negatives, num_candidates=len(trained)
        )

    return loss


def fold(student: Student, untrained: IntArray, cold_item_scale: float) -> Student:
    """Return the student with plain rows in place of a fused table; it trains no further.

    Args:
        student: may have a plain table; it is left as it is.
        untrained: items without training events. Of a fused table their rows are what the texts
            say, times `cold_item_scale`; of a plain one, which knows nothing of them, zero.
        cold_item_scale: above 1 they are recommended more often, at 0 hardly ever.
    """
    folded = Student(student.config).to(student.device)
    state = {k: v for k, v in student.state_dict().items() if not k.startswith("item_embedding.")}
    rows = student.item_embedding.weight.detach().clone()
    fused = isinstance(student.item_embedding, FusedItemTable)
    rows[torch.from_numpy(untrained)] *= cold_item_scale if fused else 0.0
    folded.load_state_dict({**state, "item_embedding.weight": rows})
    return folded.eval()


def text_map_of(
    student: Student, texts: Knowledge | None, cold_item_scale: float
) -> TextMap | None:
    """Return what makes a row of a text vector as `fold` makes those of cold items; None: plain."""
    if texts is None or not isinstance(student.item_embedding, FusedItemTable):
        return None
    projection = student.item_embedding.projection.weight.detach().float().cpu().numpy()
    return TextMap.compose(texts.text_map, cold_item_scale * projection)


def save(
    folder: Path, student: Student, text_map: TextMap | None, description: dict[str, Any]
) -> None:
    """Write a folded student, and its text map if it has one, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if text_map is not None:
        text_map.save(folder / TEXT_MAP_FILE)
    student.save_pretrained(folder, **description)


def choose_cold_item_scale(
    student: Student, dataset: SequenceDataset, validate: Callable[[Student], float]
) -> float:
    """Return the largest of `COLD_ITEM_SCALES` that costs validation at most `MAX_WARM_LOSS`.

    The least, if all cost more; 1 where there is no cold item to see it by.
    """
    untrained = dataset.untrained_items
    if len(untrained) == 0:
        return 1.0
    enough = (1 - MAX_WARM_LOSS) * validate(fold(student, untrained, 0.0))
    for scale in COLD_ITEM_SCALES:
        if validate(fold(student, untrained, scale)) >= enough:
            break
    return scale


# Longer than other functions: selection and refit share the student, its recipe and its folder, and
# neither means anything alone.
def train_student(
    arch: Arch,
    config: FullDistillConfig,
    dataset: SequenceDataset,
    knowledge: Knowledge | None,
    folder: Path,
    accelerator: Accelerator,
    *,
    soft_targets: Sequence[SoftTargets] = (),
    label: str,
) -> None:
    """Train one student and write it into `folder`, unless it is there already.

    Args:
        arch: what to train.
        config: the flags, their schedule filled in; `config.arch` is not looked at.
        dataset: what to train on.
        knowledge: has the items' text components; None trains a control on the data alone.
        folder: where the student goes.
        accelerator: moves and distributes.
        soft_targets: for the selection and, if there is one, for the refit; none: the student
            learns from the next items alone.
        label: shown on the progress bar.
    """
    wanted = student_recipe(arch, config, dataset, knowledge)
    stage = Stage(folder, wanted)
    if stage.is_finished():
        logger.info("%s: already trained, in %s", label, folder)
        return
    texts = knowledge if config.item_table == "fused" else None
    components = None if texts is None else texts.text_components
    student = new_student(arch, config, dataset, components).to(accelerator.device)
    checkpoint_dir = folder.with_name(f"{folder.name}-checkpoint")
    start = Start.of(arch, config, is_control=knowledge is None)
    if start is not None:
        start.carry_over(student, dataset, texts)

    def validate(model: Student) -> float:
        return validation_ndcg(
            model,
            dataset,
            max_len=config.max_len,
            device=accelerator.device,
            accelerator=accelerator,
        )

    def train(known: SequenceDataset, num_epochs: int) -> None:
        selecting = known is dataset
        targets = soft_targets[0 if selecting else 1] if soft_targets else None
        # The teachers' answers to prefixes that are asked in the test are no part of the refit.
        whole = selecting and targets is not None
        name = label if selecting else f"{label} refit"
        with tracked(accelerator, name, wanted):
            fit(
                student,
                make_loss(config, known, targets),
                TrainingBatches(known, config.max_len, config.batch_size, config.seed, whole=whole),
                (lambda model: validate(fold(model, known.untrained_items, 0.0)))
                if selecting
                else None,
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
                label=name,
            )

    if config.num_epochs:  # 0: the start, whatever it is, shall stay as it is
        train(dataset, config.num_epochs)
    scale = config.cold_item_scale
    if scale is None:
        scale = choose_cold_item_scale(student, dataset, validate)
    selected = fold(student, dataset.untrained_items, scale)
    description = describe(wanted, texts, soft_targets, scale, validate(selected))
    description["budget"] = config.budget
    parts = {".": (selected, text_map_of(student, texts, scale))}
    further = refit_epochs(dataset, config.refit_share, config.num_epochs)
    untouched = config.num_epochs == 0 and start is not None and start.is_refitted
    if further or untouched:
        complete, parts = dataset.before_test(), {SELECTION: parts["."]}
        # What it was refitted on would be forgotten otherwise.
        if start is not None:
            start.carry_over(student, dataset, texts, refitted=True)
        if further:
            train(complete, further)
        refitted = fold(student, complete.untrained_items, scale)
        parts["."] = refitted, text_map_of(student, texts, scale)
    if accelerator.is_main_process:
        with stage.replacing() as unfinished:
            for name, part in parts.items():
                save(unfinished / name, *part, description)
        shutil.rmtree(checkpoint_dir, ignore_errors=True)
    accelerator.wait_for_everyone()


def describe(
    wanted: dict[str, Any],
    texts: Knowledge | None,
    soft_targets: Sequence[SoftTargets],
    cold_item_scale: float,
    valid_ndcg: float,
) -> dict[str, Any]:
    """Return what a student's `config.json` says beside its shape.

    Validation is of the student before the refit: afterwards it would know the answers.
    """
    description = {
        **{name: wanted[name] for name in ("role", "seed", "dataset_fingerprint")},
        "valid_metrics": {"ndcg@10": valid_ndcg},
    }
    if texts is not None:
        description |= {"text_reader": texts.meta["teacher"], "cold_item_scale": cold_item_scale}
    if soft_targets:
        description["teacher_weight"] = soft_targets[0].meta["teacher_weight"]
    return description
