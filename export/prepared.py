"""Calls of the model whose arrays are made and bound once, and filled for each request.

Of a call for one user, ONNX Runtime spends a sixth on taking arrays in and handing arrays out. Here
a request's arrays stay bound: it writes its numbers into them and reads the answer from them.

A call belongs to who takes it until it is given back, so threads never meet in one.

Shape letters: T history, E excluded, K answers, H hidden.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seqrec.histories import PAD

import numpy as np
from numpy.typing import NDArray

from export.contract import EXCLUDED, ITEMS, NEW_STATE, STATE, TOP_ITEMS, TOP_SCORES, K

if TYPE_CHECKING:  # it takes a while to load, and opening a model is soon enough
    import onnxruntime as ort

FloatArray = NDArray[np.float32]
Shapes = tuple[int, int, int, bool, bool]  # T, E, K, whether a state is given, and is kept
MAX_KEPT = 256  # shapes; a call takes some 7 kB, and a shape has as many as threads asked at once
LARGEST = 1024  # of T, E and K; what is larger takes long anyway, and its arrays are not kept
STEP_EXCLUDED = 32  # E is a multiple of it, so that a session keeps its call as it goes on
PADDING = [PAD] * STEP_EXCLUDED


class PreparedCall:
    """One call for one user: arrays of fixed shapes, bound to a session."""

    def __init__(
        self,
        session: "ort.InferenceSession",
        length: int,
        num_excluded: int,
        k: int,
        state_shape: Sequence[int],
        *,
        has_state: bool,
        keeps_state: bool,
    ) -> None:
        """Bind arrays.

        Args:
            session: of a recommender.
            length: T.
            num_excluded: E; below 0: `excluded` are the items themselves.
            k: K, at most as many as there are items.
            state_shape: (layers, 1, H); of a model without a state any.
            has_state: a state is given.
            keeps_state: put out the new state.
        """
        from onnxruntime import OrtValue

        items = np.full((1, length), PAD, dtype=np.int64)
        excluded = items if num_excluded < 0 else np.full((1, num_excluded), PAD, dtype=np.int64)
        top_items, top_scores = np.zeros((1, k), np.int64), np.zeros((1, k), np.float32)
        self.state, self.new_state = (np.zeros(state_shape, np.float32) for _ in range(2))
        given: dict[str, NDArray[Any]] = {
            ITEMS: items,
            EXCLUDED: excluded,
            K: np.array([k], dtype=np.int64),
        }
        if has_state:
            given[STATE] = self.state
        answered: dict[str, NDArray[Any]] = {TOP_ITEMS: top_items, TOP_SCORES: top_scores}
        if keeps_state:
            answered[NEW_STATE] = self.new_state
        binding = session.io_binding()
        for name, array in given.items():  # an OrtValue of the CPU is the array's memory
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        for name, array in answered.items():
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
        self._bound = given, answered  # what is bound does not keep the arrays
        self._binding, self._run = binding, session.run_with_iobinding
        self.items, self.excluded = items[0], excluded[0]
        self.top_items, self.top_scores = top_items[0], top_scores[0]

    def run(self) -> None:
        """Answer what `items`, `excluded` and `state` hold, into the other arrays."""
        self._run(self._binding)


class PreparedCalls:
    """The calls of one session, by their shapes; several threads may ask at once."""

    def __init__(self, session: "ort.InferenceSession") -> None:
        """Start without any."""
        self._session = session
        states = [given for given in session.get_overridable_initializers() if given.name == STATE]
        self.keeps_state = bool(states)
        self._state_shape = (states[0].shape[0], 1, states[0].shape[2]) if states else (0,)
        # `pop` and `append` of a list are one step for other threads.
        self._free: dict[Shapes, list[PreparedCall]] = {}

    def answer(
        self,
        items: Sequence[int],
        excluded: Sequence[int],
        k: int,
        state: FloatArray | None = None,
        *,
        keep_state: bool = False,
    ) -> tuple[list[int], list[float], FloatArray | None]:
        """Return the numbers and scores of the best items, K each, and the new state if kept.

        Args:
            items: T numbers, at least one, at most `LARGEST`.
            excluded: as many at most; may be `items`, which is fastest.
            k: from 1 to the number of items, at most `LARGEST`.
            state: float32 (layers, 1, H).
            keep_state: return the state after `items`; for a model that has one.
        """
        is_same = excluded is items
        rest = -len(excluded) % STEP_EXCLUDED
        num_excluded = -1 if is_same else len(excluded) + rest
        key = (len(items), num_excluded, k, state is not None, keep_state)
        free = self._free.get(key)
        try:
            call = free.pop()  # type: ignore[union-attr]
        except (AttributeError, IndexError):  # none was made yet, or all are in use
            call = self._make(key)
        call.items[:] = items
        if not is_same:
            call.excluded[:] = [*excluded, *PADDING[:rest]]
        if state is not None:
            call.state[:] = state
        call.run()
        new_state = call.new_state.copy() if keep_state else None
        answer = call.top_items.tolist(), call.top_scores.tolist(), new_state
        if free is None and len(self._free) < MAX_KEPT:
            free = self._free.setdefault(key, [])
        if free is not None:
            free.append(call)
        return answer

    def _make(self, shapes: Shapes) -> PreparedCall:
        length, num_excluded, k, has_state, keeps_state = shapes
        return PreparedCall(
            self._session,
            length,
            num_excluded,
            k,
            self._state_shape,
            has_state=has_state,
            keeps_state=keeps_state,
        )
