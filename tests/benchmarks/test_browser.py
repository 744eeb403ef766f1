"""Results of the web page's measure button, shown beside this machine's."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError

import pytest
import torch

from benchmarks.latency import main
from benchmarks.report.browser import FIELDS, format_included, included_cells, read_included
from benchmarks.report.regression import SCHEMA as BENCHMARK_SCHEMA
from student.model import Student, StudentConfig

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
    assert read_included([write(RESULT)]) == [RESULT]


def test_a_row_names_the_device_and_says_that_it_was_measured_elsewhere(
    write: Callable[[object], Path],
) -> None:
    shown = format_included(read_included([write(RESULT)]), "abc")
    heading, _, _, _, row = shown.strip().splitlines()
    assert "elsewhere, in a browser" in heading
    cells = [cell for cell in row.split("  ") if cell]
    assert [cell.strip() for cell in cells] == [
        "Anna's phone",
        "gru distilled",
        "int8",
        "0.250",
        "0.500",
        "2.125",
        "1,200, 8 at a time",
        "onnxruntime-web 1.30.0, 1 thread(s)",
    ]


def test_a_model_of_other_data_is_marked() -> None:
    assert "gru distilled (other data)" in format_included([RESULT], "another")
    assert format_included([], "another") == ""


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("latency_ms.p50", -0.25, "latency_ms.p50 is -0.25, expected a number above 0"),
        ("latency_ms.p99", None, "latency_ms.p99 is None, expected a number above 0"),
        ("latency_ms.p95", "0.5", "latency_ms.p95 is '0.5', expected a number above 0"),
        ("latency_ms.p95", 3.0, "expected p50 <= p95 <= p99"),
        ("num_requests", 0, "num_requests is 0, expected a whole number above 0"),
        ("num_requests", True, "num_requests is True, expected a whole number above 0"),
        ("device.name", "", "device.name is '', expected printable text"),
        ("device.name", "\x1b[2Jphone", "expected printable text"),
        ("device.name", "a\nb", "expected printable text"),
        ("model.sha256", "0" * 63, "expected 64 hexadecimal digits"),
        ("device", "phone", "device.name is missing"),
        ("schema", "seqrec-browser-latency/2", "its schema is 'seqrec-browser-latency/2'"),
        ("schema", "seqrec-benchmark/1", "expected 'seqrec-browser-latency/1'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    write: Callable[[object], Path], name: str, value: object, expected: str
) -> None:
    with pytest.raises(DataError) as raised:
        read_included([write(changed(name, value))])
    message = str(raised.value)
    assert expected in message
    assert "phone.json cannot be included" in message
    assert "python -m export.to_web" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", FIELDS)
def test_no_value_may_be_missing(write: Callable[[object], Path], name: str) -> None:
    result = copy.deepcopy(RESULT)
    group, _, key = name.rpartition(".")
    del (result[group] if group else result)[key]
    with pytest.raises(DataError, match=f"{name} is missing"):
        read_included([write(result)])


def test_another_machines_run_is_a_result_for_each_row(write: Callable[[object], Path]) -> None:
    row = {"system": "gru distilled", "precision": "int8", "num_timed_calls": 150}
    other = {"system": "replay sasrec", "precision": "fp32", "num_timed_calls": 2000}
    run = {
        "schema": BENCHMARK_SCHEMA,
        "environment": {"cpu": "Abacus 9", "num_threads": 2, "versions": {"onnxruntime": "1.3"}},
        "dataset": {"name": "tiny", "fingerprint": "abc", "num_items": 30},
        "rows": [
            {**row, "idle_call_ms": 0.01, "latency_ms": {"p50": 0.25, "p95": 0.5, "p99": None}},
            {
                **other,
                "peer": {"replay-rec": "0.2"},
                "latency_ms": {"p50": 1.5, "p95": 2.0, "p99": 2.5},
            },
        ],
    }
    included = read_included([write(run)])
    assert included_cells(included, "abc") == [
        ["Abacus 9", "gru distilled", "int8", "0.250", "0.500", "-", "150"]
        + ["onnxruntime 1.3, 2 thread(s)"],
        ["Abacus 9", "replay sasrec", "fp32", "1.500", "2.000", "2.500", "2,000"]
        + ["replay-rec 0.2, 2 thread(s)"],
    ]
    run["environment"]["cpu"] = "\x1b[2J"  # type: ignore[index]
    with pytest.raises(DataError, match="device.name is .*expected printable text"):
        read_included([write(run)])
    del run["rows"][0]["latency_ms"]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="cannot be included: something is missing"):
        read_included([write(run)])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(write: Callable[[object], Path], number: str) -> None:
    text = json.dumps(RESULT).replace('"p50": 0.25', f'"p50": {number}')
    assert number in text
    with pytest.raises(DataError, match="cannot be included"):
        read_included([write(text)])


@pytest.mark.parametrize("text", ["", "{", "[]", "12", "\x00\xff", "[" * 100_000, " " * 200_000])
def test_any_other_file_is_refused(write: Callable[[object], Path], text: str) -> None:
    with pytest.raises(DataError, match=r"phone\.json cannot be included"):
        read_included([write(text)])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nothing\.json"):
        read_included([tmp_path / "nothing.json"])


def test_the_benchmark_shows_and_keeps_what_is_included(
    write: Callable[[object], Path],
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    shape = StudentConfig(arch="gru", num_items=30, hidden_dim=8, max_len=7)
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    Student(shape).save_pretrained(tmp_path / "run" / "students" / "gru" / "control", **about)
    where = ["--data-dir", str(tiny_dataset.path), "--output-dir", str(tmp_path / "run")]
    quick = ["--no-teacher", "--num-calls", "10", "--budget-s", "0.1"]
    files = [str(write(RESULT)), str(write(RESULT))]
    main([*where, *quick, "--include", *files])
    assert capsys.readouterr().out.count("Anna's phone") == 2
    kept = json.loads((tmp_path / "run" / "benchmark.json").read_text())
    assert kept["included"] == [RESULT, RESULT]
    assert kept["config"]["include"] == files
    assert not any("phone" in row["system"] for row in kept["rows"])


def test_a_bad_file_is_refused_before_anything_is_measured(
    write: Callable[[object], Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="its schema is None"):
        main(["--data-dir", str(tmp_path / "nothing"), "--include", str(write({}))])
