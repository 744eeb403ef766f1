"""What a recommender's folder holds, and whether it is whole.

A recommender is a directory, version 2:

    model.onnx    histories in, best items out; see `export.onnx_graph.graph`
    items.json    {"ids": [...], "titles": [...]}, element i is item number i + 1
    config.json   format, version, arch, precision, max_len, num_items, fingerprints, checksums
    README.md     the model card
    text_map.safetensors    distilled students: makes rows for new items, see `export.add_items`; a
                            client does not read it, and it need not be shipped

A directory from `export.to_mobile` has `model.ort` in place of `model.onnx`.
"""

from pathlib import Path
from typing import Any

from seqrec.artifact import Artifact, Kind
from seqrec.errors import ModelError

HOW = "Export it again: python -m export.to_onnx"
RECOMMENDER = Kind("seqrec-recommender", 2, "recommender", ModelError, file_name="config.json")
CARD, TEXT_MAP = "README.md", "text_map.safetensors"
FILES = ("config.json", "items.json", "model.onnx", "model.ort", CARD)  # of which a client needs


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


def whole_files(folder: Path) -> list[str]:
    """Return the names of all files of a recommender, their checksums verified.

    Raises:
        ModelError: one is missing or damaged.
    """
    opened = RECOMMENDER.open(folder, HOW)
    checksums = dict(opened.checksums)
    stated = opened.description.get("text_map")
    if stated and (folder / TEXT_MAP).is_file():  # which need not be shipped
        checksums[TEXT_MAP] = stated["sha256"]
    Artifact(RECOMMENDER, folder, {"sha256": checksums}, HOW).verify()
    return [*checksums, RECOMMENDER.file_name, CARD]
