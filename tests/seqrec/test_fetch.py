"""Downloads against a local file and stand-ins for pip and npm; what is unpacked; the cache."""

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from seqrec import fetch
from seqrec.errors import SourceError
from seqrec.fetch import Archive, cache_dir, fetch_first, fetch_npm_package

import pytest

import teacher.text
from tests.seqrec.archives import fails, files_in, offers, pinned, tgz_of, zip_of


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's."""
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "cache"))
    return cache_dir()


# --- Downloads ----------------------------------------------------------------------------------


def test_an_address_is_copied_byte_for_byte_or_gives_its_reason(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "source.zip").write_bytes(content)
    path = fetch._download_url((tmp_path / "source.zip").as_uri(), tmp_path)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()
    with pytest.raises(SourceError, match="No such file"):
        fetch._download_url((tmp_path / "nothing.zip").as_uri(), tmp_path)


NPM_ERRORS = "npm error code E1\nnpm error syscall x\nnpm error network it is off\nnpm error more"


@pytest.mark.parametrize(
    ("download", "stderr", "expected"),
    [
        ("_download_wheel", "WARNING: a\nERROR: first\nERROR: last one\n\nb\n", "pip: last one"),
        ("_download_wheel", "Traceback\nKilled\n", "pip: Killed"),
        ("_download_wheel", "", "pip: no output"),
        ("_download_npm", NPM_ERRORS, "npm: it is off"),
    ],
)
def test_of_a_tools_complaints_the_one_that_says_why_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: str, stderr: str, expected: str
) -> None:
    result = subprocess.CompletedProcess([], 1, stderr=stderr)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: result)
    with pytest.raises(SourceError) as raised:
        getattr(fetch, download)("thing", tmp_path)
    assert str(raised.value) == expected


def test_a_machine_without_npm_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SourceError, match="npm is not on the PATH"):
        fetch._download_npm("thing@1.2.3", tmp_path)


# --- Archives -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "pack", "download"),
    [("pkg==1", zip_of, "_download_wheel"), ("npm:pkg@1", tgz_of, "_download_npm")],
)
def test_an_archive_is_unpacked_once_only_what_is_wanted_and_again_if_a_file_is_damaged(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    location: str,
    pack: Callable[[Path, dict[str, bytes]], Path],
    download: str,
) -> None:
    wanted = {"pkg/model/config.json": b"{}", "pkg/model/sub/weights": b"12", "pkg/one": b"3"}
    file = pack(tmp_path / "pkg", wanted | {"pkg/cli.py": b"", "other/a": b""})
    archive = pinned(location, file, "pkg/model/", "pkg/one")
    monkeypatch.setattr(fetch, download, offers(file))
    _, folder = fetch_first([archive], "a thing")
    assert files_in(folder) == wanted
    assert list(cache.iterdir()) == [folder]  # no download is left
    monkeypatch.setattr(fetch, download, fails("off"))
    assert fetch_first([archive], "a thing") == (archive, folder)
    monkeypatch.setattr(fetch, download, offers(file))
    for damage in (lambda path: path.write_bytes(b"1"), Path.unlink):
        damage(folder / "pkg/model/sub/weights")
        assert files_in(fetch_first([archive], "a thing")[1]) == wanted


def test_a_wrong_checksum_or_a_missing_member_is_refused_and_nothing_is_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = zip_of(tmp_path / "pkg.whl", {"pkg/file": b""})
    monkeypatch.setattr(fetch, "_download_wheel", offers(file))
    with pytest.raises(SourceError, match="SHA-256 is [0-9a-f]{64}, expected 0{64}"):
        fetch_first([Archive("pkg==1", "0" * 64, ("pkg/file",))], "a thing")
    with pytest.raises(SourceError, match="does not hold pkg/weights"):
        fetch_first([pinned("pkg==1", file, "pkg/weights")], "a thing")
    assert list(cache.iterdir()) == []


def test_nothing_of_an_archive_gets_outside_its_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = {"pkg/../../../escaped": b"", "pkg/good": b""}
    wheel, package = zip_of(tmp_path / "evil.whl", evil), tgz_of(tmp_path / "evil.tgz", evil)
    monkeypatch.setattr(fetch, "_download_wheel", offers(wheel))
    assert files_in(fetch_first([pinned("evil==1", wheel, "pkg/")], "evil")[1]) == {"pkg/good": b""}
    with pytest.raises(SourceError, match="outside"):
        fetch_npm_package(pinned("npm:evil@1", package, "pkg/"), package)
    (tmp_path / "secret").write_text("secret")
    link = tarfile.TarInfo("pkg/a.js")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
    linked = tmp_path / "link.tgz"
    with tarfile.open(linked, "w:gz") as archive:
        archive.addfile(link)
    with pytest.raises(SourceError, match="absolute path"):
        fetch_npm_package(pinned("npm:evil@1", linked, "pkg/"), linked)
    assert not list(tmp_path.rglob("escaped"))
    assert len(list(cache.iterdir())) == 1


def test_an_npm_package_can_be_brought_as_a_file_and_without_npm_that_is_said(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tgz_of(tmp_path / "brought", {"package/a.js": b"1"})
    archive = pinned("npm:thing@1.2.3", package, "package/a.js")
    monkeypatch.setattr(fetch, "_download_npm", fails("no registry"))
    with pytest.raises(
        SourceError, match=r"no registry.*`npm pack thing@1\.2\.3`.*--npm-archive FILE"
    ):
        fetch_npm_package(archive)
    other = tgz_of(tmp_path / "other.tgz", {"package/a.js": b"2"})
    with pytest.raises(SourceError, match=r"SHA-256 is .* what `npm pack thing@1\.2\.3` writes"):
        fetch_npm_package(archive, other)
    with pytest.raises(SourceError, match="there is no file"):
        fetch_npm_package(archive, tmp_path / "nothing.tgz")
    assert files_in(fetch_npm_package(archive, package)) == {"package/a.js": b"1"}


# --- The cache ----------------------------------------------------------------------------------


def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "cache"))
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("SEQREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "seqrec"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "seqrec"


def test_a_user_without_a_home_is_told_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SEQREC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(SourceError, match="Set SEQREC_CACHE"):
        cache_dir()


def test_a_cache_that_cannot_be_made_is_refused_before_anything_is_fetched_or_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    advice = "cannot be written .*Set SEQREC_CACHE to a folder that can"
    monkeypatch.setattr(teacher.text, "load_base", None)  # what reads texts
    monkeypatch.setattr(teacher.text, "model_fingerprint", lambda folder: "")
    for name, value in (
        ("SEQREC_CACHE", "file/cache"),
        ("XDG_CACHE_HOME", "file"),
        ("HOME", "file"),
    ):
        for other in ("SEQREC_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, str(tmp_path / value))
        with pytest.raises(SourceError, match=advice):
            fetch_first([Archive("pkg==1", "0" * 64, ())], "a thing")
        with pytest.raises(SourceError, match=advice):
            teacher.text.read_texts(["a title"], tmp_path, bits=16)
    # The cache is there, but what belongs in it cannot be written.
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path))
    (tmp_path / "text-vectors").touch()
    with pytest.raises(SourceError, match=advice):
        teacher.text.read_texts(["a title"], tmp_path, bits=16)
