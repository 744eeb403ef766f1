"""Model cards: Markdown templates, in the folder of this module.

A card begins with a block of metadata, by which model hubs list and filter what they hold:
https://huggingface.co/docs/hub/model-cards#model-card-metadata.
"""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from seqrec.sources import DATASETS, MODEL_BUNDLES

LIBRARY = "llm-seqrec"
TAGS = ["recommender-system", "sequential-recommendation"]
# What is made of a data set is under that set's terms, which the card names below.
DATA_LICENCE = {"license": "other", "license_name": "terms-of-the-data-set"}


def fill(name: str, values: Mapping[str, Any]) -> str:
    """Return the card `<name>.md` with its `$names` filled in; one without a value is an error."""
    template = Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8")
    return Template(template).substitute(values)


def front_matter(**values: Any) -> str:
    """Return a card's block of metadata; names and values as `huggingface_hub.ModelCardData`'s."""
    from huggingface_hub import ModelCardData  # Accelerate brings it

    return f"---\n{ModelCardData(**values).to_yaml()}\n---\n"


def about_data(name: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the metadata says of a data set: of one that has no publisher, nothing."""
    source = DATASETS.get(name)
    if source is None or source.publisher != provenance.get("publisher"):
        return {}
    return {"datasets": [name], "language": source.language}


def about_recommender(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Return the block of metadata of a recommender's card.

    Args:
        config: what its `config.json` says.
        provenance: what the data set's `meta.json` says of where it came from.
    """
    from huggingface_hub import EvalResult

    results = [
        EvalResult(
            task_type="sequential-recommendation",
            dataset_type=config["dataset"],
            dataset_name=config["dataset"],
            dataset_split="validation",
            dataset_revision=config["dataset_fingerprint"],
            metric_type=name,
            metric_name=f"{name.upper()}, validation targets, full ranking",
            metric_value=value,
        )
        for name, value in config["valid_metrics"].items()
    ]
    evaluated = {
        "model_name": f"{config['arch']}-{config['role']}-{config['precision']}",
        "eval_results": results,
    }
    return front_matter(
        **DATA_LICENCE,
        **about_data(config["dataset"], provenance),
        library_name=LIBRARY,
        tags=[*TAGS, "onnx", config["arch"]],
        **(evaluated if results else {}),
    )


def licence_of(model: str) -> str:
    """Return a language model's licence."""
    return MODEL_BUNDLES[model].licence if model in MODEL_BUNDLES else "its publisher's terms"


def licence_id(model: str) -> str:
    """Return the same as the hub names it: an SPDX identifier in lower case, or "other"."""
    return MODEL_BUNDLES[model].licence.lower() if model in MODEL_BUNDLES else "other"


def bullets(lines: list[str]) -> str:
    """Return lines as a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)
