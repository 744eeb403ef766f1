"""The directory for phones: what it holds, and that it answers as the export does."""

import subprocess
import sys
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError

import numpy as np
import pytest
import torch

from export.config import ToMobileConfig
from export.mobile import ort_format as module
from export.mobile.ort_format import MODEL_FILE, OPERATORS, to_mobile
from export.onnx_graph.exporting import Precision, export_student
from export.onnx_graph.graph import write_graph
from export.recommender import Recommender
from student.model import Arch, Student, StudentConfig

pytestmark = pytest.mark.slow

MAX_LEN = 12


@pytest.fixture
def export(request: pytest.FixtureRequest, tiny_dataset: SequenceDataset, tmp_path: Path) -> Path:
    """An exported student of random weights; parametrised by (arch, precision)."""
    arch: Arch
    precision: Precision
    arch, precision = getattr(request, "param", ("transformer", "int8"))
    torch.manual_seed(1)
    shape = StudentConfig(arch=arch, num_items=tiny_dataset.num_items, max_len=MAX_LEN)
    about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
    Student(shape).save_pretrained(tmp_path / "student", **about)
    folder = tmp_path / "export" / "student"
    export_student(tmp_path / "student", tiny_dataset, folder, precision)
    return folder


@pytest.mark.parametrize(
    "export",
    [("gru", "fp32"), ("gru", "int8"), ("transformer", "fp32"), ("transformer", "int8")],
    indirect=True,
)
def test_it_is_a_recommender_that_answers_as_the_export_does(export: Path) -> None:
    folder = to_mobile(ToMobileConfig(model_dir=export))
    assert folder == export.parent.parent / "mobile" / export.name
    theirs, ours = Recommender.from_pretrained(export), Recommender.from_pretrained(folder)
    rng = np.random.default_rng(0)
    for length in (1, 2, MAX_LEN, 3 * MAX_LEN):
        history = rng.choice(theirs.item_ids, length).tolist()
        assert ours.recommend(history, k=5) == theirs.recommend(history, k=5)
        sessions = [recommender.start_session(history) for recommender in (theirs, ours)]
        for session in sessions:
            session.recommend()
            session.add(history[0])
        assert sessions[0].recommend(5) == sessions[1].recommend(5)


def test_the_runtime_is_told_all_operators_of_the_model(export: Path) -> None:
    folder = to_mobile(ToMobileConfig(model_dir=export))
    lines = (folder / OPERATORS).read_text().splitlines()
    named = "".join(line for line in lines if not line.startswith("#"))
    for operator in ("MatMulInteger", "TopK", "ScatterElements", "Softmax"):
        assert operator in named


def test_a_damaged_model_is_refused(export: Path) -> None:
    folder = to_mobile(ToMobileConfig(model_dir=export))
    content = bytearray((folder / MODEL_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / MODEL_FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.ort is damaged"):
        Recommender.from_pretrained(folder)


def test_what_does_not_answer_alike_is_not_written(
    export: Path, monkeypatch: pytest.MonkeyPatch, tiny_dataset: SequenceDataset
) -> None:
    torch.manual_seed(2)
    shape = StudentConfig(arch="transformer", num_items=tiny_dataset.num_items, max_len=MAX_LEN)
    other = export.parent / "other.onnx"
    write_graph(Student(shape).eval(), other)
    opened = module.open_session
    monkeypatch.setattr(module, "open_session", lambda file, num_threads: opened(other, 1))
    with pytest.raises(ModelError, match="does not answer a history"):
        to_mobile(ToMobileConfig(model_dir=export))
    assert not (export.parent.parent / "mobile" / export.name).exists()


def test_it_replaces_its_own_and_nothing_else(export: Path, tmp_path: Path) -> None:
    config = ToMobileConfig(model_dir=export, output_dir=tmp_path / "out")
    for _ in range(2):
        to_mobile(config)
    assert Recommender.from_pretrained(tmp_path / "out").recommend(["b01"], k=3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(DataError, match=r"holds no model\.ort.*--output-dir"):
        to_mobile(ToMobileConfig(model_dir=export, output_dir=tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_what_was_converted_is_not_converted_again(export: Path) -> None:
    folder = to_mobile(ToMobileConfig(model_dir=export))
    with pytest.raises(ModelError, match=r"holds model\.ort already"):
        to_mobile(ToMobileConfig(model_dir=folder, output_dir=folder / "again"))


def test_the_command_says_where_it_wrote(export: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "export.to_mobile", f"--model-dir={export}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(export.parent.parent / "mobile" / export.name) in done.stderr
