"""Computes the runs of a grid, `--jobs` at once; `benchmarks.accuracy` is the command."""

import logging
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from seqrec.errors import ModelError, set_up_logging
from seqrec.training import set_up_cpu

from tqdm import tqdm

from benchmarks.grid.plan import RunKey
from benchmarks.grid.run import compute_run, read_finished
from benchmarks.grid.summary import summarize
from benchmarks.grid.workspace import Workspace, run_folder, share_soft_targets
from benchmarks.report.files import save
from benchmarks.report.plots import draw_accuracy, save_figure
from benchmarks.report.schema import AccuracyResults

logger = logging.getLogger(__name__)


def run_grid(runs: Sequence[tuple[RunKey, Workspace]], jobs: int) -> None:
    """Compute all runs that are not finished, `jobs` at once."""
    todo = [work for work in runs if read_finished(*work) is None]
    num_finished = len(runs) - len(todo)
    logger.info("%d of %d runs are finished", num_finished, len(runs))
    with tqdm(total=len(runs), initial=num_finished, unit="run", desc="accuracy") as bar:
        if jobs == 1:
            for work in todo:
                compute_run(*work)
                bar.update()
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, spawn, max_tasks_per_child=1) as pool:
            try:
                for future in as_completed([pool.submit(compute_logged, *work) for work in todo]):
                    future.result()
                    bar.update()
            except BrokenProcessPool as error:
                raise ModelError(
                    "the process of a run was ended, by the system if memory was short. Type "
                    f"the same command again, with fewer than --jobs {jobs}: it goes on"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)  # what waits in the queue is not begun


def compute_logged(key: RunKey, space: Workspace) -> None:
    """Compute a run in a process of its own; what it prints goes to `log.txt` in its folder."""
    log = run_folder(key, space) / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    set_up_logging()
    set_up_cpu(num_threads=1, num_processes=1)
    try:
        compute_run(key, space)
    except Exception as error:
        logger.exception("failed")
        raise ModelError(f"{key} failed: {error}; see {log}") from error


def share_before(keys: Sequence[RunKey], space: Workspace) -> None:
    """Make what runs share before the first begins: two at once would make the same twice."""
    if space.knowledge is None:  # of other data it is refused here, before anything is trained
        return
    todo = [key for key in keys if read_finished(key, space) is None]
    for key in {key.variant: key for key in reversed(todo)}.values():  # one of each variant
        share_soft_targets(key, space)


def write_summary(space: Workspace, seeds: Sequence[int], command: str) -> AccuracyResults:
    """Write `accuracy.json` and its picture; `ModelError` if nothing is finished."""
    results = summarize(space, seeds, command)
    if not results.rows:
        raise ModelError(f"nothing is finished in {space.root}. Compute it: leave out --no-train")
    save(results, space.root / "accuracy.json")
    save_figure(draw_accuracy(results), space.root / "accuracy.png")
    logger.info("wrote %s and accuracy.png beside it", space.root / "accuracy.json")
    return results
