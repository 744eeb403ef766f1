"""What a client runs: a history in, items out. Needs numpy and onnxruntime, nothing else.

    recommender = Recommender.from_pretrained("runs/ml-100k/export/gru-distilled-int8")
    for item in recommender.recommend(["50", "181", "172"], k=5):
        ...  # item.item_id, item.score, item.title

    session = recommender.start_session(["50", "181"])
    session.add("172")  # what the user took next
    session.recommend(5)

    recommender.push_to_hub("user/model")  # needs huggingface_hub, and so does the next line
    recommender = Recommender.from_pretrained("user/model")

A recommender is a directory: `export.opening` says what is in it.

A `Recommender` does not change, so threads may share one. A `Session` is one user's: of its calls
only one may run at a time. Both can be pickled and copied, for other processes: what is pickled is
the folder's path, and the folder is opened again there.

ONNX Runtime's telemetry is off, unless onnxruntime was loaded before this module: see `seqrec`.

Shape letters: B users, T history, E excluded, K answers.
"""

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqrec.errors import ModelError
from seqrec.histories import PAD, pad_left
from seqrec.hub import fetch_folder, is_hub_id, send_folder

import numpy as np

from export.arguments import as_list, item_number, shown, whole_number
from export.contract import EXCLUDED, ITEMS, OUTPUT_NAMES, K
from export.opening import FILES, HOW, RECOMMENDER, open_model, require_items, whole_files
from export.prepared import FloatArray, IntArray, PreparedCalls
from export.recommendations import Recommendation as Recommendation
from export.recommendations import Recommendations
from export.runtime import open_session as open_session

if TYPE_CHECKING:
    import onnxruntime as ort


class Recommender:
    """An exported student together with its catalogue. Open one with `from_pretrained`.

    An id may be given as text, or as a number or bytes that are the text of an id. Ids that are not
    in the catalogue, and missing values (None, NaN), are skipped wherever they are given; where
    none is left, a `ValueError` says so. Histories, candidates and lists of histories may be lists,
    arrays, Series or generators. What is none of these is a `TypeError` that says what was given.
    """

    def __init__(
        self,
        session: "ort.InferenceSession",
        item_ids: Sequence[str],
        titles: Sequence[str],
        config: dict[str, Any],
        *,
        source: tuple[Path, int],
    ) -> None:
        """Use `from_pretrained`; `source` is what it was called with."""
        self.session = session
        self.item_ids, self.titles = list(item_ids), list(titles)
        self.config = config
        self.max_len = int(config["max_len"])
        self._calls = PreparedCalls(session)
        self.keeps_state = self._calls.keeps_state
        self.numbers = {item_id: number for number, item_id in enumerate(self.item_ids, start=1)}
        self._source = source

    @classmethod
    def from_pretrained(cls, folder: str | Path, num_threads: int = 1) -> "Recommender":
        """Load a recommender, its checksums verified.

        Args:
            folder: a directory that `python -m export.to_onnx` wrote. A text such as "user/model"
                or "user/model@revision" that is no directory here is asked of the model hub.
            num_threads: threads per request. One is fastest for a single user.

        Raises:
            ModelError: there is none in `folder`, it is of another version, it is damaged, or the
                onnxruntime that is installed is too old for it.
            SourceError: the model hub does not give it, or huggingface_hub is not installed.
            TypeError, ValueError: `num_threads` is no whole number of at least 1.
        """
        num_threads, how = whole_number(num_threads, "num_threads"), HOW
        if isinstance(folder, str) and is_hub_id(folder) and not Path(folder).exists():
            how = f"Send it again: python -m export.push_to_hub --hub-id {folder.split('@')[0]}"
            folder = fetch_folder(folder, FILES)
        folder = Path(folder)
        opened = RECOMMENDER.open(folder, how)
        config = opened.description
        with opened.reading():
            items = json.loads(opened.read("items.json"))
            require_items(items, config)
        session = open_model(opened, num_threads)
        source = folder.absolute(), num_threads
        return cls(session, items["ids"], items["titles"], config, source=source)

    def __reduce__(self) -> tuple[Callable[..., "Recommender"], tuple[Any, ...]]:
        """Pickle the folder's path and checksums."""
        return _reopen, (type(self), *self._source, self.config["sha256"])

    def push_to_hub(self, name: str, *, private: bool = True) -> str:
        """Send the directory to Hugging Face's model hub, its checksums verified.

        Args:
            name: "user/model"; the repository is made if there is none.
            private: of a new repository: whether it is for its owner's eyes. It holds your ids and
                titles, and a data set's terms may not let you show what was made of it.

        Returns:
            The address of the repository.

        Raises:
            ModelError: a file is damaged by now.
            SourceError: the hub does not take it, or huggingface_hub is not installed.
        """
        folder, _ = self._source
        return send_folder(folder, name, whole_files(folder), private=private)

    def recommend(
        self,
        history: Iterable[Any],
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Iterable[Any] | None = None,
    ) -> Recommendations:
        """Recommend for one user.

        Args:
            history: item ids, oldest first. Ids that are not in the catalogue are skipped. The
                model looks at the newest `max_len` of the others.
            k: how many items at most; fewer come back when fewer are left.
            exclude_seen: leave out all items of `history`, also those beyond `max_len`.
            candidates: answer with these items only; ids not in the catalogue are skipped.

        Returns:
            Best first, as a list of `Recommendation` that cannot be changed.

        Raises:
            ValueError: no item of `history`, or of `candidates`, is in the catalogue, or `k` is
                below 1.
            TypeError: an argument is of a kind that cannot be read.
        """
        seen = self.known(history, "history")
        items = seen if len(seen) <= self.max_len else seen[-self.max_len :]
        return self.answer_one(items, seen, k, exclude_seen, candidates)[0]

    def recommend_batch(
        self,
        histories: Iterable[Iterable[Any]],
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Iterable[Any] | None = None,
    ) -> list[Recommendations]:
        """Recommend for many users at once, each as by `recommend`; arguments and errors as there.

        A score differs from that of `recommend` by rounding at most.
        """
        seen = self._known_histories(as_list(histories, "histories", of="histories"))
        left_out = self.excluded(seen, exclude_seen, candidates)
        k = min(whole_number(k, "k"), len(self.item_ids))
        if not len(seen):
            return []
        feeds = {ITEMS: seen[:, -self.max_len :], EXCLUDED: left_out, K: np.array([k])}
        top_items, top_scores = self.session.run(OUTPUT_NAMES, feeds)
        return [
            Recommendations(numbers, scores, self.item_ids, self.titles)
            for numbers, scores in zip(top_items.tolist(), top_scores.tolist(), strict=True)
        ]

    def start_session(self, history: Iterable[Any] = ()) -> "Session":
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
        try:  # as it nearly always is: texts, all of them known
            if ids:
                return list(map(numbers.__getitem__, ids))
        except (KeyError, TypeError):
            pass
        known = []
        for at, item_id in enumerate(ids):
            is_text = type(item_id) is str
            number = numbers.get(item_id) if is_text else self.number(item_id, f"{what}[{at}]")
            if number:
                known.append(number)
        if not known:
            few = ", ".join(repr(item_id)[:60] for item_id in ids[:5])
            few += ", ..." if len(ids) > 5 else ""
            problem = f"holds no item of the catalogue: {few}" if ids else "is empty"
            raise ValueError(
                f"{what} {problem}. Expected ids as in items.json, such as {self.item_ids[0]!r}"
            )
        return known

    def _known_histories(self, rows: list[Iterable[Any]]) -> IntArray:
        """Return the numbers of the known items of histories, int64 (B, S), left-padded."""
        if all(type(ids) is list and ids for ids in rows):
            histories: list[list[Any]] = rows  # type: ignore[assignment]
            lengths = np.array([len(ids) for ids in histories], np.int64)
            numbers = map(self.numbers.__getitem__, chain.from_iterable(histories))
            try:  # as it nearly always is: texts, all of them known
                known = np.fromiter(numbers, np.int64, lengths.sum())
            except (KeyError, TypeError):
                pass
            else:
                width = lengths.max(initial=0)
                seen = np.full((len(rows), width), PAD, np.int64)
                seen[np.arange(width) >= width - lengths[:, None]] = known
                return seen
        return pad_left([self.known(ids, f"histories[{row}]") for row, ids in enumerate(rows)])

    def number(self, item_id: Any, what: str = "item_id") -> int | None:
        """Return an item's number; None: the catalogue lacks it. `what` it is called in errors."""
        return item_number(item_id, self.numbers, what)

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

    def answer_one(
        self,
        items: Sequence[int],
        seen: Sequence[int],
        k: int,
        exclude_seen: bool,
        candidates: Iterable[Any] | None,
        state: FloatArray | None = None,
        *,
        keep_state: bool = False,
    ) -> tuple[Recommendations, FloatArray | None]:
        """Answer one user by `items`; `k` and what follows are as in `recommend`.

        Args:
            items: numbers, at least one, at most `max_len` or with a state any number.
            seen: numbers of all that the user has had; the same list as `items` is fastest.
            k: how many items at most.
            exclude_seen: leave `seen` out.
            candidates: answer with these only.
            state: float32 (layers, 1, H), what was before `items`.
            keep_state: return the state after `items`, if the model has one.
        """
        left_out: Sequence[int] | IntArray
        if candidates is None and type(exclude_seen) is bool:
            left_out = seen if exclude_seen else []
        else:
            left_out = self.excluded(np.array([seen], np.int64), exclude_seen, candidates)[0]
        numbers, scores, state = self._calls.answer(
            items,
            left_out,
            min(whole_number(k, "k"), len(self.item_ids)),
            state,
            keep_state=keep_state and self.keeps_state,
        )
        return Recommendations(numbers, scores, self.item_ids, self.titles), state


class Session:
    """One user's visit, made by `Recommender.start_session`.

    With a GRU the session keeps the encoder's state, and an answer costs the items that are new
    since the last one: it is `recommend`'s for the whole history, also beyond `max_len`, where
    `recommend` looks at the newest `max_len` only. With a Transformer it keeps the newest `max_len`
    items, and its answer is `recommend`'s.
    """

    def __init__(self, recommender: Recommender, history: Sequence[int]) -> None:
        self._recommender = recommender
        # Nothing that is held is changed in place, so that a copy goes its own way.
        self._seen = tuple(dict.fromkeys(history))
        self._items = tuple(history[-recommender.max_len :])  # since `_state`, oldest first
        self._state: FloatArray | None = None
        self._next: FloatArray | None = None  # the state after `_items`, once it is known

    def __deepcopy__(self, memo: dict[int, Any]) -> "Session":
        """Return the same as `copy.copy`: the recommender is shared, not opened again."""
        return copy.copy(self)

    def add(self, item_id: Any) -> bool:
        """Say what the user took next. False: it is not in the catalogue, and changes nothing.

        Raises:
            TypeError: it is no id, but a list of them, say.
        """
        number = self._recommender.number(item_id)
        if number is None:
            return False
        if number not in self._seen:
            self._seen += (number,)
        if self._next is not None:
            self._state, self._next, self._items = self._next, None, ()
        self._items += (number,)
        if not self._recommender.keeps_state:
            self._items = self._items[-self._recommender.max_len :]
        return True

    def recommend(
        self, k: int = 10, exclude_seen: bool = True, candidates: Iterable[Any] | None = None
    ) -> Recommendations:
        """Recommend for the user as of now; arguments as in `Recommender.recommend`.

        Raises:
            ValueError: no item was added yet, no candidate is in the catalogue, or `k` is below 1.
            TypeError: an argument is of a kind that cannot be read.
        """
        if not self._items:
            raise ValueError("the session is empty. Add an item of the catalogue first")
        answer, self._next = self._recommender.answer_one(
            self._items, self._seen, k, exclude_seen, candidates, self._state, keep_state=True
        )
        return answer


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
