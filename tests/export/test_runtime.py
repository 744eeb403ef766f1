"""Whether the onnxruntime that is installed can run, by stand-ins for it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
OPEN = """
import sys
from seqrec.errors import run_main
from export.recommender import Recommender
run_main(lambda: Recommender.from_pretrained(sys.argv[1]))
"""
# What NumPy 2 and an onnxruntime that was built for NumPy 1 do: both the wall and the error.
WALL = """
import sys
sys.stderr.write("A module that was compiled using NumPy 1.x cannot be run in\\nNumPy 2 ...\\n")
raise ImportError
"""


def open_with(
    folder: Path, stand_in: Path, version: str, program: str
) -> subprocess.CompletedProcess[str]:
    (stand_in / "onnxruntime").mkdir(parents=True)
    (stand_in / "onnxruntime/__init__.py").write_text(
        f'"""A stand-in."""\n__version__ = "{version}"\n{program}'
    )
    return subprocess.run(
        [sys.executable, "-c", OPEN, str(folder)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{stand_in}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(np.__version__ < "2", reason="NumPy 1 is installed, with which all run")
@pytest.mark.parametrize("version", ["1.18.0", "1.9.2"])
def test_one_that_was_built_for_numpy_1_is_one_line_beside_numpy_2(
    folder: Path, tmp_path: Path, version: str
) -> None:
    done = open_with(folder, tmp_path, version, WALL)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"error: onnxruntime {version} cannot run beside numpy {np.__version__}: it was built for "
    )
    assert "Expected 1.19 or newer: pip install --upgrade onnxruntime" in line


def test_one_that_is_new_enough_is_loaded(folder: Path, tmp_path: Path) -> None:
    done = open_with(folder, tmp_path, "1.19.0", 'raise SystemExit("loaded")')
    assert done.stderr == "loaded\n"


def test_without_any_it_is_said_what_to_install(folder: Path) -> None:
    hidden = "import importlib.util; importlib.util.find_spec = lambda name: None\n"
    done = subprocess.run(
        [sys.executable, "-c", hidden + OPEN, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: onnxruntime is not installed. Expected 1.18 or newer: pip ")
