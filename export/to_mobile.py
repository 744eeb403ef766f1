"""A recommender for phones and small devices. Entry point: `python -m export.to_mobile`.

    python -m export.to_mobile --model-dir runs/ml-100k/export/gru-distilled-int8

The directory is the export's, with the model in ONNX Runtime's own format in place of the ONNX
file, for the onnxruntime of Android and iOS. Neither was tried: only this machine's runtime was.

    model.ort       answers as model.onnx does, which is checked here before anything is written
    required_operators_and_types.config    what a runtime built for this model alone has to hold:
                    `build.sh --include_ops_by_config FILE --enable_reduced_operator_type_support`
    config.json, items.json, README.md     as in the export; `model_file` names model.ort

It is a recommender directory: `export.recommender` reads it as well. Optimizations are done while
converting, so the file holds the item table twice, once for the lookup and once, transposed, for
the scores: it is about twice as large as the ONNX file.
"""

from collections.abc import Sequence

from seqrec.config import parse_flags
from seqrec.errors import run_main

from export.config import ToMobileConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Write the directory that the command line asks for."""
    config = parse_flags(ToMobileConfig, (__doc__ or "").partition("\n")[0], argv)
    from export.mobile.ort_format import to_mobile

    to_mobile(config)


if __name__ == "__main__":
    run_main(main)
