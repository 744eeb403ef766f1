"""Results as text tables."""

from collections.abc import Mapping

from tabulate import tabulate


def interval(metrics: Mapping[str, float], name: str) -> str:
    """Format a metric with its interval: `0.1180 [0.1034, 0.1321]`."""
    return f"{metrics[name]:.4f} [{metrics[name + '_low']:.4f}, {metrics[name + '_high']:.4f}]"


def metrics_table(reports: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Format `Evaluation.report()`s by system, both protocols, as a table."""
    rows = [
        [
            system,
            protocol.replace("_", " "),
            interval(metrics, "ndcg@10"),
            f"{metrics['hr@10']:.4f}",
            f"{metrics['mrr@10']:.4f}",
        ]
        for system, report in reports.items()
        for protocol, metrics in report.items()
    ]
    return (
        tabulate(
            rows,
            headers=["system", "ranking", "NDCG@10 [95 %]", "HR@10", "MRR@10"],
            disable_numparse=True,
        )
        + "\n"
    )
