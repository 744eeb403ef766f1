"""Exports students as recommender directories; `export.to_onnx` is the command."""

import itertools
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import ModelError
from seqrec.files import atomic_directory, read_json, sha256_file, write_json
from seqrec.histories import PAD, pad_left

import numpy as np
import onnx
import onnxruntime as ort
import torch
from tqdm import tqdm

from export.cards import about_recommender, fill, licence_of
from export.onnx_graph.builder import OPSET, eight_bit_share
from export.onnx_graph.graph import MOST_BYTES, VERSION, write_graph
from export.parity import ask, overlap, require_same
from export.recommender import RECOMMENDER, open_session
from student.model import Student
from student.text_map import FILE as TEXT_MAP_FILE

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "int8", "int8-optimum"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")  # the third is for comparison
NUM_COMPARED_USERS = 256
ROLES = {
    "control": "trained on the data alone: the baseline for the distilled one",
    "distilled": "trained on the data, on what a language model reads in the items' texts, and on "
    "what teachers answer",
}
PRECISION_NOTES = {
    "fp32": "fp32; answers equal PyTorch's within 1e-4, checked at export",
    "int8": "all matrices are stored in 8 bit, each row with its own scale; scores are products of "
    "integers, the encoder computes in fp32",
    "int8-optimum": "8-bit item table and matrix products, quantized with Optimum; GRU cells stay "
    "in fp32",
}


def student_folders(output_dir: Path) -> list[Path]:
    """Return the folders of all trained students, sorted.

    Raises:
        ModelError: there is none.
    """
    folders = sorted(file.parent for file in output_dir.glob("students/*/*/config.json"))
    if not folders:
        raise ModelError(
            f"no trained student in {output_dir / 'students'}. "
            "Train them: python -m student.distill"
        )
    return folders


def ensure_exported(
    dataset: SequenceDataset, output_dir: Path, student_folder: Path, precision: Precision
) -> Path:
    """Return the directory of a student's export, made now if it is missing or out of date."""
    name = f"{student_folder.parent.name}-{student_folder.name}-{precision}"
    folder = output_dir / "export" / name
    if not RECOMMENDER.is_current(folder, _made_from(student_folder, dataset)):
        export_student(student_folder, dataset, folder, precision)
    return folder


def export_all(data_dir: Path, output_dir: Path) -> None:
    """Export all trained students, in fp32 as well where a file can hold that."""
    dataset = load_dataset(data_dir)
    folders = student_folders(output_dir)
    too_large = [f for f in folders if (f / "model.safetensors").stat().st_size > MOST_BYTES]
    if too_large:
        logger.warning(
            "of %d students int8 alone: in fp32 they are larger than an ONNX file", len(too_large)
        )
    wanted = [
        (folder, precision)
        for folder, precision in itertools.product(folders, PRECISIONS)
        if precision == "int8" or folder not in too_large
    ]
    for folder, precision in tqdm(wanted, desc="exporting", unit="file"):
        ensure_exported(dataset, output_dir, folder, precision)


def _made_from(student_folder: Path, dataset: SequenceDataset) -> dict[str, Any]:
    """Return what an export says of its student; `text_map` is None for a control, without one."""
    file, text_map = student_folder / TEXT_MAP_FILE, None
    if file.is_file():
        reader = read_json(student_folder / "config.json")["text_reader"]
        text_map = {"sha256": sha256_file(file), "reader": reader}
    return {
        "graph_version": VERSION,
        "dataset_fingerprint": dataset.fingerprint,
        "student_sha256": sha256_file(student_folder / "model.safetensors"),
        "text_map": text_map,
    }


def export_student(
    student_folder: Path, dataset: SequenceDataset, folder: Path, precision: Precision
) -> None:
    """Write a recommender directory, whole or not at all.

    Args:
        student_folder: where `Student.save_pretrained` wrote.
        dataset: what the student was trained on; gives ids and titles.
        folder: the directory to make; an existing one is replaced.
        precision: "int8" is compared with the fp32 graph on the newest items of real validation
            histories; "int8-optimum" is made from that graph by Optimum.

    Raises:
        ModelError: there is no student, it was trained on other data, its fp32 graph does not
            answer as PyTorch does, or Optimum's is not 8-bit.
    """
    student = Student.from_pretrained(student_folder)
    trained = read_json(student_folder / "config.json")
    if (trained_on := trained.get("dataset_fingerprint")) != dataset.fingerprint:
        raise ModelError(
            f"{student_folder} was trained on data set {trained_on}, but {dataset.path} is "
            f"{dataset.fingerprint}. Train it again: "
            f"python -m student.distill --data-dir {dataset.path}"
        )
    config: dict[str, Any] = {
        "arch": student.config.arch,
        "role": trained.get("role"),
        "precision": precision,
        "max_len": student.config.max_len,
        "num_items": student.config.num_items,
        "num_parameters": student.num_parameters,
        "opset": OPSET,
        "dataset": dataset.name,
        "valid_metrics": trained.get("valid_metrics", {}),
        "teacher_weight": trained.get("teacher_weight"),
        "budget": trained.get("budget"),
        "made_with": {"onnxruntime": ort.__version__},
        **_made_from(student_folder, dataset),
    }
    with atomic_directory(folder) as beside:
        config |= _write_model(student, dataset, beside / "model.onnx", precision)
        items = {"ids": dataset.item_ids, "titles": dataset.items["title"].to_list()}
        write_json(beside / "items.json", items)
        RECOMMENDER.write(beside, config, ("model.onnx", "items.json"))
        if config["text_map"] is not None:
            shutil.copy(student_folder / TEXT_MAP_FILE, beside / TEXT_MAP_FILE)
        size_mib = (beside / "model.onnx").stat().st_size / 2**20
        card = _model_card(config, dataset.meta.get("provenance", {}), size_mib)
        (beside / "README.md").write_text(card, encoding="utf-8")
    logger.info("wrote %s, %.2f MiB", folder, size_mib)


def _write_model(
    student: Student, dataset: SequenceDataset, file: Path, precision: Precision
) -> dict[str, float]:
    """Write the graph, and return how it compares with the fp32 graph, if it is another one."""
    with tempfile.TemporaryDirectory(dir=file.parent) as temporary:
        fp32 = Path(temporary) / "model.onnx"
        is_one_file = write_graph(student, fp32)
        check_parity(student, fp32)
        if precision == "int8":
            is_one_file = write_graph(student, file, "int8")
        if not is_one_file:
            raise ModelError(f"in {precision} the student is larger than an ONNX file can be")
        if precision == "fp32":
            shutil.copy(fp32, file)
            return {}
        if precision == "int8-optimum":
            from export.onnx_graph.quantize import quantize  # loads Optimum

            quantize(fp32, file)
        return {
            "eight_bit_share": eight_bit_share(onnx.load(file)),
            "top10_overlap_with_fp32": _compare_with_fp32(fp32, file, dataset, student),
        }


def check_parity(student: Student, path: Path) -> None:
    """Compare a file's answers with PyTorch's on random histories.

    Batches of 1 to 33 users mix all lengths from 1 to max_len; each is asked with no exclusions,
    with some, and with almost all items excluded.

    Args:
        student: what the file was made from.
        path: an fp32 file from `write_graph`.

    Raises:
        ModelError: an answer differs: a score by more than 1e-4, or an item other than by a tie.
    """
    session = open_session(path, num_threads=1)
    rng = np.random.default_rng(0)
    num_items, max_len = student.config.num_items, student.config.max_len
    widths, exclusions = {1, 2, max(max_len // 2, 1), max_len}, (0, 3, num_items - 1)
    for num_users, width, num_excluded in itertools.product((1, 2, 33), widths, exclusions):
        lengths = rng.integers(1, width + 1, num_users)
        lengths[0] = width
        items = rng.integers(1, num_items + 1, (num_users, width))
        items[np.arange(width) < width - lengths[:, None]] = PAD
        excluded = rng.integers(0, num_items + 1, (num_users, num_excluded))
        with torch.inference_mode():
            expected = student(torch.from_numpy(items)).numpy()
        np.put_along_axis(expected, excluded, -np.inf, axis=1)
        expected[:, PAD] = -np.inf
        what = f"{num_users} users, {width} items, {num_excluded} excluded"
        complaint = f"the ONNX graph does not answer as PyTorch does ({what})"
        require_same(*ask(session, items, excluded, min(10, num_items)), expected, complaint)


def _compare_with_fp32(
    fp32: Path, other: Path, dataset: SequenceDataset, student: Student
) -> float:
    """Return the mean overlap of two graphs' top 10, user by user.

    A data set without a validation target has one-item histories instead.
    """
    targets = dataset.eval_targets("valid")
    rows = np.random.default_rng(0).permutation(len(targets.users))[:NUM_COMPARED_USERS]
    pairs = zip(targets.users[rows], targets.positions[rows], strict=True)
    histories = [dataset.sequence(user)[:position] for user, position in pairs]
    histories = histories or [np.array([item + 1]) for item in range(dataset.num_items)]
    sessions = [open_session(path, num_threads=1) for path in (fp32, other)]
    k = min(10, dataset.num_items)
    overlaps = []
    for history in histories[:NUM_COMPARED_USERS]:
        newest, seen = pad_left([history], student.config.max_len), pad_left([history])
        answers = [ask(session, newest, seen, k) for session in sessions]
        overlaps.append(overlap(*(items[0][scores[0] > -np.inf] for items, scores in answers)))
    return float(np.mean(overlaps))


def _model_card(config: dict[str, Any], provenance: dict[str, Any], size_mib: float) -> str:
    """Return the model card as Markdown."""
    figures = [
        f"{name.upper()} on validation targets, in PyTorch, while they were held out: {value:.4f}"
        for name, value in config["valid_metrics"].items()
    ]
    if (weight := config["teacher_weight"]) is not None:
        figures.append(
            f"weight of the language model's answers in its soft targets: {weight:g}, "
            f"of the auxiliary teachers': {1 - weight:g}"
        )
    if config["budget"] is not None:
        figures.append(f"budget of its training: {config['budget']}")
    if config["precision"] != "fp32":
        figures.append(f"weights held in 8 bit: {config['eight_bit_share']:.1%}")
        shared = config["top10_overlap_with_fp32"]
        figures.append(f"top 10 shared with the fp32 version, validation users: {shared:.1%}")
    figures.append("test metrics and latency of this very file: `benchmark.json` of the run")
    keys = ("publisher", "citation", "terms")
    sources = [f"{key}: {provenance[key]}" for key in keys if key in provenance] or [
        "publisher and terms: not recorded; they are those of the tables it was prepared from"
    ]
    if config["text_map"] is not None:
        model = config["text_map"]["reader"]["model"]
        licence, _ = licence_of(model)
        sources.append(f"language model that it learned from: {model}, under {licence}")
    return fill(
        "recommender",
        {
            **config,
            "metadata": about_recommender(config, provenance),
            "training": ROLES.get(str(config["role"]), "of unknown role"),
            "precision_note": PRECISION_NOTES[config["precision"]],
            "size_mib": size_mib,
            "figures": "- " + "\n- ".join(figures),
            "sources": "- " + "\n- ".join(sources),
        },
    )
