"""A large index has its tables in a file that is mapped: the same answers, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import sha256_file

import onnx
import pytest
import torch

from export import opening
from export.config import ToIndexConfig, ToWebConfig
from export.index import graph
from export.index.building import to_index
from export.onnx_graph.exporting import export_student
from export.opening import DATA, FILES, whole_files
from export.recommender import Recommender
from export.to_web import to_web
from student.model import Student, StudentConfig
from tests.export.answers import MAX_LEN

HISTORIES = [["b07", "b08"], ["b01"], [f"b{number:02d}" for number in range(1, 27)]]


@pytest.fixture(scope="module")
def folders(
    tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """An index in one file, the same in two, and in two that of another student."""
    folder, made = tmp_path_factory.mktemp("run"), {}
    flags = {"data_dir": tiny_dataset.path, "list_size": 4, "min_recall": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        for name, seed in (("one", 2), ("two", 2), ("other", 3)):
            torch.manual_seed(seed)
            shape = StudentConfig(
                arch="transformer", num_items=30, hidden_dim=16, max_len=MAX_LEN, num_layers=1
            )
            about = {"role": "control", "dataset_fingerprint": tiny_dataset.fingerprint}
            Student(shape).eval().save_pretrained(folder / name / "student", **about)
            export = folder / name / "export" / "student"
            export_student(folder / name / "student", tiny_dataset, export, "int8")
            made[name] = to_index(ToIndexConfig(model_dir=export, **flags))
            patch.setattr(graph, "MAPPED_FROM", 1)
            patch.setattr(graph, "LARGE", 256)
    return made


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["two"], tmp_path / "copy"))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        Recommender.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_answers_as_the_one_file_does(folders: dict[str, Path]) -> None:
    assert not (folders["one"] / DATA).exists()
    one, two = (Recommender.from_pretrained(folders[name]) for name in ("one", "two"))
    for history in HISTORIES:
        for more in ({}, {"exclude_seen": False}, {"candidates": ["b03", "b29", "b07"]}):
            assert two.recommend(history, 30, **more) == one.recommend(history, 30, **more)
    assert two.recommend_batch(HISTORIES) == one.recommend_batch(HISTORIES)


def test_both_files_are_checksummed_sent_and_readable_by_whoever_reads_one(copy: Path) -> None:
    about = json.loads((copy / "config.json").read_text())
    assert about["sha256"][DATA] == sha256_file(copy / DATA)
    assert DATA in whole_files(copy)
    assert (copy / DATA).stat().st_mode == (copy / "model.onnx").stat().st_mode
    both = [round(os.path.getsize(copy / name) / 2**20, 2) for name in ("model.onnx", DATA)]
    assert f"takes {sum(both):.2f} MiB" in (copy / "README.md").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is mapped")
def test_the_tables_are_mapped_and_not_copied(copy: Path) -> None:
    opened = Recommender.from_pretrained(copy)
    assert str(copy / DATA) in Path("/proc/self/maps").read_text()
    assert len(opened.recommend(["b07"], 3)) == 3


def test_data_that_are_missing_truncated_changed_or_of_another_model_are_refused(
    folders: dict[str, Path], copy: Path
) -> None:
    whole = (copy / DATA).read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for content in (whole[:-1], bytes(changed), (folders["other"] / DATA).read_bytes()):
        (copy / DATA).write_bytes(content)
        assert f"{DATA} is damaged: SHA-256 is" in refusal(copy)
    (copy / DATA).unlink()
    assert DATA in refusal(copy)
    (copy / DATA).symlink_to("/dev/null")
    assert f"{DATA} is damaged" in refusal(copy)


def test_a_model_that_names_a_file_elsewhere_is_refused(copy: Path) -> None:
    """Though its checksum is that of config.json."""
    shutil.copy(copy / DATA, copy.parent / "secret")
    for location in ("../secret", str(copy.parent / "secret"), "items.json"):
        model = onnx.load(copy / "model.onnx", load_external_data=False)
        large = [t for t in model.graph.initializer if t.external_data]
        large[0].external_data[0].value = location
        (copy / "model.onnx").write_bytes(model.SerializeToString())
        about = json.loads((copy / "config.json").read_text())
        about["sha256"]["model.onnx"] = sha256_file(copy / "model.onnx")
        (copy / "config.json").write_text(json.dumps(about))
        assert f"model.onnx names other files than {DATA}" in refusal(copy)


def test_a_folder_that_is_replaced_while_it_is_opened_is_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = opening.open_session

    def replaced(*given: Any) -> Any:
        shutil.copy(copy / DATA, copy / "new")
        (copy / "new").replace(copy / DATA)
        return real(*given)

    monkeypatch.setattr(opening, "open_session", replaced)
    assert "it was replaced while it was opened" in refusal(copy)


def test_a_page_is_not_made_of_it(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"tables are in {DATA}.*--model-dir"):
        to_web(ToWebConfig(model_dir=copy, output_dir=tmp_path / "site"))


NODE = """
import * as ort from "onnxruntime-node";
import { readFileSync } from "node:fs";
import { Recommender } from "llm-seqrec";
import { openFolder } from "llm-seqrec/node";
const folder = process.argv[2];
const bytes = (name) => new Uint8Array(readFileSync(`${folder}/${name}`));
const said = [];
try {
  const opened = await openFolder(ort, folder);
  said.push((await opened.recommend(["b07", "b08"], { k: 5 })).map((item) => item.item_id));
} catch (error) {
  said.push(error.message);
}
try {
  await Recommender.open(ort, {
    config: bytes("config.json"), items: bytes("items.json"), model: bytes("model.onnx"),
  });
} catch (error) {
  said.push(error.message);
}
console.log(JSON.stringify(said));
"""


@pytest.mark.slow
def test_node_opens_both_files_and_nobody_opens_one(copy: Path, node_folder: Path) -> None:
    (node_folder / "mapped.mjs").write_text(NODE)

    def told() -> list[Any]:
        command = ["node", "mapped.mjs", str(copy)]
        done = subprocess.run(command, cwd=node_folder, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    answer, refused = told()
    assert answer == Recommender.from_pretrained(copy).recommend(["b07", "b08"], 5).item_ids
    assert f"has its tables in {DATA}" in refused
    (copy / DATA).write_bytes((copy / DATA).read_bytes()[:-1])
    assert told()[0].startswith(f"{DATA} is damaged: SHA-256 is ")
    (copy / DATA).unlink()
    assert "holds no usable model.onnx.data (ENOENT)" in told()[0]


def test_it_is_opened_through_links_as_the_hubs_client_keeps_files(
    copy: Path, tmp_path: Path
) -> None:
    """By the names that are asked of the hub, each a link to a file of another name elsewhere."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for number, name in enumerate(name for name in FILES if (copy / name).exists()):
        shutil.copy(copy / name, tmp_path / "blobs" / str(number))
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{number}")
    opened = Recommender.from_pretrained(tmp_path / "snapshot")
    expected = Recommender.from_pretrained(copy).recommend(["b07"], 5)
    assert opened.recommend(["b07"], 5) == expected
    with pytest.raises(ModelError, match=r"Name a copy of the folder: cp -rL") as caught:
        graph.load(tmp_path / "snapshot")  # as add_items does
    assert "\n" not in str(caught.value)
