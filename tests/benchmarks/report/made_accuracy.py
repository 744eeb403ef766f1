"""Accuracy results that nobody measured."""

from typing import Any

from benchmarks.grid.variants import VARIANTS
from benchmarks.report.schema import (
    AccuracyResults,
    Cost,
    FrequencyGroup,
    Gain,
    SeedMetric,
    TeacherCost,
    VariantSummary,
)
from tests.benchmarks.report.made import DATA, MACHINE, over


def variant(
    name: str, arch: str, gains: dict[str, Gain | None], level: float = 0.1
) -> VariantSummary:
    is_taught = name in ("distilled", "temperature-2")
    metric = SeedMetric(mean=level, low=level - 0.01, high=level + 0.01, seed_min=1, seed_max=2)
    metrics = dict.fromkeys(("hr@10", "ndcg@10", "mrr@10"), metric)
    group = FrequencyGroup(
        num_targets=4,
        ndcg_at_10=0.02,
        over_no_language_model=over(25.0) if is_taught else None,
    )
    shared = {"auxiliary teacher": Cost(wall_s=800.0, cpu_s=720.0)}
    return VariantSummary(
        variant=name,
        arch=arch,
        description=VARIANTS[name].description,
        kind=VARIANTS[name].kind,
        ablation=VARIANTS[name].ablation,
        overrides=dict(VARIANTS[name].overrides),
        command=f"python -m benchmarks.accuracy --arch {arch} --variants {name}",
        seeds=() if VARIANTS[name].kind in ("popularity", "teacher") else (0, 1),
        metrics={"seen_excluded": metrics, "seen_kept": metrics},
        valid_ndcg_at_10=0.1,
        gain_over=gains,
        by_frequency={"1-5": group},
        num_parameters=1234,
        file_bytes=2**20,
        times={"train": Cost(wall_s=7200.0, cpu_s=5400.0, num_runs=2)},
        shared_times=shared if is_taught else {},
        runs=(),
    )


def accuracy_results(*rows: VariantSummary, distilled: float = 9.0) -> AccuracyResults:
    known: dict[str, Any] = {"dataset": DATA, "environment": MACHINE, "student_flags": ""}
    return AccuracyResults(
        command="python -m benchmarks.accuracy",
        seeds=(0, 1),
        teacher=TeacherCost(
            recipe={},
            command="accelerate launch teacher/finetune.py",
            wall_s=3600.0,
            cpu_s=7200.0,
        ),
        rows=rows
        or (
            variant("popularity", "gru", {"control": over(-60.0)}),
            variant("teacher", "gru", {"control": over(-5.0)}),
            variant("control", "gru", {"distilled": over(-8.0)}, level=0.0815),
            variant("distilled", "gru", {"control": over(distilled), "teacher": over(1.0)}),
            variant("distilled-int8", "gru", {"control": over(9.0), "distilled": over(-0.5, 0.2)}),
            variant("control+control", "gru", {"control": None}),
            variant("temperature-2", "gru", {"control": over(9.1), "distilled": over(0.1)}),
            variant("control", "transformer", {}),
            variant("distilled", "transformer", {"control": over(1.0)}),
        ),
        **known,
    )
