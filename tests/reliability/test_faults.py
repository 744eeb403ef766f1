"""Full disks and interruptions: one line, and nothing is lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# A process that may write no file above so many bytes meets what it meets on a full disk.
SMALL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
WRITERS = """
from pathlib import Path
import numpy as np, onnx, polars, shutil, sys, torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from seqrec.errors import run_main
from seqrec.files import write_text

big = np.random.default_rng(0).normal(size=40_000)
model = onnx.helper.make_model(onnx.helper.make_graph(
    [], "g", [], [], initializer=[onnx.numpy_helper.from_array(big, "big")]
))
writers = {
    "numpy": lambda: np.save("big.npy", big),
    "safetensors": lambda: save_file({"big": big}, "big.safetensors"),
    "torch": lambda: save_tensors({"big": torch.from_numpy(big)}, "big.safetensors"),
    "onnx": lambda: onnx.save(model, "big.onnx"),
    "polars": lambda: polars.DataFrame({"big": big}).write_parquet("big.parquet"),
    "text": lambda: write_text(Path("big.txt"), "x" * 400_000),
}
"""


def test_a_full_disk_is_one_line_whoever_writes(tmp_path: Path) -> None:
    each = """
for name, writer in writers.items():
    try:
        run_main(writer)
    except SystemExit as end:
        print(name, end.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", SMALL_DISK + WRITERS + each],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    names = ["numpy", "safetensors", "torch", "onnx", "polars", "text"]
    assert done.stdout.splitlines() == [f"{name} 2" for name in names], done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(names)
    for line in lines:
        assert line.startswith("error: ")
        assert "File too large" in line or "could not be written whole" in line
        assert line.endswith("type the same command again")


def test_an_interruption_is_one_line_and_its_own_exit_code(tmp_path: Path) -> None:
    code = """
import time
from pathlib import Path
from seqrec.errors import run_main
from seqrec.files import atomic_directory

def main():
    with atomic_directory(Path("folder")) as folder:
        print("working", flush=True)
        time.sleep(60)

run_main(main)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        said.split()
        == "interrupted; type the same command again to go on from the last checkpoint".split()
    )
    assert list(tmp_path.iterdir()) == []
