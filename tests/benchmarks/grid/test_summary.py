"""What the figures of the accuracy grid are; the expected ones are worked out by hand."""

import json
import math
from typing import Any

from seqrec.metrics import Evaluation, relative_gain

import numpy as np
import pytest

from benchmarks.accuracy import AccuracyConfig
from benchmarks.grid.run import load_ranks
from benchmarks.grid.summary import Values, gain, mean_times, summarize_metrics
from benchmarks.grid.variants import VARIANTS, RunKey
from benchmarks.grid.workspace import Workspace, run_folder
from benchmarks.report.schema import AccuracyResults, Cost, Gain, Run, SeedMetric


def ranks(*values: int) -> Evaluation:
    """Return the same ranks under both protocols."""
    return Evaluation(np.array(values), np.array(values))


def values(**by_seed: float) -> Values:
    """Return NDCG@10 of a single user by seed: `s0` is of seed 0."""
    return {int(name[1:]): np.array([value]) for name, value in by_seed.items()}


@pytest.mark.parametrize(
    ("values", "baseline", "expected"),
    [
        ([0.2, 0.6], [0.1, 0.3], (100.0, 100.0, 100.0)),  # paired: each user's doubles
        # A draw takes user 0 twice (+200 %), both (+100 %), or user 1 twice (0 %).
        ([0.3, 0.1], [0.1, 0.1], (100.0, 0.0, 200.0)),
        ([0.1, 0.1], [0.2, 0.2], (-50.0, -50.0, -50.0)),
        # Two replications of one user: each one's doubles; and then as the two users above.
        ([[0.2], [0.6]], [[0.1], [0.3]], (100.0, 100.0, 100.0)),
        ([[0.3], [0.1]], [[0.1], [0.1]], (100.0, 0.0, 200.0)),
    ],
)
def test_a_relative_gain_is_paired_over_users_and_replications(
    values: Any, baseline: Any, expected: tuple[float, float, float]
) -> None:
    assert relative_gain(np.array(values), np.array(baseline)) == pytest.approx(expected)


def test_there_is_no_gain_over_next_to_nothing() -> None:
    assert relative_gain(np.array([1.0, 1.0]), np.array([0.0, 1.0])) is None


def test_a_row_is_the_mean_of_its_seeds_with_an_interval_over_users_and_seeds() -> None:
    metrics = summarize_metrics({0: ranks(1, 11), 1: ranks(3, 1)})["seen_kept"]
    # NDCG@10 by seed: (1 + 0) / 2 and (0.5 + 1) / 2. One draw in 16 takes seed 0 twice and user 1
    # twice, and so has 0; one takes seed 0 and user 0 twice, one seed 1 and user 1: they have 1.
    assert metrics["ndcg@10"] == SeedMetric(
        mean=0.625, low=0.0, high=1.0, seed_min=0.5, seed_max=0.75
    )
    assert metrics["hr@10"].mean == 0.75
    assert metrics["mrr@10"].mean == pytest.approx((1 + 0 + 1 / 3 + 1) / 4)


def test_the_protocols_are_kept_apart() -> None:
    metrics = summarize_metrics({0: Evaluation(np.array([1]), np.array([3]))})
    assert metrics["seen_excluded"]["ndcg@10"].mean == 1.0
    assert metrics["seen_kept"]["ndcg@10"].mean == 0.5


@pytest.mark.parametrize(
    ("variant", "other", "expected"),
    [
        # Over the seeds that both have: 1 over 0.5.
        (values(s0=1.0, s5=0.0), values(s0=0.5, s1=1.0), 100.0),
        (values(s5=1.0), values(s0=0.5, s1=1.0), None),
    ],
)
def test_variants_are_compared_over_seeds_that_match(
    variant: Values, other: Values, expected: float | None
) -> None:
    measured = gain(variant, other)
    if expected is None:
        assert measured is None
    else:  # of one user there is no spread
        assert measured == Gain(mean=expected, low=expected, high=expected)


def test_interrupted_runs_are_left_out_of_the_cost() -> None:
    def run(cpu_s: float, *, interrupted: bool) -> Run:
        times = {"train": Cost(wall_s=2 * cpu_s, cpu_s=cpu_s)}
        return Run(times=times, interrupted=interrupted)

    made = [run(10, interrupted=False), run(20, interrupted=False), run(1, interrupted=True)]
    assert mean_times(made) == {"train": Cost(wall_s=30.0, cpu_s=15.0, num_runs=2)}
    assert mean_times(made[2:]) == {}


def test_the_table_says_what_the_runs_ranks_say(
    config: AccuracyConfig, spaces: list[Workspace], grid: AccuracyResults
) -> None:
    row = grid.find("control", "gru")
    assert row is not None
    values = []
    for space in spaces:
        folder = run_folder(RunKey("control", "gru"), space)
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
