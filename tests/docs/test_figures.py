"""Figures in README and on the page of results are those of the kept results."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from seqrec.files import read_json

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SETS = sorted(folder.name for folder in RESULTS.iterdir() if folder.is_dir())
PAGES = ("README.md", "docs/results.md")
FIGURE = re.compile(r"(?<![\w.])[+-]?\d*\.\d+(?![\w.])")  # whole numbers are counts or minutes


def leaves(value: Any) -> Iterator[float]:
    """Yield every number of a JSON tree, whatever its schema."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


@cache
def numbers_of(name: str) -> tuple[float, ...]:
    files = sorted((RESULTS / name).glob("*.json"))
    return tuple(number for file in files for number in leaves(read_json(file)))


def table_rows(page: str) -> Iterator[str]:
    """Yield the rows of tables, and bullet points, that name a data set with results."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.split(r"\n(?=[|\-\n])", text):
        if block.lstrip().startswith(("|", "-")) and any(name in block for name in SETS):
            yield block


def is_kept(figure: str, numbers: tuple[float, ...]) -> bool:
    """Tell whether a number of the results reads so, rounded to as many digits."""
    digits = len(figure.partition(".")[2])
    return any(f"{number:.{digits}f}" == f"{float(figure):.{digits}f}" for number in numbers)


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_beside_a_data_set_is_among_its_results(page: str) -> None:
    checked = 0
    for row in table_rows(page):
        numbers = [number for name in SETS if name in row for number in numbers_of(name)]
        for figure in FIGURE.findall(row):
            assert is_kept(figure, tuple(numbers)), f"{page}: {figure} in {row}"
            checked += 1
    assert checked > 10


def test_a_figure_that_was_not_measured_is_found_out() -> None:
    numbers = numbers_of("ml-100k")
    assert is_kept("0.1344", numbers)
    assert not is_kept("0.9876", numbers)


def test_every_data_set_has_a_row_among_the_results() -> None:
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in text for name in SETS)
