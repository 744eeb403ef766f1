"""What a recommender's folder holds, and whether it is whole.

A recommender is a directory, version 2:

    model.onnx    histories in, best items out; see `export.onnx_graph.graph`
    items.json    {"ids": [...], "titles": [...]}, element i is item number i + 1
    config.json   format, version, arch, precision, max_len, num_items, fingerprints, checksums
    README.md     the model card
    text_map.safetensors    distilled students: makes rows for new items, see `export.add_items`; a
                            client does not read it, and it need not be shipped

A directory from `export.to_mobile` has `model.ort` in place of `model.onnx`. One from
`export.to_index` that is large has `model.onnx.data` beside it, ONNX external data.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqrec.artifact import Artifact, Kind
from seqrec.errors import ModelError

from export.runtime import how_to_open, open_session

if TYPE_CHECKING:
    from seqrec.data import SequenceDataset

    import onnxruntime as ort

HOW = "Export it again: python -m export.to_onnx"
RECOMMENDER = Kind("seqrec-recommender", 2, "recommender", ModelError, file_name="config.json")
CARD, TEXT_MAP = "README.md", "text_map.safetensors"
DATA = "model.onnx.data"
FILES = ("config.json", "items.json", "model.onnx", DATA, "model.ort", CARD)  # a client needs some
LOCATION = b"\n\x08location\x12\x0f" + DATA.encode()  # how model.onnx names it


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


def require_trained_on(dataset: "SequenceDataset", folder: Path, config: dict[str, Any]) -> None:
    """Raise a `ModelError` if a recommender, of this config.json, was trained on other data."""
    if (fingerprint := config.get("dataset_fingerprint")) != dataset.fingerprint:
        raise ModelError(
            f"{folder} was trained on data set {fingerprint}, but {dataset.path} is "
            f"{dataset.fingerprint}. Give the other one: --data-dir data/NAME"
        )


def open_model(opened: Artifact, num_threads: int) -> "ort.InferenceSession":
    """Open a recommender's model, verified: model.onnx from memory, or both files by their paths.

    ONNX Runtime maps `model.onnx.data` into memory, and several processes share it. Before, all of
    it is read once for its checksum, and not kept: that takes less than to read the items' ids, and
    the first answers wait for no disk. Who writes into the file later changes the answers.

    Raises:
        ModelError: a file is missing, damaged or of another model, or ONNX Runtime refuses it.
    """
    name = opened.description.get("model_file", "model.onnx")
    with opened.reading():
        is_mapped = DATA in opened.checksums
        files = [opened.folder / file for file in (name, DATA)] if is_mapped else []
        before = [_state(file) for file in files]
        contents = opened.read(name)
        if is_mapped:
            opened.file(DATA)
            if b"location" in contents.replace(LOCATION, b""):
                raise ValueError(f"{name} names other files than {DATA}")
        made_with = str(opened.description.get("made_with", {}).get("onnxruntime", ""))
        remedy = how_to_open(made_with, opened.remedy)
    with Artifact(opened.kind, opened.folder, opened.description, remedy).reading():
        session = open_session(files[0] if is_mapped else contents, num_threads)
        if before != [_state(file) for file in files]:
            raise ValueError("it was replaced while it was opened")
    return session


def _state(file: Path) -> tuple[int, int]:
    """Return what changes if a file is replaced or written to."""
    return os.stat(file).st_ino, os.stat(file).st_mtime_ns


def whole_files(folder: Path, remedy: str = HOW) -> list[str]:
    """Return the names of all files of a recommender, their checksums verified.

    Raises:
        ModelError: one is missing or damaged, or of another version; it ends in `remedy`.
    """
    opened = RECOMMENDER.open(folder, remedy)
    checksums = dict(opened.checksums)
    stated = opened.description.get("text_map")
    if stated and (folder / TEXT_MAP).is_file():  # which need not be shipped
        checksums[TEXT_MAP] = stated["sha256"]
    Artifact(RECOMMENDER, folder, {"sha256": checksums}, remedy).verify()
    return [*checksums, RECOMMENDER.file_name, CARD]
