"""Answers: lists whose elements are made when they are looked at.

Who asks for ten items may want their ids alone, or pass the answer on: a frozen dataclass costs as
much as looking up the titles of three.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

LOWEST = float("-inf")


@dataclass(frozen=True, init=False)
class Recommendation:
    """One item of an answer. Scores rank the items of one answer; they are no probabilities."""

    item_id: str
    score: float
    title: str

    def __init__(self, item_id: str, score: float, title: str) -> None:
        """Hold the three."""
        held = self.__dict__  # a frozen dataclass's own __init__ takes twice as long
        held["item_id"], held["score"], held["title"] = item_id, score, title


class Recommendations(Sequence[Recommendation]):
    """An answer, best first: a list of `Recommendation` that cannot be changed.

    It is indexed, sliced, iterated, compared and pickled as a list is, and equals a list of the
    same. `list(answer)` makes one. `item_ids`, `scores` and `titles` are its columns.
    """

    __slots__ = ("_item_ids", "_numbers", "_scores", "_titles")
    __hash__ = None  # type: ignore[assignment]  # as a list

    def __init__(
        self,
        numbers: list[int],
        scores: list[float],
        item_ids: Sequence[str],
        titles: Sequence[str],
    ) -> None:
        """Hold an answer.

        Args:
            numbers: of the items, best first; number n is element n - 1 of the next two.
            scores: of the same items, -inf at the end for those that are no answer.
            item_ids: of the whole catalogue.
            titles: of the whole catalogue.
        """
        if scores and scores[-1] == LOWEST:  # fewer items were left than were asked for
            end = scores.index(LOWEST)
            numbers, scores = numbers[:end], scores[:end]
        self._numbers, self._scores = numbers, scores
        self._item_ids, self._titles = item_ids, titles

    @property
    def item_ids(self) -> list[str]:
        """The ids, best first."""
        held = self._item_ids
        return [held[number - 1] for number in self._numbers]

    @property
    def scores(self) -> list[float]:
        """The scores, highest first."""
        return list(self._scores)

    @property
    def titles(self) -> list[str]:
        """The titles, best first."""
        held = self._titles
        return [held[number - 1] for number in self._numbers]

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[Recommendation]:
        """Make one after the other."""
        return map(Recommendation, self.item_ids, self._scores, self.titles)

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...

    @overload
    def __getitem__(self, index: slice) -> "Recommendations": ...

    def __getitem__(self, index: Any) -> Any:
        """Make one, or return the answer of a slice."""
        numbers, scores = self._numbers[index], self._scores[index]
        if isinstance(index, slice):
            return Recommendations(numbers, scores, self._item_ids, self._titles)
        return Recommendation(self._item_ids[numbers - 1], scores, self._titles[numbers - 1])

    def __eq__(self, other: object) -> bool:
        """Compare with an answer or a list, element by element."""
        if isinstance(other, Recommendations | list):
            return list(self) == list(other)
        return NotImplemented

    def __repr__(self) -> str:
        """Return that of the list."""
        return repr(list(self))

    def __reduce__(self) -> tuple[Callable[..., "Recommendations"], tuple[Any, ...]]:
        """Pickle the answer without the rest of the catalogue."""
        numbers = list(range(1, len(self) + 1))
        return Recommendations, (numbers, self._scores, self.item_ids, self.titles)
