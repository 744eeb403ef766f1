"""Results of the web page's measure button: each value is checked before it is shown."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.errors import DataError

import pytest

from benchmarks.report.browser import BrowserResult, main, read_browser_result
from benchmarks.report.files import from_json, to_json

RESULT: dict[str, Any] = {
    "schema": "seqrec-browser-latency/1",
    "measured_at": "2026-01-02T03:04:05.678Z",
    "device": {
        "name": "Anna's phone",
        "user_agent": "Mozilla/5.0",
        "hardware_concurrency": 8,
        "device_memory_gib": None,
    },
    "runtime": {
        "name": "onnxruntime-web",
        "version": "1.30.0",
        "backend": "wasm",
        "num_threads": 1,
    },
    "model": {
        "sha256": "0" * 64,
        "size_bytes": 200_000,
        "arch": "gru",
        "role": "distilled",
        "precision": "int8",
        "dataset": "ml-100k",
        "dataset_fingerprint": "abc",
        "num_items": 1682,
        "max_len": 50,
    },
    "k": 10,
    "histories": {"kind": "random", "min_len": 1, "max_len": 50, "num_histories": 256, "seed": 1},
    "clock_resolution_ms": 0.1,
    "num_warm_up": 50,
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


def test_a_result_is_read_as_it_was_written(write: Callable[[object], Path]) -> None:
    for group, inner in to_json(read_browser_result(write(RESULT))).items():
        expected = RESULT[group]
        if isinstance(inner, dict):
            expected = {name: expected[name] for name in inner}
        assert inner == expected


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
        ("latency_ms.p50", -0.25, "p50 is -0.25, expected a number above 0"),
        ("latency_ms.p99", None, "latency_ms.p99 is None, expected a number"),
        ("latency_ms.p95", "0.5", "latency_ms.p95 is '0.5', expected a number"),
        ("latency_ms.p95", 3.0, "expected p50 <= p95 <= p99"),
        ("num_requests", 0, "num_requests is 0, expected a number above 0"),
        ("num_requests", True, "num_requests is True, expected a whole number"),
        ("device.name", "", "name is '', expected printable text"),
        ("device.name", "\x1b[2Jphone", "expected printable text"),
        ("device.name", "a\nb", "expected printable text"),
        ("device", "phone", "device is 'phone', expected an object"),
        ("schema", "seqrec-browser-latency/2", "its schema is 'seqrec-browser-latency/2'"),
        ("schema", "seqrec-benchmark/1", "expected 'seqrec-browser-latency/1'"),
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


SHOWN = [
    f"{group}.{name}" if isinstance(inner, dict) else group
    for group, inner in to_json(from_json(BrowserResult, RESULT)).items()
    for name in (inner if isinstance(inner, dict) else [group])
]


@pytest.mark.parametrize("name", [name for name in SHOWN if name != "model.role"])
def test_no_value_may_be_missing(write: Callable[[object], Path], name: str) -> None:
    result = copy.deepcopy(RESULT)
    group, _, key = name.rpartition(".")
    del (result[group] if group else result)[key]
    with pytest.raises(DataError, match=f"{name} is missing"):
        read_browser_result(write(result))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(write: Callable[[object], Path], number: str) -> None:
    text = json.dumps(RESULT).replace('"p50": 0.25', f'"p50": {number}')
    assert number in text
    with pytest.raises(DataError, match="cannot be shown"):
        read_browser_result(write(text))


@pytest.mark.parametrize("text", ["", "{", "[]", "12", "\x00\xff", "[" * 100_000, " " * 200_000])
def test_any_other_file_is_refused(write: Callable[[object], Path], text: str) -> None:
    with pytest.raises(DataError, match=r"phone\.json cannot be shown"):
        read_browser_result(write(text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nothing\.json"):
        read_browser_result(tmp_path / "nothing.json")
