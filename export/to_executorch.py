"""A recommender for ExecuTorch. Entry point: `python -m export.to_executorch`.

    python -m export.to_executorch --model-dir runs/ml-100k/export/gru-distilled-int8

The program is lowered from the PyTorch student that the export was made from, in the precision of
the export, for the XNNPACK backend. ExecuTorch contradicts our pins, so the first call installs it
into an environment of its own in the cache directory (`executorch.txt`). The directory:

    model.pte      histories in, best items out
    items.json     as in the export: element i of "ids" and "titles" is item number i + 1
    config.json    format, version, arch, precision, max_len, num_items, k, checksums, and how the
                   program's answers compared with those of ONNX Runtime
    README.md      the model card

The program has one method, `forward`, for one user. Inputs, both int64:

    items       (1, max_len)    the newest items, left-padded with 0
    excluded    (1, E)          items left out of the answer; E from 1 to num_items + 1, 0: no item

Outputs, best first, both overwritten by the next call:

    top_items   int64 (1, K)    K is fixed in the program
    top_scores  float32 (1, K)  -inf: not an answer; fewer than K items were left

Which of two items with the same score comes first is not said, and a GRU keeps no state between
calls. In int8 the item table is held in 8 bit, for the lookup and once more for the scores, whose
states are rounded to 8 bit, too; the encoder is fp32.

Before anything is written, the program answers in the runtime of the pip package, on this machine:
in fp32 as the student's fp32 graph does in ONNX Runtime, in int8 with nine tenths of its items.
Neither a phone nor ARM was tried.

Shape letters: N questions, T history, E excluded, I items, K answers.
"""

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags
from seqrec.data import PAD, IntArray
from seqrec.environments import ensure_environment
from seqrec.errors import ModelError, run_main
from seqrec.files import (
    atomic_directory,
    read_json,
    require_replaceable,
    sha256_file,
    write_json,
)
from seqrec.metrics import pad_left, share_in_common

import numpy as np

from export.graph import write_graph
from export.nodes import TOLERANCE
from export.recommender import OUTPUT_NAMES, FloatArray, Recommender, open_session
from student.model import Student

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "executorch.txt"
WORKER = "export.executorch_worker"
FORMAT = "seqrec-executorch"
VERSION = 1
MODEL_FILE = "model.pte"
PRECISIONS = ("fp32", "int8")
KEPT = (
    *("arch", "role", "precision", "max_len", "num_items", "num_parameters"),
    *("dataset", "dataset_fingerprint", "student_sha256"),
)
NUM_QUESTIONS = 150
LEAST_OVERLAP = 0.9  # of an int8 program's lists with those of the fp32 graph


@dataclass(frozen=True, kw_only=True)
class ToExecutorchConfig:
    """Flags of `export.to_executorch`."""

    model_dir: Path = flag(
        Path("runs/ml-100k/export/transformer-distilled-int8"),
        "exported student, from export.to_onnx",
    )
    student_dir: Path | None = flag(
        None, "what it was exported from; default students/<its name> beside export"
    )
    output_dir: Path | None = flag(
        None, "directory to write; default executorch/<name of model-dir> beside export"
    )
    k: int | None = flag(
        None, "how many items an answer has; default 10, or all if there are fewer"
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.k is not None and self.k < 1:
            raise ValueError("--k: above 0")


def to_executorch(config: ToExecutorchConfig) -> Path:
    """Write the directory, whole or not at all, and return it.

    Raises:
        ModelError: there is no recommender in `model_dir`, its student is missing or another one,
            or the program does not answer as ONNX Runtime does.
        DataError: the directory to write holds something else.
        SourceError: ExecuTorch could not be installed.
    """
    recommender = Recommender.from_pretrained(config.model_dir)
    about = recommender.config
    student_dir = config.student_dir or _student_dir(config.model_dir, about)
    student = _student_of(about, student_dir, config.model_dir)
    k = config.k or min(10, student.config.num_items)
    if k > student.config.num_items:
        raise ModelError(f"--k {k}: there are {student.config.num_items} items")
    parent = config.model_dir.resolve().parent.parent
    folder = config.output_dir or parent / "executorch" / config.model_dir.resolve().name
    require_replaceable(folder, MODEL_FILE, ours=(folder / MODEL_FILE).is_file())
    python = ensure_environment(REQUIREMENTS)
    with (
        atomic_directory(folder) as beside,
        tempfile.TemporaryDirectory(dir=beside.parent) as temporary,
    ):
        work = Path(temporary)
        items, excluded = make_questions(student.config.num_items, student.config.max_len)
        np.savez(work / "questions.npz", items=items, excluded=excluded)
        logger.info("lowering %s", student_dir)
        _run_worker(python, student_dir, str(about["precision"]), k, work)
        with np.load(work / "answers.npz") as answers:
            top_items, top_scores = answers["top_items"], answers["top_scores"]
        write_graph(student, work / "fp32.onnx")
        expected = _ask_onnx(work / "fp32.onnx", items, excluded, student.config.num_items)
        check = check_exact if about["precision"] == "fp32" else check_close
        compared = check(top_items, top_scores, expected)
        shutil.copy(work / MODEL_FILE, beside / MODEL_FILE)
        shutil.copy(config.model_dir / "items.json", beside / "items.json")
        written = {
            "format": FORMAT,
            "version": VERSION,
            **{name: about.get(name) for name in KEPT},
            "k": k,
            "compared_with_onnx_fp32": {"num_histories": len(items), **compared},
            "made_with": read_json(work / "about.json"),
            "sha256": {name: sha256_file(beside / name) for name in (MODEL_FILE, "items.json")},
        }
        write_json(beside / "config.json", written)
        card = _model_card(written, (beside / MODEL_FILE).stat().st_size / 2**20)
        source = config.model_dir / "README.md"
        rights = source.read_text(encoding="utf-8") if source.is_file() else ""
        heading = "## Data and licence"
        card += "".join(rights.partition(heading)[1:])
        (beside / "README.md").write_text(card, encoding="utf-8")
    size = (folder / MODEL_FILE).stat().st_size / 2**20
    logger.info(
        "wrote %s; the program takes %.2f MiB and shares %.1f%% of its lists with ONNX fp32",
        folder,
        size,
        100 * compared["overlap"],
    )
    return folder


def _student_dir(model_dir: Path, about: dict[str, Any]) -> Path:
    """Return where `student.distill` left what an export was made from."""
    students = model_dir.resolve().parent.parent / "students"
    return students / str(about["arch"]) / str(about.get("role"))


def _student_of(about: dict[str, Any], student_dir: Path, model_dir: Path) -> Student:
    """Load the student that an export was made from, and see that it can be lowered."""
    if about["precision"] not in PRECISIONS:
        raise ModelError(
            f"{model_dir} is {about['precision']}, expected {' or '.join(PRECISIONS)}. "
            "Name another export with --model-dir"
        )
    if not (student_dir / "model.safetensors").is_file():
        raise ModelError(
            f"no student in {student_dir}: a program is lowered from what {model_dir} was exported "
            "from. Name its directory: --student-dir runs/NAME/students/gru/distilled"
        )
    if sha256_file(student_dir / "model.safetensors") != about["student_sha256"]:
        raise ModelError(
            f"{model_dir} was not exported from the student in {student_dir}. Export it again "
            "(python -m export.to_onnx), or name its own with --student-dir"
        )
    student = Student.from_pretrained(student_dir)
    if student.config.num_items != about["num_items"]:
        raise ModelError(
            f"{model_dir} has {about['num_items']} items, its student {student.config.num_items}: "
            "items that were added to an export cannot be lowered. Name the export without them"
        )
    return student


def _run_worker(python: Path, student_dir: Path, precision: str, k: int, work: Path) -> None:
    """Let the other environment lower the student and answer the questions, both in `work`."""
    arguments = [str(student_dir.resolve()), precision, str(k), str(work.resolve())]
    done = subprocess.run(
        [str(python), "-s", "-m", WORKER, *arguments],
        cwd=HERE.parent,  # so that it finds the student's code
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ModelError(
            f"ExecuTorch could not lower {student_dir} (exit code {done.returncode}: "
            f"{lines[-1][:300] if lines else 'no output'})"
        )


def make_questions(num_items: int, max_len: int, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Return random requests: histories of each length up to twice `max_len`, cut to the newest.

    Returns:
        items: int64 (N, max_len), left-padded.
        excluded: int64 (N, E): the whole history, or, in every third question, nothing.
    """
    rng = np.random.default_rng(seed)
    lengths = np.concatenate(
        [[1, max_len, 2 * max_len], rng.integers(1, 2 * max_len + 1, NUM_QUESTIONS - 3)]
    )
    histories = [rng.integers(1, num_items + 1, length) for length in lengths]
    excluded = pad_left(histories, num_items + 1)
    excluded[::3] = PAD
    return pad_left(histories, max_len), excluded


def _ask_onnx(file: Path, items: IntArray, excluded: IntArray, num_items: int) -> FloatArray:
    """Return what ONNX Runtime scores each item with, (N, I + 1); -inf: no item, or left out."""
    session = open_session(file, num_threads=1)
    scores = np.full((len(items), num_items + 1), -np.inf, dtype=np.float32)
    for row in range(len(items)):
        one = slice(row, row + 1)
        feeds = {"items": items[one], "excluded": excluded[one], "k": np.array([num_items])}
        top_items, top_scores = session.run(OUTPUT_NAMES, feeds)
        scores[row, top_items[0]] = top_scores[0]
    return scores


def overlap(top_items: IntArray, top_scores: FloatArray, expected: FloatArray) -> float:
    """Return the mean share of the K best items by `expected` that lists hold.

    Args:
        top_items: (N, K).
        top_scores: (N, K), -inf where there is no answer.
        expected: scores of all items (N, I + 1), -inf where there is none.
    """
    shares = []
    for items, scores, row in zip(top_items, top_scores, expected, strict=True):
        best = np.argsort(-row, kind="stable")[: len(items)]
        best = best[row[best] > -np.inf]
        shares.append(share_in_common(best, items[scores > -np.inf]))
    return float(np.mean(shares))


def check_exact(
    top_items: IntArray, top_scores: FloatArray, expected: FloatArray
) -> dict[str, float]:
    """Compare an fp32 program's lists with the scores they should follow from.

    Args:
        top_items: (N, K).
        top_scores: (N, K).
        expected: scores of all items (N, I + 1).

    Returns:
        `overlap`, and `score_difference`, the largest.

    Raises:
        ModelError: a score differs by more than 1e-4, or an item other than by a tie.
    """
    best = -np.sort(-expected, axis=1)[:, : top_items.shape[1]]
    own = np.take_along_axis(expected, top_items, axis=1)
    given = np.isfinite(best)
    distinct = all(
        len(set(row[there].tolist())) == there.sum()
        for row, there in zip(top_items, given, strict=True)
    )
    close = [np.allclose(scores, best, rtol=0, atol=TOLERANCE) for scores in (top_scores, own)]
    both = given & np.isfinite(top_scores)
    difference = float(np.abs(top_scores[both] - best[both]).max(initial=0.0))
    if not (distinct and all(close)):
        raise ModelError(
            "the ExecuTorch program does not answer as ONNX Runtime does: scores differ by up to "
            f"{difference:.2g}, {TOLERANCE:g} is allowed. Nothing was written"
        )
    return {
        "overlap": overlap(top_items, top_scores, expected),
        "score_difference": difference,
    }


def check_close(
    top_items: IntArray, top_scores: FloatArray, expected: FloatArray
) -> dict[str, float]:
    """Compare an int8 program's lists with the fp32 graph's scores; arguments as `check_exact`.

    Returns:
        `overlap`.

    Raises:
        ModelError: less than `LEAST_OVERLAP` of the lists is the same.
    """
    share = overlap(top_items, top_scores, expected)
    if share < LEAST_OVERLAP:
        raise ModelError(
            f"the int8 program shares only {share:.1%} of its lists with the fp32 graph, "
            f"{LEAST_OVERLAP:.0%} are expected. Lower the fp32 export. Nothing was written"
        )
    return {"overlap": share}


def _model_card(about: dict[str, Any], size_mib: float) -> str:
    """Return the model card as Markdown, but for data and licence."""
    compared, made = about["compared_with_onnx_fp32"], about["made_with"]
    precision = {
        "fp32": "fp32",
        "int8": "the item table in 8 bit, each row with its own scale; the encoder in fp32",
    }[about["precision"]]
    width = about["max_len"]
    return "\n".join(
        [
            f"# {about['arch']} {about['role']} {about['precision']}: next-item recommender for "
            "ExecuTorch",
            "",
            f"`{MODEL_FILE}` maps a user's newest {width} items to the best {about['k']} of "
            f"{about['num_items']:,}, through the XNNPACK backend.",
            "",
            "```python",
            "import json, torch",
            "from executorch.runtime import Runtime",
            "",
            "ids = json.load(open('items.json'))['ids']",
            f"program = Runtime.get().load_program('{MODEL_FILE}')",
            "forward = program.load_method('forward')",
            "history = [ids.index(item) + 1 for item in ['ITEM ID', 'ITEM ID']]  # oldest first",
            f"newest = history[-{width}:]",
            f"items = torch.tensor([[0] * ({width} - len(newest)) + newest])",
            "excluded = torch.tensor([sorted(set(history))])  # [[0]]: seen items may come back",
            "top_items, top_scores = forward.execute([items, excluded])",
            "pairs = zip(top_items[0].tolist(), top_scores[0].tolist())",
            "answer = [ids[item - 1] for item, score in pairs if score > float('-inf')]",
            "```",
            "",
            "In Java, Kotlin, Swift and C++ the same two int64 tensors go to `forward`. Operators",
            "outside of the XNNPACK backend come from ExecuTorch's portable kernels.",
            "",
            f"- precision: {precision}",
            f"- size of `{MODEL_FILE}`: {size_mib:.2f} MiB",
            f"- top {about['k']} shared with the student's fp32 graph in ONNX Runtime, "
            f"{compared['num_histories']} random histories: {compared['overlap']:.1%}",
            "- made with " + ", ".join(f"{name} {number}" for name, number in made.items()),
            "- tried in the runtime of the pip package alone, on the machine that made it: neither",
            "  on a phone nor on ARM",
            "",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the directory that the command line asks for."""
    to_executorch(parse_flags(ToExecutorchConfig, (__doc__ or "").partition("\n")[0], argv))


if __name__ == "__main__":
    run_main(main)
