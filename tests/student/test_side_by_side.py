"""Students trained beside each other come out as those trained one after the other."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import SeqRecError
from seqrec.knowledge import Knowledge

import pytest
import torch
from accelerate import Accelerator

from student.config import DistillConfig
from student.distilling import train_all
from student.side_by_side import run_side_by_side

pytestmark = pytest.mark.slow


def write_or_fail(folder: str, name: str, num_threads: int) -> None:
    if name == "bad":
        raise SeqRecError("the data are upside down")
    if name == "dead":
        os._exit(3)
    if name == "slow":
        time.sleep(600)
    (Path(folder) / name).write_text(str(num_threads))


def test_each_task_runs_once_and_is_told_its_threads(tmp_path: Path) -> None:
    run_side_by_side(write_or_fail, [(str(tmp_path), name) for name in "abc"], 2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b", "c"]


def test_the_error_of_one_ends_the_others(tmp_path: Path) -> None:
    tasks = [(str(tmp_path), "slow"), (str(tmp_path), "bad"), (str(tmp_path), "later")]
    with pytest.raises(SeqRecError, match="upside down"):
        run_side_by_side(write_or_fail, tasks, 2)
    assert not list(tmp_path.iterdir())


def test_a_process_that_dies_without_a_word_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match="exit code 3"):
        run_side_by_side(write_or_fail, [(str(tmp_path), "dead"), (str(tmp_path), "slow")], 2)


def test_students_trained_beside_each_other_are_those_trained_one_by_one(
    tiny_dataset: SequenceDataset, make_knowledge: Callable[..., Knowledge], tmp_path: Path
) -> None:
    config = DistillConfig(
        data_dir=tiny_dataset.path, hidden_dim=8, max_len=8, num_epochs=2, batch_size=16
    )
    weights = {}
    for num_threads in (1, 2):  # with one thread one after the other, with two beside each other
        output_dir = tmp_path / str(num_threads)
        knowledge = make_knowledge(tiny_dataset, name=f"{num_threads}/knowledge")
        torch.set_num_threads(num_threads)
        try:
            train_all(
                ["gru", "transformer"],
                dataclasses.replace(config, output_dir=output_dir),
                tiny_dataset,
                knowledge,
                Accelerator(cpu=True),
            )
        finally:
            torch.set_num_threads(1)
        weights[num_threads] = {
            str(file.relative_to(output_dir)): file.read_bytes()
            for file in output_dir.glob("students/*/*/model.safetensors")
        }
    assert len(weights[1]) == 4
    assert weights[1] == weights[2]
