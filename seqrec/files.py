"""Reading and writing files so that a killed run never leaves a half-written one."""

import contextlib
import ctypes
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seqrec.errors import DataError

# Inside a stage's folder: what the stage had made before it was trained on the validation events.
SELECTION = "selection"


def selection(folder: Path) -> Path:
    """Return the folder of what may be validated: `folder` itself if nothing was refitted there."""
    return folder / SELECTION if (folder / SELECTION).is_dir() else folder


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums_of(folder: Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return {"sha256": {name: SHA-256}} of the files of these names that are in a folder."""
    files = {name: folder / name for name in names}
    return {"sha256": {name: sha256_file(file) for name, file in files.items() if file.is_file()}}


def require_checksums(folder: Path, described: Mapping[str, Any]) -> None:
    """Refuse files that are not those that `described`, with `checksums_of` them, was written with.

    Raises:
        ValueError: naming the first such file.
    """
    sums = described.get("sha256", {})  # earlier versions wrote none
    if not isinstance(sums, dict):
        raise ValueError(f"sha256 is {sums!r}, not an object")
    for name, expected in sums.items():
        if sha256_file(folder / name) != expected:
            raise ValueError(f"{name} is not the file that was written here")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `OSError` or `ValueError` as `json.loads` does."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # refuses halves of characters
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def says(path: Path, key: str, beginning: str) -> bool:
    """Tell whether a JSON file has a text under a key that begins so; False if it has not."""
    try:
        value = read_json(path).get(key)
    except (OSError, ValueError):
        return False
    return isinstance(value, str) and value.startswith(beginning)


def require_replaceable(folder: Path, what: str, *, ours: bool) -> None:
    """Refuse to replace what is neither absent, nor an empty folder, nor `ours`.

    Raises:
        DataError: naming the folder, and what it does not hold.
    """
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} exists and holds no {what}. Give another --output-dir, or move it away"
        )


def write_json(path: Path, value: object) -> None:
    """Write JSON beside `path`, then rename it into place."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text beside `path`, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the place of `path` only if the block succeeds.

    A reader therefore sees the old folder or the new one, whole, and so does who comes after a
    killed process or a machine that lost its power. If the block raises, the unfinished folder is
    removed and `path` stays as it was. What killed processes left beside it is removed first.
    """
    path = path.resolve()  # a link stays a link: what it points to is replaced
    with _made_beside(path, _unfinished(path)) as beside:
        yield beside
        _flush(beside)
        if not path.exists():
            beside.rename(path)
        elif not _exchange(beside, path):
            old = beside.with_suffix(".old")
            path.rename(old)
            beside.rename(path)
            old.rename(beside)


@contextlib.contextmanager
def scratch_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, for what is needed until `path` is written.

    It is removed in the end; after a kill, by the next call for the same path, or by
    `atomic_directory`.
    """
    path = path.resolve()
    with _made_beside(path, _unfinished(_unfinished(path))) as folder:
        yield folder


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a disk refuses while `path` is written into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error}). Give another --output-dir") from error


def _unfinished(path: Path) -> Path:
    """Return where this process makes what is to become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def _made_beside(path: Path, folder: Path) -> Iterator[Path]:
    """Remove what killed processes left beside `path`; make a folder there and remove it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _make_held(folder, stack)
        yield folder


def _make_held(folder: Path, stack: contextlib.ExitStack) -> None:
    """Make a folder and hold it until the stack is left; where nothing can be held, make it."""
    while True:
        folder.mkdir()
        try:
            stack.enter_context(_held(folder, wait=True))
        except FileNotFoundError:
            continue  # before it was held, another writer took it for a leftover and removed it
        except OSError:  # a file system without locks, where no one removes leftovers either
            pass
        return


def _remove_leftovers(path: Path) -> None:
    """Remove unfinished or replaced folders of `path` that no living process holds."""
    # A folder that was being filled by a writer that fills such folders itself has a name of two.
    unfinished = re.compile(rf"\.+{re.escape(path.name)}(\.\d+\.tmp)*\.\d+\.(tmp|old)")
    for leftover in path.parent.glob(f".*{glob.escape(path.name)}.*"):
        if unfinished.fullmatch(leftover.name) and leftover.is_dir():
            replaced = re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.old", leftover.name)
            # An OSError: a process holds it or has removed it, or nobody can hold anything here.
            with contextlib.suppress(OSError), _held(leftover):
                if replaced and not path.exists():
                    leftover.rename(path)  # a kill came between two renames
                else:
                    shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder while the block runs and its process lives.

    Raises:
        FileNotFoundError: it is gone, or another one has its name by now.
        OSError: another process holds it and `wait` is false, or the file system holds nothing.
    """
    import fcntl  # Windows, where clients only read, has none

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            raise FileNotFoundError(f"{folder} was replaced")
        yield
    finally:
        os.close(descriptor)


def _flush(folder: Path) -> None:
    """Have the disk hold a folder's files before its new name."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders swap their names in one step; False where the system cannot (not Linux)."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        rename = ctypes.CDLL("libc.so.6").renameat2
        done: int = rename(here, os.fsencode(one), here, os.fsencode(other), exchange)
        return done == 0
    return False
