"""A student as an ONNX graph that answers a request whole: histories in, best items out.

Inputs, all int64:

    items       (B, T)  left-padded histories, 1 <= T <= max_len
    excluded    (B, E)  items left out of the answer, PAD where there are fewer; E may be 0
    k           (1,)    how many items to return, at most num_items + 1

Outputs, best first, ties by the lower item number:

    top_items   int64 (B, k)
    top_scores  float32 (B, k)      -inf: not an answer; fewer than k items were left

Shape letters: B users, T history, E excluded, I items, K answers, H hidden.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from seqrec.data import PAD
from seqrec.errors import ModelError

import numpy as np
import onnxruntime as ort
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from onnxscript.optimizer import optimize
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F  # noqa: N812  the name everyone knows

from student.model import Student

OPSET = 20
INPUT_NAMES = ("items", "excluded", "k")
OUTPUT_NAMES = ("top_items", "top_scores")
TOLERANCE = 1e-4
MAX_FOLDED = 32  # elements; enough for what is computed from shapes


class _OnnxGRU(nn.Module):
    """Stands in for a `torch.nn.GRU` without biases during export, as ONNX's own operator.

    torch.onnx turns only the first GRU of a process into that operator, and unrolls later ones
    (seen in torch 2.13).
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.num_layers, self.hidden_dim = gru.num_layers, gru.hidden_size
        for layer in range(gru.num_layers):
            for ours, theirs in (("input", "ih"), ("hidden", "hh")):
                reset, update, new = getattr(gru, f"weight_{theirs}_l{layer}").detach().chunk(3)
                # ONNX has the update gate first, and a leading axis for directions.
                self.register_buffer(f"{ours}_{layer}", torch.cat([update, reset, new])[None])

    def forward(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, H) to the top layer's states (B, T, H) and all last states (layers, B, H)."""
        batch, length, _ = embedded.shape
        states, last_states = embedded.transpose(0, 1), []  # (T, B, H)
        for layer in range(self.num_layers):
            states, last = torch.onnx.ops.symbolic_multi_out(
                "GRU",
                (states, getattr(self, f"input_{layer}"), getattr(self, f"hidden_{layer}")),
                {"hidden_size": self.hidden_dim, "linear_before_reset": 1},
                dtypes=(torch.float32, torch.float32),
                shapes=((length, 1, batch, self.hidden_dim), (1, batch, self.hidden_dim)),
                version=OPSET,
            )
            states = states.squeeze(1)
            last_states.append(last)
        return states.transpose(0, 1), last_states[0] if self.num_layers == 1 else torch.cat(
            last_states
        )


class _Answer(nn.Module):
    """Scores, exclusions and top-k in one graph."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = copy.deepcopy(student)
        for module in list(self.student.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.GRU):
                    setattr(module, name, _OnnxGRU(child))

    def forward(self, items: Tensor, excluded: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return the top items and their scores, as the module's docstring says."""
        scores = self.student(items)
        scores = scores.scatter(1, F.pad(excluded, (1, 0), value=PAD), -torch.inf)
        num_answers = cast(int, k.item())  # stays symbolic: int() would ask for its value
        torch._check(num_answers >= 1)
        torch._check(num_answers <= scores.shape[1])
        top_scores, top_items = torch.topk(scores, num_answers)
        return top_items, top_scores


def write_graph(student: Student, path: Path) -> None:
    """Write a student as an fp32 ONNX file.

    Args:
        student: in evaluation mode.
        path: the file to write.

    Raises:
        ModelError: the student's `max_len` is below 3.
    """
    max_len = student.config.max_len
    if max_len < 3:
        raise ModelError(f"max_len {max_len}: torch.export needs room for histories of 3 items")
    batch, length = Dim("batch"), Dim("length", max=max_len)
    example = (
        torch.ones(3, min(7, max_len), dtype=torch.int64),
        torch.ones(3, 2, dtype=torch.int64),
        torch.tensor([2]),
    )
    with quiet("torch.onnx", "onnxscript", "onnx_ir"):
        program = torch.onnx.export(
            _Answer(student).eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUT_NAMES,
            output_names=OUTPUT_NAMES,
            dynamic_shapes=(
                {0: batch, 1: length},
                {0: batch, 1: Dim("num_excluded")},
                None,
            ),
            optimize=False,
            verbose=False,
        )
        assert program is not None  # with dynamo=True it always is one
        # Folds constants, but no copy of a weight that has another use: the item table is read by
        # lookup and scores, and its transpose would otherwise be stored as a second table.
        optimize(program.model, input_size_limit=MAX_FOLDED)
        # `k.item()` becomes three nodes that turn (1,) into a scalar and back into (1,).
        (top_k,) = (node for node in program.model.graph if node.op_type == "TopK")
        top_k.replace_input_with(1, program.model.graph.inputs[INPUT_NAMES.index("k")])
        RemoveUnusedNodesPass()(program.model)
        ClearMetadataAndDocStringPass()(program.model)  # stack traces, a seventh of a small file
        program.save(path)


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Silence a library's warnings, info messages and prints while it works for us."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def open_session(model: Path | bytes, num_threads: int) -> ort.InferenceSession:
    """Open an ONNX file, or its bytes, in plain ONNX Runtime on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def check_parity(student: Student, path: Path, *, seed: int = 0) -> None:
    """Compare a file's answers with PyTorch's on random histories.

    Batches of 1 to 33 users mix all lengths from 1 to max_len; each is asked with no exclusions,
    with some, and with almost all items excluded.

    Args:
        student: what the file was made from.
        path: an fp32 file from `write_graph`.
        seed: of the random histories.

    Raises:
        ModelError: an answer differs: a score by more than 1e-4, or an item other than by a tie.
    """
    session = open_session(path, num_threads=1)
    rng = np.random.default_rng(seed)
    num_items, max_len = student.config.num_items, student.config.max_len
    for num_users in (1, 2, 33):
        for width in {1, 2, max(max_len // 2, 1), max_len}:
            lengths = rng.integers(1, width + 1, num_users)
            lengths[0] = width
            items = rng.integers(1, num_items + 1, (num_users, width))
            items[np.arange(width) < width - lengths[:, None]] = PAD
            for num_excluded in (0, 3, num_items - 1):
                excluded = rng.integers(0, num_items + 1, (num_users, num_excluded))
                k = np.array([min(10, num_items)])
                answer = session.run(OUTPUT_NAMES, {"items": items, "excluded": excluded, "k": k})
                with torch.inference_mode():
                    expected = student(torch.from_numpy(items)).numpy()
                np.put_along_axis(expected, excluded, -np.inf, axis=1)
                expected[:, PAD] = -np.inf
                _compare(
                    answer[0],
                    answer[1],
                    expected,
                    f"{num_users} users, {width} items, {num_excluded} excluded",
                )


def _compare(
    top_items: np.ndarray, top_scores: np.ndarray, expected: np.ndarray, where: str
) -> None:
    """Raise a `ModelError` unless a (B, K) answer follows from the scores (B, I + 1)."""
    k = top_items.shape[1]
    best = -np.sort(-expected, axis=1)[:, :k]
    # Items that tie within the tolerance may stand in another order: it is enough that each has,
    # in PyTorch, the score that belongs to its place, and that none is there twice.
    own = np.take_along_axis(expected, top_items, axis=1)
    distinct = all(len(set(row)) == k for row in top_items.tolist())
    close = [np.allclose(scores, best, rtol=0, atol=TOLERANCE) for scores in (top_scores, own)]
    if not (distinct and all(close)):
        finite = np.isfinite(best) & np.isfinite(top_scores)
        worst = np.abs(top_scores - best, where=finite, out=np.zeros_like(best)).max()
        raise ModelError(
            f"the ONNX graph does not answer as PyTorch does ({where}): scores differ by up to "
            f"{worst:.2g}, {TOLERANCE:g} is allowed. Nothing was written"
        )
