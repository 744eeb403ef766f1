"""What is trained, what is reused, and what a student's loss is made of."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import seqrec.training
from seqrec import schedule
from seqrec.batching import TrainingBatches
from seqrec.data import PAD, SequenceDataset
from seqrec.files import read_json
from seqrec.knowledge import Knowledge
from seqrec.metrics import validation_ndcg

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from student import distill
from student.distill import (
    DistillConfig,
    choose_new_item_share,
    init_item_table,
    learn_new_items,
    make_loss,
    scheduled,
    soft_targets,
    train_student,
)
from student.model import Arch, Student, StudentConfig

ASSISTING = ["transformer assistant", "gru assistant"]  # in the order of their training

MakeKnowledge = Callable[..., Knowledge]
WriteSequences = Callable[[list[list[int]], int], SequenceDataset]


@pytest.fixture
def config(tiny_dataset: SequenceDataset, tmp_path: Path) -> DistillConfig:
    return DistillConfig(
        data_dir=tiny_dataset.path,
        output_dir=tmp_path / "out",
        hidden_dim=8,
        max_len=8,
        num_epochs=1,
        evaluate_every=1,
        batch_size=16,
        refit_share=0.0,
        device="cpu",
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the label of every training."""
    labels: list[str] = []
    fit = distill.fit

    def counting(*arguments: Any, **named: Any) -> Any:
        labels.append(named["label"])
        return fit(*arguments, **named)

    monkeypatch.setattr(distill, "fit", counting)
    return labels


def train(
    arch: Arch, config: DistillConfig, dataset: SequenceDataset, knowledge: Knowledge | None
) -> Student:
    assert config.output_dir is not None
    role = "control" if knowledge is None else "distilled"
    folder = config.output_dir / "students" / arch / role
    return train_student(arch, config, dataset, knowledge, folder, Accelerator(cpu=True))


def same_weights(first: Student, second: Student) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


# What is trained, and what is reused.


def test_who_is_not_taught_behaviour_has_no_assistants_and_no_soft_targets(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    trained: list[str],
) -> None:
    untaught = dataclasses.replace(config, kd_weight=0.0)
    train("gru", untaught, tiny_dataset, make_knowledge(tiny_dataset))
    train("gru", config, tiny_dataset, None)  # nor has a control, whatever its weight
    assert trained == ["gru distilled", "gru control"]
    assert config.output_dir is not None
    assert {path.name for path in config.output_dir.iterdir()} == {"students"}


def test_both_students_learn_from_the_same_assistants(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    trained: list[str],
) -> None:
    knowledge = make_knowledge(tiny_dataset)
    for _ in range(2):
        for arch in ("gru", "transformer"):
            train(arch, config, tiny_dataset, knowledge)  # type: ignore[arg-type]
    assert trained == [*ASSISTING, "gru distilled", "transformer distilled"]
    assert config.output_dir is not None
    assert len(list((config.output_dir / "targets").iterdir())) == 1


def test_a_teacher_who_is_all_that_is_listened_to_has_no_assistants(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    trained: list[str],
) -> None:
    alone = dataclasses.replace(config, teacher_share=1.0)
    train("gru", alone, tiny_dataset, make_knowledge(tiny_dataset))
    assert trained == ["gru distilled"]


def test_assistants_do_not_know_the_teacher(
    config: DistillConfig, tiny_dataset: SequenceDataset, make_knowledge: MakeKnowledge
) -> None:
    tables = []
    for seed in (1, 2):
        own = dataclasses.replace(config, output_dir=config.output_dir / str(seed))  # type: ignore[operator]
        knowledge = make_knowledge(tiny_dataset, seed=seed, name=f"knowledge{seed}")
        soft_targets(own, tiny_dataset, knowledge, Accelerator(cpu=True))
        assert own.output_dir is not None
        for arch in ("gru", "transformer"):
            (folder,) = (own.output_dir / "assistants").glob(f"{arch}-*")
            tables.append(Student.from_pretrained(folder).state_dict())
    for first, second in zip(tables[:2], tables[2:], strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"kd_weight": 0.25}, ["gru distilled"]),
        ({"temperature": 2.0}, ["gru distilled"]),
        ({"init": "random"}, ["gru distilled"]),
        ({"teacher_share": 0.25}, ["gru distilled"]),
        ({"top_k": 3}, ["gru distilled"]),
        ({"seed": 1}, ["gru distilled"]),
        ({"new_item_share": 1.0}, ["gru distilled"]),
        ({"dropout": 0.1}, [*ASSISTING, "gru distilled"]),
        ({"num_epochs": 2}, [*ASSISTING, "gru distilled"]),
        ({"num_threads": 1}, []),
    ],
)
def test_a_changed_flag_trains_again_those_whom_it_concerns(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    trained: list[str],
    change: dict[str, Any],
    again: list[str],
) -> None:
    knowledge = make_knowledge(tiny_dataset)
    train("gru", config, tiny_dataset, knowledge)
    trained.clear()
    train("gru", dataclasses.replace(config, **change), tiny_dataset, knowledge)
    assert trained == again


def test_assistants_of_other_flags_stay_for_who_comes_back_to_them(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    trained: list[str],
) -> None:
    knowledge = make_knowledge(tiny_dataset)
    for num_epochs in (1, 2):
        train("gru", dataclasses.replace(config, num_epochs=num_epochs), tiny_dataset, knowledge)
    trained.clear()
    train("gru", dataclasses.replace(config, num_epochs=1), tiny_dataset, knowledge)
    assert trained == ["gru distilled"]


def test_another_teacher_trains_the_student_again_but_not_the_assistants(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    trained: list[str],
) -> None:
    train("gru", config, tiny_dataset, make_knowledge(tiny_dataset))
    trained.clear()
    train("gru", config, tiny_dataset, make_knowledge(tiny_dataset, seed=1, name="other"))
    assert trained == ["gru distilled"]
    assert config.output_dir is not None
    assert len(list((config.output_dir / "targets").iterdir())) == 2


# The flags.


def test_flags_that_are_given_go_before_the_rules(tiny_dataset: SequenceDataset) -> None:
    given = {"num_epochs": 7, "batch_size": 5, "learning_rate": 0.5, "num_negatives": 3}
    found = scheduled(DistillConfig(**given), tiny_dataset)
    assert {name: getattr(found, name) for name in given} == given


def test_what_is_left_to_the_rules_is_put_into_the_recipe(
    config: DistillConfig, tiny_dataset: SequenceDataset
) -> None:
    # Forty users with 1 to 18 training events and thirty items: small in every respect.
    ruled = dataclasses.replace(config, batch_size=0)
    train("gru", ruled, tiny_dataset, None)
    assert config.output_dir is not None
    recipe = read_json(config.output_dir / "students" / "gru" / "control" / "recipe.json")
    assert (recipe["batch_size"], recipe["num_negatives"], recipe["num_epochs"]) == (32, 0, 1)
    assert recipe["learning_rate"] == pytest.approx(4e-3 / 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"kd_weight": 1.5}, "--kd-weight 1.5"),
        ({"teacher_share": -0.1}, "--teacher-share -0.1"),
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"new_item_share": 1.5}, "--new-item-share 1.5"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillConfig(**flags)


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
    config = dataclasses.replace(config, teacher_share=1.0, keep_rest=keep_rest, **flags)
    knowledge = make_knowledge(tiny_dataset, prefixes_per_user=5)  # older ones have no answer
    (targets,) = soft_targets(config, tiny_dataset, knowledge, Accelerator(cpu=True))
    student = make_student(tiny_dataset.num_items)
    batches = TrainingBatches(tiny_dataset, 8, batch_size=16, seed=0, whole=True)
    batch = list(batches.epoch(0)[1])[-1]
    losses = []
    with torch.no_grad():
        log_student = student.scores(student.encode(batch.items))[..., 1:].log_softmax(dim=-1)
        loss = make_loss(config, tiny_dataset, targets)(student, batch)
    for place in (batch.prefixes >= 0).nonzero().tolist():
        own, target = log_student[*place].tolist(), int(batch.targets[*place])
        row = int(knowledge.rows[int(batch.prefixes[*place])])
        truth, opinion = 1.0, 0.0
        if row >= 0:
            truth, ids = 1 - kd_weight, targets.item_ids[row].tolist()
            known = targets.log_probs[row].tolist()
            odds = [math.exp(value / temperature) for value in known]
            mass = sum(map(math.exp, known)) if keep_rest else 1.0
            opinion = -mass * sum(o * own[i - 1] for o, i in zip(odds, ids, strict=True))
            opinion /= sum(odds)
            # Of the rest it is all alike which of them comes; what is named is none of it.
            named = {*ids, target} - {PAD}
            opinion -= (1 - mass) * math.log(1 - sum(math.exp(own[i - 1]) for i in named))
        from_target = 0.0 if target == PAD else -truth * own[target - 1]
        losses.append(from_target + kd_weight * opinion)
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
    start = distill.new_student(arch, config, dataset, None).item_embedding.weight.detach().clone()
    table = train(arch, config, dataset, None).item_embedding.weight.detach()
    changed = (table != start).any(dim=1).nonzero().flatten().tolist()
    assert changed == list(range(1, 9))


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
    assistants = [f"{name}{part}" for name in ASSISTING for part in ("", " refit")]
    # The first pass learns from assistants who do not know the validation events either.
    assert trained == [*assistants, "gru distilled", "gru distilled refit"]
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


# New items.


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ([0.5, 0.498], 0.5),  # 0.4 % less
        ([0.5, 0.49, 0.497, 0.498], 0.1),  # 2 %, 0.6 %, 0.4 % less
        ([0.5, 0.51], 0.5),
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4], 0.0),  # whatever it costs: they must have some row
        ([0.0, 0.0], 0.5),  # nothing to lose
    ],
)
def test_new_items_are_recommended_as_often_as_known_ones_can_bear(
    write_sequences: WriteSequences,
    make_knowledge: MakeKnowledge,
    values: list[float],
    share: float,
) -> None:
    rng = np.random.default_rng(0)
    sequences = [(rng.permutation(24)[:8] + 1).tolist() for _ in range(60)]
    dataset = write_sequences(sequences, 36)  # twelve that nobody was trained on
    knowledge, left = make_knowledge(dataset), list(values)
    free, given = make_student(36), make_student(36)
    assert choose_new_item_share(free, dataset, knowledge, lambda student: left.pop(0)) == share
    assert left == []  # no more is tried than it takes
    learn_new_items(given, dataset, knowledge, share)
    assert torch.equal(free.item_embedding.weight, given.item_embedding.weight)


# What the item table starts from.


@pytest.mark.parametrize("dim", [8, 20])
def test_an_item_table_starts_with_the_distances_of_the_vectors_it_is_made_from(dim: int) -> None:
    # Eight dimensions or more hold what eight-dimensional vectors have to say.
    vectors = np.random.default_rng(0).normal(size=(31, 8)) + 3
    config = StudentConfig(arch="gru", num_items=30, hidden_dim=dim, max_len=8)
    student = Student(config)
    spread = student.item_embedding.weight[1:].std().item()
    init_item_table(student, vectors)
    table = student.item_embedding.weight.detach()
    given = torch.pdist(torch.from_numpy(vectors[1:].astype(np.float32)))
    ratio = torch.pdist(table[1:]) / given
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=0)
    assert table[1:].std().item() == pytest.approx(spread, rel=1e-3)
    assert (table[PAD] == 0).all()


@pytest.mark.parametrize(
    ("init", "vectors"), [("teacher", "item_vectors"), ("text", "text_vectors")]
)
def test_each_start_is_made_from_its_own_vectors(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    init: str,
    vectors: str,
) -> None:
    knowledge = make_knowledge(tiny_dataset)
    # At this learning rate nothing moves: what comes out is what training started from.
    still = dataclasses.replace(config, init=init, kd_weight=0.0, learning_rate=1e-12)
    table = train("gru", still, tiny_dataset, knowledge).item_embedding.weight.detach()
    trained = torch.from_numpy(np.flatnonzero(tiny_dataset.train_counts() > 0))
    given = torch.from_numpy(getattr(knowledge, vectors).astype(np.float32))
    ratio = torch.pdist(table[trained]) / torch.pdist(given[trained])
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-2, atol=0)
