"""ONNX Runtime on the CPU. Loading it takes a while, so it is loaded when a model is opened."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqrec.errors import ModelError

import numpy as np

if TYPE_CHECKING:
    import onnxruntime as ort

OLDEST = "1.18"  # that reads the exported files (ONNX IR version 10)
OLDEST_FOR_NUMPY_2 = "1.19"


def load_onnxruntime() -> Any:
    """Return the module `onnxruntime`.

    Raises:
        ModelError: it is not installed, or was built for NumPy 1 and cannot run beside NumPy 2.
    """
    if "onnxruntime" not in sys.modules:
        _require_compatible()
    import onnxruntime

    return onnxruntime


def _require_compatible() -> None:
    """Refuse in one line what would fail with a wall of text in the middle of an import."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None:
        raise ModelError(
            f"onnxruntime is not installed. Expected {OLDEST} or newer: pip install onnxruntime"
        )
    # NumPy writes to stderr while an older one is loaded, so its version is read from its file.
    # Not from the metadata: it may have come as onnxruntime-gpu or another package.
    source = Path(found.origin).read_text(encoding="utf-8") if found.origin else ""
    stated = re.search(r'^__version__ = "([^"]+)"', source, re.MULTILINE)
    version = stated[1] if stated else OLDEST_FOR_NUMPY_2
    if release(np.__version__) >= [2] and release(version) < release(OLDEST_FOR_NUMPY_2):
        raise ModelError(
            f"onnxruntime {version} cannot run beside numpy {np.__version__}: it was built for "
            f"numpy 1. Expected {OLDEST_FOR_NUMPY_2} or newer: pip install --upgrade onnxruntime "
            '(or stay with it: pip install "numpy<2")'
        )


def open_session(model: Path | bytes, num_threads: int) -> "ort.InferenceSession":
    """Open an ONNX file, or its bytes, in plain ONNX Runtime on the CPU.

    Raises:
        ModelError: there is no onnxruntime that can run here.
        ValueError: ONNX Runtime refuses it, with a class of its own for every reason.
    """
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # 1.18 mixes up the memory plans of requests of different lengths: a GRU then answers wrongly.
    options.enable_mem_pattern = release(ort.__version__) >= release("1.19")
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(" ".join(str(error).split())) from error


def how_to_open(made_with: str, otherwise: str) -> str:
    """Return what to do if ONNX Runtime refuses a model: it may be older than the export's.

    Args:
        made_with: the version of onnxruntime that the model was exported with; "": unknown.
        otherwise: what to do if that is not the reason.
    """
    installed = load_onnxruntime().__version__
    if release(installed) >= release(made_with):
        return otherwise
    return (
        f"It was exported with onnxruntime {made_with}, and {installed} is installed here: "
        "pip install --upgrade onnxruntime"
    )


def release(version: str) -> list[int]:
    """Return a version's first two numbers."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]
