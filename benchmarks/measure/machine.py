"""How much of the machine others took while something was measured."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def watch_others(workers: Iterable[int] = ()) -> Iterator[dict[str, float | None]]:
    """Measure the CPU time of all processes but this one and its children.

    Args:
        workers: process numbers of children that live on; those that ended inside are counted.

    Yields:
        What an `environment` takes up once the block is left: other_work, how many cores others
        kept busy on average, time stolen by a hypervisor included; None where there is no /proc.
    """
    pids = list(workers)
    found: dict[str, float | None] = {"other_work": None}
    wall, before = time.perf_counter(), others_s(pids)
    yield found
    after = others_s(pids)
    if before is not None and after is not None:
        found["other_work"] = max(after - before, 0.0) / (time.perf_counter() - wall)


def others_s(workers: Iterable[int], proc: Path = Path("/proc")) -> float | None:
    """Return the CPU seconds of all processes since the machine started, less our own.

    None: there is no /proc, or a worker has ended.
    """
    try:
        fields = (proc / "stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        live = [(proc / f"{pid}" / "stat").read_text(encoding="utf-8") for pid in workers]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])  # idle and waiting are not
    ours = sum(sum(map(int, line.rpartition(")")[2].split()[11:13])) for line in live)
    ticks = os.sysconf("SC_CLK_TCK")
    own = os.times()
    spent = own.user + own.system + own.children_user + own.children_system
    return (user + nice + system + irq + softirq + steal - ours) / ticks - spent
