"""The directory for ExecuTorch: with a stand-in for it and, where it is installed, with itself."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.environments import environment_folder
from seqrec.errors import DataError, ModelError
from seqrec.files import read_json, sha256_file, write_json

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from export.config import ToExecutorchConfig
from export.mobile import executorch_program as module
from export.mobile.executorch_program import (
    MODEL_FILE,
    REQUIREMENTS,
    make_questions,
    to_executorch,
)
from export.onnx_graph.exporting import Precision
from export.recommender import Recommender
from student.model import Arch, Student
from tests.export.answers import export_random, rename_items

pytestmark = pytest.mark.slow

MAX_LEN = 12
HONEST, SLOPPY, WRONG = 0.0, 1e-3, 1e3  # by how much scores are off
ExportOf = Callable[..., Path]


@pytest.fixture
def export_of(tiny_dataset: SequenceDataset, tmp_path: Path) -> ExportOf:
    """Return what exports a student of random weights, laid out as a run is."""

    def make(arch: Arch = "transformer", precision: Precision = "fp32") -> Path:
        return export_random(tmp_path / "run", tiny_dataset, arch, precision, max_len=MAX_LEN)

    return make


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what puts PyTorch, with scores that are off by so much, in ExecuTorch's place."""

    def put(error: float) -> None:
        def run(python: Path, student_dir: Path, precision: str, k: int, work: Path) -> None:
            with np.load(work / "questions.npz") as questions:
                items, excluded = questions["items"], questions["excluded"]
            with torch.inference_mode():
                scores = Student.from_pretrained(student_dir)(torch.from_numpy(items)).numpy()
            scores = scores + np.random.default_rng(0).normal(0, error, scores.shape)
            np.put_along_axis(scores, excluded, -np.inf, axis=1)
            scores[:, 0] = -np.inf
            top = np.argsort(-scores, axis=1)[:, :k]
            top_scores = np.take_along_axis(scores, top, axis=1).astype(np.float32)
            np.savez(work / "answers.npz", top_items=top, top_scores=top_scores)
            (work / MODEL_FILE).write_bytes(b"a program")
            write_json(work / "versions.json", {"executorch": "0"})

        monkeypatch.setattr(module, "_run_worker", run)

    monkeypatch.setattr(module, "ensure_environment", lambda requirements: Path(sys.executable))
    return put


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_the_directory_holds_all_that_a_client_needs(
    export_of: ExportOf, stand_in: Callable[[float], None], arch: Arch, precision: str
) -> None:
    stand_in(HONEST)
    export = export_of(arch, precision)
    folder = to_executorch(ToExecutorchConfig(model_dir=export, k=7))
    assert folder == export.parent.parent / "executorch" / export.name
    names = {file.name for file in folder.iterdir()}
    assert names == {MODEL_FILE, "items.json", "config.json", "README.md"}
    about = read_json(folder / "config.json")
    assert (about["k"], about["max_len"], about["precision"]) == (7, MAX_LEN, precision)
    assert about["compared_with_onnx_fp32"]["overlap"] == 1.0
    for name, value in about["sha256"].items():
        assert sha256_file(folder / name) == value
    items = json.loads((folder / "items.json").read_text())
    assert items["ids"] == Recommender.from_pretrained(export).item_ids
    card = (folder / "README.md").read_text()
    assert "## Data and licence" in card
    assert about["dataset_fingerprint"] in card
    assert ModelCard(card).data.library_name == "executorch"


@pytest.mark.parametrize(
    ("precision", "error", "message"),
    [
        ("fp32", SLOPPY, "does not answer as ONNX Runtime does"),
        ("int8", WRONG, r"shares only .*%.*90% are expected"),
    ],
)
def test_a_program_that_answers_otherwise_is_not_written(
    export_of: ExportOf,
    stand_in: Callable[[float], None],
    precision: str,
    error: float,
    message: str,
) -> None:
    stand_in(error)
    export = export_of("gru", precision)
    with pytest.raises(ModelError, match=message):
        to_executorch(ToExecutorchConfig(model_dir=export))
    assert list((export.parent.parent / "executorch").iterdir()) == []


def test_what_executorch_says_when_it_fails_is_passed_on(
    export_of: ExportOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own environment has no ExecuTorch."""
    monkeypatch.setattr(module, "ensure_environment", lambda requirements: Path(sys.executable))
    export = export_of()
    with pytest.raises(ModelError, match="could not lower .* No module named 'executorch'"):
        to_executorch(ToExecutorchConfig(model_dir=export))
    assert list((export.parent.parent / "executorch").iterdir()) == []


def test_it_replaces_its_own_and_nothing_else(
    export_of: ExportOf, stand_in: Callable[[float], None], tmp_path: Path
) -> None:
    stand_in(HONEST)
    export = export_of()
    for k in (3, 4):
        to_executorch(ToExecutorchConfig(model_dir=export, output_dir=tmp_path / "out", k=k))
    assert read_json(tmp_path / "out" / "config.json")["k"] == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(DataError, match=r"holds no model\.pte.*--output-dir"):
        to_executorch(ToExecutorchConfig(model_dir=export, output_dir=tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_without_the_very_student_nothing_is_lowered(
    export_of: ExportOf, stand_in: Callable[[float], None], tmp_path: Path
) -> None:
    stand_in(HONEST)
    export = export_of("gru")
    student = tmp_path / "run" / "students" / "gru" / "control"
    moved = shutil.move(student, tmp_path / "moved")
    with pytest.raises(ModelError, match=r"no student in .*--student-dir"):
        to_executorch(ToExecutorchConfig(model_dir=export))
    assert to_executorch(ToExecutorchConfig(model_dir=export, student_dir=Path(moved))).is_dir()
    Student(Student.from_pretrained(Path(moved)).config).save_pretrained(student)
    with pytest.raises(ModelError, match="was not exported from the student in"):
        to_executorch(ToExecutorchConfig(model_dir=export))


def test_what_cannot_be_lowered_is_refused_by_name(
    export_of: ExportOf, stand_in: Callable[[float], None]
) -> None:
    stand_in(HONEST)
    export = export_of()
    with pytest.raises(ModelError, match="--k 31: there are 30 items"):
        to_executorch(ToExecutorchConfig(model_dir=export, k=31))
    items = read_json(export / "items.json")
    rename_items(export, **{name: [*texts, "new"] for name, texts in items.items()})
    about = read_json(export / "config.json") | {"num_items": 31}  # as export.add_items leaves it
    write_json(export / "config.json", about)
    with pytest.raises(ModelError, match="has 31 items, its student 30"):
        to_executorch(ToExecutorchConfig(model_dir=export))
    write_json(export / "config.json", {**about, "precision": "int8-optimum"})
    with pytest.raises(ModelError, match="is int8-optimum, expected fp32 or int8"):
        to_executorch(ToExecutorchConfig(model_dir=export))


def test_questions_are_of_all_lengths_and_cut_to_the_newest() -> None:
    items, excluded = make_questions(num_items=100, max_len=5)
    assert items.shape == (len(excluded), 5)
    assert set((items > 0).sum(axis=1)) == {1, 2, 3, 4, 5}
    lengths = (excluded > 0).sum(axis=1)
    assert set(lengths) == set(range(11))  # 0: nothing is left out
    for shown, left_out, length in zip(items, excluded, lengths, strict=True):
        newest = left_out[-min(length, 5) :] if length else shown[:0]
        np.testing.assert_array_equal(shown[len(shown) - len(newest) :], newest)


def test_every_requirement_is_pinned() -> None:
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line[:1] not in ("", "#")]
    assert all(line.count("==") == 1 for line in lines)


@pytest.mark.usefixtures("user_cache")
@pytest.mark.parametrize(("arch", "precision"), [("gru", "fp32"), ("transformer", "int8")])
def test_the_model_card_of_a_real_program_tells_how_to_ask_it(
    export_of: ExportOf, arch: Arch, precision: str
) -> None:
    python = environment_folder(REQUIREMENTS) / "bin" / "python"
    if not python.exists():
        pytest.skip("ExecuTorch is not installed: python -m export.to_executorch does it once")
    export = export_of(arch, precision)
    folder = to_executorch(ToExecutorchConfig(model_dir=export, k=5))
    recommender = Recommender.from_pretrained(export)
    history = recommender.item_ids[: MAX_LEN + 3]
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    code = code.replace("['ITEM ID', 'ITEM ID']", repr(history)) + "\nprint(json.dumps(answer))\n"
    command = [str(python.absolute()), "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    wanted = [item.item_id for item in recommender.recommend(history, k=5)]
    assert not set(answer) & set(history)
    if precision == "fp32":
        assert answer == wanted
    else:
        assert len(set(answer) & set(wanted)) >= 4
