"""A recommender for ExecuTorch. Entry point: `python -m export.to_executorch`.

    python -m export.to_executorch --model-dir runs/ml-100k/export/gru-distilled-int8

The program is lowered from the PyTorch student that the export was made from, in the precision of
the export, for the XNNPACK backend. ExecuTorch contradicts our pins, so the first call installs it
into an environment of its own in the cache directory (`executorch.txt`). The directory:

    model.pte      histories in, best items out
    items.json     as in the export: element i of "ids" and "titles" is item number i + 1
    config.json    format, version, arch, precision, max_len, num_items, k, checksums, and how the
                   program's answers compared with those of ONNX Runtime
    README.md      the model card

The program has one method, `forward`, for one user. Inputs, both int64:

    items       (1, max_len)    the newest items, left-padded with 0
    excluded    (1, E)          items left out of the answer; E from 1 to num_items + 1, 0: no item

Outputs, best first, both overwritten by the next call:

    top_items   int64 (1, K)    K is fixed in the program
    top_scores  float32 (1, K)  -inf: not an answer; fewer than K items were left

Which of two items with the same score comes first is not said, and a GRU keeps no state between
calls. In int8 the item table is held in 8 bit, for the lookup and once more for the scores, whose
states are rounded to 8 bit, too; the encoder is fp32.

Before anything is written, the program answers in the runtime of the pip package, on this machine:
in fp32 as the student's fp32 graph does in ONNX Runtime, in int8 with nine tenths of its items.
Neither a phone nor ARM was tried.
"""

from collections.abc import Sequence

from seqrec.config import parse_flags
from seqrec.errors import run_main

from export.config import ToExecutorchConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Write the directory that the command line asks for."""
    config = parse_flags(ToExecutorchConfig, (__doc__ or "").partition("\n")[0], argv)
    from export.mobile.executorch_program import to_executorch

    to_executorch(config)


if __name__ == "__main__":
    run_main(main)
