"""Training over catalogue sizes: `python -m benchmarks.scaling --num-items 10000 100000 1000000`.

For each size a log is invented (`benchmarks.synthetic_log`), prepared, and trained on for some
steps: by the students and, if `--teacher` names a language model, by a teacher on it; their items'
text components are random. All is run as a user runs it, each in a process of its own, so that its
memory can be told (`measure/training.py`).

Writes `scaling.json` (`ScalingResults` in `benchmarks/report/schema.py`), and a table to stdout.
"""

import logging
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from seqrec.config import parse_flags, to_json
from seqrec.errors import run_main

from benchmarks.measure.flags import ScalingConfig
from benchmarks.measure.machine import OtherWork, describe_machine
from benchmarks.report.files import save
from benchmarks.report.schema import ScalingResults, ScalingRow
from benchmarks.report.tables import format_scaling
from benchmarks.synthetic_log import LogConfig, make_log

logger = logging.getLogger(__name__)

Measure = Callable[[Path, ScalingConfig], dict[str, Any]]  # fields of `ScalingRow`


def measure_scaling(config: ScalingConfig) -> ScalingResults:
    """Prepare and train at all sizes."""
    machine, others = describe_machine(config.num_threads), OtherWork()
    rows = []
    for num_events, num_users, num_items in config.logs():
        size: dict[str, Any] = {"num_events": num_events, "num_items": num_items}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            log = folder / "log"
            make_log(LogConfig(output_dir=log, num_users=num_users, seed=config.seed, **size))
            measured = measure_log(folder, config).items()
        rows += [ScalingRow(**size, system=name, **fields) for name, fields in measured]
    return ScalingResults(
        config=to_json(config),
        environment=replace(machine, other_work=others.cores()),
        rows=tuple(rows),
    )


def measure_log(folder: Path, config: ScalingConfig) -> dict[str, dict[str, Any]]:
    """Return what preparing and each training of one log take, as fields of `ScalingRow`."""
    from benchmarks.measure import training  # loads PyTorch

    systems: dict[str, list[Measure]] = {
        "prepare": [training.measure_prepare],
        "transformer": [partial(training.train_student, "transformer")],
        "gru": [partial(training.train_student, "gru")],
    }
    if config.teacher:
        systems["teacher"] = [training.plan_teacher, training.train_teacher]
    fields: dict[str, dict[str, Any]] = {system: {} for system in systems}
    for system, measures in systems.items():
        for measure in measures:
            logger.info("measuring %s", system)
            # A new process, whose memory is its own.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                fields[system] |= pool.submit(measure, folder, config).result()
    return fields


def main(argv: Sequence[str] | None = None) -> None:
    """Measure as the command line asks."""
    config = parse_flags(ScalingConfig, (__doc__ or "").partition("\n")[0], argv)
    results = measure_scaling(config)
    save(results, config.output_dir / "scaling.json")
    sys.stdout.write(format_scaling(results))


if __name__ == "__main__":
    run_main(main)
