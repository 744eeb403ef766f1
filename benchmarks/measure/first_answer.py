"""What a system costs before its first answer, measured in this process: load it, ask it once.

    python -m benchmarks.measure.first_answer --folder runs/ml-100k/export/gru-distilled-int8

prints `StartUp` as JSON: `load_ms`, from the start of the process until the system is ready;
`first_ms`, the first request; `peak_mib`, the most memory that the process held, Python and
libraries included. An exported student is opened by the client that is shipped,
`export.recommender`, without PyTorch.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqrec.config import flag, parse_flags
from seqrec.errors import run_main

import numpy as np

from benchmarks.measure.startup import STARTED, peak_mib
from benchmarks.report.schema import StartUp


@dataclass(frozen=True, kw_only=True)
class StartUpConfig:
    """Flags of `benchmarks.measure.first_answer`."""

    folder: Path = flag(
        Path("runs/ml-100k/export/transformer-distilled-int8"),
        "an exported student, or a fine-tuned teacher",
    )
    num_threads: int = flag(1, "threads of each call")
    device: Literal["cpu", "cuda"] = flag("cpu", "where a teacher runs")


def measure_here(config: StartUpConfig) -> StartUp:
    """Load what is in the folder, ask it once, and return what that cost this process."""
    started = int(os.environ.get(STARTED, time.monotonic_ns()))
    if (config.folder / "teacher.json").is_file():
        from benchmarks.measure import students

        teacher = students.TeacherSystem(config.folder, config.num_threads, config.device)
        ready = time.monotonic_ns()
        teacher.recommend(np.array([[1]]), np.zeros((1, 0), dtype=np.int64), np.array([1]))
    else:
        from export.recommender import Recommender

        recommender = Recommender.from_pretrained(config.folder, config.num_threads)
        ready = time.monotonic_ns()
        recommender.recommend(recommender.item_ids[:1])
    answered = time.monotonic_ns()
    return StartUp(
        load_ms=(ready - started) / 1e6, first_ms=(answered - ready) / 1e6, peak_mib=peak_mib()
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure in this process and print JSON."""
    config = parse_flags(StartUpConfig, (__doc__ or "").partition("\n")[0], argv)
    sys.stdout.write(json.dumps(dataclasses.asdict(measure_here(config))) + "\n")


if __name__ == "__main__":
    run_main(main)
