"""Trained students to recommender directories. Entry point: `python -m export.to_onnx`.

For each student in OUTPUT_DIR/students, OUTPUT_DIR/export gets one directory per precision, such as
`gru-distilled-int8`; `export.recommender` says what is in it. A directory that is up to date stays.
"""

from collections.abc import Sequence

from seqrec.config import default_output_dir, parse_flags
from seqrec.errors import run_main

from export.config import ExportConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Export all trained students in all precisions."""
    config = parse_flags(ExportConfig, (__doc__ or "").partition("\n")[0], argv)
    from export.onnx_graph.exporting import export_all

    export_all(config.data_dir, config.output_dir or default_output_dir(config.data_dir))


if __name__ == "__main__":
    run_main(main)
