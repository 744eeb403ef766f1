"""What a teacher knows about a data set, on disk: all that passes from teacher to student.

A directory, version 3:

    meta.json            format, version, counts, fingerprints of data and teacher, checksums
    states.npy           float16 (R, D), the teacher's state after each training prefix
    item_vectors.npy     float16 (I + 1, D), the teacher's item representations; row PAD is zero
    text_components.npy  float16 (I + 1, C), whitened principal components of what the language
                         model reads in the items' texts (see `seqrec.item_table`); row PAD is zero
    text_map.npy         float32 (L + 1, C), what makes them of a text vector
    item_ids.npy         uint8, the items' ids as JSON, by which a later run finds the items
                         again (see `seqrec.warm_start`)
    titles.npy           uint64 (I,), digests of their titles, by which it tells whether the ids
                         mean the same items
    selection/           a refitted teacher's: the same files from before it knew the validation
                         events

The product of a state and the item vectors is the teacher's logits over the whole catalogue: its
complete answer, in less space than its 64 best items with their logits would take.

A prefix is a training event with all that comes before it. Of each user's prefixes the newest
`prefixes_per_user` have a row, users in order, prefixes in time order: R is known from the data set
alone, and R * D * 2 bytes is the size. D = 128 and 100,000 users with seven training events each
make 0.17 GiB.
Shape letters: R rows, P prefixes, I items, D width of the teacher's item vectors,
L width of the language model, C text components.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqrec.artifact import Kind
from seqrec.batching import prefix_offsets
from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import SeqRecError, StaleKnowledgeError
from seqrec.files import SELECTION, atomic_directory, read_json, selection

import numpy as np
from numpy.typing import NDArray

KNOWLEDGE = Kind("seqrec-knowledge", 3, "teacher knowledge", StaleKnowledgeError, suffix=".npy")
ROWS_AT_ONCE = 65_536
ARRAYS = {
    "states": np.float16,
    "item_vectors": np.float16,
    "text_components": np.float16,
    "text_map": np.float32,
}
ITEM_IDS, TITLES = "item_ids", "titles"


def rebuild_command(dataset: SequenceDataset, output_dir: Path) -> str:
    """Return what to type to make the knowledge again: from the teacher, if it is there."""
    stage = "teacher/finetune.py"
    with contextlib.suppress(OSError, ValueError, KeyError):
        trained_on = read_json(output_dir / "teacher" / "metrics.json")["dataset_fingerprint"]
        if trained_on == dataset.fingerprint:
            stage = "-m teacher.extract"
    return f"accelerate launch {stage} --data-dir {dataset.path} --output-dir {output_dir}"


def row_numbers(dataset: SequenceDataset, prefixes_per_user: int) -> IntArray:
    """Map each training prefix (see `prefix_offsets`) to its row, -1: none; int64 (P,)."""
    offsets = prefix_offsets(dataset)
    counts = np.diff(offsets)
    users = np.repeat(np.arange(len(counts)), counts)
    from_newest = offsets[users + 1] - 1 - np.arange(offsets[-1])
    kept = from_newest < prefixes_per_user
    return np.where(kept, np.cumsum(kept) - 1, -1)


def knowledge_bytes(dataset: SequenceDataset, dim: int, prefixes_per_user: int) -> int:
    """Return the size on disk of the rows, states of `dim` numbers each, in bytes."""
    rows = np.minimum(np.diff(prefix_offsets(dataset)), prefixes_per_user).sum()
    return int(rows) * dim * 2


@dataclass(frozen=True)
class Knowledge:
    """Teacher knowledge, memory-mapped. Open it with `load_knowledge`."""

    path: Path
    meta: dict[str, Any]
    states: NDArray[np.float16]  # (R, D)
    item_vectors: NDArray[np.float16]  # (I + 1, D)
    text_components: NDArray[np.float16]  # (I + 1, C)
    text_map: NDArray[np.float32]  # (L + 1, C)
    rows: IntArray  # (P,), prefix -> row or -1

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of the files: what a student records as its teacher."""
        return hashlib.sha256(json.dumps(self.meta["sha256"], sort_keys=True).encode()).hexdigest()

    @property
    def text_fingerprint(self) -> str:
        """The same of the texts alone: teachers of other behaviour may have read them alike."""
        sums = [self.meta["sha256"][name] for name in ("text_components", "text_map")]
        return hashlib.sha256(json.dumps(sums).encode()).hexdigest()

    def before_test(self, dataset: SequenceDataset) -> "Knowledge":
        """Return what the teacher knows for students whose training has the validation events.

        A refitted teacher has answered their prefixes. One that was not has answered all but the
        newest of each user's: the same rows, under the prefixes' new numbers.
        """
        complete = dataset.before_test()
        if self.path.name == SELECTION:
            return _open(self.path.parent, complete)
        old, new = prefix_offsets(dataset), prefix_offsets(complete)
        users = np.repeat(np.arange(dataset.num_users), dataset.train_lengths)
        rows = np.full(new[-1], -1)
        rows[np.arange(old[-1]) + (new - old)[users]] = self.rows
        return replace(self, rows=rows)


def save_knowledge(
    path: Path,
    dataset: SequenceDataset,
    answers: Iterator[tuple[IntArray, NDArray[np.floating]]],
    item_vectors: NDArray[np.floating],
    *,
    text_components: NDArray[np.floating],
    text_map: NDArray[np.floating],
    prefixes_per_user: int,
    teacher: dict[str, Any],
) -> None:
    """Write a knowledge directory, whole or not at all.

    Args:
        path: the directory to make; an older one is replaced.
        dataset: what the teacher was trained on.
        answers: yields (prefix numbers (N,), states (N, D)) until every prefix has been answered.
        item_vectors: (I + 1, D).
        text_components: (I + 1, C).
        text_map: (L + 1, C), what made them of the text vectors.
        prefixes_per_user: how many of a user's newest prefixes are kept.
        teacher: who answered and how it read the texts, kept in `meta.json`.

    Raises:
        SeqRecError: a number is NaN or too large for float16; nothing is written.
    """
    with atomic_directory(path) as folder:
        rows = row_numbers(dataset, prefixes_per_user)
        shape = (int((rows >= 0).sum()), item_vectors.shape[1])
        states = np.lib.format.open_memmap(folder / "states.npy", "w+", np.float16, shape)
        unanswered = rows >= 0
        for prefixes, answered in answers:
            kept = rows[prefixes] >= 0
            with np.errstate(over="ignore"):  # refused below
                states[rows[prefixes[kept]]] = answered[kept]
            unanswered[prefixes] = False
        states.flush()
        if unanswered.any():
            raise AssertionError("the teacher left training prefixes unanswered")
        others = {"item_vectors": item_vectors, "text_components": text_components}
        for name, array in {**others, "text_map": text_map}.items():
            np.save(folder / f"{name}.npy", array.astype(ARRAYS[name]))
        for name in ARRAYS:
            written = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if not _is_finite(written):
                raise SeqRecError(
                    f"the teacher's {name} hold NaN, or numbers beyond the 65,504 of float16. "
                    "Train it again with a smaller --learning-rate"
                )
        ids = json.dumps(dataset.item_ids).encode()
        np.save(folder / f"{ITEM_IDS}.npy", np.frombuffer(ids, np.uint8))
        np.save(folder / f"{TITLES}.npy", title_digests(dataset))
        meta = {
            "prefixes_per_user": prefixes_per_user,
            "num_rows": len(states),
            "num_items": dataset.num_items,
            "catalogues": dataset.catalogues,
            "dataset_fingerprint": dataset.fingerprint,
            "teacher": teacher,
        }
        KNOWLEDGE.write(folder, meta, [*ARRAYS, ITEM_IDS, TITLES])


def title_digests(dataset: SequenceDataset) -> NDArray[np.uint64]:
    """Return the first eight bytes of the SHA-256 of each item's title, uint64 (I,)."""
    titles = (text.encode("utf-8", "surrogatepass") for text in dataset.items["title"])
    digests = b"".join(hashlib.sha256(title).digest()[:8] for title in titles)
    return np.frombuffer(digests, np.dtype("<u8")).astype(np.uint64)


def load_knowledge(path: Path, dataset: SequenceDataset) -> Knowledge:
    """Open a knowledge directory, memory-mapped, after checking that it is whole and fits the data.

    Where the teacher was refitted it is what it knew before: see `Knowledge.before_test`.

    Raises:
        StaleKnowledgeError: it is missing, damaged, of another version, or made from other data;
            the message holds the command that rebuilds it.
    """
    return _open(selection(path), dataset)


def _open(path: Path, dataset: SequenceDataset) -> Knowledge:
    output_dir = path.parent.parent if path.name == SELECTION else path.parent
    rebuild = f"Rebuild it: {rebuild_command(dataset, output_dir)}"
    opened = KNOWLEDGE.open(path, rebuild)
    meta = opened.description
    if meta.get("dataset_fingerprint") != dataset.fingerprint:
        raise StaleKnowledgeError(
            f"{path} was made from data set {str(meta.get('dataset_fingerprint'))[:12]}, but "
            f"{dataset.path} is {dataset.fingerprint[:12]}. {rebuild}"
        )
    with opened.reading():
        per_user = meta.get("prefixes_per_user")
        if type(per_user) is not int or per_user < 1:
            raise ValueError(f"meta.json has prefixes_per_user {per_user!r}")
        arrays = {name: opened.array(name, dtype, 2) for name, dtype in ARRAYS.items()}
        rows = row_numbers(dataset, per_user)
        dim, num_components = arrays["item_vectors"].shape[1], arrays["text_components"].shape[1]
        expected = {
            "states": (int((rows >= 0).sum()), dim),
            "item_vectors": (dataset.num_items + 1, dim),
            "text_components": (dataset.num_items + 1, num_components),
            "text_map": (len(arrays["text_map"]), num_components),
        }
        for name, array in arrays.items():
            if array.shape != expected[name]:
                raise ValueError(f"{name}.npy is of shape {array.shape}, not {expected[name]}")
            if not _is_finite(array):
                raise ValueError(f"{name}.npy holds NaN or infinity")
    return Knowledge(path, meta, **arrays, rows=rows)


def _is_finite(array: NDArray[Any]) -> bool:
    """Look for NaN and infinity, a part at a time: the array may be larger than memory."""
    starts = range(0, len(array), ROWS_AT_ONCE)
    return all(bool(np.isfinite(array[i : i + ROWS_AT_ONCE]).all()) for i in starts)
