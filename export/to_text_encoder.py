"""The language model that reads item texts, for where there is no PyTorch.

    python -m export.to_text_encoder --model-dir runs/ml-100k/export/gru-distilled-int8

Where new items come in on a server, or on a device, `export.add_items --text-encoder DIR` then
needs onnxruntime alone. The model is the one that read the catalogue, in the precision in which it
read it: 4-bit weights are restored as bitsandbytes restores them, traced by Optimum, and stored in
8 bit, each column of a matrix and each row of the vocabulary with a scale of its own. (To round
activations to 8 bit as well, as dynamic quantization does, changes what such a model says.) What
it says of the catalogue's own titles is compared with what the language model says, before
anything is written.

One directory serves all students that were taught with this language model;
`export.new_items.text_encoder` says what is in it.
"""

from collections.abc import Sequence

from seqrec.config import parse_flags
from seqrec.errors import run_main

from export.config import ToTextEncoderConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Write the directory that the command line asks for."""
    config = parse_flags(ToTextEncoderConfig, (__doc__ or "").partition("\n")[0], argv)
    from export.new_items.to_text_encoder import to_text_encoder

    to_text_encoder(config)


if __name__ == "__main__":
    run_main(main)
