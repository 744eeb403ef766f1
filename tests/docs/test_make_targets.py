"""What the workflow, the hooks and the pages tell make to do, it can."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
FILES = [ROOT / ".pre-commit-config.yaml", ROOT / ".ci/run", ROOT / "README.md"]
FILES += [*(ROOT / ".github/workflows").glob("*.yaml"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_make_target_that_is_named_exists(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|[`:]) *make ([a-z]+)\b", text, re.M))
    assert named <= TARGETS, named - TARGETS
