"""The runner that the page on measuring shows, taken from there."""

import re
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset

import numpy as np
import pytest

from benchmarks.measure.queries import NOTHING, Request
from benchmarks.measure.systems import load_runner

ROOT = Path(__file__).parents[2]


def test_the_runner_that_is_shown_takes_part(
    write_sequences: Callable[[list[list[int]], int], SequenceDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (ROOT / "docs/measured.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(shown.splitlines()) < 20
    (tmp_path / "markov.py").write_text(shown, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    # The last event of each user is the test target: 1 is followed by 2 twice and by 3 once.
    dataset = write_sequences([[1, 2, 4], [1, 2, 4], [1, 3, 4]], 4)
    system = load_runner("markov:Markov", dataset)
    best = system.checked(Request(np.array([[4, 1]]), NOTHING, np.array([2])), 4)
    assert best.tolist() == [[2, 3]]
    without_best = Request(np.array([[1]]), np.array([[2]]), np.array([1]))
    assert system.checked(without_best, 4).tolist() == [[3]]
