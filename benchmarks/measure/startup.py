"""What systems cost before their first answer: processes are started that tell it of themselves."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from seqrec.errors import ModelError

import numpy as np

from benchmarks.report.files import from_json
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

    def median(name: str) -> float | None:
        known = [value for start in starts if (value := getattr(start, name, None)) is not None]
        return float(np.median(known)) if known else None

    if not any(starts):
        return None
    return StartUp(**{name: median(name) for name in ("load_ms", "first_ms", "peak_mib")})


def measure_start_up(folder: Path, num_threads: int, device: str = "cpu") -> StartUp:
    """Return what `benchmarks.measure.first_answer` says of itself.

    Raises:
        ModelError: the process failed; the message ends with its last line.
    """
    words = [
        sys.executable,
        "-m",
        "benchmarks.measure.first_answer",
        f"--folder={folder.resolve()}",
    ]
    environment = {
        **os.environ,
        STARTED: str(time.monotonic_ns()),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [*words, f"--num-threads={num_threads}", f"--device={device}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = last_line(done.stderr)
        raise ModelError(f"{folder} could not be opened in a process of its own: {reason}")
    found: StartUp = from_json(StartUp, json.loads(done.stdout.splitlines()[-1]))
    return found
