import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("seqrec", "teacher", "student", "export", "benchmarks")
# Who may import whom. `export` and `benchmarks` may use `teacher` inside a function only.
ALLOWED = {
    "seqrec": set(),
    "teacher": {"seqrec"},
    "student": {"seqrec"},
    "export": {"seqrec", "student"},
    "benchmarks": {"seqrec", "student", "export"},
}
LLM_AND_ONNX = {
    "transformers",
    "peft",
    "bitsandbytes",
    "gguf",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "optimum",
}


def imported_packages(tree: ast.AST, *, top_level_only: bool) -> set[str]:
    nodes = tree.body if top_level_only and isinstance(tree, ast.Module) else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are always by full name"
            names.add(str(node.module).split(".")[0])
    return names


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("**/*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_the_table_allows(package: str) -> None:
    for file in modules(package):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        ours = imported_packages(tree, top_level_only=package in ("export", "benchmarks"))
        ours &= set(PACKAGES)
        assert ours - {package} <= ALLOWED[package], file


@pytest.mark.parametrize(
    "name", ["teacher/finetune", "student/distill", "benchmarks/latency", "benchmarks/accuracy"]
)
def test_entry_points_import_seqrec_before_any_library(name: str) -> None:
    """It sets the environment that OpenMP reads when torch is loaded."""
    tree = ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in imports]
    packages = [str(module).split(".")[0] for module in modules]
    assert next(p for p in packages if p not in sys.stdlib_module_names) == "seqrec"


def test_the_shared_ground_knows_no_language_model_and_no_onnx_library() -> None:
    for file in modules("seqrec"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert not imported_packages(tree, top_level_only=False) & LLM_AND_ONNX, file


def test_no_module_hides_a_library() -> None:
    taken = {"datasets", "peft", "evaluate", "onnx", "logging", "types", "copy", "random", "token"}
    for package in PACKAGES:
        assert not {file.stem for file in modules(package)} & taken
