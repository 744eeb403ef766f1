"""Baselines through a worker that needs no library: it ranks by popularity, or lies, or stops."""

import ast
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError, SourceError
from seqrec.files import read_json, write_json

import numpy as np
import pytest
import torch

from benchmarks import catalogue
from benchmarks.baselines import __main__ as command
from benchmarks.baselines import opening, training
from benchmarks.baselines.libraries import BASELINES, HERE, Baseline
from benchmarks.baselines.system import BaselineSystem
from benchmarks.baselines.training import (
    TrainingFlags,
    ensure_trained,
    training_report,
    worker_environment,
    write_exchange,
)
from benchmarks.measure.quality import Judged, top_lists
from benchmarks.measure.queries import NOTHING, Request
from benchmarks.measure.speed import Workload, time_judged
from benchmarks.measure.systems import Popularity, SystemFailure
from benchmarks.measure.timing import measure_latency
from benchmarks.report.files import load
from benchmarks.report.schema import CatalogueResults, Failure, LatencyResults, Quality, Training

pytestmark = pytest.mark.slow

PYTHON = Path(sys.executable)
FLAGS = TrainingFlags(seed=0)
WORKER = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import os
import time
import numpy as np
import serving

LIBRARIES = ("numpy",)

def train(exchange, output, num_epochs):
    with open(output.parent / "trainings.txt", "a") as file:
        file.write(f"{{num_epochs}}\\n")
    with open(output.parent / "devices.txt", "a") as file:
        file.write(f"{{exchange.device}} {{os.environ.get('CUDA_VISIBLE_DEVICES')}}\\n")
    if exchange.settings["does"] == "fail":
        raise RuntimeError("no gradient today")
    counts = np.bincount(exchange.events, minlength=exchange.num_items + 1)
    values = []
    if num_epochs:
        np.save(output / "counts.npy", counts)
        return values
    for value in [0.1, 0.3, 0.2] + (0 if exchange.is_over() else 2) * [0.1]:
        serving.note(values, value, lambda: np.save(output / "counts.npy", counts + len(values)))
    return values

def untrained(exchange, output):
    if exchange.settings["does"] == "fail":
        raise RuntimeError("no weights today")
    np.save(output / "counts.npy", np.arange(exchange.num_items + 1))

class Model:
    precision, size_bytes, num_parameters, max_len = "fp32", 2**20, 30, 5

    def __init__(self, folder, does):
        self.counts, self.does = np.load(folder / "counts.npy"), does

    def prepare(self, items, excluded, k):
        if self.does == "prepare slowly":
            time.sleep(0.03)
        return items, excluded, k

    def answer(self, prepared):
        items, excluded, k = prepared
        if self.does == "stop":
            print("out of ideas", file=sys.stderr, flush=True)
            os._exit(3)
        if self.does == "answer slowly":
            time.sleep(0.03)
        if self.does == "compute":
            start = time.process_time()
            while time.process_time() < start + 0.03:
                pass
        scores = np.repeat(self.counts[None].astype(np.float32), len(items), axis=0)
        np.put_along_axis(scores, excluded, -np.inf, axis=1)
        scores[:, 0] = -np.inf
        top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return top, np.take_along_axis(scores, top, axis=1)

    def unpack(self, answered, k):
        items, scores = answered
        if self.does == "shape":
            return items[:, :-1], scores[:, :-1]
        if self.does == "nan":
            return items, scores * np.nan
        if self.does == "range":
            return items + 1000, scores
        return items, scores

def open_model(folder, exchange, mode):
    if mode == "refuse":
        raise RuntimeError("this mode needs another processor")
    return Model(folder, mode)

serving.main(sys.modules[__name__])
"""


def settings(does: str, **more: Any) -> Callable[[int], dict[str, Any]]:
    return lambda _: {"does": does, "patience": 3, **more}


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    folder = tmp_path_factory.mktemp("baseline")
    (folder / "fake_worker.py").write_text(WORKER)
    (folder / "fake.txt").write_text("numpy\n")
    return Baseline(
        name="fake popularity",
        worker=folder / "fake_worker.py",
        requirements=folder / "fake.txt",
        settings=settings("train"),
        modes={"honest": "fake popularity"},
        can_be_untrained=True,
    )


@pytest.fixture(scope="module")
def trained(
    baseline: Baseline, tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output_dir = tmp_path_factory.mktemp("run")
    return ensure_trained(baseline, PYTHON, tiny_dataset, output_dir, FLAGS)


@pytest.fixture
def serve(baseline: Baseline, trained: Path) -> Iterator[Callable[[str], BaselineSystem]]:
    with ExitStack() as stack:

        def start(mode: str) -> BaselineSystem:
            runner = BaselineSystem(
                replace(baseline, modes={mode: "fake"}), mode, PYTHON, trained, num_threads=1
            )
            stack.callback(runner.close)
            return runner

        yield start


def test_a_baseline_answers_as_the_same_model_in_our_process_does(
    serve: Callable[[str], BaselineSystem], tiny_dataset: SequenceDataset
) -> None:
    runner = serve("honest")
    ours = Popularity(tiny_dataset)
    for exclude_seen in (True, False):
        found = top_lists(runner, tiny_dataset, exclude_seen=exclude_seen, batch_size=16)
        expected = top_lists(ours, tiny_dataset, exclude_seen=exclude_seen)
        assert found.tolist() == expected.tolist()
    assert (runner.identity.label, runner.size_mib) == ("fake fp32", 1.0)
    assert runner.versions == {"numpy": np.__version__}


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ("shape", r"items of shape \(1, 19\), expected \(1, 20\)"),
        ("nan", "a score that is NaN"),
        ("range", r"item 1\d\d\d, expected 1 to 30"),
    ],
)
def test_a_lying_baseline_is_caught_and_named(
    serve: Callable[[str], BaselineSystem], tiny_dataset: SequenceDataset, lie: str, message: str
) -> None:
    with pytest.raises(ModelError, match=rf"fake \(fp32\) returned .*{message}"):
        top_lists(serve(lie), tiny_dataset, exclude_seen=True)


def test_a_baseline_that_stops_is_named_with_its_last_words(
    serve: Callable[[str], BaselineSystem], tiny_dataset: SequenceDataset
) -> None:
    message = r"fake \(fp32\) stopped \(exit code 3: out of ideas\)"
    with pytest.raises(SystemFailure, match=message) as caught:
        top_lists(serve("stop"), tiny_dataset, exclude_seen=True)
    assert "\n" not in str(caught.value)


REQUEST = Request(np.array([[1, 2]]), NOTHING, np.array([3]))


def test_the_time_is_that_of_the_answer_alone(serve: Callable[[str], BaselineSystem]) -> None:
    start = time.perf_counter_ns()
    ((preparing, _),) = serve("prepare slowly").timed([REQUEST])
    assert time.perf_counter_ns() - start > 30_000_000  # by our clock it did take that long
    assert preparing < 30_000_000
    wall, cpu = serve("answer slowly").timed([REQUEST, REQUEST]).T
    assert wall.min() >= 30_000_000
    assert cpu.max() < 30_000_000  # a process that sleeps computes nothing
    assert serve("compute").timed([REQUEST, REQUEST]).min() >= 30_000_000


def test_the_timer_takes_the_baselines_own_times(serve: Callable[[str], BaselineSystem]) -> None:
    runner = serve("answer slowly")
    (measured,) = measure_latency([runner], [[REQUEST]], num_calls=40, budget_s=0.3)
    assert len(measured.durations_ns) == 10  # the fewest calls, since the budget is spent
    assert measured.durations_ns.min() >= 30_000_000
    assert measured.cpu_ns < 30_000_000  # it sleeps


def test_the_best_epoch_is_how_long_it_trains_on_everything(trained: Path) -> None:
    assert read_json(trained.parent / "choice" / "trained.json")["num_epochs"] == 2
    assert read_json(trained / "trained.json")["num_epochs"] == 2
    assert (trained.parent / "trainings.txt").read_text().split() == ["0", "2"]


def test_where_nothing_is_learnt_anew_the_best_epoch_itself_is_served(
    baseline: Baseline,
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "refit_epochs", lambda *_: 0)
    folder = ensure_trained(baseline, PYTHON, tiny_dataset, tmp_path, FLAGS)
    assert (folder.parent / "trainings.txt").read_text().split() == ["0"]
    report = training_report(folder)
    assert report.num_epochs == 2
    assert report.minutes == read_json(folder / "trained.json")["minutes"]
    events = exchanged(folder)["events"]
    counts = np.bincount(events, minlength=tiny_dataset.num_items + 1)
    assert np.load(folder / "counts.npy").tolist() == (counts + 2).tolist()  # of the second epoch


def test_baselines_are_as_wide_as_our_students() -> None:
    by_name = {one.name: one.settings(96) for one in BASELINES}
    assert by_name["recbole gru4rec"]["model_settings"]["hidden_size"] == 96
    assert by_name["recbole sasrec"]["model_settings"]["hidden_size"] == 96
    assert by_name["replay sasrec"]["hidden_dim"] == by_name["rectools sasrec"]["hidden_dim"] == 96
    assert all(of["max_len"] == 50 for of in by_name.values())


def test_a_finished_training_is_reused_until_its_recipe_changes(
    baseline: Baseline, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    def train(seed: int, baseline: Baseline) -> list[str]:
        folder = ensure_trained(baseline, PYTHON, tiny_dataset, tmp_path, TrainingFlags(seed=seed))
        return (folder.parent / "trainings.txt").read_text().split()

    assert train(0, baseline) == train(0, baseline) == ["0", "2"]
    assert train(1, baseline) == ["0", "2"] * 2
    wider = replace(baseline, settings=settings("train", width=3))
    assert train(1, wider) == ["0", "2"] * 3


def test_what_a_gpu_has_trained_is_served_where_there_is_none(
    baseline: Baseline, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    on_gpu = replace(FLAGS, device="cuda")
    folder = ensure_trained(baseline, PYTHON, tiny_dataset, tmp_path, on_gpu)
    assert training_report(folder).device == "cpu"  # a library without PyTorch needs no GPU
    trained = read_json(folder / "trained.json")
    assert trained["versions"] == {"numpy": np.__version__}
    write_json(folder / "trained.json", trained | {"device": "Some GPU"})  # as one would write it
    assert folder == ensure_trained(baseline, PYTHON, tiny_dataset, tmp_path, FLAGS)
    assert training_report(folder).device == "Some GPU"


def test_the_device_of_trainings_reaches_the_workers(
    folder: Path,
    baseline: Baseline,
    quick: Callable[[Path], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Choice and final training alike, and the GPU is not hidden from them."""
    monkeypatch.setattr(opening, "ensure_environment", lambda _: PYTHON)
    monkeypatch.setattr(command, "BASELINES", (baseline,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    command.main([*quick(folder), "--no-teacher", "--train-device", "cuda"])
    (devices,) = (folder / "baselines").glob("*/devices.txt")
    assert devices.read_text().splitlines() == ["cuda 7", "cuda 7"]


def test_a_worker_sees_a_gpu_only_where_it_is_to_train_there() -> None:
    assert worker_environment(1)["CUDA_VISIBLE_DEVICES"] == ""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    assert worker_environment(1, "cuda").get("CUDA_VISIBLE_DEVICES") == shown


def test_what_is_chosen_is_told_by_its_name(tmp_path: Path) -> None:
    for part, minutes in (("choice", 1.0), ("final", 0.5)):
        (tmp_path / part).mkdir()
        known: dict[str, Any] = {"device": "cpu", "versions": {"implicit": "0.7.3"}}
        trained = {"num_epochs": 2, "minutes": minutes, "cut_short": False, **known}
        trained["valid_ndcg@10"] = [0.1, 0.3, 0.2] if part == "choice" else []
        write_json(tmp_path / part / "trained.json", trained)
        write_json(tmp_path / part / "recipe.json", {"settings": {"neighbours": [20, 50, 100]}})
    report = training_report(tmp_path / "final")
    assert report == Training(num_neighbours=50, num_tried=3, minutes=1.5, cut_short=False, **known)


def test_a_choice_that_was_cut_short_says_so_and_counts_until_more_time_is_given(
    baseline: Baseline, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    def train(max_minutes: float) -> tuple[bool, list[str]]:
        folder = ensure_trained(
            baseline, PYTHON, tiny_dataset, tmp_path, replace(FLAGS, max_minutes=max_minutes)
        )
        report = training_report(folder)
        assert report.num_epochs == 2
        assert report.minutes > 0
        return report.cut_short, (folder.parent / "trainings.txt").read_text().split()

    assert train(1e-9) == train(1e-9) == (True, ["0", "2"])
    assert train(0) == train(1e-9) == (False, ["0", "2", "0"])  # the final one is as it was


def exchanged(folder: Path) -> dict[str, Any]:
    with np.load(folder / "exchange" / "events.npz") as arrays:
        return dict(arrays)


def test_the_exchange_holds_held_out_events_only_when_it_may(
    trained: Path, tiny_sequences: list[list[int]]
) -> None:
    choice, final = exchanged(trained.parent / "choice"), exchanged(trained)
    for arrays, held_out in ((choice, 2), (final, 1)):
        expected = [item for sequence in tiny_sequences for item in sequence[:-held_out]]
        assert arrays["events"].tolist() == expected
        lengths = [len(sequence) - held_out for sequence in tiny_sequences]
        assert np.diff(arrays["offsets"]).tolist() == lengths
    targets = [[user, sequence[-2]] for user, sequence in enumerate(tiny_sequences)]
    assert choice["valid"].tolist() == targets
    assert final["valid"].tolist() == []


def test_no_test_target_is_in_any_exchange(tiny_dataset: SequenceDataset, tmp_path: Path) -> None:
    """A set with other test targets, and nothing else, gives the same files to the last bit."""
    events = np.array(tiny_dataset.events)
    last = tiny_dataset.offsets[1:] - 1
    events[last] = events[last] % tiny_dataset.num_items + 1
    twin = replace(tiny_dataset, events=events)
    for name in ("choice", "final"):
        found = []
        for number, dataset in enumerate((tiny_dataset, twin)):
            known = dataset if name == "choice" else dataset.before_test()
            folder = tmp_path / f"{name}-{number}"
            write_exchange(folder, known, num_items=dataset.num_items, seed=0, settings={})
            found.append({file.name: file.read_bytes() for file in folder.iterdir()})
        assert found[0] == found[1]


@pytest.fixture
def folder(untouched_students: Path, tmp_path: Path) -> Path:
    """An output directory with a student and its control, and no teacher."""
    return Path(shutil.copytree(untouched_students, tmp_path / "run"))


def test_baselines_stand_in_the_same_table_and_those_that_fail_say_why(
    folder: Path,
    baseline: Baseline,
    quick: Callable[[Path], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = replace(
        baseline, name="missing", modes={"honest": "missing"}, requirements=Path("gone")
    )
    failing: dict[str, Any] = {"settings": settings("fail"), "modes": {"": "untrained"}}
    untrained = replace(baseline, name="untrained", **failing)
    modes = {"honest": "fake", "nan": "fake liar", "refuse": "fake refuser"}

    def ensure(requirements: Path) -> Path:
        if requirements.name == "gone":
            raise SourceError("gone could not be installed\n(pip: no network)")
        return PYTHON

    monkeypatch.setattr(opening, "ensure_environment", ensure)
    chosen = (replace(baseline, modes=modes), missing, untrained)
    monkeypatch.setattr(command, "BASELINES", chosen)
    command.main([*quick(folder), "--no-teacher"])
    results = load(LatencyResults, folder / "benchmark.json")
    rows = {row.label: row for row in results.rows}
    assert list(rows)[:2] == ["popularity", "gru control fp32"]
    assert list(rows)[-1] == "fake fp32"
    fake = rows["fake fp32"]
    assert fake.metrics == rows["popularity"].metrics
    assert (fake.family, fake.is_untaught) == ("baseline", True)
    assert fake.latency_ms.p50 > 0
    assert fake.library_versions == {"numpy": np.__version__}
    assert fake.training is not None
    assert fake.training.num_epochs == 2
    reasons = {failure.system: failure.reason for failure in results.failed}
    assert list(reasons) == ["fake refuser", "missing", "untrained", "fake liar"]
    assert "this mode needs another processor" in reasons["fake refuser"]
    assert reasons["missing"] == "gone could not be installed (pip: no network)"
    assert "exit code 1: RuntimeError: no gradient today" in reasons["untrained"]
    assert "NaN" in reasons["fake liar"]
    ours = rows["gru distilled int8"]
    assert ours.gain_over_baselines is not None
    (gain,) = ours.gain_over_baselines.values()
    difference = ours.metrics["ndcg@10"] - fake.metrics["ndcg@10"]
    assert gain.mean == pytest.approx(difference)
    assert gain.low <= gain.mean <= gain.high
    table = capsys.readouterr().out.splitlines()
    said = f"gru distilled int8 over fake: NDCG@10 {difference:+.4f} ["
    assert any(line.startswith(said) for line in table)
    for system, reason in reasons.items():
        assert f"{system} failed: {reason}" in table
    assert (folder / "benchmark.png").is_file()


def test_untrained_baselines_are_timed_over_catalogue_sizes(
    baseline: Baseline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing: dict[str, Any] = {"settings": settings("fail"), "modes": {"": "broken"}}
    chosen = (
        replace(baseline, modes={"answer slowly": "fake"}),
        replace(baseline, name="broken", **failing),
        replace(baseline, name="eventful", can_be_untrained=False, modes={"": "eventful"}),
    )
    monkeypatch.setattr(opening, "ensure_environment", lambda requirements: PYTHON)
    monkeypatch.setattr(catalogue, "BASELINES", chosen)
    quick = ["--num-calls", "10", "--budget-s", "0.2", "--output-dir", str(tmp_path)]
    catalogue.main(["--num-items", "300", "--baselines", *quick])
    results = load(CatalogueResults, tmp_path / "catalogue.json")
    row = results.rows[-1]
    assert (row.num_items, row.system, row.family) == (300, "fake", "baseline")
    assert row.latency_ms.p50 > 30  # by its own clock
    assert (row.idle_call_ms, row.profile) == (None, ())
    (failure,) = results.failed
    assert (failure.num_items, failure.system) == (300, "broken")
    assert "RuntimeError: no weights today" in failure.reason
    assert f"broken, 300 items, failed: {failure.reason}" in capsys.readouterr().out


def test_a_baseline_that_is_none_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="--names 'sasrec' is none of 'implicit item-knn', "):
        command.BaselinesConfig(names=("sasrec",))
    with pytest.raises(ValueError, match="--minutes -1 is below 0"):
        command.BaselinesConfig(minutes=-1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_to_train_on_is_refused_in_words(
    tmp_path: Path, quick: Callable[[Path], list[str]]
) -> None:
    message = "--train-device cuda: PyTorch finds no GPU here. Use --train-device cpu"
    with pytest.raises(ModelError, match=message):
        command.main([*quick(tmp_path), "--train-device", "cuda"])


def test_a_baseline_that_stops_while_it_is_timed_does_not_take_the_others_along(
    serve: Callable[[str], BaselineSystem], tiny_dataset: SequenceDataset
) -> None:
    workload = Workload(tiny_dataset, num_threads=1, num_calls=10, budget_s=0.1, seed=0)
    systems = [Popularity(tiny_dataset), serve("stop"), serve("honest")]
    unknown = Quality(metrics={}, metrics_other_protocol={})
    failed: list[Failure] = []
    judged = [Judged(system, unknown) for system in systems]
    rows = time_judged(judged, workload, failed, sweeps=False)
    assert [row.label for row in rows] == ["popularity", "fake fp32"]
    assert all(row.latency_ms.p50 > 0 for row in rows)
    assert [failure.system for failure in failed] == ["fake"]


def test_a_new_worker_costs_time_and_memory(serve: Callable[[str], BaselineSystem]) -> None:
    found = serve("honest").start_up()
    assert found.load_ms is not None
    assert found.first_ms is not None
    assert found.peak_mib is not None
    assert 0 < found.first_ms < found.load_ms  # Python and numpy have to start
    assert 5 < found.peak_mib < 1000  # MiB, not bytes and not KiB


def test_a_baseline_whose_new_worker_fails_is_named_itself(
    serve: Callable[[str], BaselineSystem],
) -> None:
    system = serve("stop")
    with pytest.raises(SystemFailure, match="out of ideas") as raised:
        system.start_up()
    assert raised.value.system is system


@pytest.mark.parametrize("requirements", sorted({one.requirements for one in BASELINES}))
def test_every_requirement_of_a_baseline_is_pinned(requirements: Path) -> None:
    lines = [line for line in requirements.read_text().splitlines() if line[:1] not in ("", "#")]
    assert all(line.count("==") == 1 for line in lines)


@pytest.mark.parametrize("worker", sorted({one.worker for one in BASELINES}))
def test_workers_import_nothing_of_ours(worker: Path) -> None:
    ours = {"seqrec", "teacher", "student", "export", "benchmarks"}
    for file in (worker, HERE / "serving.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = {str(n.module).split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom)}
        names |= {a.name.split(".")[0] for n in nodes if isinstance(n, ast.Import) for a in n.names}
        assert not names & ours
