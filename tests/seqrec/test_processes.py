"""Several real processes on the CPU, held against a single one; a launcher that starts too few."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import SeqRecError
from seqrec.files import read_json
from seqrec.knowledge import load_knowledge
from seqrec.processes import SHARDED, asked_for_more, start_accelerator

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from student.config import DistillConfig
from teacher.config import FinetuneConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(command: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Start processes from the checkout. A deadlock ends the test, by its time limit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def flags(config: object) -> list[str]:
    """Return the flags that make a config: those that differ from the defaults."""
    given = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            given += ["--" + field.name.replace("_", "-"), *map(str, values)]
    return given


@pytest.fixture(scope="module")
def trained(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """A teacher, its knowledge and a student, made by one process and by two; no dropout.

    The batch of 6 is shared out among two processes, and cut in four parts.
    """
    folders = {count: tmp_path_factory.mktemp(f"processes{count}") for count in (1, 2)}
    teacher = FinetuneConfig(
        data_dir=(tiny_dataset.path,),
        output_dir=folders[1],
        model=str(tiny_llm),
        bits=32,
        num_layers=1,
        lora_rank=2,
        item_dim=8,
        max_len=8,
        num_epochs=2,
        batch_size=6,
        refit_share=0.5,
        dropout=0.0,
        device="cpu",
        num_threads=1,
    )
    student = DistillConfig(
        data_dir=tiny_dataset.path,
        output_dir=folders[1],
        arch="gru",
        hidden_dim=8,
        dropout=0.0,
        max_len=8,
        teacher_weight=1.0,
        num_epochs=2,
        batch_size=7,
        device="cpu",
        num_threads=1,
    )
    shared = dataclasses.replace(teacher, output_dir=folders[2], gradient_accumulation=2)
    config_file = ["--config_file", "configs/cpu_2_processes.yaml"]
    for command, config in (
        ([sys.executable, "teacher/finetune.py"], teacher),
        ([*ACCELERATE, *config_file, "teacher/finetune.py"], shared),
        ([sys.executable, "-m", "student.distill"], student),
        ([*TORCHRUN, "-m", "student.distill"], dataclasses.replace(student, output_dir=folders[2])),
    ):
        done = start(command, *flags(config))
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize(
    "name",
    [
        *("teacher/adapter/adapter_model.safetensors", "teacher/head.safetensors"),
        *(
            "teacher/selection/adapter/adapter_model.safetensors",
            "teacher/selection/head.safetensors",
        ),
        *("students/gru/control/model.safetensors", "students/gru/distilled/model.safetensors"),
    ],
)
def test_two_processes_train_what_one_trains(trained: dict[int, Path], name: str) -> None:
    one, two = (load_file(trained[count] / name) for count in (1, 2))
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_allclose(one[key], two[key], rtol=1e-4, atol=1e-5, err_msg=key)


def test_two_processes_judge_each_target_once(trained: dict[int, Path]) -> None:
    one, two = (read_json(trained[count] / "teacher" / "metrics.json") for count in (1, 2))
    for protocol in ("seen_excluded", "seen_kept"):
        assert two["test"][protocol] == pytest.approx(one["test"][protocol])
    assert two["valid_ndcg@10"] == pytest.approx(one["valid_ndcg@10"])
    assert two["recipe"] == one["recipe"]


def test_the_knowledge_of_two_processes_is_that_of_one(
    trained: dict[int, Path], tiny_dataset: SequenceDataset
) -> None:
    one, two = (load_knowledge(trained[count] / "knowledge", tiny_dataset) for count in (1, 2))
    for name in ("states", "item_vectors", "text_components"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=2e-3)
    left = {file.name for file in trained[2].iterdir()}
    assert left == {"teacher", "knowledge", "students", "soft-targets"}  # nothing half made


FAILS = """
import sys
from seqrec.errors import SeqRecError, run_main
from seqrec.processes import start_accelerator

def main():
    accelerator = start_accelerator("cpu")
    assert accelerator.num_processes == 2
    if sys.argv[1] == "both" or accelerator.process_index == 1:
        raise SeqRecError("the disk is full")
    accelerator.wait_for_everyone()

run_main(main)
"""


@pytest.mark.parametrize("who", ["both", "process 1"])
def test_a_process_that_fails_ends_all_with_one_line(tmp_path: Path, who: str) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    done = start(TORCHRUN, tmp_path / "fails.py", who)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    name = "" if who == "both" else "process 1: "
    assert lines == [f"error: {name}the disk is full"]


COUNTS = """
from seqrec.errors import run_main
from seqrec.processes import start_accelerator

run_main(lambda: print("processes:", start_accelerator("auto").num_processes))
"""


def test_a_launcher_that_starts_fewer_than_asked_for_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "counts.py").write_text(COUNTS)
    done = start([*ACCELERATE, "--cpu", "--num_processes", "2"], tmp_path / "counts.py")
    assert done.stdout.split("\n")[0] == "processes: 1"
    assert done.stderr.count("was asked for several processes and started one") == 1


def test_one_process_that_was_asked_for_is_not_remarked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    assert not asked_for_more()  # without a launcher
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert not asked_for_more()  # accelerate launch, one process
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert asked_for_more()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not asked_for_more()  # several, and they run


def test_processes_that_know_nothing_of_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # and no more of what a launcher sets
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    with pytest.raises(SeqRecError, match="takes each for the only one.*--device cpu"):
        start_accelerator("auto")


@pytest.mark.parametrize("without_gpu", [True, False])
@pytest.mark.parametrize("variable", SHARDED)
def test_what_would_split_the_model_is_refused_with_a_gpu_and_without(
    monkeypatch: pytest.MonkeyPatch, variable: str, without_gpu: bool
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as the launcher leaves it
    monkeypatch.setattr("torch.accelerator.is_available", lambda: not without_gpu)
    monkeypatch.setenv(variable, "true")
    command = "torchrun --nproc_per_node 2" if without_gpu else "configs/multi_gpu.yaml"
    with pytest.raises(SeqRecError, match=f"to split the model .* Type: .*{command}") as raised:
        start_accelerator("auto")
    assert "\n" not in str(raised.value)


def test_a_gpu_that_was_asked_for_by_name_and_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SeqRecError, match="finds none. Type --device cpu"):
        start_accelerator("cuda")


def test_accelerates_own_settings_change_no_number_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # which no CPU has
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = start_accelerator("cpu")
    assert accelerator.mixed_precision == "no"
    weight = torch.ones(1, requires_grad=True)
    accelerator.backward(weight * 3)
    assert weight.grad is not None
    assert weight.grad.item() == 3.0  # not a fourth of it
    model = torch.nn.Linear(2, 2)
    assert accelerator.prepare(model) is model  # not compiled
    for name in ("MIXED_PRECISION=fp16", "DYNAMO_BACKEND=inductor", "STEPS=4"):
        assert caplog.text.count(name) == 1


def test_settings_as_they_are_by_default_are_not_remarked_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in SHARDED:
        monkeypatch.setenv(name, "false")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    start_accelerator("cpu")
    assert "is not used" not in caplog.text


FSDP = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config: {fsdp_version: 2}
num_machines: 1
num_processes: 2
mixed_precision: 'no'
"""


def test_accelerates_own_configuration_with_fsdp_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "default_config.yaml").write_text(FSDP)
    command = [*ACCELERATE, "--config_file", str(tmp_path / "default_config.yaml")]
    done = start(command, "teacher/finetune.py", "--data-dir", tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines  # the second process may say it too before the launcher ends it
    assert all("was told to split the model over the processes (FSDP)" in line for line in lines)
    assert done.returncode != 0
    assert "RuntimeError" not in done.stderr
