"""The machine that figures come from, and how much of it others took meanwhile."""

import contextlib
import os
import platform
import time
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
    core = _first_core()
    flags = core.get("flags", "").split()
    return Machine(
        cpu=core.get("model name") or platform.processor() or platform.machine(),
        cpu_flags=tuple(name for name in FLAGS if name in flags) if flags else None,
        cpu_mhz=float(core["cpu MHz"]) if "cpu MHz" in core else None,
        num_cores=os.cpu_count() or 1,
        num_threads=num_threads,
        load_at_start=psutil.getloadavg()[0],
        os=platform.platform(terse=True),
        python=platform.python_version(),
        versions={name: version(name) for name in PACKAGES},
    )


def _first_core() -> dict[str, str]:
    """Return what Linux says of the first core; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8").partition("\n\n")[0] if info.is_file() else ""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


class OtherWork:
    """Measures what all processes but this one and its children compute, from now on."""

    def __init__(self) -> None:
        self._wall, self._before = time.perf_counter(), others_s()

    def cores(self) -> float:
        """Return how many cores they kept busy on average; time stolen by a hypervisor counts."""
        return max(others_s() - self._before, 0.0) / (time.perf_counter() - self._wall)


def others_s() -> float:
    """Return the CPU seconds of all processes since the machine started, less our own."""
    times = psutil.cpu_times()
    waiting = ("idle", "iowait", "guest", "guest_nice")  # guests are in user, too
    spent = sum(value for name, value in times._asdict().items() if name not in waiting)
    ours = sum(os.times()[:4])  # user and system, of this process and of children that ended
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            ours += sum(child.cpu_times()[:4])  # its own and those of its children that ended
    return spent - ours
