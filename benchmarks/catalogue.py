"""Latency over catalogue sizes: `python -m benchmarks.catalogue --num-items 1700 10000 50000`.

Speed does not depend on what the weights are, so students of random weights are exported and
timed. Beside each time stands its lower bound on this machine: read the item table once, look at
each score once (see `measure/lower_bound.py`), measured in turns with the students, as is a call of
ONNX Runtime that does nothing. A profile says where the rest goes. With `--baselines` also models
of other libraries that can be made without events.

With `--index-lists` also students with an index (`export.to_index`) that looks at so many lists.
How many it takes to find enough depends on what was learnt, and stands in the model card
of a recommender with an index. The lower bound stays that of whoever scores all items: an index may
be below it.

From four million items on our own files in int8 alone are measured: the others would take 20 GB of
memory and more.

Writes `catalogue.json` (`CatalogueResults` in `benchmarks/report/schema.py`) and `catalogue.png`,
and a table to stdout.
"""

import logging
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from seqrec.config import flag, parse_flags, to_json
from seqrec.errors import run_main

import numpy as np

from benchmarks.baselines.libraries import BASELINES, Baseline
from benchmarks.measure.flags import TimingFlags
from benchmarks.measure.lower_bound import BYTES, DEFINITION, time_beside_bound
from benchmarks.measure.machine import OtherWork, describe_machine
from benchmarks.measure.profile import profile
from benchmarks.measure.quality import K
from benchmarks.measure.queries import Request
from benchmarks.measure.students import OnnxSystem
from benchmarks.measure.systems import System
from benchmarks.measure.untrained import HISTORY_LENGTH, LARGE, open_untrained
from benchmarks.report.files import save
from benchmarks.report.schema import CatalogueResults, CatalogueRow, Failure
from benchmarks.report.tables import format_catalogue

logger = logging.getLogger(__name__)

NUM_REQUESTS = 64


@dataclass(frozen=True, kw_only=True)
class CatalogueConfig(TimingFlags):
    """Flags of `benchmarks.catalogue`."""

    num_items: tuple[int, ...] = flag((1_700, 10_000, 50_000), "catalogue sizes")
    output_dir: Path = flag(Path("runs/catalogue"), "where to write catalogue.json")
    index_lists: int = flag(0, "lists that an index looks at, to measure one; 0: none")
    baselines: bool = flag(False, "measure untrained models of RecBole and RePlay as well")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if min(self.num_items) < 1 or self.index_lists < 0:
            raise ValueError("--num-items: above 0; --index-lists: 0 or more")


def measure_catalogues(config: CatalogueConfig) -> CatalogueResults:
    """Time students of random weights over all sizes."""
    machine, others = describe_machine(config.num_threads), OtherWork()
    rows: list[CatalogueRow] = []
    failed: list[Failure] = []
    for num_items in config.num_items:
        logger.info("%s items", f"{num_items:,}")
        with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
            folder = Path(temporary)
            systems = open_untrained(
                num_items,
                folder,
                index_lists=config.index_lists,
                num_threads=config.num_threads,
                seed=config.seed,
            )
            if config.baselines and num_items < LARGE:
                baselines, failures = open_baselines(num_items, folder, config, stack)
                failed += [replace(failure, num_items=num_items) for failure in failures]
                systems += baselines
            rows += measure_size(num_items, systems, config)
    return CatalogueResults(
        config=to_json(config),
        environment=replace(machine, other_work=others.cores()),
        lower_bound=DEFINITION,
        rows=tuple(rows),
        failed=tuple(failed),
    )


def open_baselines(
    num_items: int, folder: Path, config: CatalogueConfig, stack: ExitStack
) -> tuple[list[System], list[Failure]]:
    """Open models of other libraries whose weights are random, of those that can be."""
    from benchmarks.baselines.system import open_all
    from benchmarks.baselines.training import write_untrained
    from student.model import StudentConfig

    def make(baseline: Baseline, _: Path) -> Path:
        target = folder / baseline.folder_name / "untrained"
        return write_untrained(baseline, num_items, target, StudentConfig.hidden_dim, config.seed)

    able = [baseline for baseline in BASELINES if baseline.can_be_untrained]
    return open_all(able, make, config.num_threads, stack)


def measure_size(
    num_items: int, systems: Sequence[System], config: CatalogueConfig
) -> list[CatalogueRow]:
    """Return the rows of one catalogue size."""
    from student.model import StudentConfig

    rng = np.random.default_rng(config.seed)
    requests = [
        Request(items, items, np.array([min(K, num_items)]))
        for items in rng.integers(1, num_items + 1, (NUM_REQUESTS, 1, HISTORY_LENGTH))
    ]
    width = StudentConfig.hidden_dim
    table_bytes = [num_items * width * BYTES[one.identity.precision] for one in systems]
    asked = [requests] * len(systems)
    timed = time_beside_bound(systems, asked, table_bytes, num_items, config)
    return [
        CatalogueRow(
            **vars(system.identity),
            num_items=num_items,
            history_length=1 if system.identity.variant == "step" else HISTORY_LENGTH,
            size_mib=system.size_mib,
            profile=tuple(
                profile(system.file, requests, config.num_threads)
                if isinstance(system, OnnxSystem)
                else ()
            ),
            **fields,
        )
        for system, fields in zip(systems, timed, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all sizes and write the results."""
    config = parse_flags(CatalogueConfig, (__doc__ or "").partition("\n")[0], argv)
    results = measure_catalogues(config)
    from benchmarks.report.plots import draw_catalogue, save_figure  # loads Matplotlib

    file = config.output_dir / "catalogue.json"
    save(results, file)
    save_figure(draw_catalogue(results), file.with_suffix(".png"))
    sys.stdout.write(format_catalogue(results))
    logger.info("wrote %s; catalogue.png beside it", file)


if __name__ == "__main__":
    run_main(main)
