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

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
# T, E (-1: the items themselves), K, whether a state is given, whether the new one is kept
Shapes = tuple[int, int, int, bool, bool]
MAX_KEPT = 256  # shapes; a call takes some 7 kB, and a shape has as many as threads asked at once
LARGEST = 4096  # of T, E and K; what is larger takes long anyway, and its arrays are not kept
STEP_EXCLUDED = 32  # E is a multiple of it, so that a session keeps its call as it goes on


class PreparedCall:
    """One call for one user: arrays of fixed shapes, bound to a session."""

    def __init__(
        self, session: "ort.InferenceSession", shapes: Shapes, state_shape: Sequence[int]
    ) -> None:
        """Bind arrays; `state_shape` is (layers, 1, H), and any of a model without a state."""
        from onnxruntime import OrtValue

        length, num_excluded, k, has_state, keeps_state = shapes
        items = np.full((1, length), PAD, np.int64)
        excluded = items if num_excluded < 0 else np.full((1, num_excluded), PAD, np.int64)
        top_items, top_scores = np.zeros((1, k), np.int64), np.zeros((1, k), np.float32)
        self.state, self.new_state = (np.zeros(state_shape, np.float32) for _ in range(2))
        given: dict[str, NDArray[Any]] = {ITEMS: items, EXCLUDED: excluded, K: np.array([k])}
        answered: dict[str, NDArray[Any]] = {TOP_ITEMS: top_items, TOP_SCORES: top_scores}
        if has_state:
            given[STATE] = self.state
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
        # `pop` and `append` of a list are one step for other threads, as is `setdefault`.
        self._free: dict[Shapes, list[PreparedCall]] = {}

    def answer(
        self,
        items: Sequence[int],
        excluded: Sequence[int] | IntArray,
        k: int,
        state: FloatArray | None = None,
        *,
        keep_state: bool = False,
    ) -> tuple[list[int], list[float], FloatArray | None]:
        """Return the numbers and scores of the best items, K each, and the new state if kept.

        Args:
            items: T numbers, at least one.
            excluded: E numbers; may be `items`, which is fastest.
            k: from 1 to the number of items.
            state: float32 (layers, 1, H).
            keep_state: return the state after `items`; for a model that has one.
        """
        is_same, num_given = excluded is items, len(excluded)
        num_excluded = -1 if is_same else num_given + -num_given % STEP_EXCLUDED
        shapes = (len(items), num_excluded, k, state is not None, keep_state)
        free = self._free.get(shapes, [])
        try:
            call = free.pop()
        except IndexError:  # none was made yet, or all are in use
            call = PreparedCall(self._session, shapes, self._state_shape)
        call.items[:] = items
        if not is_same:
            call.excluded[:num_given] = excluded
            call.excluded[num_given:] = PAD
        if state is not None:
            call.state[:] = state
        call.run()
        new_state = call.new_state.copy() if keep_state else None
        answer = call.top_items.tolist(), call.top_scores.tolist(), new_state
        if shapes in self._free or (len(self._free) < MAX_KEPT and max(shapes[:3]) <= LARGEST):
            self._free.setdefault(shapes, free).append(call)
        return answer
