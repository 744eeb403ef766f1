"""Systems answer as what they are made of does."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import write_json

import numpy as np
import pytest
import torch

from benchmarks.measure.quality import top_lists
from benchmarks.measure.queries import NOTHING, Request
from benchmarks.measure.students import (
    CallSystem,
    OnnxSystem,
    StepSystem,
    TeacherSystem,
    TorchSystem,
)
from benchmarks.measure.systems import load_runner
from benchmarks.report.schema import LatencyResults
from teacher.config import FinetuneConfig
from teacher.tuning import build_teacher


@pytest.mark.parametrize("other", [StepSystem, CallSystem])
def test_a_kept_state_and_the_clients_call_give_the_lists_of_the_file(
    other: type[OnnxSystem],
    results: LatencyResults,
    run_folder: Path,
    tiny_dataset: SequenceDataset,
) -> None:
    folder = run_folder / "export" / "gru-distilled-int8"
    systems = [one.from_pretrained(folder, 1) for one in (OnnxSystem, other)]
    for batch_size in (1, 16):
        for exclude_seen in (True, False):
            lists = [
                top_lists(system, tiny_dataset, exclude_seen=exclude_seen, batch_size=batch_size)
                for system in systems
            ]
            np.testing.assert_array_equal(*lists)
    newest = Request(np.array([[3]]), NOTHING, np.array([2]))  # nothing came before
    np.testing.assert_array_equal(*[system.checked(newest, 30) for system in systems])
    assert systems[1].timed([newest] * 3).shape == (3, 2)
    rows = {row.precision_label: row for row in results.rows if row.role == "distilled"}
    assert rows[systems[1].identity.precision_label].metrics == rows["int8"].metrics


def test_the_teacher_answers_with_its_own_scores(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path: Path
) -> None:
    config = FinetuneConfig(model=str(tiny_llm), num_layers=1, max_len=6, item_dim=8, lora_rank=2)
    teacher = build_teacher(config, tiny_dataset, torch.device("cpu")).eval()
    teacher.save_pretrained(tmp_path)
    write_json(tmp_path / "metrics.json", {"num_parameters": 1, "size_bytes": 1})
    system = TeacherSystem(tmp_path, num_threads=1)
    items, _ = system.recommend(np.array([[1, 2, 3]]), np.array([[1, 2, 3]]), np.array([5]))
    with torch.inference_mode():
        order = teacher(torch.tensor([[1, 2, 3]]))[0].argsort(descending=True).tolist()
    assert items[0].tolist() == [item for item in order if item > 3][:5]


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_student_in_pytorch_gives_the_lists_of_its_exported_file(
    run_folder: Path, tiny_dataset: SequenceDataset, is_compiled: bool
) -> None:
    if is_compiled and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    folder = run_folder / "students" / "gru" / "distilled"
    in_torch = TorchSystem(folder, 1, is_compiled=is_compiled)
    exported = OnnxSystem.from_pretrained(run_folder / "export" / "gru-distilled-fp32", 1)
    lists = [top_lists(system, tiny_dataset, exclude_seen=True) for system in (in_torch, exported)]
    np.testing.assert_array_equal(*lists)
    assert in_torch.identity.system == exported.identity.system
    # Rows are told apart by it.
    assert in_torch.identity.precision_label != exported.identity.precision_label


def no_length(dataset: SequenceDataset) -> SimpleNamespace:
    return SimpleNamespace(
        system="short",
        precision="fp32",
        size_mib=0.0,
        num_parameters=0,
        max_len=0,
        recommend=lambda *_: None,
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere:Runner", "ModuleNotFoundError: No module named 'nowhere'"),
        ("math:Runner", "AttributeError: .*Runner"),
        ("math", "AttributeError"),
        ("builtins:iter", "TypeError"),  # it fails on the data set
        ("builtins:id", "AttributeError: 'int' object has no attribute 'recommend'"),
        ("runners_here:make", "max_len is 1 or more"),
    ],
)
def test_what_is_no_runner_is_refused_in_one_line(
    spec: str, message: str, tiny_dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "runners_here", SimpleNamespace(make=no_length))
    with pytest.raises(ModelError, match=message) as refused:
        load_runner(spec, tiny_dataset)
    assert "\n" not in str(refused.value)
