"""What a recommender's graph takes and gives, by name: for those who build it and those who ask it.

    items       int64 (B, T)      histories, left-padded with PAD
    excluded    int64 (B, E)      items left out of the answer; PAD excludes nothing
    k           int64 (1,)        how many items at most
    state       float32 (layers, B, H)    GRUs only, optional: what was before `items`

    top_items   int64 (B, K)      best first
    top_scores  float32 (B, K)    -inf: no answer, fewer than K items were left
    new_state   float32 (layers, B, H)    GRUs only: the state after `items`
    user_state  float32 (B, H)  graphs of `export.to_index` only; inside of the others it has this
                                name, too: what is multiplied by items' vectors, and so scores them

Shape letters: B users, T history, E excluded, K answers, H hidden.
"""

ITEMS, EXCLUDED, K = "items", "excluded", "k"
TOP_ITEMS, TOP_SCORES = "top_items", "top_scores"
STATE, NEW_STATE = "state", "new_state"
USER_STATE = "user_state"
INPUT_NAMES = (ITEMS, EXCLUDED, K)
OUTPUT_NAMES = (TOP_ITEMS, TOP_SCORES)
