"""Latency measured in browsers: files of the web page's measure button as a table.

    python -m benchmarks.report.browser --input latency-phone.json latency-laptop.json

They come from elsewhere, so every value is checked: text that a terminal would obey, numbers that
cannot be. `export/web/measure.js` writes them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from seqrec.config import flag, parse_flags
from seqrec.errors import DataError, run_main

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from benchmarks.report.files import first_fault
from benchmarks.report.tables import LATENCY_COLUMNS, Columns, make_table

MAX_BYTES = 1_000_000


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable text")
    return text


Text = Annotated[str, Field(min_length=1, max_length=400), AfterValidator(_printable)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Checked(BaseModel):
    """A part of the file; what is not named here is not read."""

    model_config = ConfigDict(strict=True, frozen=True)


class Device(Checked):
    """Where it was measured."""

    name: Text  # as its owner calls it


class Runtime(Checked):
    """What ran the model."""

    name: Text
    version: Text
    num_threads: PositiveInt


class Model(Checked):
    """What its config.json says."""

    sha256: Text
    arch: Text
    role: Text | None = None
    precision: Text
    dataset: Text


class BrowserLatency(Checked):
    """Milliseconds of one request."""

    p50: Milliseconds
    p95: Milliseconds
    p99: Milliseconds

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.p50 <= self.p95 <= self.p99:
            raise ValueError("expected p50 <= p95 <= p99")
        return self


class BrowserResult(Checked):
    """What is shown of a file of the measure button."""

    schema_version: Literal["seqrec-browser-latency/1"] = Field(alias="schema")
    device: Device
    runtime: Runtime
    model: Model
    num_requests: PositiveInt
    # So many calls were timed together, because the clock is too coarse for one; the percentiles
    # are then those of their means.
    calls_per_sample: PositiveInt
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
    except OSError as error:
        raise DataError(f"cannot read {file} ({error.strerror}). Name it: --input FILE") from error
    try:
        if len(text) > MAX_BYTES:
            raise DataError(f"{file} cannot be shown: more than {MAX_BYTES:,} bytes")
        return BrowserResult.model_validate_json(text)
    except ValidationError as error:
        raise DataError(
            f"{file} cannot be shown: {first_fault(error)}. Expected the file that the web page's "
            "measure button offers (python -m export.to_web)"
        ) from error


COLUMNS: Columns[BrowserResult] = {
    "device": lambda result: result.device.name,
    "data": lambda result: result.model.dataset,
    "system": lambda result: " ".join(filter(None, (result.model.arch, result.model.role))),
    "precision": lambda result: result.model.precision,
    **LATENCY_COLUMNS,
    "requests": lambda result: (
        f"{result.num_requests:,}"
        + f", {result.calls_per_sample} at a time" * (result.calls_per_sample > 1)
    ),
    "runtime": lambda result: (
        f"{result.runtime.name} {result.runtime.version}, {result.runtime.num_threads} thread(s)"
    ),
}


def format_browser(results: Sequence[BrowserResult]) -> str:
    """Return the results as a text table that ends in a newline."""
    return make_table(results, COLUMNS, align="llllrrrll") + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Show files."""
    config = parse_flags(BrowserConfig, (__doc__ or "").partition("\n")[0], argv)
    sys.stdout.write(format_browser([read_browser_result(file) for file in config.input]))


if __name__ == "__main__":
    run_main(main)
