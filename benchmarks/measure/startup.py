"""What systems cost before their first answer: processes are started that tell it of themselves."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from seqrec.errors import ModelError

from benchmarks.report.schema import StartUp

ROOT = Path(__file__).resolve().parents[2]
STARTED = "SEQREC_STARTED_NS"  # when the parent started the process, by the clock both share


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
    """Return what `benchmarks.measure.first_answer` says of itself.

    Raises:
        ModelError: the process failed; the message ends with its last line.
    """
    words = [f"--folder={folder.resolve()}", f"--num-threads={num_threads}", f"--device={device}"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure.first_answer", *words],
        env={**os.environ, STARTED: str(time.monotonic_ns()), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = last_line(done.stderr)
        raise ModelError(f"{folder} could not be opened in a process of its own: {reason}")
    return StartUp(**json.loads(done.stdout.splitlines()[-1]))
