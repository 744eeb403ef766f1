"""Results that nobody measured, for what shows results."""

from typing import Any

from benchmarks.report.schema import (
    DataSet,
    Gain,
    Latency,
    LatencyResults,
    LowerBound,
    Machine,
    SystemResult,
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
    return LatencyResults(rows=rows, throughput_batch_size=128, **{**known, **more})
