"""Lowers a student to an ExecuTorch program; `export.to_executorch` is the command.

Shape letters: N questions, T history, E excluded, I items, K answers.
"""

import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from seqrec.artifact import Kind
from seqrec.environments import ensure_environment
from seqrec.errors import ModelError
from seqrec.files import atomic_directory, read_json, require_replaceable, sha256_file
from seqrec.histories import PAD, pad_left

import numpy as np

from export.cards import DATA_LICENCE, TAGS, fill, front_matter
from export.config import ToExecutorchConfig
from export.onnx_graph.graph import write_graph
from export.parity import all_scores, best_items, overlap, require_same
from export.recommender import FloatArray, IntArray, Recommender, open_session
from student.model import Student

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "executorch.txt"
WORKER = "export.mobile.executorch_worker"
EXECUTORCH = Kind("seqrec-executorch", 1, "ExecuTorch program", ModelError, file_name="config.json")
MODEL_FILE = "model.pte"
PRECISIONS = {
    "fp32": "fp32",
    "int8": "the item table in 8 bit, each row with its own scale; the encoder in fp32",
}
KEPT = (
    *("arch", "role", "precision", "max_len", "num_items", "num_parameters"),
    *("dataset", "dataset_fingerprint", "student_sha256"),
)
NUM_QUESTIONS = 150
LEAST_OVERLAP = 0.9  # of an int8 program's lists with those of the fp32 graph


def to_executorch(config: ToExecutorchConfig) -> Path:
    """Write the directory, whole or not at all, and return it.

    Raises:
        ModelError: there is no recommender in `model_dir`, its student is missing or another one,
            or the program does not answer as ONNX Runtime does.
        DataError: the directory to write holds something else.
        SourceError: ExecuTorch could not be installed.
    """
    recommender = Recommender.from_pretrained(config.model_dir)
    exported = recommender.config
    model_dir = config.model_dir.resolve()
    run = model_dir.parent.parent
    made_from = run / "students" / str(exported["arch"]) / str(exported.get("role"))
    student_dir = config.student_dir or made_from
    student = _student_of(exported, student_dir, model_dir)
    k = config.k or min(10, student.config.num_items)
    if k > student.config.num_items:
        raise ModelError(f"--k {k}: there are {student.config.num_items} items")
    folder = config.output_dir or run / "executorch" / model_dir.name
    require_replaceable(folder, MODEL_FILE, ours=(folder / MODEL_FILE).is_file())
    python = ensure_environment(REQUIREMENTS)
    with (
        atomic_directory(folder) as beside,
        tempfile.TemporaryDirectory(dir=beside) as temporary,
    ):
        work = Path(temporary)
        logger.info("lowering %s", student_dir)
        compared = _lower(python, student, student_dir, str(exported["precision"]), k, work)
        shutil.copy(work / MODEL_FILE, beside / MODEL_FILE)
        shutil.copy(model_dir / "items.json", beside / "items.json")
        written = {
            **{name: exported.get(name) for name in KEPT},
            "k": k,
            "compared_with_onnx_fp32": compared,
            "made_with": read_json(work / "versions.json"),
        }
        EXECUTORCH.write(beside, written, (MODEL_FILE, "items.json"))
        card = _model_card(written, (beside / MODEL_FILE).stat().st_size / 2**20)
        source = model_dir / "README.md"
        rights = source.read_text(encoding="utf-8") if source.is_file() else ""
        card += "".join(rights.partition("## Data and licence")[1:])
        (beside / "README.md").write_text(card, encoding="utf-8")
    shared = 100 * compared["overlap"]
    logger.info("wrote %s; it shares %.1f%% of its lists with ONNX fp32", folder, shared)
    return folder


def _student_of(exported: dict[str, Any], student_dir: Path, model_dir: Path) -> Student:
    """Load the student that an export was made from, and see that it can be lowered."""
    if exported["precision"] not in PRECISIONS:
        raise ModelError(
            f"{model_dir} is {exported['precision']}, expected {' or '.join(PRECISIONS)}. "
            "Name another export with --model-dir"
        )
    if not (student_dir / "model.safetensors").is_file():
        raise ModelError(
            f"no student in {student_dir}: a program is lowered from what {model_dir} was exported "
            "from. Name its directory: --student-dir runs/NAME/students/gru/distilled"
        )
    if sha256_file(student_dir / "model.safetensors") != exported["student_sha256"]:
        raise ModelError(
            f"{model_dir} was not exported from the student in {student_dir}. Export it again "
            "(python -m export.to_onnx), or name another one with --student-dir"
        )
    student = Student.from_pretrained(student_dir)
    if student.config.num_items != exported["num_items"]:
        raise ModelError(
            f"{model_dir} has {exported['num_items']} items, its student "
            f"{student.config.num_items}: items that were added to an export cannot be lowered. "
            "Name the export without them"
        )
    return student


def _lower(
    python: Path, student: Student, student_dir: Path, precision: str, k: int, work: Path
) -> dict[str, Any]:
    """Write the program into `work`, and return how it compares with the student's fp32 graph."""
    items, excluded = make_questions(student.config.num_items, student.config.max_len)
    np.savez(work / "questions.npz", items=items, excluded=excluded)
    _run_worker(python, student_dir, precision, k, work)
    with np.load(work / "answers.npz") as answers:
        top_items, top_scores = answers["top_items"], answers["top_scores"]
    write_graph(student, work / "fp32.onnx")
    session = open_session(work / "fp32.onnx", num_threads=1)
    expected = all_scores(session, items, excluded, student.config.num_items)
    return {"num_histories": len(items), **compare(top_items, top_scores, expected, precision)}


def _run_worker(python: Path, student_dir: Path, precision: str, k: int, work: Path) -> None:
    """Let the other environment lower the student and answer the questions, both in `work`."""
    arguments = [str(student_dir.resolve()), precision, str(k), str(work.resolve())]
    done = subprocess.run(
        [str(python), "-s", "-m", WORKER, *arguments],
        cwd=HERE.parents[1],  # so that it finds the student's code
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


def compare(
    top_items: IntArray, top_scores: FloatArray, expected: FloatArray, precision: str
) -> dict[str, float]:
    """Compare a program's lists with the scores of the student's fp32 graph.

    Args:
        top_items: (N, K).
        top_scores: (N, K), -inf where there is no answer.
        expected: (N, I + 1), -inf where an item is left out.
        precision: in fp32 the scores have to be the same, in int8 nine tenths of the lists.

    Returns:
        `overlap`, the mean over the lists; in fp32 also `score_difference`, the largest.

    Raises:
        ModelError: the lists are others.
    """
    lists = [items[scores > -np.inf] for items, scores in zip(top_items, top_scores, strict=True)]
    pairs = zip(lists, best_items(expected, top_items.shape[1]), strict=True)
    shared = float(np.mean([overlap(*pair) for pair in pairs]))
    if precision == "fp32":
        complaint = "the ExecuTorch program does not answer as ONNX Runtime does"
        difference = require_same(top_items, top_scores, expected, complaint)
        return {"overlap": shared, "score_difference": difference}
    if shared < LEAST_OVERLAP:
        raise ModelError(
            f"the int8 program shares only {shared:.1%} of its lists with the fp32 graph, "
            f"{LEAST_OVERLAP:.0%} are expected. Lower the fp32 export. Nothing was written"
        )
    return {"overlap": shared}


def _model_card(description: dict[str, Any], size_mib: float) -> str:
    """Return the model card as Markdown, but for data and licence."""
    made_with = [f"{name} {number}" for name, number in description["made_with"].items()]
    tags = [*TAGS, description["arch"]]
    values = {
        "metadata": front_matter(**DATA_LICENCE, library_name="executorch", tags=tags),
        "precision_note": PRECISIONS[description["precision"]],
        "size_mib": size_mib,
        "made_with": ", ".join(made_with),
    }
    return fill("executorch", {**description, **values})
