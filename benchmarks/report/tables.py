"""Results as text tables, each ending in a newline, with the conditions below.

A table is described once, by its columns: the header, and what it shows of a row.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from seqrec.report import interval

from tabulate import tabulate

from benchmarks.report.schema import (
    AccuracyResults,
    CatalogueResults,
    CatalogueRow,
    ColdResults,
    ColdRow,
    Gain,
    LatencyResults,
    Machine,
    ScalingResults,
    ScalingRow,
    SeedMetric,
    StartUp,
    SystemResult,
    Training,
    VariantSummary,
)

BUSY = 0.2  # cores at work for others
K = 10
CONTROL, NO_LANGUAGE_MODEL = "control", "no-language-model"
Row = TypeVar("Row")
Columns = Mapping[str, Callable[[Row], str]]


def make_table(
    rows: Iterable[Row], columns: Columns[Row], *, align: str = "l", style: str = "simple"
) -> str:
    """Return a table; "lrl" aligns its first columns left, right and left, all others right."""
    return tabulate(
        [[cell(row) for cell in columns.values()] for row in rows],
        headers=list(columns),
        tablefmt=style,
        disable_numparse=True,
        stralign="right" if style == "simple" else "left",
        colalign=["left" if side == "l" else "right" for side in align],
    )


def number(value: float | None, style: str = ".3f") -> str:
    """Format a number; a dash for None.

    >>> number(0.25), number(None)
    ('0.250', '-')
    """
    return "-" if value is None else format(value, style)


# Of tables whose rows are systems, and whose rows were timed.
IDENTITY_COLUMNS: Columns[Any] = {
    "system": lambda row: row.system,
    "precision": lambda row: row.precision_label,
}
LATENCY_COLUMNS: Columns[Any] = {
    "p50 ms": lambda row: number(row.latency_ms.p50),
    "p95 ms": lambda row: number(row.latency_ms.p95),
    "p99 ms": lambda row: number(row.latency_ms.p99),
}


def format_gain(gain: Gain | None) -> str:
    """Format a relative gain with its interval: `+5.2 % [+1.1, +9.4]`; a dash for none."""
    return "-" if gain is None else f"{gain.mean:+.1f} % [{gain.low:+.1f}, {gain.high:+.1f}]"


def format_metric(metric: SeedMetric) -> str:
    """Format a mean with its interval over users: `0.1180 [0.1034, 0.1321]`."""
    return f"{metric.mean:.4f} [{metric.low:.4f}, {metric.high:.4f}]"


def with_notes(table: str, *notes: str) -> str:
    """Return a table with notes below, those that are not empty."""
    return "\n".join([table, "", *filter(None, notes)]) + "\n"


def busy_note(machine: Machine) -> str:
    """Return a warning if others worked while it was measured; else nothing."""
    if machine.other_work is None or machine.other_work < BUSY:
        return ""
    return (
        f"The machine was busy: other processes kept {machine.other_work:.1f} of "
        f"{machine.num_cores} cores at work meanwhile. Compare rows, not machines."
    )


def lower_bound_note(definition: str | None) -> str:
    """Say what the lower bound is; nothing of an earlier version's file, which does not tell."""
    return f"Ratio to lower bound: p50 over ({definition})." if definition else ""


# --- Accuracy and latency of systems --------------------------------------------------------------


def latency_columns(batch_size: int) -> Columns[SystemResult]:
    """Return the columns of `benchmark.json`."""

    def start_up(row: SystemResult) -> StartUp:
        return row.start_up or StartUp()

    return {
        **IDENTITY_COLUMNS,
        "NDCG@10 [95 %]": lambda row: interval(row.metrics, "ndcg@10"),
        "HR@10": lambda row: f"{row.metrics['hr@10']:.4f}",
        **LATENCY_COLUMNS,
        "ratio to lower bound": lambda row: number(row.ratio_to_lower_bound, ".1f"),
        "load ms": lambda row: number(start_up(row).load_ms, ",.0f"),
        "peak MiB": lambda row: number(start_up(row).peak_mib, ",.0f"),
        f"users/s at {batch_size}": lambda row: f"{row.throughput_per_s:,.0f}",
        "MiB": lambda row: f"{row.size_mib:.2f}",
        "parameters": lambda row: f"{row.num_parameters:,}",
    }


BRIEF = ("system", "precision", "NDCG@10 [95 %]", "HR@10", "p50 ms", "MiB")


def format_latency(results: LatencyResults, *, brief: bool = False) -> str:
    """Return the table of `benchmark.json`; `brief`: its columns that matter first."""
    columns = latency_columns(results.throughput_batch_size)
    if brief:
        columns = {name: columns[name] for name in BRIEF}
    return with_notes(
        make_table(results.rows, columns, align="lll"),
        f"{results.dataset.label}; one user per call, {results.environment.label}",
        "" if brief else lower_bound_note(results.lower_bound),
        *latency_notes(results),
        busy_note(results.environment),
    )


def latency_notes(results: LatencyResults) -> list[str]:
    """Say the budget, what was gained over others, how those were trained, and what failed."""
    budgets = sorted({row.budget for row in results.rows if row.budget})
    lines = [f"students were trained with --budget {budget}" for budget in budgets]
    cut_short = {row.system for row in results.rows if row.training and row.training.cut_short}
    for row in results.rows:
        for system, over_baseline in (row.gain_over_baselines or {}).items():
            other, difference = system, _difference(over_baseline)
            if system in cut_short:  # an interval over users does not hold what time would add
                other, difference = f"{system} (cut short)", f"NDCG@10 {over_baseline.mean:+.4f} -"
            lines.append(f"{row.label} over {other}: {difference}")
        if gain := row.gain_over_control:
            overlap = row.top10_overlap_with_fp32
            after = "" if overlap is None else f"; top 10 shared with fp32 {overlap:.1%}"
            lines.append(f"{row.label} over control: {_difference(gain)}{after}")
    lines += [f"{row.system}: {_trained(row.training)}" for row in results.rows if row.training]
    return lines + [f"{failure.system} failed: {failure.reason}" for failure in results.failed]


def _difference(gain: Gain) -> str:
    return f"NDCG@10 {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def _trained(training: Training) -> str:
    if training.num_neighbours is not None:
        chosen = f"{training.num_neighbours} neighbours"
    else:
        tried = f" of {training.num_tried} tried" if training.num_tried else ""
        chosen = f"{training.num_epochs} epochs{tried}"
    device = "" if training.device == "cpu" else f" with a GPU, {training.device}"
    cut_short = ", cut short by --minutes" if training.cut_short else ""
    return f"{chosen} in {training.minutes:.1f} CPU minutes{device}{cut_short}"


# --- Catalogue sizes ------------------------------------------------------------------------------

CATALOGUE_COLUMNS: Columns[CatalogueRow] = {
    "items": lambda row: f"{row.num_items:,}",
    **IDENTITY_COLUMNS,
    **LATENCY_COLUMNS,
    "MiB": lambda row: f"{row.size_mib:.2f}",
    "lower bound ms: read + top-k": lambda row: (
        f"{row.lower_bound_ms.read:.3f} + {row.lower_bound_ms.top_k:.3f}"
    ),
    "ratio to lower bound": lambda row: f"{row.ratio_to_lower_bound:.1f}",
    "where the time goes": lambda row: ", ".join(
        f"{operator} {fraction:.0%}" for operator, fraction in row.profile
    ),
}


def format_catalogue(results: CatalogueResults, style: str = "simple") -> str:
    """Return the table of `catalogue.json`, and in sentences what it shows."""
    machine = results.environment
    idle = max(row.idle_call_ms or 0.0 for row in results.rows)
    length = max(row.history_length for row in results.rows)
    return with_notes(
        make_table(results.rows, CATALOGUE_COLUMNS, align="rllrrrrrrl", style=style),
        f"Random weights; one user per call, a history of {length}, all of it left out of the "
        f"top {K}; {machine.label}, {machine.num_cores} cores. A call of ONNX Runtime that does "
        f"nothing takes {idle:.3f} ms here.",
        lower_bound_note(results.lower_bound),
        busy_note(machine),
        *(f"{f.system}, {f.num_items:,} items, failed: {f.reason}" for f in results.failed),
    )


# --- Training over catalogue sizes ----------------------------------------------------------------


def _gib(mib: float | None) -> str:
    return number(mib and mib / 1024, ".2f")


SCALING_COLUMNS: Columns[ScalingRow] = {
    "M events": lambda row: f"{row.num_events / 1e6:g}",
    "items": lambda row: f"{row.num_items:,}",
    "system": lambda row: row.system,
    "seconds": lambda row: number(row.seconds, ".1f"),
    "batch": lambda row: number(row.batch_size, "d"),
    "steps/s": lambda row: number(row.steps_per_s, ".2f"),
    "targets/s": lambda row: number(row.targets_per_s, ",.0f"),
    "targets/CPU s": lambda row: number(row.targets_per_cpu_s, ",.0f"),
    "validated users/s": lambda row: number(
        row.validated_users / row.validation_s
        if row.validated_users and row.validation_s
        else None,
        ".0f",
    ),
    "peak GiB": lambda row: _gib(row.peak_mib),
}


def format_scaling(results: ScalingResults) -> str:
    """Return the table of `scaling.json`."""
    planned = (
        f"{row.system}, {row.num_items:,} items: --dry-run says {_gib(row.planned_mib)} GiB and "
        f"{number(row.planned_steps_per_s, '.2f')} steps/s; it took {_gib(row.peak_mib)} GiB and "
        f"made {number(row.steps_per_s, '.2f')} steps/s."
        for row in results.rows
        if row.planned_mib is not None
    )
    return with_notes(
        make_table(results.rows, SCALING_COLUMNS, align=""),
        f"Invented logs; {results.environment.label}.",
        *planned,
        busy_note(results.environment),
    )


# --- Cold items -----------------------------------------------------------------------------------


def format_cold(results: ColdResults) -> str:
    """Return the table of `cold.json`."""
    columns: Columns[ColdRow] = {
        **IDENTITY_COLUMNS,
        f"cold HR@{K} [95 %]": lambda row: interval(row.cold, f"hr@{K}"),
        f"cold NDCG@{K} [95 %]": lambda row: interval(row.cold, f"ndcg@{K}"),
        f"warm HR@{K} [95 %]": lambda row: interval(row.warm, f"hr@{K}"),
        f"warm NDCG@{K} [95 %]": lambda row: interval(row.warm, f"ndcg@{K}"),
        f"cold in top {K}": lambda row: f"{row.exposure:.1%}",
    }
    cold, warm = results.num_cold_targets, results.num_warm_targets
    return with_notes(
        make_table(results.rows, columns, align="llllll"),
        f"{results.dataset.label}: {results.num_untrained_items:,} items without an event before "
        f"the test ({results.num_cold_items:,} held out); {cold:,} cold and {warm:,} warm test "
        f"targets, {cold / (cold + warm):.1%} cold; all items ranked",
    )


# --- The accuracy grid ----------------------------------------------------------------------------


def over(name: str) -> Callable[[VariantSummary], str]:
    """Return the column of the gains over a variant."""
    return lambda row: format_gain(row.gain_over.get(name))


def format_accuracy(results: AccuracyResults) -> str:
    """Return the tables of `accuracy.json`."""
    protocol = results.dataset.protocol
    who: Columns[VariantSummary] = {
        "arch": lambda row: row.arch,
        "variant": lambda row: row.variant,
    }
    accuracy: Columns[VariantSummary] = {
        **who,
        "seeds": lambda row: str(len(row.seeds) or "-"),
        "NDCG@10 [95 %]": lambda row: format_metric(row.metrics[protocol]["ndcg@10"]),
        "HR@10": lambda row: f"{row.metrics[protocol]['hr@10'].mean:.4f}",
        "over control [95 %]": over(CONTROL),
        "over no language model [95 %]": over(NO_LANGUAGE_MODEL),
    }

    def ndcg(name: str) -> Callable[[VariantSummary], str]:
        return lambda row: number(
            getattr((row.by_frequency or {}).get(name), "ndcg_at_10", None), ".4f"
        )

    groups = {
        name: group.num_targets
        for row in results.rows
        for name, group in (row.by_frequency or {}).items()
    }
    frequency = {f"{name} events ({size:,} targets)": ndcg(name) for name, size in groups.items()}
    by_frequency = make_table(results.rows, {**who, **frequency}, align="ll" + "l" * len(groups))
    overall = make_table(results.rows, accuracy, align="lllllll")
    return with_notes(f"{overall}\n\n{by_frequency}", results.dataset.label)
