"""Model cards: Markdown templates, in the folder of this module.

A card begins with a block of metadata, by which model hubs list and filter what they hold:
https://huggingface.co/docs/hub/model-cards#model-card-metadata.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrec.sources import DATASETS, MODEL_BUNDLES

TAGS = ["recommender-system", "sequential-recommendation"]
# What is made of a data set is under that set's terms, which the card names below.
DATA_LICENCE = {"license": "other", "license_name": "terms-of-the-data-set"}


def fill(name: str, values: Mapping[str, Any]) -> str:
    """Return the card `<name>.md`, its `{names}` filled in as by `str.format`."""
    template = Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8")
    return template.format_map(values)


def front_matter(**values: Any) -> str:
    """Return a card's block of metadata; names and values as `huggingface_hub.ModelCardData`'s."""
    from huggingface_hub import ModelCardData  # Accelerate brings it

    return f"---\n{ModelCardData(**values).to_yaml()}\n---\n"


def about_recommender(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Return the block of metadata of a recommender's card.

    Args:
        config: what its `config.json` says.
        provenance: what the data set's `meta.json` says of where it came from.
    """
    from huggingface_hub import EvalResult

    name = config["dataset"]
    values: dict[str, Any] = {**DATA_LICENCE, "library_name": "llm-seqrec"}
    source = DATASETS.get(name)  # a user's table may have the same name, but not the publisher
    if source is not None and source.publisher == provenance.get("publisher"):
        values |= {"datasets": [name], "language": source.language}
    if config["valid_metrics"]:
        values["model_name"] = f"{config['arch']}-{config['role']}-{config['precision']}"
        values["eval_results"] = [
            EvalResult(
                task_type="sequential-recommendation",
                dataset_type=name,
                dataset_name=name,
                dataset_split="validation",
                dataset_revision=config["dataset_fingerprint"],
                metric_type=metric,
                metric_name=f"{metric.upper()}, validation targets, full ranking",
                metric_value=value,
            )
            for metric, value in config["valid_metrics"].items()
        ]
    return front_matter(**values, tags=[*TAGS, "onnx", config["arch"]])


def licence_of(model: str) -> tuple[str, str]:
    """Return a language model's licence: for people, and as the hub names it (SPDX, or "other")."""
    if model not in MODEL_BUNDLES:
        return "its publisher's terms", "other"
    licence = MODEL_BUNDLES[model].licence
    return licence, licence.lower()
