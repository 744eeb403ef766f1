"""A baseline as a system: it answers in a process and an environment of its own.

The time is taken inside that process, around the library's call on prepared input, so that the
pipe between the two costs a baseline nothing. See `workers/serving.py` for the lines that go
through it.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqrec.data import IntArray
from seqrec.environments import ensure_environment
from seqrec.errors import SeqRecError

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines.libraries import Baseline
from benchmarks.baselines.training import (
    read_log,
    training_report,
    worker_command,
    worker_environment,
)
from benchmarks.measure.lower_bound import BYTES
from benchmarks.measure.quality import failure_of
from benchmarks.measure.queries import NOTHING, Answer, Request
from benchmarks.measure.startup import last_line, peak_mib
from benchmarks.measure.systems import System, SystemFailure
from benchmarks.report.schema import Failure, StartUp


class BaselineSystem(System):
    """A trained baseline, served by its worker."""

    may_fail = True

    def __init__(
        self,
        baseline: Baseline,
        mode: str,
        python: Path,
        folder: Path,
        *,
        num_threads: int,
        log_name: str = "serve",
    ) -> None:
        """Start the worker, with the interpreter of its environment.

        `folder` is what `ensure_trained` or `write_untrained` returned; `log_name` begins the name
        of the file that the worker prints to.

        Raises:
            SystemFailure: the worker does not start.
        """
        self.identity = identity = baseline.identity(mode)
        self._made_of, self._num_threads = (baseline, mode, python, folder), num_threads
        self._is_sparse, self._folder = baseline.is_sparse, folder
        self._log = folder.parent / f"{log_name}-{mode}.log"
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                worker_command(baseline, python, "serve", str(folder.resolve()), mode),
                env=worker_environment(num_threads),
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
        try:
            told = self._receive()
        except SystemFailure:
            self.close()
            raise
        self.identity = replace(identity, precision=told["precision"])
        self.num_parameters, self.max_len = told["num_parameters"], told["max_len"]
        self.size_mib, self.versions = told["size_bytes"] / 2**20, told["versions"]

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        ((answer, _),) = self._ask([Request(items, excluded, k)])
        return answer

    def timed(self, requests: Sequence[Request]) -> NDArray[np.int64]:
        """Answer requests one after another; the clocks are the worker's."""
        durations = [durations for _, durations in self._ask(requests)]
        return np.array(durations, dtype=np.int64).reshape(-1, 2)

    def parameter_bytes(self) -> int | None:
        """So many numbers in the precision that it computes in."""
        if self._is_sparse:
            return None
        if (size := BYTES.get(self.identity.precision)) is None:
            return super().parameter_bytes()
        return self.num_parameters * size

    def start_up(self) -> StartUp:
        """Start another worker, ask it once, and return what that cost.

        Raises:
            SystemFailure: it does not start, or does not answer.
        """
        started = time.monotonic_ns()
        try:
            twin = BaselineSystem(*self._made_of, num_threads=self._num_threads, log_name="start")
            ready = time.monotonic_ns()
            with contextlib.closing(twin):
                twin.recommend(np.array([[1]]), NOTHING, np.array([1]))
                return StartUp(
                    load_ms=(ready - started) / 1e6,
                    first_ms=(time.monotonic_ns() - ready) / 1e6,
                    peak_mib=peak_mib(twin._process.pid),
                )
        except SystemFailure as error:  # of the twin, whom nobody knows
            raise SystemFailure(str(error), self) from error

    def details(self) -> dict[str, Any]:
        """Versions of its libraries, and how it was trained."""
        return {"library_versions": self.versions, "training": training_report(self._folder)}

    def close(self) -> None:
        """End the worker."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what is left in a broken pipe
                    pipe.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, requests: Sequence[Request]) -> list[tuple[Answer, tuple[int, int]]]:
        """Return answers, for `check_answer` to judge, with the wall and CPU time of each in ns."""
        lines = [
            {"items": r.items.tolist(), "excluded": r.excluded.tolist(), "k": int(r.k[0])}
            for r in requests
        ]
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has stopped: reading says why
            self._process.stdin.write(json.dumps({"requests": lines}) + "\n")
            self._process.stdin.flush()
        answers = []
        for answer in self._receive()["answers"]:
            top = np.array(answer["items"]), np.array(answer["scores"], dtype=np.float32)
            answers.append((top, (answer["wall_ns"], answer["cpu_ns"])))
        return answers

    def _receive(self) -> dict[str, Any]:
        """Read one line of JSON; nothing but the worker writes there, see `workers/serving.py`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            name = f"{self.identity.system} ({self.identity.precision})"
            raise SystemFailure(
                f"{name} stopped (exit code {code}: {last_line(read_log(self._log))}). What it "
                f"printed is in {self._log}",
                self,
            )
        return dict(json.loads(line))


def open_all(
    baselines: Sequence[Baseline],
    make: Callable[[Baseline, Path], Path],
    num_threads: int,
    stack: ExitStack,
) -> tuple[list[System], list[Failure]]:
    """Build environments, make the models and serve them, each as far as it goes.

    `make` returns the folder of a baseline's model, made now with the interpreter of its
    environment unless it is there. The stack ends the workers when it is left.

    Returns:
        A system for each mode that answers, and a failure for each that does not.
    """
    systems: list[System] = []
    failures: list[Failure] = []
    for baseline in baselines:
        try:
            python = ensure_environment(baseline.requirements)
            folder = make(baseline, python)
        except SeqRecError as error:
            failures += [failure_of(baseline.identity(mode), error) for mode in baseline.modes]
            continue
        for mode in baseline.modes:
            try:
                system = BaselineSystem(baseline, mode, python, folder, num_threads=num_threads)
            except SeqRecError as error:
                failures.append(failure_of(baseline.identity(mode), error))
                continue
            systems.append(stack.enter_context(contextlib.closing(system)))
    return systems, failures
