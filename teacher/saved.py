"""A teacher's files, and what can be checked of them before a language model is loaded."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqrec.errors import ModelError, SeqRecError
from seqrec.files import read_json, require_checksums

from safetensors.torch import load_file
from torch import Tensor

WEIGHTS = ("head.safetensors", "adapter/adapter_model.safetensors")
FORMAT = 2  # of the files and of what they mean: to teachers of 1 no decaying mean was added


def require_format(described: Mapping[str, Any]) -> None:
    """Refuse, as a `ValueError`, a `teacher.json` whose weights mean something else today."""
    if (found := described.get("format", 1)) != FORMAT:
        raise ValueError(f"it is of format {found}, this version answers with format {FORMAT}")


@contextlib.contextmanager
def reading_teacher(folder: Path) -> Iterator[None]:
    """Turn what goes wrong with a teacher's files into a `ModelError`."""
    try:
        yield
    except SeqRecError:
        raise
    except Exception as error:  # a wrong value leads PEFT and transformers anywhere
        raise ModelError(
            f"no usable teacher in {folder} ({error}). Remove it and train again: accelerate "
            "launch teacher/finetune.py"
        ) from error


def read_head(folder: Path, table_shape: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Read `head.safetensors`, with what can be checked before a language model is loaded.

    Args:
        folder: of a teacher, its adapter beside the head.
        table_shape: what teacher.json says of the item table, if that is not known to be so.

    Raises:
        Exception: of any kind: a file is missing or damaged, or they do not fit each other.
    """
    _check_adapter(folder / "adapter")
    head = load_file(folder / "head.safetensors")
    parts = ("item_table.components", "text_map", "untrained", "item_table.residual.weight")
    if lacking := sorted(set(parts) - set(head)):
        raise ValueError(f"head.safetensors lacks {', '.join(lacking)}")
    shape = tuple(head["item_table.residual.weight"].shape)
    if table_shape not in (None, shape):
        raise ValueError(f"the item table is of shape {shape}, teacher.json says {table_shape}")
    require_checksums(folder, read_json(folder / "teacher.json"))
    return head


def _check_adapter(folder: Path) -> None:
    """Check an adapter before PEFT opens it.

    PEFT would look for a missing file on the model hub, and take memory for whatever rank the
    configuration names.
    """
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for file in (config, weights):
        if not file.is_file():
            raise FileNotFoundError(f"adapter/{file.name} is missing")
    settings = read_json(config)
    ranks = {len(tensor) for name, tensor in load_file(weights).items() if ".lora_A." in name}
    if ranks != {settings["r"]} or settings.get("rank_pattern"):
        raise ValueError(f"{config.name} says rank {settings['r']}, the weights are of {ranks}")
