"""Recommendations inside a Ray Data pipeline of your own.

    pip install --editable ".[ray]"
    python examples/ray_data.py runs/ml-100k/export/gru-distilled-int8 histories.parquet out

`histories.parquet` has the columns `user_id` and `history` (a list of item ids, oldest first).
Ray's actors each open the folder once. `python -m export.score --engine ray` does the same for all
users of a data set, and checks more.
"""

import sys
from typing import Any

import ray
import ray.data

from export.recommender import Recommender


class Recommend:
    """Adds a column of recommended item ids to a batch of users."""

    def __init__(self, model_dir: str, k: int) -> None:
        self.recommender = Recommender.from_pretrained(model_dir)
        self.k = k

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer a batch: columns as numpy arrays."""
        answers = self.recommender.recommend_batch(list(batch["history"]), k=self.k)
        items = [[item.item_id for item in answer] for answer in answers]
        return {"user_id": batch["user_id"], "item_ids": items}


def main(model_dir: str, histories: str, output_dir: str, num_actors: int = 2, k: int = 10) -> None:
    """Read histories, recommend, write Parquet."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        users = ray.data.read_parquet(histories)
        answers = users.map_batches(
            Recommend,
            fn_constructor_args=(model_dir, k),
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            batch_size=1024,
        )
        answers.write_parquet(output_dir)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:4])
