"""Checksummed, versioned folders: what one stage leaves for another.

Beside its files such a folder holds a description, a JSON object with `format`, `version` and
`sha256`, which maps each file's name to its checksum. A `Kind` writes and opens the folders of one
format:

    DATASET = Kind("seqrec-data", 1, "data set", DataError)
    with atomic_directory(path) as folder:
        np.save(folder / "events.npy", events)
        DATASET.write(folder, {"name": "ml-100k"})
    opened = DATASET.open(path, "Make it: python -m seqrec.prepare")
    with opened.reading():
        opened.array("events.npy", np.int32, 1)

Needs numpy alone: clients open recommenders with it.
"""

import contextlib
import hashlib
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.errors import SeqRecError
from seqrec.files import read_json, sha256_file, write_json

import numpy as np
from numpy.typing import DTypeLike, NDArray

ENDS_PROCESS = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)


def release_pages(array: NDArray[Any]) -> None:
    """Give back the memory that reading a memory-mapped array took; it is read anew if need be.

    Of others nothing is released.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Kind:
    """The folders of one format.

    Attributes:
        format: names the format in the description.
        version: what is written.
        title: what messages call such a folder.
        error: what is raised where there is none that can be used.
        file_name: of the description.
        suffix: of all file names; `sha256` leaves it out.
    """

    format: str
    version: int
    title: str
    error: type[SeqRecError]
    file_name: str = "meta.json"
    suffix: str = ""

    def write(
        self, folder: Path, description: Mapping[str, Any], names: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Write the description of a folder whose files are complete, and return it.

        Args:
            folder: unfinished, from `atomic_directory`.
            description: what it says besides.
            names: the files to checksum, as they stand in `sha256`; None: all that are there.
        """
        if names is None:
            names = [file.name.removesuffix(self.suffix) for file in sorted(folder.iterdir())]
        checksums = {name: sha256_file(folder / (name + self.suffix)) for name in names}
        written = {
            "format": self.format,
            "version": self.version,
            **description,
            "sha256": checksums,
        }
        write_json(folder / self.file_name, written)
        return written

    def open(self, folder: Path, remedy: str) -> "Artifact":
        """Read a folder's description; its files are verified as they are read.

        Args:
            folder: what `write` described.
            remedy: a sentence that ends all messages: what to type.

        Raises:
            SeqRecError: of this kind: there is no such folder, its description is damaged, or it is
                of another format or version.
        """
        file = folder / self.file_name
        if not file.is_file():
            raise self.error(f"no usable {self.title} in {folder} (no {file.name}). {remedy}")
        opened = Artifact(self, folder, {}, remedy)
        with opened.reading():
            opened.description.update(read_json(file))
            stated = opened.description.get("format"), opened.description.get("version")
            if stated != (self.format, self.version):
                raise self.error(
                    f"{folder} is {stated[0]} version {stated[1]}, expected {self.format} "
                    f"version {self.version}. {remedy}"
                )
            for name in opened.checksums:
                if Path(name).name != name:
                    raise ValueError(f"{file.name} names {name!r}, which is outside of the folder")
        return opened

    def is_current(self, folder: Path, description: Mapping[str, Any]) -> bool:
        """Tell whether a folder is whole, of this version, and described by these values."""
        try:
            opened = self.open(folder, "")
            opened.verify()
        except self.error:
            return False
        return all(opened.description.get(key) == value for key, value in description.items())


@dataclass(frozen=True)
class Artifact:
    """A folder that was opened; use its files inside of `reading`."""

    kind: Kind
    folder: Path
    description: dict[str, Any]
    remedy: str

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 by name."""
        checksums = self.description.get("sha256")
        if not isinstance(checksums, dict):
            raise ValueError(f"{self.kind.file_name} has no checksums")
        return checksums

    def verify(self) -> None:
        """Check all files.

        Raises:
            SeqRecError: of the kind: one is missing, or not what was written.
        """
        with self.reading():
            for name in self.checksums:
                self.file(name)

    def file(self, name: str) -> Path:
        """Return the path of a file, verified."""
        path = self.folder / (name + self.kind.suffix)
        self._compare(path, sha256_file(path), self.checksums[name])
        return path

    def read(self, name: str) -> bytes:
        """Return the contents of a file, verified."""
        path = self.folder / (name + self.kind.suffix)
        contents = path.read_bytes()
        self._compare(path, hashlib.sha256(contents).hexdigest(), self.checksums[name])
        return contents

    def array(self, name: str, dtype: DTypeLike, ndim: int) -> NDArray[Any]:
        """Return a `.npy` file, verified and memory-mapped."""
        path = self.file(name)
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        if (array.dtype, array.ndim) != (np.dtype(dtype), ndim):
            raise ValueError(
                f"{path.name} holds {array.dtype} in {array.ndim} dimensions, expected "
                f"{np.dtype(dtype)} in {ndim}"
            )
        return array

    def _compare(self, path: Path, actual: str, expected: str) -> None:
        if actual != expected:
            raise self.kind.error(
                f"{path} is damaged: SHA-256 is {actual}, expected {expected}. {self.remedy}"
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what goes wrong with the contents into an error of the kind.

        A damaged file can make its reader raise anything: NumPy's alone has five classes, and a
        panic of Polars' is no `Exception`. So the block should hold readers and checks only.
        """
        try:
            yield
        except (SeqRecError, *ENDS_PROCESS):
            raise
        except BaseException as error:
            reason = str(error) or type(error).__name__
            raise self.kind.error(
                f"no usable {self.kind.title} in {self.folder} ({reason}). {self.remedy}"
            ) from error
