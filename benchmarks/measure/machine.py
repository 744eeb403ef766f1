"""The machine that figures come from, and how much of it others took meanwhile."""

import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.report.schema import Machine

PACKAGES = ("onnxruntime", "torch", "numpy")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")


def describe_machine(num_threads: int) -> Machine:
    """Return what the figures depend on besides the code.

    py-cpuinfo tells no more of a CPU than these lines of /proc/cpuinfo, and takes a second.
    """
    flags, mhz = _cpu_info("flags"), _cpu_info("cpu MHz")
    return Machine(
        cpu=_cpu_info("model name") or platform.processor() or platform.machine(),
        cpu_flags=tuple(name for name in FLAGS if name in flags.split()) if flags else None,
        cpu_mhz=float(mhz) if mhz else None,
        num_cores=os.cpu_count() or 1,
        num_threads=num_threads,
        load_at_start=psutil.getloadavg()[0],
        os=platform.platform(terse=True),
        python=platform.python_version(),
        versions={name: version(name) for name in PACKAGES},
    )


def _cpu_info(key: str) -> str | None:
    """Return what Linux says of the first core, None if it says nothing."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None


class OtherWork:
    """How many cores other processes kept busy; None until it was watched."""

    cores: float | None = None

    def tell(self, machine: Machine) -> Machine:
        """Return the machine with what others took of it."""
        return replace(machine, other_work=self.cores)


@contextmanager
def watch_others(workers: Iterable[int] = ()) -> Iterator[OtherWork]:
    """Measure the CPU time of all processes but this one and its children.

    Args:
        workers: process numbers of children that live on; those that ended inside are counted.

    Yields:
        What knows, once the block is left, how many cores others kept busy on average, time stolen
        by a hypervisor included.
    """
    pids, others = list(workers), OtherWork()
    wall, before = time.perf_counter(), others_s(pids)
    yield others
    after = others_s(pids)
    if before is not None and after is not None:
        others.cores = max(after - before, 0.0) / (time.perf_counter() - wall)


def others_s(workers: Iterable[int]) -> float | None:
    """Return the CPU seconds of all processes since the machine started, less our own.

    None: a worker has ended.
    """
    try:
        live = [psutil.Process(pid).cpu_times() for pid in workers]
    except psutil.Error:
        return None
    times = psutil.cpu_times()
    waiting = ("idle", "iowait", "guest", "guest_nice")  # guests are in user, too
    spent = sum(value for name, value in times._asdict().items() if name not in waiting)
    ours = sum(os.times()[:4])  # user and system, of this process and of children that ended
    return spent - ours - sum(worker.user + worker.system for worker in live)
