"""What a recommender's folder holds, and whether its items are whole."""

from typing import Any

from seqrec.artifact import Kind
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
