"""Users' states, for who looks for the items elsewhere. Needs numpy and onnxruntime, nothing else.

    recommender = Recommender.from_pretrained("runs/mine/index/transformer-distilled-int8")
    (state,) = user_states(recommender, [["50", "181", "172"]])
    state @ vector  # the score of the item with this vector, from export.to_index --vectors-to

A recommender rounds states to 8 bit before it multiplies, so its own scores are close to these, not
the same.
"""

from collections.abc import Iterable
from typing import Any

from seqrec.errors import ModelError
from seqrec.histories import pad_left

import numpy as np

from export.arguments import as_list
from export.contract import EXCLUDED, ITEMS, USER_STATE, K
from export.recommender import FloatArray, Recommender

USERS_AT_ONCE = 64


def user_states(recommender: Recommender, histories: Iterable[Iterable[Any]]) -> FloatArray:
    """Return the users' states, float32 (B, H).

    Args:
        recommender: from `export.to_index`.
        histories: item ids, oldest first; arguments and errors as in `Recommender.recommend_batch`.

    Raises:
        ModelError: the recommender has no index, and so puts out no state.
    """
    if "index" not in recommender.config:
        raise ModelError(
            "this recommender has no index, and so puts out no user states. Make one that does: "
            "python -m export.to_index"
        )
    rows = as_list(histories, "histories", of="histories")
    known = [recommender.known(ids, f"histories[{row}]") for row, ids in enumerate(rows)]
    states = [np.empty((0, recommender.config["index"]["width"]), dtype=np.float32)]
    for at in range(0, len(known), USERS_AT_ONCE):
        items = pad_left(known[at : at + USERS_AT_ONCE], recommender.max_len)
        feeds = {ITEMS: items, EXCLUDED: items[:, :0], K: np.array([1])}
        states += recommender.session.run((USER_STATE,), feeds)
    return np.concatenate(states)
