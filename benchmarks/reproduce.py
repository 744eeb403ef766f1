"""The commands behind a table of `benchmarks/RESULTS.md`: `python -m benchmarks.reproduce ranking`.

Above each command stands what it took when the kept results were made, as far as that is kept.
Without a table all tables are listed. With `--run` the commands are run one after another, from the
root of the checkout, until one fails; typed again, finished stages are skipped. A data set that
`seqrec.prepare` cannot fetch has to be prepared from your own copy first.
"""

import dataclasses
import logging
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, option, parse_flags
from seqrec.errors import DataError, run_main
from seqrec.sources import DATASETS

from benchmarks.baselines.libraries import BaselinesConfig
from benchmarks.catalogue import CatalogueConfig
from benchmarks.latency import LatencyConfig
from benchmarks.measure.flags import ScalingConfig
from benchmarks.report.results_page import HERE, PARTS, TABLES, Kept, read_results, stage_costs
from benchmarks.report.schema import AccuracyResults, LatencyResults
from benchmarks.report.tables import CONTROL, NO_LANGUAGE_MODEL

logger = logging.getLogger(__name__)

# Tables of the accuracy grid with the variants that they show, none: all; and those of latency.
ACCURACY: dict[str, tuple[str, ...]] = {
    "ranking": (),
    "added": tuple(dict.fromkeys(name for pair in PARTS.values() for name in pair)),
    "where": (NO_LANGUAGE_MODEL, "distilled", "distilled-int8"),
    "training": (CONTROL, "distilled"),
}
LATENCY = ("libraries", "answer", "memory", "training")
Step = tuple[str, str]  # what is known of a command, and the command


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Flags of `benchmarks.reproduce`."""

    table: str | None = flag(None, "name of the table; none: list them", positional=True)
    data: tuple[str, ...] = flag((), "these data sets alone, as the page names them")
    run: bool = flag(False, "run the commands")


def hours(cpu_s: Iterable[float | None]) -> str:
    """Say how many hours a command took; None for a part that is not known."""
    parts = list(cpu_s)
    known = [part / 3600 for part in parts if part is not None]
    said = [f"{sum(known):.2f}"] * bool(known) + ["unknown"] * (len(known) < len(parts))
    return f"CPU hours: {' + '.join(said)}"


def changed(config_class: type, kept: Mapping[str, Any]) -> str:
    """Return the flags of a kept run that differ from today's defaults, folders left out."""
    words = []
    for field in dataclasses.fields(config_class):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        value, name = kept.get(field.name, default), option(field.name)
        if value == default or field.name in ("data_dir", "output_dir", "compare_with"):
            continue
        if isinstance(value, bool):
            words.append(name if value else name.replace("--", "--no-", 1))
        else:
            words += [name, *map(str, value if isinstance(value, list) else [value])]
    return "".join(f" {shlex.quote(word)}" for word in words)


def train_variants(name: str, results: AccuracyResults, variants: Sequence[str]) -> Iterator[Step]:
    """Yield the commands of the accuracy grid, fewer seeds first: the last one sums up all."""
    costs = {"teacher": results.teacher.cpu_s} if results.teacher else {}
    by_seeds: dict[tuple[int, ...], dict[str, None]] = {}
    for row in results.rows:
        if row.variant in (variants or {row.variant}):
            by_seeds.setdefault(row.seeds or results.seeds, {})[row.variant] = None
            costs |= {f"{s} {c.cpu_s}": c.cpu_s for s, c in row.shared_times.items()}
            costs |= {f"{r.folder} {s}": c.cpu_s for r in row.runs for s, c in r.times.items()}
    note = hours(costs.values())
    shared = f" {shlex.quote(f'--student-flags={results.student_flags}')}"
    flags = shared if results.student_flags else ""
    for seeds in sorted(by_seeds, key=len):
        chosen = f"--seeds {' '.join(map(str, seeds))} --variants {' '.join(by_seeds[seeds])}"
        yield note, f"python -m benchmarks.accuracy --data-dir data/{name} {chosen}{flags}"
        note = "counted above"


def time_systems(name: str, timed: LatencyResults, accuracy: AccuracyResults) -> Iterator[Step]:
    """Yield the stages up to `benchmark.json`."""
    data = f"--data-dir data/{name}"
    stages = data + next((f" --budget {row.budget}" for row in timed.rows if row.budget), "")
    costs = {} if accuracy.is_earlier else stage_costs(accuracy)
    yield hours([costs.pop("teacher", None)]), f"accelerate launch teacher/finetune.py {stages}"
    yield hours(costs.values() or [None]), f"python -m student.distill {stages}"
    if minutes := {row.training.minutes for row in timed.rows if row.training}:
        command = f"python -m benchmarks.baselines {data}{changed(BaselinesConfig, timed.config)}"
    else:
        command = f"python -m benchmarks.latency {data}{changed(LatencyConfig, timed.config)}"
    yield hours([*(60 * each for each in minutes), None]), command


def steps_behind(table: str, kept: Kept, names: Iterable[str]) -> Iterator[Step]:
    """Yield the commands behind a table, those of data sets for the named ones."""
    for name in names:
        accuracy, timed = kept.accuracy[name], kept.latency.get(name) if table in LATENCY else None
        if timed or table in ACCURACY:
            is_earlier = (timed or accuracy).is_earlier
            note = (
                accuracy.dataset.label + "; the kept figures are an earlier recipe's" * is_earlier
            )
            public = name in DATASETS
            source = f"--dataset {name}" if public else "--interactions LOG --items CATALOGUE"
            split = f"--split {accuracy.dataset.split}"
            yield note, f"python -m seqrec.prepare {source} {split} --output-dir data/{name}"
        if table in ACCURACY:
            yield from train_variants(name, accuracy, ACCURACY[table])
        if timed:
            yield from time_systems(name, timed, accuracy)
    for measured, config in ((kept.catalogue, CatalogueConfig), (kept.scaling, ScalingConfig)):
        if measured and measured.KIND == table:
            yield hours([None]), measured.COMMAND + changed(config, measured.config)


def run(commands: Iterable[str]) -> None:
    """Run commands one after another; data sets that are there are not prepared again.

    Raises:
        DataError: a data set is missing that cannot be fetched, or a command failed.
    """
    steps = [shlex.split(command) for command in commands]
    steps = [s for s in steps if "seqrec.prepare" not in s or not Path(s[-1]).is_dir()]
    for words in steps:
        if "LOG" in words:
            raise DataError(
                f"{words[-1]} is not there. Prepare it from your own copy: {shlex.join(words)}; or "
                "name the data sets that you have: --data NAME"
            )
    for words in steps:
        logger.info("%s", shlex.join(words))
        launcher = ["accelerate.commands.launch"] * (words[0] == "accelerate")
        program = [sys.executable, "-m", *launcher, *words[2:]]
        if code := subprocess.run(program, check=False).returncode:
            raise DataError(f"{shlex.join(words)} ended with exit code {code}: see above")


def main(argv: Sequence[str] | None = None) -> None:
    """Show the commands or run them."""
    config = parse_flags(ReproduceConfig, (__doc__ or "").partition("\n")[0], argv)
    kept, table = read_results(HERE / "results"), config.table
    if table and table not in TABLES:
        raise DataError(f"there is no table {table!r}; expected one of {', '.join(TABLES)}")
    if strange := set(config.data) - set(kept.accuracy):
        have = ", ".join(kept.accuracy)
        raise DataError(f"--data {min(strange)}: there are no results of it, but of {have}")
    if table is None:
        sys.stdout.write("\n".join(TABLES) + "\n")
        return
    steps = list(steps_behind(table, kept, config.data or kept.accuracy))
    if config.run:
        run(command for _, command in steps)
    else:
        sys.stdout.write("".join(f"# {note}\n{command}\n" for note, command in steps))


if __name__ == "__main__":
    run_main(main)
