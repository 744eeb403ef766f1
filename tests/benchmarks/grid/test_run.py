"""Runs of the accuracy grid: what is finished stays, and each is what it says."""

import dataclasses
import math
import os
import shutil
from pathlib import Path
from typing import Any

import seqrec.training
from seqrec import schedule
from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import read_json, sha256_file
from seqrec.histories import pad_left
from seqrec.metrics import NOT_RANKED, Evaluation

import numpy as np
import pytest
import torch

from benchmarks.accuracy import AccuracyConfig, run
from benchmarks.grid import run as runs
from benchmarks.grid import workspace
from benchmarks.grid.run import average, compute_run, load_ranks, read_finished, save_ranks
from benchmarks.grid.variants import VARIANTS, RunKey, plan
from benchmarks.grid.workspace import (
    Workspace,
    run_folder,
    share_soft_targets,
    student_folder,
)
from benchmarks.report.schema import AccuracyResults, RunResult
from export.recommender import open_session
from student import training
from student.model import Student

pytestmark = pytest.mark.slow  # a whole grid is trained first


def end_process(*_: Any) -> None:
    os._exit(9)


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("computed again")


def finished(key: RunKey, space: Workspace) -> RunResult:
    result = read_finished(key, space)
    assert result is not None
    return result


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that gets the folder of every student that is trained."""
    folders: list[Path] = []
    train = runs.distil

    def counting(*arguments: Any) -> Student:
        folders.append(arguments[4])
        return train(*arguments)

    monkeypatch.setattr(runs, "distil", counting)
    return folders


def die_after_the_first_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    save = seqrec.training._save_checkpoint

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(seqrec.training, "_save_checkpoint", save_and_die)


# --- What is finished stays -----------------------------------------------------------------------


def test_a_finished_grid_is_not_computed_again(
    config: AccuracyConfig, grid: AccuracyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a report without training shows what is finished."""
    files = sorted((config.output_dir / "tiny").glob("seed*/cells/*/*"))
    before = {file: file.stat().st_mtime_ns for file in files}
    monkeypatch.setattr(runs, "COMPUTE", dict.fromkeys(runs.COMPUTE, refuse))
    monkeypatch.setattr(workspace.subprocess, "run", refuse)
    (again,) = run(dataclasses.replace(config, teacher_flags=""), "again")
    assert again.rows == grid.rows
    assert {file: file.stat().st_mtime_ns for file in files} == before
    more = dataclasses.replace(config, seeds=(0, 1, 7), train=False, variants=("control",))
    (report,) = run(more, "report")
    assert {row.seeds for row in report.rows if row.variant in ("control", "distilled")} == {(0, 1)}


def test_a_changed_recipe_is_computed_beside_the_old_one(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = count_trainings(monkeypatch)
    control, distilled = RunKey("control", "gru"), RunKey("distilled", "gru")
    old = run_folder(distilled, space)
    changed = dataclasses.replace(VARIANTS["distilled"], overrides={"kd_weight": 0.25})
    monkeypatch.setitem(VARIANTS, "distilled", changed)
    for key in (control, distilled):
        compute_run(key, space)
    new = run_folder(distilled, space)
    assert trained == [new / "students" / "gru" / "distilled"]
    assert old != new
    assert (old / "cell.json").is_file()
    assert finished(distilled, space).recipe["student"]["kd_weight"] == 0.25
    shutil.rmtree(new)


def test_a_changed_rule_of_the_schedule_changes_the_recipe_of_what_it_is_left_to(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruled = [RunKey("control", "gru"), RunKey("distilled-int8", "gru")]
    fixed = RunKey("all-items", "gru")  # names its negatives itself
    before = {key: run_folder(key, space) for key in (*ruled, fixed)}
    changed = dataclasses.replace(VARIANTS["control"], description="Other.")
    monkeypatch.setitem(VARIANTS, "control", changed)  # no recipe says how it is described
    assert {key: run_folder(key, space) for key in before} == before
    monkeypatch.setattr(schedule, "num_negatives", lambda dataset: 7)
    for key in ruled:
        assert run_folder(key, space) != before[key]
    assert run_folder(fixed, space) == before[fixed]


def test_the_control_does_not_depend_on_the_teacher(space: Workspace, elsewhere: Workspace) -> None:
    key = RunKey("control", "gru")
    assert run_folder(key, space).name == run_folder(key, elsewhere).name


def test_a_killed_run_goes_on_from_its_checkpoint(
    space: Workspace, elsewhere: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, save, saved = RunKey("control", "gru"), seqrec.training._save_checkpoint, []

    def save_and_count(*arguments: Any) -> None:
        saved.append(arguments[1].epoch)
        save(*arguments)

    die_after_the_first_checkpoint(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        compute_run(key, elsewhere)
    assert read_finished(key, elsewhere) is None
    monkeypatch.setattr(seqrec.training, "_save_checkpoint", save_and_count)
    resumed = compute_run(key, elsewhere)
    assert saved == [2, 3, 1]  # of three epochs, and one of the refit
    unbroken = finished(key, space)
    assert resumed.file_sha256 == unbroken.file_sha256
    assert (resumed.interrupted, unbroken.interrupted) == (True, False)


def test_runs_in_processes_of_their_own_give_the_same_results(
    config: AccuracyConfig, spaces: list[Workspace], tmp_path: Path
) -> None:
    two = dataclasses.replace(config, output_dir=tmp_path, variants=("control",), jobs=2)
    (results,) = run(two, "two at once")
    (row,) = results.rows
    before = [finished(RunKey("control", "gru"), space) for space in spaces]
    assert [one.file_sha256 for one in row.runs] == [one.file_sha256 for one in before]


def test_students_that_start_from_an_earlier_run_are_refused(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    """Their runs would be taken for those of students that do not."""
    space = Workspace.open(tiny_dataset.path, tmp_path, 0, "--init-from runs/mine", "cpu")
    with pytest.raises(ModelError, match="--student-flags cannot hold --init-from"):
        compute_run(RunKey("control", "gru"), space)


def test_a_run_without_its_source_names_the_command(elsewhere: Workspace) -> None:
    message = r"is made from gru control, .*--seeds 0 --variants control"
    with pytest.raises(ModelError, match=message):
        compute_run(RunKey("control-before-refit", "gru"), elsewhere)


def test_a_run_that_fails_in_its_process_is_one_line_with_its_reason(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    space = Workspace.open(tiny_dataset.path, tmp_path, 0, "--num-heads 3", "cpu")
    with pytest.raises(ModelError, match=r"^transformer control failed: .*num_heads 3.*seed0.*log"):
        runs.run_grid([(RunKey("control", "transformer"), space)], jobs=2)


def test_a_run_whose_process_is_killed_is_one_line(
    elsewhere: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "compute_logged", end_process)
    with pytest.raises(ModelError, match="was ended, .* with fewer than --jobs 2"):
        runs.run_grid([(RunKey("control", "gru"), elsewhere)], jobs=2)


def test_ranks_survive_the_disk(tmp_path: Path) -> None:
    before = Evaluation(np.array([1, NOT_RANKED]), np.array([7, 2]))
    save_ranks(tmp_path / "ranks.safetensors", before)
    after = load_ranks(tmp_path / "ranks.safetensors")
    assert after.excluding_seen.tolist() == [1, NOT_RANKED]
    assert after.keeping_seen.tolist() == [7, 2]


# --- What runs share ------------------------------------------------------------------------------


def test_a_seed_has_everything_of_its_own(spaces: list[Workspace]) -> None:
    seeds, weights = [], []
    for space in spaces:
        files = [space.root / "teacher" / "metrics.json"]
        files += (space.root / "auxiliary-teachers").glob("*/recipe.json")
        recipes = [read_json(file) for file in files]
        seeds += [recipe.get("recipe", recipe)["seed"] for recipe in recipes]
        trained = [space.root / "teacher" / "head.safetensors"]
        trained += space.root.glob("**/model.safetensors")
        weights.append({sha256_file(file) for file in trained})
    # The teacher's, and those of two auxiliary teachers of another seed than any student's.
    assert seeds == [0, 1000, 1000, 1, 1001, 1001]
    assert len(weights[0]) > 3  # the teacher, two auxiliary teachers, students
    assert weights[0].isdisjoint(weights[1])


def test_what_is_shared_is_there_before_the_first_run_begins(
    config: AccuracyConfig, beside: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    fit = training.fit

    def counting(*arguments: Any, **named: Any) -> Any:
        made.append(named["label"])
        return fit(*arguments, **named)

    class Begun(Exception):
        pass

    def begin(*_: Any) -> None:
        made.append("first run")
        raise Begun

    monkeypatch.setattr(training, "fit", counting)
    monkeypatch.setattr(runs, "compute_run", begin)
    variants = ("text", "distilled", "teacher-alone", "text-and-auxiliaries", "kd-weight-0.25")
    output_dir = beside.results.parent
    start = dataclasses.replace(config, output_dir=output_dir, variants=variants, teacher_flags="")
    with pytest.raises(Begun):
        run(start, "")
    auxiliaries = ["transformer auxiliary teacher", "gru auxiliary teacher"]
    assert made == [f"{a}{part}" for a in auxiliaries for part in ("", " refit")] + ["first run"]
    folders = [path for path in (beside.root / "soft-targets").iterdir() if path.is_dir()]
    recipes = [read_json(folder / "meta.json")["recipe"] for folder in folders]
    # The fourth variant learns otherwise from the same soft targets as the first.
    asked = {str(recipe["teacher_weight"]) for recipe in recipes if not recipe["refit"]}
    assert asked == {"0.0", "1.0", "None"}
    # Each once more for the refit, with the weight that validation has chosen by then.
    assert sorted(recipe["refit"] for recipe in recipes) == [False] * 3 + [True] * (
        len(recipes) - 3
    )
    assert len(recipes) > 3


@pytest.fixture
def beside(space: Workspace, tmp_path: Path) -> Workspace:
    """A folder where nothing but a teacher is finished."""
    for part in ("teacher", "knowledge"):
        shutil.copytree(space.root / part, tmp_path / "tiny" / "seed0" / part)
    return dataclasses.replace(space, root=tmp_path / "tiny" / "seed0")


@pytest.mark.parametrize("variants", [("control",), ("text",)])
def test_variants_without_soft_targets_share_nothing(
    beside: Workspace, variants: tuple[str, ...]
) -> None:
    (keys, _) = plan(variants, ["gru"])
    runs.share_before(keys, beside)
    assert {path.name for path in beside.root.iterdir()} == {"teacher", "knowledge"}


def test_nothing_is_made_for_runs_that_are_finished(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "share_soft_targets", refuse)
    runs.share_before([RunKey("distilled", "gru")], space)


def test_the_cost_of_what_is_shared_is_kept_and_told(
    space: Workspace, grid: AccuracyResults
) -> None:
    told = {row.variant: row.shared_times for row in grid.rows}
    auxiliaries = {"gru auxiliary teacher", "transformer auxiliary teacher"}
    assert told["distilled"].keys() == {*auxiliaries, "soft targets"}
    for times in told["distilled"].values():
        assert times.cpu_s > 0
        assert times.wall_s > 0
    assert not any(times for variant, times in told.items() if variant != "distilled")
    # It is the cost of making them, not of finding them there.
    assert share_soft_targets(RunKey("distilled", "gru"), space) == told["distilled"]
    alone = share_soft_targets(RunKey("teacher-alone", "gru"), space)
    assert alone.keys() == {"soft targets"}


def test_the_cost_of_an_auxiliary_teacher_whose_training_was_killed_is_not_known(
    beside: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        die_after_the_first_checkpoint(patch)
        with pytest.raises(KeyboardInterrupt):
            share_soft_targets(RunKey("distilled", "gru"), beside)
    costs = share_soft_targets(RunKey("distilled", "gru"), beside)
    # The Transformer's was broken off.
    assert costs.keys() == {"gru auxiliary teacher", "soft targets"}


# --- Ensembles, the teacher and int8 --------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_log_probabilities() -> None:
    def system(*probabilities: float) -> Any:
        scores = torch.tensor([[99.0, *(math.log(p) + 5 for p in probabilities)]])
        return lambda items: scores, 1

    mean = average([system(0.8, 0.1, 0.1), system(0.2, 0.4, 0.4)])(torch.tensor([[1]]))
    expected = [math.sqrt(0.8 * 0.2), math.sqrt(0.1 * 0.4), math.sqrt(0.1 * 0.4)]
    assert mean[0, 1:].exp().tolist() == pytest.approx(expected)


def direct_ranks(space: Workspace, *systems: Any) -> list[int]:
    """Average and rank user by user, seen items left out, in plain Python."""
    targets = space.dataset.eval_targets("test")
    ranks = []
    for user, position, target in zip(
        targets.users, targets.positions, targets.items.tolist(), strict=True
    ):
        history = space.dataset.sequence(user)[:position]
        total = np.zeros(space.dataset.num_items)
        for system, max_len in systems:
            with torch.inference_mode():
                scores = system(torch.from_numpy(pad_left([history], max_len)))[0, 1:]
            total += scores.double().log_softmax(dim=0).numpy() / len(systems)
        left = [i for i in range(1, len(total) + 1) if i not in set(history.tolist())]
        order = sorted(left, key=lambda item: (-total[item - 1], item))
        ranks.append(order.index(target) + 1 if target in order else NOT_RANKED)
    return ranks


def stored_ranks(key: RunKey, space: Workspace) -> Any:
    return load_ranks(run_folder(key, space) / "ranks.safetensors").excluding_seen


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        (RunKey("control+teacher", "gru"), ("control", "teacher")),
        (RunKey("teacher"), ("teacher",)),
    ],
    ids=str,
)
def test_the_ranks_are_those_of_a_direct_computation(
    space: Workspace, key: RunKey, parts: tuple[str, ...]
) -> None:
    """The control and the teacher are shown 8 and 6 items."""
    from teacher.model import Teacher

    systems: list[tuple[Any, int]] = []
    for part in parts:
        if part == "control":
            folder = student_folder(RunKey("control", "gru"), space)
            systems.append((Student.from_pretrained(folder), 8))
        else:
            systems.append((Teacher.from_pretrained(space.root / "teacher"), 6))
    assert stored_ranks(key, space).tolist() == direct_ranks(space, *systems)


def test_a_student_before_its_refit_is_judged_as_it_was_selected(space: Workspace) -> None:
    trained = student_folder(RunKey("distilled", "gru"), space)
    selected = Student.from_pretrained(trained / "selection")
    ranks = stored_ranks(RunKey("distilled-before-refit", "gru"), space)
    assert ranks.tolist() == direct_ranks(space, (selected, 8))
    assert ranks.tolist() != stored_ranks(RunKey("distilled", "gru"), space).tolist()


def test_the_int8_run_comes_from_the_very_file(space: Workspace) -> None:
    key = RunKey("distilled-int8", "gru")
    result = finished(key, space)
    file = space.results / str(result.file)
    assert result.file_sha256 == sha256_file(file)
    assert result.file_bytes == file.stat().st_size
    made_from = read_json(file.parent / "config.json")
    trained = student_folder(RunKey("distilled", "gru"), space) / "model.safetensors"
    assert (made_from["precision"], made_from["student_sha256"]) == ("int8", sha256_file(trained))
    session, targets = open_session(file, num_threads=1), space.dataset.eval_targets("test")
    expected = []
    for user, position in zip(targets.users, targets.positions, strict=True):
        history = space.dataset.sequence(user)[:position]
        feeds = {"items": pad_left([history], 8), "excluded": pad_left([history])}
        top = session.run(["top_items"], {**feeds, "k": np.array([10])})[0][0].tolist()
        target = int(space.dataset.sequence(user)[position])
        expected.append(top.index(target) + 1 if target in top else 11)
    assert np.minimum(stored_ranks(key, space), 11).tolist() == expected
