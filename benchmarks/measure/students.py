"""From an output directory to systems: exported students, students in PyTorch, the teacher."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import read_json

from benchmarks.measure.client import CallSystem
from benchmarks.measure.quality import protocols
from benchmarks.measure.systems import OnnxSystem, StepSystem, System, TorchSystem
from benchmarks.report.schema import Quality

if TYPE_CHECKING:
    from export.onnx_graph.exporting import Precision

logger = logging.getLogger(__name__)

MEASURED: dict[str, tuple["Precision", ...]] = {"control": ("fp32",), "distilled": ("fp32", "int8")}
OPTIMUM: "Precision" = "int8-optimum"
FINETUNE = "accelerate launch teacher/finetune.py"


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
        precisions = MEASURED.get(student_folder.name, ())
        if variants and "int8" in precisions:
            precisions += (OPTIMUM,)
        for precision in precisions:
            logger.info("%s %s %s", student_folder.parent.name, student_folder.name, precision)
            folder = ensure_exported(dataset, output_dir, student_folder, precision)
            whole = OnnxSystem.from_pretrained(folder, num_threads)
            opened.append(whole)
            if variants and precision == "int8":
                opened.append(CallSystem.from_pretrained(folder, num_threads))
            if variants and precision == "int8" and whole.keeps_state:
                opened.append(StepSystem.from_pretrained(folder, num_threads))
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
