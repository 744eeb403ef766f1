"""A whole run of `benchmarks.latency`: its files, its rows, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import SeqRecError
from seqrec.evaluation import evaluate
from seqrec.files import write_json

import pytest
import torch

from benchmarks.latency import LatencyConfig, main
from benchmarks.report.files import load, save
from benchmarks.report.schema import SCHEMA, LatencyResults
from student.model import Student
from teacher.config import FinetuneConfig
from teacher.tuning import build_teacher

pytestmark = pytest.mark.slow

Quick = Callable[[Path], list[str]]


def test_the_json_holds_what_the_schema_promises(
    results: LatencyResults, tiny_dataset: SequenceDataset, run_folder: Path
) -> None:
    plain = json.loads((run_folder / "benchmark.json").read_text())
    assert (plain["kind"], plain["schema"]) == ("latency", SCHEMA)
    assert plain["dataset"] == {
        "name": "tiny",
        "fingerprint": tiny_dataset.fingerprint,
        "num_users": 40,
        "num_items": 30,
        "split": "leave-one-out",
        "protocol": "seen_excluded",
    }
    machine = results.environment
    assert machine.other_work is not None
    assert 0 <= machine.other_work <= machine.num_cores
    assert machine.load_at_start is not None
    assert [
        (row["system"], row["family"], row.get("role"), row["precision"], row.get("variant"))
        for row in plain["rows"]
    ] == [
        ("popularity", "popularity", None, "fp32", None),
        ("gru control", "gru", "control", "fp32", None),
        ("gru distilled", "gru", "distilled", "fp32", None),
        ("gru distilled", "gru", "distilled", "int8", None),
        ("gru distilled", "gru", "distilled", "int8", "call"),
        ("gru distilled", "gru", "distilled", "int8", "step"),
        ("gru distilled", "gru", "distilled", "int8", "optimum"),
    ]


def test_each_row_holds_its_figures(results: LatencyResults, run_folder: Path) -> None:
    for row in results.rows:
        latency = row.latency_ms
        assert latency.p50_least is not None
        assert latency.p50_most is not None
        assert latency.p50_least <= latency.p50 <= latency.p50_most
        assert latency.p99 is None  # 20 calls
        for metrics in (row.metrics, row.metrics_other_protocol):
            assert metrics["ndcg@10_low"] <= metrics["ndcg@10"] <= metrics["ndcg@10_high"]
            assert metrics["hr@5"] <= metrics["hr@10"] <= metrics["hr@20"]
        if row.family == "popularity":  # which does not look at all that it counted
            assert row.lower_bound_ms is None
            continue
        assert row.lower_bound_ms is not None
        expected = latency.p50 / row.lower_bound_ms.total
        assert row.ratio_to_lower_bound == pytest.approx(expected)
        assert row.idle_call_ms is not None
        assert row.idle_call_ms > 0
        file = {"optimum": "int8-optimum"}.get(str(row.variant), row.precision)
        path = run_folder / "export" / f"gru-{row.role}-{file}" / "model.onnx"
        assert row.size_mib == path.stat().st_size / 2**20
    assert (run_folder / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (run_folder / "report.html").read_text()


def test_the_metrics_of_an_fp32_row_are_those_of_the_pytorch_model(
    results: LatencyResults, run_folder: Path, tiny_dataset: SequenceDataset
) -> None:
    student = Student.from_pretrained(run_folder / "students" / "gru" / "distilled")
    expected = evaluate(student, tiny_dataset, "test", max_len=7).report()
    row = results.rows[2]
    assert row.num_parameters == student.num_parameters
    for name in ("ndcg@10", "hr@20", "mrr@5"):
        assert row.metrics[name] == pytest.approx(expected["seen_excluded"][name])
        assert row.metrics_other_protocol[name] == pytest.approx(expected["seen_kept"][name])


def test_gains_are_the_difference_between_two_rows(results: LatencyResults) -> None:
    _, control, distilled, *quantized = results.rows
    for row in (distilled, *quantized):
        difference = row.metrics["ndcg@10"] - control.metrics["ndcg@10"]
        gain = row.gain_over_control
        assert gain is not None
        assert gain.mean == pytest.approx(difference)
        assert gain.low <= gain.mean <= gain.high
    assert control.gain_over_control is None
    for row in quantized:
        assert row.top10_overlap_with_fp32 is not None
        assert 0 <= row.top10_overlap_with_fp32 <= 1
        difference = row.metrics["ndcg@10"] - distilled.metrics["ndcg@10"]
        assert row.gain_over_fp32 is not None
        assert row.gain_over_fp32.mean == pytest.approx(difference)


def test_sweeps_go_over_batch_sizes_and_history_lengths(results: LatencyResults) -> None:
    swept = [row for row in results.rows if row.throughput_by_batch]
    assert [row.precision_label for row in swept] == ["fp32", "fp32", "int8", "int8 optimum"]
    for row in swept:
        assert list(row.throughput_by_batch or {}) == ["1", "8", "32", "128", "512"]
        # Seven items are all that they read.
        assert list(row.p50_ms_by_history or {}) == ["1", "2", "5", "7"]


def linked(run_folder: Path, tmp_path: Path) -> Path:
    """A new output directory with the students of another."""
    for part in ("students", "export"):
        shutil.copytree(run_folder / part, tmp_path / "run" / part)
    return tmp_path / "run"


def test_the_teachers_row_holds_its_own_metrics_and_times(
    run_folder: Path, tiny_dataset: SequenceDataset, tiny_llm: Path, quick: Quick, tmp_path: Path
) -> None:
    config = FinetuneConfig(model=str(tiny_llm), num_layers=1, max_len=6, item_dim=8, lora_rank=2)
    teacher = build_teacher(config, tiny_dataset, torch.device("cpu")).eval()
    folder = linked(run_folder, tmp_path)
    teacher.save_pretrained(folder / "teacher")
    report = evaluate(teacher, tiny_dataset, "test", max_len=6).report()
    metrics = {"dataset_fingerprint": tiny_dataset.fingerprint, "test": report}
    write_json(folder / "teacher" / "metrics.json", metrics)
    main(quick(folder))
    row = load(LatencyResults, folder / "benchmark.json").rows[1]
    assert (row.system, row.family, row.precision) == ("teacher", "teacher", "nf4")
    assert row.metrics == report["seen_excluded"]
    assert row.metrics_other_protocol == report["seen_kept"]
    assert row.num_parameters == teacher.num_parameters
    assert row.size_mib == pytest.approx(sum(teacher.answer_bytes.values()) / 2**20)
    assert row.num_timed_calls >= 10


def test_a_run_that_got_worse_in_one_thing_ends_with_one(
    results: LatencyResults,
    run_folder: Path,
    quick: Quick,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Whatever the machine does meanwhile, the ratios are no worse.
    rows = [replace(row, ratio_to_lower_bound=None) for row in results.rows]
    file, folder = tmp_path / "earlier.json", linked(run_folder, tmp_path)
    better = {**rows[-1].metrics, "ndcg@10": rows[-1].metrics["ndcg@10"] + 0.5}
    rows[-1] = replace(rows[-1], metrics=better)
    save(replace(results, rows=tuple(rows)), file)
    with pytest.raises(SystemExit) as stopped:
        main([*quick(folder), "--no-teacher", "--compare-with", str(file)])
    assert stopped.value.code == 1
    assert "Worse than the earlier run: 1 of 7 systems" in capsys.readouterr().out


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "accelerate launch teacher/finetune.py"),
        (["--no-teacher"], r"python -m student\.distill"),
        (["--data-dir", "nothing"], r"python -m seqrec\.prepare"),
        (["--compare-with", "FOLDER/benchmark.json"], "is where this run writes its own results"),
        pytest.param(
            ["--device", "cuda"],
            "--device cuda: PyTorch finds no GPU here. Use --device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_is_missing_is_named_with_what_to_type(
    flags: list[str], message: str, tmp_path: Path, quick: Quick
) -> None:
    with pytest.raises(SeqRecError, match=message):
        main([*quick(tmp_path), *(flag.replace("FOLDER", str(tmp_path)) for flag in flags)])


def test_a_teacher_of_another_data_set_is_refused(tmp_path: Path, quick: Quick) -> None:
    write_json(tmp_path / "teacher" / "metrics.json", {"dataset_fingerprint": "other"})
    with pytest.raises(SeqRecError, match="was trained on data set other"):
        main(quick(tmp_path))


@pytest.mark.parametrize("flags", [{"num_calls": 0}, {"num_threads": 0}, {"budget_s": 0.0}])
def test_flags_that_cannot_work_are_refused(flags: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        LatencyConfig(**flags)  # type: ignore[arg-type]
