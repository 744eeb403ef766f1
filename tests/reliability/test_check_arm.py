"""The check of answers on ARM, with this machine's Python in the emulated one's place."""

import shutil
import sys
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError, SourceError

import pytest

from tests.export.answers import export_random
from tests.reliability import check_arm as module
from tests.reliability.check_arm import CheckArmConfig, check_arm


def test_answers_there_are_compared_with_those_here(
    tiny_dataset: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "fetch_machine", lambda: tmp_path)
    monkeypatch.setattr(module, "python_on", lambda machine, processor: [sys.executable])
    one, other = (
        export_random(tmp_path / str(seed), tiny_dataset, "gru", "int8", seed=seed, hidden_dim=8)
        for seed in (0, 1)
    )
    config = CheckArmConfig(model_dir=one, num_histories=20)
    assert [(row[0].split()[0], *row[1:]) for row in check_arm(config)] == [
        ("cortex-a72", 20, 1.0, 1.0, 0.0),
        ("neoverse-n1", 20, 1.0, 1.0, 0.0),
    ]
    asking_other = module.ANSWER.replace("sys.argv[1]", repr(str(other)))
    monkeypatch.setattr(module, "ANSWER", asking_other)
    with pytest.raises(ModelError, match=r"emulated cortex-a72 only .* of the top 10"):
        check_arm(config)
    monkeypatch.setattr(module, "ANSWER", "raise SystemExit('illegal instruction')")
    with pytest.raises(ModelError, match=r"exit code 1: illegal instruction"):
        check_arm(config)


def test_without_debians_tools_the_reason_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="apt-get is not on this machine"):
        module.fetch_machine()
    assert not list((tmp_path / "cache").glob("arm/*onnxruntime*"))


def test_each_processor_is_described_by_its_features(tmp_path: Path) -> None:
    (tmp_path / "system" / "usr").mkdir(parents=True)
    for processor in module.PROCESSORS:
        module.describe(processor, tmp_path)
    old, new = ((tmp_path / p / "proc" / "cpuinfo").read_text() for p in module.PROCESSORS)
    assert ("asimddp" in old, "asimddp" in new) == (False, True)
    shutil.move(tmp_path, moved := tmp_path.with_name("moved"))  # as `atomic_directory` does
    assert (moved / "cortex-a72" / "usr").resolve() == moved / "system" / "usr"


def test_lists_are_compared_item_by_item() -> None:
    here = [[("a", 2.0), ("b", 1.0)], [("a", 2.0), ("b", 1.0)]]
    there = [[("b", 1.25), ("a", 1.0)], [("a", 2.0), ("b", 1.0)]]
    assert module.compare(here, there) == pytest.approx((0.5, 1.0, 1.0))
