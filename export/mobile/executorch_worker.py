"""Lowers a student to an ExecuTorch program and asks it; run by `export.to_executorch`.

    python -m export.mobile.executorch_worker STUDENT PRECISION K FOLDER

In an environment of its own (`executorch.txt`), since ExecuTorch's pins contradict ours. Files of
FOLDER, arrays as numpy writes them:

    questions.npz    items int64 (N, T), excluded int64 (N, E): read
    model.pte        the program, for the XNNPACK backend: written
    answers.npz      top_items int64 (N, K), top_scores float32 (N, K), as the package's own runtime
                     answers the questions one by one: written
    versions.json    of the libraries: written

Shape letters: N questions, T history, E excluded, I items, H hidden, K answers.
"""

import sys
from importlib.metadata import version
from pathlib import Path

from seqrec.files import write_json
from seqrec.histories import PAD

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.exir.passes.constant_prop_pass import constant_prop_pass
from executorch.runtime import Runtime
from torch import Tensor, nn
from torch.export import Dim, export
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
from torchao.quantization.granularity import PerAxis

from student.model import Student

LIBRARIES = ("executorch", "torch", "torchao")
# Of a linear layer: weights with a scale for each output, inputs rounded when they are known.
EIGHT_BIT = Int8DynamicActivationIntxWeightConfig(
    weight_dtype=torch.int8, weight_granularity=PerAxis(0)
)


class RoundedTable(nn.Module):
    """An item table (I + 1, H) in 8 bit, each row with its own scale, for looking up rows."""

    rows: Tensor
    scales: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        scales = table.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("rows", (table / scales).round().to(torch.int8))
        self.register_buffer("scales", scales)

    def forward(self, items: Tensor) -> Tensor:
        """Look items (1, T) up: float32 (1, T, H)."""
        rows = self.rows.index_select(0, items[0]).to(torch.float32)
        return (rows * self.scales.index_select(0, items[0]))[None]


class Answerer(nn.Module):
    """A student that answers a request whole: a history in, its best items out."""

    def __init__(self, student: Student, k: int, precision: str) -> None:
        super().__init__()
        self.k = k
        # The table is there twice: XNNPACK packs that of a product in its own way.
        table = student.item_embedding.weight.detach()
        self.look_up: nn.Module = nn.Embedding.from_pretrained(table.clone())
        self.encoder = student.encoder
        self.score = nn.Linear(table.shape[1], table.shape[0], bias=False)
        self.score.weight = nn.Parameter(table.clone())
        self.requires_grad_(False)
        if precision == "int8":
            # The encoder stays as it is: its products are too small to gain time.
            self.look_up = RoundedTable(table)
            quantize_(self, EIGHT_BIT, lambda module, name: name == "score")

    def forward(self, items: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """Map items (1, T) and excluded (1, E) to top items and scores, (1, K) each."""
        state = self.encoder(self.look_up(items), items != PAD, last_only=True)[:, -1]
        no_item = torch.full((1, 1), PAD)
        left_out = torch.cat([excluded, no_item], dim=1)
        scores = self.score(state).scatter(1, left_out, float("-inf"))
        top_scores, top_items = scores.topk(self.k)
        return top_items, top_scores


def lower(student: Student, precision: str, k: int) -> bytes:
    """Return a student as an ExecuTorch program; a history has `max_len` places."""
    answerer = Answerer(student, k, precision).eval()
    example = torch.ones(1, student.config.max_len, dtype=torch.int64)
    most = student.config.num_items + 1
    shapes = {"items": None, "excluded": {1: Dim("num_excluded", min=1, max=most)}}
    exported = export(answerer, (example, example[:, :2]), dynamic_shapes=shapes, strict=True)
    # What follows from weights alone is computed now, not in every call, but 8 bit stay 8 bit.
    folded = constant_prop_pass(exported, {torch.ops.torchao.dequantize_affine.default})
    lowered = to_edge_transform_and_lower(folded, partitioner=[XnnpackPartitioner()])
    return bytes(lowered.to_executorch().buffer)


def answer(file: Path, items: np.ndarray, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ask a program file; arguments and answers as in `questions.npz` and `answers.npz`."""
    method = Runtime.get().load_program(file).load_method("forward")
    pairs = []
    for row in zip(items, excluded, strict=True):
        # Its outputs are overwritten by the next call.
        outputs = method.execute([torch.from_numpy(part[None]) for part in row])
        pairs.append([output.numpy()[0].copy() for output in outputs])
    top_items, top_scores = zip(*pairs, strict=True)
    return np.stack(top_items), np.stack(top_scores)


def main(student_folder: str, precision: str, k: str, folder: str) -> None:
    """Lower, write, and answer."""
    work = Path(folder)
    student = Student.from_pretrained(Path(student_folder))
    (work / "model.pte").write_bytes(lower(student, precision, int(k)))
    with np.load(work / "questions.npz") as questions:
        top_items, top_scores = answer(
            work / "model.pte", questions["items"], questions["excluded"]
        )
    np.savez(work / "answers.npz", top_items=top_items, top_scores=top_scores)
    write_json(work / "versions.json", {name: version(name) for name in LIBRARIES})


if __name__ == "__main__":
    main(*sys.argv[1:])
