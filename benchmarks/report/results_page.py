"""The page of results, from kept JSON files: `python -m benchmarks.report.results_page`.

Reads `benchmarks/results/*/accuracy.json` and, where it is beside one, `benchmark.json`; also
`catalogue.json` and `scaling.json`. Fills the template `results.md` into `benchmarks/RESULTS.md`,
and draws the pictures beside the files anew. No figure on that page is typed.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from seqrec.config import flag, parse_flags
from seqrec.errors import DataError, run_main
from seqrec.files import write_text

from benchmarks.report.files import load
from benchmarks.report.page import templates
from benchmarks.report.plots import (
    draw_accuracy,
    draw_catalogue,
    draw_language_model,
    draw_latency,
    save_figure,
)
from benchmarks.report.schema import (
    AccuracyResults,
    CatalogueResults,
    Estimate,
    LatencyResults,
    Results,
    ScalingResults,
    SystemResult,
)
from benchmarks.report.tables import (
    CONTROL,
    NO_LANGUAGE_MODEL,
    Cell,
    catalogue,
    estimate,
    format_gain,
    gains_by_frequency,
    grid,
    heading,
    number,
    scaling,
)

logger = logging.getLogger(__name__)

HERE = Path(__file__).parents[1]
T = TypeVar("T", bound=Results)
Cells = Iterator[Cell]


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """Flags of `benchmarks.report.results_page`."""

    input: Path = flag(HERE / "results", "folder with a folder of results for each data set")
    output: Path = flag(HERE / "RESULTS.md", "page to write")
    pictures: bool = flag(True, "draw the pictures beside the files anew")


@dataclass(frozen=True)
class Kept:
    """All that is kept; what is not there is None or missing."""

    accuracy: dict[str, AccuracyResults]  # by the name of the folder, earlier recipes last
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
    accuracy = {name: load(AccuracyResults, folder / name / "accuracy.json") for name in names}
    names.sort(key=lambda name: accuracy[name].is_earlier)
    latency = {name: read(LatencyResults, f"{name}/benchmark.json") for name in names}
    return Kept(
        {name: accuracy[name] for name in names},
        {name: results for name, results in latency.items() if results is not None},
        read(CatalogueResults, "catalogue.json"),
        read(ScalingResults, "scaling.json"),
    )


# --- The tables -----------------------------------------------------------------------------------

PARTS = {  # what adds something, and its gain: of which variant, over which
    "recipe": ("distilled-int8", CONTROL),
    "language model": ("distilled-int8", NO_LANGUAGE_MODEL),
    "bags of words": ("words-and-auxiliaries", NO_LANGUAGE_MODEL),
    "teacher's tuning": ("distilled", "text-and-auxiliaries"),
}


def ranking(kept: Kept) -> Cells:
    """Yield NDCG@10 of each variant, students' of one architecture together."""
    rows = [(results, row) for results in kept.accuracy.values() for row in results.rows]
    for results, row in sorted(rows, key=lambda pair: pair[1].arch):
        name = row.variant if row.kind in ("popularity", "teacher") else f"{row.arch} {row.variant}"
        yield name, heading(results), estimate(row.metrics[results.dataset.protocol]["ndcg@10"])


def added(kept: Kept) -> Cells:
    """Yield what parts of the recipe add to NDCG@10."""
    for results in kept.accuracy.values():
        for arch in results.archs:
            for part, (variant, other) in PARTS.items():
                gains = row.gain_over if (row := results.find(variant, arch)) else {}
                yield f"{heading(results)}, {arch}", part, format_gain(gains.get(other))


def shown_systems(results: LatencyResults) -> Iterator[tuple[str, SystemResult]]:
    """Yield what somebody would put to work, and the teacher, each after its name."""
    for row in results.rows:
        if row.family in ("gru", "transformer"):
            if row.role != CONTROL and row.precision == "int8" and row.variant != "optimum":
                yield row.label, row
        elif row.family != "popularity":
            yield row.system, row


def libraries(kept: Kept) -> Cells:
    """Yield NDCG@10 of the students' files and of other libraries' models."""
    for results in kept.latency.values():
        for name, row in shown_systems(results):
            mean, low, high = (row.metrics[f"ndcg@10{end}"] for end in ("", "_low", "_high"))
            cut_short = ", cut short" * bool(row.training and row.training.cut_short)
            if row.variant is None:  # another variant has the same lists
                ndcg = estimate(Estimate(mean=mean, low=low, high=high))
                yield name, heading(results), ndcg + cut_short
        for failure in results.failed:
            yield failure.system, heading(results), "failed"


def answer(kept: Kept) -> Cells:
    """Yield p50 and p95 of an answer in ms, after how busy the machine was."""
    for results in kept.latency.values():
        busy = number(results.environment.other_work, ".1f")
        yield "cores busy with other work", heading(results), busy
        for name, row in shown_systems(results):
            p50, p95 = number(row.latency_ms.p50), number(row.latency_ms.p95)
            yield name, heading(results), f"{p50} ({p95})"


def memory(kept: Kept) -> Cells:
    """Yield the peak memory of a process and the size of the file, in MiB."""
    for results in kept.latency.values():
        for name, row in shown_systems(results):
            peak = row.start_up.peak_mib if row.start_up else None
            yield name, heading(results), f"{number(peak, ',.0f')} ({row.size_mib:.2f})"


def stage_costs(results: AccuracyResults) -> dict[str, float]:
    """Return the CPU seconds that are known of what `student.distill` and its teacher train."""
    costs = {"teacher": results.teacher.cpu_s if results.teacher else None}
    for row in (row for row in results.rows if row.variant in (CONTROL, "distilled")):
        costs |= {stage: cost.cpu_s for stage, cost in row.shared_times.items()}
        train = row.times.get("train")
        costs[f"{row.arch} {row.variant}"] = train.cpu_s if train else None
    return {stage: cpu_s for stage, cpu_s in costs.items() if cpu_s is not None}


def training(kept: Kept) -> Cells:
    """Yield CPU minutes of training, our own and other libraries'."""
    for name, results in kept.accuracy.items():
        for stage, cpu_s in stage_costs(results).items():
            yield stage, heading(results), number(cpu_s / 60, ".1f")
        latency = kept.latency.get(name)
        for system, row in shown_systems(latency) if latency else ():
            if took := row.training:
                gpu = ", GPU" * (took.device != "cpu")
                yield system, heading(results), f"{took.minutes:.1f}{gpu}"


# By the name that `benchmarks.reproduce` takes.
TABLES: dict[str, Callable[[Kept], Cells]] = {
    "ranking": ranking,
    "libraries": libraries,
    "added": added,
    "where": lambda kept: gains_by_frequency(kept.accuracy.values()),
    "answer": answer,
    "memory": memory,
    "catalogue": lambda kept: catalogue(kept.catalogue) if kept.catalogue else iter(()),
    "training": training,
    "scaling": lambda kept: scaling(kept.scaling) if kept.scaling else iter(()),
}


# --- The page -------------------------------------------------------------------------------------


def format_page(kept: Kept, pictures: Path) -> str:
    """Return the page; pictures that are in their folder are shown."""
    # Of several wordings the first data set's, which is of today's recipe if any is.
    rows = [row for results in reversed(kept.accuracy.values()) for row in results.rows]
    shown = {
        "kept": kept,
        "tables": {name: grid(cells(kept)) for name, cells in TABLES.items()},
        "described": dict(sorted({row.variant: row.description for row in rows}.items())),
        "is_there": lambda name: (pictures / name).is_file(),
    }
    return templates().get_template("results.md").render(shown).rstrip() + "\n"


def draw_pictures(kept: Kept, folder: Path) -> None:
    """Draw each file's picture beside it, and one of what the language model adds on all."""
    if any(TABLES["where"](kept)):
        save_figure(draw_language_model(kept.accuracy.values()), folder / "gains.png")
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
