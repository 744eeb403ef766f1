"""The page of results, from kept JSON files: `python -m benchmarks.report.results_page`.

Reads `benchmarks/results/*/accuracy.json`, as `benchmarks.accuracy` writes them, and what is beside
them of `benchmarks.latency`, `benchmark.json`; `catalogue.json`, and one file each of
`benchmarks.scaling`, if they are there. Writes
`benchmarks/RESULTS.md`. No figure and no verdict on that page is typed: the rules are below.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags
from seqrec.errors import DataError, run_main
from seqrec.files import read_json

import numpy as np

from benchmarks.catalogue import HEADERS, describe, table_cells
from benchmarks.catalogue import SCHEMA as CATALOGUE_SCHEMA
from benchmarks.grid.summary import SCHEMA, format_gain, format_metric
from benchmarks.grid.variants import CONTROL, DISTILLED, NO_LANGUAGE_MODEL
from benchmarks.report.regression import SCHEMA as BENCHMARK_SCHEMA
from benchmarks.report.tables import format_table
from benchmarks.scaling import format_scaling

logger = logging.getLogger(__name__)

HERE = Path(__file__).parents[1]
INT8 = "distilled-int8"
# What is kept beside the data sets' folders: title, module that wrote it, how it shows it.
RUNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("Preparing and training over catalogue sizes", "benchmarks.scaling", format_scaling),
)
Results = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """Flags of `benchmarks.report.results_page`."""

    input: Path = flag(HERE / "results", "folder with a folder of results for each data set")
    output: Path = flag(HERE / "RESULTS.md", "page to write")


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return all `accuracy.json`, by the name of their folder, sorted.

    Raises:
        DataError: there is none, or one is damaged or of another version.
    """
    how = "python -m benchmarks.accuracy --data-dir data/NAME"
    found = {
        file.parent.name: _read_kept(file, SCHEMA, how)
        for file in sorted(folder.glob("*/accuracy.json"))
    }
    if not found:
        raise DataError(
            f"no */accuracy.json in {folder}. Make one: {how}, and copy its folder's accuracy.json "
            f"to {folder / 'NAME'}"
        )
    return found


def _read_kept(file: Path, schema: str, how: str) -> dict[str, Any]:
    """Return a file of results; refuse a damaged one and one of another schema."""
    try:
        results = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}). Make it again: {how}") from error
    if results.get("schema") != schema:
        raise DataError(
            f"{file} is of schema {results.get('schema')}, expected {schema}. Make it again: {how}"
        )
    return results


def verdict(gain: Mapping[str, float] | None) -> str:
    """Say what an interval says: it lies above zero, below zero, or holds it."""
    if gain is None:
        return "not known"
    if gain["low"] > 0:
        return "better"
    return "worse" if gain["high"] < 0 else "within chance"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table's lines, a blank one after it."""
    lines = [headers, ["---"] * len(headers), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def find(results: Results, name: str, arch: str) -> Mapping[str, Any] | None:
    """Return a row of the results, None if it was not computed."""
    rows = (row for row in results["rows"] if (row["row"], row["arch"]) == (name, arch))
    return next(rows, None)


def archs_of(results: Results) -> list[str]:
    """Return the architectures that results hold, in order."""
    return list(dict.fromkeys(row["arch"] for row in results["rows"]))


def mean_gains(every: Mapping[str, Results]) -> list[str]:
    """Return the table of gains over the control, in the mean over data sets."""
    names = list(dict.fromkeys(row["row"] for r in every.values() for row in r["rows"]))
    archs = list(dict.fromkeys(arch for r in every.values() for arch in archs_of(r)))
    rows = []
    for name in names:
        line, empty = [name], True
        for arch in archs:
            found = [find(results, name, arch) for results in every.values()]
            gains = [row["gain_over"].get(CONTROL) for row in found if row is not None]
            known = [gain for gain in gains if gain is not None]
            if not known:
                line += ["-", "-"]
                continue
            empty = False
            means = [gain["mean"] for gain in known]
            spread = f" ({min(means):+.1f} to {max(means):+.1f})" if len(means) > 1 else ""
            better = sum(verdict(gain) == "better" for gain in known)
            worse = sum(verdict(gain) == "worse" for gain in known)
            line += [
                f"{np.mean(means):+.1f} %{spread}",
                f"{better} better, {worse} worse, {len(known) - better - worse} within chance",
            ]
        if not empty:
            rows.append(line)
    headers = ["row"] + [text for arch in archs for text in (arch, f"{arch}: data sets")]
    sets = "1 data set" if len(every) == 1 else f"{len(every)} data sets"
    return [
        "## Mean over data sets",
        "",
        f"NDCG@10 over the control of the same architecture, in percent: mean of {sets}"
        + (", in brackets the least and the most; " if len(every) > 1 else "; ")
        + "beside it, on how many data sets the paired 95 % interval lies above or below zero.",
        "",
        *markdown_table(headers, rows),
    ]


def of_data_set(folder: str, results: Results, files: Path) -> list[str]:
    """Return the section of one data set."""
    data, machine = results["dataset"], results["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"## {data['name']}",
        "",
        f"{data['num_users']:,} test users, {data['num_items']:,} items, {data['split']}; "
        f"headline: {data['protocol'].replace('_', ' ')}. "
        f"Fingerprint `{data['fingerprint'][:12]}`. "
        f"{machine['cpu']}, {machine['os']}, Python {machine['python']}, {versions}.",
        "",
    ]
    if (files / folder / "accuracy.png").is_file():
        lines += [f"![Gains over the control](results/{folder}/accuracy.png)", ""]
    lines += [f"The numbers: [accuracy.json](results/{folder}/accuracy.json).", ""]
    if not all("by_frequency" in row for row in results["rows"]):
        lines += [
            "Measured with the recipe before fused item tables, when students' tables only started "
            "from the texts: to be measured again.",
            "",
        ]
    if (files / folder / "benchmark.json").is_file():
        lines += of_benchmark(folder, data["name"], files)
    for arch in archs_of(results):
        own = [row for row in results["rows"] if row["arch"] == arch]
        lines += [f"### {data['name']}, {arch}", "", *accuracy_tables(own, data["protocol"])]
        lines += attribution(own)
        lines += losses(own)
        lines += what_helped(own)
        lines += cost(own)
        lines += commands(own)
    return lines + teacher_cost(results)


def of_benchmark(folder: str, name: str, files: Path) -> list[str]:
    """Return the section on a data set's accuracy and latency, other libraries beside them."""
    how = "python -m benchmarks.latency --device cpu --peers"
    results = _read_kept(files / folder / "benchmark.json", BENCHMARK_SCHEMA, how)
    lines = [f"### {name}: accuracy and latency", ""]
    if (files / folder / "benchmark.png").is_file():
        lines += [f"![NDCG@10 over latency](results/{folder}/benchmark.png)", ""]
    lines += [f"The numbers: [benchmark.json](results/{folder}/benchmark.json).", ""]
    return [*lines, *(f"    {line}".rstrip() for line in format_table(results).splitlines()), ""]


def accuracy_tables(rows: Sequence[Mapping[str, Any]], protocol: str) -> list[str]:
    """Return the headline table, and the same figures under the other protocol."""
    other = "seen_kept" if protocol == "seen_excluded" else "seen_excluded"

    def values(row: Mapping[str, Any], protocol: str) -> list[str]:
        metrics = row["metrics"][protocol]
        return [format_metric(metrics[f"{name}@10"]) for name in ("hr", "ndcg", "mrr")]

    def seeds(row: Mapping[str, Any]) -> str:
        ndcg = row["metrics"][protocol]["ndcg@10"]
        if len(row["seeds"]) < 2:
            return "-"
        return f"{ndcg['seed_min']:.4f} to {ndcg['seed_max']:.4f}"

    headline = [
        [
            row["row"],
            str(len(row["seeds"]) or "-"),
            *values(row, protocol),
            seeds(row),
            format_gain(row["gain_over"].get(CONTROL)),
            f"{row['num_parameters']:,}",
            "-" if row["file_bytes"] is None else f"{row['file_bytes'] / 2**20:.2f}",
        ]
        for row in rows
    ]
    metrics = ["HR@10", "NDCG@10", "MRR@10"]
    return [
        f"Items {protocol.replace('_', ' ')}. Mean over seeds; in brackets the 95 % bootstrap "
        "interval over users.",
        "",
        *markdown_table(
            ["row", "seeds", *metrics, "NDCG@10 of the seeds", "NDCG@10 over control"]
            + ["parameters", "MiB"],
            headline,
        ),
        f"Items {other.replace('_', ' ')}:",
        "",
        *markdown_table(["row", *metrics], [[row["row"], *values(row, other)] for row in rows]),
    ]


def attribution(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the language model adds, over all targets and by their items' frequency."""
    compared = [row for row in rows if row["gain_over"].get(NO_LANGUAGE_MODEL)]
    if not compared:
        return []
    groups = list(dict.fromkeys(name for row in compared for name in row["by_frequency"]))

    def of_group(row: Mapping[str, Any], name: str) -> str:
        return format_gain(row["by_frequency"].get(name, {}).get("over_no_language_model"))

    table = [
        [
            row["row"],
            format_gain(row["gain_over"][NO_LANGUAGE_MODEL]),
            *(of_group(row, name) for name in groups),
        ]
        for row in compared
    ]
    headers = ["row", "all targets", *(f"items with {name} events" for name in groups)]
    return [
        "NDCG@10 over the same recipe without a language model:",
        "",
        *markdown_table(headers, table),
    ]


def losses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is lost from teacher to student, and from fp32 to int8."""
    lines = []
    for name, other, what in (
        (DISTILLED, "teacher", "Teacher to student"),
        (INT8, DISTILLED, "fp32 to int8"),
    ):
        for row in rows:
            if row["row"] == name and other in row["gain_over"]:
                gain = row["gain_over"][other]
                lines.append(f"- {what}: NDCG@10 {format_gain(gain)} ({verdict(gain)})")
    return [*lines, ""] if lines else []


def what_helped(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ablation table: each row against the control and against "distilled"."""
    compared = [row for row in rows if row["gain_over"]]
    if not compared:
        return []

    def cells(row: Mapping[str, Any], other: str) -> list[str]:
        if other not in row["gain_over"]:
            return ["-", "-"]
        gain = row["gain_over"][other]
        return [format_gain(gain), verdict(gain)]

    table = [
        [row["row"], row["about"], *cells(row, CONTROL), *cells(row, DISTILLED)] for row in compared
    ]
    return [
        "What helped: a row is better or worse where the paired interval of its NDCG@10 lies above "
        "or below zero.",
        "",
        *markdown_table(["row", "what it is", "over control", "", "over distilled", ""], table),
    ]


def cost(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what each stage of a row costs, in CPU-hours: shared ones, then those of one cell."""
    shared = list(dict.fromkeys(stage for row in rows for stage in row["shared_times"]))
    own = list(dict.fromkeys(stage for row in rows for stage in row["times"]))

    def hours(times: Mapping[str, float] | None) -> str:
        return "-" if times is None else f"{times['cpu_s'] / 3600:.3f}"

    table = [
        [
            row["row"],
            *(hours(row["shared_times"].get(stage)) for stage in shared),
            *(hours(row["times"].get(stage)) for stage in own),
            str(max((times["num_cells"] for times in row["times"].values()), default=0)),
        ]
        for row in rows
    ]
    once = f"{' and '.join(shared)}: made once, for all cells that share them.".capitalize()
    return [
        "CPU-hours of one cell, mean over the cells that ran in one piece.",
        *([once] if shared else []),
        "",
        *markdown_table(["row", *shared, *own, "cells"], table),
    ]


def commands(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the command that computes each row."""
    return [
        "To compute a row again (the folders of finished cells must be gone):",
        "",
        *(f"    {row['command']}" for row in rows),
        "",
    ]


def teacher_cost(results: Results) -> list[str]:
    """Return what the teacher's training cost."""
    teacher = results["teacher"]
    if teacher is None:
        return []
    if teacher["cpu_s"] is None:
        return ["The teacher was there before: what it cost is not known.", ""]
    broken = " The run was interrupted; this is its last part." if teacher["interrupted"] else ""
    return [
        f"Teacher, fine-tuning and knowledge: {teacher['cpu_s'] / 3600:.2f} CPU-hours, "
        f"{teacher['wall_s'] / 3600:.2f} hours on the clock.{broken}",
        "",
        f"    {teacher['command']}",
        "",
    ]


def read_catalogues(folder: Path) -> Results | None:
    """Return `catalogue.json` of a folder, None if it has none.

    Raises:
        DataError: it is damaged or of another version.
    """
    file = folder / "catalogue.json"
    how = "python -m benchmarks.latency --device cpu --catalogue-sizes 1700 50000"
    return _read_kept(file, CATALOGUE_SCHEMA, how) if file.is_file() else None


def of_catalogues(results: Results, files: Path = HERE / "results") -> list[str]:
    """Return the section on latency over catalogue sizes."""
    picture = "![p50 over the number of items](results/catalogue.png)"
    flags = " ".join(str(size) for size in results["config"]["catalogue_sizes"])
    flags += " --peers" if results["config"].get("peers") else ""
    return [
        "## Latency over catalogue sizes",
        "",
        *([picture, ""] if (files / "catalogue.png").is_file() else []),
        describe(dict(results)),
        "The limit is what this machine needed, in turns with the students, to read the table "
        "and to look at each score once; `over limit` is the p50 over the sum. The last column is "
        "the profiler's: shares of the time within nodes.",
        "",
        *markdown_table(HEADERS, table_cells(dict(results))),
        "The numbers: [catalogue.json](results/catalogue.json). To measure again:",
        "",
        f"    python -m benchmarks.latency --device cpu --catalogue-sizes {flags}",
        "",
    ]


def of_runs(files: Path) -> list[str]:
    """Return a section for each kept run that is about no data set."""
    lines = []
    for title, module, format_run in RUNS:
        file = files / f"{module.rpartition('.')[2]}.json"
        if file.is_file():
            text = format_run(json.loads(file.read_text(encoding="utf-8")))
            lines += [f"## {title}", "", *(f"    {line}".rstrip() for line in text.splitlines())]
            link = f"[{file.name}](results/{file.name})"
            lines += ["", f"The numbers: {link}, from `{module}`; `--help` has its flags.", ""]
    return lines


def format_page(
    every: Mapping[str, Results], files: Path, catalogues: Results | None = None
) -> str:
    """Return the page, which ends in a newline.

    Args:
        every: results by folder.
        files: where those folders are; what lies beside a result is linked.
        catalogues: content of `catalogue.json`, if there is one.
    """
    lines = [
        "# Results",
        "",
        "Made by `python -m benchmarks.report.results_page` from the JSON files in",
        "`benchmarks/results`; not edited. Every row is trained and judged by",
        "`python -m benchmarks.accuracy`; validation",
        "chooses, the test targets are judged once, each against the whole catalogue.",
        "",
        *mean_gains(every),
    ]
    if catalogues is not None:
        lines += of_catalogues(catalogues, files)
    lines += of_runs(files)
    for folder, results in every.items():
        lines += of_data_set(folder, results, files)
    return "\n".join(lines).rstrip("\n") + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    config = parse_flags(ResultsConfig, (__doc__ or "").partition("\n")[0], argv)
    every = read_results(config.input)
    page = format_page(every, config.input, read_catalogues(config.input))
    config.output.parent.mkdir(parents=True, exist_ok=True)
    beside = config.output.with_name(f".{config.output.name}.tmp")
    beside.write_text(page, encoding="utf-8")
    beside.replace(config.output)
    logger.info("wrote %s", config.output)


if __name__ == "__main__":
    run_main(main)
