"""What the workers have in common, for whose correctness no library answers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.baselines.workers.serving import cut_windows


@given(length=st.integers(0, 40), max_len=st.integers(1, 12))
def test_windows_hold_every_target_once_and_the_newest_with_all_the_history_that_fits(
    length: int, max_len: int
) -> None:
    """Of events that differ: what stands before a target in its window stood there before, too."""
    windows = [w.tolist() for w in cut_windows(np.arange(length), max_len, step=max_len)]
    targets = [target for window in windows for target in window[1:]]
    assert sorted(targets) == list(range(1, length))  # a first event has no history
    assert all(window == list(range(window[0], window[-1] + 1)) for window in windows)
    assert all(2 <= len(window) <= max_len + 1 for window in windows)
    if windows:
        assert windows[0] == list(range(length))[-max_len - 1 :]
