"""The picture of the floor plan is that of the code."""

from tests.docs.floor_plan import PAGE, floor_plan, with_floor_plan


def test_the_picture_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_floor_plan(page) == page, "type: python -m tests.docs.floor_plan"


def test_the_picture_shows_what_may_import_what() -> None:
    lines = floor_plan().splitlines()
    assert "    benchmarks.measure --> export" in lines
    assert "    benchmarks.measure -.-> teacher" in lines  # inside a function only
    assert not any(line.strip().startswith(("seqrec ", "teacher ", "student ")) for line in lines)
