"""The check of answers on ARM, with this machine's own Python in the emulated one's place."""

import shutil
import sys
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError, SourceError

import numpy as np
import pytest
import torch

from export.onnx_graph.exporting import export_student
from student.model import Student, StudentConfig
from tests.reliability import check_arm as module
from tests.reliability.check_arm import CheckArmConfig, Machine, check_arm


def export_random(dataset: SequenceDataset, folder: Path, seed: int) -> Path:
    """Export a student of random weights."""
    torch.manual_seed(seed)
    shape = StudentConfig(arch="gru", num_items=dataset.num_items, hidden_dim=8, max_len=6)
    about = {"role": "control", "dataset_fingerprint": dataset.fingerprint}
    Student(shape).save_pretrained(folder / "student", **about)
    export_student(folder / "student", dataset, folder / "export", "int8")
    return folder / "export"


@pytest.fixture
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an emulated processor be this one."""
    machine = Machine(tmp_path / "machine")
    monkeypatch.setattr(Machine, "ensure", lambda: machine)
    monkeypatch.setattr(Machine, "command", lambda self, processor: [sys.executable])


@pytest.mark.usefixtures("native")
def test_the_same_answers_are_found_to_be_the_same(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    folder = export_random(tiny_dataset, tmp_path, seed=0)
    rows = check_arm(CheckArmConfig(model_dir=folder, num_histories=20))
    assert [row["processor"] for row in rows] == ["cortex-a72", "neoverse-n1"]
    for row in rows:
        assert row["num_histories"] == 20
        assert (row["same_top10"], row["overlap"], row["score_difference"]) == (1, 1, 0)


@pytest.mark.usefixtures("native")
def test_other_answers_are_refused(
    tiny_dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export_random(tiny_dataset, tmp_path / "first", seed=0)
    second = export_random(tiny_dataset, tmp_path / "second", seed=1)
    asked = Machine.answer
    monkeypatch.setattr(
        Machine,
        "answer",
        lambda self, processor, _, histories: asked(self, processor, second, histories),
    )
    with pytest.raises(ModelError, match="emulated cortex-a72 only .* of the top 10"):
        check_arm(CheckArmConfig(model_dir=first, num_histories=20))


@pytest.mark.usefixtures("native")
def test_what_does_not_answer_there_is_named_with_its_last_words(
    tiny_dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export_random(tiny_dataset, tmp_path, seed=0)
    monkeypatch.setattr(module, "ANSWER", "raise SystemExit('illegal instruction')")
    with pytest.raises(ModelError, match=r"exit code 1: illegal instruction"):
        check_arm(CheckArmConfig(model_dir=folder, num_histories=2))


def test_without_debians_tools_the_reason_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="apt-get is not on this machine"):
        Machine.ensure()
    assert not list((tmp_path / "cache").glob("arm/*onnxruntime*"))


def test_each_processor_is_described_by_its_own_features(tmp_path: Path) -> None:
    (tmp_path / "system" / "usr").mkdir(parents=True)
    for processor in module.PROCESSORS:
        module._describe(processor, tmp_path)
    old, new = ((tmp_path / p / "proc" / "cpuinfo").read_text() for p in module.PROCESSORS)
    assert ("asimddp" in old, "asimddp" in new) == (False, True)
    shutil.move(tmp_path, moved := tmp_path.with_name("moved"))  # as `atomic_directory` does
    assert (moved / "cortex-a72" / "usr").resolve() == moved / "system" / "usr"


def test_lists_are_compared_item_by_item() -> None:
    here = [[("a", 2.0), ("b", 1.0)], [("a", 2.0), ("b", 1.0)]]
    there = [[("b", 1.25), ("a", 1.0)], [("a", 2.0), ("b", 1.0)]]
    found = module.compare(here, there)
    np.testing.assert_allclose(
        [found["same_top10"], found["overlap"], found["score_difference"]], [0.5, 1.0, 1.0]
    )
