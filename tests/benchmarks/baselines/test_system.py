"""A baseline answers from its own process, tells its own times, and is caught if it lies."""

import time

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError

import numpy as np
import pytest

from benchmarks.measure.flags import TimingFlags
from benchmarks.measure.quality import top_lists
from benchmarks.measure.queries import NOTHING, Request
from benchmarks.measure.speed import time_judged
from benchmarks.measure.systems import Popularity, SystemFailure
from benchmarks.report.schema import Failure, Quality
from tests.benchmarks.baselines.conftest import Serve

pytestmark = pytest.mark.slow


def test_a_baseline_answers_as_the_same_model_in_our_process_does(
    serve: Serve, tiny_dataset: SequenceDataset
) -> None:
    runner = serve("honest")
    ours = Popularity(tiny_dataset)
    for exclude_seen in (True, False):
        lists = top_lists(runner, tiny_dataset, exclude_seen=exclude_seen, batch_size=16)
        expected = top_lists(ours, tiny_dataset, exclude_seen=exclude_seen)
        assert lists.tolist() == expected.tolist()
    assert (runner.identity.label, runner.size_mib) == ("fake fp32", 1.0)
    assert runner.versions == {"numpy": np.__version__}


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ("shape", r"items of shape \(1, 19\), expected \(1, 20\)"),
        ("nan", "a score that is NaN"),
    ],
)
def test_a_lying_baseline_is_caught_and_named(
    serve: Serve, tiny_dataset: SequenceDataset, lie: str, message: str
) -> None:
    with pytest.raises(ModelError, match=rf"fake \(fp32\) returned .*{message}"):
        top_lists(serve(lie), tiny_dataset, exclude_seen=True)


def test_a_baseline_that_stops_is_named_with_its_last_words(
    serve: Serve, tiny_dataset: SequenceDataset
) -> None:
    message = r"fake \(fp32\) stopped \(exit code 3: out of ideas\)"
    with pytest.raises(SystemFailure, match=message) as caught:
        top_lists(serve("stop"), tiny_dataset, exclude_seen=True)
    assert "\n" not in str(caught.value)


REQUEST = Request(np.array([[1, 2]]), NOTHING, np.array([3]))


def test_the_time_is_that_of_the_answer_alone(serve: Serve) -> None:
    start = time.perf_counter_ns()
    ((preparing, _),) = serve("prepare slowly").timed([REQUEST])
    assert time.perf_counter_ns() - start > 30_000_000  # by our clock it did take that long
    assert preparing < 30_000_000
    wall, cpu = serve("answer slowly").timed([REQUEST, REQUEST]).T
    assert wall.min() >= 30_000_000
    assert cpu.max() < 30_000_000  # a process that sleeps computes nothing
    assert serve("compute").timed([REQUEST, REQUEST]).min() >= 30_000_000


def test_a_baseline_that_stops_while_it_is_timed_does_not_take_the_others_along(
    serve: Serve, tiny_dataset: SequenceDataset
) -> None:
    flags = TimingFlags(num_calls=10, budget_s=0.1)
    systems = [Popularity(tiny_dataset), serve("stop"), serve("honest")]
    unknown = Quality(metrics={}, metrics_other_protocol={})
    failed: list[Failure] = []
    judged = [(system, unknown) for system in systems]
    rows = time_judged(judged, tiny_dataset, flags, failed, sweeps=False)
    assert [row.label for row in rows] == ["popularity", "fake fp32"]
    assert all(row.latency_ms.p50 > 0 for row in rows)
    assert [failure.system for failure in failed] == ["fake"]


def test_a_new_worker_costs_time_and_memory(serve: Serve) -> None:
    cost = serve("honest").start_up()
    assert cost.load_ms is not None
    assert cost.first_ms is not None
    assert cost.peak_mib is not None
    assert 0 < cost.first_ms < cost.load_ms  # Python and numpy have to start
    assert 5 < cost.peak_mib < 1000  # MiB, not bytes and not KiB


def test_a_baseline_whose_new_worker_fails_is_named_itself(serve: Serve) -> None:
    system = serve("stop")
    with pytest.raises(SystemFailure, match="out of ideas") as raised:
        system.start_up()
    assert raised.value.system is system
