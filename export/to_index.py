r"""A recommender for large catalogues, with an index. Entry point: `python -m export.to_index`.

    python -m export.to_index --data-dir data/mine \
        --model-dir runs/mine/export/transformer-distilled-int8

An answer scores the items of a few lists instead of all items, so that it may miss some of the
exact answer (`export.index.graph`). How much of it is found is measured on validation users, stands
in the model card, and is at least `--min-recall`, or nothing is written. The directory is a
recommender like any other, and needs no further library: the index is part of model.onnx, whose
operators are standard ones. From 64 MiB of tables on these are in model.onnx.data, which is mapped
into memory. `export.add_items` puts new items into it, up to a tenth.

It also puts out users' states (`export.user_states`). With `--vectors-to` the items' vectors are
written, too, for a vector database: the inner product of the two is the score.

    item_id    text
    vector     float32, as many as the student is wide
"""

from collections.abc import Sequence

from seqrec.config import parse_flags
from seqrec.errors import run_main

from export.config import ToIndexConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Write the directory that the command line asks for."""
    config = parse_flags(ToIndexConfig, (__doc__ or "").partition("\n")[0], argv)
    from export.index.building import to_index

    to_index(config)


if __name__ == "__main__":
    run_main(main)
