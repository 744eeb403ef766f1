"""8 bit as Optimum makes it, from an fp32 graph."""

import shutil
from pathlib import Path

from seqrec.errors import ModelError

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from export.onnx_graph import quantize as module
from export.onnx_graph.builder import eight_bit_share
from export.onnx_graph.graph import write_graph
from export.onnx_graph.quantize import quantize
from export.parity import ask, overlap
from export.recommender import open_session
from student.model import Arch, Student, StudentConfig

NUM_ITEMS, MAX_LEN, DIM = 200, 12, 32
NOTHING = np.zeros((1, 0), np.int64)


def structured_student(arch: Arch) -> Student:
    """Items lie on a ring and neighbours are alike, as after training; the rest is random."""
    torch.manual_seed(0)
    config = StudentConfig(arch=arch, num_items=NUM_ITEMS, max_len=MAX_LEN, hidden_dim=DIM)
    student = Student(config).eval()
    angle = torch.arange(1, NUM_ITEMS + 1)[:, None] / NUM_ITEMS * 2 * torch.pi
    waves = torch.arange(1, DIM // 2 + 1)
    ring = torch.cat([(angle * waves).sin(), (angle * waves).cos()], dim=1) / waves.repeat(2).sqrt()
    with torch.no_grad():
        student.item_embedding.weight[1:] = ring + 0.1 * torch.randn(NUM_ITEMS, DIM)
    return student


@pytest.fixture(scope="module", params=["gru", "transformer"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("quantized")
    write_graph(structured_student(request.param), folder / "fp32.onnx")
    quantize(folder / "fp32.onnx", folder / "int8.onnx")
    return folder / "fp32.onnx", folder / "int8.onnx"


def test_the_item_table_is_held_once_and_in_8_bit(pair: tuple[Path, Path]) -> None:
    fp32, int8 = (onnx.load(path) for path in pair)
    size = (NUM_ITEMS + 1) * DIM
    tables = [held for held in int8.graph.initializer if np.prod(held.dims) == size]
    assert [held.data_type for held in tables] == [TensorProto.UINT8]
    assert eight_bit_share(fp32) == 0
    assert eight_bit_share(int8) > 0.5  # a GRU cell, 6,144 of 12,576 weights, stays as it is


def test_int8_answers_nearly_as_fp32_does(pair: tuple[Path, Path]) -> None:
    rng = np.random.default_rng(0)
    sessions = [open_session(path, num_threads=1) for path in pair]
    shared = []
    for length in rng.integers(1, MAX_LEN + 1, 100):
        items = rng.integers(1, NUM_ITEMS + 1, (1, length))
        shared.append(overlap(*(ask(session, items, items, 10)[0][0] for session in sessions)))
    assert np.mean(shared) > 0.9


def test_padding_changes_nothing_in_int8(pair: tuple[Path, Path]) -> None:
    session = open_session(pair[1], num_threads=1)
    short, padded = np.array([[5, 6]]), np.array([[0, 0, 0, 5, 6]])
    answers = [ask(session, items, NOTHING, 10)[1] for items in (short, padded)]
    np.testing.assert_allclose(*answers, rtol=1e-2)


def test_no_file_passes_as_int8_whose_table_is_fp32(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_it(self: object, config: object, folder: str, file_suffix: str) -> None:
        shutil.copy(Path(folder) / "given.onnx", Path(folder) / "given_quantized.onnx")

    monkeypatch.setattr(module.ORTQuantizer, "quantize", leave_it)
    with pytest.raises(ModelError, match="does not hold its item table once and in 8 bit"):
        quantize(pair[0], tmp_path / "int8.onnx")
    assert not list(tmp_path.iterdir())
