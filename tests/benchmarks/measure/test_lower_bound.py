"""The lower bound: all parameters read once, each score looked at once, no call of its own."""

from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset

import numpy as np
import pytest

from benchmarks.measure import lower_bound
from benchmarks.measure.flags import TimingFlags
from benchmarks.measure.lower_bound import LEAST_MS
from benchmarks.measure.queries import NOTHING
from benchmarks.measure.speed import measure_speed
from benchmarks.measure.students import TorchSystem
from benchmarks.measure.systems import Popularity, System
from benchmarks.report.schema import Identity, LatencyResults, LowerBound

HISTORY, TWO = np.array([[3, 4]]), np.array([2])


class Dense(System):
    """Reads 64 MiB of weights, as it says, and answers at once."""

    identity = Identity(system="dense", precision="fp32", family="runner")
    size_mib = 64.0

    def recommend(self, items: Any, excluded: Any, k: Any) -> Any:
        return np.ones((1, 10)), np.ones((1, 10))


def test_it_reads_all_bytes_and_looks_at_each_score(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[np.ndarray] = []
    ones = np.ones
    with monkeypatch.context() as patch:
        patch.setattr(lower_bound.np, "ones", lambda *a, **k: made.append(ones(*a, **k)) or made[0])
        # The dot product of two halves, all ones.
        assert lower_bound.reader(8000).call(HISTORY, NOTHING, TWO) == 1000
    assert [array.nbytes for array in made] == [8000]
    # The greatest of 3,000 normal numbers.
    assert lower_bound.one_look(3000).call(HISTORY, NOTHING, TWO) > 2.5
    top_items, _ = lower_bound.idle(1).recommend(HISTORY, NOTHING, TWO)
    assert top_items.tolist() == HISTORY.tolist()  # nothing is computed


def test_it_is_what_is_left_without_the_calls_own_time() -> None:
    """By hand: 8,000 bytes 3 us and 4 bytes 1; 500 scores 7 us and a single one 5."""
    p50_ms = {"read 4": 0.001, "read 8000": 0.003, "look 1": 0.005, "look 500": 0.007}
    bound = lower_bound.lower_bound(p50_ms, 8000, 500)
    assert (bound.read, bound.top_k) == pytest.approx((0.002, 0.002))
    # What the clock cannot tell is no bound of zero: multiples of it are still numbers.
    least = LowerBound(read=LEAST_MS, top_k=LEAST_MS)
    assert lower_bound.lower_bound(p50_ms, 4, 1) == least


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
    student = run_folder / "students" / "gru" / "control"
    in_torch = TorchSystem(student, 1, is_compiled=False)
    assert in_torch.parameter_bytes() == in_torch.num_parameters * 4


def test_only_what_reads_all_its_weights_has_a_lower_bound(tiny_dataset: SequenceDataset) -> None:
    flags = TimingFlags(num_calls=20, budget_s=0.1)
    light = Dense()
    light.size_mib = 0.0  # as a runner may say of itself
    systems = [Popularity(tiny_dataset), Dense(), light]
    popularity, dense, free = measure_speed(systems, tiny_dataset, flags, sweeps=False)
    assert popularity.ratio_to_lower_bound is None
    assert dense.lower_bound_bytes == 64 * 2**20
    assert dense.lower_bound_ms is not None
    assert dense.lower_bound_ms.read > 0.5  # 64 MiB at less than 128 GB/s
    assert dense.ratio_to_lower_bound == dense.latency_ms.p50 / dense.lower_bound_ms.total
    assert dense.start_up is None
    assert free.lower_bound_ms is not None
