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

import json
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

from benchmarks.baselines.libraries import BASELINES, Baseline
from benchmarks.measure.flags import TimingFlags
from benchmarks.measure.lower_bound import BYTES, DEFINITION, time_beside_bound
from benchmarks.measure.machine import OtherWork, describe_machine
from benchmarks.measure.quality import K
from benchmarks.measure.queries import Request
from benchmarks.measure.students import OnnxSystem, StepSystem
from benchmarks.measure.systems import System
from benchmarks.report.files import save
from benchmarks.report.schema import CatalogueResults, CatalogueRow, Failure
from benchmarks.report.tables import format_catalogue
from export.contract import OUTPUT_NAMES

if TYPE_CHECKING:
    from student.model import Arch

logger = logging.getLogger(__name__)

HISTORY_LENGTH = 50
NUM_REQUESTS = 64
NUM_PROFILED = 50  # requests
NUM_OPERATORS = 4  # that are named


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
            systems = open_students(num_items, folder, config)
            if config.baselines:
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


def profile(file: Path, requests: Sequence[Request], num_threads: int) -> list[tuple[str, float]]:
    """Return the operators of a file that take most time, each with its fraction of all's.

    ONNX Runtime's profiler writes a line for every node and call, which itself takes microseconds:
    a node's time counts less the fastest node's. Of a branch its nodes count, not the `If`.
    """
    import onnxruntime as ort  # by now after `seqrec`, which turns its telemetry off
    import polars as pl

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = num_threads, 3
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for request in requests[:NUM_PROFILED]:
            feeds = {"items": request.items, "excluded": request.excluded, "k": request.k}
            session.run(OUTPUT_NAMES, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    calls = [
        {"operator": event["args"]["op_name"], "node": event["name"], "us": event["dur"]}
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    operators = (
        pl.DataFrame(calls)
        .filter(pl.col("operator") != "If")
        .group_by("operator", "node")
        .agg(pl.col("us").median())
        .with_columns(pl.col("us") - pl.col("us").min())
        .group_by("operator")
        .agg(pl.col("us").sum())
        .with_columns((pl.col("us") / pl.max_horizontal(pl.col("us").sum(), 1e-9)).alias("part"))
        .sort("part", "operator", descending=[True, False])
    )
    return operators.select("operator", "part").head(NUM_OPERATORS).rows()


def open_students(num_items: int, folder: Path, config: CatalogueConfig) -> list[System]:
    """Export students of random weights and open their files."""
    import torch

    from export.onnx_graph.graph import write_graph
    from export.onnx_graph.quantize import quantize
    from student.model import Student, StudentConfig

    systems: list[System] = []
    archs: tuple[Arch, ...] = ("transformer", "gru")
    for arch in archs:
        torch.manual_seed(config.seed)
        student = Student(StudentConfig(arch=arch, num_items=num_items)).eval()
        for precision in ("fp32", "int8", "int8-optimum"):
            path = folder / f"{arch}-{precision}.onnx"
            if precision == "int8-optimum":
                quantize(folder / f"{arch}-fp32.onnx", path)
            else:
                write_graph(student, path, precision)  # type: ignore[arg-type]
            described = {
                "arch": arch,
                "precision": precision,
                "num_parameters": student.num_parameters,
                "max_len": HISTORY_LENGTH,
            }
            systems.append(OnnxSystem(path, described, config.num_threads))
            if arch == "gru" and precision == "int8":
                systems.append(StepSystem(path, described, config.num_threads))
            if precision == "int8" and config.index_lists:
                systems.append(open_index(path, described, config))
    return systems


def open_index(source: Path, described: dict[str, Any], config: CatalogueConfig) -> OnnxSystem:
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
    system = OnnxSystem(path, described, config.num_threads)
    system.identity = replace(system.identity, variant="index")
    return system


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
