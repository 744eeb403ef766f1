"""How much of the machine others took."""

import os
from collections import namedtuple
from typing import Any

import psutil
import pytest

from benchmarks.measure import machine

CPU = namedtuple("CPU", "user nice system idle iowait irq softirq steal guest guest_nice")


def test_others_are_told_from_ourselves_and_our_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    # 20 s of work, 60 s of none; what guests took is in user, too.
    spent = CPU(10, 1, 4, 50, 10, 1, 1, 3, 5, 1)
    ours = os.times_result((2.0, 1.0, 0.5, 0.5, 100.0))  # with children that ended: 4 s

    class Process:
        def __init__(self, pid: int) -> None:
            if pid != 77:
                raise psutil.NoSuchProcess(pid)

        def cpu_times(self) -> Any:
            return namedtuple("Times", "user system")(2, 3)

    monkeypatch.setattr(machine.os, "times", lambda: ours)
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: spent)
    monkeypatch.setattr(machine.psutil, "Process", Process)
    assert machine.others_s([]) == pytest.approx(20 - 4)
    assert machine.others_s([77]) == pytest.approx(20 - 4 - 5)
    assert machine.others_s([78]) is None  # it has ended


def test_others_work_is_told_in_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0])
    seconds: Any = iter([50.0, 65.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine, "others_s", lambda workers: next(seconds))
    with machine.watch_others() as found:
        assert found.cores is None
    assert found.cores == 1.5  # 15 s of work in 10 s
    assert found.tell(machine.describe_machine(1)).other_work == 1.5
