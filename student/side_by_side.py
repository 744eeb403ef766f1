"""Several students trained at once on a CPU, each by a process of its own.

A student is so small that two threads spend much of a step waiting for each other; two students
beside each other keep both cores busy. What comes out is the same.
"""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import set_up_logging
from seqrec.progress import set_bar_position
from seqrec.schedule import is_large

import torch
from accelerate import Accelerator


def num_side_by_side(dataset: SequenceDataset, accelerator: Accelerator) -> int:
    """Return how many students to train at once: on a CPU, as many as this process has threads.

    One in a large catalogue, where each takes gigabytes, and one where a GPU or several processes
    train it.
    """
    on_one_cpu = accelerator.device.type == "cpu" and accelerator.num_processes == 1
    return torch.get_num_threads() if on_one_cpu and not is_large(dataset.num_items) else 1


def run_side_by_side(
    work: Callable[..., None], tasks: Sequence[tuple[Any, ...]], num_at_once: int
) -> None:
    """Call `work(*task, num_threads)` for each task.

    Args:
        work: a function of a module, so that another process can import it. Its processes share
            out the threads of this one.
        tasks: its arguments, all but the last.
        num_at_once: how many processes there may be; 1: all is done in this one.

    Raises:
        Exception: what `work` raised first. The other processes are ended then.
    """
    num_threads = torch.get_num_threads()
    num_at_once = min(num_at_once, len(tasks))
    if num_at_once <= 1:
        for task in tasks:
            work(*task, num_threads)
        return
    context = multiprocessing.get_context("spawn")  # a fork would lack OpenMP's threads
    waiting, free = list(tasks), list(range(num_at_once))
    running: dict[Any, tuple[Any, Connection, int]] = {}  # by the process's sentinel
    try:
        while waiting or running:
            while waiting and free:
                position = free.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                arguments = (theirs, position, work, *waiting.pop(0), num_threads // num_at_once)
                process = context.Process(target=_run, args=arguments)
                process.start()
                theirs.close()
                running[process.sentinel] = process, ours, position
            for sentinel in wait(list(running)):
                process, ours, position = running.pop(sentinel)
                _finish(process, ours)
                free.append(position)
    finally:
        for process, _, _ in running.values():
            process.terminate()
            process.join()


def _run(connection: Connection, position: int, work: Callable[..., None], *arguments: Any) -> None:
    """Do a task in this process, and send what it raises."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_bar_position(position)
    set_up_logging()
    try:
        work(*arguments)
    except KeyboardInterrupt:  # the terminal has told the parent as well
        os._exit(130)
    except Exception as error:
        error.add_note(traceback.format_exc())
        connection.send(error)


def _end_with_parent() -> None:
    """End this process when its parent is killed: the next run would meet it in the same folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _finish(process: Any, connection: Connection) -> None:
    """Raise what a finished process sent, or that it ended without a word."""
    process.join()
    try:
        error = connection.recv() if connection.poll() else None
    except EOFError:
        error = None
    if error is not None:
        raise error
    if process.exitcode:
        raise ChildProcessError(f"a training was ended with exit code {process.exitcode}")
