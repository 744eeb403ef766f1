"""Where the page's files come from: one server, what is kept of it, and what is refused."""

import os
import re
import shutil
from pathlib import Path

import pytest

from export.recommender import Recommender
from export.to_web import PAGE
from tests.export.answers import flip_a_byte
from tests.export.web.browsing import Folders, Serving, measure, pick, require_answer, wait_until

pytestmark = pytest.mark.slow


def test_the_page_names_no_other_server_and_makes_no_html_from_text() -> None:
    policy = re.search(r'content="(default-src[^"]*)"', (PAGE / "index.html").read_text())
    assert policy is not None
    directives = dict(part.split(" ", 1) for part in policy[1].split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert directives["worker-src"] == directives["manifest-src"] == "'self'"
    assert not re.search("unsafe-inline|'unsafe-eval'|https?:|\\*", policy[1])
    for file in PAGE.iterdir():
        text = file.read_text()
        found = set(re.findall(r"https?://[^\s\"'<)]+", text))
        assert found <= {"http://localhost:8000", "http://www.w3.org/2000/svg"}, file
        if file.suffix == ".js":
            assert not re.search(r"(inner|outer|Adjacent)HTML|document\.write|\beval\(", text)


def test_nothing_is_asked_of_another_server(serving: Serving, sites: Folders) -> None:
    page = serving.open(sites["int8"])
    pick(page, "emma")
    measure(page)
    assert len(serving.requested) > 8
    assert {url.partition("/")[0] for url in serving.requested} <= {"http:", "blob:"}
    assert all(url.removeprefix("blob:").startswith(page.url) for url in serving.requested)
    assert page.evaluate("crossOriginIsolated")
    manifest = page.context.new_cdp_session(page).send("Page.getAppManifest")
    assert manifest["url"] == f"{page.url}manifest.json"
    assert manifest["errors"] == []
    assert serving.complaints == []


def test_once_loaded_the_page_works_without_its_server(
    serving: Serving, sites: Folders, recommender: Recommender
) -> None:
    page = serving.open(sites["fp32"])
    wait_until(page, "offline=kept")
    assert "works without a network" in page.locator("#about").inner_text()
    serving.stop()
    page.reload()
    wait_until(page, "state=ready")
    pick(page, "drac")
    require_answer(page, recommender, ["b10"])
    assert page.locator("#median").inner_text() == ""  # of one time: warming up is not among them
    assert page.evaluate("crossOriginIsolated")  # the headers are kept, too
    page.goto(f"{page.url}model/README.txt")
    assert "next-item recommender" in page.content()


def test_a_page_that_was_built_anew_replaces_the_one_that_is_kept(
    serving: Serving, sites: Folders
) -> None:
    page = serving.open(sites["fp32"])
    wait_until(page, "offline=kept")
    port = serving.stop()
    for path in sites["int8"].rglob("*"):  # dated before the page that the browser has
        os.utime(path, (0, 0))
    serving.serve(sites["int8"], port)
    page.reload()
    wait_until(page, "offline=kept")
    assert "int8" in page.locator("#facts").inner_text()
    assert len(page.evaluate("caches.keys()")) == 1
    serving.stop()
    page.reload()
    wait_until(page, "state=ready")
    assert "int8" in page.locator("#facts").inner_text()


@pytest.mark.parametrize(
    "name", ["model/model.onnx", "model/items.json", "onnxruntime/ort-wasm-simd-threaded.wasm.gz"]
)
def test_a_damaged_file_is_named(
    serving: Serving, sites: Folders, tmp_path: Path, name: str
) -> None:
    shutil.copytree(sites["fp32"], tmp_path / "site")
    flip_a_byte(tmp_path / "site" / name)
    page = serving.open(tmp_path / "site", state="error")
    alert = page.get_by_role("alert").inner_text()
    assert Path(name).name.removesuffix(".gz") in alert
    assert "is damaged" in alert
    assert "python -m export.to_web" in alert
    assert not page.locator("#app").is_visible()


def test_a_missing_file_is_named(serving: Serving, sites: Folders, tmp_path: Path) -> None:
    shutil.copytree(sites["fp32"], tmp_path / "site")
    (tmp_path / "site/model/items.json").unlink()
    page = serving.open(tmp_path / "site", state="error")
    assert "model/items.json is missing" in page.get_by_role("alert").inner_text()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("delete globalThis.WebAssembly", "This browser has no WebAssembly"),
        ("WebAssembly.validate = () => false", "This browser is too old"),
        ("delete globalThis.DecompressionStream", "This browser is too old"),
    ],
)
def test_a_browser_that_lacks_something_is_told_what(
    serving: Serving, sites: Folders, script: str, expected: str
) -> None:
    page = serving.open(sites["fp32"], state="error", script=script)
    assert expected in page.get_by_role("alert").inner_text()


def test_opened_from_a_file_the_page_says_how_to_serve_it(serving: Serving, sites: Folders) -> None:
    page = serving.go((sites["fp32"] / "index.html").as_uri(), "error")
    assert "python -m http.server" in page.get_by_role("alert").inner_text()
