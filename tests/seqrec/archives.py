"""Archives, and downloads that give them or fail."""

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from seqrec import fetch
from seqrec.errors import SourceError
from seqrec.fetch import Archive

Download = Callable[[str, Path], Path]


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tgz_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def pinned(location: str, file: Path, *members: str) -> Archive:
    return Archive(location, fetch.sha256_file(file), members)


def offers(file: Path) -> Download:
    """Make a download that succeeds with a copy of `file`."""
    return lambda location, folder: Path(shutil.copy(file, folder))


def fails(reason: str) -> Download:
    """Make a download that fails for a reason."""

    def download(location: str, folder: Path) -> Path:
        raise SourceError(reason)

    return download


def files_in(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder but the list of them."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != fetch.MANIFEST]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
