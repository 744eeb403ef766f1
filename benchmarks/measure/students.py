"""Our systems: exported students, the same students in PyTorch, and the teacher.

Shape letters: B users, T history, E excluded, K answers.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import read_json
from seqrec.histories import PAD

import numpy as np

from benchmarks.measure.quality import protocols
from benchmarks.measure.queries import NOTHING, Answer, Request
from benchmarks.measure.startup import measure_start_up
from benchmarks.measure.systems import System
from benchmarks.report.schema import Identity, Quality, StartUp
from export.contract import NEW_STATE, OUTPUT_NAMES, STATE
from export.recommender import Recommender, open_session

if TYPE_CHECKING:
    import onnxruntime as ort
    import torch

    from export.onnx_graph.exporting import Precision

logger = logging.getLogger(__name__)

MEASURED: dict[str, tuple["Precision", ...]] = {"control": ("fp32",), "distilled": ("fp32", "int8")}
OPTIMUM: "Precision" = "int8-optimum"
FINETUNE = "accelerate launch teacher/finetune.py"


# What `export` calls a precision: that of the weights, and the variant.
PRECISIONS: dict["Precision", tuple[str, str | None]] = {
    "fp32": ("fp32", None),
    "int8": ("int8", None),
    "int8-optimum": ("int8", "optimum"),
}


class OnnxSystem(System):
    """An exported student in plain ONNX Runtime: the call is `session.run` on prepared arrays."""

    runs_on_onnxruntime = True

    def __init__(self, file: Path, config: dict[str, Any], num_threads: int) -> None:
        """Open a file; `config` is its recommender directory's config.json."""
        self.identity = student_identity(config, *PRECISIONS[config["precision"]])
        self.file, self._num_threads = file, num_threads
        self.session: ort.InferenceSession = open_session(file, num_threads)
        # The tables of a large index are in a file of their own.
        files = file.parent.glob(f"{file.name}*")
        self.size_mib = sum(one.stat().st_size for one in files) / 2**20
        self.num_parameters, self.max_len = config["num_parameters"], config["max_len"]
        self._details = {name: config.get(name) for name in ("teacher_weight", "budget")}

    @classmethod
    def from_pretrained(cls, folder: Path, num_threads: int) -> Self:
        """Open the `model.onnx` of a recommender directory."""
        return cls(folder / "model.onnx", read_json(folder / "config.json"), num_threads)

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        feeds = {"items": items, "excluded": excluded, "k": k}
        top_items, top_scores = self.session.run(OUTPUT_NAMES, feeds)
        return top_items, top_scores

    def parameter_bytes(self) -> int | None:
        """Those of the file's constants; it holds nodes and names, too.

        Constants of int64 are shapes and axes, and no parameters.
        """
        import onnx

        return sum(
            int(np.prod(tensor.dims))
            * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            for tensor in onnx.load(self.file).graph.initializer
            if tensor.data_type != onnx.TensorProto.INT64
        )

    def start_up(self) -> StartUp | None:
        """What the shipped client costs."""
        return measure_start_up(self.file.parent, self._num_threads)

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
        top_items, top_scores, _ = self.prepare(Request(items, excluded, k))()
        return top_items, top_scores

    def prepare(self, request: Request) -> Callable[[], Any]:
        """Return the call for each history's newest event; the state before it is there already."""
        feeds: dict[str, Any] = {"excluded": request.excluded, "k": request.k}
        if request.items.shape[1] > 1:
            before = {**feeds, "items": request.items[:, :-1]}
            (feeds[STATE],) = self.session.run([NEW_STATE], before)
        feeds["items"] = request.items[:, -1:]
        return partial(self.session.run, [*OUTPUT_NAMES, NEW_STATE], feeds)


class CallSystem(OnnxSystem):
    """An exported student asked through its client: lists of ids in, lists of items out."""

    def __init__(self, file: Path, config: dict[str, Any], num_threads: int) -> None:
        """Open a file's folder; `config` is its config.json."""
        super().__init__(file, config, num_threads)
        self.identity = replace(self.identity, variant="call")
        self._client = Recommender.from_pretrained(file.parent, num_threads)

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        top_items = np.full((len(items), int(k[0])), PAD, dtype=np.int64)
        top_scores = np.full(top_items.shape, -np.inf, dtype=np.float32)
        for row, answer in enumerate(self.prepare(Request(items, excluded, k))()):
            top_items[row, : len(answer)] = [self._client.numbers[one.item_id] for one in answer]
            top_scores[row, : len(answer)] = [one.score for one in answer]
        return top_items, top_scores

    def prepare(self, request: Request) -> Callable[[], Any]:
        """Return what asks the client, with lists of ids, and makes every item of its answers."""
        is_excluding = request.excluded.shape[1] > 0  # then it holds the whole histories
        ids, k = self._client.item_ids, int(request.k[0])
        histories = [
            [ids[number - 1] for number in row[row != PAD].tolist()]
            for row in (request.excluded if is_excluding else request.items)
        ]
        if len(histories) == 1:
            ask = partial(self._client.recommend, histories[0], k, is_excluding)
            return lambda: [list(ask())]
        ask_all = partial(self._client.recommend_batch, histories, k, is_excluding)
        return lambda: [list(answer) for answer in ask_all()]


class TorchModel(System):
    """A model in PyTorch, which returns the scores of all items."""

    def __init__(self, score: Callable[["torch.Tensor"], "torch.Tensor"], device: str) -> None:
        """Take what maps histories, int64 (B, T), to scores (B, I + 1), both on the device."""
        self._score, self._device = score, device

    def recommend(self, items: IntArray, excluded: IntArray, k: IntArray) -> Answer:
        """Answer a batch; see `Runner`."""
        import torch

        with torch.inference_mode():
            scores = self._score(torch.from_numpy(items).to(self._device)).float()
            return torch_top_k(scores, excluded, int(k[0]))


class TorchSystem(TorchModel):
    """A student in PyTorch, as it is or compiled: what an exported file saves."""

    def __init__(
        self, folder: Path, num_threads: int, *, is_compiled: bool, device: str = "cpu"
    ) -> None:
        """Load a student; `ModelError` if there is none, or if it cannot be compiled."""
        import torch

        from student.model import Student

        torch.set_num_threads(num_threads)
        student = Student.from_pretrained(folder).to(device)
        super().__init__(torch.compile(student, dynamic=True) if is_compiled else student, device)
        variant = "torch compiled" if is_compiled else "torch eager"
        self.identity = student_identity(read_json(folder / "config.json"), "fp32", variant)
        self.size_mib = (folder / "model.safetensors").stat().st_size / 2**20
        self.num_parameters, self.max_len = student.num_parameters, student.config.max_len
        self._bytes = sum(p.numel() * p.element_size() for p in student.parameters())
        try:
            self.recommend(np.array([[1, 1]]), NOTHING, np.array([1]))
        except Exception as error:  # the compiler's, of a dozen kinds
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"{self.identity.system} cannot be compiled ({reason}). torch.compile needs a C++ "
                "compiler; to measure without: --no-torch"
            ) from error

    def parameter_bytes(self) -> int | None:
        """Its parameters in memory."""
        return self._bytes


class TeacherSystem(TorchModel):
    """The fine-tuned language model, in PyTorch."""

    def __init__(self, folder: Path, num_threads: int, device: str = "cpu") -> None:
        """Load a teacher; `ModelError` or `SourceError` if that cannot be done."""
        import torch

        from teacher.model import Teacher

        torch.set_num_threads(num_threads)
        teacher = Teacher.from_pretrained(folder, device=torch.device(device))
        super().__init__(teacher, device)
        self._start_up = partial(measure_start_up, folder, num_threads, device)
        config = read_json(folder / "teacher.json")
        # Of a teacher called "nf4" the linear layers alone are in 4 bit.
        precision = {4: "nf4", 16: "bf16", 32: "fp32"}[config["bits"]]
        self.identity = Identity(system="teacher", precision=precision, family="teacher")
        self.size_mib = sum(teacher.answer_bytes.values()) / 2**20
        self.num_parameters, self.max_len = teacher.num_parameters, int(config["max_len"])

    def start_up(self) -> StartUp | None:
        """What loading it in a new process costs."""
        return self._start_up()


def student_identity(config: dict[str, Any], precision: str, variant: str | None) -> Identity:
    """Return who a student is by its config.json."""
    arch, role = config["arch"], config.get("role")  # one of random weights has none
    name = f"{arch} {role}" if role else arch
    return Identity(system=name, precision=precision, family=arch, role=role, variant=variant)


def torch_top_k(scores: "torch.Tensor", excluded: IntArray, k: int) -> Answer:
    """Return what `queries.top_k` does of a tensor; equal scores come in any order."""
    import torch

    scores.scatter_(1, torch.from_numpy(excluded).to(scores.device), -math.inf)
    scores[:, PAD] = -math.inf
    best, top = scores.topk(k, dim=1)
    return top.cpu().numpy(), best.cpu().numpy()  # which waits for the device


def open_students(
    dataset: SequenceDataset, output_dir: Path, num_threads: int, *, variants: bool = False
) -> list[System]:
    """Open the exports to be measured, made now where missing.

    `variants`: with Optimum's file of distilled students, with the client's call, and with a GRU
    asked after one event.
    """
    from export.onnx_graph.exporting import ensure_exported, student_folders  # loads PyTorch

    opened: list[System] = []
    for student_folder in student_folders(output_dir):
        arch, precisions = student_folder.parent.name, MEASURED.get(student_folder.name, ())
        if variants and "int8" in precisions:
            precisions += (OPTIMUM,)
        for precision in precisions:
            logger.info("%s %s %s", arch, student_folder.name, precision)
            folder = ensure_exported(dataset, output_dir, student_folder, precision)
            kinds: list[type[OnnxSystem]] = [OnnxSystem]
            if variants and precision == "int8":
                kinds += [CallSystem, StepSystem] if arch == "gru" else [CallSystem]
            opened += [kind.from_pretrained(folder, num_threads) for kind in kinds]
    return opened


def students_in_torch(output_dir: Path, num_threads: int, device: str) -> list[System]:
    """Open the same students in PyTorch, eager and compiled."""
    from export.onnx_graph.exporting import student_folders

    return [
        TorchSystem(folder, num_threads, is_compiled=is_compiled, device=device)
        for folder in student_folders(output_dir)
        if folder.name in MEASURED
        for is_compiled in (False, True)
    ]


def teacher_quality(output_dir: Path, dataset: SequenceDataset) -> Quality:
    """Return the teacher's test metrics, which fine-tuning wrote.

    Raises:
        ModelError: there is no teacher, or it was trained on other data.
    """
    file = output_dir / "teacher" / "metrics.json"
    if not file.is_file():
        raise ModelError(
            f"no fine-tuned teacher in {file.parent}. Train one: {FINETUNE} --data-dir "
            f"{dataset.path} --output-dir {output_dir}. To measure without: --no-teacher"
        )
    metrics = read_json(file)
    if metrics["dataset_fingerprint"] != dataset.fingerprint:
        raise ModelError(
            f"the teacher in {file.parent} was trained on data set "
            f"{metrics['dataset_fingerprint']}, but {dataset.path} is {dataset.fingerprint}. "
            f"Train it again: {FINETUNE} --data-dir {dataset.path}"
        )
    headline, other = protocols(dataset)
    report = metrics["test"]
    return Quality(metrics=report[headline], metrics_other_protocol=report[other])
