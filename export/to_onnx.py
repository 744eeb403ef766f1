"""Trained students to recommender directories. Entry point: `python -m export.to_onnx`.

For each student in OUTPUT_DIR/students, OUTPUT_DIR/export gets one directory per precision, such as
`gru-distilled-int8`; `export.recommender` says what is in it. A directory that is up to date stays.
"""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqrec.config import DEFAULT_DATA_DIR, default_output_dir, flag, parse_flags
from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import ModelError, run_main
from seqrec.files import atomic_directory, read_json, sha256_file, write_json
from seqrec.metrics import pad_left, share_in_common
from seqrec.sources import MODEL_BUNDLES

import numpy as np
import onnx
import onnxruntime as ort
from tqdm import tqdm

from export.graph import write_graph
from export.nodes import OPSET
from export.parity import check_parity
from export.quantize import eight_bit_share, quantize
from export.recommender import FORMAT, OUTPUT_NAMES, VERSION, open_session
from student.model import Student
from student.text_map import FILE as TEXT_MAP_FILE

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "int8", "int8-optimum"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")  # the third is for comparison
NUM_COMPARED_USERS = 256


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Which students to export."""

    data_dir: Path = flag(DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare")
    output_dir: Path | None = flag(None, "where all stages write; default runs/<name of data-dir>")


def student_folders(output_dir: Path) -> list[Path]:
    """Return the folders of all trained students, sorted.

    Raises:
        ModelError: there is none.
    """
    found = sorted(file.parent for file in output_dir.glob("students/*/*/config.json"))
    if not found:
        raise ModelError(
            f"no trained student in {output_dir / 'students'}. "
            "Train them: python -m student.distill"
        )
    return found


def export_folder(output_dir: Path, student_folder: Path, precision: Precision) -> Path:
    """Return where a student's export in a precision belongs."""
    name = f"{student_folder.parent.name}-{student_folder.name}-{precision}"
    return output_dir / "export" / name


def ensure_exported(
    dataset: SequenceDataset, output_dir: Path, student_folder: Path, precision: Precision
) -> Path:
    """Return the directory of a student's export, made now if it is missing or out of date."""
    folder = export_folder(output_dir, student_folder, precision)
    if not _is_current(folder, student_folder, dataset):
        export_student(student_folder, dataset, folder, precision)
    return folder


def _is_current(folder: Path, student_folder: Path, dataset: SequenceDataset) -> bool:
    try:
        config = read_json(folder / "config.json")
        whole = all(sha256_file(folder / name) == value for name, value in config["sha256"].items())
    except (OSError, ValueError, KeyError):
        return False
    expected = {
        "format": FORMAT,
        "version": VERSION,
        "dataset_fingerprint": dataset.fingerprint,
        "student_sha256": sha256_file(student_folder / "model.safetensors"),
        "text_map": _text_map(student_folder),
    }
    return whole and all(config.get(key) == value for key, value in expected.items())


def _text_map(student_folder: Path) -> dict[str, Any] | None:
    """Return what an export says of a student's text map; None: it has none, as a control has."""
    file = student_folder / TEXT_MAP_FILE
    if not file.is_file():
        return None
    reader = read_json(student_folder / "config.json")["text_reader"]
    return {"sha256": sha256_file(file), "reader": reader}


def export_student(
    student_folder: Path,
    dataset: SequenceDataset,
    folder: Path,
    precision: Precision,
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
    about = read_json(student_folder / "config.json")
    if about.get("dataset_fingerprint") != dataset.fingerprint:
        raise ModelError(
            f"{student_folder} was trained on data set {about.get('dataset_fingerprint')}, but "
            f"{dataset.path} is {dataset.fingerprint}. Train it again: "
            f"python -m student.distill --data-dir {dataset.path}"
        )
    config: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "arch": student.config.arch,
        "role": about.get("role"),
        "precision": precision,
        "max_len": student.config.max_len,
        "num_items": student.config.num_items,
        "num_parameters": student.num_parameters,
        "opset": OPSET,
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "student_sha256": sha256_file(student_folder / "model.safetensors"),
        "valid_metrics": about.get("valid_metrics", {}),
        "teacher_weight": about.get("teacher_weight"),
        "text_map": _text_map(student_folder),
    }
    with (
        atomic_directory(folder) as beside,
        tempfile.TemporaryDirectory(dir=beside.parent) as temporary,
    ):
        graph = Path(temporary) / "model.onnx"
        write_graph(student, graph)
        check_parity(student, graph)
        if precision == "fp32":
            shutil.copy(graph, beside / "model.onnx")
        else:
            if precision == "int8":
                write_graph(student, beside / "model.onnx", "int8")
            else:
                quantize(graph, beside / "model.onnx")
            config["eight_bit_share"] = eight_bit_share(onnx.load(beside / "model.onnx"))
            config["top10_overlap_with_fp32"] = _overlap(
                graph, beside / "model.onnx", dataset, student
            )
        if config["text_map"] is not None:
            shutil.copy(student_folder / TEXT_MAP_FILE, beside / TEXT_MAP_FILE)
        items = {"ids": dataset.item_ids, "titles": dataset.items["title"].to_list()}
        write_json(beside / "items.json", items)
        config["sha256"] = {
            name: sha256_file(beside / name) for name in ("model.onnx", "items.json")
        }
        config["made_with"] = {"onnxruntime": ort.__version__}
        write_json(beside / "config.json", config)
        size_mib = (beside / "model.onnx").stat().st_size / 2**20
        card = _model_card(config, dataset.meta.get("provenance", {}), size_mib)
        (beside / "README.md").write_text(card, encoding="utf-8")
    logger.info("wrote %s, %.2f MiB", folder, size_mib)


def _overlap(first: Path, second: Path, dataset: SequenceDataset, student: Student) -> float:
    """Return the mean share of items that two graphs' top 10 have in common, user by user.

    A data set without a validation target has one-item histories instead.
    """
    targets = dataset.eval_targets("valid")
    rows = np.random.default_rng(0).permutation(len(targets.users))[:NUM_COMPARED_USERS]
    pairs = zip(targets.users[rows], targets.positions[rows], strict=True)
    histories = [dataset.sequence(user)[:position] for user, position in pairs]
    histories = histories or [np.array([item + 1]) for item in range(dataset.num_items)]
    sessions = [open_session(path, num_threads=1) for path in (first, second)]
    shares = []
    for history in histories[:NUM_COMPARED_USERS]:
        feeds = {
            "items": pad_left([history], student.config.max_len),
            "excluded": pad_left([history]),
            "k": np.array([min(10, dataset.num_items)]),
        }
        answers = [session.run(OUTPUT_NAMES, feeds) for session in sessions]
        tops = [items[0][scores[0] > -np.inf] for items, scores in answers]
        shares.append(share_in_common(*tops))
    return float(np.mean(shares))


def _model_card(config: dict[str, Any], provenance: dict[str, Any], size_mib: float) -> str:
    """Return the model card as Markdown."""
    roles = {
        "control": "trained on the data alone: the baseline for the distilled one",
        "distilled": "trained on the data, on what a language model reads in the items' texts, and "
        "on what teachers answer",
    }
    metrics = [
        f"- {name.upper()} on validation targets, in PyTorch, while they were held out: {value:.4f}"
        for name, value in config["valid_metrics"].items()
    ]
    if (weight := config["teacher_weight"]) is not None:
        metrics.append(
            f"- weight of the language model's answers in its soft targets: {weight:g}, "
            f"of the auxiliary teachers': {1 - weight:g}"
        )
    if config["precision"] != "fp32":
        share, kept = config["eight_bit_share"], config["top10_overlap_with_fp32"]
        metrics.append(f"- weights held in 8 bit: {share:.1%}")
        metrics.append(f"- top 10 shared with the fp32 version, validation users: {kept:.1%}")
    metrics.append("- test metrics and latency of this very file: `benchmark.json` of the run")
    precision = {
        "fp32": "fp32; answers equal PyTorch's within 1e-4, checked at export",
        "int8": "all matrices are stored in 8 bit, each row with its own scale; scores are "
        "products of integers, the encoder computes in fp32",
        "int8-optimum": "8-bit item table and matrix products, quantized with Optimum"
        + ("; the GRU cell is fp32" if config["arch"] == "gru" else ""),
    }[config["precision"]]
    source = [
        f"- {key}: {provenance[key]}"
        for key in ("publisher", "citation", "terms")
        if key in provenance
    ]
    if not source:
        source = [
            "- publisher and terms: not recorded; they are those of the tables it was prepared from"
        ]
    if config["text_map"] is not None:
        model = config["text_map"]["reader"]["model"]
        licence = (
            MODEL_BUNDLES[model].licence if model in MODEL_BUNDLES else "its publisher's terms"
        )
        source.append(f"- language model that it learned from: {model}, under {licence}")
    return "\n".join(
        [
            f"# {config['arch']} {config['role']} {config['precision']}: next-item recommender",
            "",
            f"A {config['arch']} student, {roles.get(str(config['role']), 'of unknown role')}.",
            f"It maps a user's newest {config['max_len']} items to the best of "
            f"{config['num_items']:,}.",
            "",
            "```python",
            "from export.recommender import Recommender",
            "",
            'recommender = Recommender.from_pretrained("PATH OF THIS DIRECTORY")',
            'recommender.recommend(["ITEM ID", "ITEM ID"], k=10)',
            "```",
            "",
            f"- precision: {precision}",
            f"- size of `model.onnx`: {size_mib:.2f} MiB, {config['num_parameters']:,} parameters",
            *metrics,
            "",
            "## Data and licence",
            "",
            f"- data set: {config['dataset']}, fingerprint `{config['dataset_fingerprint']}`",
            *source,
            "",
            "Weights, ids and titles derive from that data set: its terms decide what may be done",
            "with them, and so do those of a language model that it learned from.",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Export all trained students in all precisions."""
    config = parse_flags(ExportConfig, (__doc__ or "").partition("\n")[0], argv)
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    dataset = load_dataset(config.data_dir)
    folders = student_folders(output_dir)
    wanted = [(folder, precision) for folder in folders for precision in PRECISIONS]
    for folder, precision in tqdm(wanted, desc="exporting", unit="file"):
        ensure_exported(dataset, output_dir, folder, precision)


if __name__ == "__main__":
    run_main(main)
