"""What a new process costs until its first answer."""

from pathlib import Path

from seqrec.errors import ModelError

import numpy as np
import pytest
import torch

from benchmarks.measure import students
from benchmarks.measure.first_answer import StartUpConfig, measure_here
from benchmarks.measure.startup import last_line, measure_start_up, median_start_up
from benchmarks.report.schema import LatencyResults, StartUp


def test_a_new_process_opens_and_asks_an_exported_student(results: LatencyResults) -> None:
    for row in results.rows[1:]:
        assert row.start_up is not None
        assert row.start_up.first_ms is not None
        assert row.start_up.load_ms is not None
        assert 0 < row.start_up.first_ms < row.start_up.load_ms  # Python itself has to start
        assert row.start_up.peak_mib is not None
        assert 1 < row.start_up.peak_mib < 1000  # MiB, not bytes and not KiB
    assert results.rows[0].start_up is None  # popularity has nothing to load


def test_a_folder_that_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"could not be opened in a process of its own: .*config"):
        measure_start_up(tmp_path, 1)


def test_the_median_is_of_what_is_known() -> None:
    starts = [StartUp(load_ms=load, first_ms=1.0, peak_mib=None) for load in (5.0, 3.0, 9.0)]
    assert median_start_up(starts) == StartUp(load_ms=5.0, first_ms=1.0, peak_mib=None)
    assert median_start_up([None, None]) is None
    assert median_start_up([]) is None


def test_the_last_line_is_the_last_that_says_something() -> None:
    assert last_line("first\n  second  \n\n \n") == "second"
    assert last_line("\n") == "no output"


def test_a_teacher_is_asked_for_no_more_items_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Teacher:
        def __init__(self, *_: object) -> None:
            pass

        def recommend(self, items: np.ndarray, excluded: np.ndarray, k: np.ndarray) -> object:
            asked.append(int(k[0]))
            return students.torch_top_k(torch.zeros(1, 2), excluded, int(k[0]))  # of one item

    monkeypatch.setattr(students, "TeacherSystem", Teacher)
    (tmp_path / "teacher.json").write_text("{}")
    measure_here(StartUpConfig(folder=tmp_path))
    assert asked == [1]
