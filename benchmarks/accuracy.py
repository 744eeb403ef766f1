"""What each part of the teaching is worth. Entry point: `python -m benchmarks.accuracy`.

    python -m benchmarks.accuracy --data-dir data/ml-100k data/mine --seeds 0 1 2 --jobs 2

For every data set: trains the teacher if there is none, makes the soft targets that students
share, then trains and judges every variant of `benchmarks/grid/variants.py` for each architecture
and seed, a run each, and writes `accuracy.json` (`AccuracyResults` in `report/schema.py`) and
`accuracy.png` into `OUTPUT_DIR/<data>`. A finished run is never computed again and a killed one
goes on from its checkpoint: type the same command. Each run takes one thread; `--jobs 2` computes
two at once, which is the most that two cores can do.
"""

import shlex
import sys
from collections.abc import Sequence

from seqrec.config import parse_flags
from seqrec.errors import run_main

from benchmarks.grid.config import AccuracyConfig
from benchmarks.report.tables import format_accuracy


def main(argv: Sequence[str] | None = None) -> None:
    """Run the grid and show its tables."""
    config = parse_flags(AccuracyConfig, (__doc__ or "").partition("\n")[0], argv)
    from benchmarks.grid.running import run  # loads PyTorch

    words = sys.argv[1:] if argv is None else argv
    for results in run(config, "python -m benchmarks.accuracy " + shlex.join(words)):
        sys.stdout.write(format_accuracy(results))


if __name__ == "__main__":
    run_main(main)
