"""What the benchmark compares: anything that answers a batch of histories with a batch of lists.

Shape letters: B users, T history, E excluded, K answers, I items.
"""

import importlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, SupportsFloat

from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import read_json
from seqrec.histories import PAD

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.profiler import profile
from benchmarks.measure.queries import Answer, Request, check_answer
from benchmarks.measure.startup import measure_start_up
from benchmarks.report.schema import Identity, StartUp
from export.contract import NEW_STATE, OUTPUT_NAMES, STATE
from export.recommender import open_session

if TYPE_CHECKING:
    import onnxruntime as ort
    import torch


# What `export` calls a precision: that of the weights, and the variant.
PRECISIONS = {"fp32": ("fp32", None), "int8": ("int8", None), "int8-optimum": ("int8", "optimum")}


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


def time_call(call: Callable[[], object]) -> tuple[int, int]:
    """Return the wall time of a call and the CPU time of all threads, in nanoseconds."""
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - wall, time.process_time_ns() - cpu


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

    def timed(self, requests: Sequence[Request]) -> NDArray[np.int64]:
        """Answer requests one after another; return each one's wall and CPU ns, (N, 2)."""
        durations = np.empty((len(requests), 2), dtype=np.int64)
        for index, request in enumerate(requests):
            call = partial(self.recommend, request.items, request.excluded, request.k)
            durations[index] = time_call(call)
        return durations

    def parameter_bytes(self) -> int | None:
        """How many bytes an answer reads at least; None where it takes but a part of them."""
        return round(self.size_mib * 2**20)

    def start_up(self) -> StartUp | None:
        """What a new process costs until its first answer; None where that is not measured."""
        return None

    def profile(self, requests: Sequence[Request]) -> list[tuple[str, float]]:
        """Return the operators that take most time, with their fractions; none if not known."""
        return []

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


class OnnxSystem(System):
    """An exported student in plain ONNX Runtime: the call is `session.run` on prepared arrays."""

    runs_on_onnxruntime = True

    def __init__(self, file: Path, config: dict[str, Any], num_threads: int) -> None:
        """Open a file; `config` is its recommender directory's config.json."""
        self.identity = student_identity(config, *PRECISIONS[config["precision"]])
        self.file, self._num_threads = file, num_threads
        self.session: ort.InferenceSession = open_session(file, num_threads)
        self.size_mib = file.stat().st_size / 2**20
        self.num_parameters, self.max_len = config["num_parameters"], config["max_len"]
        self._details = {name: config.get(name) for name in ("teacher_weight", "budget")}

    @classmethod
    def from_pretrained(cls, folder: Path, num_threads: int) -> Self:
        """Open the `model.onnx` of a recommender directory."""
        return cls(folder / "model.onnx", read_json(folder / "config.json"), num_threads)

    @property
    def keeps_state(self) -> bool:
        """Whether it can go on from what came before."""
        return STATE in {given.name for given in self.session.get_overridable_initializers()}

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        feeds = {"items": items, "excluded": excluded, "k": k}
        top_items, top_scores = self.session.run(OUTPUT_NAMES, feeds)
        return top_items, top_scores

    def parameter_bytes(self) -> int | None:
        """Counted in the file, which holds nodes and names, too."""
        return onnx_bytes(self.file)

    def start_up(self) -> StartUp | None:
        """What the shipped client costs."""
        return measure_start_up(self.file.parent, self._num_threads)

    def profile(self, requests: Sequence[Request]) -> list[tuple[str, float]]:
        """Return the operators that take most time, with their fractions."""
        return profile(self.file, requests, self._num_threads)

    def details(self) -> dict[str, Any]:
        """What the language model had to say in soft targets, and how long training was."""
        return self._details


class StepSystem(OnnxSystem):
    """An exported GRU that is asked after one new event: the state of those before is kept."""

    def __init__(self, file: Path, config: dict[str, Any], num_threads: int) -> None:
        """Open a file; `config` is its recommender directory's config.json."""
        super().__init__(file, config, num_threads)
        self.identity = replace(self.identity, variant="step")

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        feeds = self._feeds(Request(items, excluded, k))
        top_items, top_scores = self.session.run(OUTPUT_NAMES, feeds)
        return top_items, top_scores

    def timed(self, requests: Sequence[Request]) -> NDArray[np.int64]:
        """Answer requests one after another; the clock starts when the state is there."""
        wanted = [*OUTPUT_NAMES, NEW_STATE]
        durations = np.empty((len(requests), 2), dtype=np.int64)
        for index, request in enumerate(requests):
            durations[index] = time_call(partial(self.session.run, wanted, self._feeds(request)))
        return durations

    def _feeds(self, request: Request) -> dict[str, Any]:
        """Return the inputs for the newest event of each history, with the state before it."""
        items = request.items
        feeds: dict[str, Any] = {"excluded": request.excluded, "k": request.k}
        if items.shape[1] > 1:
            before = {**feeds, "items": items[:, :-1]}
            (feeds[STATE],) = self.session.run([NEW_STATE], before)
        return {**feeds, "items": items[:, -1:]}


class TeacherSystem(System):
    """The fine-tuned language model, in PyTorch."""

    def __init__(self, folder: Path, num_threads: int, device: str = "cpu") -> None:
        """Load a teacher; `ModelError` or `SourceError` if that cannot be done."""
        import torch

        from teacher.model import Teacher

        config = read_json(folder / "teacher.json")
        torch.set_num_threads(num_threads)
        self._start_up = partial(measure_start_up, folder, num_threads, device)
        self._device = torch.device(device)
        self._teacher = Teacher.from_pretrained(folder, device=self._device)
        # Of a teacher called "nf4" the linear layers alone are in 4 bit.
        precision = {4: "nf4", 16: "bf16", 32: "fp32"}[config["bits"]]
        self.identity = Identity(system="teacher", precision=precision, family="teacher")
        self.size_mib = sum(self._teacher.answer_bytes.values()) / 2**20
        self.num_parameters = self._teacher.num_parameters
        self.max_len = int(config["max_len"])

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        import torch

        with torch.inference_mode():
            scores = self._teacher(torch.from_numpy(items).to(self._device)).float()
            return torch_top_k(scores, excluded, int(k[0]))

    def start_up(self) -> StartUp | None:
        """What loading it in a new process costs."""
        return self._start_up()


class TorchSystem(System):
    """A student in PyTorch, as it is or compiled: what an exported file saves."""

    def __init__(
        self, folder: Path, num_threads: int, *, is_compiled: bool, device: str = "cpu"
    ) -> None:
        """Load a student; `ModelError` if there is none, or if it cannot be compiled."""
        import torch

        from student.model import Student

        config, student = read_json(folder / "config.json"), Student.from_pretrained(folder)
        torch.set_num_threads(num_threads)
        variant = "torch compiled" if is_compiled else "torch eager"
        self.identity = student_identity(config, "fp32", variant)
        self.size_mib = (folder / "model.safetensors").stat().st_size / 2**20
        self.num_parameters = student.num_parameters
        self._bytes = sum(p.numel() * p.element_size() for p in student.parameters())
        self.max_len = student.config.max_len
        self._device = torch.device(device)
        student.to(self._device)
        self._score = torch.compile(student, dynamic=True) if is_compiled else student
        try:
            with torch.inference_mode():
                self._score(torch.ones(1, 2, dtype=torch.int64, device=self._device))
        except Exception as error:  # the compiler's, of a dozen kinds
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"{self.identity.system} cannot be compiled ({reason}). torch.compile needs a C++ "
                "compiler; to measure without: --no-torch"
            ) from error

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        import torch

        with torch.inference_mode():
            scores = self._score(torch.from_numpy(items).to(self._device))
            return torch_top_k(scores, excluded, int(k[0]))

    def parameter_bytes(self) -> int | None:
        """Its parameters in memory."""
        return self._bytes


class RunnerSystem(System):
    """A user's own runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.identity = Identity(system=runner.system, precision=runner.precision, family="runner")
        self.size_mib, self.num_parameters = float(runner.size_mib), int(runner.num_parameters)
        self.max_len = int(runner.max_len)

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Let it answer."""
        return self._runner.recommend(items, excluded, k)


def student_identity(config: dict[str, Any], precision: str, variant: str | None) -> Identity:
    """Return who a student is by its config.json."""
    arch, role = config["arch"], config.get("role")  # one of random weights has none
    name = f"{arch} {role}" if role else arch
    return Identity(system=name, precision=precision, family=arch, role=role, variant=variant)


def onnx_bytes(file: Path) -> int:
    """Return how many bytes the numbers of an ONNX file's constants take, without whole numbers.

    Constants of int64 are shapes and axes, and no parameters.
    """
    import onnx
    from onnx import TensorProto, helper

    return sum(
        int(np.prod(tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in onnx.load(file).graph.initializer
        if tensor.data_type != TensorProto.INT64
    )


def torch_top_k(scores: "torch.Tensor", excluded: IntArray, k: int) -> Answer:
    """Return what `queries.top_k` does of a tensor; equal scores come in any order."""
    import torch

    scores.scatter_(1, torch.from_numpy(excluded).to(scores.device), -math.inf)
    scores[:, PAD] = -math.inf
    best, top = scores.topk(k, dim=1)
    return top.cpu().numpy(), best.cpu().numpy()  # which waits for the device


def load_runner(spec: str, dataset: SequenceDataset) -> RunnerSystem:
    """Make a user's own system: `module:name`, where name(dataset) returns a `Runner`.

    Raises:
        ModelError: there is no such thing, it fails, or what it makes is no runner.
    """
    module, _, name = spec.partition(":")
    try:
        runner: Runner = getattr(importlib.import_module(module), name)(dataset)
    except Exception as error:  # it is not our code
        raise ModelError(
            f"--runners {spec}: {type(error).__name__}: {error}. Expected module:name, importable "
            "from here, with name(dataset) returning a runner (see benchmarks/measure/systems.py)"
        ) from error
    needed = ("system", "precision", "size_mib", "num_parameters", "max_len", "recommend")
    if lacking := [attribute for attribute in needed if not hasattr(runner, attribute)]:
        raise ModelError(f"--runners {spec} made something that lacks {', '.join(lacking)}")
    for attribute in ("size_mib", "num_parameters", "max_len"):
        value = getattr(runner, attribute)
        if not isinstance(value, SupportsFloat) or not float(value) >= (attribute == "max_len"):
            raise ModelError(f"--runners {spec}: {attribute} is {value!r}, expected a number")
    return RunnerSystem(runner)
