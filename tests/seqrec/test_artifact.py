"""Checksummed, versioned folders."""

import json
from pathlib import Path

from seqrec.artifact import Kind
from seqrec.errors import DataError, ModelError
from seqrec.files import read_json, write_json

import numpy as np
import pytest

KIND = Kind("test-thing", 2, "thing", DataError)
REMEDY = "Make it: python -m make"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "thing"
    path.mkdir()
    np.save(path / "numbers.npy", np.arange(3))
    (path / "words.txt").write_text("one two")
    KIND.write(path, {"name": "x"})
    return path


def test_what_was_written_is_read(folder: Path) -> None:
    opened = KIND.open(folder, REMEDY)
    assert opened.description["name"] == "x"
    assert opened.read("words.txt") == b"one two"
    assert opened.array("numbers.npy", np.int64, 1).tolist() == [0, 1, 2]
    assert opened.checksums.keys() == {"numbers.npy", "words.txt"}
    opened.verify()


def test_checksums_may_leave_out_a_suffix_that_all_names_have(tmp_path: Path) -> None:
    kind = Kind("arrays", 1, "arrays", DataError, suffix=".npy")
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    assert kind.write(tmp_path, {})["sha256"].keys() == {"a"}
    assert kind.open(tmp_path, REMEDY).array("a", np.float64, 2).shape == (2, 2)


@pytest.mark.parametrize(
    "change", [{"version": None}, {"version": 1}, {"format": "other"}, {"version": "2"}]
)
def test_another_format_or_version_is_refused(folder: Path, change: dict[str, object]) -> None:
    write_json(folder / "meta.json", {**read_json(folder / "meta.json"), **change})
    with pytest.raises(DataError, match="expected test-thing version 2. Make it: python -m make$"):
        KIND.open(folder, REMEDY)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_description_is_refused(folder: Path, content: bytes) -> None:
    (folder / "meta.json").write_bytes(content)
    with pytest.raises(DataError, match="no usable thing in .*Make it: python -m make"):
        KIND.open(folder, REMEDY)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no usable thing in .*nothing \(no meta.json\). Make it"):
        KIND.open(tmp_path / "nothing", REMEDY)


def test_a_file_that_changed_is_refused_by_name(folder: Path) -> None:
    (folder / "words.txt").write_text("one two three")
    opened = KIND.open(folder, REMEDY)
    for read in (opened.verify, lambda: opened.read("words.txt"), lambda: opened.file("words.txt")):
        with pytest.raises(DataError, match="words.txt is damaged: SHA-256 is .* Make it"):
            read()
    (folder / "words.txt").unlink()
    with pytest.raises(DataError, match="no usable thing in .*words.txt"):
        opened.verify()


@pytest.mark.parametrize(
    ("checksums", "complaint"),
    [
        *(({name: "0" * 64}, "outside of the folder") for name in ("../a", "/etc/passwd", "a/b")),
        *((checksums, "has no checksums") for checksums in (None, [], "x")),
    ],
)
def test_checksums_that_are_none_or_of_files_outside_of_the_folder_are_refused(
    folder: Path, checksums: object, complaint: str
) -> None:
    write_json(folder / "meta.json", {**read_json(folder / "meta.json"), "sha256": checksums})
    with pytest.raises(DataError, match=complaint):
        KIND.open(folder, REMEDY)


def test_whatever_a_reader_raises_becomes_one_line(folder: Path) -> None:
    opened = KIND.open(folder, REMEDY)
    for error in (KeyError("name"), SyntaxError("header"), OverflowError(), RecursionError("deep")):
        with pytest.raises(DataError, match="^no usable thing in"), opened.reading():
            raise error
    with pytest.raises(DataError, match="holds int64 in 1 dimensions"), opened.reading():
        opened.array("numbers.npy", np.int32, 1)


@pytest.mark.parametrize("error", [ModelError("mine"), KeyboardInterrupt(), MemoryError()])
def test_what_is_no_damage_passes(folder: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), KIND.open(folder, REMEDY).reading():
        raise error


def test_a_folder_is_current_if_it_is_whole_and_says_the_same(folder: Path, tmp_path: Path) -> None:
    assert KIND.is_current(folder, {"name": "x"})
    assert not KIND.is_current(folder, {"name": "y"})
    assert not KIND.is_current(folder, {"other": 1})
    assert not KIND.is_current(tmp_path / "nothing", {})
    assert json.loads((folder / "meta.json").read_text())["name"] == "x"
    (folder / "words.txt").write_text("changed")
    assert not KIND.is_current(folder, {"name": "x"})
