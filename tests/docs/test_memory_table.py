"""The table of language models' memory says what the plan of `--dry-run` says."""

import re
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset

import pytest
import torch
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from teacher import pace, plan
from teacher.config import FullFinetuneConfig

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "language-model.md"
NUM_ITEMS = 1682  # of MovieLens-100K


def shape(
    kind: type[PretrainedConfig], width: int, inner: int, layers: int, heads: int, kv_heads: int
) -> PretrainedConfig:
    return kind(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
    )


# As the configurations say that their publishers put beside the weights.
SHAPES = {
    "SmolLM2-135M": shape(LlamaConfig, 576, 1536, 30, 9, 3),
    "Qwen2.5-0.5B": shape(Qwen2Config, 896, 4864, 24, 14, 2),
    "Llama-3.2-1B": shape(LlamaConfig, 2048, 8192, 16, 32, 8),
    "Qwen2.5-1.5B": shape(Qwen2Config, 1536, 8960, 28, 12, 2),
    "Qwen2.5-7B": shape(Qwen2Config, 3584, 18944, 28, 28, 4),
    "Llama-3.1-8B": shape(LlamaConfig, 4096, 14336, 32, 32, 8),
}


def rows() -> dict[str, list[str]]:
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^\| ([\w.-]+) \| ([\d,]+ M) \| (.*) \|$", text, re.M)
    return {name: [weights, *cells.split(" | ")] for name, weights, cells in found}


def test_the_table_has_a_row_for_each_shape() -> None:
    assert rows().keys() == SHAPES.keys()


@pytest.mark.parametrize("name", SHAPES)
def test_its_figures_are_those_of_the_plan(
    name: str,
    write_sequences: Callable[[list[list[int]], int], SequenceDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = pace.Pace(0, 0, 0)
    monkeypatch.setattr(pace, "measure_pace", lambda *_: nothing)  # time is not in it
    SHAPES[name].save_pretrained(tmp_path / "model")
    dataset = write_sequences([[1, 2, 3, 4]], NUM_ITEMS)

    def planned(gradient_checkpointing: bool) -> plan.Plan:
        flags = FullFinetuneConfig(
            model=str(tmp_path / "model"),
            num_layers=0,
            num_epochs=1,
            batch_size=16,
            gradient_checkpointing=gradient_checkpointing,
        )
        return plan.make_plan(dataset, flags, torch.device("cuda"))

    without, with_checkpoints = planned(False), planned(True)
    weights, frozen, memory, less = rows()[name]
    assert weights == f"{without.num_weights / 1e6:,.0f} M"
    assert frozen == f"{without.frozen_bytes / plan.GIB:.2f} GiB"
    assert memory == f"{without.peak_bytes / plan.GIB:.1f} GiB"
    assert less == f"{with_checkpoints.peak_bytes / plan.GIB:.1f} GiB"
