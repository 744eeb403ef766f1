"""8 bit as Optimum makes it, from an fp32 graph."""

from pathlib import Path

from seqrec.errors import ModelError

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from benchmarks.measure.quality import mean_overlap
from export.onnx_graph.builder import eight_bit_share
from export.onnx_graph.graph import write_graph
from export.onnx_graph.quantize import quantize, require_eight_bit
from export.recommender import open_session
from student.model import Arch, Student, StudentConfig

NUM_ITEMS, MAX_LEN, DIM = 200, 12, 32


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
    weights = onnx.load(pair[1]).graph.initializer
    tables = [t for t in weights if sorted(t.dims) == sorted((NUM_ITEMS + 1, DIM))]
    assert [t.data_type for t in tables] == [TensorProto.UINT8]


def test_fp32_files_hold_nothing_in_8_bit_and_int8_files_do(pair: tuple[Path, Path]) -> None:
    fp32, int8 = (onnx.load(path) for path in pair)
    assert eight_bit_share(fp32) == 0
    assert eight_bit_share(int8) > 0.5  # a GRU cell, 6,144 of 12,576 weights, stays as it is
    assert pair[1].stat().st_size < pair[0].stat().st_size


def test_int8_answers_nearly_as_fp32_does(pair: tuple[Path, Path]) -> None:
    rng = np.random.default_rng(0)
    lists = []
    lengths = rng.integers(1, MAX_LEN + 1, 100)
    histories = [rng.integers(1, NUM_ITEMS + 1, (1, length)) for length in lengths]
    for path in pair:
        session = open_session(path, num_threads=1)
        feeds = [{"items": h, "excluded": h, "k": np.array([10])} for h in histories]
        lists.append(np.concatenate([session.run(["top_items"], feed)[0] for feed in feeds]))
    assert mean_overlap(*lists) > 0.9


def test_padding_changes_nothing_in_int8(pair: tuple[Path, Path]) -> None:
    session = open_session(pair[1], num_threads=1)
    excluded, k = np.zeros((1, 0), dtype=np.int64), np.array([10])
    short = {"items": np.array([[5, 6]]), "excluded": excluded, "k": k}
    padded = {"items": np.array([[0, 0, 0, 5, 6]]), "excluded": excluded, "k": k}
    np.testing.assert_allclose(
        session.run(["top_scores"], padded)[0], session.run(["top_scores"], short)[0], rtol=1e-2
    )


def test_no_file_passes_as_int8_whose_table_is_fp32(pair: tuple[Path, Path]) -> None:
    require_eight_bit(onnx.load(pair[1]))
    with pytest.raises(ModelError, match="no 8-bit item table"):
        require_eight_bit(onnx.load(pair[0]))


def test_no_file_passes_as_int8_where_lookup_and_scores_read_different_tables() -> None:
    table = helper.make_tensor("a", TensorProto.UINT8, [2, 2], [1, 2, 3, 4])
    other = helper.make_tensor("b", TensorProto.UINT8, [2, 2], [1, 2, 3, 4])
    nodes = [
        helper.make_node("Gather", ["a", "items"], ["looked_up"]),
        helper.make_node("MatMulInteger", ["x", "b"], ["scores"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [table, other]))
    with pytest.raises(ModelError, match="no 8-bit item table"):
        require_eight_bit(model)
