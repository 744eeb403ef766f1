"""How a recommender is opened: its folder, its items, its model. Needs numpy and onnxruntime."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqrec.artifact import Kind
from seqrec.errors import ModelError

if TYPE_CHECKING:  # it takes a while to load, and opening a model is soon enough
    import onnxruntime as ort

HOW = "Export it again: python -m export.to_onnx"
RECOMMENDER = Kind("seqrec-recommender", 2, "recommender", ModelError, file_name="config.json")


def how_to_open(config: dict[str, Any]) -> str:
    """Return what to do if ONNX Runtime refuses the model: it may be older than the export's."""
    import onnxruntime as ort

    made_with = str(config.get("made_with", {}).get("onnxruntime", ""))
    if _release(ort.__version__) >= _release(made_with):
        return HOW
    return (
        f"It was exported with onnxruntime {made_with}, and {ort.__version__} is installed here: "
        "pip install --upgrade onnxruntime"
    )


def _release(version: str) -> list[int]:
    """Return a version's first two numbers."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def require_items(items: dict[str, Any], config: dict[str, Any]) -> None:
    """Raise a `ValueError` unless ids and titles are texts, as many as the config says."""
    for name in ("ids", "titles"):
        texts = items[name]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"items.json: {name} is no list of texts")
        if len(texts) != config.get("num_items", len(texts)):
            raise ValueError(f"items.json has {len(texts)} {name}, not {config['num_items']}")
    if len(items["ids"]) != len(items["titles"]):
        raise ValueError("items.json has not as many titles as ids")
    if type(config["max_len"]) is not int or config["max_len"] < 1:
        raise ValueError(f"config.json has max_len {config['max_len']!r}")


def open_session(model: Path | bytes, num_threads: int) -> "ort.InferenceSession":
    """Open an ONNX file, or its bytes, in plain ONNX Runtime on the CPU.

    Raises:
        ValueError: ONNX Runtime refuses it, with a class of its own for every reason.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # 1.18 mixes up the memory plans of requests of different lengths: a GRU then answers wrongly.
    options.enable_mem_pattern = _release(ort.__version__) >= [1, 19]
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(" ".join(str(error).split())) from error
