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
only one may run at a time. Both can be pickled and copied, for other processes: what is pickled is
the folder's path, and the folder is opened again there.

ONNX Runtime's telemetry is off, unless onnxruntime was loaded before this module: see `seqrec`.

Shape letters: B users, T history, E excluded, K answers.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.errors import ModelError
from seqrec.files import read_json

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.arguments import as_list, item_number, shown, whole_number
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

    An id may be given as text, or as a number or bytes that are the text of an id. Ids that are not
    in the catalogue, and missing values (None, NaN), are skipped wherever they are given; where
    none is left, a `ValueError` says so. Histories, candidates and lists of histories may be lists,
    arrays, Series or generators. What is none of these is a `TypeError` that says what was given.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        item_ids: Sequence[str],
        titles: Sequence[str],
        config: dict[str, Any],
        *,
        source: tuple[Path, int] | None = None,
    ) -> None:
        """Use `from_pretrained`; `source` is what it was called with."""
        self.session = session
        self.item_ids, self.titles = list(item_ids), list(titles)
        self.config = config
        self.max_len = int(config["max_len"])
        self.keeps_state = STATE in {i.name for i in session.get_overridable_initializers()}
        self.numbers = {item_id: number for number, item_id in enumerate(self.item_ids, start=1)}
        self._source = source

    @classmethod
    def from_pretrained(cls, folder: str | Path, num_threads: int = 1) -> "Recommender":
        """Load a recommender, its checksums verified.

        Args:
            folder: a directory that `python -m export.to_onnx` wrote.
            num_threads: threads per request. One is fastest for a single user.

        Raises:
            ModelError: there is none in `folder`, it is of another version, it is damaged, or the
                onnxruntime that is installed is too old for it.
            TypeError, ValueError: `num_threads` is no whole number of at least 1.
        """
        folder, num_threads = Path(folder), whole_number(num_threads, "num_threads")
        how = HOW
        try:
            config, contents = read_checked(folder, FORMAT, READABLE, HOW)
            items = json.loads(contents["items.json"])
            _require_items(items, config)
            how = _how_to_open(config)
            session = open_session(contents[config.get("model_file", "model.onnx")], num_threads)
            source = folder.absolute(), num_threads
            return cls(session, items["ids"], items["titles"], config, source=source)
        except (
            *(OSError, ValueError, KeyError, AttributeError, TypeError),
            *(OverflowError, RecursionError),
        ) as error:
            raise ModelError(f"no usable recommender in {folder} ({error}). {how}") from error

    def __reduce__(self) -> tuple[Callable[..., "Recommender"], tuple[Any, ...]]:
        """Pickle the folder's path and checksums."""
        if self._source is None:
            raise TypeError("only what Recommender.from_pretrained opened can be pickled or copied")
        return _reopen, (type(self), *self._source, self.config["sha256"])

    def recommend(
        self,
        history: Iterable[Any],
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Iterable[Any] | None = None,
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
            TypeError: an argument is of a kind that cannot be read.
        """
        seen = np.array([self.known(history, "history")], dtype=np.int64)
        excluded = self.excluded(seen, exclude_seen, candidates)
        return self.answer(seen[:, -self.max_len :], excluded, k)[0][0]

    def recommend_batch(
        self,
        histories: Iterable[Iterable[Any]],
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Iterable[Any] | None = None,
    ) -> list[list[Recommendation]]:
        """Recommend for many users at once, each as by `recommend`; arguments and errors as there.

        A score differs from that of `recommend` by rounding at most.
        """
        rows = as_list(histories, "histories", of="histories")
        seen = _pad_left([self.known(own, f"histories[{row}]") for row, own in enumerate(rows)])
        excluded = self.excluded(seen, exclude_seen, candidates)
        return self.answer(seen[:, -self.max_len :], excluded, k)[0]

    def start_session(self, history: Iterable[Any] = ()) -> Session:
        """Follow one user from here on: `add` each new item to the session and ask it.

        Args:
            history: item ids, oldest first, as in `recommend`; may be empty.
        """
        ids = as_list(history, "history")
        return Session(self, self.known(ids, "history") if ids else [])

    def known(self, ids: Iterable[Any], what: str, *, ordered: bool = True) -> list[int]:
        """Return the numbers of known items, in order; refuse ids without any."""
        if type(ids) is not list:
            ids = as_list(ids, what, ordered=ordered)
        numbers = self.numbers
        try:
            found = [numbers.get(item_id) for item_id in ids]
        except TypeError:  # something in it cannot be looked up
            found = [None] * len(ids)
        if None in found:  # unknown, or of another type
            for at, number in enumerate(found):
                found[at] = number or item_number(ids[at], numbers, f"{what}[{at}]")
        known = [number for number in found if number]
        if not known:
            few = ", ".join(repr(item_id)[:60] for item_id in ids[:5])
            few += ", ..." if len(ids) > 5 else ""
            problem = f"holds no item of the catalogue: {few}" if ids else "is empty"
            raise ValueError(
                f"{what} {problem}. Expected ids as in items.json, such as {self.item_ids[0]!r}"
            )
        return known

    def number(self, item_id: Any) -> int | None:
        """Return an item's number; None: the catalogue lacks it."""
        return item_number(item_id, self.numbers, "item_id")

    def excluded(
        self, seen: IntArray, exclude_seen: bool, candidates: Iterable[Any] | None
    ) -> IntArray:
        """Return what is to be left out of each user's answer, int64 (B, E).

        Args:
            seen: int64 (B, S), what each user has had; may be padded.
            exclude_seen: leave that out.
            candidates: leave out all other items; None: no others.
        """
        if not isinstance(exclude_seen, bool | np.bool_):
            raise TypeError(f"exclude_seen is {shown(exclude_seen)}, expected True or False")
        if not exclude_seen:
            seen = seen[:, :0]
        if candidates is None:
            return seen
        is_barred = np.ones(len(self.item_ids) + 1, dtype=bool)
        is_barred[self.known(candidates, "candidates", ordered=False)] = False
        barred = np.flatnonzero(is_barred)
        return np.concatenate([seen, np.broadcast_to(barred, (len(seen), len(barred)))], axis=1)

    def answer(
        self,
        items: IntArray,
        excluded: IntArray,
        k: int,
        state: FloatArray | None = None,
        *,
        keep_state: bool = False,
    ) -> tuple[list[list[Recommendation]], FloatArray | None]:
        """Run the model; return the users' lists and, if it is to be kept, the new state.

        Args:
            items: int64 (B, T), left-padded.
            excluded: int64 (B, E), what `excluded` returned.
            k: how many items at most.
            state: float32 (layers, B, H); None: nothing was before `items`.
            keep_state: return the state after `items`, if the model has one.
        """
        k = min(whole_number(k, "k"), len(self.item_ids))
        if not len(items):
            return [], None
        given = (items, excluded, np.array([k]))
        feeds: dict[str, Any] = dict(zip(INPUT_NAMES, given, strict=True))
        if state is not None:
            feeds[STATE] = state
        is_kept = keep_state and self.keeps_state
        wanted = [*OUTPUT_NAMES, NEW_STATE] if is_kept else OUTPUT_NAMES
        top_items, top_scores, *new_state = self.session.run(wanted, feeds)
        ids, titles, lowest = self.item_ids, self.titles, -np.inf
        lists = [
            [
                Recommendation(ids[number - 1], score, titles[number - 1])
                for number, score in zip(numbers, scores, strict=True)
                if score > lowest
            ]
            for numbers, scores in zip(top_items.tolist(), top_scores.tolist(), strict=True)
        ]
        return lists, new_state[0] if new_state else None


def _reopen(
    kind: type[Recommender], folder: Path, num_threads: int, checksums: dict[str, str]
) -> Recommender:
    """Open what was pickled; a `ModelError` if the folder holds another model by now."""
    recommender = kind.from_pretrained(folder, num_threads)
    if recommender.config["sha256"] != checksums:
        raise ModelError(
            f"{folder} was exported again after this recommender was pickled or copied. Open it "
            "with Recommender.from_pretrained"
        )
    return recommender


def _how_to_open(config: dict[str, Any]) -> str:
    """Return what to do if ONNX Runtime refuses the model: it may be older than the export's."""
    made_with = str(config.get("made_with", {}).get("onnxruntime", ""))
    if _release(ort.__version__) >= _release(made_with):
        return HOW
    return (
        f"It was exported with onnxruntime {made_with}, and {ort.__version__} is installed here: "
        f"pip install --upgrade onnxruntime"
    )


def _release(version: str) -> list[int]:
    """Return a version's first two numbers."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


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
    if len(rows) == 1:
        return np.array(rows, dtype=np.int64)
    width = max(map(len, rows), default=0)
    padded = np.full((len(rows), width), PAD, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[width - len(row) :] = row
    return padded
