"""The fields of the result files, as a page of the site; MkDocs calls this while it builds.

A page that holds `RESULT_FILES` gets a table for each dataclass of `schema.py`. They are read from
its text, in which the comments say what a field is.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLACEHOLDER = "RESULT_FILES"
SCHEMA = Path(__file__).with_name("schema.py")


def describe_schema(source: str) -> str:
    """Return a Markdown section for each dataclass of a module: what it is, and its fields."""
    lines = source.splitlines()
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return "\n".join(line for node in classes for line in _section(node, lines))


def _section(node: ast.ClassDef, lines: list[str]) -> Iterator[str]:
    fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and f.col_offset == 4]
    fields = [f for f in fields if "ClassVar" not in ast.unparse(f.annotation)]
    bases = [f"[{name}](#{name.lower()})" for name in map(ast.unparse, node.bases)]
    yield f"## {node.name}\n"
    yield (ast.get_docstring(node) or "") + "\n"
    if bases:
        yield f"With the fields of {', '.join(bases)}.\n"
    if fields:
        yield "| field | type | meaning |\n| --- | --- | --- |"
    for field in fields:
        kind = ast.unparse(field.annotation).replace("|", "\\|")
        comment = _comment(field, lines).replace("|", "\\|")
        yield f"| `{ast.unparse(field.target)}` | {kind} | {comment} |"
    yield ""


def _comment(field: ast.AnnAssign, lines: list[str]) -> str:
    """Return the comment at a field's end, or the lines of comments above it."""
    at_end = lines[(field.end_lineno or 0) - 1][field.end_col_offset or 0 :].strip()
    if at_end.startswith("# "):
        return at_end.removeprefix("# ")
    above: list[str] = []
    for line in reversed(lines[: field.lineno - 1]):
        if not line.strip().startswith("# "):
            break
        above.insert(0, line.strip().removeprefix("# "))
    return " ".join(above)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the tables into the page that asks for them."""
    if PLACEHOLDER not in markdown:
        return markdown
    return markdown.replace(PLACEHOLDER, describe_schema(SCHEMA.read_text(encoding="utf-8")))
