"""What the benchmark compares: anything that answers a batch of histories with a batch of lists.

Shape letters: B users, T history, E excluded, K answers.
"""

import importlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsFloat, runtime_checkable

from seqrec.data import PAD, IntArray, SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import read_json

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.recommender import NEW_STATE, OUTPUT_NAMES, STATE, open_session

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float32]
Answer = tuple[IntArray, FloatArray]


class Runner(Protocol):
    """A system under test."""

    @property
    def system(self) -> str:
        """Its name in tables; rows are told apart by system and precision."""

    @property
    def precision(self) -> str:
        """In what its weights are held."""

    @property
    def size_mib(self) -> float:
        """Size of its file in MiB; of its weights in memory where there is no single file."""

    @property
    def num_parameters(self) -> int:
        """Number of weights."""

    @property
    def max_len(self) -> int:
        """How many of the newest items it is shown."""

    # `reads_all_weights`, if it is there and False: no limit is told, an answer takes but a part.
    # `parameter_bytes`, if it is there: what the limit charges, instead of the size.

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch.

        Args:
            items: int64 (B, T), left-padded histories, T at most `max_len`.
            excluded: int64 (B, E), not to be recommended, PAD where there are fewer; E may be 0.
            k: int64 (1,), how many items to return.

        Returns:
            Items int64 (B, K) and scores float32 (B, K), best first; a score of -inf: no answer.
        """


@dataclass(frozen=True)
class Request:
    """One call's arguments, prepared before the clock starts."""

    items: IntArray  # (B, T)
    excluded: IntArray  # (B, E)
    k: IntArray  # (1,)


def time_call(call: Callable[[], object]) -> tuple[int, int]:
    """Return the wall time of a call and the CPU time of all threads, in nanoseconds."""
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - wall, time.process_time_ns() - cpu


@runtime_checkable
class SelfTimed(Protocol):
    """A runner that times itself: it answers in another process, or prepares each call."""

    def timed(self, requests: Sequence[Request]) -> NDArray[np.int64]:
        """Answer requests one after another; return each one's wall and CPU ns, (N, 2)."""


class PopularityRunner:
    """The items most frequent in training, the same for everyone."""

    reads_all_weights = False
    system, precision = "popularity", "fp32"
    max_len = 1  # it does not look at them

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
            places = np.flatnonzero(~is_left_out[candidates])[:num_answers]
            is_left_out[left_out] = False
            top_items[row, : len(places)] = self._order[places]
            top_scores[row, : len(places)] = self._scores[places]
        return top_items, top_scores


def top_k(scores: FloatArray, excluded: IntArray, k: int) -> Answer:
    """Return the best items of scores (B, I + 1), which it changes; ties by the lower item number.

    >>> items, _ = top_k(np.array([[9.0, 1.0, 3.0, 3.0]], np.float32), np.array([[1]]), k=2)
    >>> items.tolist()
    [[2, 3]]
    """
    np.put_along_axis(scores, excluded, -np.inf, axis=1)
    scores[:, PAD] = -np.inf
    least = np.partition(scores, -k, axis=1)[:, -k]
    top = np.empty((len(scores), k), dtype=np.int64)
    for row, own in enumerate(scores):
        able = np.flatnonzero(own >= least[row])  # more than k where scores are equal
        top[row] = able[np.argsort(-own[able], kind="stable")[:k]]
    return top, np.take_along_axis(scores, top, axis=1)


def torch_top_k(scores: "torch.Tensor", excluded: IntArray, k: int) -> Answer:
    """Return the same of a tensor, as PyTorch would do it; equal scores come in any order."""
    import torch

    scores.scatter_(1, torch.from_numpy(excluded).to(scores.device), -math.inf)
    scores[:, PAD] = -math.inf
    best, top = scores.topk(k, dim=1)
    return top.cpu().numpy(), best.cpu().numpy()  # which waits for the device


@dataclass(frozen=True)
class OnnxRunner:
    """An exported student in plain ONNX Runtime: the call is `session.run` on prepared arrays."""

    session: ort.InferenceSession
    system: str
    precision: str
    size_mib: float
    num_parameters: int
    max_len: int
    folder: Path
    teacher_weight: float | None = None  # of the language model in a distilled one's soft targets

    @classmethod
    def from_pretrained(cls, folder: Path, num_threads: int) -> "OnnxRunner":
        """Open the `model.onnx` of a recommender directory."""
        config = read_json(folder / "config.json")
        file = folder / "model.onnx"
        return cls(
            open_session(file, num_threads),
            f"{config['arch']} {config['role']}",
            config["precision"],
            file.stat().st_size / 2**20,
            config["num_parameters"],
            config["max_len"],
            folder,
            config.get("teacher_weight"),
        )

    @property
    def keeps_state(self) -> bool:
        """Whether it can go on from what came before."""
        return STATE in {given.name for given in self.session.get_overridable_initializers()}

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        top_items, top_scores = self.session.run(
            OUTPUT_NAMES, {"items": items, "excluded": excluded, "k": k}
        )
        return top_items, top_scores


class StepRunner(OnnxRunner):
    """An exported GRU that is asked after one new event: the state of those before is kept.

    It times itself, since its clock starts when that state is there.
    """

    @classmethod
    def after(cls, whole: OnnxRunner) -> "StepRunner":
        """Return the runner of the same session."""
        values = {field.name: getattr(whole, field.name) for field in fields(whole)}
        return cls(**{**values, "precision": f"{whole.precision} step"})

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        top_items, top_scores = self.session.run(OUTPUT_NAMES, self._feeds(items, excluded, k))
        return top_items, top_scores

    def timed(self, requests: Sequence[Request]) -> NDArray[np.int64]:
        """Answer requests one after another; see `SelfTimed`."""
        wanted = [*OUTPUT_NAMES, NEW_STATE]
        durations = np.empty((len(requests), 2), dtype=np.int64)
        for place, request in enumerate(requests):
            feeds = self._feeds(request.items, request.excluded, request.k)
            durations[place] = time_call(partial(self.session.run, wanted, feeds))
        return durations

    def _feeds(self, items: IntArray, excluded: IntArray, k: IntArray) -> dict[str, Any]:
        """Return a request for the newest event of each history, the state before it included."""
        feeds: dict[str, Any] = {"items": items[:, -1:], "excluded": excluded, "k": k}
        if items.shape[1] > 1:
            (feeds[STATE],) = self.session.run([NEW_STATE], {**feeds, "items": items[:, :-1]})
        return feeds


class TeacherRunner:
    """The fine-tuned language model, in PyTorch."""

    system = "teacher"

    def __init__(self, folder: Path, num_threads: int, device: str = "cpu") -> None:
        """Load a teacher; `ModelError` or `SourceError` if that cannot be done."""
        import torch

        from teacher.model import Teacher

        about = read_json(folder / "teacher.json")
        torch.set_num_threads(num_threads)
        self.folder = folder
        self._torch, self._device = torch, torch.device(device)
        self._teacher = Teacher.from_pretrained(folder, device=self._device)
        self.precision = {4: "nf4", 16: "bf16", 32: "fp32"}[about["bits"]]
        # Of a row called "nf4" the linear layers alone are in 4 bit; `size_by_precision` tells.
        self.size_by_precision = self._teacher.answer_bytes
        self.size_mib = sum(self.size_by_precision.values()) / 2**20
        self.num_parameters = self._teacher.num_parameters
        self.max_len = int(about["max_len"])

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        with self._torch.inference_mode():
            scores = self._teacher(self._torch.from_numpy(items).to(self._device)).float()
            return torch_top_k(scores, excluded, int(k[0]))


class TorchRunner:
    """A student in PyTorch, as it is or compiled: what an exported file saves."""

    def __init__(
        self, folder: Path, num_threads: int, *, is_compiled: bool, device: str = "cpu"
    ) -> None:
        """Load a student; `ModelError` if there is none, or if it cannot be compiled."""
        import torch

        from student.model import Student

        about, student = read_json(folder / "config.json"), Student.from_pretrained(folder)
        torch.set_num_threads(num_threads)
        self.system = f"{about['arch']} {about['role']}"
        self.precision = "torch compiled" if is_compiled else "torch eager"
        self.size_mib = (folder / "model.safetensors").stat().st_size / 2**20
        self.num_parameters = student.num_parameters
        self.parameter_bytes = sum(p.numel() * p.element_size() for p in student.parameters())
        self.max_len = student.config.max_len
        self._torch, self._device = torch, torch.device(device)
        student.to(self._device)
        self._score = torch.compile(student, dynamic=True) if is_compiled else student
        try:
            with torch.inference_mode():
                self._score(torch.ones(1, 2, dtype=torch.int64, device=self._device))
        except Exception as error:  # the compiler's, of a dozen kinds
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"{self.system} cannot be compiled ({reason}). torch.compile needs a C++ compiler; "
                "to measure without: --no-torch"
            ) from error

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        with self._torch.inference_mode():
            scores = self._score(self._torch.from_numpy(items).to(self._device))
            return torch_top_k(scores, excluded, int(k[0]))


def load_runner(spec: str, dataset: SequenceDataset) -> Runner:
    """Make a user's own runner: `module:name`, where name(dataset) returns one.

    Raises:
        ModelError: there is no such thing, it fails, or what it makes is no runner.
    """
    module, _, name = spec.partition(":")
    try:
        runner: Runner = getattr(importlib.import_module(module), name)(dataset)
    except Exception as error:  # it is not our code
        raise ModelError(
            f"--runners {spec}: {type(error).__name__}: {error}. Expected module:name, importable "
            "from here, with name(dataset) returning a runner (see benchmarks/runners.py)"
        ) from error
    needed = ("system", "precision", "size_mib", "num_parameters", "max_len", "recommend")
    if lacking := [attribute for attribute in needed if not hasattr(runner, attribute)]:
        raise ModelError(f"--runners {spec} made something that lacks {', '.join(lacking)}")
    for attribute in ("size_mib", "num_parameters", "max_len"):
        value = getattr(runner, attribute)
        if not isinstance(value, SupportsFloat) or not float(value) >= (attribute == "max_len"):
            raise ModelError(f"--runners {spec}: {attribute} is {value!r}, expected a number")
    return runner


def checked_answer(
    runner: Runner, items: IntArray, excluded: IntArray, k: IntArray, num_items: int
) -> IntArray:
    """Let a runner answer, and return its items, PAD in the places it left without an answer.

    Raises:
        ModelError: the answer has another shape or type than promised, a score is NaN or rises
            along a list, or an item is out of range, excluded, or in one list twice.
    """
    answer, name = runner.recommend(items, excluded, k), f"{runner.system} ({runner.precision})"
    try:
        top_items, top_scores = map(np.asarray, answer)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} returned no two arrays, items and scores ({error})") from error
    shape = (len(items), int(k[0]))
    for what, array in (("items", top_items), ("scores", top_scores)):
        if array.shape != shape:
            raise ModelError(f"{name} returned {what} of shape {array.shape}, expected {shape}")
    if not np.issubdtype(top_items.dtype, np.integer):
        raise ModelError(f"{name} returned items of type {top_items.dtype}, expected integers")
    if not np.issubdtype(top_scores.dtype, np.number):
        raise ModelError(f"{name} returned scores of type {top_scores.dtype}, expected numbers")
    if np.isnan(top_scores).any():
        raise ModelError(f"{name} returned a score that is NaN")
    if (top_scores[:, 1:] > top_scores[:, :-1]).any():
        raise ModelError(f"{name} returned a list that is not sorted by score, best first")
    answered = np.where(top_scores > -math.inf, top_items, PAD)
    given = top_items[top_scores > -math.inf]
    if ((given < 1) | (given > num_items)).any():
        wrong = given[(given < 1) | (given > num_items)][0]
        raise ModelError(f"{name} returned item {wrong}, expected 1 to {num_items}")
    for row, left_out in zip(answered, excluded, strict=True):
        real = row[row != PAD]
        if len(np.unique(real)) < len(real):
            raise ModelError(f"{name} returned an item twice in one list")
        if np.isin(real, left_out).any():
            raise ModelError(f"{name} returned an item that was to be left out")
    return answered
