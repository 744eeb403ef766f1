"""New items into an exported student, from their texts. Entry point: `python -m export.add_items`.

    python -m export.add_items --model-dir runs/ml-100k/export/gru-distilled-int8 \
        --items new_items.parquet --output-dir gru-distilled-int8-more

The language model that read the catalogue reads the new texts, in PyTorch, or without it as
`--text-encoder` of `export.to_text_encoder`. The projection that the student was trained with makes
rows of what it says (see `seqrec.item_table`), and these are appended to the item table of the ONNX
file. Nothing is trained, and the rows that were there stay as they are to the last bit: so do their
scores. In an 8-bit file each new row gets a scale of its own. A recommender with an index gets
lists for them that every request looks at (`export.index.adding`).

The new items follow the old ones, in the order of their file. Their table needs an id and a title;
of its other columns those are read that the catalogue had too.
"""

from collections.abc import Sequence

from seqrec.config import parse_flags
from seqrec.errors import run_main

from export.config import AddItemsConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Add items as the command line asks."""
    config = parse_flags(AddItemsConfig, (__doc__ or "").partition("\n")[0], argv)
    from export.new_items.add_items import add_items

    add_items(config)


if __name__ == "__main__":
    run_main(main)
