"""Items with a text and no training event: held out, taught from text, scored by the student."""

import shutil
from collections.abc import Callable
from pathlib import Path

from seqrec.batching import TrainingBatches
from seqrec.data import SequenceDataset, load_dataset, write_dataset
from seqrec.errors import DataError, ModelError
from seqrec.evaluation import evaluation_batches
from seqrec.histories import PAD
from seqrec.prepare import PrepareConfig, prepare
from seqrec.splits import choose_cold_items, hold_out_items, leave_one_out

import numpy as np
import polars as pl
import pytest
import torch

from student.text_map import FILE, TextMap
from teacher.model import Teacher, next_item_loss
from teacher.tuning import build_teacher
from tests.teacher.models import flags_for


@pytest.fixture(scope="module")
def tables(
    tiny_items: pl.DataFrame,
    tiny_sequences: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The tiny set as a table of interactions, and the items beside it."""
    folder = tmp_path_factory.mktemp("tables")
    rows = [
        {"user_id": f"u{user:02d}", "item_id": tiny_items["item_id"][item - 1], "timestamp": when}
        for user, sequence in enumerate(tiny_sequences)
        for when, item in enumerate(sequence)
    ]
    pl.DataFrame(rows).write_parquet(folder / "log.parquet")
    tiny_items.write_parquet(folder / "items.parquet")
    return {"interactions": folder / "log.parquet", "items": folder / "items.parquet"}


@pytest.fixture(scope="module")
def prepare_cold(tables: dict[str, Path]) -> Callable[..., SequenceDataset]:
    """Return what prepares the tables in a folder with a fifth of the items held out."""

    def prepare_in(folder: Path, cold_share: float = 0.2, seed: int = 0) -> SequenceDataset:
        return prepare(PrepareConfig(**tables, output_dir=folder, cold_share=cold_share, seed=seed))

    return prepare_in


@pytest.fixture(scope="module")
def cold_dataset(
    prepare_cold: Callable[..., SequenceDataset], tmp_path_factory: pytest.TempPathFactory
) -> SequenceDataset:
    """The tiny set with six of the thirty books held out."""
    return prepare_cold(tmp_path_factory.mktemp("cold") / "tiny-cold")


# --- The data set -------------------------------------------------------------------------------


def test_cold_items_stay_as_test_targets_and_nowhere_else() -> None:
    # Items 8 and 9 are cold. One user a line; the last event is the test target.
    sequences = [
        [1, 8, 2, 3, 4],  # a cold event in training goes
        [1, 2, 3, 9],  # a cold test target stays
        [1, 2, 8, 3],  # a cold validation target goes, and the test target's history with it
        [8, 1, 2],  # nothing is left to train on: item 1 is history alone
        [8, 9, 1],  # nothing is left before the test target: it goes too
        [8, 1],  # too short for targets
        [9],
    ]
    lengths = np.array([len(sequence) for sequence in sequences])
    events, offsets, split = hold_out_items(
        np.concatenate(sequences).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        leave_one_out(lengths),
        np.array([8, 9]),
    )
    left = [events[a:b].tolist() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    assert left == [[1, 2, 3, 4], [1, 2, 3, 9], [1, 2, 3], [1, 2], [], [1], []]
    assert split.tolist() == [
        [2, 2, 3],
        [2, 2, 3],
        [2, -1, 2],
        [0, -1, 1],
        [0, -1, -1],
        [1, -1, -1],
        [0, -1, -1],
    ]


def test_no_cold_item_is_in_a_training_batch_or_in_any_model_input(
    cold_dataset: SequenceDataset,
) -> None:
    cold = cold_dataset.cold_items
    assert len(cold) == 6
    shown = []
    for epoch in range(3):
        for batch in TrainingBatches(cold_dataset, 5, 8, seed=0).epoch(epoch)[1]:
            shown += [batch.items.numpy().ravel(), batch.targets.numpy().ravel()]
    for targets in (cold_dataset.eval_targets("valid"), cold_dataset.eval_targets("test")):
        for _, _, histories in evaluation_batches(cold_dataset, targets, 16):
            assert all(len(history) > 0 for history in histories)
            shown += histories
    assert not np.isin(np.concatenate(shown), cold).any()
    assert not np.isin(cold_dataset.eval_targets("valid").items, cold).any()
    assert np.isin(cold_dataset.eval_targets("test").items, cold).any()


def test_every_test_target_is_the_users_last_event(
    cold_dataset: SequenceDataset, tiny_sequences: list[list[int]]
) -> None:
    targets = cold_dataset.eval_targets("test")
    for user, item in zip(targets.users, targets.items, strict=True):
        assert item == tiny_sequences[user][-1]


def test_other_items_keep_all_their_training_events(
    cold_dataset: SequenceDataset, tiny_dataset: SequenceDataset
) -> None:
    expected = tiny_dataset.train_counts()
    expected[cold_dataset.cold_items] = 0
    assert cold_dataset.train_counts().tolist() == expected.tolist()


def test_the_same_seed_holds_out_the_same_items_and_another_one_others(
    prepare_cold: Callable[..., SequenceDataset], cold_dataset: SequenceDataset, tmp_path: Path
) -> None:
    again, other = (prepare_cold(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert again.fingerprint == cold_dataset.fingerprint
    assert again.cold_items.tolist() == cold_dataset.cold_items.tolist()
    assert other.cold_items.tolist() != cold_dataset.cold_items.tolist()


def test_without_cold_items_a_set_is_what_it_was_before_there_were_any(
    prepare_cold: Callable[..., SequenceDataset], tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    dataset = prepare_cold(tmp_path / "plain", cold_share=0.0)
    assert dataset.fingerprint == tiny_dataset.fingerprint
    assert len(dataset.cold_items) == 0
    assert not (dataset.path / "cold_items.npy").exists()


def test_which_items_are_cold_is_part_of_the_fingerprint(
    cold_dataset: SequenceDataset, tmp_path: Path
) -> None:
    other = write_dataset(
        tmp_path / "other",
        name=cold_dataset.name,
        items=cold_dataset.items,
        user_ids=pl.read_parquet(cold_dataset.path / "user_ids.parquet")["user_id"],
        events=np.array(cold_dataset.events),
        offsets=cold_dataset.offsets,
        split=cold_dataset.split,
        split_name="leave-one-out",
        provenance={},
    )
    assert other.fingerprint != cold_dataset.fingerprint


def test_the_share_is_of_the_items_that_somebody_took() -> None:
    events = np.array([3, 5, 7, 5, 9, 11], dtype=np.int32)  # five items
    cold = choose_cold_items(events, 0.4, seed=3)
    assert len(cold) == 2
    assert set(cold) < {3, 5, 7, 9, 11}


def test_untrained_items_are_the_cold_ones_and_those_that_nobody_took_in_training(
    tmp_path: Path, tiny_items: pl.DataFrame
) -> None:
    dataset = write_dataset(
        tmp_path / "few",
        name="few",
        items=tiny_items.head(6),
        user_ids=pl.Series(["a", "b"]),
        events=np.array([1, 2, 3, 4, 1, 2, 3, 6], dtype=np.int32),
        offsets=np.array([0, 4, 8]),
        split=leave_one_out(np.array([4, 4])),
        split_name="leave-one-out",
        provenance={},
        cold_items=np.array([6]),
    )
    # 1 and 2 are trained on; 3 validates, 4 and 6 are tested, 5 is in no event.
    assert dataset.untrained_items.tolist() == [3, 4, 5, 6]
    assert PAD not in dataset.untrained_items


def test_a_cold_set_without_its_list_of_cold_items_is_refused(
    cold_dataset: SequenceDataset, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(cold_dataset.path, tmp_path / "cold"))
    (path / "cold_items.npy").unlink()
    with pytest.raises(DataError, match=r"no usable .*cold_items.* Make it: python -m seqrec"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"cold_share": 1.0}, "--cold-share 1.0 is not from 0 to below 1"),
        ({"cold_share": -0.1}, "--cold-share -0.1 is not from 0 to below 1"),
        ({"cold_share": 0.1, "split": "temporal"}, "--cold-share goes with --split leave-one-out"),
    ],
)
def test_a_share_that_cannot_be_held_out_is_refused(flags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareConfig(dataset="ml-100k", **flags)


@pytest.mark.parametrize(
    ("share", "missing"), [(0.001, "cold test target"), (0.99, "training event")]
)
def test_a_share_that_leaves_nothing_to_judge_is_refused_and_nothing_is_written(
    prepare_cold: Callable[..., SequenceDataset], tmp_path: Path, share: float, missing: str
) -> None:
    with pytest.raises(DataError, match=rf"leaves no {missing}\. Change --cold-share, or --seed"):
        prepare_cold(tmp_path / "out", cold_share=share)
    assert not (tmp_path / "out").exists()


# --- The teacher --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(cold_dataset: SequenceDataset, tiny_llm: Path) -> Teacher:
    flags = flags_for(tiny_llm, max_len=6)
    return build_teacher(flags, cold_dataset, torch.device("cpu"))


def test_the_teacher_knows_an_untrained_item_by_its_text_alone(
    teacher: Teacher, cold_dataset: SequenceDataset
) -> None:
    untrained = torch.from_numpy(cold_dataset.untrained_items)
    table = teacher.item_table
    expected = table.projection(table.components.float())[untrained]
    assert torch.equal(teacher.item_vectors()[untrained], expected)
    assert expected.abs().sum(dim=1).min() > 0


def test_training_neither_moves_an_untrained_items_own_vector_nor_pushes_it_down(
    teacher: Teacher, cold_dataset: SequenceDataset
) -> None:
    """Its own part stays zero, and its text makes no difference to the loss of any other."""
    untrained = torch.from_numpy(cold_dataset.untrained_items)
    trained = [i for i in range(1, cold_dataset.num_items + 1) if i not in untrained.tolist()]
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=0.1, weight_decay=0.01)
    batches = list(TrainingBatches(cold_dataset, 6, 16, seed=0).epoch(0)[1])
    for batch in batches:
        optimizer.zero_grad()
        next_item_loss(teacher, batch).backward()
        gradient = teacher.item_table.residual.weight.grad
        assert gradient is not None
        assert gradient[untrained].abs().max() == 0
        optimizer.step()
    assert gradient[trained].abs().sum() > 0
    assert teacher.item_table.residual.weight[untrained].abs().max() == 0
    with torch.no_grad():
        before = next_item_loss(teacher.eval(), batches[0])
        teacher.train().item_table.components[untrained] += 5
        after = next_item_loss(teacher.eval(), batches[0])
        teacher.item_table.components[untrained] -= 5
    assert torch.equal(before, after)


def test_a_teacher_remembers_what_it_was_not_trained_on(
    teacher: Teacher, cold_dataset: SequenceDataset, tmp_path: Path
) -> None:
    teacher.save_pretrained(tmp_path)
    again = Teacher.from_pretrained(tmp_path)
    assert torch.nonzero(again.untrained).ravel().tolist() == cold_dataset.untrained_items.tolist()
    assert torch.equal(again.text_map, teacher.text_map)


# --- From text to row ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b"", b"no safetensors"])
def test_a_text_map_that_cannot_be_read_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"no usable text map .*python -m student\.distill"):
        TextMap.load(tmp_path / FILE)


def test_a_text_map_is_the_map_to_components_and_then_the_projection() -> None:
    # One text dimension, doubled and shifted by 1 into a component, projected onto (3, 4).
    text_map = TextMap.compose(np.array([[2.0], [1.0]]), np.array([[3.0], [4.0]]))
    assert text_map.rows(np.array([[5.0], [0.0]])).tolist() == [[33.0, 44.0], [3.0, 4.0]]
