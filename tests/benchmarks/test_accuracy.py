"""The accuracy benchmark: what is finished stays, what is compared is compared fairly."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import seqrec.training
from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError
from seqrec.files import read_json, sha256_file
from seqrec.metrics import NOT_RANKED, Evaluation, pad_left, relative_gain

import numpy as np
import pytest
import torch

from benchmarks import accuracy
from benchmarks.accuracy import AccuracyConfig, plan, run, seconds_left
from benchmarks.grid import run as cells
from benchmarks.grid.ensembles import fuse
from benchmarks.grid.run import (
    Cell,
    Workplace,
    cell_folder,
    load_ranks,
    open_workplace,
    read_finished,
    run_cell,
    save_ranks,
    student_folder,
)
from benchmarks.grid.summary import fusion_pairs, gain, mean_times, summarize_row
from benchmarks.grid.variants import ROWS, needs_teacher, select_rows
from export.recommender import open_session
from student import config as student_flags
from student import training
from student.config import DistillConfig
from student.model import Student

ROWS_HERE = (
    *("popularity", "teacher", "control", "distilled", "distilled-int8"),
    *("control+control", "control+teacher"),
)
STUDENT_FLAGS = (
    "--num-epochs 3 --evaluate-every 1 --hidden-dim 8 --batch-size 16 --max-len 8 --patience 0"
)


def ranks(*values: int) -> Evaluation:
    """Return the same ranks under both protocols."""
    return Evaluation(np.array(values), np.array(values))


@pytest.fixture(scope="module")
def config(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory
) -> AccuracyConfig:
    teacher = f"--model {tiny_llm} --num-layers 1 --num-epochs 1 --item-dim 8 --max-len 6"
    return AccuracyConfig(
        data_dir=(tiny_dataset.path,),
        output_dir=tmp_path_factory.mktemp("accuracy"),
        seeds=(0, 1),
        arch="gru",
        rows=ROWS_HERE,
        student_flags=STUDENT_FLAGS,
        teacher_flags=teacher,
    )


@pytest.fixture(scope="module")
def results(config: AccuracyConfig) -> dict[str, Any]:
    """What a whole small grid wrote."""
    run(config, "python -m benchmarks.accuracy")
    return read_json(config.output_dir / "tiny" / "accuracy.json")


@pytest.fixture
def place(config: AccuracyConfig, results: dict[str, Any]) -> Workplace:
    return open_workplace(
        config.data_dir[0], config.output_dir, STUDENT_FLAGS, "cpu", with_teacher=True
    )


@pytest.fixture
def elsewhere(tiny_dataset: SequenceDataset, tmp_path: Path) -> Workplace:
    """A place where nothing is finished, without a teacher."""
    return open_workplace(tiny_dataset.path, tmp_path, STUDENT_FLAGS, "cpu", with_teacher=False)


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("computed again")


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that gets the folder of every student that is trained."""
    folders: list[Path] = []
    train = cells.distil

    def counting(*arguments: Any) -> Student:
        folders.append(arguments[4])
        return train(*arguments)

    monkeypatch.setattr(cells, "distil", counting)
    return folders


# What is finished stays.


def test_a_finished_grid_is_not_computed_again(
    config: AccuracyConfig, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted((config.output_dir / "tiny" / "cells").glob("*/*"))
    before = {file: file.stat().st_mtime_ns for file in files}
    monkeypatch.setattr(cells, "COMPUTE", dict.fromkeys(cells.COMPUTE, refuse))
    monkeypatch.setattr(accuracy.subprocess, "run", refuse)
    (again,) = run(dataclasses.replace(config, teacher_flags=""), "again")
    assert again["rows"] == results["rows"]
    assert {file: file.stat().st_mtime_ns for file in files} == before


def test_a_report_without_training_shows_what_is_finished(
    config: AccuracyConfig, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "COMPUTE", dict.fromkeys(cells.COMPUTE, refuse))
    more = dataclasses.replace(config, seeds=(0, 1, 7), train=False, rows=("control",))
    (report,) = run(more, "report")
    seeds = {row["row"]: row["seeds"] for row in report["rows"]}
    assert seeds["control"] == seeds["distilled"] == [0, 1]


def test_a_changed_recipe_is_computed_beside_the_old_one(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = count_trainings(monkeypatch)
    control, distilled = Cell("control", "gru", 0), Cell("distilled", "gru", 0)
    old = cell_folder(distilled, place)
    changed = dataclasses.replace(ROWS["distilled"], overrides={"kd_weight": 0.25})
    monkeypatch.setitem(ROWS, "distilled", changed)
    for cell in (control, distilled):
        run_cell(cell, place)
    new = cell_folder(distilled, place)
    assert trained == [new / "students" / "gru" / "distilled"]
    assert old != new
    assert (old / "cell.json").is_file()
    assert read_json(new / "cell.json")["recipe"]["student"]["kd_weight"] == 0.25
    shutil.rmtree(new)


def test_a_changed_rule_of_the_schedule_changes_the_recipe_of_what_it_is_left_to(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruled = [Cell("control", "gru", 0), Cell("distilled-int8", "gru", 0)]
    own = Cell("all-items", "gru", 0)  # names its negatives itself
    before = {cell: cell_folder(cell, place) for cell in (*ruled, own)}
    monkeypatch.setattr(student_flags, "num_negatives", lambda dataset: 7)
    for cell in ruled:
        assert cell_folder(cell, place) != before[cell]
    assert cell_folder(own, place) == before[own]


def test_another_sentence_about_a_row_does_not_change_its_recipe(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell("distilled", "gru", 0)
    before = cell_folder(cell, place)
    monkeypatch.setitem(ROWS, "distilled", dataclasses.replace(ROWS["distilled"], about="Other."))
    assert cell_folder(cell, place) == before


def test_the_control_does_not_depend_on_the_teacher(place: Workplace, elsewhere: Workplace) -> None:
    cell = Cell("control", "gru", 0)
    assert cell_folder(cell, place).name == cell_folder(cell, elsewhere).name


def test_a_killed_cell_goes_on_from_its_checkpoint(
    place: Workplace, elsewhere: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, save, saved = Cell("control", "gru", 0), seqrec.training._save_checkpoint, []

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    def save_and_count(*arguments: Any) -> None:
        saved.append(arguments[1].epoch)
        save(*arguments)

    monkeypatch.setattr(seqrec.training, "_save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, elsewhere)
    assert read_finished(cell, elsewhere) is None
    monkeypatch.setattr(seqrec.training, "_save_checkpoint", save_and_count)
    resumed = run_cell(cell, elsewhere)
    assert saved == [2, 3, 1]  # of three epochs, and one of the refit
    unbroken = read_finished(cell, place)
    assert unbroken is not None
    assert resumed["file_sha256"] == unbroken["file_sha256"]
    assert (resumed["interrupted"], unbroken["interrupted"]) == (True, False)


def test_cells_in_processes_of_their_own_give_the_same_results(
    config: AccuracyConfig, place: Workplace, tmp_path: Path
) -> None:
    two = dataclasses.replace(config, output_dir=tmp_path, rows=("control",), jobs=2)
    (found,) = run(two, "two at once")
    (row,) = found["rows"]
    for cell in row["cells"]:
        before = read_finished(Cell("control", "gru", cell["seed"]), place)
        assert before is not None
        assert cell["file_sha256"] == before["file_sha256"]


# What cells share.


def test_what_is_shared_is_there_before_the_first_cell_begins(
    config: AccuracyConfig, place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    fit = training.fit

    def counting(*arguments: Any, **named: Any) -> Any:
        made.append(named["label"])
        return fit(*arguments, **named)

    class Begun(Exception):
        pass

    def begin(work: Any) -> None:
        made.append("first cell")
        raise Begun

    monkeypatch.setattr(training, "fit", counting)
    monkeypatch.setattr(accuracy, "compute_here", begin)
    for part in ("teacher", "knowledge"):
        shutil.copytree(place.root / part, tmp_path / "tiny" / part)
    rows = ("text", "distilled", "teacher-alone", "text-and-auxiliaries", "kd-weight-0.25")
    start = dataclasses.replace(config, output_dir=tmp_path, rows=rows, teacher_flags="")
    with pytest.raises(Begun):
        run(start, "")
    auxiliaries = ["transformer auxiliary teacher", "gru auxiliary teacher"]
    assert made == [f"{a}{part}" for a in auxiliaries for part in ("", " refit")] + ["first cell"]
    folders = [path for path in (tmp_path / "tiny" / "soft-targets").iterdir() if path.is_dir()]
    recipes = [read_json(folder / "meta.json")["recipe"] for folder in folders]
    # The fourth row learns otherwise from the same soft targets as the first.
    asked = {str(recipe["teacher_weight"]) for recipe in recipes if not recipe["refit"]}
    assert asked == {"0.0", "1.0", "None"}
    # Each once more for the refit, with the weight that validation has chosen by then.
    assert sorted(recipe["refit"] for recipe in recipes) == [False] * 3 + [True] * (
        len(recipes) - 3
    )
    assert len(recipes) > 3


@pytest.mark.parametrize("rows", [("control",), ("text",)])
def test_rows_without_soft_targets_share_nothing(
    config: AccuracyConfig, place: Workplace, rows: tuple[str, ...], tmp_path: Path
) -> None:
    elsewhere = dataclasses.replace(place, root=tmp_path)
    (cells, _) = plan(rows, ["gru"], [0])
    accuracy.share_all_soft_targets(cells, elsewhere)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_for_cells_that_are_finished(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "share_soft_targets", refuse)
    accuracy.share_all_soft_targets([Cell("distilled", "gru", seed) for seed in (0, 1)], place)


def test_the_cost_of_what_is_shared_is_kept_and_told(
    place: Workplace, results: dict[str, Any]
) -> None:
    told = {row["row"]: row["shared_times"] for row in results["rows"]}
    auxiliaries = {"gru auxiliary teacher", "transformer auxiliary teacher"}
    assert told["distilled"].keys() == {*auxiliaries, "soft targets"}
    for times in told["distilled"].values():
        assert times["cpu_s"] > 0
        assert times["wall_s"] > 0
    assert not any(times for row, times in told.items() if row != "distilled")
    # It is the cost of making them, not of finding them there, whoever asks and when.
    for seed in (0, 1):
        assert cells.share_soft_targets(Cell("distilled", "gru", seed), place) == told["distilled"]
    alone = cells.share_soft_targets(Cell("teacher-alone", "gru", 0), place)
    assert alone.keys() == {"soft targets"}


def test_the_cost_of_an_auxiliary_teacher_whose_training_was_killed_is_not_known(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, save = dataclasses.replace(place, root=tmp_path), seqrec.training._save_checkpoint

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(seqrec.training, "_save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            cells.share_soft_targets(Cell("distilled", "gru", 0), elsewhere)
    found = cells.share_soft_targets(Cell("distilled", "gru", 0), elsewhere)
    # The Transformer's was broken off.
    assert found.keys() == {"gru auxiliary teacher", "soft targets"}


def test_a_cell_that_fails_in_its_process_is_one_line_with_its_reason(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    place = open_workplace(tiny_dataset.path, tmp_path, "--num-heads 3", "cpu", with_teacher=False)
    with pytest.raises(ModelError, match=r"^transformer control seed 0 failed: .*num_heads 3.*log"):
        accuracy.compute_in_subprocess((place, Cell("control", "transformer", 0)))


def test_a_cell_whose_grid_has_ended_does_not_begin(
    elsewhere: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cells.END_WITH_PARENT, "-1")  # no process has that number
    monkeypatch.setattr(cells, "COMPUTE", dict.fromkeys(cells.COMPUTE, refuse))
    monkeypatch.setattr(cells.ctypes, "CDLL", lambda name: SimpleNamespace(prctl=lambda *_: 0))
    monkeypatch.setattr(cells.sys, "platform", "linux")
    words = cells.arguments(Cell("control", "gru", 0), elsewhere)[2:]
    with pytest.raises(SystemExit):
        cells.main(words)
    assert not elsewhere.root.exists()


# What the figures are.


@pytest.mark.parametrize(
    ("values", "baseline", "expected"),
    [
        ([0.2, 0.6], [0.1, 0.3], (100.0, 100.0, 100.0)),  # paired: each user's doubles
        # A draw takes user 0 twice (+200 %), both (+100 %), or user 1 twice (0 %).
        ([0.3, 0.1], [0.1, 0.1], (100.0, 0.0, 200.0)),
        ([0.1, 0.1], [0.2, 0.2], (-50.0, -50.0, -50.0)),
    ],
)
def test_a_relative_gain_is_paired_over_users(
    values: list[float], baseline: list[float], expected: tuple[float, float, float]
) -> None:
    assert relative_gain(np.array(values), np.array(baseline)) == pytest.approx(expected)


def test_there_is_no_gain_over_next_to_nothing() -> None:
    assert relative_gain(np.array([1.0, 1.0]), np.array([0.0, 1.0])) is None


def test_a_row_is_the_mean_of_its_seeds_with_an_interval_over_users() -> None:
    found = summarize_row({0: ranks(1, 11), 1: ranks(3, 1)})["seen_kept"]
    # NDCG@10 by seed: (1 + 0) / 2 and (0.5 + 1) / 2; by user: 0.75 and 0.5
    expected = {"mean": 0.625, "low": 0.5, "high": 0.75, "seed_min": 0.5, "seed_max": 0.75}
    assert found["ndcg@10"] == pytest.approx(expected)
    assert found["hr@10"]["mean"] == 0.75
    assert found["mrr@10"]["mean"] == pytest.approx((1 + 0 + 1 / 3 + 1) / 4)


def test_the_protocols_are_kept_apart() -> None:
    found = summarize_row({None: Evaluation(np.array([1]), np.array([3]))})
    assert found["seen_excluded"]["ndcg@10"]["mean"] == 1.0
    assert found["seen_kept"]["ndcg@10"]["mean"] == 0.5


def test_rows_are_compared_over_the_seeds_that_both_have() -> None:
    own, other = {0: ranks(1), 5: ranks(11)}, {0: ranks(3), 1: ranks(1)}
    found = gain(own, other, exclude_seen=True)
    assert found == pytest.approx({"mean": 100.0, "low": 100.0, "high": 100.0})  # 1 over 0.5
    assert gain({5: ranks(1)}, other, exclude_seen=True) is None


def test_a_row_without_seeds_is_compared_with_all_seeds_of_the_other() -> None:
    found = gain({None: ranks(3)}, {0: ranks(1), 1: ranks(11)}, exclude_seen=True)
    assert found == pytest.approx({"mean": 0.0, "low": 0.0, "high": 0.0})  # 0.5 over (1 + 0) / 2


def test_a_row_fused_of_two_seeds_is_compared_with_the_mean_of_both() -> None:
    fused, controls = {0: ranks(3)}, {0: ranks(1), 1: ranks(11)}  # 0.5 over (1 + 0) / 2
    found = gain(fused, controls, exclude_seen=True, seeds_of={0: (0, 1)})
    assert found == pytest.approx({"mean": 0.0, "low": 0.0, "high": 0.0})
    assert gain(fused, {0: ranks(1)}, exclude_seen=True, seeds_of={0: (0, 1)}) is None


def test_interrupted_cells_are_left_out_of_the_cost() -> None:
    def cell(cpu_s: float, *, interrupted: bool) -> dict[str, Any]:
        times = {"train": {"wall_s": 2 * cpu_s, "cpu_s": cpu_s}}
        return {"interrupted": interrupted, "times": times}

    made = [cell(10, interrupted=False), cell(20, interrupted=False), cell(1, interrupted=True)]
    assert mean_times(made) == {"train": {"wall_s": 30.0, "cpu_s": 15.0, "num_cells": 2}}
    assert mean_times(made[2:]) == {}


def test_ranks_survive_the_disk(tmp_path: Path) -> None:
    before = Evaluation(np.array([1, NOT_RANKED]), np.array([7, 2]))
    save_ranks(tmp_path / "ranks.safetensors", before)
    after = load_ranks(tmp_path / "ranks.safetensors")
    assert after.excluding_seen.tolist() == [1, NOT_RANKED]
    assert after.keeping_seen.tolist() == [7, 2]


def test_the_table_says_what_the_cells_ranks_say(place: Workplace, results: dict[str, Any]) -> None:
    (row,) = [row for row in results["rows"] if row["row"] == "control"]
    values = []
    for seed in (0, 1):
        folder = cell_folder(Cell("control", "gru", seed), place)
        for rank in load_ranks(folder / "ranks.safetensors").excluding_seen:
            values.append(1 / math.log2(rank + 1) if rank <= 10 else 0.0)
    assert row["metrics"]["seen_excluded"]["ndcg@10"]["mean"] == pytest.approx(np.mean(values))
    assert [row["row"] for row in results["rows"]] == list(ROWS_HERE)
    assert results["teacher"]["cpu_s"] > 0
    for row in results["rows"]:
        assert all(times["cpu_s"] > 0 for times in row["times"].values()), row["row"]


# Fusion and int8.


def test_a_fusion_is_the_mean_of_log_probabilities() -> None:
    def system(*probabilities: float) -> Any:
        scores = torch.tensor([[99.0, *(math.log(p) + 5 for p in probabilities)]])
        return lambda chosen, histories: scores

    fused = fuse([system(0.8, 0.1, 0.1), system(0.2, 0.4, 0.4)])(np.array([0]), [])
    expected = [math.sqrt(0.8 * 0.2), math.sqrt(0.1 * 0.4), math.sqrt(0.1 * 0.4)]
    assert fused[0, 1:].exp().tolist() == pytest.approx(expected)


def direct_ranks(place: Workplace, *systems: Any) -> list[int]:
    """Fuse and rank user by user, seen items left out, in plain Python."""
    targets = place.dataset.eval_targets("test")
    found = []
    for user, position, target in zip(
        targets.users, targets.positions, targets.items.tolist(), strict=True
    ):
        history = place.dataset.sequence(user)[:position]
        total = np.zeros(place.dataset.num_items)
        for system, max_len in systems:
            with torch.inference_mode():
                scores = system(torch.from_numpy(pad_left([history], max_len)))[0, 1:]
            total += scores.double().log_softmax(dim=0).numpy() / len(systems)
        left = [i for i in range(1, len(total) + 1) if i not in set(history.tolist())]
        order = sorted(left, key=lambda item: (-total[item - 1], item))
        found.append(order.index(target) + 1 if target in order else NOT_RANKED)
    return found


@pytest.mark.parametrize("partner", ["control", "teacher"])
def test_a_fused_row_is_what_a_direct_computation_gives(place: Workplace, partner: str) -> None:
    from teacher.model import Teacher

    def student(seed: int) -> tuple[Student, int]:
        return Student.from_pretrained(student_folder(Cell("control", "gru", seed), place)), 8

    if partner == "control":
        cell, other = Cell("control+control", "gru", 0, 1), student(1)
    else:
        teacher = Teacher.from_pretrained(place.root / "teacher")
        cell, other = Cell("control+teacher", "gru", 0), (teacher, 6)
    stored = load_ranks(cell_folder(cell, place) / "ranks.safetensors").excluding_seen
    assert stored.tolist() == direct_ranks(place, student(0), other)


def test_the_teachers_row_is_the_teacher(place: Workplace) -> None:
    from teacher.model import Teacher

    teacher = Teacher.from_pretrained(place.root / "teacher")
    stored = load_ranks(cell_folder(Cell("teacher"), place) / "ranks.safetensors").excluding_seen
    assert stored.tolist() == direct_ranks(place, (teacher, 6))


def test_the_int8_row_comes_from_the_very_file(place: Workplace) -> None:
    cell = Cell("distilled-int8", "gru", 1)
    about = read_finished(cell, place)
    assert about is not None
    file = place.root / about["file"]
    assert about["file_sha256"] == sha256_file(file)
    assert about["file_bytes"] == file.stat().st_size
    made_from = read_json(file.parent / "config.json")
    trained = student_folder(Cell("distilled", "gru", 1), place) / "model.safetensors"
    assert (made_from["precision"], made_from["student_sha256"]) == ("int8", sha256_file(trained))
    session, targets = open_session(file, num_threads=1), place.dataset.eval_targets("test")
    expected = []
    for user, position in zip(targets.users, targets.positions, strict=True):
        history = place.dataset.sequence(user)[:position]
        feeds = {"items": pad_left([history], 8), "excluded": pad_left([history])}
        top = session.run(["top_items"], {**feeds, "k": np.array([10])})[0][0].tolist()
        target = int(place.dataset.sequence(user)[position])
        expected.append(top.index(target) + 1 if target in top else 11)
    stored = load_ranks(cell_folder(cell, place) / "ranks.safetensors").excluding_seen
    assert np.minimum(stored, 11).tolist() == expected


# The plan.


def test_seeds_are_paired_in_a_ring() -> None:
    assert fusion_pairs([3, 5, 7]) == [(3, 5), (5, 7), (7, 3)]
    assert fusion_pairs([3, 5]) == [(3, 5)]  # (5, 3) is the same pair


def test_what_others_are_made_from_is_computed_first_and_seed_by_seed() -> None:
    rows = select_rows(["distilled-int8", "teacher", "control+control"])
    assert rows == ["teacher", "control", "distilled", "distilled-int8", "control+control"]
    first, second = plan(rows, ["gru"], [4, 2])
    assert [str(cell) for cell in first] == [
        "teacher",
        "gru control seed 4",
        "gru distilled seed 4",
        "gru control seed 2",
        "gru distilled seed 2",
    ]
    assert [str(cell) for cell in second] == [
        "gru distilled-int8 seed 4",
        "gru control+control seed 4 and 2",
        "gru distilled-int8 seed 2",
    ]


def test_the_time_left_is_that_of_the_cells_most_alike(elsewhere: Workplace) -> None:
    def work(row: str, seed: int = 0) -> tuple[Workplace, Cell]:
        return elsewhere, Cell(row, "gru", seed)

    finished = [(work("control"), 100.0), (work("control", 1), 200.0), (work("distilled"), 400.0)]
    assert seconds_left([work("control", 2)], finished, jobs=1) == 150.0
    assert seconds_left([work("control", 2), work("distilled", 1)], finished, jobs=2) == 275.0
    unlike = seconds_left([work("text")], finished, jobs=1)  # another student's row: of its kind
    assert unlike == pytest.approx(700 / 3)
    assert seconds_left([work("control")], [], jobs=1) is None


# The table of rows.


def test_each_ablation_changes_one_thing_of_distilled() -> None:
    for name in select_rows(["ablations"]):
        row = ROWS[name]
        if not row.ablation:
            continue
        assert (row.kind, row.taught) == ("student", True), name
        assert len(row.overrides) == 1, name
        for setting, value in row.overrides.items():
            assert value != getattr(DistillConfig(), setting), name


def test_the_rows_without_soft_targets_and_distilled_itself_are_what_they_say() -> None:
    # What is the language model's at all: its texts in the table, and its answers.
    without = {"item_table": "plain", "teacher_weight": 0.0}
    assert ROWS["no-language-model"].overrides == without
    assert ROWS["text"].overrides == {"kd_weight": 0.0}
    assert ROWS["text-and-auxiliaries"].overrides == {"teacher_weight": 0.0}
    assert ROWS["distilled"].overrides == {}
    names = ("no-language-model", "text", "text-and-auxiliaries", "distilled")
    assert not any(ROWS[name].ablation for name in names)


def test_the_rows_that_need_no_teacher_are_known() -> None:
    without = [name for name in ROWS if not needs_teacher(name)]
    assert without == ["popularity", "control", "control+control"]


# Refusals.


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rows": ("controll",)}, ModelError, "--rows controll: .*control, .*default, ablations"),
        (
            {"data_dir": (Path("nowhere"),), "rows": ("teacher",)},
            DataError,
            r"python -m seqrec\.prepare",
        ),
        ({"rows": ("control+control",), "seeds": (3,)}, ModelError, "--seeds 3 4, or leave"),
        ({"train": False, "rows": ("control",)}, ModelError, "leave out --no-train"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
) -> None:
    good = AccuracyConfig(data_dir=(tiny_dataset.path,), output_dir=tmp_path / "out")
    with pytest.raises(error, match=message):
        run(dataclasses.replace(good, **changes), "")
    assert not (tmp_path / "out").exists()


def test_two_data_sets_of_one_name_are_refused(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    shutil.copytree(tiny_dataset.path, tmp_path / "tiny")
    both = AccuracyConfig(data_dir=(tiny_dataset.path, tmp_path / "tiny"), rows=("control",))
    with pytest.raises(DataError, match="two data sets are in folders named tiny"):
        run(both, "")


def test_a_row_that_sets_what_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(ROWS["distilled"], overrides={"warmth": 1.0})
    monkeypatch.setitem(ROWS, "distilled", row)
    with pytest.raises(ModelError, match=r"row distilled sets warmth, .*benchmarks/rows\.py"):
        select_rows(["distilled-int8"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [({"jobs": 0}, "--jobs 0"), ({"seeds": (1, 1)}, "--seeds 1 1: one stands there twice")],
)
def test_flags_that_cannot_work_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AccuracyConfig(**flags)


def test_a_cell_without_its_source_names_the_command(elsewhere: Workplace) -> None:
    with pytest.raises(ModelError, match=r"is made from gru control seed 0, .*--row=control"):
        run_cell(Cell("control+control", "gru", 0, 1), elsewhere)


def test_the_json_is_plain(results: dict[str, Any]) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads(json.dumps(results), parse_constant=no_constant)
    assert results["dataset"]["fingerprint"]
    assert set(results["environment"]["versions"]) >= {"torch", "onnxruntime", "numpy"}
