"""The page of results, from kept JSON files: `python -m benchmarks.report.results_page`.

Reads `benchmarks/results/*/accuracy.json` and, where it is beside one, `benchmark.json`; also
`catalogue.json` and `scaling.json`, if they are there. Writes `benchmarks/RESULTS.md`, and draws
the pictures beside the files anew. No figure and no verdict on that page is typed: the rules are
below.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrec.config import flag, parse_flags
from seqrec.errors import DataError, run_main
from seqrec.files import write_text

from tabulate import tabulate

from benchmarks.report.files import load
from benchmarks.report.plots import draw_accuracy, draw_catalogue, draw_latency, save_figure
from benchmarks.report.schema import (
    AccuracyResults,
    CatalogueResults,
    Cost,
    Gain,
    LatencyResults,
    ScalingResults,
    TeacherCost,
    VariantSummary,
)
from benchmarks.report.tables import (
    CATALOGUE_HEADERS,
    CONTROL,
    NO_LANGUAGE_MODEL,
    catalogue_cells,
    describe_catalogue,
    format_gain,
    format_latency,
    format_metric,
    format_scaling,
    number,
)

logger = logging.getLogger(__name__)

HERE = Path(__file__).parents[1]
DISTILLED, INT8 = "distilled", "distilled-int8"
Every = Mapping[str, AccuracyResults]  # by the name of their folder


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """Flags of `benchmarks.report.results_page`."""

    input: Path = flag(HERE / "results", "folder with a folder of results for each data set")
    output: Path = flag(HERE / "RESULTS.md", "page to write")
    pictures: bool = flag(True, "draw the pictures beside the files anew")


def read_results(folder: Path) -> dict[str, AccuracyResults]:
    """Return all `accuracy.json`, by folder; `DataError` if there is none, or a damaged one."""
    files = sorted(folder.glob("*/accuracy.json"))
    if not files:
        raise DataError(
            f"no */accuracy.json in {folder}. Make one: python -m benchmarks.accuracy --data-dir "
            f"data/NAME, and copy its folder's accuracy.json to {folder / 'NAME'}"
        )
    return {file.parent.name: load(AccuracyResults, file) for file in files}


def verdict(gain: Gain | None) -> str:
    """Say what an interval says: it lies above zero, below zero, or holds it."""
    return "not known" if gain is None else gain.verdict


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table's lines, a blank one after it."""
    table = tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
    return [*table.splitlines(), ""]


def preformatted(text: str) -> list[str]:
    """Return a text table as lines that Markdown leaves as they are."""
    return [*(f"    {line}".rstrip() for line in text.splitlines()), ""]


def mean_gains(every: Every) -> list[str]:
    """Return the table of gains over the control, in the mean over data sets."""
    variants = dict.fromkeys(row.variant for results in every.values() for row in results.rows)
    archs = list(dict.fromkeys(arch for results in every.values() for arch in results.archs))
    rows = []
    for variant in variants:
        cells = [_gain_cells(every.values(), variant, arch) for arch in archs]
        if any(cells):
            rows.append([variant, *(text for pair in cells for text in pair or ("-", "-"))])
    headers = ["variant"] + [text for arch in archs for text in (arch, f"{arch}: data sets")]
    sets = "1 data set" if len(every) == 1 else f"{len(every)} data sets"
    return [
        "## Mean over data sets",
        "",
        f"NDCG@10 over the control of the same architecture, in percent: mean of {sets}"
        + (", in brackets the least and the most; " if len(every) > 1 else "; ")
        + "beside it, on how many data sets the paired 95 % interval lies above or below zero.",
        "",
        *markdown(headers, rows),
    ]


def _gain_cells(
    every: Iterable[AccuracyResults], variant: str, arch: str
) -> tuple[str, str] | None:
    """Return a variant's mean gain and its verdicts, None if no data set has a gain."""
    rows = [results.find(variant, arch) for results in every]
    gains = [gain for row in rows if row and (gain := row.gain_over.get(CONTROL))]
    if not gains:
        return None
    means = [gain.mean for gain in gains]
    spread = f" ({min(means):+.1f} to {max(means):+.1f})" if len(means) > 1 else ""
    counts = [
        f"{sum(gain.verdict == name for gain in gains)} {name}"
        for name in ("better", "worse", "within chance")
    ]
    return f"{sum(means) / len(means):+.1f} %{spread}", ", ".join(counts)


def of_data_set(folder: str, results: AccuracyResults, files: Path) -> list[str]:
    """Return the section of one data set."""
    data, machine = results.dataset, results.environment
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"## {data.name}",
        "",
        f"{data.num_users:,} test users, {data.num_items:,} items, {data.split}; headline: "
        f"{data.protocol.replace('_', ' ')}. Fingerprint `{data.fingerprint[:12]}`. "
        f"{machine.cpu}, {machine.os}, Python {machine.python}, {versions}.",
        "",
    ]
    if (files / folder / "accuracy.png").is_file():
        lines += [f"![Gains over the control](results/{folder}/accuracy.png)", ""]
    lines += [f"The numbers: [accuracy.json](results/{folder}/accuracy.json).", ""]
    if any(row.by_frequency is None for row in results.rows):
        lines += [
            "Measured with the recipe before fused item tables, when students' tables only started "
            "from the texts: to be measured again.",
            "",
        ]
    if (files / folder / "benchmark.json").is_file():
        lines += of_benchmark(folder, data.name, files)
    for arch in results.archs:
        rows = [row for row in results.rows if row.arch == arch]
        lines += [f"### {data.name}, {arch}", "", *accuracy_tables(rows, results)]
        for section in (attribution, losses, what_helped, cost, commands):
            lines += section(rows)
    return lines + teacher_cost(results.teacher)


def of_benchmark(folder: str, name: str, files: Path) -> list[str]:
    """Return the section on a data set's accuracy and latency, other libraries beside them."""
    results = load(LatencyResults, files / folder / "benchmark.json")
    lines = [f"### {name}: accuracy and latency", ""]
    if (files / folder / "benchmark.png").is_file():
        lines += [f"![NDCG@10 over latency](results/{folder}/benchmark.png)", ""]
    lines += [f"The numbers: [benchmark.json](results/{folder}/benchmark.json).", ""]
    return lines + preformatted(format_latency(results))


def accuracy_tables(rows: Sequence[VariantSummary], results: AccuracyResults) -> list[str]:
    """Return the headline table, and the same figures under the other protocol."""
    headline = results.dataset.protocol
    other = "seen_kept" if headline == "seen_excluded" else "seen_excluded"

    def values(row: VariantSummary, protocol: str) -> list[str]:
        metrics = row.metrics[protocol]  # type: ignore[index]
        return [format_metric(metrics[f"{name}@10"]) for name in ("hr", "ndcg", "mrr")]

    def seeds(row: VariantSummary) -> str:
        ndcg = row.metrics[headline]["ndcg@10"]
        return "-" if len(row.seeds) < 2 else f"{ndcg.seed_min:.4f} to {ndcg.seed_max:.4f}"

    cells = [
        [
            row.variant,
            str(len(row.seeds) or "-"),
            *values(row, headline),
            seeds(row),
            format_gain(row.gain_over.get(CONTROL)),
            f"{row.num_parameters:,}",
            number(row.file_bytes and row.file_bytes / 2**20, ".2f"),
        ]
        for row in rows
    ]
    metrics = ["HR@10", "NDCG@10", "MRR@10"]
    headers = ["variant", "seeds", *metrics, "NDCG@10 of the seeds", "NDCG@10 over control"]
    return [
        f"Items {headline.replace('_', ' ')}. Mean over seeds; in brackets the 95 % bootstrap "
        "interval over users.",
        "",
        *markdown([*headers, "parameters", "MiB"], cells),
        f"Items {other.replace('_', ' ')}:",
        "",
        *markdown(["variant", *metrics], [[row.variant, *values(row, other)] for row in rows]),
    ]


def attribution(rows: Sequence[VariantSummary]) -> list[str]:
    """Return what the language model adds, over all targets and by their items' frequency."""
    compared = [row for row in rows if row.gain_over.get(NO_LANGUAGE_MODEL)]
    if not compared:
        return []
    groups = list(dict.fromkeys(name for row in compared for name in row.by_frequency or {}))

    def of_group(row: VariantSummary, name: str) -> str:
        group = (row.by_frequency or {}).get(name)
        return format_gain(group.over_no_language_model if group else None)

    all_targets = [format_gain(row.gain_over[NO_LANGUAGE_MODEL]) for row in compared]
    table = [
        [row.variant, gain, *(of_group(row, name) for name in groups)]
        for row, gain in zip(compared, all_targets, strict=True)
    ]
    headers = ["variant", "all targets", *(f"items with {name} events" for name in groups)]
    return ["NDCG@10 over the same recipe without a language model:", "", *markdown(headers, table)]


def losses(rows: Sequence[VariantSummary]) -> list[str]:
    """Return what is lost from teacher to student, and from fp32 to int8."""
    lines = [
        f"- {what}: NDCG@10 {format_gain(row.gain_over[other])} ({verdict(row.gain_over[other])})"
        for variant, other, what in (
            (DISTILLED, "teacher", "Teacher to student"),
            (INT8, DISTILLED, "fp32 to int8"),
        )
        for row in rows
        if row.variant == variant and other in row.gain_over
    ]
    return [*lines, ""] if lines else []


def what_helped(rows: Sequence[VariantSummary]) -> list[str]:
    """Return the ablation table: each variant against the control and against "distilled"."""

    def cells(row: VariantSummary, other: str) -> list[str]:
        if other not in row.gain_over:
            return ["-", "-"]
        return [format_gain(row.gain_over[other]), verdict(row.gain_over[other])]

    table = [
        [row.variant, row.description, *cells(row, CONTROL), *cells(row, DISTILLED)]
        for row in rows
        if row.gain_over
    ]
    if not table:
        return []
    headers = ["variant", "what it is", "over control", "", "over distilled", ""]
    return [
        "What helped: a variant is better or worse where the paired interval of its NDCG@10 lies "
        "above or below zero.",
        "",
        *markdown(headers, table),
    ]


def cost(rows: Sequence[VariantSummary]) -> list[str]:
    """Return what each stage costs, in CPU-hours: shared ones, then those of one run."""
    shared = list(dict.fromkeys(stage for row in rows for stage in row.shared_times))
    own = list(dict.fromkeys(stage for row in rows for stage in row.times))

    def hours(times: Mapping[str, Cost], stage: str) -> str:
        return number(times[stage].cpu_s / 3600) if stage in times else "-"

    table = [
        [
            row.variant,
            *(hours(row.shared_times, stage) for stage in shared),
            *(hours(row.times, stage) for stage in own),
            str(max((times.num_runs or 0 for times in row.times.values()), default=0)),
        ]
        for row in rows
    ]
    once = f"{' and '.join(shared)}: made once, for all runs that share them.".capitalize()
    return [
        "CPU-hours of one run, mean over the runs that were not interrupted.",
        *([once] if shared else []),
        "",
        *markdown(["variant", *shared, *own, "runs"], table),
    ]


def commands(rows: Sequence[VariantSummary]) -> list[str]:
    """Return the command that computes each variant."""
    return [
        "To compute a variant again (the folders of finished runs must be gone):",
        "",
        *(f"    {row.command}" for row in rows),
        "",
    ]


def teacher_cost(teacher: TeacherCost | None) -> list[str]:
    """Return what the teacher's training cost."""
    if teacher is None:
        return []
    if teacher.cpu_s is None:
        return ["What the teacher cost is not known: it was there before, or was interrupted.", ""]
    return [
        f"Teacher, fine-tuning and knowledge: {number(teacher.cpu_s / 3600, '.2f')} CPU-hours, "
        f"{number(teacher.wall_s and teacher.wall_s / 3600, '.2f')} hours on the clock.",
        "",
        f"    {teacher.command}",
        "",
    ]


def of_catalogue(files: Path) -> list[str]:
    """Return the section on latency over catalogue sizes, nothing if it was not measured."""
    if not (files / "catalogue.json").is_file():
        return []
    results = load(CatalogueResults, files / "catalogue.json")
    sizes = dict.fromkeys(row.num_items for row in results.rows)
    flags = " ".join(map(str, sizes))
    flags += " --baselines" * any(row.family == "baseline" for row in results.rows)
    picture = "![p50 over the number of items](results/catalogue.png)"
    return [
        "## Latency over catalogue sizes",
        "",
        *([picture, ""] if (files / "catalogue.png").is_file() else []),
        describe_catalogue(results),
        "The lower bound is what this machine needed, in turns with the students, to read the "
        "table and to look at each score once. The last column is the profiler's: fractions of "
        "the time within nodes.",
        "",
        *markdown(CATALOGUE_HEADERS, catalogue_cells(results)),
        "The numbers: [catalogue.json](results/catalogue.json). To measure again:",
        "",
        f"    python -m benchmarks.catalogue --num-items {flags}",
        "",
    ]


def of_scaling(files: Path) -> list[str]:
    """Return the section on training over catalogue sizes, nothing if it was not measured."""
    if not (files / "scaling.json").is_file():
        return []
    return [
        "## Preparing and training over catalogue sizes",
        "",
        *preformatted(format_scaling(load(ScalingResults, files / "scaling.json"))),
        "The numbers: [scaling.json](results/scaling.json), from `benchmarks.scaling`; `--help` "
        "has its flags.",
        "",
    ]


def format_page(every: Every, files: Path) -> str:
    """Return the page; what lies beside a result in its folder below `files` is shown, too."""
    lines = [
        "# Results",
        "",
        "Made by `python -m benchmarks.report.results_page` from the JSON files in",
        "`benchmarks/results`; not edited. Every variant is trained and judged by",
        "`python -m benchmarks.accuracy`; validation chooses, the test targets are judged once,",
        "each against the whole catalogue.",
        "",
        *mean_gains(every),
        *of_catalogue(files),
        *of_scaling(files),
    ]
    for folder, results in every.items():
        lines += of_data_set(folder, results, files)
    return "\n".join(lines).rstrip("\n") + "\n"


def draw_pictures(every: Every, files: Path) -> None:
    """Draw each file's picture beside it."""
    for folder, results in every.items():
        save_figure(draw_accuracy(results), files / folder / "accuracy.png")
        if (file := files / folder / "benchmark.json").is_file():
            save_figure(draw_latency(load(LatencyResults, file)), file.with_suffix(".png"))
    if (file := files / "catalogue.json").is_file():
        save_figure(draw_catalogue(load(CatalogueResults, file)), file.with_suffix(".png"))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page and the pictures."""
    config = parse_flags(ResultsConfig, (__doc__ or "").partition("\n")[0], argv)
    every = read_results(config.input)
    if config.pictures:
        draw_pictures(every, config.input)
    write_text(config.output, format_page(every, config.input))
    logger.info("wrote %s", config.output)


if __name__ == "__main__":
    run_main(main)
