"""Who imports whom, and in what order, read from the sources."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Who may import whom. `export` and `benchmarks` may use `teacher` inside a function only.
ALLOWED = {
    "seqrec": set(),
    "teacher": {"seqrec"},
    "student": {"seqrec"},
    "export": {"seqrec", "student"},
    "benchmarks": {"seqrec", "student", "export"},
}
LLM_AND_ONNX = {
    *("transformers", "peft", "bitsandbytes", "gguf"),
    *("onnx", "onnxruntime", "onnxscript", "optimum"),
}
# They report to their makers unless `seqrec` has told them not to, in the environment.
REPORTING = {
    *("onnxruntime", "optimum", "huggingface_hub", "transformers", "accelerate", "peft", "ray"),
}
ENTRY_POINTS = {
    *("teacher/finetune.py", "teacher/tuning.py", "teacher/extract.py", "teacher/extracting.py"),
    *("teacher/tune_reader.py", "teacher/reading.py"),
    *("student/distill.py", "student/distilling.py"),
    *("benchmarks/latency.py", "benchmarks/accuracy.py"),
}
FILES = {package: sorted((ROOT / package).glob("**/*.py")) for package in ALLOWED}
ALL_FILES = [file for files in FILES.values() for file in files]


def imported(file: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Yield the full names of what a file imports, in order."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are always by full name"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(file: Path, *, top_level_only: bool = False) -> list[str]:
    return [name.split(".")[0] for name in imported(file, top_level_only=top_level_only)]


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_the_table_allows(package: str) -> None:
    top_level_only = package in ("export", "benchmarks")
    for file in FILES[package]:
        ours = ALLOWED.keys() & set(packages(file, top_level_only=top_level_only))
        assert ours - {package} <= ALLOWED[package], file


def test_the_shared_ground_knows_no_language_model_and_no_onnx_library() -> None:
    for file in FILES["seqrec"]:
        assert not LLM_AND_ONNX & set(packages(file)), file


def test_seqrec_is_imported_before_those_that_its_environment_is_for() -> None:
    """What reports; and in an entry point all, since OpenMP reads it when torch is loaded."""
    for file in ALL_FILES:
        if file.name.endswith("_worker.py"):  # it has the environment of who starts it
            continue
        libraries = [
            name
            for name in packages(file, top_level_only=True)
            if name not in sys.stdlib_module_names
        ]
        first = libraries.index("seqrec") if "seqrec" in libraries else len(libraries)
        assert not REPORTING & set(libraries[:first]), file
        assert first == 0 or str(file.relative_to(ROOT)) not in ENTRY_POINTS, file


def test_no_module_hides_a_library() -> None:
    taken = {"datasets", "peft", "evaluate", "onnx", "logging", "types", "copy", "random", "token"}
    assert not {file.stem for file in ALL_FILES} & taken


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in ALL_FILES
    }
    imports = {name: set(imported(file)) & files.keys() for name, file in files.items()}
    TopologicalSorter(imports).prepare()  # its error names the circle
