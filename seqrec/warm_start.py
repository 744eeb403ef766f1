"""What a training starts from with `--init-from`: an earlier run, its items found again by id.

The run may be of another data set, yesterday's log as a rule, whose items bear other numbers. Their
ids are kept with the teacher's knowledge, so the earlier data set itself is not needed. Ids such as
17 are in many catalogues, so digests of the titles are kept, too: where most titles differ, the ids
mean other items. Of a run on several catalogues (`seqrec.uniting`) the one is taken that is this.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.artifact import Artifact
from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import ModelError, SeqRecError
from seqrec.files import read_json, sha256_file
from seqrec.histories import PAD
from seqrec.knowledge import ITEM_IDS, KNOWLEDGE, TITLES, title_digests

import numpy as np


def require_finished(
    run: Path, output_dir: Path, folder: Path, record: str, description: str
) -> dict[str, Any]:
    """Refuse a run that lacks what shall be started from, before any work is done.

    Args:
        run: the output directory of the earlier run.
        output_dir: of this one.
        folder: of the teacher or student to start from.
        record: the file there that is written last.
        description: the file there that holds its shape.

    Returns:
        What the description holds.

    Raises:
        ModelError: `folder` is not finished, its files are damaged or of different data sets, or
            the run is the one that is being made.
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
    known = _knowledge_of(run).description.get("dataset_fingerprint")
    for file in (folder / record, folder / description):
        try:
            described = read_json(file)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{file} is damaged ({error}). Make that run again, or train without --init-from"
            ) from error
        if (made_from := described.get("dataset_fingerprint")) != known:
            raise ModelError(
                f"{file} is of data set {str(made_from)[:12]}, the knowledge beside it of "
                f"{str(known)[:12]}. Finish that run first, or train without --init-from"
            )
    return described


def stated(file: Path, name: str) -> dict[str, int]:
    """Return a number above 0 that a JSON file has under a name, by that name; {} if none.

    A file that is damaged is refused when it is looked at.
    """
    try:
        value = read_json(file).get(name)
    except (OSError, ValueError):
        return {}
    return {name: value} if type(value) is int and value > 0 else {}


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


@dataclass(frozen=True)
class Overlap:
    """Which items of a data set an earlier run knows."""

    numbers: IntArray  # (I + 1,), of each item in the run, PAD where it is new, and for PAD itself
    num_common: int  # ids that the run has
    num_alike: int  # of these, those whose title is the same

    @property
    def is_same_catalogue(self) -> bool:
        """Whether equal ids mean equal items: at least half of them have the title they had."""
        return 0 < self.num_common <= 2 * self.num_alike

    @property
    def is_known(self) -> bool:
        """Whether the catalogue is known for the most part: an earlier log's, then."""
        return self.is_same_catalogue and 2 * self.num_common >= len(self.numbers) - 1


def overlap_with(run: Path, dataset: SequenceDataset) -> Overlap:
    """Find the items of a data set in an earlier run.

    Raises:
        StaleKnowledgeError: the run's list of items is damaged.
    """
    opened = _knowledge_of(run)
    with opened.reading():
        ids = json.loads(opened.array(ITEM_IDS, np.uint8, 1).tobytes())
        digests = np.array([0, *opened.array(TITLES, np.uint64, 1)], dtype=np.uint64)
        numbers = {item_id: number for number, item_id in enumerate(ids, start=1)}
        prefixes = [f"{name}/" for name in opened.description["catalogues"]]
        if len(digests) != len(ids) + 1:
            raise ValueError(f"{len(ids):,} ids for {len(digests) - 1:,} titles")
    here = title_digests(dataset)

    def among(prefix: str) -> Overlap:
        there = np.array([0, *(numbers.get(prefix + item_id, 0) for item_id in dataset.item_ids)])
        alike = (there[1:] != PAD) & (digests[there[1:]] == here)
        return Overlap(there, int(np.count_nonzero(there)), int(np.count_nonzero(alike)))

    return max(map(among, ["", *prefixes]), key=lambda one: (one.num_alike, one.num_common))


def earlier_numbers(run: Path, dataset: SequenceDataset) -> IntArray:
    """Return the numbers that a data set's items have in an earlier run, int64 (I + 1,).

    Element i is the number of item i there, PAD where it is new (and for PAD itself): all are new
    where equal ids mean other items.

    Raises:
        StaleKnowledgeError: the run's list of items is damaged.
    """
    overlap = overlap_with(run, dataset)
    return overlap.numbers if overlap.is_same_catalogue else np.zeros_like(overlap.numbers)


def knows_catalogue(run: Path, dataset: SequenceDataset) -> bool:
    """Tell whether a data set is an earlier run's of another day, so that a short training does.

    A run that cannot be started from counts as one, too: it is refused when it is looked at.
    """
    try:
        return overlap_with(run, dataset).is_known
    except SeqRecError:
        return True


def describe_overlap(run: Path, dataset: SequenceDataset) -> str:
    """Return a line on how many of a data set's items an earlier run knows."""
    overlap, num_items = overlap_with(run, dataset), dataset.num_items
    anew = "its teacher's adapter carries over, all else is a new catalogue's"
    if overlap.num_common == 0:
        return f"{run} knows no item of {dataset.path}: {anew}"
    if not overlap.is_same_catalogue:
        return (
            f"{run} has {overlap.num_common:,} of the {num_items:,} item ids of {dataset.path}, "
            f"but {overlap.num_alike:,} of the same title. They mean other items: {anew}"
        )
    told = f"{run} knows {overlap.num_common:,} of the {num_items:,} items"
    return told if overlap.is_known else f"{told}, less than half: {anew}"


def _knowledge_of(run: Path) -> Artifact:
    remedy = f"Give --init-from the output directory of a finished run: {run} is not one"
    opened = KNOWLEDGE.open(run / "knowledge", remedy)
    if not {ITEM_IDS, TITLES} <= opened.checksums.keys():
        raise KNOWLEDGE.error(
            f"{run / 'knowledge'} does not name its items: an older version wrote it. Write it "
            f"again, and the students, with the data set of that run: accelerate launch -m "
            f"teacher.extract --output-dir {run}; python -m student.distill --output-dir {run}"
        )
    return opened
