"""Our students beside what users would pick instead. Entry point: `python -m benchmarks.baselines`.

It is `benchmarks.latency` with models of implicit, RecBole, RecTools and RePlay in the same table:
they are trained first, each in an environment of its own, answer in a process of their own, and
time themselves there.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from seqrec.config import parse_flags
from seqrec.data import SequenceDataset
from seqrec.errors import run_main

from benchmarks.baselines.libraries import BASELINES, Baseline, BaselinesConfig
from benchmarks.latency import Opened, require_gpu, run


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with other libraries and write its results."""
    config = parse_flags(BaselinesConfig, (__doc__ or "").partition("\n")[0], argv)
    from benchmarks.baselines.system import open_all
    from benchmarks.baselines.training import ensure_trained  # loads PyTorch

    require_gpu("--train-device", config.train_device)
    chosen = [one for one in BASELINES if not config.names or one.name in config.names]

    def open_baselines(dataset: SequenceDataset, stack: ExitStack) -> Opened:
        def train(baseline: Baseline, python: Path) -> Path:
            return ensure_trained(baseline, python, dataset, config)

        return open_all(chosen, train, config.num_threads, stack)

    run(config, open_baselines)


if __name__ == "__main__":
    run_main(main)
