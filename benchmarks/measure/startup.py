"""What a system costs before its first answer, measured in a process of its own.

    python -m benchmarks.measure.startup --folder runs/ml-100k/export/gru-distilled-int8

prints `StartUp` as JSON: `load_ms`, from the start of the process until the system is ready;
`first_ms`, the first request; `peak_mib`, the most memory that the process held, Python and
libraries included. An exported student is opened by the client that is shipped,
`export.recommender`, without PyTorch.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqrec.config import flag, parse_flags
from seqrec.errors import ModelError, run_main

import numpy as np

from benchmarks.report.schema import StartUp

ROOT = Path(__file__).resolve().parents[2]
STARTED = "SEQREC_STARTED_NS"  # when the parent started the process, by the clock both share


@dataclass(frozen=True, kw_only=True)
class StartUpConfig:
    """Flags of `benchmarks.measure.startup`."""

    folder: Path = flag(
        Path("runs/ml-100k/export/transformer-distilled-int8"),
        "an exported student, or a fine-tuned teacher",
    )
    num_threads: int = flag(1, "threads of each call")
    device: Literal["cpu", "cuda"] = flag("cpu", "where a teacher runs")


def peak_mib(process: int | str = "self") -> float | None:
    """Return the most memory that a process has held so far, in MiB; None if it is not known."""
    status = Path(f"/proc/{process}/status")  # getrusage's figure starts with the parent's
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return None


def last_line(text: str) -> str:
    """Return the last line that says something of what a failed process printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def median_start_up(starts: Sequence[StartUp | None]) -> StartUp | None:
    """Return the median of each figure; None if there is none."""
    measured = [dataclasses.asdict(start) for start in starts if start is not None]
    known = {
        name: [values[name] for values in measured if values[name] is not None]
        for name in (measured[0] if measured else ())
    }
    medians = {name: statistics.median(values) for name, values in known.items() if values}
    return StartUp(**medians) if measured else None


def measure_start_up(folder: Path, num_threads: int, device: str = "cpu") -> StartUp:
    """Start this module as a program and return what it says of itself.

    Raises:
        ModelError: the process failed; the message ends with its last line.
    """
    words = [f"--folder={folder.resolve()}", f"--num-threads={num_threads}", f"--device={device}"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure.startup", *words],
        env={**os.environ, STARTED: str(time.monotonic_ns()), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = last_line(done.stderr)
        raise ModelError(f"{folder} could not be opened in a process of its own: {reason}")
    return StartUp(**json.loads(done.stdout.splitlines()[-1]))


def measure_here(config: StartUpConfig) -> StartUp:
    """Load what is in the folder, ask it once, and return what that cost this process."""
    started = int(os.environ.get(STARTED, time.monotonic_ns()))
    if (config.folder / "teacher.json").is_file():
        from benchmarks.measure import systems

        teacher = systems.TeacherSystem(config.folder, config.num_threads, config.device)
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
