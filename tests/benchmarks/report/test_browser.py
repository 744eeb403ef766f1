"""Results of the web page's measure button: each value is checked before it is shown."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.errors import DataError

import pytest

from benchmarks.report.browser import main, read_browser_result

RESULT: dict[str, Any] = {
    "schema": "seqrec-browser-latency/1",
    "measured_at": "2026-01-02T03:04:05.678Z",
    "device": {"name": "Anna's phone", "user_agent": "Mozilla/5.0", "device_memory_gib": None},
    "runtime": {"name": "onnxruntime-web", "version": "1.30.0", "num_threads": 1},
    "model": {
        "sha256": "0" * 64,
        "arch": "gru",
        "role": "distilled",
        "precision": "int8",
        "dataset": "ml-100k",
    },
    "num_requests": 1200,
    "calls_per_sample": 8,
    "latency_ms": {"p50": 0.25, "p95": 0.5, "p99": 2.125},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    def write_file(content: object) -> Path:
        path = tmp_path / "phone.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


def changed(name: str, value: object) -> dict[str, Any]:
    """The result with one value replaced; "latency_ms.p50" is p50 in latency_ms."""
    result = copy.deepcopy(RESULT)
    group, _, key = name.rpartition(".")
    (result[group] if group else result)[key] = value
    return result


def test_a_row_names_the_device_and_the_data(
    write: Callable[[object], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--input", str(write(RESULT))])
    _, _, row = capsys.readouterr().out.strip().splitlines()
    assert [cell.strip() for cell in row.split("  ") if cell] == [
        "Anna's phone",
        "ml-100k",
        "gru distilled",
        "int8",
        "0.250",
        "0.500",
        "2.125",
        "1,200, 8 at a time",
        "onnxruntime-web 1.30.0, 1 thread(s)",
    ]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("latency_ms.p50", -0.25, "latency_ms.p50 is -0.25: Input should be greater than 0"),
        ("latency_ms.p99", None, "latency_ms.p99 is None: "),
        ("latency_ms.p95", "0.5", "latency_ms.p95 is '0.5': "),
        ("latency_ms.p95", 3.0, "expected p50 <= p95 <= p99"),
        ("latency_ms.p95", math.nan, "latency_ms.p95 is nan"),
        ("latency_ms.p99", math.inf, "latency_ms.p99 is inf"),
        ("num_requests", 0, "num_requests is 0: "),
        ("num_requests", True, "num_requests is True: "),
        ("device.name", "", "device.name is ''"),
        ("device.name", "\x1b[2Jphone", "expected printable text"),
        ("device.name", "a\nb", "expected printable text"),
        ("device", {}, "device.name is missing"),
        ("schema", "seqrec-browser-latency/2", "schema is 'seqrec-browser-latency/2'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    write: Callable[[object], Path], name: str, value: object, expected: str
) -> None:
    with pytest.raises(DataError) as raised:
        read_browser_result(write(changed(name, value)))
    message = str(raised.value)
    assert expected in message
    assert "phone.json cannot be shown" in message
    assert "python -m export.to_web" in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "{", "[]", "12", "\x00\xff", "[" * 100_000, " " * 200_000])
def test_any_other_file_is_refused(write: Callable[[object], Path], text: str) -> None:
    with pytest.raises(DataError, match=r"phone\.json cannot be shown"):
        read_browser_result(write(text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nothing\.json"):
        read_browser_result(tmp_path / "nothing.json")
