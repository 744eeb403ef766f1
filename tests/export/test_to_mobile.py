"""The directory for phones: what it holds, and that it answers as the export does."""

import subprocess
import sys
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError

import numpy as np
import pytest

from export.config import ToMobileConfig
from export.mobile import ort_format as module
from export.mobile.ort_format import MODEL_FILE, OPERATORS, to_mobile
from export.onnx_graph.exporting import Precision
from export.recommender import Recommender, open_session
from student.model import Arch
from tests.export.answers import export_random, flip_a_byte

pytestmark = pytest.mark.slow

MAX_LEN = 12


@pytest.fixture
def export(tiny_dataset: SequenceDataset, tmp_path: Path) -> Path:
    return export_random(tmp_path / "run", tiny_dataset, "transformer", "int8", max_len=MAX_LEN)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_it_is_a_recommender_that_answers_as_the_export_does(
    tiny_dataset: SequenceDataset, tmp_path: Path, arch: Arch, precision: Precision
) -> None:
    export = export_random(tmp_path, tiny_dataset, arch, precision, max_len=MAX_LEN)
    folder = to_mobile(ToMobileConfig(model_dir=export))
    assert folder == tmp_path / "mobile" / export.name
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


def test_it_names_all_operators_and_is_neither_damaged_nor_converted_again(export: Path) -> None:
    folder = to_mobile(ToMobileConfig(model_dir=export))
    lines = (folder / OPERATORS).read_text().splitlines()
    named = "".join(line for line in lines if not line.startswith("#"))
    for operator in ("MatMulInteger", "TopK", "ScatterElements", "Softmax"):
        assert operator in named
    with pytest.raises(ModelError, match=r"holds model\.ort already"):
        to_mobile(ToMobileConfig(model_dir=folder, output_dir=folder / "again"))
    flip_a_byte(folder / MODEL_FILE)
    with pytest.raises(ModelError, match=r"model\.ort is damaged"):
        Recommender.from_pretrained(folder)


def test_what_does_not_answer_alike_is_not_written(
    export: Path, monkeypatch: pytest.MonkeyPatch, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    other = export_random(tmp_path / "other", tiny_dataset, "transformer", seed=2, max_len=MAX_LEN)
    wrong = open_session(other / "model.onnx", 1)
    monkeypatch.setattr(module, "open_session", lambda file, num_threads: wrong)
    with pytest.raises(ModelError, match=r"model\.ort does not answer as model\.onnx does"):
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


def test_the_command_says_where_it_wrote(export: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "export.to_mobile", f"--model-dir={export}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(export.parent.parent / "mobile" / export.name) in done.stderr
