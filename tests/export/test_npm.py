"""The client for JavaScript answers in Node.js as Python's does, and refuses what is damaged."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from seqrec.files import read_json, write_json

import pytest

from export.recommender import Recommender
from tests.export.answers import flip_a_byte

pytestmark = pytest.mark.slow

# Prints what a call returns, or its error as "name: message".
PROGRAM = """
import * as ort from "onnxruntime-node";
import { Recommender } from "llm-seqrec";
import { openFolder } from "llm-seqrec/node";
const [folder, asked] = process.argv.slice(2);
try {
  const recommender = await openFolder(ort, folder);
  const answers = JSON.parse(asked).map(([history, options]) =>
    recommender.recommend(history, options));
  console.log(JSON.stringify({ answers: await Promise.all(answers) }));
} catch (error) {
  console.log(JSON.stringify({ error: `${error.name}: ${error.message}` }));
}
"""


def ask(node_folder: Path, folder: Path, asked: list[Any], program: str = PROGRAM) -> Any:
    (node_folder / "ask.mjs").write_text(program)
    command = ["node", "ask.mjs", str(folder), json.dumps(asked)]
    told = subprocess.run(command, cwd=node_folder, capture_output=True, text=True, check=True)
    return json.loads(told.stdout)


def test_its_version_is_the_projects() -> None:
    root = Path(__file__).parents[2]
    package = json.loads((root / "export/npm/package.json").read_text())
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert package["version"] == project["version"]


def test_overlapping_calls_are_answered_as_in_python(
    node_folder: Path, followed: Recommender
) -> None:
    history = ["b03", "nobody", "b14", "b15", "b09", "b02", "b06", "b20", "b03"]  # window: six
    wanted = ["b03", "b30", "b11", "nobody"]
    asked: list[tuple[list[str], dict[str, Any]]] = [
        (["b07"], {}),
        (history, {"k": 5}),
        (history, {"k": 40, "excludeSeen": False}),
        (history, {"candidates": wanted}),
        (history[:1], {"candidates": wanted, "excludeSeen": False}),
        ([f"b{number:02d}" for number in range(1, 30)], {}),
    ]
    answers = ask(node_folder, followed._source[0], asked)["answers"]
    for answer, (ids, options) in zip(answers, asked, strict=True):
        ours = {name.replace("excludeSeen", "exclude_seen"): options[name] for name in options}
        expected = followed.recommend(ids, **ours)
        assert [item["item_id"] for item in answer] == expected.item_ids
        assert [item["title"] for item in answer] == expected.titles
        assert [item["score"] for item in answer] == pytest.approx(expected.scores, abs=1e-4)


@pytest.mark.parametrize(
    ("history", "options", "message"),
    [
        (["x"], {}, "RangeError: the history holds no item of the catalogue"),
        (["b01"], {"candidates": ["x"]}, "RangeError: candidates holds no item of the catalogue"),
        (["b01"], {"k": 0}, "RangeError: k is 0, expected a whole number of at least 1"),
        (["b01"], {"k": 1.5}, "RangeError: k is 1.5, expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    node_folder: Path, folder: Path, history: list[str], options: dict[str, Any], message: str
) -> None:
    assert ask(node_folder, folder, [[history, options]])["error"] == message


@pytest.mark.parametrize("name", ["model.onnx", "items.json"])
def test_a_damaged_file_is_named(
    node_folder: Path, folder: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    flip_a_byte(tmp_path / "copy" / name)
    error = ask(node_folder, tmp_path / "copy", [])["error"]
    assert error.startswith(f"ModelError: {name} is damaged: SHA-256 is ")
    (tmp_path / "copy" / name).unlink()
    error = ask(node_folder, tmp_path / "copy", [])["error"]
    assert error == f"ModelError: {tmp_path / 'copy'} holds no usable {name} (ENOENT)"


def test_another_version_is_refused(node_folder: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    config = read_json(folder / "config.json")
    write_json(tmp_path / "copy" / "config.json", {**config, "version": 3})
    error = ask(node_folder, tmp_path / "copy", [])["error"]
    assert "seqrec-recommender version 3, expected seqrec-recommender version 2" in error


def test_a_model_is_opened_by_its_path_as_on_a_phone(node_folder: Path, folder: Path) -> None:
    """React Native has no bytes of it: the runtime reads the file."""
    program = """
import * as ort from "onnxruntime-node";
import { readFileSync } from "node:fs";
import { Recommender } from "llm-seqrec";
const [folder] = process.argv.slice(2);
const text = (name) => readFileSync(`${folder}/${name}`, "utf8");
const recommender = await Recommender.open(ort, {
  config: text("config.json"), items: JSON.parse(text("items.json")),
  model: `${folder}/model.onnx`,
});
console.log(JSON.stringify(await recommender.recommend(["b08"], { k: 3 })));
"""
    answer = ask(node_folder, folder, [], program)
    expected = Recommender.from_pretrained(folder).recommend(["b08"], k=3)
    assert [item["item_id"] for item in answer] == expected.item_ids
