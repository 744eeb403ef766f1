"""What the figures of the accuracy grid are; the expected ones are worked out by hand."""

import json
import math

from seqrec.metrics import Evaluation, relative_gain

import numpy as np
import pytest

from benchmarks.accuracy import AccuracyConfig
from benchmarks.grid.plan import RunKey, seed_pairs
from benchmarks.grid.run import load_ranks
from benchmarks.grid.summary import gain, mean_times, summarize_metrics
from benchmarks.grid.variants import VARIANTS
from benchmarks.grid.workspace import Workspace, run_folder
from benchmarks.report.schema import AccuracyResults, Cost, Gain, Run, SeedMetric


def ranks(*values: int) -> Evaluation:
    """Return the same ranks under both protocols."""
    return Evaluation(np.array(values), np.array(values))


def same(found: Gain | None, value: float) -> bool:
    """Whether a gain has no spread and this value."""
    assert found is not None
    return (found.mean, found.low, found.high) == pytest.approx((value, value, value))


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
    found = summarize_metrics({(0,): ranks(1, 11), (1,): ranks(3, 1)})["seen_kept"]
    # NDCG@10 by seed: (1 + 0) / 2 and (0.5 + 1) / 2; by user: 0.75 and 0.5
    assert found["ndcg@10"] == SeedMetric(
        mean=0.625, low=0.5, high=0.75, seed_min=0.5, seed_max=0.75
    )
    assert found["hr@10"].mean == 0.75
    assert found["mrr@10"].mean == pytest.approx((1 + 0 + 1 / 3 + 1) / 4)


def test_the_protocols_are_kept_apart() -> None:
    found = summarize_metrics({(): Evaluation(np.array([1]), np.array([3]))})
    assert found["seen_excluded"]["ndcg@10"].mean == 1.0
    assert found["seen_kept"]["ndcg@10"].mean == 0.5


def test_variants_are_compared_over_the_seeds_that_both_have() -> None:
    runs, other = {(0,): ranks(1), (5,): ranks(11)}, {(0,): ranks(3), (1,): ranks(1)}
    assert same(gain(runs, other, exclude_seen=True), 100.0)  # 1 over 0.5
    assert gain({(5,): ranks(1)}, other, exclude_seen=True) is None


def test_a_variant_without_seeds_is_compared_with_all_seeds_of_the_other() -> None:
    found = gain({(): ranks(3)}, {(0,): ranks(1), (1,): ranks(11)}, exclude_seen=True)
    assert same(found, 0.0)  # 0.5 over (1 + 0) / 2


def test_an_ensemble_of_two_seeds_is_compared_with_the_mean_of_both() -> None:
    ensemble, controls = (
        {(0, 1): ranks(3)},
        {(0,): ranks(1), (1,): ranks(11)},
    )  # 0.5 over (1 + 0) / 2
    assert same(gain(ensemble, controls, exclude_seen=True), 0.0)
    assert gain(ensemble, {(0,): ranks(1)}, exclude_seen=True) is None


def test_interrupted_runs_are_left_out_of_the_cost() -> None:
    def run(cpu_s: float, *, interrupted: bool) -> Run:
        times = {"train": Cost(wall_s=2 * cpu_s, cpu_s=cpu_s)}
        return Run(times=times, interrupted=interrupted)

    made = [run(10, interrupted=False), run(20, interrupted=False), run(1, interrupted=True)]
    assert mean_times(made) == {"train": Cost(wall_s=30.0, cpu_s=15.0, num_runs=2)}
    assert mean_times(made[2:]) == {}


def test_seeds_are_paired_in_a_ring() -> None:
    assert seed_pairs([3, 5, 7]) == [(3, 5), (5, 7), (7, 3)]
    assert seed_pairs([3, 5]) == [(3, 5)]  # (5, 3) is the same pair


def test_the_table_says_what_the_runs_ranks_say(
    config: AccuracyConfig, space: Workspace, grid: AccuracyResults
) -> None:
    row = grid.find("control", "gru")
    assert row is not None
    values = []
    for seed in (0, 1):
        folder = run_folder(RunKey("control", "gru", seed), space)
        for rank in load_ranks(folder / "ranks.safetensors").excluding_seen:
            values.append(1 / math.log2(rank + 1) if rank <= 10 else 0.0)
    assert row.metrics["seen_excluded"]["ndcg@10"].mean == pytest.approx(np.mean(values))
    assert [row.variant for row in grid.rows] == list(config.variants)
    assert grid.teacher is not None
    assert grid.teacher.cpu_s is not None
    assert grid.teacher.cpu_s > 0
    for row in grid.rows:
        assert all(times.cpu_s > 0 for times in row.times.values()), row.variant
        assert row.description == VARIANTS[row.variant].description


def test_the_json_is_plain(config: AccuracyConfig, grid: AccuracyResults) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (config.output_dir / "tiny" / "accuracy.json").read_text()
    json.loads(text, parse_constant=no_constant)
    assert grid.dataset.fingerprint
    assert set(grid.environment.versions) >= {"torch", "onnxruntime", "numpy"}
