"""Results that nobody measured, for what shows results."""

from typing import Any

from seqrec.config import RECIPE_VERSION

from benchmarks.grid.variants import VARIANTS
from benchmarks.report.schema import (
    AccuracyResults,
    Cost,
    DataSet,
    FrequencyGroup,
    Gain,
    Latency,
    LatencyResults,
    LowerBound,
    Machine,
    SeedMetric,
    SystemResult,
    TeacherCost,
    VariantSummary,
)

MACHINE = Machine(
    cpu="Abacus 9",
    num_cores=2,
    num_threads=1,
    os="Linux",
    python="3.11.7",
    versions={"onnxruntime": "1.0"},
)
DATA = DataSet(
    name="tiny",
    fingerprint="0123456789abcdef" * 4,
    num_users=40,
    num_items=30,
    split="leave-one-out",
    protocol="seen_excluded",
)


def over(mean: float, half_width: float = 2.0) -> Gain:
    return Gain(mean=mean, low=mean - half_width, high=mean + half_width)


def system(
    name: str, precision: str, p50: float, ndcg: float, ratio: float | None = None, **more: Any
) -> SystemResult:
    """A row; "gru distilled" is of family gru and role distilled."""
    family, _, role = name.partition(" ")
    metrics = {"hr@10": 2 * ndcg, "mrr@10": ndcg / 2, "ndcg@10": ndcg}
    metrics |= {"ndcg@10_low": ndcg - 0.01, "ndcg@10_high": ndcg + 0.01}
    known: dict[str, Any] = {
        "family": family,
        "role": role or None,
        "lower_bound_ms": ratio and LowerBound(read=p50 / ratio, top_k=0.0),
        "size_mib": 1.5,
        "num_parameters": 1234,
    }
    return SystemResult(
        system=name,
        precision=precision,
        metrics=metrics,
        metrics_other_protocol=metrics,
        latency_ms=Latency(p50=p50, p95=1.5 * p50, cpu=p50),
        num_timed_calls=173,
        throughput_per_s=1000 / p50,
        ratio_to_lower_bound=ratio,
        **{**known, **more},
    )


def latency_results(*rows: SystemResult, **more: Any) -> LatencyResults:
    known: dict[str, Any] = {"config": {}, "environment": MACHINE, "dataset": DATA}
    known |= {"throughput_batch_size": 128, "recipe_version": RECIPE_VERSION}
    return LatencyResults(rows=rows, **{**known, **more})


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
    made_of = VARIANTS[name]
    return VariantSummary(
        variant=name,
        arch=arch,
        description=made_of.description,
        kind=made_of.kind,
        ablation=made_of.ablation,
        overrides=dict(made_of.overrides),
        command=f"python -m benchmarks.accuracy --arch {arch} --variants {name}",
        seeds=() if made_of.kind in ("popularity", "teacher") else (0, 1),
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
    command = "accelerate launch teacher/finetune.py"
    return AccuracyResults(
        command="python -m benchmarks.accuracy",
        environment=MACHINE,
        seeds=(0, 1),
        student_flags="",
        dataset=DATA,
        teacher=TeacherCost(recipe={}, command=command, wall_s=3600.0, cpu_s=7200.0),
        recipe_version=RECIPE_VERSION,
        rows=rows
        or (
            variant("popularity", "gru", {"control": over(-60.0)}),
            variant("teacher", "gru", {"control": over(-5.0)}),
            variant("control", "gru", {"distilled": over(-8.0)}, level=0.0815),
            variant("distilled", "gru", {"control": over(distilled), "teacher": over(1.0)}),
            variant("distilled-int8", "gru", {"control": over(9.0), "distilled": over(-0.5, 0.2)}),
            variant("control+teacher", "gru", {"control": None}),
            variant("temperature-2", "gru", {"control": over(9.1), "distilled": over(0.1)}),
            variant("control", "transformer", {}),
            variant("distilled", "transformer", {"control": over(1.0)}),
        ),
    )
