"""Model cards: Markdown templates, in the folder of this module."""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from seqrec.sources import MODEL_BUNDLES


def fill(name: str, values: Mapping[str, Any]) -> str:
    """Return the card `<name>.md` with its `$names` filled in; one without a value is an error."""
    template = Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8")
    return Template(template).substitute(values)


def licence_of(model: str) -> str:
    """Return a language model's licence."""
    return MODEL_BUNDLES[model].licence if model in MODEL_BUNDLES else "its publisher's terms"


def bullets(lines: list[str]) -> str:
    """Return lines as a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)
