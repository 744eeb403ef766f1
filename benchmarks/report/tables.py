"""Results as text tables, each ending in a newline, with the conditions below.

A table is described once: by its columns, a header and what it shows of a row; or, if its columns
are data sets or sizes, by its cells.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from seqrec.report import interval

from tabulate import tabulate

from benchmarks.report.schema import (
    AccuracyResults,
    CatalogueResults,
    ColdResults,
    ColdRow,
    Estimate,
    Gain,
    LatencyResults,
    Machine,
    ScalingResults,
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
Cell = tuple[str, str, str]  # the names of its row and its column, and what stands there


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
        colalign=["left" if side == "l" else "right" for side in align[: len(columns)]],
    )


def grid(cells: Iterable[Cell], style: str = "pipe") -> str:
    """Return cells as a table, a dash where there is none; "" for no cells."""
    texts = {(row, column): text for row, column, text in cells}

    def column(name: str) -> Callable[[str], str]:
        return lambda row: texts.get((row, name), "-")

    columns = {"": str} | {name: column(name) for _, name in texts}
    rows = dict.fromkeys(row for row, _ in texts)
    return make_table(rows, columns, align="l" + "r" * len(columns), style=style) if texts else ""


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


def heading(results: AccuracyResults | LatencyResults) -> str:
    """Return a data set's name, marked if its results are of an earlier recipe."""
    return results.dataset.name + " (earlier)" * results.is_earlier


def format_gain(gain: Gain | None) -> str:
    """Format a relative gain with its interval: `+5.2 % [1.1, 9.4]`; a dash for none."""
    return "-" if gain is None else f"{gain.mean:+.1f} % [{gain.low:.1f}, {gain.high:.1f}]"


def estimate(value: Estimate) -> str:
    """Format a mean below 1 and half the width of its interval: `.1180 ±.0144`."""
    return f"{value.mean:.4f} ±{(value.high - value.low) / 2:.4f}".replace("0.", ".")


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


def format_latency(results: LatencyResults) -> str:
    """Return the table of `benchmark.json`: its columns that matter first."""
    columns = latency_columns(results.throughput_batch_size)
    return with_notes(
        make_table(results.rows, {name: columns[name] for name in BRIEF}, align="lll"),
        f"{results.dataset.label}; one user per call, {results.environment.label}",
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


def catalogue(results: CatalogueResults) -> Iterator[Cell]:
    """Yield p50 of an answer in ms; of int8 files also the lower bound and the size."""
    for row in results.rows:
        name, size = row.label, f"{row.num_items:,}"
        yield name, size, number(row.latency_ms.p50)
        if row.precision_label == "int8":
            yield f"{name}: lower bound", size, number(row.lower_bound_ms.total)
            yield f"{name}: MiB", size, f"{row.size_mib:.2f}"


def format_catalogue(results: CatalogueResults) -> str:
    """Return the table of `catalogue.json`, and in sentences what it shows."""
    machine = results.environment
    idle = max(row.idle_call_ms or 0.0 for row in results.rows)
    length = max(row.history_length for row in results.rows)
    return with_notes(
        grid(catalogue(results), "simple"),
        f"p50 in ms by the number of items. Random weights; one user per call, a history of "
        f"{length}, all of it left out of the top {K}; {machine.label}, {machine.num_cores} cores. "
        f"A call of ONNX Runtime that does nothing takes {idle:.3f} ms here.",
        lower_bound_note(results.lower_bound),
        busy_note(machine),
        *(f"{f.system}, {f.num_items:,} items, failed: {f.reason}" for f in results.failed),
    )


# --- Training over catalogue sizes ----------------------------------------------------------------


def scaling(results: ScalingResults) -> Iterator[Cell]:
    """Yield the seconds of preparing, the next items learnt in a second, and the peak memory."""
    for row in results.rows:
        size = f"{row.num_items:,} items, {row.num_events / 1e6:g} M events"
        is_training = row.seconds is None
        pace = f"{row.targets_per_s:,.0f}/s" if is_training else f"{row.seconds:.1f} s"
        planned = f" ({_gib(row.planned_mib)} planned)" if row.planned_mib else ""
        yield size, row.system, f"{pace}, {_gib(row.peak_mib)} GiB{planned}"


def _gib(mib: float | None) -> str:
    return number(mib and mib / 1024, ".2f")


def format_scaling(results: ScalingResults) -> str:
    """Return the table of `scaling.json`."""
    return with_notes(
        grid(scaling(results), "simple"),
        f"Invented logs; {results.environment.label}.",
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


def language_model_gains(results: AccuracyResults, arch: str) -> dict[str, Gain]:
    """Return what the language model adds to the int8 file, by events of the target's item."""
    row = results.find("distilled-int8", arch)
    if row is None or not (overall := row.gain_over.get(NO_LANGUAGE_MODEL)):
        return {}
    groups = {
        f"events: {name}": group.over_no_language_model
        for name, group in (row.by_frequency or {}).items()
    }
    return {"all targets": overall, **{name: gain for name, gain in groups.items() if gain}}


def gains_by_frequency(every: Iterable[AccuracyResults]) -> Iterator[Cell]:
    """Yield what the language model adds, by how many events the target's item has."""
    for results in every:
        for arch in results.archs:
            for group, gain in language_model_gains(results, arch).items():
                yield f"{heading(results)}, {arch}", group, format_gain(gain)


def format_accuracy(results: AccuracyResults) -> str:
    """Return the tables of `accuracy.json`."""
    protocol = results.dataset.protocol
    columns: Columns[VariantSummary] = {
        "arch": lambda row: row.arch,
        "variant": lambda row: row.variant,
        "seeds": lambda row: str(len(row.seeds) or "-"),
        "NDCG@10 ±95 %": lambda row: estimate(row.metrics[protocol]["ndcg@10"]),
        "HR@10": lambda row: f"{row.metrics[protocol]['hr@10'].mean:.4f}",
        "over control [95 %]": lambda row: format_gain(row.gain_over.get(CONTROL)),
        "over no language model [95 %]": lambda row: format_gain(
            row.gain_over.get(NO_LANGUAGE_MODEL)
        ),
    }
    return with_notes(
        make_table(results.rows, columns, align="lllllll"),
        results.dataset.label,
        f"\nWhat the language model adds:\n{grid(gains_by_frequency([results]), 'simple')}",
    )
