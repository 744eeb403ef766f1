"""Untrained students, their items' rows random, exported for a catalogue of any size."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure.quality import K
from benchmarks.measure.students import OnnxSystem, StepSystem
from benchmarks.measure.systems import System

if TYPE_CHECKING:
    from export.onnx_graph.exporting import Precision
    from student.model import Arch

HISTORY_LENGTH = 50
LARGE = 4_000_000  # items: from there on in int8 alone, or files and sessions would take 20 GB
ARCHS: tuple["Arch", ...] = ("transformer", "gru")


def open_untrained(
    num_items: int, folder: Path, *, index_lists: int, num_threads: int, seed: int
) -> list[System]:
    """Export students in all precisions and open their files, in int8 also those of an index.

    Args:
        num_items: of the catalogue; from `LARGE` on in int8 alone.
        folder: where the files go.
        index_lists: lists that an index looks at; 0: none.
        num_threads: of a session.
        seed: of the weights.
    """
    import torch

    from export.onnx_graph.graph import write_graph
    from export.onnx_graph.quantize import quantize
    from student.model import Student, StudentConfig

    systems: list[System] = []
    every: list[Precision] = ["fp32", "int8", "int8-optimum"]
    precisions = every if num_items < LARGE else every[1:2]
    for arch in ARCHS:
        torch.manual_seed(seed)
        student = Student(StudentConfig(arch=arch, num_items=num_items)).eval()
        for precision in precisions:
            path = folder / f"{arch}-{precision}.onnx"
            if precision == "int8-optimum":
                quantize(folder / f"{arch}-fp32.onnx", path)
            else:
                write_graph(student, path, precision)
            described = {
                "arch": arch,
                "precision": precision,
                "num_parameters": student.num_parameters,
                "max_len": HISTORY_LENGTH,
            }
            systems.append(OnnxSystem(path, described, num_threads))
            if precision == "int8" and arch == "gru":
                systems.append(StepSystem(path, described, num_threads))
            if precision == "int8" and index_lists:
                systems.append(_open_index(path, described, index_lists, num_threads, seed))
    return systems


def _open_index(
    source: Path, described: dict[str, Any], index_lists: int, num_threads: int, seed: int
) -> OnnxSystem:
    """Open a student's int8 file with an index whose lists were filled in the items' order."""
    import onnx

    from export.index.graph import Depth, build_index, item_rows, save
    from export.index.lists import ItemLists, list_size_for

    model = onnx.load(source)
    num_items, width = item_rows(model).shape
    size = list_size_for(num_items)
    num_lists = num_items // size + 1
    numbers = np.zeros(num_lists * size, dtype=np.int32)
    numbers[:num_items] = np.arange(1, num_items + 1)
    keys = np.random.default_rng(seed).standard_normal((num_lists, width), dtype=np.float32)
    lists = ItemLists(numbers.reshape(num_lists, size), keys, np.zeros(num_lists, np.float32))
    folder = source.with_suffix("")
    folder.mkdir()
    save(build_index(model, lists, [Depth(K, min(index_lists, num_lists))]), folder)
    system = OnnxSystem(folder / "model.onnx", described, num_threads)
    system.identity = replace(system.identity, variant="index")
    return system
