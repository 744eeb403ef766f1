"""Files are whole or absent."""

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from seqrec import files
from seqrec.errors import DataError
from seqrec.files import (
    atomic_directory,
    read_json,
    require_replaceable,
    says,
    scratch_directory,
    sha256_file,
    write_json,
)

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

    def interrupted() -> None:
        with atomic_directory(path) as folder:
            (folder / "note.txt").write_text("new", encoding="utf-8")
            assert (path / "note.txt").read_text(encoding="utf-8") == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (path / "note.txt").read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


STOPPED = """
import os, signal, sys
from pathlib import Path
from seqrec.files import atomic_directory
with atomic_directory(Path(sys.argv[1])) as folder:
    (folder / "note.txt").write_text("half")
    print("writing", flush=True)
    if sys.argv[2] == "wait":
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def start_writer(path: Path, then: str) -> "subprocess.Popen[str]":
    writer = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(path), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a [folder]"  # not a pattern
    fill(path, "old")
    start_writer(path, "die").wait()
    assert (path / "note.txt").read_text(encoding="utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 2
    fill(path, "new")
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_left_of_a_folder_within_is_removed_too(tmp_path: Path) -> None:
    """A stage that fills a folder may call a writer that makes its folder whole or not at all."""
    others = [tmp_path / ".my folder.17.tmp", tmp_path / ".folder.shards", tmp_path / "folder.tmp"]
    left = [".folder.17.tmp", "..folder.17.tmp.17.tmp", "..folder.17.tmp.17.old"]
    for path in [*others, *(tmp_path / name for name in left)]:
        fill(path, "half")
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "folder"):
        raise KeyboardInterrupt
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_scratch_folder_is_there_while_its_path_is_written_and_gone_after_that(
    tmp_path: Path,
) -> None:
    path = tmp_path / "folder"
    with scratch_directory(path) as scratch:
        fill(scratch / "parts", "needed")
        fill(path, "new")
        assert (scratch / "parts" / "note.txt").read_text(encoding="utf-8") == "needed"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_living_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    writer = start_writer(path, "wait")
    fill(path, "new")
    (unfinished,) = set(tmp_path.iterdir()) - {path}
    assert (unfinished / "note.txt").read_text(encoding="utf-8") == "half"
    writer.kill()
    writer.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps two names in one step")
def test_no_moment_is_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename of the old one would leave such a moment: a kill there would lose both."""
    path = tmp_path / "folder"
    fill(path, "old")
    renamed: list[Path] = []
    monkeypatch.setattr(Path, "rename", lambda self, target: renamed.append(self))
    fill(path, "new")
    assert renamed == []
    assert (path / "note.txt").read_text(encoding="utf-8") == "new"


def test_where_names_cannot_be_swapped_the_old_folder_is_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    test_a_finished_folder_replaces_the_old_one_with_all_its_files(tmp_path)


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    """Where names cannot be swapped, the old folder is away for a moment; it comes back."""
    fill(tmp_path / "folder", "old")
    (tmp_path / "folder").rename(tmp_path / ".folder.17.old")
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "folder"):
        raise KeyboardInterrupt
    assert (tmp_path / "folder" / "note.txt").read_text(encoding="utf-8") == "old"


def test_a_file_system_without_locks_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".folder.17.tmp").mkdir()  # perhaps alive: nobody can tell
    fill(tmp_path / "folder", "new")
    assert (tmp_path / "folder" / "note.txt").read_text(encoding="utf-8") == "new"
    assert (tmp_path / ".folder.17.tmp").is_dir()


def test_a_link_to_another_disk_stays_a_link(tmp_path: Path) -> None:
    fill(tmp_path / "disk", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "note.txt").read_text(encoding="utf-8") == "new"


def test_json_comes_back_as_it_went_and_a_value_that_cannot_be_written_leaves_the_old_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "deep" / "value.json"
    value = {"title": "Les Misérables", "share": 0.1, "rows": [1, 2], "none": None}
    write_json(path, value)
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == value
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[1, 2]", "a list, not"),
        ("[" * 100_000, "nested too deeply"),
        (r'{"name": "\ud800"}', "surrogates not allowed"),  # half a character: cannot be written
    ],
)
def test_json_that_cannot_be_used_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "value.json").write_text(content)
    with pytest.raises(ValueError, match=complaint):
        read_json(tmp_path / "value.json")


def test_the_checksum_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(b"abc")
    # FIPS 180-4, the standard's own example.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(path) == expected == hashlib.sha256(b"abc").hexdigest()


def test_only_what_is_ours_or_empty_is_replaced(tmp_path: Path) -> None:
    require_replaceable(tmp_path / "absent", "thing", ours=False)
    require_replaceable(tmp_path, "thing", ours=False)  # empty
    (tmp_path / "file").touch()
    require_replaceable(tmp_path, "thing", ours=True)
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match=f"{path} exists and holds no thing"):
            require_replaceable(path, "thing", ours=False)


def test_a_file_says_what_its_json_says(tmp_path: Path) -> None:
    path = tmp_path / "description.json"
    assert not says(path, "format", "seqrec")
    write_json(path, {"format": "seqrec-thing/2", "version": 2})
    assert says(path, "format", "seqrec-thing/")
    assert not says(path, "format", "other")
    assert not says(path, "version", "2")
    path.write_text("[1]")
    assert not says(path, "format", "seqrec")


def test_a_sweep_between_making_and_holding_a_folder_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, held, sweeps = tmp_path / "made", files._held, [1, 2]

    @contextlib.contextmanager
    def swept(folder: Path, *, wait: bool = False) -> Iterator[None]:
        if wait and sweeps:
            sweeps.pop()
            files._remove_leftovers(path)  # what a second writer does first
            assert not folder.exists()
        with held(folder, wait=wait):
            yield

    monkeypatch.setattr(files, "_held", swept)
    fill(path, "new")
    assert not sweeps
    assert [file.name for file in tmp_path.iterdir()] == ["made"]


def test_a_folder_that_took_the_name_of_a_swept_one_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = tmp_path / ".made.4711.tmp"
    leftover.mkdir()
    open_folder = os.open

    def replaced(folder: Path, flags: int) -> int:
        monkeypatch.setattr(os, "open", open_folder)
        descriptor = open_folder(folder, flags)
        leftover.rename(tmp_path / "gone")
        leftover.mkdir()  # by another writer, who has not held it yet
        (leftover / "note.txt").write_text("new")
        return descriptor

    monkeypatch.setattr(os, "open", replaced)
    files._remove_leftovers(tmp_path / "made")
    assert any(leftover.iterdir())


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_clean_removes_caches_and_no_work_of_hours(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "Makefile", tmp_path)
    kept = [
        "data/mine/__pycache__/a",
        "runs/mine/model",
        ".venv/lib/__pycache__/b.pyc",
        "seqrec/c.py",
    ]
    caches = [".pytest_cache/d", ".mypy_cache/e", "seqrec/__pycache__/f.pyc", "__pycache__/g.pyc"]
    for name in kept + caches:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    make = str(shutil.which("make"))
    subprocess.run([make, "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert [name for name in kept + caches if (tmp_path / name).exists()] == kept
