"""No test target can reach training, and no validation target before all is chosen.

Two data sets are made that differ in every held-out event and in nothing else. Whatever is trained
on them must come out the same to the last bit. One epoch each: with more, validation chooses which
epoch is kept, and that choice may differ. Two further sets differ in the test events alone: there
what is refitted must come out the same as well.
"""

from pathlib import Path

from seqrec.batching import TrainingBatches
from seqrec.data import SequenceDataset, write_dataset
from seqrec.evaluation import popularity_scores
from seqrec.knowledge import load_knowledge

import numpy as np
import polars as pl
import pytest
import torch
from accelerate import Accelerator

from student.config import DistillConfig
from student.distilling import distil, make_soft_targets
from student.model import Arch, Student
from teacher.config import FinetuneConfig
from teacher.tuning import run


def twin_of(
    tiny_dataset: SequenceDataset, kept: np.ndarray, folder: Path
) -> tuple[SequenceDataset, SequenceDataset]:
    """Return the tiny set, and the same with other events than each user's first `kept`."""
    events = np.array(tiny_dataset.events)
    for user in range(tiny_dataset.num_users):
        held_out = slice(
            tiny_dataset.offsets[user] + kept[user],
            tiny_dataset.offsets[user + 1],
        )
        events[held_out] = (events[held_out] + 10) % tiny_dataset.num_items + 1
    other = write_dataset(
        folder / "tiny",
        name="twin",
        items=tiny_dataset.items,
        user_ids=pl.read_parquet(tiny_dataset.path / "user_ids.parquet")["user_id"],
        events=events,
        offsets=tiny_dataset.offsets,
        split=tiny_dataset.split,
        split_name="leave-one-out",
        provenance={},
    )
    assert other.fingerprint != tiny_dataset.fingerprint
    return tiny_dataset, other


@pytest.fixture(scope="module")
def twins(
    tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SequenceDataset, SequenceDataset]:
    """Sets that differ in validation and test events."""
    return twin_of(tiny_dataset, tiny_dataset.train_lengths, tmp_path_factory.mktemp("twin"))


@pytest.fixture(scope="module")
def late_twins(
    tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SequenceDataset, SequenceDataset]:
    """Sets that differ in test events alone."""
    return twin_of(tiny_dataset, tiny_dataset.split[:, 2], tmp_path_factory.mktemp("late"))


@pytest.mark.parametrize("whole", [False, True])
def test_training_batches_hold_no_held_out_event(
    twins: tuple[SequenceDataset, SequenceDataset], whole: bool
) -> None:
    made = (TrainingBatches(d, 5, 8, seed=0, whole=whole).epoch(0)[1] for d in twins)
    for batches in zip(*made, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_popularity_counts_no_held_out_event(
    twins: tuple[SequenceDataset, SequenceDataset],
) -> None:
    history = torch.ones(1, 1, dtype=torch.int64)
    first, second = (popularity_scores(dataset)(history) for dataset in twins)
    assert torch.equal(first, second)


def teach(
    datasets: tuple[SequenceDataset, SequenceDataset],
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    refit_share: float,
) -> list[Path]:
    """Return output directories with a teacher and its knowledge, one for each set."""
    folders = []
    for dataset in datasets:
        output_dir = tmp_path_factory.mktemp("out")
        run(
            FinetuneConfig(
                data_dir=dataset.path,
                output_dir=output_dir,
                model=str(model),
                num_layers=1,
                num_epochs=1,
                refit_share=refit_share,
                device="cpu",
                num_threads=1,
            )
        )
        folders.append(output_dir)
    return folders


@pytest.fixture(scope="module")
def taught(
    twins: tuple[SequenceDataset, SequenceDataset],
    tiny_llm: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """Output directories of teachers that were not refitted."""
    return teach(twins, tiny_llm, tmp_path_factory, 0.0)


def test_the_teachers_knowledge_does_not_depend_on_held_out_events(
    twins: tuple[SequenceDataset, SequenceDataset], taught: list[Path]
) -> None:
    first, second = (
        load_knowledge(folder / "knowledge", dataset)
        for folder, dataset in zip(taught, twins, strict=True)
    )
    assert np.array_equal(first.states, second.states)
    assert np.array_equal(first.item_vectors, second.item_vectors)


def test_soft_targets_do_not_depend_on_held_out_events(
    twins: tuple[SequenceDataset, SequenceDataset], taught: list[Path], tmp_path: Path
) -> None:
    first, second = (
        make_soft_targets(
            DistillConfig(
                output_dir=tmp_path / dataset.name,
                num_epochs=1,
                hidden_dim=16,
                teacher_weight=0.3,
                device="cpu",
            ),
            dataset,
            load_knowledge(folder / "knowledge", dataset),
            Accelerator(cpu=True),
        )[0]
        for folder, dataset in zip(taught, twins, strict=True)
    )
    assert len(first.item_ids) == twins[0].train_lengths.sum()
    assert np.array_equal(first.item_ids, second.item_ids)
    assert np.array_equal(first.log_probs, second.log_probs)


@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_a_distilled_student_does_not_depend_on_held_out_events(
    twins: tuple[SequenceDataset, SequenceDataset], taught: list[Path], arch: Arch, tmp_path: Path
) -> None:
    first, second = (
        distil(
            arch,
            DistillConfig(
                output_dir=tmp_path / f"out-{dataset.name}",
                num_epochs=1,
                refit_share=0.0,  # which learns the validation events
                hidden_dim=16,
                teacher_weight=0.3,  # these two are validation's to choose, if they are not given
                cold_item_scale=0.5,
                device="cpu",
            ),
            dataset,
            load_knowledge(folder / "knowledge", dataset),
            tmp_path / dataset.name,
            Accelerator(cpu=True),
        )
        for folder, dataset in zip(taught, twins, strict=True)
    )
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_refit_alone_knows_the_validation_events(
    twins: tuple[SequenceDataset, SequenceDataset], tmp_path: Path
) -> None:
    # Two epochs, validated once: there is nothing to choose.
    config = DistillConfig(num_epochs=2, hidden_dim=16, refit_share=1.0, device="cpu")
    found = []
    for dataset in twins:
        folder = tmp_path / dataset.name
        distil("gru", config, dataset, None, folder, Accelerator(cpu=True))
        found.append([Student.from_pretrained(f) for f in (folder / "selection", folder)])
    selected, refitted = zip(*found, strict=True)
    tables = [[student.item_embedding.weight for student in pair] for pair in (selected, refitted)]
    assert torch.equal(*tables[0])
    assert not torch.equal(*tables[1])


@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_what_is_refitted_does_not_depend_on_test_events(
    late_twins: tuple[SequenceDataset, SequenceDataset],
    tiny_llm: Path,
    tmp_path_factory: pytest.TempPathFactory,
    arch: Arch,
    tmp_path: Path,
) -> None:
    folders = teach(late_twins, tiny_llm, tmp_path_factory, 1.0)
    students = []
    for dataset, folder in zip(late_twins, folders, strict=True):
        config = DistillConfig(output_dir=folder, num_epochs=2, hidden_dim=16, refit_share=1.0)
        knowledge = load_knowledge(folder / "knowledge", dataset)
        students.append(
            distil(arch, config, dataset, knowledge, tmp_path / folder.name, Accelerator(cpu=True))
        )
    for (name, a), b in zip(students[0].named_parameters(), students[1].parameters(), strict=True):
        assert torch.equal(a, b), name
    # And it is not for want of a refit: the validation events are in it.
    for name, folder in (("knowledge", folders[0]), (folders[0].name, tmp_path)):
        assert (folder / name / "selection").is_dir()
