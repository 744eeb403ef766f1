"""The page's folder, and the server for it; `tests/export/web` opens it in a browser."""

import dataclasses
import gzip
import threading
import urllib.request
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError
from seqrec.files import read_json, sha256_file

import numpy as np
import pytest

from export import to_web as module
from export.config import ServeConfig, ToWebConfig
from export.serve_web import open_server
from export.to_web import CLIENT, PAGE, SCHEMA, SCRIPT, WASM, to_web

pytestmark = pytest.mark.slow


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like npm's package, in place of it: no test here runs a model."""
    (tmp_path / "npm/package/dist").mkdir(parents=True)
    (tmp_path / "npm" / SCRIPT).write_text("export const env = {};")
    (tmp_path / "npm" / WASM).write_bytes(b"\0asm" + bytes(1000))
    monkeypatch.setattr(module, "fetch_npm_package", lambda *given: tmp_path / "npm")
    return tmp_path / "npm"


@pytest.fixture
def config(
    folder: Path, tiny_dataset: SequenceDataset, runtime: Path, tmp_path: Path
) -> ToWebConfig:
    site = tmp_path / "site"
    return ToWebConfig(model_dir=folder, data_dir=tiny_dataset.path, output_dir=site)


def site_of(config: ToWebConfig, **flags: Any) -> dict[str, Any]:
    """Write the page, and return what it says of itself."""
    return read_json(to_web(dataclasses.replace(config, **flags)) / "site.json")


def files_below(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}


def test_it_holds_the_page_the_model_and_the_runtime(config: ToWebConfig, runtime: Path) -> None:
    folder = to_web(config)
    copies = {folder / file.name: file for file in [*PAGE.iterdir(), *CLIENT]}
    for name in ("model.onnx", "items.json", "config.json"):
        copies[folder / "model" / name] = config.model_dir / name
    copies[folder / "onnxruntime/ort.js"] = runtime / SCRIPT
    for copied, source in copies.items():
        assert copied.read_bytes() == source.read_bytes()
    card = (folder / "model/README.txt").read_text(encoding="utf-8")
    assert card.startswith("# gru control fp32")
    assert (config.model_dir / "README.md").read_text(encoding="utf-8").endswith(card)
    packed = (folder / "onnxruntime/ort-wasm-simd-threaded.wasm.gz").read_bytes()
    assert gzip.decompress(packed) == (runtime / WASM).read_bytes()
    for name in ("LICENSE.txt", "ThirdPartyNotices.txt"):
        assert "Microsoft" in (folder / "onnxruntime" / name).read_text(encoding="utf-8")


def test_what_it_says_of_its_files_is_true(config: ToWebConfig, runtime: Path) -> None:
    folder = to_web(config)
    site = read_json(folder / "site.json")
    assert site["schema"] == SCHEMA
    checksums = {"ort-wasm-simd-threaded.wasm": sha256_file(runtime / WASM)}
    assert site["runtime"]["sha256"] == checksums
    assert len(site["sizes"]) == 3
    for name, size in site["sizes"].items():
        assert (folder / name).stat().st_size == size
    assert {folder / name for name in site["files"]} == {folder, *files_below(folder)}


def test_popular_titles_come_first_and_never_from_held_out_events(
    config: ToWebConfig, tiny_dataset: SequenceDataset
) -> None:
    numbers = range(tiny_dataset.num_users)
    events = np.concatenate([tiny_dataset.train_sequence(user) for user in numbers])
    counts = np.bincount(events, minlength=31)
    expected = sorted(range(1, 31), key=lambda item: (-counts[item], item))
    assert site_of(config)["popular"] == expected


def test_two_builds_are_equal_byte_for_byte_and_another_one_has_another_name(
    config: ToWebConfig,
) -> None:
    first, second = (
        {file: file.read_bytes() for file in files_below(to_web(config))} for _ in range(2)
    )
    assert first == second  # which also replaced the first
    assert site_of(config)["build"] != site_of(config, num_suggested=3)["build"]


def test_what_is_not_a_page_of_ours_is_not_replaced(config: ToWebConfig, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"exists and holds no page from export\.to_web"):
        site_of(config, output_dir=tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_without_a_model_the_command_to_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"python -m export\.to_onnx"):
        to_web(ToWebConfig(model_dir=tmp_path / "nothing"))


def test_another_data_set_is_refused_and_without_any_nothing_is_suggested(
    config: ToWebConfig,
    tiny_cold: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DataError, match="Name that one: --data-dir"):
        site_of(config, data_dir=tiny_cold.path)
    assert not (tmp_path / "site").exists()
    monkeypatch.chdir(tmp_path)
    assert site_of(config, data_dir=None)["popular"] == []


def test_the_server_sends_what_a_fine_clock_needs(config: ToWebConfig) -> None:
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
    config: ToWebConfig, tmp_path: Path
) -> None:
    site = to_web(config)
    with open_server(ServeConfig(site_dir=site, port=0)) as server:
        taken = ServeConfig(site_dir=site, port=server.server_address[1])
        with pytest.raises(DataError, match="cannot listen on .*--port 0"):
            open_server(taken)
    with pytest.raises(DataError, match=r"python -m export\.to_web"):
        open_server(ServeConfig(site_dir=tmp_path / "nothing"))
