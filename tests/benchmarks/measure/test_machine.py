"""How much of the machine others took."""

import os
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from benchmarks.measure import machine

CPU = namedtuple("CPU", "user nice system idle iowait irq softirq steal guest guest_nice")


def test_others_are_told_from_ourselves_and_our_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    # 20 s of work, 60 s of none; what guests took is in user, too.
    spent = CPU(10, 1, 4, 50, 10, 1, 1, 3, 5, 1)
    ours = os.times_result((2.0, 1.0, 0.5, 0.5, 100.0))  # with children that ended: 4 s

    def ended() -> Any:
        raise psutil.NoSuchProcess(78)

    worker = SimpleNamespace(cpu_times=lambda: (2, 3, 1, 0, 50))  # 6 s, and 50 of waiting
    children: list[Any] = []
    monkeypatch.setattr(machine.os, "times", lambda: ours)
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: spent)
    process = SimpleNamespace(children=lambda: children)
    monkeypatch.setattr(machine.psutil, "Process", lambda: process)
    assert machine.others_s() == pytest.approx(20 - 4)
    children += [worker, SimpleNamespace(cpu_times=ended)]
    assert machine.others_s() == pytest.approx(20 - 4 - 6)


def test_others_work_is_told_in_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seconds = iter([100.0, 110.0]), iter([50.0, 65.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine, "others_s", lambda: next(seconds))
    assert machine.OtherWork().cores() == 1.5  # 15 s of work in 10 s
