"""Whether everybody can use the page: keyboard, screen reader, contrast, fingers."""

import re
from pathlib import Path
from typing import Any

from seqrec.errors import SourceError
from seqrec.fetch import Archive, fetch_npm_package

import numpy as np
import pytest

from export.recommender import Recommender
from export.to_web import PAGE
from tests.conftest import give_user_cache
from tests.export.web.browsing import (
    SCREENS,
    Folders,
    Serving,
    measure,
    pick,
    require_answer,
    shown_history,
    shown_ids,
)

pytestmark = pytest.mark.slow

AXE = Archive(
    "npm:axe-core@4.14.1",
    "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
    ("package/axe.min.js",),
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    """WCAG 2.2, AA: 4.5 for text (1.4.3), 3 for borders of fields and the focus ring (1.4.11)."""
    blocks = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(), re.DOTALL)
    block = blocks[["light", "dark"].index(scheme)]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))

    def luminance(name: str) -> float:
        parts = [int(colours[name][start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    def contrast(first: str, second: str) -> float:
        low, high = sorted((luminance(first), luminance(second)))
        return (high + 0.05) / (low + 0.05)

    text = [(ink, paper) for ink in ("ink", "soft", "accent") for paper in ("page", "card", "tint")]
    text += [("on-accent", "accent"), ("on-tint", "tint"), ("danger", "danger-tint")]
    assert {pair: c for pair in text if (c := contrast(*pair)) < 4.5} == {}
    edges = [("field-line", "card"), ("field-line", "page"), ("accent", "card")]
    assert {pair: c for pair in edges if (c := contrast(*pair)) < 3} == {}


def press_tab_until(page: Any, script: str) -> None:
    for _ in range(6):
        page.keyboard.press("Tab")
        if page.evaluate(script):
            return


def test_the_page_can_be_used_without_a_mouse(page: Any, recommender: Recommender) -> None:
    press, search = page.keyboard.press, page.locator("#search")
    press_tab_until(page, "document.activeElement.id == 'search'")
    page.keyboard.type("the")
    options = page.locator("#hits li")
    assert search.get_attribute("aria-expanded") == "true"
    assert search.get_attribute("aria-controls") == "hits"
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        press(key)
    chosen = page.locator("[role=option][aria-selected=true]")
    assert search.get_attribute("aria-activedescendant") == chosen.get_attribute("id") == "hit-1"
    title = chosen.inner_text()
    press("Escape")
    assert options.count() == 0 or not options.first.is_visible()
    assert search.input_value() == "the"
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        press(key)
    assert shown_history(page) == [title]
    assert search.input_value() == ""
    item = recommender.item_ids[recommender.titles.index(title)]
    require_answer(page, recommender, [item])
    # On with Tab: the remove button, then the first recommendation.
    press_tab_until(page, "!!document.activeElement.closest('#answers')")
    first = shown_ids(page)[0]
    press("Enter")
    page.locator("#history li").nth(1).wait_for()
    require_answer(page, recommender, [item, first])
    assert page.evaluate("!!document.activeElement.closest('#answers')")
    assert "added. Now first: " in page.get_by_role("status").inner_text()


@pytest.fixture(scope="session")
def axe(own_cache: Path) -> str:
    """The script of axe-core, which looks for what keeps people out."""
    with pytest.MonkeyPatch.context() as patch:
        give_user_cache(patch)
        try:
            return (fetch_npm_package(AXE) / AXE.members[0]).read_text(encoding="utf-8")
        except SourceError as error:
            pytest.skip(str(error))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_nothing_that_keeps_people_out(
    serving: Serving, sites: Folders, axe: str, screen: str, scheme: str
) -> None:
    how = {"color_scheme": scheme, "reduced_motion": "reduce"}
    page = serving.open(sites["fp32"], **SCREENS[screen], **how)
    page.evaluate(axe)
    assert violations(page) == []
    for title in ("emma", "drac", "persua", "carmi", "kidna", "monk", "jane"):
        pick(page, title)
    measure(page)
    assert violations(page) == []
    page.locator("#search").fill("the")
    page.locator("#hits li").first.wait_for()
    assert violations(page) == []


def violations(page: Any) -> list[str]:
    """Return what axe-core calls serious or critical, with where it is."""
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    return [
        f"{one['id']}: {node['html']}"
        for one in found
        for node in one["nodes"]
        if one["impact"] in ("serious", "critical")
    ]


def test_a_phone_shows_one_column_with_targets_for_a_finger(
    serving: Serving, sites: Folders
) -> None:
    page = serving.open(sites["fp32"], **SCREENS["phone"])
    script = """() => [...document.querySelectorAll("button, a, input, select, [role=option]")]
        .filter((element) => element.checkVisibility() && !element.matches(".skip"))
        .map((element) => [element.textContent.trim() || element.id, element.offsetHeight,
                           element.offsetWidth])"""
    targets = page.evaluate(script)
    page.locator("#search").fill("the")
    targets += page.evaluate(script)
    for title in ("emma", "dracula", "persuasion", "carmilla", "kidnapped"):
        pick(page, title)
    targets += page.evaluate(script)
    assert [target for target in targets if min(target[1:]) < 44] == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    left = {page.locator(f"#{name}").bounding_box()["x"] for name in ("search", "answers")}
    assert len(left) == 1
