"""Latency measured in browsers: files of the web page's measure button as a table.

    python -m benchmarks.report.browser --input latency-phone.json latency-laptop.json

They come from elsewhere, so every value is checked: text that a terminal would obey, numbers that
cannot be. `export/web/measure.js` writes them, schema "seqrec-browser-latency/1".
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from seqrec.config import flag, parse_flags
from seqrec.errors import DataError, run_main

from benchmarks.report.files import from_json
from benchmarks.report.tables import make_table, number

SCHEMA = "seqrec-browser-latency/1"
MAX_TEXT = 400
MAX_BYTES = 1_000_000
HEADERS = ["device", "data", "system", "precision", "p50 ms", "p95 ms", "p99 ms", "requests"]


@dataclass(frozen=True)
class Checked:
    """Values that a table can show: short printable text, numbers above zero."""

    def __post_init__(self) -> None:
        """Refuse other values; `ValueError` names the field."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and not (0 < len(value) <= MAX_TEXT and value.isprintable()):
                raise ValueError(
                    f"{field.name} is {value!r:.60}, expected printable text of at most "
                    f"{MAX_TEXT} characters"
                )
            if isinstance(value, int | float) and value <= 0:
                raise ValueError(f"{field.name} is {value!r:.60}, expected a number above 0")


@dataclass(frozen=True, kw_only=True)
class Device(Checked):
    """Where it was measured."""

    name: str  # as its owner calls it


@dataclass(frozen=True, kw_only=True)
class Runtime(Checked):
    """What ran the model."""

    name: str
    version: str
    num_threads: int


@dataclass(frozen=True, kw_only=True)
class Model(Checked):
    """What its config.json says."""

    sha256: str
    arch: str
    role: str | None
    precision: str
    dataset: str


@dataclass(frozen=True, kw_only=True)
class BrowserLatency(Checked):
    """Milliseconds of one request."""

    p50: float
    p95: float
    p99: float

    def __post_init__(self) -> None:
        """Refuse percentiles in another order, too."""
        super().__post_init__()
        if not self.p50 <= self.p95 <= self.p99:
            raise ValueError(f"latency_ms is {self}, expected p50 <= p95 <= p99")


@dataclass(frozen=True, kw_only=True)
class BrowserResult(Checked):
    """What is shown of a file of the measure button; the rest of it is not read."""

    device: Device
    runtime: Runtime
    model: Model
    num_requests: int
    # So many calls were timed together, because the clock is too coarse for one; the percentiles
    # are then those of their means.
    calls_per_sample: int
    latency_ms: BrowserLatency


@dataclass(frozen=True, kw_only=True)
class BrowserConfig:
    """Flags of `benchmarks.report.browser`."""

    input: tuple[Path, ...] = flag((Path("latency.json"),), "files of the page's measure button")


def read_browser_result(file: Path) -> BrowserResult:
    """Read a file of the web page's measure button.

    Raises:
        DataError: it is not there, is no such file, or holds a value that cannot be.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        value = json.loads(text, parse_constant=_refuse_constant)
        found = value.get("schema") if isinstance(value, dict) else None
        if found != SCHEMA:
            raise ValueError(f"its schema is {found!r:.60}, expected {SCHEMA!r}")
        result: BrowserResult = from_json(BrowserResult, value)
    except OSError as error:
        raise DataError(f"cannot read {file} ({error.strerror}). Name it: --input FILE") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file} cannot be shown: {error}. Expected the file that the web page's measure "
            "button offers (python -m export.to_web)"
        ) from error
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def format_browser(results: Sequence[BrowserResult]) -> str:
    """Return the results as a text table that ends in a newline."""
    rows = [_cells(result) for result in results]
    return make_table([*HEADERS, "runtime"], rows, "llllrrrll") + "\n"


def _cells(result: BrowserResult) -> list[Any]:
    model, runtime, latency = result.model, result.runtime, result.latency_ms
    together = f", {result.calls_per_sample} at a time" if result.calls_per_sample > 1 else ""
    return [
        result.device.name,
        model.dataset,
        " ".join(filter(None, (model.arch, model.role))),
        model.precision,
        *map(number, (latency.p50, latency.p95, latency.p99)),
        f"{result.num_requests:,}{together}",
        f"{runtime.name} {runtime.version}, {runtime.num_threads} thread(s)",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Show files."""
    config = parse_flags(BrowserConfig, (__doc__ or "").partition("\n")[0], argv)
    sys.stdout.write(format_browser([read_browser_result(file) for file in config.input]))


if __name__ == "__main__":
    run_main(main)
