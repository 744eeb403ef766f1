"""Files are whole or absent."""

import hashlib
from pathlib import Path

from seqrec.files import atomic_directory, read_json, sha256_file, write_json

import pytest


def fill(path: Path, text: str) -> None:
    with atomic_directory(path) as folder:
        (folder / "note.txt").write_text(text, encoding="utf-8")


def test_a_finished_folder_replaces_the_old_one_with_all_its_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    fill(path, "old")
    (path / "left over.txt").touch()
    fill(path, "new")
    assert {p.name: p.read_text(encoding="utf-8") for p in path.iterdir()} == {"note.txt": "new"}
    assert list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_the_old_folder_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    fill(path, "old")
    with pytest.raises(TypeError), atomic_directory(path) as folder:
        write_json(folder / "note.txt", {"not JSON": object()})
    assert (path / "note.txt").read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_at_the_first_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "folder"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_old_folder_is_there_until_the_new_one_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    fill(path, "old")
    with atomic_directory(path) as folder:
        (folder / "note.txt").write_text("new", encoding="utf-8")
        assert (path / "note.txt").read_text(encoding="utf-8") == "old"


def test_a_link_to_another_disk_stays_a_link(tmp_path: Path) -> None:
    fill(tmp_path / "disk", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "note.txt").read_text(encoding="utf-8") == "new"


def test_json_comes_back_as_it_went_with_no_file_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "value.json"
    value = {"title": "Les Misérables", "share": 0.1, "rows": [1, 2], "none": None}
    write_json(path, value)
    assert read_json(path) == value
    assert list(path.parent.iterdir()) == [path]


def test_a_json_value_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}


def test_a_json_list_is_refused_where_an_object_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, [1, 2])
    with pytest.raises(ValueError, match="list"):
        read_json(path)


def test_the_checksum_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(b"abc")
    # FIPS 180-4, the standard's own example.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(path) == expected == hashlib.sha256(b"abc").hexdigest()
