"""The picture of the floor plan, from the imports of the code: `python -m tests.docs.floor_plan`.

Writes it into `docs/development.md`, as text that GitHub draws. A dotted arrow: only inside a
function, or for type checkers. What all packages import, `seqrec`, is left out.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "development.md"
PACKAGES = ("seqrec", "teacher", "student", "export", "benchmarks")
START, END = "```mermaid\n", "```\n"


def imports(node: ast.AST) -> set[str]:
    """Return the packages of ours that statements import, `benchmarks.report` for its modules."""
    modules = {n.module or "" for n in ast.walk(node) if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(node) if isinstance(n, ast.Import) for a in n.names}
    parts = [module.split(".") for module in modules]
    return {
        ".".join(p[:2] if (ROOT / "/".join(p[:2])).is_dir() else p[:1])
        for p in parts
        if p[0] in PACKAGES[1:]
    }


def floor_plan() -> str:
    """Return the picture as Mermaid text."""
    solid: set[tuple[str, str]] = set()
    dotted: set[tuple[str, str]] = set()
    for file in (file for name in PACKAGES for file in (ROOT / name).rglob("*.py")):
        package = ".".join(file.relative_to(ROOT).parent.parts[:2])
        tree = ast.parse(file.read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        at_top = set().union(*map(imports, top)) - {package}
        solid |= {(package, other) for other in at_top}
        dotted |= {(package, other) for other in imports(tree) - at_top - {package}}
    lines = [f"    {one} --> {other}" for one, other in sorted(solid)]
    lines += [f"    {one} -.-> {other}" for one, other in sorted(dotted - solid)]
    return "\n".join(["graph TD", *lines]) + "\n"


def with_floor_plan(page: str) -> str:
    """Return the page with the picture as it is now."""
    before, rest = page.split(START)
    return before + START + floor_plan() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_floor_plan(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
