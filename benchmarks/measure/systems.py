"""What the benchmark compares: anything that answers a batch of histories with a batch of lists.

Shape letters: B users, T history, E excluded, K answers.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import ModelError
from seqrec.histories import PAD

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.queries import Answer, Request, check_answer
from benchmarks.report.schema import Identity, StartUp


class Runner(Protocol):
    """What a system of a user's own has to be; see `--runners`."""

    system: str  # its name in tables
    precision: str  # in what its weights are held
    size_mib: float  # of its file; of its weights in memory where there is no single file
    num_parameters: int
    max_len: int  # how many of the newest items it is shown

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch.

        Args:
            items: int64 (B, T), left-padded histories, T at most `max_len`.
            excluded: int64 (B, E), not to be recommended, PAD where there are fewer; E may be 0.
            k: int64 (1,), how many items to return.

        Returns:
            Items int64 (B, K) and scores float32 (B, K), best first; a score of -inf: no answer.
        """


class System:
    """A system under test; what most have in common, each may do otherwise."""

    identity: Identity
    size_mib: float = 0.0
    num_parameters: int = 0
    max_len: int = 1
    runs_on_onnxruntime = False
    may_fail = False  # then it is left out with its reason; else the benchmark stops

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        raise NotImplementedError

    def checked(self, request: Request, num_items: int) -> IntArray:
        """Answer and return the items (B, K); see `check_answer`."""
        answer = self.recommend(request.items, request.excluded, request.k)
        name = f"{self.identity.system} ({self.identity.precision_label})"
        return check_answer(name, answer, request, num_items)

    def prepare(self, request: Request) -> Callable[[], object]:
        """Return the call that is timed."""
        return partial(self.recommend, request.items, request.excluded, request.k)

    def timed(self, requests: Sequence[Request]) -> NDArray[np.int64]:
        """Answer requests one after another; return each one's wall and CPU time, (N, 2).

        In nanoseconds; CPU time is that of all threads.
        """
        durations = np.empty((len(requests), 2), dtype=np.int64)
        for index, request in enumerate(requests):
            call = self.prepare(request)
            cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            call()
            durations[index] = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
        return durations

    def parameter_bytes(self) -> int | None:
        """How many bytes an answer reads at least; None where it takes but a part of them."""
        return round(self.size_mib * 2**20)

    def start_up(self) -> StartUp | None:
        """What a new process costs until its first answer; None where that is not measured."""
        return None

    def details(self) -> dict[str, Any]:
        """More of its row: fields of `SystemResult`."""
        return {}


class SystemFailure(ModelError):
    """A system that may fail does not answer."""

    def __init__(self, message: str, system: System) -> None:
        super().__init__(message)
        self.system = system


class Popularity(System):
    """The items most frequent in training, the same for everyone."""

    identity = Identity(system="popularity", precision="fp32", family="popularity")

    def __init__(self, dataset: SequenceDataset) -> None:
        counts = dataset.before_test().train_counts().astype(np.float32)
        self._order = np.argsort(-counts[1:], kind="stable") + 1  # ties by the lower item number
        self._scores = counts[self._order]
        self.num_parameters = dataset.num_items
        self.size_mib = (self._order.nbytes + self._scores.nbytes) / 2**20

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        num_answers = int(k[0])
        candidates = self._order[: num_answers + excluded.shape[1]]
        is_left_out = np.zeros(len(self._order) + 1, dtype=np.bool_)
        top_items = np.full((len(items), num_answers), PAD, dtype=np.int64)
        top_scores = np.full((len(items), num_answers), -np.inf, dtype=np.float32)
        for row, left_out in enumerate(excluded):
            is_left_out[left_out] = True
            best = np.flatnonzero(~is_left_out[candidates])[:num_answers]
            is_left_out[left_out] = False
            top_items[row, : len(best)] = self._order[best]
            top_scores[row, : len(best)] = self._scores[best]
        return top_items, top_scores

    def parameter_bytes(self) -> None:
        """It does not look at all that it counted."""
        return None


class RunnerSystem(System):
    """A user's own runner."""

    def __init__(self, runner: Runner) -> None:
        """Take what it says of itself.

        Raises:
            AttributeError: it lacks something.
            ValueError: a number of it cannot be.
        """
        self.recommend = runner.recommend  # type: ignore[method-assign]
        self.identity = Identity(system=runner.system, precision=runner.precision, family="runner")
        self.size_mib, self.num_parameters = float(runner.size_mib), int(runner.num_parameters)
        self.max_len = int(runner.max_len)
        if not (self.size_mib >= 0 and self.num_parameters >= 0 and self.max_len >= 1):
            raise ValueError("size_mib and num_parameters are 0 or more, max_len is 1 or more")


def load_runner(spec: str, dataset: SequenceDataset) -> RunnerSystem:
    """Make a user's own system: `module:name`, where name(dataset) returns a `Runner`.

    Raises:
        ModelError: there is no such thing, it fails, or what it makes is no runner.
    """
    module, _, name = spec.partition(":")
    try:
        return RunnerSystem(getattr(importlib.import_module(module), name)(dataset))
    except Exception as error:  # it is not our code
        raise ModelError(
            f"--runners {spec}: {type(error).__name__}: {error}. Expected module:name, importable "
            "from here, with name(dataset) returning a runner (see benchmarks/measure/systems.py)"
        ) from error
