"""The lower bound: all parameters read once, each score looked at once, no call of its own."""

from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset

import numpy as np
import pytest

from benchmarks.measure import lower_bound
from benchmarks.measure.lower_bound import LEAST_MS, Bounds
from benchmarks.measure.queries import NOTHING
from benchmarks.measure.speed import Workload, measure_speed
from benchmarks.measure.systems import Popularity, TorchSystem
from benchmarks.report.schema import LatencyResults, LowerBound
from tests.benchmarks.measure.fixed import FixedSystem

HISTORY, TWO = np.array([[3, 4]]), np.array([2])


def test_it_reads_all_bytes_and_looks_at_each_score(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Numpy:
        float32 = np.float32

        @staticmethod
        def ones(shape: Any, dtype: Any) -> Any:
            made = np.ones(shape, dtype)
            seen.append(made.nbytes)
            return made

        dot = staticmethod(np.dot)

    with monkeypatch.context() as patch:
        patch.setattr(lower_bound, "np", Numpy)
        # The dot product of two halves, all ones.
        assert lower_bound.reader(8000).call(HISTORY, NOTHING, TWO) == 1000
    assert seen == [8000]
    # The greatest of 3,000 normal numbers.
    assert lower_bound.one_look(3000).call(HISTORY, NOTHING, TWO) > 2.5
    top_items, _ = lower_bound.idle(1).recommend(HISTORY, NOTHING, TWO)
    assert top_items.tolist() == HISTORY.tolist()  # nothing is computed


def test_it_is_what_is_left_without_the_calls_own_time() -> None:
    """By hand: 8,000 bytes 3 us and 4 bytes 1; 500 scores 7 us and a single one 5."""
    calls = lower_bound.reference_calls([8000, 4, 8000], 500, num_threads=1)
    names = [call.identity.system for call in calls]
    assert names == ["read 4", "read 8000", "look 1", "look 500", "idle call"]
    bounds = Bounds(dict(zip(names, (0.001, 0.003, 0.005, 0.007, 0.02), strict=True)))
    found = bounds.lower_bound(8000, 500)
    assert (found.read, found.top_k) == pytest.approx((0.002, 0.002))
    assert bounds.idle_call_ms == 0.02
    # What the clock cannot tell is no bound of zero: multiples of it are still numbers.
    assert bounds.lower_bound(4, 1) == LowerBound(read=LEAST_MS, top_k=LEAST_MS)


def test_it_charges_parameters_and_nothing_else_of_a_file(
    run_folder: Path, results: LatencyResults
) -> None:
    """The fp32 file holds each parameter once, in 4 bytes; a file's nodes and names are beside."""
    for row in results.rows[1:3]:
        assert row.precision == "fp32"
        least, file = row.num_parameters * 4, row.size_mib * 2**20
        assert row.lower_bound_bytes is not None
        # The GRU's first state, and -inf, come on top.
        assert least <= row.lower_bound_bytes < least + 300
        assert row.lower_bound_bytes < file - 1000
    assert FixedSystem([], [], size_mib=2.0).parameter_bytes() == 2 * 2**20
    student = run_folder / "students" / "gru" / "control"
    in_torch = TorchSystem(student, 1, is_compiled=False)
    assert in_torch.parameter_bytes() == in_torch.num_parameters * 4


def test_only_what_reads_all_its_weights_has_a_lower_bound(tiny_dataset: SequenceDataset) -> None:
    dense = FixedSystem(np.ones((1, 10)), np.ones((1, 10)), size_mib=64.0)
    workload = Workload(tiny_dataset, num_threads=1, num_calls=20, budget_s=0.1, seed=0)
    speeds = measure_speed([Popularity(tiny_dataset), dense], workload, sweeps=False)
    assert speeds[0].ratio_to_lower_bound is None
    assert speeds[1].lower_bound_ms is not None
    assert speeds[1].lower_bound_ms.read > 0.5  # 64 MiB at less than 128 GB/s
    assert speeds[1].start_up is None
