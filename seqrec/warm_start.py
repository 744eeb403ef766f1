"""What a training starts from with `--init-from`: an earlier run, its items found again by id.

The run may be of another data set, yesterday's log as a rule, whose items bear other numbers. Their
ids are kept with the teacher's knowledge, so the earlier data set itself is not needed.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrec.artifact import Artifact
from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import read_json, sha256_file
from seqrec.knowledge import ITEM_IDS, KNOWLEDGE

import numpy as np


def require_finished(run: Path, output_dir: Path, folder: Path, record: str) -> None:
    """Refuse a run that lacks what shall be started from, before any work is done.

    Args:
        run: the output directory of the earlier run.
        output_dir: of this one.
        folder: of the teacher or student to start from.
        record: the file there that is written last.

    Raises:
        ModelError: `folder` is not finished, or the run is the one that is being made.
        StaleKnowledgeError: the run has no knowledge that names its items.
    """
    if run.resolve() == output_dir.resolve():
        raise ModelError(
            f"--init-from {run} is where this run is written, which would replace what it starts "
            "from. Give another --output-dir"
        )
    if not (folder / record).is_file():
        raise ModelError(
            f"--init-from {run}: there is no finished {folder.relative_to(run)} in it. Give the "
            "output directory of a run that is complete, or train without --init-from"
        )
    made_from = read_json(folder / record).get("dataset_fingerprint")
    if made_from != (known := _knowledge_of(run).description.get("dataset_fingerprint")):
        raise ModelError(
            f"{folder} was trained on data set {str(made_from)[:12]}, the knowledge beside it is "
            f"of {str(known)[:12]}. Finish that run first, or train without --init-from"
        )


def require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Refuse what has another shape than is asked for.

    Args:
        found: the values in `folder`.
        wanted: those of this run, by the names of their flags.
        folder: of the teacher or student to start from.

    Raises:
        ModelError: naming the first value that differs, and what to type.
    """
    for name, value in wanted.items():
        if found.get(name) != value:
            option = f"--{name.replace('_', '-')}"
            raise ModelError(
                f"{folder} has {name} {found.get(name)}, this run has {value}. Type {option} "
                f"{found.get(name)}, or train without --init-from"
            )


def fingerprint_of(run: Path, folder: Path) -> str:
    """Return the SHA-256 over all weights in a folder of a run, and the ids of the run's items."""
    digest = hashlib.sha256(_knowledge_of(run).checksums[ITEM_IDS].encode())
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(f"\0{file.relative_to(folder)}\0{sha256_file(file)}".encode())
    return digest.hexdigest()


def earlier_numbers(run: Path, dataset: SequenceDataset) -> IntArray:
    """Return the numbers that a data set's items have in an earlier run, int64 (I + 1,).

    Element i is the number of item i there, PAD where it is new (and for PAD itself).

    Raises:
        StaleKnowledgeError: the run's list of item ids is damaged.
    """
    opened = _knowledge_of(run)
    with opened.reading():
        ids = json.loads(opened.array(ITEM_IDS, np.uint8, 1).tobytes())
        numbers = {item_id: number for number, item_id in enumerate(ids, start=1)}
    return np.array([0, *(numbers.get(item_id, 0) for item_id in dataset.item_ids)])


def describe_overlap(run: Path, dataset: SequenceDataset) -> str:
    """Return a line on how many of a data set's items an earlier run knows."""
    known = int(np.count_nonzero(earlier_numbers(run, dataset)))
    if known == 0:
        return f"{run} knows no item of {dataset.path}: its weights carry over, but no item's row"
    return f"{run} knows {known:,} of the {dataset.num_items:,} items"


def _knowledge_of(run: Path) -> Artifact:
    remedy = f"Give --init-from the output directory of a finished run: {run} is not one"
    opened = KNOWLEDGE.open(run / "knowledge", remedy)
    if ITEM_IDS not in opened.checksums:
        raise KNOWLEDGE.error(
            f"{run / 'knowledge'} does not name its items: an older version wrote it. Write it "
            f"again, and the students, with the data set of that run: accelerate launch -m "
            f"teacher.extract --output-dir {run}; python -m student.distill --output-dir {run}"
        )
    return opened
