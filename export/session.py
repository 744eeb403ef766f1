"""One user's visit to a recommender: items come one by one, and the model keeps up.

Shape letters: B users, H hidden.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from export.recommender import Recommendation, Recommender


class Session:
    """One user's visit, made by `Recommender.start_session`.

    With a GRU the session keeps the encoder's state, and an answer costs the items that are new
    since the last one: it is `recommend`'s for the whole history, also beyond `max_len`, where
    `recommend` looks at the newest `max_len` only. With a Transformer it keeps the newest `max_len`
    items, and its answer is `recommend`'s.
    """

    def __init__(self, recommender: "Recommender", history: Sequence[int]) -> None:
        self._recommender = recommender
        self._seen = list(dict.fromkeys(history))
        self._items = list(history[-recommender.max_len :])  # since `_state`, oldest first
        self._state: NDArray[np.float32] | None = None
        self._next: NDArray[np.float32] | None = None  # the state after `_items`, once it is known

    def __copy__(self) -> "Session":
        """Return a session that goes its own way from here on; the recommender is shared."""
        copied = Session(self._recommender, self._items)
        copied._seen, copied._items = list(self._seen), list(self._items)
        copied._state, copied._next = self._state, self._next  # arrays that nobody changes
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "Session":
        """Return the same as `copy.copy`."""
        return self.__copy__()

    def add(self, item_id: Any) -> bool:
        """Say what the user took next. False: it is not in the catalogue, and changes nothing.

        Raises:
            TypeError: it is no id, but a list of them, say.
        """
        number = self._recommender.number(item_id)
        if number is None:
            return False
        if number not in self._seen:
            self._seen.append(number)
        if self._next is not None:
            self._state, self._next, self._items = self._next, None, []
        self._items.append(number)
        if not self._recommender.keeps_state:
            del self._items[: -self._recommender.max_len]
        return True

    def recommend(
        self, k: int = 10, exclude_seen: bool = True, candidates: Iterable[Any] | None = None
    ) -> list["Recommendation"]:
        """Recommend for the user as of now; arguments as in `Recommender.recommend`.

        Raises:
            ValueError: no item was added yet, no candidate is in the catalogue, or `k` is below 1.
            TypeError: an argument is of a kind that cannot be read.
        """
        if not self._items:
            raise ValueError("the session is empty. Add an item of the catalogue first")
        seen = np.array([self._seen], dtype=np.int64)
        (answer,), self._next = self._recommender.answer(
            np.array([self._items], dtype=np.int64),
            self._recommender.excluded(seen, exclude_seen, candidates),
            k,
            self._state,
            keep_state=True,
        )
        return answer
