"""What `student.distill` trains, what it reuses, and what its flags stand for."""

import dataclasses
from collections.abc import Callable
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.files import read_json
from seqrec.knowledge import Knowledge

import pytest
import torch
from accelerate import Accelerator

from student.config import DistillConfig, scheduled
from student.distilling import AUXILIARY_ARCHS, flags_of, make_soft_targets
from student.model import Student
from tests.student.conftest import train

AUXILIARY = ["transformer auxiliary teacher", "gru auxiliary teacher"]  # as they are trained

MakeKnowledge = Callable[..., Knowledge]


# What is trained, and what is reused.


def test_who_is_not_taught_behaviour_has_no_auxiliary_teachers_and_no_soft_targets(
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


def test_both_students_learn_from_the_same_auxiliary_teachers(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    trained: list[str],
) -> None:
    knowledge = make_knowledge(tiny_dataset)
    for _ in range(2):
        for arch in ("gru", "transformer"):
            train(arch, config, tiny_dataset, knowledge)  # type: ignore[arg-type]
    assert trained == [*AUXILIARY, "gru distilled", "transformer distilled"]
    assert config.output_dir is not None
    assert len(list((config.output_dir / "soft-targets").iterdir())) == 1


def test_a_teacher_who_is_all_that_is_listened_to_has_no_auxiliary_teachers(
    config: DistillConfig,
    tiny_dataset: SequenceDataset,
    make_knowledge: MakeKnowledge,
    trained: list[str],
) -> None:
    alone = dataclasses.replace(config, teacher_weight=1.0)
    train("gru", alone, tiny_dataset, make_knowledge(tiny_dataset))
    assert trained == ["gru distilled"]


def test_auxiliary_teachers_do_not_know_what_the_teacher_answers(
    config: DistillConfig, tiny_dataset: SequenceDataset, make_knowledge: MakeKnowledge
) -> None:
    tables = []
    for seed in (1, 2):
        own = dataclasses.replace(config, output_dir=config.output_dir / str(seed))  # type: ignore[operator]
        knowledge = make_knowledge(tiny_dataset, seed=seed, name=f"knowledge{seed}")
        make_soft_targets(own, tiny_dataset, knowledge, Accelerator(cpu=True))
        assert own.output_dir is not None
        for arch in ("gru", "transformer"):
            (folder,) = (own.output_dir / "auxiliary-teachers").glob(f"{arch}-*")
            tables.append(Student.from_pretrained(folder).state_dict())
    for first, second in zip(tables[:2], tables[2:], strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"kd_weight": 0.25}, ["gru distilled"]),
        ({"temperature": 2.0}, ["gru distilled"]),
        ({"item_table": "plain"}, [*AUXILIARY, "gru distilled"]),
        ({"teacher_weight": 0.25}, ["gru distilled"]),
        ({"top_k": 3}, ["gru distilled"]),
        ({"seed": 1}, [*AUXILIARY, "gru distilled"]),
        ({"cold_item_scale": 1.0}, ["gru distilled"]),
        ({"dropout": 0.1}, [*AUXILIARY, "gru distilled"]),
        ({"num_epochs": 2}, [*AUXILIARY, "gru distilled"]),
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


def test_auxiliary_teachers_of_other_flags_stay_for_who_comes_back_to_them(
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


def test_another_teacher_trains_the_student_again_but_not_the_auxiliary_ones(
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
    assert len(list((config.output_dir / "soft-targets").iterdir())) == 2


# The flags.


def test_flags_that_are_given_go_before_the_rules(tiny_dataset: SequenceDataset) -> None:
    given = {"num_epochs": 7, "batch_size": 5, "learning_rate": 0.5, "num_negatives": 3}
    found = scheduled(DistillConfig(**given), tiny_dataset)
    assert {name: getattr(found, name) for name in given} == given


def test_a_control_is_never_trained_for_less_than_the_student_beside_it(
    tiny_dataset: SequenceDataset, make_knowledge: MakeKnowledge
) -> None:
    """Few events: 12 epochs for a fused GRU if it has to be quick, 24 for all others anyway."""
    knowledge = make_knowledge(tiny_dataset)
    epochs = {
        (budget, arch): [
            flags_of(arch, DistillConfig(budget=budget), tiny_dataset, known).num_epochs
            for known in (knowledge, None)
        ]
        for budget in ("quick", "best")
        for arch in AUXILIARY_ARCHS
    }
    assert epochs.pop(("quick", "gru")) == [12, 24]
    assert set(map(tuple, epochs.values())) == {(24, 24)}
    assert scheduled(DistillConfig(device="cpu"), tiny_dataset).budget == "quick"


@pytest.mark.parametrize("name", ["batch_size", "hidden_dim", "learning_rate"])
def test_0_no_longer_stands_for_what_is_left_to_the_rules(name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} 0 is not above 0"):
        DistillConfig(**{name: 0})  # type: ignore[arg-type]


def test_what_is_left_to_the_rules_is_put_into_the_recipe(
    config: DistillConfig, tiny_dataset: SequenceDataset
) -> None:
    # Forty users with 1 to 18 training events and thirty items: small in every respect.
    ruled = dataclasses.replace(config, batch_size=None)
    train("gru", ruled, tiny_dataset, None)
    assert config.output_dir is not None
    recipe = read_json(config.output_dir / "students" / "gru" / "control" / "recipe.json")
    assert (recipe["batch_size"], recipe["num_negatives"], recipe["num_epochs"]) == (32, 0, 1)
    assert recipe["learning_rate"] == pytest.approx(4e-3 / 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"kd_weight": 1.5}, "--kd-weight 1.5"),
        ({"teacher_weight": -0.1}, "--teacher-weight -0.1"),
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"cold_item_scale": -0.5}, "--cold-item-scale -0.5"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillConfig(**flags)
