"""Our students beside what users would pick instead. Entry point: `python -m benchmarks.baselines`.

It is `python -m benchmarks.latency --peers`, with the same flags.
"""

import sys

from seqrec.errors import run_main

from benchmarks.latency import main

if __name__ == "__main__":
    run_main(lambda: main([*sys.argv[1:], "--peers"]))
