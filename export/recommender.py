"""What a client runs: a history in, items out. Needs numpy and onnxruntime, nothing else.

    recommender = Recommender.from_pretrained("runs/ml-100k/export/gru-distilled-int8")
    for item in recommender.recommend(["50", "181", "172"], k=5):
        ...  # item.item_id, item.score, item.title

A recommender is a directory, version 1:

    model.onnx    histories in, best items out; see `export.graph`
    items.json    {"ids": [...], "titles": [...]}, element i is item number i + 1
    config.json   format, version, arch, precision, max_len, num_items, fingerprints, checksums
    README.md     the model card
    text_map.safetensors    distilled students: makes rows for new items, see `export.add_items`; a
                            client does not read it, and it need not be shipped

Shape letters: B users, T history, E excluded, K answers.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.errors import ModelError
from seqrec.files import read_json

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

FORMAT = "seqrec-recommender"
VERSION = 1
PAD = 0  # `seqrec.data.PAD`; that module needs polars

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Recommendation:
    """One item of an answer. Scores rank the items of one answer; they are no probabilities."""

    item_id: str
    score: float
    title: str


class Recommender:
    """An exported student together with its catalogue. Open one with `from_pretrained`."""

    def __init__(
        self,
        session: ort.InferenceSession,
        item_ids: Sequence[str],
        titles: Sequence[str],
        config: dict[str, Any],
    ) -> None:
        self.session = session
        self.item_ids, self.titles = list(item_ids), list(titles)
        self.config = config
        self.max_len = int(config["max_len"])
        self._numbers = {item_id: number for number, item_id in enumerate(self.item_ids, start=1)}

    @classmethod
    def from_pretrained(cls, folder: str | Path, num_threads: int = 1) -> "Recommender":
        """Load a recommender, its checksums verified.

        Args:
            folder: a directory that `python -m export.to_onnx` wrote.
            num_threads: threads per request. One is fastest for a single user.

        Raises:
            ModelError: there is none in `folder`, it is of another version, or it is damaged.
        """
        folder = Path(folder)
        how = "Export it again: python -m export.to_onnx"
        try:
            config = read_json(folder / "config.json")
            if (config.get("format"), config.get("version")) != (FORMAT, VERSION):
                raise ModelError(
                    f"{folder} is {config.get('format')} version {config.get('version')}, expected "
                    f"{FORMAT} version {VERSION}. {how}"
                )
            contents: dict[str, bytes] = {}
            for name, expected in config["sha256"].items():
                contents[name] = (folder / name).read_bytes()
                if (found := hashlib.sha256(contents[name]).hexdigest()) != expected:
                    raise ModelError(
                        f"{folder / name} is damaged: SHA-256 is {found}, expected {expected}. "
                        f"{how}"
                    )
            items = json.loads(contents["items.json"])
            session = ort.InferenceSession(
                contents["model.onnx"],
                _session_options(num_threads),
                providers=["CPUExecutionProvider"],
            )
            return cls(session, items["ids"], items["titles"], config)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"no usable recommender in {folder} ({error}). {how}") from error

    def recommend(
        self, history: Sequence[str], k: int = 10, exclude_seen: bool = True
    ) -> list[Recommendation]:
        """Recommend for one user.

        Args:
            history: item ids, oldest first. Ids that are not in the catalogue are skipped. The
                model looks at the newest `max_len` of the others.
            k: how many items at most; fewer come back when fewer are left.
            exclude_seen: leave out all items of `history`, also those beyond `max_len`.

        Returns:
            Best first.

        Raises:
            ValueError: no item of `history` is in the catalogue, or `k` is below 1.
        """
        return self.recommend_batch([history], k, exclude_seen)[0]

    def recommend_batch(
        self, histories: Sequence[Sequence[str]], k: int = 10, exclude_seen: bool = True
    ) -> list[list[Recommendation]]:
        """Recommend for many users at once; arguments and errors as in `recommend`.

        In fp32 each user gets the answer of `recommend`; in int8 the scores differ a little, since
        activations are quantized with one scale for the batch.
        """
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1")
        if not histories:
            return []
        numbers = [self._known(history, row) for row, history in enumerate(histories)]
        seen = numbers if exclude_seen else [[] for _ in numbers]
        top_items, top_scores = self.session.run(
            ["top_items", "top_scores"],
            {
                "items": _pad_left([known[-self.max_len :] for known in numbers]),
                "excluded": _pad_left(seen),
                "k": np.array([min(k, len(self.item_ids))]),
            },
        )
        return [
            [
                Recommendation(self.item_ids[number - 1], score, self.titles[number - 1])
                for number, score in zip(items, scores, strict=True)
                if score > -np.inf
            ]
            for items, scores in zip(top_items.tolist(), top_scores.tolist(), strict=True)
        ]

    def _known(self, history: Sequence[str], row: int) -> list[int]:
        """Return the numbers of a history's known items; refuse a history without any."""
        if isinstance(history, str):
            raise ValueError(f"history {row} is the text {history!r}, expected a list of item ids")
        known = [self._numbers[item_id] for item_id in history if item_id in self._numbers]
        if not known:
            ids = ", ".join(repr(item_id) for item_id in history[:5]) + (
                ", ..." if len(history) > 5 else ""
            )
            found = f"holds no item of the catalogue: {ids}" if len(history) else "is empty"
            raise ValueError(
                f"history {row} {found}. Expected ids as in items.json, such as "
                f"{self.item_ids[0]!r}"
            )
        return known


def _session_options(num_threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return options


def _pad_left(rows: Sequence[Sequence[int]]) -> IntArray:
    """Stack item numbers, newest at the right, int64 (B, longest)."""
    width = max(len(row) for row in rows)
    padded = np.full((len(rows), width), PAD, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[width - len(row) :] = row
    return padded
