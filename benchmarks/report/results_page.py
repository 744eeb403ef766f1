"""The page of results, from kept JSON files: `python -m benchmarks.report.results_page`.

Reads `benchmarks/results/*/accuracy.json` and, where it is beside one, `benchmark.json`; also
`catalogue.json` and `scaling.json`. Fills the template `results.md` into `benchmarks/RESULTS.md`,
and draws the pictures beside the files anew. No figure on that page is typed.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from seqrec.config import flag, parse_flags
from seqrec.errors import DataError, run_main
from seqrec.files import write_text

from benchmarks.report.files import load
from benchmarks.report.page import templates
from benchmarks.report.plots import draw_accuracy, draw_catalogue, draw_latency, save_figure
from benchmarks.report.schema import (
    AccuracyResults,
    CatalogueResults,
    Gain,
    LatencyResults,
    Results,
    ScalingResults,
    VariantSummary,
)
from benchmarks.report.tables import (
    CONTROL,
    NO_LANGUAGE_MODEL,
    Columns,
    format_catalogue,
    format_gain,
    format_latency,
    format_metric,
    format_scaling,
    make_table,
    number,
    over,
)

logger = logging.getLogger(__name__)

HERE = Path(__file__).parents[1]
T = TypeVar("T", bound=Results)
Cell = Callable[[VariantSummary], str]


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """Flags of `benchmarks.report.results_page`."""

    input: Path = flag(HERE / "results", "folder with a folder of results for each data set")
    output: Path = flag(HERE / "RESULTS.md", "page to write")
    pictures: bool = flag(True, "draw the pictures beside the files anew")


@dataclass(frozen=True)
class Kept:
    """All that is kept; what is not there is None or missing."""

    accuracy: dict[str, AccuracyResults]  # by the name of the folder
    latency: dict[str, LatencyResults]
    catalogue: CatalogueResults | None
    scaling: ScalingResults | None


def read_results(folder: Path) -> Kept:
    """Read all files; `DataError` if there is no `accuracy.json`, or a damaged file."""

    def read(results_class: type[T], name: str) -> T | None:
        return load(results_class, folder / name) if (folder / name).is_file() else None

    names = sorted(file.parent.name for file in folder.glob("*/accuracy.json"))
    if not names:
        raise DataError(
            f"no */accuracy.json in {folder}. Make one: python -m benchmarks.accuracy --data-dir "
            f"data/NAME, and copy its folder's accuracy.json to {folder / 'NAME'}"
        )
    latency = {name: read(LatencyResults, f"{name}/benchmark.json") for name in names}
    return Kept(
        {name: load(AccuracyResults, folder / name / "accuracy.json") for name in names},
        {name: results for name, results in latency.items() if results is not None},
        read(CatalogueResults, "catalogue.json"),
        read(ScalingResults, "scaling.json"),
    )


def markdown(rows: Iterable[Any], columns: Columns[Any]) -> str:
    """Return a Markdown table."""
    return make_table(rows, columns, style="github")


# --- Gains over the control, in the mean over data sets -------------------------------------------


def mean_gains(every: Sequence[AccuracyResults]) -> str:
    """Return the table of gains over the control, in the mean over data sets."""
    described = {row.variant: row.description for results in every for row in results.rows}
    columns: dict[str, Callable[[str], str]] = {"variant": str}
    for arch in dict.fromkeys(arch for results in every for arch in results.archs):
        columns[arch] = partial(_mean_gain, every, arch)
        columns[f"{arch}: data sets"] = partial(_verdicts, every, arch)
    return markdown(described, {**columns, "what it is": described.__getitem__})


def _gains(every: Sequence[AccuracyResults], arch: str, variant: str) -> list[Gain]:
    rows = [results.find(variant, arch) for results in every]
    return [gain for row in rows if row and (gain := row.gain_over.get(CONTROL))]


def _mean_gain(every: Sequence[AccuracyResults], arch: str, variant: str) -> str:
    """Return a variant's mean gain, and in brackets the least and the most."""
    means = [gain.mean for gain in _gains(every, arch, variant)]
    if not means:
        return "-"
    spread = f" ({min(means):+.1f} to {max(means):+.1f})" if len(means) > 1 else ""
    return f"{sum(means) / len(means):+.1f} %{spread}"


def _verdicts(every: Sequence[AccuracyResults], arch: str, variant: str) -> str:
    """Return on how many data sets a variant is better, worse, or neither."""
    verdicts = [gain.verdict for gain in _gains(every, arch, variant)]
    counts = [f"{verdicts.count(name)} {name}" for name in ("better", "worse", "within chance")]
    return ", ".join(counts) if verdicts else "-"


# --- One architecture on one data set -------------------------------------------------------------


def metrics(protocol: Any) -> Columns[VariantSummary]:
    """Return the columns of the metrics under a protocol."""

    def metric(name: str) -> Cell:
        return lambda row: format_metric(row.metrics[protocol][name])

    return {name.upper(): metric(name) for name in ("hr@10", "ndcg@10", "mrr@10")}


def accuracy_table(rows: Sequence[VariantSummary], protocol: Any) -> str:
    """Return the headline table, with the gains over the variants that others are held against."""

    def seeds(row: VariantSummary) -> str:
        ndcg = row.metrics[protocol]["ndcg@10"]
        return "-" if len(row.seeds) < 2 else f"{ndcg.seed_min:.4f} to {ndcg.seed_max:.4f}"

    compared = (CONTROL, NO_LANGUAGE_MODEL, "teacher", "distilled")
    return markdown(
        rows,
        {
            "variant": lambda row: row.variant,
            "seeds": lambda row: str(len(row.seeds) or "-"),
            **metrics(protocol),
            "NDCG@10 of the seeds": seeds,
            **{f"over {n}": over(n) for n in compared if any(r.gain_over.get(n) for r in rows)},
            "parameters": lambda row: f"{row.num_parameters:,}",
            "MiB": lambda row: number(row.file_bytes and row.file_bytes / 2**20, ".2f"),
        },
    )


def protocol_table(rows: Sequence[VariantSummary], protocol: Any) -> str:
    """Return the metrics under a protocol."""
    return markdown(rows, {"variant": lambda row: row.variant, **metrics(protocol)})


def frequency_table(rows: Sequence[VariantSummary]) -> str:
    """Return what the language model adds, by how frequent the target's item is; "" if nothing."""
    compared = [row for row in rows if row.gain_over.get(NO_LANGUAGE_MODEL)]
    groups = dict.fromkeys(name for row in compared for name in row.by_frequency or {})

    def of_group(name: str) -> Cell:
        def gain(row: VariantSummary) -> Gain | None:
            group = (row.by_frequency or {}).get(name)
            return None if group is None else group.over_no_language_model

        return lambda row: format_gain(gain(row))

    columns: dict[str, Cell] = {
        "variant": lambda row: row.variant,
        "all targets": over(NO_LANGUAGE_MODEL),
        **{f"items with {name} events": of_group(name) for name in groups},
    }
    return markdown(compared, columns) if compared else ""


def cost_table(rows: Sequence[VariantSummary]) -> str:
    """Return what each stage costs, in CPU-hours: shared ones, then those of one run."""

    def hours(stage: str) -> Cell:
        def cell(row: VariantSummary) -> str:
            cost = {**row.shared_times, **row.times}.get(stage)
            return number(None if cost is None else cost.cpu_s / 3600)

        return cell

    shared = dict.fromkeys(stage for row in rows for stage in row.shared_times)
    single = dict.fromkeys(stage for row in rows for stage in row.times)
    columns: dict[str, Cell] = {
        "variant": lambda row: row.variant,
        **{f"{stage} (shared)": hours(stage) for stage in shared},
        **{stage: hours(stage) for stage in single},
        "runs": lambda row: str(max((c.num_runs or 0 for c in row.times.values()), default=0)),
    }
    return markdown(rows, columns)


def format_page(kept: Kept, pictures: Path) -> str:
    """Return the page; pictures that are in their folder are shown."""
    environment = templates()
    functions = (
        *(mean_gains, accuracy_table, protocol_table, frequency_table, cost_table),
        *(format_catalogue, format_scaling, format_latency),
    )
    environment.globals |= {function.__name__: function for function in functions}
    environment.globals["is_there"] = lambda name: (pictures / name).is_file()
    environment.filters["hours"] = lambda seconds: number(seconds / 3600, ".2f")
    return environment.get_template("results.md").render(kept=kept).rstrip() + "\n"


def draw_pictures(kept: Kept, folder: Path) -> None:
    """Draw each file's picture beside it."""
    for name, accuracy in kept.accuracy.items():
        save_figure(draw_accuracy(accuracy), folder / name / "accuracy.png")
    for name, latency in kept.latency.items():
        save_figure(draw_latency(latency), folder / name / "benchmark.png")
    if kept.catalogue is not None:
        save_figure(draw_catalogue(kept.catalogue), folder / "catalogue.png")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page and the pictures."""
    config = parse_flags(ResultsConfig, (__doc__ or "").partition("\n")[0], argv)
    kept = read_results(config.input)
    if config.pictures:
        draw_pictures(kept, config.input)
    write_text(config.output, format_page(kept, config.input))
    logger.info("wrote %s", config.output)


if __name__ == "__main__":
    run_main(main)
