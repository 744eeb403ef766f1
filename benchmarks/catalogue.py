"""Latency over catalogue sizes: `python -m benchmarks.catalogue --num-items 1700 10000 50000`.

Speed does not depend on what the weights are, so students of random weights are exported and
timed. Beside each time stands its lower bound on this machine: read the item table once, look at
each score once (see `measure/lower_bound.py`), measured in turns with the students, as is a call of
ONNX Runtime that does nothing. A profile says where the rest goes. With `--baselines` also models
of other libraries that can be made without events.

With `--index-lists` also students with an index (`export.to_index`) that looks at so many lists of
256 items. How many it takes to find enough depends on what was learnt, and stands in the model card
of a recommender with an index. The lower bound stays that of whoever scores all items: an index may
be below it.

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
from typing import TYPE_CHECKING, Any

from seqrec.config import flag, parse_flags, to_json
from seqrec.errors import run_main

import numpy as np

from benchmarks.baselines.libraries import BASELINES
from benchmarks.measure.lower_bound import BYTES, DEFINITION, bounds_of, ratio, reference_calls
from benchmarks.measure.machine import describe_machine, watch_others
from benchmarks.measure.quality import K
from benchmarks.measure.queries import Request
from benchmarks.measure.systems import OnnxSystem, StepSystem, System
from benchmarks.measure.timing import measure_latency
from benchmarks.report.files import save
from benchmarks.report.schema import CatalogueResults, CatalogueRow, Failure
from benchmarks.report.tables import format_catalogue

if TYPE_CHECKING:
    from student.model import Arch, Student

logger = logging.getLogger(__name__)

HISTORY_LENGTH = 50
NUM_REQUESTS = 64


@dataclass(frozen=True, kw_only=True)
class CatalogueConfig:
    """Flags of `benchmarks.catalogue`."""

    num_items: tuple[int, ...] = flag((1_700, 10_000, 50_000), "catalogue sizes")
    output_dir: Path = flag(Path("runs/catalogue"), "where to write catalogue.json")
    index_lists: int = flag(0, "lists that an index looks at, to measure one; 0: none")
    baselines: bool = flag(False, "measure untrained models of RecBole and RePlay as well")
    num_threads: int = flag(1, "threads of each call")
    num_calls: int = flag(2000, "timed calls of each system")
    budget_s: float = flag(20.0, "seconds after which a slow system is asked no more")
    seed: int = flag(0, "seed of weights and histories")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if min(*self.num_items, self.num_threads, self.num_calls) < 1 or self.budget_s <= 0:
            raise ValueError("--num-items, --num-threads, --num-calls, --budget-s: above 0")
        if self.index_lists < 0:
            raise ValueError(f"--index-lists {self.index_lists} is below 0")


def measure_catalogues(config: CatalogueConfig) -> CatalogueResults:
    """Time students of random weights over all sizes."""
    from benchmarks.baselines.opening import open_untrained
    from benchmarks.baselines.training import TrainingFlags
    from student.model import StudentConfig

    machine = describe_machine(config.num_threads)
    rows: list[CatalogueRow] = []
    failed: list[Failure] = []
    flags = TrainingFlags(seed=config.seed, num_threads=config.num_threads)
    with watch_others() as others:
        for num_items in config.num_items:
            logger.info("%s items", f"{num_items:,}")
            with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
                folder = Path(temporary)
                systems: list[System] = open_students(num_items, folder, config)
                if config.baselines:
                    served, failures = open_untrained(
                        BASELINES,
                        num_items,
                        folder,
                        width=StudentConfig.hidden_dim,
                        flags=flags,
                        stack=stack,
                    )
                    failed += [replace(failure, num_items=num_items) for failure in failures]
                    systems += served
                rows += measure_size(num_items, systems, config)
    return CatalogueResults(
        config=to_json(config),
        environment=others.tell(machine),
        lower_bound=DEFINITION,
        rows=tuple(rows),
        failed=tuple(failed),
    )


def measure_size(
    num_items: int, systems: Sequence[System], config: CatalogueConfig
) -> list[CatalogueRow]:
    """Return the rows of one catalogue size."""
    from student.model import StudentConfig

    width = StudentConfig.hidden_dim
    rng = np.random.default_rng(config.seed)
    requests = [
        Request(items, items, np.array([min(K, num_items)]))
        for items in rng.integers(1, num_items + 1, (NUM_REQUESTS, 1, HISTORY_LENGTH))
    ]
    table_bytes = [num_items * width * BYTES[one.identity.precision] for one in systems]
    references = reference_calls(table_bytes, num_items, config.num_threads)
    everything = [*systems, *references]
    timings = measure_latency(
        everything,
        [requests] * len(everything),
        num_calls=config.num_calls,
        budget_s=config.budget_s,
    )
    bounds = bounds_of(references, timings[len(systems) :])
    rows = []
    for system, timing, num_bytes in zip(systems, timings, table_bytes, strict=False):
        latency, bound = timing.summary(), bounds.lower_bound(num_bytes, num_items)
        is_step = system.identity.variant == "step"
        rows.append(
            CatalogueRow(
                **vars(system.identity),
                num_items=num_items,
                history_length=1 if is_step else HISTORY_LENGTH,
                latency_ms=latency,
                num_timed_calls=len(timing.durations_ns),
                size_mib=system.size_mib,
                lower_bound_ms=bound,
                ratio_to_lower_bound=ratio(latency, bound),
                idle_call_ms=bounds.idle_call_ms if system.runs_on_onnxruntime else None,
                profile=tuple(system.profile(requests)),
            )
        )
    return rows


def open_students(num_items: int, folder: Path, config: CatalogueConfig) -> list[System]:
    """Export students of random weights and open their files."""
    from export.onnx_graph.graph import write_graph
    from export.onnx_graph.quantize import quantize

    systems: list[System] = []
    for arch in ("transformer", "gru"):
        student = random_student(arch, num_items, config.seed)
        for precision in ("fp32", "int8", "int8-optimum"):
            path = folder / f"{arch}-{precision}.onnx"
            if precision == "int8-optimum":
                quantize(folder / f"{arch}-fp32.onnx", path)
            else:
                write_graph(student, path, precision)  # type: ignore[arg-type]
            about = {"arch": arch, "precision": precision, "num_parameters": student.num_parameters}
            about["max_len"] = HISTORY_LENGTH
            systems.append(OnnxSystem(path, about, config.num_threads))
            if arch == "gru" and precision == "int8":
                systems.append(StepSystem(path, about, config.num_threads))
            if precision == "int8" and config.index_lists:
                systems.append(open_index(path, about, config))
    return systems


def open_index(source: Path, about: dict[str, Any], config: CatalogueConfig) -> OnnxSystem:
    """Open a student's int8 file with an index whose lists were filled in the items' order."""
    import onnx

    from export.config import ToIndexConfig
    from export.index.graph import Depth, build_index, item_rows
    from export.index.lists import ItemLists

    model, size = onnx.load(source), ToIndexConfig.list_size
    num_items, width = item_rows(model).shape
    num_lists = num_items // size + 1
    numbers = np.zeros(num_lists * size, dtype=np.int32)
    numbers[:num_items] = np.arange(1, num_items + 1)
    keys = np.random.default_rng(config.seed).standard_normal((num_lists, width), dtype=np.float32)
    lists = ItemLists(numbers.reshape(num_lists, size), keys, np.zeros(num_lists, np.float32))
    depth = Depth(K, min(config.index_lists, num_lists))
    path = source.with_name(f"{source.stem}-index.onnx")
    onnx.save(build_index(model, lists, [depth]), path)
    system = OnnxSystem(path, about, config.num_threads)
    system.identity = replace(system.identity, variant="index")
    return system


def random_student(arch: "Arch", num_items: int, seed: int) -> "Student":
    """Return a student of the default shape whose weights were drawn by chance."""
    import torch

    from student.model import Student, StudentConfig

    torch.manual_seed(seed)
    return Student(StudentConfig(arch=arch, num_items=num_items)).eval()


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
