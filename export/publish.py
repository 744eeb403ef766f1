"""A new recommender in place of the one that serves, if it is as good: `python -m export.publish`.

    python -m export.publish --data-dir data/today --since data/yesterday \
        --model-dir runs/today/export/transformer-distilled-int8 --serving-dir serving

Both are asked what the users of the test targets took next, each as a client asks it: lists of
item ids, whatever its own catalogue is. Neither has seen these targets in training, if the new one
was trained on `--data-dir` and the old one on an earlier log. With `--since` only users count who
have new events since that data set was prepared: the newest day. The new one is published, in one
step, if

    NDCG@10     is at least `--min-ndcg` times that of the old one
    p50         of an answer is at most `--max-latency` times as long, measured in turns
    size        of what a client needs is at most `--max-size` times as large

and where nothing serves yet. Otherwise, and if it is killed at any moment, the old one stays as it
is: the exit code is then 1. A process that has it open keeps it until it opens the folder anew.
"""

import sys
from collections.abc import Sequence

from seqrec.config import parse_flags
from seqrec.errors import run_main

from export.config import PublishConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, write the table to stdout, publish or say why not."""
    config = parse_flags(PublishConfig, (__doc__ or "").partition("\n")[0], argv)
    from export.publishing import publish

    report, is_published = publish(config)
    sys.stdout.write(report)
    if not is_published:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
