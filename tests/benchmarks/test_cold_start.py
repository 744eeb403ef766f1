"""What the benchmark says of items that were held out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError
from seqrec.evaluation import evaluate
from seqrec.metrics import hit_rate, ndcg

import numpy as np
import pytest

from benchmarks import cold_start as cold
from benchmarks.cold_start import CHANCE, chance_values, make_row
from benchmarks.report.files import load
from benchmarks.report.schema import ColdResults
from student.model import Student
from teacher.model import Teacher


def test_groups_are_averaged_apart() -> None:
    values = {"hr@10": np.array([1.0, 0.0, 1.0, 1.0])}
    row = make_row(CHANCE, values, np.array([True, True, False, False]), exposure=0.0)
    assert row.cold["hr@10"] == 0.5
    assert row.warm == {"hr@10": 1.0, "hr@10_low": 1.0, "hr@10_high": 1.0}


def test_chance_is_the_mean_over_all_orders_of_the_candidates(
    tiny_cold: SequenceDataset,
) -> None:
    values = chance_values(tiny_cold)
    targets = tiny_cold.eval_targets("test")
    for row in (0, 17, len(targets.users) - 1):
        history = tiny_cold.sequence(targets.users[row])[: targets.positions[row]]
        candidates = 30 - len(set(history.tolist()))
        ranks = np.arange(1, candidates + 1)  # each once: every rank is equally likely
        assert values["hr@10"][row] == pytest.approx(hit_rate(ranks, 10).mean())
        assert values["ndcg@10"][row] == pytest.approx(ndcg(ranks, 10).mean())


@pytest.fixture(scope="module")
def results(tiny_cold_run: Path, tiny_cold: SequenceDataset) -> ColdResults:
    cold.main(["--data-dir", str(tiny_cold.path), "--output-dir", str(tiny_cold_run)])
    return load(ColdResults, tiny_cold_run / "cold.json")


def test_the_json_holds_what_the_schema_promises(
    results: ColdResults, tiny_cold: SequenceDataset
) -> None:
    targets = tiny_cold.eval_targets("test").items
    # Items with an event that is no test target, by the sequences themselves.
    before = [
        tiny_cold.sequence(user)[: split[2] if split[2] >= 0 else None]
        for user, split in enumerate(tiny_cold.split)
    ]
    taken = np.unique(np.concatenate(before))
    num_cold = int((~np.isin(targets, taken)).sum())
    assert (results.dataset.name, results.dataset.num_items) == ("tiny-cold", 30)
    assert results.dataset.fingerprint == tiny_cold.fingerprint
    assert results.dataset.protocol == "seen_excluded"
    assert (results.num_cold_items, results.num_untrained_items) == (6, 30 - len(taken))
    assert results.num_cold_targets == num_cold
    assert results.num_warm_targets == len(targets) - num_cold
    students = [
        (f"{arch} {role}", precision)
        for arch in ("gru", "transformer")
        for role, precision in (("control", "fp32"), ("distilled", "fp32"), ("distilled", "int8"))
    ]
    assert [(row.system, row.precision) for row in results.rows] == [
        ("chance", ""),
        ("popularity", "fp32"),
        ("teacher", "nf4"),
        *students,
    ]


@pytest.mark.parametrize("system", ["teacher", "gru distilled"])
def test_the_figures_are_those_of_the_pytorch_model(
    results: ColdResults, tiny_cold_run: Path, tiny_cold: SequenceDataset, system: str
) -> None:
    if system == "teacher":
        model: Any = Teacher.from_pretrained(tiny_cold_run / "teacher")
    else:
        model = Student.from_pretrained(tiny_cold_run / "students" / "gru" / "distilled")
    ranks = evaluate(model, tiny_cold, "test", max_len=model.config.max_len).excluding_seen
    _, is_cold = cold.cold_targets(tiny_cold)
    row = next(row for row in results.rows if row.system == system)
    for metrics, members in ((row.cold, is_cold), (row.warm, ~is_cold)):
        assert metrics["hr@10"] == pytest.approx(hit_rate(ranks[members], 10).mean())
        assert metrics["ndcg@10"] == pytest.approx(ndcg(ranks[members], 10).mean())


def test_an_item_that_only_validation_saw_is_not_cold(
    write_sequences: Callable[[list[list[int]], int], SequenceDataset],
) -> None:
    """The last events are test targets, 4 and 3, those before them validation targets, 3 and 5."""
    dataset = write_sequences([[1, 2, 3, 4], [1, 2, 5, 3]], 6)
    assert dataset.untrained_items.tolist() == [3, 4, 5, 6]  # while validation chooses
    untrained, is_cold = cold.cold_targets(dataset)
    assert untrained.tolist() == [4, 6]
    assert is_cold.tolist() == [True, False]


def test_without_two_groups_there_is_nothing_to_compare(
    tiny_cold: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = np.zeros(len(tiny_cold.eval_targets("test").items), dtype=bool)
    monkeypatch.setattr(cold, "cold_targets", lambda _: (np.array([1]), nobody))
    with pytest.raises(DataError, match="0 of the .* test targets .* are cold.* --cold-share"):
        cold.main(["--data-dir", str(tiny_cold.path), "--output-dir", str(tmp_path)])


def test_a_set_without_cold_items_is_refused_with_the_flag_that_makes_one(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"holds no item out .* with --cold-share"):
        cold.main(["--data-dir", str(tiny_dataset.path), "--output-dir", str(tmp_path)])
