"""Recommendations for all users at once, from an exported student.

    python -m export.score --model-dir runs/ml-100k/export/gru-distilled-int8

reads the users of a prepared data set, or, with `--histories`, a Parquet file or a folder of them:
a user and a list of item ids a row, oldest first. It writes Parquet parts, users in order:

    part-00000.parquet    user_id (text), item_ids (list of text), scores (list of float32),
                          digest (text)

the answers that `Recommender.recommend_batch` gives. A user of whose history the catalogue has no
item gets empty lists. The directory appears once it is whole. Where it replaces an earlier one,
only users are asked whose history is another by now, or all if the recommender or a flag is.

Users are dealt out in parts to worker processes, each with a recommender of its own; a worker holds
one part in memory, so memory does not grow with the number of users. `--engine ray` deals the parts
out through Ray Data instead, on this machine or on the cluster that `RAY_ADDRESS` names; all paths
have to be the same files on all its machines.
"""

from collections.abc import Sequence

from seqrec.config import parse_flags
from seqrec.errors import run_main

from export.config import ScoreConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Recommend to all users as the command line asks."""
    config = parse_flags(ScoreConfig, (__doc__ or "").partition("\n")[0], argv)
    from export.scoring import score

    score(config)


if __name__ == "__main__":
    run_main(main)
