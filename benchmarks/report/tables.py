"""Results as text tables, each ending in a newline, with the conditions below."""

from collections.abc import Mapping, Sequence

from seqrec.report import interval

from tabulate import tabulate

from benchmarks.report.schema import (
    AccuracyResults,
    CatalogueResults,
    ColdResults,
    Gain,
    LatencyResults,
    Machine,
    ScalingResults,
    ScalingRow,
    SeedMetric,
    SystemResult,
    Training,
)

BUSY = 0.2  # cores at work for others
K = 10
CONTROL, NO_LANGUAGE_MODEL = "control", "no-language-model"


def number(value: float | None, style: str = ".3f") -> str:
    """Format a number; a dash for None.

    >>> number(0.25), number(None)
    ('0.250', '-')
    """
    return "-" if value is None else format(value, style)


def format_gain(gain: Gain | None) -> str:
    """Format a relative gain with its interval: `+5.2 % [+1.1, +9.4]`; a dash for none."""
    return "-" if gain is None else f"{gain.mean:+.1f} % [{gain.low:+.1f}, {gain.high:+.1f}]"


def format_metric(metric: SeedMetric) -> str:
    """Format a mean with its interval over users: `0.1180 [0.1034, 0.1321]`."""
    return f"{metric.mean:.4f} [{metric.low:.4f}, {metric.high:.4f}]"


def busy_note(machine: Machine) -> str:
    """Return a warning, with a line's end, if others worked while it was measured; else nothing."""
    if machine.other_work is None or machine.other_work < BUSY:
        return ""
    return (
        f"The machine was busy: other processes kept {machine.other_work:.1f} of "
        f"{machine.num_cores} cores at work meanwhile. Compare rows, not machines.\n"
    )


def lower_bound_note(definition: str | None) -> str:
    """Say what the lower bound is; nothing of an earlier version's file, which does not tell."""
    return f"Ratio to lower bound: p50 over ({definition})." if definition else ""


def make_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], align: Sequence[str] | str
) -> str:
    """Return a text table; "llr" aligns its columns to the left, left and right."""
    sides = {"l": "left", "r": "right"}
    colalign = [sides.get(side, side) for side in align]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=colalign)


# --- Accuracy and latency of systems --------------------------------------------------------------


def latency_columns(batch_size: int) -> list[str]:
    """Return the headers of `latency_cells`."""
    return [
        *("system", "precision", "NDCG@10 [95 %]", "HR@10", "p50 ms", "p95 ms", "p99 ms"),
        *("ratio to lower bound", "load ms", "peak MiB", f"users/s at {batch_size}", "MiB"),
        "parameters",
    ]


def latency_cells(row: SystemResult) -> list[str]:
    """Return a system's cells; a dash where nothing was measured."""
    latency, start_up = row.latency_ms, row.start_up
    return [
        row.system,
        row.precision_label,
        interval(row.metrics, "ndcg@10"),
        f"{row.metrics['hr@10']:.4f}",
        *map(number, (latency.p50, latency.p95, latency.p99)),
        number(row.ratio_to_lower_bound, ".1f"),
        number(start_up.load_ms if start_up else None, ",.0f"),
        number(start_up.peak_mib if start_up else None, ",.0f"),
        f"{row.throughput_per_s:,.0f}",
        f"{row.size_mib:.2f}",
        f"{row.num_parameters:,}",
    ]


BRIEF = ("system", "precision", "NDCG@10 [95 %]", "HR@10", "p50 ms", "MiB")


def format_latency(results: LatencyResults, *, brief: bool = False) -> str:
    """Return the table of `benchmark.json`; `brief`: its columns that matter first."""
    headers = latency_columns(results.throughput_batch_size)
    rows = [latency_cells(row) for row in results.rows]
    dashes = ["-"] * (len(headers) - 3)
    rows += [[f.system, f.precision, "failed, see below", *dashes] for f in results.failed]
    if brief:
        rows = [[row[headers.index(name)] for name in BRIEF] for row in rows]
        headers = list(BRIEF)
    data, machine = results.dataset, results.environment
    lines = [
        make_table(headers, rows, "lll" + "r" * (len(headers) - 3)),
        "",
        f"{data.name}: {data.num_users:,} test users, {data.num_items:,} items, {data.split}, "
        f"{data.protocol.replace('_', ' ')}; one user per call, {machine.num_threads} thread(s), "
        f"{machine.cpu}",
        *filter(None, ["" if brief else lower_bound_note(results.lower_bound)]),
        *gain_lines(results.rows),
        *training_lines(results.rows),
        *(f"{failure.system} failed: {failure.reason}" for failure in results.failed),
    ]
    return "\n".join(lines) + "\n" + busy_note(machine)


def gain_lines(rows: Sequence[SystemResult]) -> list[str]:
    """Say how far our students are above other libraries' models and their controls."""
    lines = []
    for row in rows:
        for system, over_baseline in (row.gain_over_baselines or {}).items():
            lines.append(f"{row.label} over {system}: {_difference(over_baseline)}")
        if gain := row.gain_over_control:
            shared = row.top10_overlap_with_fp32
            after = "" if shared is None else f"; top 10 shared with fp32 {shared:.1%}"
            lines.append(f"{row.label} over control: {_difference(gain)}{after}")
    return lines


def _difference(gain: Gain) -> str:
    return f"NDCG@10 {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def training_lines(rows: Sequence[SystemResult]) -> list[str]:
    """Say how each of the other libraries was trained."""
    return [f"{row.system}: {_trained(row.training)}" for row in rows if row.training]


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

CATALOGUE_HEADERS = ["items", "system", "precision", "p50 ms", "p95 ms", "p99 ms", "MiB"]
CATALOGUE_HEADERS += ["lower bound ms: read + top-k", "ratio to lower bound", "where the time goes"]


def catalogue_cells(results: CatalogueResults) -> list[list[str]]:
    """Return the cells of `catalogue.json`, row by row; `CATALOGUE_HEADERS` are their headers."""
    return [
        [
            f"{row.num_items:,}",
            row.system,
            row.precision_label,
            *map(number, (row.latency_ms.p50, row.latency_ms.p95, row.latency_ms.p99)),
            f"{row.size_mib:.2f}",
            f"{row.lower_bound_ms.read:.3f} + {row.lower_bound_ms.top_k:.3f}",
            f"{row.ratio_to_lower_bound:.1f}",
            ", ".join(f"{operator} {fraction:.0%}" for operator, fraction in row.profile),
        ]
        for row in results.rows
    ]


def describe_catalogue(results: CatalogueResults) -> str:
    """Say in sentences what the table of catalogue sizes shows."""
    machine = results.environment
    idle = max(row.idle_call_ms or 0.0 for row in results.rows)
    length = max(row.history_length for row in results.rows)
    sentences = [
        f"Random weights; one user per call, a history of {length}, all of it left out of the top "
        f"{K}; {machine.num_threads} thread(s), {machine.cpu}, {machine.num_cores} cores. A call "
        f"of ONNX Runtime that does nothing takes {idle:.3f} ms here.",
        lower_bound_note(results.lower_bound),
        busy_note(machine),
    ]
    return " ".join(filter(None, sentences)).rstrip()


def format_catalogue(results: CatalogueResults) -> str:
    """Return the table of `catalogue.json`."""
    table = make_table(CATALOGUE_HEADERS, catalogue_cells(results), "rll" + "r" * 6 + "l")
    failed = "".join(
        f"{failure.system}, {failure.num_items:,} items, failed: {failure.reason}\n"
        for failure in results.failed
    )
    return f"{table}\n\n{describe_catalogue(results)}\n{failed}"


# --- Training over catalogue sizes ----------------------------------------------------------------


def format_scaling(results: ScalingResults) -> str:
    """Return the table of `scaling.json`."""
    headers = ["M events", "items", "system", "seconds", "batch", "steps/s", "targets/s"]
    headers += ["targets/CPU s", "validated users/s", "peak GiB"]
    machine = results.environment
    table = make_table(headers, [_scaling_cells(row) for row in results.rows], "r" * len(headers))
    planned = [
        f"{row.system}, {row.num_items:,} items: --dry-run says {_gib(row.planned_mib)} GiB and "
        f"{number(row.planned_steps_per_s, '.2f')} steps/s; it took {_gib(row.peak_mib)} GiB and "
        f"made {number(row.steps_per_s, '.2f')} steps/s.\n"
        for row in results.rows
        if row.planned_mib is not None
    ]
    conditions = f"Invented logs; {machine.num_threads} thread(s), {machine.cpu}.\n"
    return f"{table}\n\n{conditions}{''.join(planned)}{busy_note(machine)}"


def _scaling_cells(row: ScalingRow) -> list[str]:
    validated = None
    if row.validated_users and row.validation_s:
        validated = row.validated_users / row.validation_s
    return [
        f"{row.num_events / 1e6:g}",
        f"{row.num_items:,}",
        row.system,
        number(row.seconds, ".1f"),
        number(row.batch_size, "d"),
        number(row.steps_per_s, ".2f"),
        number(row.targets_per_s, ",.0f"),
        number(row.targets_per_cpu_s, ",.0f"),
        number(validated, ".0f"),
        _gib(row.peak_mib),
    ]


def _gib(mib: float | None) -> str:
    return number(mib and mib / 1024, ".2f")


# --- Cold items -----------------------------------------------------------------------------------


def format_cold(results: ColdResults) -> str:
    """Return the table of `cold.json`."""
    names = (f"hr@{K}", f"ndcg@{K}")
    rows = [
        [
            row.system,
            row.precision_label,
            *(interval(group, name) for group in (row.cold, row.warm) for name in names),
            f"{row.exposure:.1%}",
        ]
        for row in results.rows
    ]
    headers = ["system", "precision"]
    headers += [f"{group} {name.upper()} [95 %]" for group in ("cold", "warm") for name in names]
    table = make_table([*headers, f"cold in top {K}"], rows, "l" * 6 + "r")
    data, cold, warm = results.dataset, results.num_cold_targets, results.num_warm_targets
    untrained, held_out = results.num_untrained_items, results.num_cold_items
    return (
        f"{table}\n\n{data.name}: {untrained:,} of {data.num_items:,} items without an event "
        f"before the test ({held_out:,} held out); {cold:,} cold and "
        f"{warm:,} warm test targets, {cold / (cold + warm):.1%} cold; all items ranked, "
        f"{data.protocol.replace('_', ' ')}\n"
    )


# --- The accuracy grid ----------------------------------------------------------------------------


def format_accuracy(results: AccuracyResults) -> str:
    """Return the tables of `accuracy.json`."""
    data = results.dataset
    rows = [
        [
            row.arch,
            row.variant,
            str(len(row.seeds) or "-"),
            format_metric(row.metrics[data.protocol]["ndcg@10"]),
            f"{row.metrics[data.protocol]['hr@10'].mean:.4f}",
            format_gain(row.gain_over.get(CONTROL)),
            format_gain(row.gain_over.get(NO_LANGUAGE_MODEL)),
        ]
        for row in results.rows
    ]
    headers = ["arch", "variant", "seeds", "NDCG@10 [95 %]", "HR@10"]
    headers += ["over control [95 %]", "over no language model [95 %]"]
    return (
        f"{make_table(headers, rows, 'l' * 7)}\n\n{_frequency_table(results)}\n\n"
        f"{data.name}: {data.num_users:,} test users, {data.num_items:,} items, {data.split}, "
        f"{data.protocol.replace('_', ' ')}\n"
    )


def _frequency_table(results: AccuracyResults) -> str:
    """Return NDCG@10 by how many events the target's item has before the test."""
    groups = [(row, row.by_frequency or {}) for row in results.rows]
    sizes = {name: group.num_targets for _, own in groups for name, group in own.items()}
    headers = [f"{name} events ({size:,} targets)" for name, size in sizes.items()]

    def ndcg(own: Mapping[str, object], name: str) -> str:
        return number(getattr(own.get(name), "ndcg_at_10", None), ".4f")

    rows = [[row.arch, row.variant, *(ndcg(own, name) for name in sizes)] for row, own in groups]
    return make_table(["arch", "variant", *headers], rows, "l" * (2 + len(sizes)))
