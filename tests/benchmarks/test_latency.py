import json
import math
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError
from seqrec.files import write_json
from seqrec.metrics import evaluate, popularity_scores, summarize

import numpy as np
import pytest
import torch

from benchmarks import latency
from benchmarks.latency import BenchmarkConfig, benchmark, main
from benchmarks.measure import lower_bound as limit
from benchmarks.measure import machine as busy
from benchmarks.measure import timing as measure
from benchmarks.measure.startup import measure_fresh
from benchmarks.measure.systems import (
    OnnxRunner,
    PopularityRunner,
    Request,
    StepRunner,
    TeacherRunner,
    TorchRunner,
    checked_answer,
    load_runner,
    top_k,
    torch_top_k,
)
from benchmarks.measure.timing import (
    Timing,
    affordable_lists,
    histories_before_test,
    make_requests,
    measure_latency,
    measure_throughput,
    percentiles_ms,
    top_lists,
)
from benchmarks.report import results_page
from student.model import Student, StudentConfig
from teacher.finetune import FinetuneConfig, build_teacher

HISTORY, NOTHING, TWO = np.array([[3, 4]]), np.zeros((1, 0), dtype=np.int64), np.array([2])


@dataclass(frozen=True)
class FixedRunner:
    """Answers whatever it is told to."""

    items: Any
    scores: Any
    system: str = "liar"
    precision: str = "fp32"
    size_mib: float = 0.0
    num_parameters: int = 0
    max_len: int = 5

    def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
        return np.array(self.items), np.array(self.scores, dtype=np.float32)


HONEST = FixedRunner([[7, 8]], [[2.0, 1.0]])


def test_an_honest_answer_passes() -> None:
    assert checked_answer(HONEST, HISTORY, NOTHING, TWO, 10).tolist() == [[7, 8]]


def test_a_place_without_an_answer_is_padding() -> None:
    runner = replace(HONEST, scores=[[2.0, -math.inf]])
    assert checked_answer(runner, HISTORY, NOTHING, TWO, 10).tolist() == [[7, 0]]


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"items": [[7, 8, 9]]}, r"items of shape \(1, 3\), expected \(1, 2\)"),
        ({"scores": [[2.0]]}, r"scores of shape \(1, 1\)"),
        ({"items": [[7.0, 8.0]]}, "items of type float64"),
        ({"scores": [[math.nan, 1.0]]}, "NaN"),
        ({"scores": [[1.0, 2.0]]}, "not sorted"),
        ({"items": [[7, 11]]}, "item 11, expected 1 to 10"),
        ({"items": [[0, 7]]}, "item 0, expected 1 to 10"),
        ({"items": [[7, 7]]}, "twice"),
        ({"items": [[7, 3]]}, "left out"),
    ],
)
def test_a_lying_runner_is_caught_and_named(lie: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=rf"liar \(fp32\) returned .*{message}"):
        checked_answer(replace(HONEST, **lie), HISTORY, HISTORY, TWO, 10)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "returned no two arrays, items and scores"),
        ((np.array([[7, 8]]),), "returned no two arrays"),
        (([[7], [7, 8]], [[1.0, 0.5]]), "returned no two arrays"),
        (([[7, 8]], [["a", "b"]]), "scores of type <U1, expected numbers"),
    ],
)
def test_what_is_no_answer_is_named(answer: Any, message: str) -> None:
    class Strange(FixedRunner):
        def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
            return answer

    with pytest.raises(ModelError, match=message):
        checked_answer(Strange([], []), HISTORY, NOTHING, TWO, 10)


def test_lists_are_an_answer_too() -> None:
    class Lists(FixedRunner):
        def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
            return [[7, 8]], [[2.0, 1.0]]

    assert checked_answer(Lists([], []), HISTORY, NOTHING, TWO, 10).tolist() == [[7, 8]]


def test_a_runner_that_answers_single_users_alone_is_caught(tiny_dataset: SequenceDataset) -> None:
    class Single(PopularityRunner):
        def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
            return super().recommend(items[:1], excluded[:1], k)

    with pytest.raises(ModelError, match=r"shape \(1, 10\), expected \(8, 10\)"):
        latency.judge([Single(tiny_dataset)], tiny_dataset, [], batch_size=8)


def test_top_k_is_what_sorting_everything_gives() -> None:
    draws = np.random.default_rng(0)
    for num_users, num_items in ((1, 11), (5, 300)):
        scores = draws.integers(0, 6, (num_users, num_items)).astype(np.float32)  # many are equal
        excluded = draws.integers(0, num_items, (num_users, 4))
        own = scores.copy()
        for row, left_out in zip(own, excluded, strict=True):
            row[[0, *left_out]] = -np.inf
        expected = [sorted(range(num_items), key=lambda i, r=row: (-r[i], i))[:5] for row in own]
        items, best = top_k(scores.copy(), excluded, 5)
        assert items.tolist() == expected
        assert best.tolist() == np.take_along_axis(own, items, axis=1).tolist()
        _, by_torch = torch_top_k(torch.from_numpy(scores.copy()), excluded, 5)
        assert by_torch.tolist() == best.tolist()


def test_percentiles_are_durations_that_were_measured() -> None:
    durations = np.array([5, 1, 4, 2, 3] * 20) * 1_000_000  # each of 1..5 ms is a fifth
    assert percentiles_ms(durations) == {"p50": 3.0, "p95": 5.0, "p99": 5.0}
    assert percentiles_ms(np.array([7_500_000])) == {"p50": 7.5, "p95": 7.5, "p99": 7.5}


def test_top_k_leaves_out_padding_and_excluded_items_and_breaks_ties_by_number() -> None:
    scores = np.array([[99.0, 1.0, 3.0, 3.0, 2.0]], dtype=np.float32)
    items, best = top_k(scores, np.array([[4, 0]]), k=3)
    assert items.tolist() == [[2, 3, 1]]
    assert best.tolist() == [[3.0, 3.0, 1.0]]


def test_popularity_ranks_as_the_metrics_own_baseline_does(tiny_dataset: SequenceDataset) -> None:
    runner = PopularityRunner(tiny_dataset)
    lists = [top_lists(runner, tiny_dataset, exclude_seen=flag) for flag in (True, False)]
    found = measure.evaluate_lists(*lists, tiny_dataset).report()
    whole = evaluate(popularity_scores(tiny_dataset.before_test()), tiny_dataset, "test", max_len=5)
    assert found["seen_kept"] == summarize(whole.keeping_seen)
    assert found["seen_excluded"] == summarize(whole.excluding_seen)


def test_requests_show_the_newest_items_and_exclude_the_whole_history() -> None:
    histories = [np.array([1, 2, 3, 4]), np.array([5])]
    (both,) = make_requests(histories, max_len=2, k=3, exclude_seen=True, batch_size=2)
    assert both.items.tolist() == [[3, 4], [0, 5]]
    assert both.excluded.tolist() == [[1, 2, 3, 4], [0, 0, 0, 5]]
    _, second = make_requests(histories, max_len=2, k=3, exclude_seen=False, batch_size=1)
    assert second.items.tolist() == [[5]]
    assert second.excluded.shape == (1, 0)


def test_histories_end_right_before_the_test_target(
    tiny_dataset: SequenceDataset, tiny_sequences: list[list[int]]
) -> None:
    found = [history.tolist() for history in histories_before_test(tiny_dataset)]
    assert found == [sequence[:-1] for sequence in tiny_sequences]


def test_runners_take_turns_on_the_same_requests() -> None:
    calls: list[tuple[str, int]] = []

    @dataclass(frozen=True)
    class Recorder(FixedRunner):
        def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
            calls.append((self.system, int(items[0, 0])))
            return super().recommend(items, excluded, k)

    runners = [Recorder([[7]], [[1.0]], system=name) for name in ("first", "second")]
    users = [np.array([user]) for user in range(1, 31)]
    requests = make_requests(users, max_len=5, k=1, exclude_seen=False, batch_size=1)
    measured = measure_latency(runners, [requests] * 2, num_calls=60, budget_s=60.0)
    assert [len(timing.durations_ns) for timing in measured] == [60, 60]
    timed = calls[-120:]
    for name in ("first", "second"):
        assert [user for system, user in timed if system == name] == list(range(1, 31)) * 2
    turns = sum(a[0] != b[0] for a, b in zip(timed, timed[1:], strict=False))
    assert turns == 2 * measure.NUM_BLOCKS - 1


@pytest.fixture(scope="module")
def run_folder(tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with trained students, as `student.distill` leaves it, and no teacher."""
    folder = tmp_path_factory.mktemp("run")
    shape = StudentConfig(arch="gru", num_items=tiny_dataset.num_items, hidden_dim=8, max_len=7)
    for seed, role in enumerate(("control", "distilled")):
        torch.manual_seed(seed)
        Student(shape).save_pretrained(
            folder / "students" / "gru" / role,
            role=role,
            dataset_fingerprint=tiny_dataset.fingerprint,
        )
    return folder


def arguments(dataset: SequenceDataset, folder: Path) -> list[str]:
    quick = ["--num-calls", "20", "--budget-s", "0.2"]
    return ["--data-dir", str(dataset.path), "--output-dir", str(folder), *quick]


@pytest.fixture(scope="module")
def results(run_folder: Path, tiny_dataset: SequenceDataset) -> dict[str, Any]:
    main([*arguments(tiny_dataset, run_folder), "--no-teacher"])
    content: dict[str, Any] = json.loads((run_folder / "benchmark.json").read_text())
    return content


def test_the_json_holds_what_the_schema_promises(
    results: dict[str, Any], tiny_dataset: SequenceDataset, run_folder: Path
) -> None:
    assert results["schema"] == "seqrec-benchmark/2"
    assert results["dataset"] == {
        "name": "tiny",
        "fingerprint": tiny_dataset.fingerprint,
        "num_users": 40,
        "num_items": 30,
        "split": "leave-one-out",
        "protocol": "seen_excluded",
    }
    assert {"cpu", "num_threads", "load_at_start", "os", "python", "versions"} <= set(
        results["environment"]
    )
    assert 0 <= results["environment"]["other_work"] <= results["environment"]["num_cores"]
    assert [(row["system"], row["precision"]) for row in results["rows"]] == [
        ("popularity", "fp32"),
        ("gru control", "fp32"),
        ("gru distilled", "fp32"),
        ("gru distilled", "int8"),
        ("gru distilled", "int8 step"),
        ("gru distilled", "int8-optimum"),
    ]
    for row in results["rows"]:
        latency = row["latency_ms"]
        assert set(latency) == {"p50", "p95", "p99", "p50_least", "p50_most", "cpu"}
        assert latency["p50_least"] <= latency["p50"] <= latency["p50_most"]
        assert latency["p99"] is None  # 20 calls
        if row["system"] == "popularity":  # which does not look at all that it counted
            assert "limit_ms" not in row
            continue
        assert set(row["limit_ms"]) == {"read", "top_k"}
        assert row["over_limit"] == pytest.approx(latency["p50"] / sum(row["limit_ms"].values()))
        assert row["idle_call_ms"] > 0
    for row in results["rows"]:
        for metrics in (row["metrics"], row["metrics_other_protocol"]):
            assert metrics["ndcg@10_low"] <= metrics["ndcg@10"] <= metrics["ndcg@10_high"]
            assert metrics["hr@5"] <= metrics["hr@10"] <= metrics["hr@20"]
    for row in results["rows"][1:]:
        name = f"{row['system'].replace(' ', '-')}-{row['precision'].removesuffix(' step')}"
        size = (run_folder / "export" / name / "model.onnx").stat().st_size
        assert row["size_mib"] == size / 2**20
    assert (run_folder / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_the_metrics_of_an_fp32_row_are_those_of_the_pytorch_model(
    results: dict[str, Any], run_folder: Path, tiny_dataset: SequenceDataset
) -> None:
    student = Student.from_pretrained(run_folder / "students" / "gru" / "distilled")
    expected = evaluate(student, tiny_dataset, "test", max_len=7).report()
    row = results["rows"][2]
    assert row["num_parameters"] == student.num_parameters
    for name in ("ndcg@10", "hr@20", "mrr@5"):
        assert row["metrics"][name] == pytest.approx(expected["seen_excluded"][name])
        assert row["metrics_other_protocol"][name] == pytest.approx(expected["seen_kept"][name])


def test_gains_are_the_difference_between_two_rows(results: dict[str, Any]) -> None:
    _, control, distilled, quantized, step, stock = results["rows"]
    for row in (distilled, quantized, step, stock):
        difference = row["metrics"]["ndcg@10"] - control["metrics"]["ndcg@10"]
        gain = row["gain_over_control"]
        assert gain["mean"] == pytest.approx(difference)
        assert gain["low"] <= gain["mean"] <= gain["high"]
    assert "gain_over_control" not in control
    for row in (quantized, step, stock):
        assert 0 <= row["top10_overlap_with_fp32"] <= 1
        difference = row["metrics"]["ndcg@10"] - distilled["metrics"]["ndcg@10"]
        assert row["gain_over_fp32"]["mean"] == pytest.approx(difference)


def test_one_event_on_a_kept_state_gives_the_lists_of_the_whole_history(
    results: dict[str, Any], run_folder: Path, tiny_dataset: SequenceDataset
) -> None:
    whole = OnnxRunner.from_pretrained(run_folder / "export" / "gru-distilled-int8", 1)
    step = StepRunner.after(whole)
    for batch_size in (1, 16):
        lists = [
            top_lists(runner, tiny_dataset, exclude_seen=True, batch_size=batch_size)
            for runner in (whole, step)
        ]
        np.testing.assert_array_equal(*lists)
    newest = Request(np.array([[3]]), NOTHING, TWO)  # nothing came before
    np.testing.assert_array_equal(
        step.recommend(newest.items, NOTHING, TWO)[0],
        whole.recommend(newest.items, NOTHING, TWO)[0],
    )
    rows = {row["precision"]: row for row in results["rows"] if row["system"] == "gru distilled"}
    assert rows["int8 step"]["metrics"] == rows["int8"]["metrics"]


@pytest.mark.parametrize(
    ("patience_s", "is_alike", "sizes"),
    [
        (60.0, True, [1] * 40),  # quick
        (0.0, True, [1] * 16 + [16, 16, 8]),  # the first 16 twice, to compare
        (0.0, False, [1] * 16 + [16] + [1] * 24),
    ],
)
def test_a_slow_runner_is_asked_in_batches_if_they_answer_alike(
    tiny_dataset: SequenceDataset, patience_s: float, is_alike: bool, sizes: list[int]
) -> None:
    class Recorder(PopularityRunner):
        def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
            asked.append(len(items))
            top_items, top_scores = super().recommend(items, excluded, k)
            if not is_alike and len(items) > 1:
                top_items = 1 + tiny_dataset.num_items - top_items
            return top_items, top_scores

    asked: list[int] = []
    found = affordable_lists(
        Recorder(tiny_dataset),
        tiny_dataset,
        exclude_seen=False,
        batch_size=16,
        patience_s=patience_s,
    )
    assert asked == sizes
    expected = top_lists(PopularityRunner(tiny_dataset), tiny_dataset, exclude_seen=False)
    np.testing.assert_array_equal(found, expected)


class Compiler(FixedRunner):
    """Takes a second for each of its first two calls, then a thousandth."""

    num_calls = 0

    def timed(self, requests: Any) -> Any:
        durations = []
        for _ in requests:
            durations.append([10**9 if Compiler.num_calls < 2 else 10**6, 0])
            Compiler.num_calls += 1
        return np.array(durations)


def test_throughput_leaves_out_what_is_compiled_first() -> None:
    request = Request(HISTORY, NOTHING, TWO)
    assert measure_throughput([Compiler([], [])], [[request] * 3], budget_s=0) == [1000]


def test_throughput_is_measured_in_turns() -> None:
    calls: list[str] = []

    class Recorder(FixedRunner):
        def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
            calls.append(self.system)
            return super().recommend(items, excluded, k)

    runners = [Recorder([[7]], [[1.0]], system=name) for name in "ab"]
    measure_throughput(runners, [[Request(HISTORY, NOTHING, TWO)]] * 2, budget_s=0)
    assert "".join(calls) == "ab" + "ab" * measure.NUM_ROUNDS  # the first two are not counted


def test_a_p99_takes_two_hundred_calls_and_turns_show_the_spread() -> None:
    # 20 turns of ten calls: turn n takes n milliseconds a call.
    durations = np.repeat(np.arange(1, 21), 10) * 1_000_000
    assert Timing(durations, 2e6).summary() == {
        **{"p50": 10.0, "p95": 19.0, "p99": 20.0, "p50_least": 1.0, "p50_most": 20.0},
        "cpu": 2.0,
    }
    assert Timing(durations[:-1], 2e6).summary()["p99"] is None


def test_the_limit_reads_all_bytes_and_looks_at_each_score() -> None:
    seen: list[int] = []

    class Numpy:
        float32 = np.float32

        @staticmethod
        def ones(shape: Any, dtype: Any) -> Any:
            made = np.ones(shape, dtype)
            seen.append(made.nbytes)
            return made

        dot = staticmethod(np.dot)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limit, "np", Numpy)
        everything = limit.reader(8000)
        # The dot product of two halves, all ones.
        assert everything.call(HISTORY, NOTHING, TWO) == 1000
    assert seen == [8000]
    # The greatest of 3,000 normal numbers.
    assert limit.one_look(3000).call(HISTORY, NOTHING, TWO) > 2.5
    top_items, _ = limit.idle(1).recommend(HISTORY, NOTHING, TWO)
    assert top_items.tolist() == HISTORY.tolist()  # nothing is computed


def test_the_limit_is_what_is_left_without_the_calls_own_time() -> None:
    """By hand: 8,000 bytes 3 us and 4 bytes 1; 500 scores 7 us and a single one 5."""
    names = [timed.system for timed in limit.limit_calls([8000, 4, 8000], 500)]
    assert names == ["read 4", "read 8000", "look 1", "look 500"]
    p50 = dict(zip(names, (0.001, 0.003, 0.005, 0.007), strict=True))
    assert limit.limit_ms(p50, 8000, 500) == pytest.approx({"read": 0.002, "top_k": 0.002})
    # What the clock cannot tell is no limit of zero: multiples of it are still numbers.
    assert limit.limit_ms(p50, 4, 1) == {"read": limit.LEAST_MS, "top_k": limit.LEAST_MS}


def test_the_limit_charges_parameters_and_nothing_else_of_a_file(
    run_folder: Path, results: dict[str, Any], tiny_dataset: SequenceDataset
) -> None:
    """The fp32 file holds each parameter once, in 4 bytes; a file's nodes and names are beside."""
    for row in results["rows"][1:3]:
        assert row["precision"] == "fp32"
        least, file = row["num_parameters"] * 4, row["size_mib"] * 2**20
        assert least <= row["limit_bytes"] < least + 300  # the GRU's first state, and -inf
        assert row["limit_bytes"] < file - 1000
    assert limit.parameter_bytes(replace(HONEST, size_mib=2.0)) == 2 * 2**20
    student = run_folder / "students" / "gru" / "control"
    torch_runner = TorchRunner(student, 1, is_compiled=False)
    assert limit.parameter_bytes(torch_runner) == torch_runner.num_parameters * 4


def test_only_what_reads_all_its_weights_has_a_limit(tiny_dataset: SequenceDataset) -> None:
    config = BenchmarkConfig(data_dir=tiny_dataset.path, num_calls=20, budget_s=0.1)

    class Sparse(FixedRunner):
        reads_all_weights = False

    answer = np.ones((1, 10))
    dense = FixedRunner(answer, answer, system="dense", size_mib=64.0)
    rows = latency.time_runners([Sparse(answer, answer), dense], tiny_dataset, config)
    assert "over_limit" not in rows[0]
    assert rows[1]["limit_ms"]["read"] > 0.5  # 64 MiB at less than 128 GB/s
    assert rows[1]["fresh"] is None


def test_others_are_told_from_ourselves_and_our_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    own = os.times_result((2.0, 1.0, 0.5, 0.5, 100.0))  # with children that ended: 4 s
    monkeypatch.setattr(busy.os, "times", lambda: own)
    # user, nice, system, idle, iowait, irq, softirq, steal: 20 s of work, 60 s of none.
    fields = [int(seconds * ticks) for seconds in (10, 1, 4, 50, 10, 1, 1, 3)]
    (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, fields))} 0 0\ncpu0 1 1\n")
    (tmp_path / "77").mkdir()
    worked = f"{2 * ticks} {3 * ticks}"
    (tmp_path / "77" / "stat").write_text(f"77 (a) b) S 1 1 1 0 -1 0 0 0 0 0 {worked} 0 0 20")
    assert busy.others_s([], tmp_path) == pytest.approx(20 - 4)
    assert busy.others_s([77], tmp_path) == pytest.approx(20 - 4 - 5)
    assert busy.others_s([78], tmp_path) is None  # it has ended
    assert busy.others_s([], tmp_path / "nowhere") is None


def test_others_work_is_told_in_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0])
    seconds: Any = iter([50.0, 65.0])
    monkeypatch.setattr(busy.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(busy, "others_s", lambda workers: next(seconds))
    with busy.watch_others() as found:
        assert found == {"other_work": None}
    assert found == {"other_work": 1.5}  # 15 s of work in 10 s


def test_the_teachers_row_holds_its_own_metrics_and_times(
    run_folder: Path, tiny_dataset: SequenceDataset, tiny_llm: Path
) -> None:
    config = FinetuneConfig(model=str(tiny_llm), num_layers=1, max_len=6, item_dim=8, lora_rank=2)
    teacher = build_teacher(config, tiny_dataset, torch.device("cpu")).eval()
    teacher.save_pretrained(run_folder / "teacher")
    report = evaluate(teacher, tiny_dataset, "test", max_len=6).report()
    about = {"dataset_fingerprint": tiny_dataset.fingerprint, "test": report}
    write_json(run_folder / "teacher" / "metrics.json", about)
    try:
        main(arguments(tiny_dataset, run_folder))
    finally:
        shutil.rmtree(run_folder / "teacher")
    row = json.loads((run_folder / "benchmark.json").read_text())["rows"][1]
    assert (row["system"], row["precision"]) == ("teacher", "nf4")
    assert row["metrics"] == report["seen_excluded"]
    assert row["metrics_other_protocol"] == report["seen_kept"]
    assert row["num_parameters"] == teacher.num_parameters
    assert row["size_mib"] == pytest.approx(sum(teacher.answer_bytes.values()) / 2**20)
    assert row["num_timed_calls"] >= 10


def test_the_teacher_answers_with_its_own_scores(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path: Path
) -> None:
    config = FinetuneConfig(model=str(tiny_llm), num_layers=1, max_len=6, item_dim=8, lora_rank=2)
    teacher = build_teacher(config, tiny_dataset, torch.device("cpu")).eval()
    teacher.save_pretrained(tmp_path)
    write_json(tmp_path / "metrics.json", {"num_parameters": 1, "size_bytes": 1})
    runner = TeacherRunner(tmp_path, num_threads=1)
    items, _ = runner.recommend(np.array([[1, 2, 3]]), np.array([[1, 2, 3]]), np.array([5]))
    with torch.inference_mode():
        order = teacher(torch.tensor([[1, 2, 3]]))[0].argsort(descending=True).tolist()
    assert items[0].tolist() == [item for item in order if item > 3][:5]


def test_without_a_teacher_the_command_to_type_is_named(
    run_folder: Path, tiny_dataset: SequenceDataset
) -> None:
    with pytest.raises(ModelError, match="accelerate launch teacher/finetune.py"):
        main(arguments(tiny_dataset, run_folder))


def test_a_teacher_of_another_data_set_is_refused(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    write_json(tmp_path / "teacher" / "metrics.json", {"dataset_fingerprint": "other"})
    with pytest.raises(ModelError, match="was trained on data set other"):
        main(arguments(tiny_dataset, tmp_path))


def test_without_students_the_command_to_type_is_named(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"python -m student\.distill"):
        main([*arguments(tiny_dataset, tmp_path), "--no-teacher"])


def test_without_data_the_command_to_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"python -m seqrec\.prepare"):
        benchmark(BenchmarkConfig(data_dir=tmp_path / "nothing", output_dir=tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("flag", ["device", "peer_device"])
def test_a_gpu_is_refused_in_words(
    flag: str, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    config = BenchmarkConfig(data_dir=tiny_dataset.path, output_dir=tmp_path, **{flag: "cuda"})
    name = "--" + flag.replace("_", "-")
    with pytest.raises(ModelError, match=f"{name} cuda: PyTorch finds no GPU here. Use {name} cpu"):
        benchmark(config)


# --- Catalogue sizes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("catalogues")
    quick = ["--num-calls", "20", "--budget-s", "0.2", "--output-dir", str(folder)]
    main(["--catalogue-sizes", "300", "400", *quick])
    content: dict[str, Any] = json.loads((folder / "catalogue.json").read_text())
    return content


def test_each_size_is_measured_for_each_student_and_its_limit(catalogues: dict[str, Any]) -> None:
    assert catalogues["schema"] == "seqrec-catalogue/2"
    assert catalogues["config"]["catalogue_sizes"] == [300, 400]
    systems = [
        ("transformer", "fp32"),
        ("transformer", "int8"),
        ("transformer", "int8-optimum"),
        ("gru", "fp32"),
        ("gru", "int8"),
        ("gru, one new event", "int8"),
        ("gru", "int8-optimum"),
    ]
    found = [(row["num_items"], row["system"], row["precision"]) for row in catalogues["rows"]]
    assert found == [(size, *system) for size in (300, 400) for system in systems]
    for row in catalogues["rows"]:
        assert row["weights"] == "random"
        assert row["history_length"] == (1 if "event" in row["system"] else 50)
        assert row["over_limit"] == pytest.approx(
            row["latency_ms"]["p50"] / sum(row["limit_ms"].values())
        )
        shares = [share for _, share in row["profile"]]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1 + 1e-9


def test_the_page_shows_the_catalogues_rows(catalogues: dict[str, Any]) -> None:
    lines = results_page.of_catalogues(catalogues)
    rows = [line for line in lines if line.startswith(("| 300 |", "| 400 |"))]
    assert len(rows) == len(catalogues["rows"])
    assert f"{catalogues['rows'][0]['latency_ms']['p50']:.3f}" in rows[0]
    assert "    python -m benchmarks.latency --device cpu --catalogue-sizes 300 400" in lines


def test_a_fresh_process_opens_and_asks_an_exported_student(
    results: dict[str, Any], run_folder: Path
) -> None:
    for row in results["rows"][1:]:
        fresh = row["fresh"]
        assert 0 < fresh["first_ms"] < fresh["load_ms"]  # Python itself has to start
        assert 1 < fresh["peak_mib"] < 1000  # MiB, not bytes and not KiB
    assert results["rows"][0]["fresh"] is None  # popularity has nothing to load


def test_a_folder_that_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"could not be opened in a process of its own: .*config"):
        measure_fresh(tmp_path, 1)


def test_a_run_no_worse_than_itself_passes_and_a_worse_one_does_not(
    results: dict[str, Any], run_folder: Path, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    earlier = json.loads(json.dumps(results))
    for row in earlier["rows"]:
        if "over_limit" in row:
            row["over_limit"] *= 100  # whatever the machine does meanwhile
    write_json(tmp_path / "earlier.json", earlier)
    words = [
        *arguments(tiny_dataset, run_folder),
        "--no-teacher",
        "--baseline",
        str(tmp_path / "earlier.json"),
    ]
    main(words)
    earlier["rows"][-1]["metrics"]["ndcg@10"] += 0.5
    write_json(tmp_path / "earlier.json", earlier)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 1


def test_sweeps_go_over_batch_sizes_and_history_lengths(
    run_folder: Path, tiny_dataset: SequenceDataset
) -> None:
    main([*arguments(tiny_dataset, run_folder), "--no-teacher", "--sweeps"])
    rows = json.loads((run_folder / "benchmark.json").read_text())["rows"]
    swept = [row for row in rows if "throughput_by_batch" in row]
    assert [row["precision"] for row in swept] == ["fp32", "fp32", "int8", "int8-optimum"]
    for row in swept:
        assert list(row["throughput_by_batch"]) == ["1", "8", "32", "128", "512"]
        # Seven items are all that they read.
        assert list(row["p50_ms_by_history"]) == ["1", "2", "5", "7"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere:Runner", "ModuleNotFoundError: No module named 'nowhere'"),
        ("math:Runner", "AttributeError: .*Runner"),
        ("math", "AttributeError"),
        ("builtins:iter", "TypeError"),  # it fails on the data set
        ("builtins:id", "made something that lacks system, precision"),
        ("runners_here:make", "max_len is 0, expected a number"),
    ],
)
def test_what_is_no_runner_is_refused_in_one_line(
    spec: str, message: str, tiny_dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SimpleNamespace(make=lambda dataset: replace(HONEST, max_len=0))
    monkeypatch.setitem(sys.modules, "runners_here", made)
    with pytest.raises(ModelError, match=message) as refused:
        load_runner(spec, tiny_dataset)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_student_in_pytorch_gives_the_lists_of_its_exported_file(
    results: dict[str, Any], run_folder: Path, tiny_dataset: SequenceDataset, is_compiled: bool
) -> None:
    if is_compiled and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    folder = run_folder / "students" / "gru" / "distilled"
    runner = TorchRunner(folder, 1, is_compiled=is_compiled)
    exported = OnnxRunner.from_pretrained(run_folder / "export" / "gru-distilled-fp32", 1)
    found, expected = (
        top_lists(system, tiny_dataset, exclude_seen=True) for system in (runner, exported)
    )
    assert np.array_equal(found, expected)
    assert runner.system == exported.system
    assert runner.precision != exported.precision  # rows are told apart by it
