"""The table of variants, and the plan of their runs."""

import dataclasses

import pytest

from benchmarks.grid.variants import VARIANTS, plan, select_variants
from student.config import DistillConfig


def test_each_ablation_changes_one_thing_of_distilled() -> None:
    for name in select_variants(["ablations"]):
        variant = VARIANTS[name]
        if not variant.ablation:
            continue
        assert (variant.kind, variant.taught) == ("student", True), name
        assert len(variant.overrides) == 1, name
        for setting, value in variant.overrides.items():
            assert value != getattr(DistillConfig(), setting), name


def test_the_variants_without_soft_targets_and_distilled_itself_are_what_they_say() -> None:
    # What is the language model's at all: its texts in the table, and its answers.
    without = {"item_table": "plain", "teacher_weight": 0.0}
    assert VARIANTS["no-language-model"].overrides == without
    assert VARIANTS["text"].overrides == {"kd_weight": 0.0}
    assert VARIANTS["text-and-auxiliaries"].overrides == {"teacher_weight": 0.0}
    assert VARIANTS["distilled"].overrides == {}
    names = ("no-language-model", "text", "text-and-auxiliaries", "distilled")
    assert not any(VARIANTS[name].ablation for name in names)


def test_the_variants_that_need_no_teacher_are_known() -> None:
    without = [name for name, variant in VARIANTS.items() if not variant.needs_teacher]
    assert without == ["popularity", "control", "control-before-refit"]


def test_a_variant_that_sets_what_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="warmth"):
        dataclasses.replace(VARIANTS["distilled"], overrides={"warmth": 1.0})


def test_what_others_are_made_from_is_computed_first_and_once() -> None:
    variants = select_variants(["distilled-int8", "control+teacher"])
    assert variants == ["teacher", "control", "distilled", "distilled-int8", "control+teacher"]
    first, second = plan(variants, ["gru", "transformer"])
    assert [str(key) for key in first] == [
        "teacher",
        "gru control",
        "gru distilled",
        "transformer control",
        "transformer distilled",
    ]
    assert [str(key) for key in second] == [
        "gru distilled-int8",
        "gru control+teacher",
        "transformer distilled-int8",
        "transformer control+teacher",
    ]
