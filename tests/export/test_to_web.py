"""The page: what is in its folder, and what it does in a real browser on a desktop and a phone."""

import dataclasses
import gzip
import hashlib
import json
import os
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset, write_dataset
from seqrec.errors import DataError, ModelError, SourceError
from seqrec.fetch import Archive, fetch_npm_package
from seqrec.splits import leave_one_out

import numpy as np
import polars as pl
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
)

import export.to_web
from benchmarks.report.browser import format_browser, read_browser_result
from export.config import ServeConfig, ToIndexConfig, ToWebConfig
from export.index.building import to_index
from export.onnx_graph.exporting import Precision, export_student
from export.recommender import Recommender, open_session
from export.serve_web import open_server
from export.to_web import SCHEMA, SCRIPT, WASM, to_web
from student.model import Student, StudentConfig
from tests.conftest import give_user_cache

pytestmark = pytest.mark.slow

MAX_LEN = 6
HOSTILE = {
    4: "<script>document.title='hacked'</script>",
    5: '<img src=x onerror=alert(1)> & "co"',
}
PAGE = Path(export.to_web.__file__).parent / "web"
CLIENT = Path(export.to_web.__file__).parent / "npm"


@pytest.fixture(scope="module")
def dataset(
    tiny_items: pl.DataFrame,
    tiny_sequences: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> SequenceDataset:
    """The thirty books, two of them with titles that are HTML."""
    titles = [HOSTILE.get(n, title) for n, title in enumerate(tiny_items["title"].to_list(), 1)]
    lengths = np.array([len(sequence) for sequence in tiny_sequences], dtype=np.int64)
    return write_dataset(
        tmp_path_factory.mktemp("data") / "shelf",
        name="shelf",
        items=tiny_items.with_columns(title=pl.Series(titles)),
        user_ids=pl.Series([f"u{user}" for user in range(len(lengths))]),
        events=np.concatenate(tiny_sequences).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        split=leave_one_out(lengths),
        split_name="leave-one-out",
        provenance={},
    )


@pytest.fixture(scope="module")
def models(
    dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[Precision, Path]:
    """An exported Transformer of random weights, in fp32 and in int8, and the latter's index."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    shape = StudentConfig(arch="transformer", num_items=30, hidden_dim=32, max_len=MAX_LEN)
    about = {"role": "control", "dataset_fingerprint": dataset.fingerprint}
    Student(shape).save_pretrained(folder / "student", **about)
    found: dict[Precision, Path] = {"fp32": folder / "fp32", "int8": folder / "int8"}
    for precision, path in found.items():
        export_student(folder / "student", dataset, path, precision)
    flags = {"data_dir": dataset.path, "list_size": 4, "min_recall": 1.0}
    index = ToIndexConfig(model_dir=found["int8"], output_dir=folder / "index", **flags)
    return {**found, "index": to_index(index)}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like npm's package, for tests that run no model."""
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package/dist").mkdir(parents=True)
    (folder / SCRIPT).write_text("export const env = {};")
    (folder / WASM).write_bytes(b"\0asm" + bytes(1000))
    return folder


class TestTheFolder:
    @pytest.fixture(autouse=True)
    def _no_network(self, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export.to_web, "fetch_npm_package", lambda *given: stand_in)

    @pytest.fixture
    def config(
        self, models: dict[Precision, Path], dataset: SequenceDataset, tmp_path: Path
    ) -> ToWebConfig:
        return ToWebConfig(
            model_dir=models["int8"], data_dir=dataset.path, output_dir=tmp_path / "site"
        )

    def test_it_holds_the_page_the_model_and_the_runtime(
        self, config: ToWebConfig, models: dict[Precision, Path], stand_in: Path
    ) -> None:
        folder = to_web(config)
        for file in PAGE.iterdir():
            assert (folder / file.name).read_bytes() == file.read_bytes()
        for name in ("client.js", "sha256.js"):
            assert (folder / name).read_bytes() == (CLIENT / name).read_bytes()
        for name in ("model.onnx", "items.json", "config.json"):
            assert (folder / "model" / name).read_bytes() == (models["int8"] / name).read_bytes()
        card = (folder / "model/README.txt").read_text(encoding="utf-8")
        assert card.startswith("# transformer control int8")
        assert (models["int8"] / "README.md").read_text(encoding="utf-8").endswith(card)
        assert (folder / "onnxruntime/ort.js").read_bytes() == (stand_in / SCRIPT).read_bytes()
        packed = (folder / "onnxruntime/ort-wasm-simd-threaded.wasm.gz").read_bytes()
        assert gzip.decompress(packed) == (stand_in / WASM).read_bytes()
        for name in ("LICENSE.txt", "ThirdPartyNotices.txt"):
            assert "Microsoft" in (folder / "onnxruntime" / name).read_text(encoding="utf-8")

    def test_its_checksums_and_sizes_are_those_of_its_files(
        self, config: ToWebConfig, stand_in: Path
    ) -> None:
        folder = to_web(config)
        site = json.loads((folder / "site.json").read_text())
        assert site["schema"] == SCHEMA
        digest = hashlib.sha256((stand_in / WASM).read_bytes()).hexdigest()
        assert site["runtime"]["sha256"] == {"ort-wasm-simd-threaded.wasm": digest}
        assert len(site["sizes"]) == 3
        for name, size in site["sizes"].items():
            assert (folder / name).stat().st_size == size
        about = json.loads((folder / "model/config.json").read_text())
        for name, expected in about["sha256"].items():
            found = hashlib.sha256((folder / "model" / name).read_bytes()).hexdigest()
            assert found == expected

    def test_popular_titles_come_first_and_never_from_held_out_events(
        self, config: ToWebConfig, dataset: SequenceDataset
    ) -> None:
        site = json.loads((to_web(config) / "site.json").read_text())
        events = np.concatenate([dataset.train_sequence(u) for u in range(dataset.num_users)])
        counts = np.bincount(events, minlength=31)
        assert site["popular"] == sorted(range(1, 31), key=lambda item: (-counts[item], item))

    def test_two_builds_are_equal_byte_for_byte(self, config: ToWebConfig) -> None:
        def contents(folder: Path) -> dict[str, bytes]:
            files = (file for file in folder.rglob("*") if file.is_file())
            return {str(file.relative_to(folder)): file.read_bytes() for file in files}

        first = contents(to_web(config))
        assert contents(to_web(config)) == first  # which also replaces the first

    def test_its_list_of_files_is_whole_and_another_build_has_another_name(
        self, config: ToWebConfig
    ) -> None:
        folder = to_web(config)
        site = json.loads((folder / "site.json").read_text())
        there = {file for file in folder.rglob("*") if file.is_file()}
        assert {folder / name for name in site["files"]} == {folder, *there}
        again = json.loads((to_web(config) / "site.json").read_text())
        assert again["build"] == site["build"]
        other = to_web(dataclasses.replace(config, num_suggested=3))
        assert json.loads((other / "site.json").read_text())["build"] != site["build"]

    def test_what_is_not_a_page_of_ours_is_not_replaced(self, config: ToWebConfig) -> None:
        assert config.output_dir is not None
        config.output_dir.mkdir()
        (config.output_dir / "thesis.txt").write_text("years of work")
        with pytest.raises(DataError, match=r"exists and holds no page from export\.to_web"):
            to_web(config)
        assert [file.name for file in config.output_dir.iterdir()] == ["thesis.txt"]

    def test_without_a_model_the_command_to_type_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"python -m export\.to_onnx"):
            to_web(ToWebConfig(model_dir=tmp_path / "nothing"))

    def test_another_data_set_is_refused(
        self, models: dict[Precision, Path], tiny_dataset: SequenceDataset, tmp_path: Path
    ) -> None:
        config = ToWebConfig(
            model_dir=models["int8"], data_dir=tiny_dataset.path, output_dir=tmp_path / "site"
        )
        with pytest.raises(DataError, match="Name that one: --data-dir"):
            to_web(config)
        assert not (tmp_path / "site").exists()

    def test_without_its_data_set_nothing_is_suggested(
        self, models: dict[Precision, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        folder = to_web(ToWebConfig(model_dir=models["int8"], output_dir=tmp_path / "site"))
        assert json.loads((folder / "site.json").read_text())["popular"] == []

    def test_the_server_sends_what_a_fine_clock_needs(self, config: ToWebConfig) -> None:
        with open_server(ServeConfig(site_dir=to_web(config), port=0)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_address[1]}/app.js"
            with urllib.request.urlopen(address) as response:
                headers = response.headers
            assert server.server_address[0] == "127.0.0.1"
            server.shutdown()
        assert headers["Content-Type"].startswith("text/javascript")
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"

    def test_a_port_that_is_taken_and_a_folder_without_a_page_are_refused(
        self, config: ToWebConfig, tmp_path: Path
    ) -> None:
        site = to_web(config)
        with open_server(ServeConfig(site_dir=site, port=0)) as server:
            taken = ServeConfig(site_dir=site, port=server.server_address[1])
            with pytest.raises(DataError, match="cannot listen on .*--port 0"):
                open_server(taken)
        with pytest.raises(DataError, match=r"python -m export\.to_web"):
            open_server(ServeConfig(site_dir=tmp_path / "nothing"))


def test_the_page_names_no_other_server_and_makes_no_html_from_text() -> None:
    policy = re.search(r'content="(default-src[^"]*)"', (PAGE / "index.html").read_text())
    assert policy is not None
    directives = dict(part.split(" ", 1) for part in policy[1].split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert directives["worker-src"] == directives["manifest-src"] == "'self'"
    assert not re.search("unsafe-inline|'unsafe-eval'|https?:|\\*", policy[1])
    for file in PAGE.glob("*.js"):
        text = file.read_text()
        assert not re.search(r"(inner|outer|Adjacent)HTML|document\.write|\beval\(", text)
    for file in PAGE.iterdir():
        found = set(re.findall(r"https?://[^\s\"'<)]+", file.read_text()))
        assert found <= {"http://localhost:8000", "http://www.w3.org/2000/svg"}, file


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    """WCAG 2.2, AA: 4.5 for text (1.4.3), 3 for borders of fields and the focus ring (1.4.11)."""
    blocks = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(), re.DOTALL)
    block = blocks[["light", "dark"].index(scheme)]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))

    def luminance(name: str) -> float:
        parts = [int(colours[name][place : place + 2], 16) / 255 for place in (1, 3, 5)]
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


# ---- in a browser

SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1200, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
START_MS = 60_000  # on a busy machine


@pytest.fixture(scope="module")
def sites(
    models: dict[Precision, Path],
    dataset: SequenceDataset,
    onnxruntime_web: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Precision, Path]:
    """The page with each model and the real runtime."""
    folder = tmp_path_factory.mktemp("sites")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.to_web, "fetch_npm_package", lambda *given: onnxruntime_web)
        return {
            precision: to_web(
                ToWebConfig(model_dir=model, data_dir=dataset.path, output_dir=folder / precision)
            )
            for precision, model in models.items()
        }


class Serving:
    """Serves folders on localhost, and notes what the pages ask for and complain of."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.servers: list[Any] = []
        self.contexts: list[Any] = []
        self.requested: list[str] = []
        self.complaints: list[str] = []

    def open(self, site: Path, *, script: str = "", **screen: Any) -> Any:
        """Open a page; `script` runs before those of the page."""
        return self.go(f"http://127.0.0.1:{self.serve(site)}/", script, **screen)

    def serve(self, site: Path, port: int = 0) -> int:
        """Serve a folder, and return the port."""
        server = open_server(ServeConfig(site_dir=site, port=port))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.servers.append(server)
        return int(server.server_address[1])

    def stop(self) -> int:
        """End the newest server, and return the port that it had."""
        server = self.servers.pop()
        server.shutdown()
        server.server_close()
        return int(server.server_address[1])

    def go(self, address: str, script: str = "", **screen: Any) -> Any:
        context = self.browser.new_context(**screen)
        self.contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(address)
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        while self.servers:
            self.stop()


@pytest.fixture
def serving(browser: Any) -> Iterator[Serving]:
    opened = Serving(browser)
    yield opened
    opened.close()


@pytest.fixture(params=SCREENS)
def page(request: pytest.FixtureRequest, serving: Serving, sites: dict[Precision, Path]) -> Any:
    """The page with the fp32 model, ready, on either screen."""
    opened = serving.open(sites["fp32"], **SCREENS[request.param])
    wait_until(opened, "ready")
    return opened


@pytest.fixture(scope="module")
def recommender(models: dict[Precision, Path]) -> Recommender:
    return Recommender.from_pretrained(models["fp32"])


def wait_until(page: Any, state: str) -> None:
    page.locator(f"html[data-state={state}]").wait_for(timeout=START_MS)


def python_ids(recommender: Recommender, history: list[str]) -> list[str]:
    return [answer.item_id for answer in recommender.recommend(history)]


def shown_ids(page: Any) -> list[str]:
    ids: list[str] = page.evaluate(
        "[...document.querySelectorAll('#answers li')].map((row) => row.dataset.id)"
    )
    return ids


def assert_shown(page: Any, expected: list[str]) -> None:
    """Answers come when the model has them: wait for those."""
    for _ in range(100):
        if shown_ids(page) == expected:
            break
        page.wait_for_timeout(50)
    assert shown_ids(page) == expected


def shown_history(page: Any) -> list[str]:
    return [row.inner_text() for row in page.locator("#history .title").all()]


HISTORIES = {
    "one item": ["b07"],
    "three": ["b30", "b02", "b11"],
    "one more than the model reads": [f"b{n:02d}" for n in range(1, MAX_LEN + 2)],
    "with a repetition and an unknown id": ["b03", "nobody", "b09", "b03"],
    "all but four": [f"b{n:02d}" for n in range(1, 27)],
}


@pytest.mark.parametrize("precision", ["fp32", "int8", "index"])
def test_answers_equal_pythons(
    serving: Serving,
    sites: dict[Precision, Path],
    models: dict[Precision, Path],
    precision: Precision,
) -> None:
    page = serving.open(sites[precision])
    wait_until(page, "ready")
    here = Recommender.from_pretrained(models[precision])
    for name, history in HISTORIES.items():
        call = "ids => window.seqrec.recommend(ids).then(({ answers }) => answers)"
        found, expected = page.evaluate(call, history), here.recommend(history)
        if precision == "fp32":
            assert [answer["id"] for answer in found] == [a.item_id for a in expected], name
            titles = [answer["title"] for answer in found]
            assert titles == [answer.title for answer in expected]
        # 8-bit kernels round differently on another processor: near ties may change places.
        scores = {a.item_id: a.score for a in here.recommend(history, k=30, exclude_seen=False)}
        allowed = 1e-4 if precision == "fp32" else 0.03 * np.ptp(list(scores.values()))
        assert len(found) == len(expected)
        for answer, own in zip(found, expected, strict=True):
            assert answer["score"] == pytest.approx(own.score, abs=allowed), name
            assert scores[answer["id"]] == pytest.approx(own.score, abs=allowed), name
            assert answer["id"] not in history


@pytest.mark.parametrize("bits", [4, 8])
def test_one_block_quantized_table_for_lookup_and_scores_runs_as_in_python(
    serving: Serving, sites: dict[Precision, Path], bits: int
) -> None:
    """onnxruntime's own operators, which its build for browsers might lack."""
    num_items, width, block = 40, 64, 32
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (num_items, width * bits // 8), dtype=np.uint8)
    shape = np.array([num_items, width // block, block * bits // 8])
    scales = rng.uniform(0.5, 1, (num_items, width // block)).astype(np.float32)
    constants = {"table": table, "scales": scales, "shape": shape, "axis": np.array([1])}
    kind = {"domain": "com.microsoft", "bits": bits, "block_size": block}
    lookup = {"gather_axis": 0, "quantize_axis": 1}
    size = {"K": width, "N": num_items}
    nodes = [
        make_node("GatherBlockQuantized", ["table", "items", "scales"], ["rows"], **kind, **lookup),
        make_node("ReduceMean", ["rows", "axis"], ["state"], keepdims=0),
        make_node("Reshape", ["table", "shape"], ["blocks"]),
        make_node("MatMulNBits", ["state", "blocks", "scales"], ["scores"], **kind, **size),
    ]
    graph = make_graph(
        nodes,
        "one table",
        [make_tensor_value_info("items", TensorProto.INT64, ["B", "T"])],
        [make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "I"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [make_opsetid("", 20), make_opsetid("com.microsoft", 1)]
    model = make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    expected = open_session(model, 1).run(None, {"items": np.array([[3, 1, 39]])})[0]
    page = serving.open(sites["fp32"])
    wait_until(page, "ready")
    run = """bytes => import("/onnxruntime/ort.js").then(async (ort) => {
        const session = await ort.InferenceSession.create(Uint8Array.from(bytes));
        const items = new ort.Tensor("int64", BigInt64Array.of(3n, 1n, 39n), [1, 3]);
        return [...(await session.run({ items })).scores.data];
    })"""
    found = page.evaluate(run, list(model))
    np.testing.assert_allclose(found, expected[0], rtol=1e-4, atol=1e-3)


def test_every_pick_changes_the_answer_and_is_remembered_in_order(
    page: Any, recommender: Recommender, serving: Serving
) -> None:
    page.locator("#search").fill("miserab")
    page.get_by_role("option", name="Les Misérables").click()
    assert_shown(page, python_ids(recommender, ["b30"]))
    page.locator("#search").fill("drac")
    page.locator("#hits li").first.click()
    assert_shown(page, python_ids(recommender, ["b30", "b10"]))
    third = shown_ids(page)[2]
    page.locator("#answers button").nth(2).click()
    assert_shown(page, python_ids(recommender, ["b30", "b10", third]))
    titles = dict(zip(recommender.item_ids, recommender.titles, strict=True))
    assert shown_history(page) == ["Les Misérables", "Dracula", titles[third]]
    page.get_by_role("button", name="Remove Dracula").click()
    assert_shown(page, python_ids(recommender, ["b30", third]))
    timing = page.locator("#timing").inner_text()
    assert re.fullmatch(r"[0-9.]+ ms to answer · median [0-9.]+ ms", timing.strip())
    page.get_by_role("button", name="Clear all").click()
    assert page.locator("#empty").is_visible()
    assert shown_history(page) == []
    assert serving.complaints == []


def test_what_is_beyond_max_len_is_still_left_out(page: Any, recommender: Recommender) -> None:
    ids = [f"b{n:02d}" for n in (7, 8, 9, 10, 11, 13, 14, 15)]
    for number in (7, 8, 9, 10, 11, 13, 14, 15):
        page.locator("#search").fill(recommender.titles[number - 1])
        page.locator("#hits li").first.click()
    page.locator("#history li").nth(7).wait_for()
    assert_shown(page, python_ids(recommender, ids))
    assert page.locator("#history .unread").count() == 2
    assert f"reads the newest {MAX_LEN}" in page.locator("#long-history").inner_text()


def test_the_page_can_be_used_without_a_mouse(page: Any, recommender: Recommender) -> None:
    press = page.keyboard.press
    search = page.locator("#search")
    for _ in range(3):
        press("Tab")
        if page.evaluate("document.activeElement.id") == "search":
            break
    page.keyboard.type("the")
    options = page.locator("#hits li")
    assert search.get_attribute("aria-expanded") == "true"
    assert search.get_attribute("aria-controls") == "hits"
    press("ArrowDown")
    press("ArrowDown")
    press("ArrowUp")
    chosen = page.locator("[role=option][aria-selected=true]")
    assert search.get_attribute("aria-activedescendant") == chosen.get_attribute("id") == "hit-1"
    title = chosen.inner_text()
    press("Escape")
    assert options.count() == 0 or not options.first.is_visible()
    assert search.input_value() == "the"
    press("ArrowDown")
    press("ArrowDown")
    press("Enter")
    assert shown_history(page) == [title]
    assert search.input_value() == ""
    item = recommender.item_ids[recommender.titles.index(title)]
    assert_shown(page, python_ids(recommender, [item]))
    # On with Tab: the remove button, then the first recommendation.
    for _ in range(6):
        press("Tab")
        if page.evaluate("!!document.activeElement.closest('#answers')"):
            break
    first = shown_ids(page)[0]
    press("Enter")
    page.locator("#history li").nth(1).wait_for()
    assert_shown(page, python_ids(recommender, [item, first]))
    assert page.evaluate("!!document.activeElement.closest('#answers')")
    status = page.get_by_role("status").inner_text()
    assert "added. Now first: " in status


def test_titles_are_text_even_if_they_are_html(page: Any) -> None:
    for number, title in HOSTILE.items():
        page.locator("#search").fill("<script" if number == 4 else "<img")
        option = page.locator("#hits li").first
        assert option.inner_text() == title
        option.click()
    page.locator("#history li").nth(1).wait_for()
    assert shown_history(page) == list(HOSTILE.values())
    assert page.title() == "What comes next"
    assert page.locator("img").count() == 0
    page.locator("#search").fill("<b>nothing</b>")
    assert "<b>nothing</b>" in page.locator("#no-hit").inner_text()


def test_the_result_of_measuring_is_a_file_that_the_benchmark_includes(
    page: Any, models: dict[Precision, Path], dataset: SequenceDataset, tmp_path: Path
) -> None:
    page.locator("#device").fill("Test bench")
    page.locator("#requests").select_option("200")
    page.locator("#measure").click()
    page.locator("#result").wait_for(timeout=START_MS)
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "latency-Test-bench.json"
    download.value.save_as(tmp_path / "result.json")
    result = read_browser_result(tmp_path / "result.json")
    about = json.loads((models["fp32"] / "config.json").read_text())
    assert result.model.sha256 == about["sha256"]["model.onnx"]
    assert result.model.precision == "fp32"
    assert result.num_requests >= 200
    assert result.runtime.num_threads == 1
    assert "Chrome" in json.loads((tmp_path / "result.json").read_text())["device"]["user_agent"]
    table = format_browser([result])
    assert "Test bench" in table
    assert "transformer control" in table


def test_the_client_for_javascript_answers_in_a_browser_as_in_python(
    serving: Serving, sites: dict[Precision, Path], recommender: Recommender
) -> None:
    page = serving.open(sites["fp32"])
    wait_until(page, "ready")  # which has given the runtime its WebAssembly
    call = """async ([history, options]) => {
        const [ort, { Recommender }] = await Promise.all(
            [import("/onnxruntime/ort.js"), import("/client.js")]);
        const recommender = await Recommender.fetch(ort, "/model/");
        return recommender.recommend(history, options);
    }"""
    history, wanted = ["b03", "b14", "b15"], ["b02", "b03", "b20"]
    for theirs, ours in (
        ({"k": 4}, {"k": 4}),
        ({"candidates": wanted}, {"candidates": wanted}),
        ({"k": 30, "excludeSeen": False}, {"k": 30, "exclude_seen": False}),
    ):
        answer = page.evaluate(call, [history, theirs])
        expected = recommender.recommend(history, **ours)
        assert [item["item_id"] for item in answer] == expected.item_ids
        assert [item["score"] for item in answer] == pytest.approx(expected.scores, abs=1e-4)
    assert serving.complaints == []


def test_nothing_is_asked_of_another_server(serving: Serving, sites: dict[Precision, Path]) -> None:
    page = serving.open(sites["int8"])
    wait_until(page, "ready")
    page.locator("#search").fill("emma")
    page.locator("#hits li").first.click()
    page.locator("#requests").select_option("200")
    page.locator("#measure").click()
    page.locator("#result").wait_for(timeout=START_MS)
    assert len(serving.requested) > 8
    assert {url.partition("/")[0] for url in serving.requested} <= {"http:", "blob:"}
    assert all(url.removeprefix("blob:").startswith(page.url) for url in serving.requested)
    assert page.evaluate("crossOriginIsolated")
    assert serving.complaints == []


def test_once_loaded_the_page_works_without_its_server(
    serving: Serving, sites: dict[Precision, Path], recommender: Recommender
) -> None:
    page = serving.open(sites["fp32"])
    kept = page.locator("html[data-offline=kept]")
    kept.wait_for(timeout=START_MS)
    assert "works without a network" in page.locator("#about").inner_text()
    serving.stop()
    page.reload()
    wait_until(page, "ready")
    page.locator("#search").fill("drac")
    page.locator("#hits li").first.click()
    assert_shown(page, python_ids(recommender, ["b10"]))
    assert page.locator("#median").inner_text() == ""  # of one time: warming up is not among them
    assert page.evaluate("crossOriginIsolated")  # the headers are kept, too
    page.goto(f"{page.url}model/README.txt")
    assert "next-item recommender" in page.content()


def test_a_page_that_was_built_anew_replaces_the_one_that_is_kept(
    serving: Serving, sites: dict[Precision, Path]
) -> None:
    page = serving.open(sites["fp32"])
    page.locator("html[data-offline=kept]").wait_for(timeout=START_MS)
    port = serving.stop()
    for path in sites["int8"].rglob("*"):  # dated before the page that the browser has
        os.utime(path, (0, 0))
    serving.serve(sites["int8"], port)
    page.reload()
    page.locator("html[data-offline=kept]").wait_for(timeout=START_MS)
    assert "int8" in page.locator("#facts").inner_text()
    assert len(page.evaluate("caches.keys()")) == 1
    serving.stop()
    page.reload()
    wait_until(page, "ready")
    assert "int8" in page.locator("#facts").inner_text()


def test_browsers_find_nothing_amiss_in_the_manifest(
    serving: Serving, sites: dict[Precision, Path]
) -> None:
    page = serving.open(sites["fp32"])
    session = page.context.new_cdp_session(page)
    found = session.send("Page.getAppManifest")
    assert found["url"] == f"{page.url}manifest.json"
    assert found["errors"] == []
    assert json.loads(found["data"])["display"] == "standalone"
    assert serving.complaints == []


AXE = Archive(
    "npm:axe-core@4.14.1",
    "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
    ("package/axe.min.js",),
)


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
    serving: Serving, sites: dict[Precision, Path], axe: str, screen: str, scheme: str
) -> None:
    page = serving.open(
        sites["fp32"], **SCREENS[screen], color_scheme=scheme, reduced_motion="reduce"
    )
    wait_until(page, "ready")
    page.evaluate(axe)
    assert violations(page) == []
    for title in ("emma", "drac", "persua", "carmi", "kidna", "monk", "jane"):
        page.locator("#search").fill(title)
        page.locator("#hits li").first.click()
    page.locator("#requests").select_option("200")
    page.locator("#measure").click()
    page.locator("#result").wait_for(timeout=START_MS)
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
    serving: Serving, sites: dict[Precision, Path]
) -> None:
    page = serving.open(sites["fp32"], **SCREENS["phone"])
    wait_until(page, "ready")
    measure = """() => [...document.querySelectorAll("button, a, input, select, [role=option]")]
        .filter((element) => element.checkVisibility() && !element.matches(".skip"))
        .map((element) => [element.textContent.trim() || element.id, element.offsetHeight,
                           element.offsetWidth])"""
    small = [row for row in page.evaluate(measure) if min(row[1:]) < 44]
    page.locator("#search").fill("the")
    small += [row for row in page.evaluate(measure) if min(row[1:]) < 44]
    for title in ("emma", "dracula", "persuasion", "carmilla", "kidnapped"):
        page.locator("#search").fill(title)
        page.locator("#hits li").first.click()
    small += [row for row in page.evaluate(measure) if min(row[1:]) < 44]
    assert small == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    left = {page.locator(f"#{name}").bounding_box()["x"] for name in ("search", "answers")}
    assert len(left) == 1


@pytest.mark.parametrize(
    "name", ["model/model.onnx", "model/items.json", "onnxruntime/ort-wasm-simd-threaded.wasm.gz"]
)
def test_a_damaged_file_is_named(
    serving: Serving, sites: dict[Precision, Path], tmp_path: Path, name: str
) -> None:
    shutil.copytree(sites["fp32"], tmp_path / "site")
    file = tmp_path / "site" / name
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)
    page = serving.open(tmp_path / "site")
    wait_until(page, "error")
    alert = page.get_by_role("alert").inner_text()
    assert f"{Path(name).name.removesuffix('.gz')}" in alert
    assert "is damaged" in alert
    assert "python -m export.to_web" in alert
    assert not page.locator("#app").is_visible()


def test_a_missing_file_is_named(
    serving: Serving, sites: dict[Precision, Path], tmp_path: Path
) -> None:
    shutil.copytree(sites["fp32"], tmp_path / "site")
    (tmp_path / "site/model/items.json").unlink()
    page = serving.open(tmp_path / "site")
    wait_until(page, "error")
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
    serving: Serving, sites: dict[Precision, Path], script: str, expected: str
) -> None:
    page = serving.open(sites["fp32"], script=script)
    wait_until(page, "error")
    assert expected in page.get_by_role("alert").inner_text()


def test_opened_from_a_file_the_page_says_how_to_serve_it(
    serving: Serving, sites: dict[Precision, Path]
) -> None:
    page = serving.go((sites["fp32"] / "index.html").as_uri())
    wait_until(page, "error")
    assert "python -m http.server" in page.get_by_role("alert").inner_text()


def test_a_page_without_the_browsers_own_checksums_computes_them(
    serving: Serving, sites: dict[Precision, Path], recommender: Recommender
) -> None:
    """As on a phone that opens http://192.168.1.2:8000: browsers call that page insecure."""
    page = serving.open(
        sites["fp32"], script="Object.defineProperty(crypto, 'subtle', { value: undefined })"
    )
    wait_until(page, "ready")
    call = """length => import("/sha256.js").then(({ sha256 }) =>
        sha256(Uint8Array.from({ length }, (_, i) => (i * 31) % 256)))"""
    for length in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000):
        content = bytes(i * 31 % 256 for i in range(length))
        assert page.evaluate(call, length) == hashlib.sha256(content).hexdigest(), length


def test_titles_are_found_by_words_without_accents_popular_ones_first(
    serving: Serving, sites: dict[Precision, Path]
) -> None:
    page = serving.open(sites["fp32"])
    call = """([query, leaveOut]) => import("/search.js").then(({ TitleSearch }) => new TitleSearch(
        ["Lone Star", "Star Wars", "Les Misérables", "Star Trek", "Desta", "Star Trek"], [4])
        .find(query, 4, new Set(leaveOut)))"""
    # The title's beginning, popular first, the shorter before the longer, a word's, then inside.
    assert page.evaluate(call, ["sta", []]) == [4, 2, 6, 1]
    assert page.evaluate(call, ["sta", [2, 4, 6]]) == [1, 5]
    assert page.evaluate(call, ["WARS star", []]) == [2]
    assert page.evaluate(call, ["misera", []]) == [3]
    assert page.evaluate(call, ["  ", []]) == []
    percentiles = page.evaluate(
        """() => import("/measure.js").then(({ percentiles }) =>
            percentiles(Array.from({ length: 100 }, (_, i) => 100 - i)))"""
    )
    assert percentiles == {"p50": 50, "p95": 95, "p99": 99}
