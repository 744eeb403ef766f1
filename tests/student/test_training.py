"""How one student is trained: its loss, the refit, and the fused item table."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import seqrec.training
from seqrec import schedule
from seqrec.batching import TrainingBatches
from seqrec.data import SequenceDataset
from seqrec.evaluation import validation_ndcg
from seqrec.files import read_json
from seqrec.histories import PAD
from seqrec.knowledge import Knowledge

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from student.config import DistillConfig, scheduled
from student.distilling import make_soft_targets
from student.model import Arch, Student, StudentConfig
from student.text_map import FILE as TEXT_MAP_FILE
from student.text_map import TextMap
from student.training import choose_cold_item_scale, fold, make_loss, new_student
from tests.student.conftest import same_weights, train

AUXILIARY = ["transformer auxiliary teacher", "gru auxiliary teacher"]  # as they are trained

MakeKnowledge = Callable[..., Knowledge]
WriteSequences = Callable[[list[list[int]], int], SequenceDataset]


# The loss.


def make_student(num_items: int) -> Student:
    torch.manual_seed(0)
    student = Student(StudentConfig(arch="gru", num_items=num_items, hidden_dim=8, max_len=8))
    torch.nn.init.normal_(student.item_embedding.weight[1:].data)
    return student.eval()


@pytest.mark.parametrize("keep_rest", [False, True])
@pytest.mark.parametrize(("kd_weight", "temperature"), [(0.4, 1.0), (0.4, 3.0), (1.0, 1.0)])
def test_the_loss_is_what_adding_up_position_by_position_gives(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    kd_weight: float,
    temperature: float,
    keep_rest: bool,
) -> None:
    flags = {"kd_weight": kd_weight, "temperature": temperature, "top_k": 4, "num_negatives": 0}
    config = dataclasses.replace(config, teacher_weight=1.0, keep_rest=keep_rest, **flags)
    knowledge = make_knowledge(tiny_dataset, prefixes_per_user=5)  # older ones have no answer
    (targets,) = make_soft_targets(config, tiny_dataset, knowledge, Accelerator(cpu=True))
    student = make_student(tiny_dataset.num_items)
    batches = TrainingBatches(tiny_dataset, 8, batch_size=16, seed=0, whole=True)
    batch = list(batches.epoch(0)[1])[-1]
    losses = []
    events = tiny_dataset.train_counts()
    with torch.no_grad():
        log_student = student.scores(student.encode(batch.items))[..., 1:].log_softmax(dim=-1)
        loss = make_loss(config, tiny_dataset, targets)(student, batch)
    for place in (batch.prefixes >= 0).nonzero().tolist():
        own, target = log_student[*place].tolist(), int(batch.targets[*place])
        row = int(knowledge.rows[int(batch.prefixes[*place])])
        truth, heard, opinion = 1.0, 0.0, 0.0
        if row >= 0:
            ids = targets.item_ids[row].tolist()
            # Of an item with few events the teachers are asked less.
            heard = kd_weight * (1 if target == PAD else events[target] / (events[target] + 10))
            truth = 1 - heard
            known = targets.log_probs[row].tolist()
            odds = [math.exp(value / temperature) for value in known]
            mass = sum(map(math.exp, known)) if keep_rest else 1.0
            opinion = -mass * sum(o * own[i - 1] for o, i in zip(odds, ids, strict=True))
            opinion /= sum(odds)
            # Of the rest it is all alike which of them comes; what is named is none of it.
            named = {*ids, target} - {PAD}
            opinion -= (1 - mass) * math.log(1 - sum(math.exp(own[i - 1]) for i in named))
        from_target = 0.0 if target == PAD else -truth * own[target - 1]
        losses.append(from_target + heard * opinion)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_controls_loss_is_the_cross_entropy_of_what_came_next(
    config: DistillConfig, tiny_dataset: SequenceDataset
) -> None:
    student = make_student(tiny_dataset.num_items)
    config = dataclasses.replace(config, num_negatives=0)
    (batch, *_) = TrainingBatches(tiny_dataset, 8, batch_size=16, seed=0).epoch(0)[1]
    with torch.no_grad():
        loss = make_loss(config, tiny_dataset, None)(student, batch)
        scores = student.scores(student.encode(batch.items))[..., 1:]
    expected = torch.nn.functional.cross_entropy(
        scores.flatten(0, 1), batch.targets.flatten() - 1, ignore_index=PAD - 1
    )
    torch.testing.assert_close(loss, expected)


def test_items_that_nobody_was_trained_on_are_never_sampled(
    config: DistillConfig, write_sequences: WriteSequences
) -> None:
    # Items 9 and 10 are held-out targets, 11 and 12 in no sequence at all.
    dataset = write_sequences([[1, 2, 3, 4, 9, 10], [5, 6, 7, 8, 10, 9]], 12)
    student = make_student(dataset.num_items)
    config = dataclasses.replace(config, num_negatives=6)
    touched = torch.zeros(13, dtype=torch.bool)
    for seed in range(20):
        torch.manual_seed(seed)
        (batch,) = TrainingBatches(dataset, 8, batch_size=16, seed=0).epoch(0)[1]
        student.zero_grad()
        make_loss(config, dataset, None)(student, batch).backward()
        assert student.item_embedding.weight.grad is not None
        touched |= (student.item_embedding.weight.grad != 0).any(dim=1)
    assert touched.nonzero().flatten().tolist() == list(range(1, 9))


@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_in_a_large_catalogue_training_leaves_rows_alone_that_it_never_meets(
    config: DistillConfig,
    write_sequences: WriteSequences,
    monkeypatch: pytest.MonkeyPatch,
    arch: Arch,
) -> None:
    monkeypatch.setattr(schedule, "LARGE_CATALOGUE", 10)
    dataset = write_sequences([[1, 2, 3, 4, 9, 10], [5, 6, 7, 8, 10, 9]], 12)
    config = dataclasses.replace(config, num_negatives=6, num_epochs=3)
    start = new_student(arch, config, dataset).item_embedding.weight.detach().clone()
    table = train(arch, config, dataset, None).item_embedding.weight.detach()
    changed = (table[:9] != start[:9]).any(dim=1).nonzero().flatten().tolist()
    assert changed == list(range(1, 9))
    assert (table[9:] == 0).all()  # items without a training event, of whom nothing is known


# The refit.


def test_a_refit_trains_the_chosen_weights_further_and_keeps_them_beside(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    trained: list[str],
) -> None:
    refitted = dataclasses.replace(config, num_epochs=4, refit_share=0.5)
    knowledge = make_knowledge(tiny_dataset)
    student = train("gru", refitted, tiny_dataset, knowledge)
    auxiliaries = [f"{name}{part}" for name in AUXILIARY for part in ("", " refit")]
    # The first pass learns from auxiliary teachers who do not know the validation events either.
    assert trained == [*auxiliaries, "gru distilled", "gru distilled refit"]
    assert config.output_dir is not None
    folder = config.output_dir / "students" / "gru" / "distilled"
    without = dataclasses.replace(refitted, refit_share=0.0, output_dir=config.output_dir / "w")
    kept = Student.from_pretrained(folder / "selection")
    assert same_weights(kept, train("gru", without, tiny_dataset, knowledge))
    assert not same_weights(kept, student)
    # What validation said is said of those weights, never of weights that know the answers.
    told = [read_json(place / "config.json") for place in (folder, folder / "selection")]
    assert told[0]["valid_metrics"] == told[1]["valid_metrics"]
    value = validation_ndcg(kept, tiny_dataset, max_len=8)
    assert told[0]["valid_metrics"]["ndcg@10"] == pytest.approx(value)


def test_a_student_killed_in_its_refit_goes_on_there(
    config: DistillConfig, tiny_dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(config, num_epochs=4, refit_share=0.5)
    torch.set_num_threads(1)
    assert config.output_dir is not None
    unbroken = train(
        "gru", dataclasses.replace(config, output_dir=config.output_dir / "u"), tiny_dataset, None
    )
    save, saved = seqrec.training._save_checkpoint, []

    def save_and_die_in_the_fifth(folder: Path, *arguments: Any) -> None:
        save(folder, *arguments)
        saved.append((folder.name, arguments[0].epoch))
        if len(saved) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(seqrec.training, "_save_checkpoint", save_and_die_in_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        train("gru", config, tiny_dataset, None)
    resumed = train("gru", config, tiny_dataset, None)
    selecting = [("selection", epoch) for epoch in (1, 2, 3, 4)]
    assert saved == [*selecting, ("refit", 1), ("refit", 2)]
    for (name, weight), other in zip(
        unbroken.named_parameters(), resumed.parameters(), strict=True
    ):
        assert torch.equal(weight, other), name


# The fused item table.


def test_a_fused_student_is_folded_and_its_text_map_gives_its_cold_rows(
    config: DistillConfig, write_sequences: WriteSequences, make_knowledge: MakeKnowledge
) -> None:
    rng = np.random.default_rng(0)
    sequences = [(rng.permutation(24)[:8] + 1).tolist() for _ in range(60)]
    dataset = write_sequences(sequences, 30)  # six that nobody was trained on
    knowledge = make_knowledge(dataset)
    config = dataclasses.replace(config, num_epochs=3, cold_item_scale=0.5)
    table = train("gru", config, dataset, knowledge).item_embedding.weight.detach().numpy()
    assert config.output_dir is not None
    folder = config.output_dir / "students" / "gru" / "distilled"
    # A text vector whose components are those of an item: the map is (L + 1, C), 7 to 5.
    inverse = np.linalg.pinv(knowledge.text_map[:-1])
    components = knowledge.text_components[25:].astype(np.float32)
    vectors = (components - knowledge.text_map[-1]) @ inverse
    rows = TextMap.load(folder / TEXT_MAP_FILE).rows(vectors)
    np.testing.assert_allclose(table[25:], rows, atol=1e-5)
    # Trained items have more than their texts say.
    known = (knowledge.text_components[1:25] - knowledge.text_map[-1]) @ inverse
    assert np.abs(table[1:25] - 2 * TextMap.load(folder / TEXT_MAP_FILE).rows(known)).max() > 1e-3


def test_items_of_the_same_text_share_what_one_of_them_learns(
    config: DistillConfig, write_sequences: WriteSequences, make_knowledge: MakeKnowledge
) -> None:
    # Items 1 to 4 are taken in this order; items 5 to 8 have their texts, and no event.
    sequences = [[1, 2, 3, 4, 1, 2, 3, 4][start : start + 5] for start in range(4)] * 10
    dataset = write_sequences(sequences, 8)
    knowledge = make_knowledge(dataset)
    texts = np.array(knowledge.text_components)
    texts[5:] = texts[1:5]
    knowledge = dataclasses.replace(knowledge, text_components=texts)
    config = dataclasses.replace(config, kd_weight=0.0, num_epochs=60, patience=0)
    config = dataclasses.replace(config, cold_item_scale=1.0, learning_rate=0.01)
    student = train("gru", config, dataset, knowledge)
    after_1_2, after_3_4 = student(torch.tensor([[1, 2], [3, 4]]))
    assert after_1_2[7] > after_1_2[8]  # the twin of item 3, which comes next, of that of item 4
    assert after_3_4[5] > after_3_4[6]


@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_a_student_of_0_epochs_ranks_by_the_texts_of_the_newest_items(
    config: DistillConfig,
    write_sequences: WriteSequences,
    make_knowledge: MakeKnowledge,
    arch: Arch,
) -> None:
    dataset = write_sequences([[1, 2, 3, 4, 5, 6, 7, 8]] * 4, 8)
    knowledge = make_knowledge(dataset)
    texts = np.array(knowledge.text_components)
    texts[1:] = np.eye(8, texts.shape[1])[[0, 1, 2, 3, 0, 1, 2, 3]]  # item 5 reads as item 1 does
    knowledge = dataclasses.replace(knowledge, text_components=texts)
    config = dataclasses.replace(config, num_epochs=0, hidden_dim=texts.shape[1])
    scores = train(arch, config, dataset, knowledge)(torch.tensor([[4, 3], [3, 4]]))
    assert scores[0, 5:].argmax() + 5 == 7
    assert scores[1, 5:].argmax() + 5 == 8


@pytest.mark.parametrize(("scale", "row"), [(1.0, [2.0, 4.0]), (0.5, [1.0, 2.0])])
def test_folding_adds_text_and_residual_and_scales_cold_rows(scale: float, row: list) -> None:
    components = np.array([[0, 0], [1, 0], [1, 2]])
    config = DistillConfig(hidden_dim=2, num_negatives=0)
    tiny = type("Two", (), {"num_items": 2})()
    student = new_student("gru", config, tiny, components)
    with torch.no_grad():
        student.item_embedding.projection.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        student.item_embedding.residual.weight[1] = torch.tensor([0.5, -0.5])
    table = fold(student, np.array([2]), scale).item_embedding.weight
    assert table.tolist() == [[0, 0], [2.5, -0.5], row]


def test_a_plain_table_says_nothing_of_cold_items() -> None:
    student = make_student(3)
    table = fold(student, np.array([2]), 1.0).item_embedding.weight
    assert table[2].tolist() == [0.0] * 8
    assert torch.equal(table[[1, 3]], student.item_embedding.weight[[1, 3]])


@pytest.mark.parametrize("item_table", ["fused", "plain"])
@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_training_leaves_the_row_of_padding_at_zero(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    arch: Arch,
    item_table: Any,
) -> None:
    config = dataclasses.replace(config, item_table=item_table, teacher_weight=1.0)
    student = train(arch, config, tiny_dataset, make_knowledge(tiny_dataset))
    assert (student.item_embedding.weight[PAD] == 0).all()


@pytest.mark.parametrize("large", [False, True])
def test_the_loss_of_a_fused_table_is_that_of_its_folded_rows(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    monkeypatch: pytest.MonkeyPatch,
    large: bool,
) -> None:
    if large:
        monkeypatch.setattr(schedule, "LARGE_CATALOGUE", 10)
    config = dataclasses.replace(config, teacher_weight=1.0, top_k=4, num_negatives=12)
    knowledge = make_knowledge(tiny_dataset)
    (targets,) = make_soft_targets(config, tiny_dataset, knowledge, Accelerator(cpu=True))
    batches = TrainingBatches(tiny_dataset, 8, batch_size=16, seed=0, whole=True)
    batch = next(batches.epoch(0)[1])
    student = new_student("gru", scheduled(config, tiny_dataset), tiny_dataset,
                          knowledge.text_components).eval()  # fmt: skip
    torch.nn.init.normal_(student.item_embedding.residual.weight[1:].data)
    losses = []
    for model in (student, fold(student, np.zeros(0, np.int64), 1.0)):
        torch.manual_seed(1)  # draws the same negatives
        losses.append(make_loss(config, tiny_dataset, targets)(model, batch))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)
    losses[0].backward()
    gradient = student.item_embedding.residual.weight.grad
    assert gradient is not None
    assert gradient.is_sparse == large


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.5, 0.498], 1.2),  # 0.4 % less than without cold items
        ([0.5, 0.49, 0.497, 0.498], 1.0),  # 2 %, 0.6 %, 0.4 % less
        ([0.5, 0.51], 1.2),
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4], 0.7),  # whatever it costs: they have some row
        ([0.0, 0.0], 1.2),  # nothing to lose
    ],
)
def test_cold_items_compete_as_strongly_as_known_ones_can_bear(
    write_sequences: WriteSequences, values: list[float], scale: float
) -> None:
    dataset = write_sequences([[1, 2, 3, 4], [2, 3, 1, 4]], 6)  # items 5 and 6 are cold
    left = list(values)
    found = choose_cold_item_scale(make_student(6), dataset, lambda student: left.pop(0))
    assert found == scale
    assert left == []  # no more is tried than it takes


def test_a_catalogue_of_one_item_can_be_learnt(
    config: DistillConfig, write_sequences: WriteSequences, make_knowledge: MakeKnowledge
) -> None:
    dataset = write_sequences([[1, 1, 1, 1], [1, 1, 1]], 1)
    student = train("gru", config, dataset, make_knowledge(dataset))
    assert torch.isfinite(student(torch.tensor([[1]]))).all()
