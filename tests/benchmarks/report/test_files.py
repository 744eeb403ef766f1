"""Results on disk come back as they were, and what cannot be is refused in one line."""

import json
import subprocess
import sys
from pathlib import Path

from seqrec.errors import DataError

import pytest

from benchmarks.report.files import load, save
from benchmarks.report.schema import (
    SCHEMA,
    AccuracyResults,
    CatalogueResults,
    Failure,
    LatencyResults,
    ScalingResults,
)
from tests.benchmarks.report.made import latency_results, over, system

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "benchmarks" / "results"
KINDS = {
    "benchmark.json": LatencyResults,
    "accuracy.json": AccuracyResults,
    "catalogue.json": CatalogueResults,
    "scaling.json": ScalingResults,
}


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    row = system("gru distilled", "int8", 0.1, 0.1, ratio=2.0, gain_over_control=over(0.1))
    failure = Failure(system="a", precision="-", reason="b")
    results = latency_results(row, failed=(failure,), config={"num_calls": 3})
    save(results, tmp_path / "benchmark.json")
    assert load(LatencyResults, tmp_path / "benchmark.json") == results
    plain = json.loads((tmp_path / "benchmark.json").read_text())
    assert (plain["kind"], plain["schema"]) == ("latency", SCHEMA)
    assert "idle_call_ms" not in plain["rows"][0]  # not measured


@pytest.mark.parametrize(
    "file", sorted(KEPT.rglob("*.json")), ids=lambda file: str(file.relative_to(KEPT))
)
def test_the_kept_files_are_as_they_would_be_written(file: Path, tmp_path: Path) -> None:
    save(load(KINDS[file.name], file), tmp_path / file.name)
    assert (tmp_path / file.name).read_text() == file.read_text()


OLDER = (
    r"holds results of kind None, schema 'seqrec-benchmark/2', expected kind 'latency', "
    rf"schema {SCHEMA}\. Make it again: python -m benchmarks\.latency --device cpu$"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no results in .*Make them: python -m benchmarks\.latency"),
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[]", "is damaged .*holds a list"),
        ('{"schema": "seqrec-benchmark/2"}', OLDER),
        (f'{{"kind": "accuracy", "schema": {SCHEMA}}}', "kind 'accuracy'.*expected kind 'latency'"),
        (f'{{"kind": "latency", "schema": {SCHEMA}}}', "is damaged .config is missing"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(
    text: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "benchmark.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=message) as refused:
        load(LatencyResults, file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"throughput_batch_size": 128', '"throughput_batch_size": "many"', "is 'many': Input"),
        ('"num_cores": 2', '"num_cores": true', "environment.num_cores is True: Input"),
        ('"size_mib": 1.5', '"size_mib": NaN', "rows.0.size_mib is nan: Input"),
        ('"size_mib": 1.5', '"size_mib": 1e999', "rows.0.size_mib is inf: Input"),
        ('"size_mib": 1.5', '"size": 1.5', "rows.0.size_mib is missing"),
        ('"seen_excluded"', '"seen_twice"', "dataset.protocol is 'seen_twice': Input"),
    ],
)
def test_a_value_of_another_type_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    save(latency_results(system("gru control", "fp32", 0.1, 0.1)), file)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DataError, match=f"is damaged .*{message}"):
        load(LatencyResults, file)


def test_what_shows_results_loads_nothing_that_measures(tmp_path: Path) -> None:
    """The page, the pictures and all tables are made without any of the libraries measured."""
    program = """
import sys
from benchmarks.report import browser, page, plots, regression, results_page, schema, tables
results_page.main(["--no-pictures", "--output", sys.argv[1]])
loaded = {"torch", "transformers", "onnxruntime", "onnx", "accelerate", "polars"} & set(sys.modules)
ours = {name.partition(".")[0] for name in sys.modules} & {"student", "export", "teacher"}
ours |= {name for name in sys.modules if name.startswith("benchmarks.")} - {
    name for name in sys.modules if name.startswith("benchmarks.report")
}
sys.stdout.write(" ".join(sorted(loaded | ours)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "page.md")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
