"""Soft targets: what teacher and auxiliary teachers together answer, and how much each weighs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.batching import prefix_offsets
from seqrec.data import SequenceDataset
from seqrec.files import read_json, sha256_file, write_json
from seqrec.knowledge import Knowledge

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from student import soft_targets
from student.model import Student, StudentConfig
from student.soft_targets import (
    FALLBACK_WEIGHT,
    SoftTargets,
    TeacherPool,
    best_weight,
    prepare_soft_targets,
    try_teacher_weights,
)

CPU = torch.device("cpu")
NUM_ITEMS, NUM_USERS, STRENGTH, NOISE = 20, 120, 10.0, 30.0
MakeKnowledge = Callable[..., Knowledge]
WriteSequences = Callable[[list[list[int]], int], SequenceDataset]


class Opponent(nn.Module):
    """Stands for an auxiliary teacher: its logits depend on the last item alone, (I + 1, I)."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.by_last_item = logits
        # A state is all logits, and an item's row picks its own.
        self.item_embedding = nn.Embedding.from_pretrained(
            torch.nn.functional.pad(torch.eye(logits.shape[1]), (0, 0, 1, 0))
        )
        self.config = StudentConfig(arch="gru", num_items=logits.shape[1], max_len=8)

    def encode(self, items: Tensor, *, last_only: bool = False) -> Tensor:
        return self.by_last_item[items[:, -1:] if last_only else items]


def knows_the_shelf() -> Tensor:
    """Return logits that prefer the next item on the shelf."""
    logits = torch.zeros(NUM_ITEMS + 1, NUM_ITEMS)
    logits[torch.arange(1, NUM_ITEMS + 1), torch.arange(1, NUM_ITEMS + 1) % NUM_ITEMS] = STRENGTH
    return logits


def noise() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NUM_ITEMS + 1, NUM_ITEMS, generator=generator) * NOISE


@pytest.fixture
def shelf(write_sequences: WriteSequences) -> SequenceDataset:
    """Users who take five to seven books in shelf order, wherever they start."""
    starts = np.random.default_rng(0).integers(NUM_ITEMS, size=NUM_USERS)
    sequences = [
        ((start + np.arange(5 + user % 3)) % NUM_ITEMS + 1).tolist()
        for user, start in enumerate(starts)
    ]
    return write_sequences(sequences, NUM_ITEMS)


def teacher_of(
    dataset: SequenceDataset, logits: Tensor, make_knowledge: MakeKnowledge
) -> Knowledge:
    """Make the knowledge of a teacher with these logits after each last item."""
    last_items = np.concatenate([dataset.train_sequence(u) for u in range(dataset.num_users)])
    vectors = np.eye(NUM_ITEMS + 1, NUM_ITEMS, k=-1)  # of item i: unit vector i - 1
    return make_knowledge(dataset, logits.numpy()[last_items], vectors)


def pool_of(dataset: SequenceDataset, knowledge: Knowledge, *auxiliaries: Any) -> TeacherPool:
    return TeacherPool.of(knowledge, auxiliaries, dataset, CPU)


def small_student(num_items: int, max_len: int = 30) -> Student:
    torch.manual_seed(0)
    student = Student(
        StudentConfig(arch="transformer", num_items=num_items, hidden_dim=8, max_len=max_len)
    )
    nn.init.normal_(student.item_embedding.weight[1:].data)
    return student.eval()


def prepare(
    folder: Path,
    dataset: SequenceDataset,
    knowledge: Knowledge,
    auxiliary: Any,
    weight: float | None,
    recipe: str = "one",
    top_k: int = 4,
) -> SoftTargets:
    return prepare_soft_targets(
        folder,
        dataset,
        knowledge,
        [] if auxiliary is None else [auxiliary],
        teacher_weight=weight,
        top_k=top_k,
        recipe={"recipe": recipe},
        device=CPU,
    )


# The mixture.


@pytest.fixture
def three_items(write_sequences: WriteSequences) -> SequenceDataset:
    """One user, whose training events are items 1, 2 and 3."""
    return write_sequences([[1, 2, 3, 1, 2]], 3)


def test_a_mixture_is_the_mean_of_log_probabilities_by_weights(
    three_items: SequenceDataset, make_knowledge: MakeKnowledge
) -> None:
    said = torch.tensor([0.8, 0.1, 0.1]).log()
    knowledge = make_knowledge(three_items, said.expand(3, 3).numpy(), np.eye(4, 3, k=-1))
    pool = pool_of(three_items, knowledge, Opponent(torch.zeros(4, 3)))
    states = [torch.tensor([[0.2, 0.4, 0.4]]).log()]
    found = pool.answer(np.array([0]), states, 0.25).exp()[0].tolist()
    expected = [0.8**0.25 * 0.2**0.75, 0.1**0.25 * 0.4**0.75, 0.1**0.25 * 0.4**0.75]
    assert found == pytest.approx(expected, rel=1e-3)  # float16


def test_auxiliary_teachers_count_alike(
    three_items: SequenceDataset, make_knowledge: MakeKnowledge
) -> None:
    first, second = Opponent(torch.zeros(4, 3)), Opponent(torch.zeros(4, 3))
    pool = pool_of(three_items, make_knowledge(three_items), first, second)
    said = pool.by_auxiliaries(
        [torch.tensor([[0.8, 0.1, 0.1]]).log(), torch.tensor([[2.0, 4, 4]]).log()]
    )
    assert said is not None
    expected = [(0.8 * 0.2) ** 0.5, (0.1 * 0.4) ** 0.5, (0.1 * 0.4) ** 0.5]
    assert said.exp()[0].tolist() == pytest.approx(expected)


def test_items_without_training_events_are_in_no_soft_target(
    write_sequences: WriteSequences, make_knowledge: MakeKnowledge, tmp_path: Path
) -> None:
    dataset = write_sequences([[1, 2, 4, 1, 3], [4, 1, 2, 3, 5]], 6)  # 3, 5, 6 are only held out
    knowledge = make_knowledge(dataset)
    found = prepare(tmp_path / "t", dataset, knowledge, small_student(6), 0.5, top_k=6)
    assert np.array_equal(np.unique(found.item_ids), [1, 2, 4])
    np.testing.assert_allclose(np.exp(found.log_probs.astype(float)).sum(axis=1), 1, atol=2e-3)


@pytest.mark.parametrize(("weight", "prefixes_per_user"), [(0.3, 1000), (0.5, 4), (0.0, 1000)])
def test_each_prefix_gets_the_best_of_what_both_say_to_it(
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    tmp_path: Path,
    weight: float,
    prefixes_per_user: int,
) -> None:
    knowledge = make_knowledge(tiny_dataset, prefixes_per_user=prefixes_per_user)
    student = small_student(tiny_dataset.num_items)
    found = prepare(tmp_path / "t", tiny_dataset, knowledge, student, weight)
    prefix, row = 0, 0
    vectors = torch.from_numpy(knowledge.item_vectors[1:].astype(np.float32))
    for user in range(tiny_dataset.num_users):
        sequence = torch.from_numpy(tiny_dataset.train_sequence(user).astype(np.int64))
        for length in range(1, len(sequence) + 1):
            items, log_probs = found(torch.tensor([prefix]))
            prefix += 1
            if length <= len(sequence) - prefixes_per_user:
                assert items.tolist() == [[0] * 4]  # nobody was asked
                continue
            state = torch.from_numpy(knowledge.states[row].astype(np.float32))
            row += 1
            with torch.inference_mode():
                own = student(sequence[None, :length])[0, 1:].log_softmax(dim=0)
            mixed = weight * (vectors @ state).log_softmax(dim=0) + (1 - weight) * own
            expected = mixed.log_softmax(dim=0)
            torch.testing.assert_close(expected[items[0] - 1], expected.topk(4).values)
            torch.testing.assert_close(
                log_probs[0], expected[items[0] - 1], atol=5e-3, rtol=1e-3
            )  # float16
    assert prefix == tiny_dataset.train_lengths.sum()


def test_a_teacher_who_answers_alone_needs_no_auxiliary_teacher(
    shelf: SequenceDataset, make_knowledge: MakeKnowledge, tmp_path: Path
) -> None:
    knowledge = teacher_of(shelf, knows_the_shelf(), make_knowledge)
    found = prepare(tmp_path / "t", shelf, knowledge, None, weight=1.0)
    assert found.meta["teacher_weight"] == 1.0
    best = math.exp(STRENGTH) / (math.exp(STRENGTH) + NUM_ITEMS - 1)
    prefixes = torch.arange(int(prefix_offsets(shelf)[-1]))
    items, log_probs = found(prefixes)
    assert log_probs[:, 0].tolist() == pytest.approx([math.log(best)] * len(prefixes), abs=1e-4)
    last_items = np.concatenate([shelf.train_sequence(u) for u in range(shelf.num_users)])
    assert items[:, 0].tolist() == (last_items % NUM_ITEMS + 1).tolist()


def test_no_more_items_are_kept_than_there_are(
    shelf: SequenceDataset, make_knowledge: MakeKnowledge, tmp_path: Path
) -> None:
    knowledge = teacher_of(shelf, noise(), make_knowledge)
    found = prepare(tmp_path / "t", shelf, knowledge, None, weight=1.0, top_k=64)
    assert found.item_ids.shape == (shelf.train_lengths.sum(), NUM_ITEMS)
    assert (np.sort(found.item_ids, axis=1) == np.arange(1, NUM_ITEMS + 1)).all()


# Who is listened to.


@pytest.mark.parametrize(
    ("teacher", "auxiliary", "weight"),
    [(knows_the_shelf, noise, 1.0), (noise, knows_the_shelf, 0.0)],
)
def test_validation_listens_to_the_one_who_knows(
    shelf: SequenceDataset,
    make_knowledge: MakeKnowledge,
    tmp_path: Path,
    teacher: Callable[[], Tensor],
    auxiliary: Callable[[], Tensor],
    weight: float,
) -> None:
    knowledge = teacher_of(shelf, teacher(), make_knowledge)
    found = prepare(tmp_path / "t", shelf, knowledge, Opponent(auxiliary()), weight=None)
    assert found.meta["teacher_weight"] == weight
    tried = found.meta["tried_weights"]
    assert tried[str(weight)] == pytest.approx(1.0)  # always the next on the shelf
    assert all(value < 0.99 for other, value in tried.items() if other != str(weight))
    chosen = prepare(tmp_path / "u", shelf, knowledge, Opponent(auxiliary()), weight=weight)
    assert np.array_equal(found.item_ids, chosen.item_ids)


def test_the_value_of_a_weight_is_what_a_direct_computation_gives(
    shelf: SequenceDataset, make_knowledge: MakeKnowledge
) -> None:
    teacher, auxiliary = noise().flip(0) / NOISE, noise() / NOISE
    pool = pool_of(shelf, teacher_of(shelf, teacher, make_knowledge), Opponent(auxiliary))
    found = try_teacher_weights(pool, shelf, batch_size=50)
    values = []
    for user in range(shelf.num_users):
        *history, target, _ = shelf.sequence(user).tolist()
        own, other = (t[history[-1]].log_softmax(dim=0) for t in (auxiliary, teacher))
        mixed = (0.25 * other + 0.75 * own).tolist()
        left = [item for item in range(1, NUM_ITEMS + 1) if item not in history]
        rank = 1 + sum(mixed[item - 1] > mixed[target - 1] for item in left)
        values.append(1 / math.log2(rank + 1) if rank <= 10 else 0.0)
    # The teacher's states are float16: now and then two items change places.
    assert found["0.25"] == pytest.approx(np.mean(values), abs=0.01)


@pytest.mark.parametrize(
    ("tried", "weight"),
    [
        ([0.30, 0.40, 0.20], 0.42),  # 0.3 + 0.5 w - 0.6 w^2
        ([0.30, 0.35, 0.38], 1.0),  # its top is beyond the end
        ([0.30, 0.25, 0.10], 0.0),
        ([0.30, 0.25, 0.40], 1.0),  # no top at all: the better end
        ([0.40, 0.25, 0.30], 0.0),
        ([0.30, 0.30, 0.30], 0.0),
    ],
)
def test_the_weight_is_where_a_parabola_is_highest(tried: list[float], weight: float) -> None:
    assert best_weight(dict(zip(("0.0", "0.5", "1.0"), tried, strict=True))) == weight


def test_with_too_few_users_to_choose_by_the_teacher_has_a_quarter(
    tiny_dataset: SequenceDataset, make_knowledge: MakeKnowledge, tmp_path: Path
) -> None:
    student = small_student(tiny_dataset.num_items)
    knowledge = make_knowledge(tiny_dataset)
    found = prepare(tmp_path / "t", tiny_dataset, knowledge, student, weight=None)
    assert found.meta["tried_weights"] == {}
    assert found.meta["teacher_weight"] == FALLBACK_WEIGHT == 0.25


# What is made stays.


def test_soft_targets_are_made_once_for_a_recipe(
    shelf: SequenceDataset,
    make_knowledge: MakeKnowledge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    knowledge = teacher_of(shelf, knows_the_shelf(), make_knowledge)
    made = prepare(tmp_path / "t", shelf, knowledge, Opponent(noise()), weight=1.0)
    answers, calls = soft_targets.answers, []

    def counting(*arguments: Any) -> Any:
        calls.append(arguments[2])
        return answers(*arguments)

    monkeypatch.setattr(soft_targets, "answers", counting)
    again = prepare(tmp_path / "t", shelf, knowledge, Opponent(noise()), weight=1.0)
    assert calls == []
    assert np.array_equal(made.item_ids, again.item_ids)
    other = prepare(tmp_path / "t", shelf, knowledge, Opponent(noise()), weight=0.0, recipe="two")
    assert calls == [0.0]
    assert not np.array_equal(made.item_ids, other.item_ids)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)


def claim_an_item_outside_the_catalogue(file: Path) -> None:
    items = np.load(file)
    items[0, 0] = NUM_ITEMS + 1
    np.save(file, items)
    meta = read_json(file.parent / "meta.json")
    meta["sha256"]["item_ids"] = sha256_file(file)
    write_json(file.parent / "meta.json", meta)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("log_probs.npy", flip, "is damaged"),
        ("item_ids.npy", claim_an_item_outside_the_catalogue, f"outside 1..{NUM_ITEMS}"),
        ("item_ids.npy", Path.unlink, "item_ids.npy"),
        ("meta.json", lambda file: file.write_text('{"recipe": {"top_k": '), "Expecting value"),
    ],
)
def test_damaged_soft_targets_are_made_anew_as_they_were(
    shelf: SequenceDataset,
    make_knowledge: MakeKnowledge,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    knowledge = teacher_of(shelf, noise(), make_knowledge)
    whole = prepare(tmp_path / "whole", shelf, knowledge, None, weight=1.0)
    prepare(tmp_path / "t", shelf, knowledge, None, weight=1.0)
    damage(tmp_path / "t" / name)
    found = prepare(tmp_path / "t", shelf, knowledge, None, weight=1.0)
    assert "made anew" in caplog.text
    assert message in caplog.text
    assert np.array_equal(found.item_ids, whole.item_ids)
    assert np.array_equal(found.log_probs, whole.log_probs)


def test_a_killed_preparation_leaves_nothing_that_looks_finished(
    shelf: SequenceDataset,
    make_knowledge: MakeKnowledge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dying(*_: Any) -> Any:
        raise KeyboardInterrupt

    knowledge = teacher_of(shelf, knows_the_shelf(), make_knowledge)
    with monkeypatch.context() as patch:
        patch.setattr(soft_targets, "answers", dying)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "t", shelf, knowledge, None, weight=1.0)
    assert not (tmp_path / "t").exists()
    assert (prepare(tmp_path / "t", shelf, knowledge, None, weight=1.0).item_ids > 0).all()
