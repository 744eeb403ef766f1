"""Reading and writing files so that a killed run never leaves a half-written one."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Inside a stage's folder: what the stage had made before it was trained on the validation events.
SELECTION = "selection"


def selection(folder: Path) -> Path:
    """Return the folder of what may be validated: `folder` itself if nothing was refitted there."""
    return folder / SELECTION if (folder / SELECTION).is_dir() else folder


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `OSError` or `ValueError` as `json.loads` does."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


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

    A reader therefore sees the old folder or the new one, whole. If the block raises, the
    unfinished folder is removed and `path` stays as it was.
    """
    path = path.resolve()  # a link stays a link: what it points to is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            path.rename(old)
        beside.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
