"""What a client runs: a history in, items out. Needs numpy and onnxruntime, nothing else.

    recommender = Recommender.from_pretrained("runs/ml-100k/export/gru-distilled-int8")
    for item in recommender.recommend(["50", "181", "172"], k=5):
        ...  # item.item_id, item.score, item.title

    session = recommender.start_session(["50", "181"])
    session.add("172")  # what the user took next
    session.recommend(5)

A recommender is a directory, version 2:

    model.onnx    histories in, best items out; see `export.graph`
    items.json    {"ids": [...], "titles": [...]}, element i is item number i + 1
    config.json   format, version, arch, precision, max_len, num_items, fingerprints, checksums
    README.md     the model card
    text_map.safetensors    distilled students: makes rows for new items, see `export.add_items`; a
                            client does not read it, and it need not be shipped

A directory from `export.to_mobile` has `model.ort` in place of `model.onnx`.

Version 1, whose graphs keep no state and hold their table in another form, is read as well.

A `Recommender` does not change, so threads may share one. A `Session` is one user's: of its calls
only one may run at a time.

Shape letters: B users, T history, E excluded, K answers.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.errors import ModelError
from seqrec.files import read_json

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.session import Session

FORMAT = "seqrec-recommender"
VERSION = 2
READABLE = (1, 2)
PAD = 0  # `seqrec.data.PAD`; that module needs polars
HOW = "Export it again: python -m export.to_onnx"
# What a graph takes and gives: `export.graph` says what they hold.
INPUT_NAMES = ("items", "excluded", "k")
OUTPUT_NAMES = ("top_items", "top_scores")
STATE, NEW_STATE = "state", "new_state"

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Recommendation:
    """One item of an answer. Scores rank the items of one answer; they are no probabilities."""

    item_id: str
    score: float
    title: str


class Recommender:
    """An exported student together with its catalogue. Open one with `from_pretrained`.

    Ids that are not in the catalogue are skipped wherever they are given; where none is left, a
    `ValueError` says so.
    """

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
        self.keeps_state = STATE in {i.name for i in session.get_overridable_initializers()}
        self.numbers = {item_id: number for number, item_id in enumerate(self.item_ids, start=1)}

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
        try:
            config, contents = read_checked(folder, FORMAT, READABLE, HOW)
            items = json.loads(contents["items.json"])
            _require_items(items, config)
            session = open_session(contents[config.get("model_file", "model.onnx")], num_threads)
            return cls(session, items["ids"], items["titles"], config)
        except (
            *(OSError, ValueError, KeyError, AttributeError, TypeError),
            *(OverflowError, RecursionError),
        ) as error:
            raise ModelError(f"no usable recommender in {folder} ({error}). {HOW}") from error

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Iterable[str] | None = None,
    ) -> list[Recommendation]:
        """Recommend for one user.

        Args:
            history: item ids, oldest first. Ids that are not in the catalogue are skipped. The
                model looks at the newest `max_len` of the others.
            k: how many items at most; fewer come back when fewer are left.
            exclude_seen: leave out all items of `history`, also those beyond `max_len`.
            candidates: answer with these items only; ids not in the catalogue are skipped.

        Returns:
            Best first.

        Raises:
            ValueError: no item of `history`, or of `candidates`, is in the catalogue, or `k` is
                below 1.
        """
        return self.recommend_batch([history], k, exclude_seen, candidates)[0]

    def recommend_batch(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Iterable[str] | None = None,
    ) -> list[list[Recommendation]]:
        """Recommend for many users at once, each as by `recommend`; arguments and errors as there.

        A score differs from that of `recommend` by rounding at most.
        """
        barred = self.barred(candidates)
        if not histories:
            return []
        numbers = [self.known(history, f"history {row}") for row, history in enumerate(histories)]
        seen = numbers if exclude_seen else [[] for _ in numbers]
        items = _pad_left([known[-self.max_len :] for known in numbers])
        return self.answer(items, seen, barred, k)[0]

    def start_session(self, history: Sequence[str] = ()) -> Session:
        """Follow one user from here on: `add` each new item to the session and ask it.

        Args:
            history: item ids, oldest first, as in `recommend`; may be empty.
        """
        known = self.known(history, "history") if len(history) else []
        return Session(self, known)

    def known(self, ids: Iterable[str], what: str) -> list[int]:
        """Return the numbers of known items, in order; refuse ids without any."""
        if isinstance(ids, str):
            raise ValueError(f"{what} is the text {ids!r}, expected a list of item ids")
        ids = list(ids)
        known = [self.numbers[item_id] for item_id in ids if item_id in self.numbers]
        if not known:
            shown = ", ".join(repr(item_id) for item_id in ids[:5])
            shown += ", ..." if len(ids) > 5 else ""
            found = f"holds no item of the catalogue: {shown}" if ids else "is empty"
            raise ValueError(
                f"{what} {found}. Expected ids as in items.json, such as {self.item_ids[0]!r}"
            )
        return known

    def barred(self, candidates: Iterable[str] | None) -> IntArray:
        """Return the numbers of all items that are no candidates."""
        if candidates is None:
            return np.zeros(0, dtype=np.int64)
        is_barred = np.ones(len(self.item_ids) + 1, dtype=bool)
        is_barred[self.known(candidates, "candidates")] = False
        return np.flatnonzero(is_barred)

    def answer(
        self,
        items: IntArray,
        seen: Sequence[Sequence[int]],
        barred: IntArray,
        k: int,
        state: FloatArray | None = None,
    ) -> tuple[list[list[Recommendation]], FloatArray | None]:
        """Run the model; return the users' lists and, if it keeps one, the new state.

        Args:
            items: int64 (B, T), left-padded.
            seen: numbers of the items to leave out, of each user.
            barred: int64 (N,), those to leave out for all.
            k: how many items at most.
            state: float32 (layers, B, H); None: nothing was before `items`.
        """
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1")
        excluded = _pad_left(seen)
        if len(barred):
            everyone = np.broadcast_to(barred, (len(items), len(barred)))
            excluded = np.concatenate([excluded, everyone], axis=1)
        given = (items, excluded, np.array([min(k, len(self.item_ids))]))
        feeds: dict[str, Any] = dict(zip(INPUT_NAMES, given, strict=True))
        wanted = [*OUTPUT_NAMES]
        if self.keeps_state:
            wanted.append(NEW_STATE)
            if state is not None:
                feeds[STATE] = state
        top_items, top_scores, *new_state = self.session.run(wanted, feeds)
        lists = [
            [
                Recommendation(self.item_ids[number - 1], score, self.titles[number - 1])
                for number, score in zip(numbers, scores, strict=True)
                if score > -np.inf
            ]
            for numbers, scores in zip(top_items.tolist(), top_scores.tolist(), strict=True)
        ]
        return lists, new_state[0] if new_state else None


def read_checked(
    folder: Path, kind: str, versions: Sequence[int], how: str
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a directory's `config.json`, and the files of which it has checksums.

    Args:
        folder: the directory.
        kind: the `format` that is expected.
        versions: those that can be read, the newest last.
        how: what the message ends with: how to make it again.

    Raises:
        ModelError: it is of another format or version, or a file is damaged.
        OSError, ValueError, KeyError: there is none, or its `config.json` is none.
    """
    config = read_json(folder / "config.json")
    if config.get("format") != kind or config.get("version") not in versions:
        raise ModelError(
            f"{folder} is {config.get('format')} version {config.get('version')}, expected "
            f"{kind} version {versions[-1]}. {how}"
        )
    contents: dict[str, bytes] = {}
    for name, expected in config["sha256"].items():
        if Path(name).name != name:
            raise ValueError(f"config.json names {name!r}, which is outside of the directory")
        contents[name] = (folder / name).read_bytes()
        if (found := hashlib.sha256(contents[name]).hexdigest()) != expected:
            raise ModelError(
                f"{folder / name} is damaged: SHA-256 is {found}, expected {expected}. {how}"
            )
    return config, contents


def _require_items(items: dict[str, Any], config: dict[str, Any]) -> None:
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


def open_session(model: Path | bytes, num_threads: int) -> ort.InferenceSession:
    """Open an ONNX file, or its bytes, in plain ONNX Runtime on the CPU.

    Raises:
        ValueError: ONNX Runtime refuses it, with a class of its own for every reason.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(" ".join(str(error).split())) from error


def _pad_left(rows: Sequence[Sequence[int]]) -> IntArray:
    """Stack item numbers, newest at the right, int64 (B, longest)."""
    width = max(len(row) for row in rows)
    padded = np.full((len(rows), width), PAD, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[width - len(row) :] = row
    return padded
