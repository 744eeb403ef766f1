"""No test target can reach training, and no validation target before all is chosen.

Two data sets are made that differ in every held-out event and in nothing else. Whatever is trained
on them must come out the same to the last bit. One epoch each: with more, validation chooses which
epoch is kept, and that choice may differ. Two further sets differ in the test events alone: there
what is refitted must come out the same as well.
"""

from pathlib import Path
from typing import Any

from seqrec.batching import TrainingBatches
from seqrec.data import SequenceDataset, write_dataset
from seqrec.evaluation import popularity_scores
from seqrec.knowledge import Knowledge, load_knowledge

import numpy as np
import polars as pl
import pytest
import torch
from accelerate import Accelerator

from student.config import DistillConfig
from student.distilling import distil, make_soft_targets
from student.model import Arch, Student
from teacher.tuning import run
from tests.teacher.models import flags_for

Twins = tuple[SequenceDataset, SequenceDataset]


def twins_of(dataset: SequenceDataset, kept: np.ndarray, folder: Path) -> Twins:
    """Return a set, and the same with other events than each user's first `kept`."""
    events = np.array(dataset.events)
    for user in range(dataset.num_users):
        held_out = slice(dataset.offsets[user] + kept[user], dataset.offsets[user + 1])
        events[held_out] = (events[held_out] + 10) % dataset.num_items + 1
    other = write_dataset(
        folder / "tiny",
        name="twin",
        items=dataset.items,
        user_ids=pl.read_parquet(dataset.path / "user_ids.parquet")["user_id"],
        events=events,
        offsets=dataset.offsets,
        split=dataset.split,
        split_name="leave-one-out",
        provenance={},
    )
    assert other.fingerprint != dataset.fingerprint
    return dataset, other


@pytest.fixture(scope="module")
def twins(tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """Sets that differ in validation and test events."""
    return twins_of(tiny_dataset, tiny_dataset.train_lengths, tmp_path_factory.mktemp("twin"))


@pytest.mark.parametrize("whole", [False, True])
def test_training_batches_hold_no_held_out_event(twins: Twins, whole: bool) -> None:
    made = (TrainingBatches(d, 5, 8, seed=0, whole=whole).epoch(0)[1] for d in twins)
    for batches in zip(*made, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_popularity_counts_no_held_out_event(twins: Twins) -> None:
    history = torch.ones(1, 1, dtype=torch.int64)
    first, second = (popularity_scores(dataset)(history) for dataset in twins)
    assert torch.equal(first, second)


def taught(twins: Twins, model: Path, folder: Path, refit_share: float) -> list[Knowledge]:
    """Fine-tune a teacher on each set; return their knowledge."""
    for dataset in twins:
        where = {"data_dir": (dataset.path,), "output_dir": folder / dataset.name}
        run(flags_for(model, bits=4, batch_size=16, refit_share=refit_share, **where))
    return [load_knowledge(folder / dataset.name / "knowledge", dataset) for dataset in twins]


@pytest.fixture(scope="module")
def knowledge(
    twins: Twins, tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Knowledge]:
    """What teachers know that were not refitted."""
    return taught(twins, tiny_llm, tmp_path_factory.mktemp("taught"), 0.0)


def test_the_teachers_knowledge_does_not_depend_on_held_out_events(
    knowledge: list[Knowledge],
) -> None:
    first, second = knowledge
    assert np.array_equal(first.states, second.states)
    assert np.array_equal(first.item_vectors, second.item_vectors)


def config_for(folder: Path, **changes: Any) -> DistillConfig:
    """Return the flags of a small student, with all that validation would choose."""
    given = {"num_epochs": 1, "hidden_dim": 16, "refit_share": 0.0, "device": "cpu"}
    chosen = {"teacher_weight": 0.3, "cold_item_scale": 0.5}
    return DistillConfig(output_dir=folder, **{**given, **chosen, **changes})


def assert_same_weights(students: list[Student]) -> None:
    first, second = students
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_soft_targets_do_not_depend_on_held_out_events(
    twins: Twins, knowledge: list[Knowledge], tmp_path: Path
) -> None:
    first, second = (
        make_soft_targets(config_for(tmp_path / d.name), d, known, Accelerator(cpu=True))[0]
        for d, known in zip(twins, knowledge, strict=True)
    )
    assert len(first.item_ids) == twins[0].train_lengths.sum()
    assert np.array_equal(first.item_ids, second.item_ids)
    assert np.array_equal(first.log_probs, second.log_probs)


@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_a_distilled_student_does_not_depend_on_held_out_events(
    twins: Twins, knowledge: list[Knowledge], arch: Arch, tmp_path: Path
) -> None:
    students = []
    for dataset, known in zip(twins, knowledge, strict=True):
        folder = tmp_path / dataset.name
        config = config_for(folder)
        students.append(
            distil(arch, config, dataset, known, folder / "student", Accelerator(cpu=True))
        )
    assert_same_weights(students)


def test_the_refit_alone_knows_the_validation_events(twins: Twins, tmp_path: Path) -> None:
    # Two epochs, validated once: there is nothing to choose.
    config = DistillConfig(num_epochs=2, hidden_dim=16, refit_share=1.0, device="cpu")
    for dataset in twins:
        distil("gru", config, dataset, None, tmp_path / dataset.name, Accelerator(cpu=True))
    folders = [tmp_path / dataset.name for dataset in twins]
    assert_same_weights([Student.from_pretrained(folder / "selection") for folder in folders])
    refitted = [Student.from_pretrained(folder).item_embedding.weight for folder in folders]
    assert not torch.equal(*refitted)


@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_what_is_refitted_does_not_depend_on_test_events(
    tiny_dataset: SequenceDataset, tiny_llm: Path, arch: Arch, tmp_path: Path
) -> None:
    late = twins_of(tiny_dataset, tiny_dataset.split[:, 2], tmp_path)  # differ in test events alone
    students = []
    for dataset, known in zip(late, taught(late, tiny_llm, tmp_path / "run", 1.0), strict=True):
        run_folder = tmp_path / "run" / dataset.name
        config = DistillConfig(
            output_dir=run_folder, num_epochs=2, hidden_dim=16, refit_share=1.0, device="cpu"
        )
        folder = run_folder / "student"
        students.append(distil(arch, config, dataset, known, folder, Accelerator(cpu=True)))
        # And it is not for want of a refit: the validation events are in it.
        assert (folder / "selection").is_dir()
        assert (run_folder / "knowledge" / "selection").is_dir()
    assert_same_weights(students)
