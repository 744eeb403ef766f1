import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
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
    "name",
    [
        *("teacher/finetune", "teacher/tuning", "student/distill", "student/distilling"),
        *("teacher/extract", "teacher/extracting"),
        *("benchmarks/latency", "benchmarks/accuracy"),
    ],
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


def imported_modules(tree: ast.AST) -> set[str]:
    """Return what a file imports, also for type checkers only or inside of a function."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def first_circle(imports: dict[str, set[str]]) -> list[str]:
    """Return the modules of a circle in order, the first again at the end; [] if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for package in PACKAGES
        for file in modules(package)
    }
    imports = {
        name: imported_modules(ast.parse(file.read_text(encoding="utf-8"))) & files.keys()
        for name, file in files.items()
    }
    assert first_circle(imports) == []


def test_a_circle_is_seen() -> None:
    assert first_circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(first_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


HEAVY = {
    *("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors", "tokenizers"),
    *("onnx", "onnxruntime", "optimum", "ray", "matplotlib", "plotly", "executorch"),
    *("huggingface_hub", "tensorboard"),
}
LOADED = """
import runpy, sys
try:
    sys.argv = [sys.argv[1], "--help"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit:
    pass
sys.stderr.write(" ".join(sorted({name.split(".")[0] for name in sys.modules})))
"""
COMMANDS = [
    *("seqrec.prepare", "teacher.finetune", "teacher.extract", "student.distill"),
    *("export.to_onnx", "export.add_items", "export.to_text_encoder", "export.to_mobile"),
    *("export.to_index", "export.to_executorch", "export.score", "export.to_web"),
    "export.serve_web",
    *("export.push_to_hub", "benchmarks.latency", "benchmarks.cold_start", "benchmarks.catalogue"),
    *("benchmarks.scaling", "benchmarks.baselines", "benchmarks.synthetic_log"),
    "benchmarks.accuracy",
]


def loaded(program: str, *arguments: str) -> set[str]:
    """Return the packages that a program has loaded when it ends; it writes them to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loads_no_heavy_library(name: str) -> None:
    """Which would make it take seconds."""
    assert "argparse" in (names := loaded(LOADED, name))
    assert not names & HEAVY


@pytest.mark.parametrize(
    "name", ["export.recommender", "export.user_states", "seqrec.metrics", "export.parity"]
)
def test_what_clients_and_reports_import_needs_numpy_alone(name: str) -> None:
    """ONNX Runtime is loaded when a model is opened."""
    program = "import importlib, sys; importlib.import_module(sys.argv[1]); "
    names = loaded(program + "sys.stderr.write(' '.join(sys.modules))", name)
    assert "numpy" in names
    assert not names & (HEAVY | {"polars", "onnxruntime"})
