"""The downloads themselves, against a local file and stand-ins for pip and npm; and the cache."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from seqrec import fetch
from seqrec.errors import SourceError
from seqrec.fetch import cache_dir

import pytest


def test_an_address_is_copied_byte_for_byte(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "source.zip").write_bytes(content)
    path = fetch._download_url((tmp_path / "source.zip").as_uri(), tmp_path)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()


def test_an_address_that_does_not_answer_gives_its_reason(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        fetch._download_url((tmp_path / "nothing.zip").as_uri(), tmp_path)


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("WARNING: a\nERROR: first\nERROR: last one\n\nWARNING: b\n", "pip: last one"),
        ("Traceback\nKilled\n", "pip: Killed"),
        ("", "pip: no output"),
    ],
)
def test_of_pips_complaints_the_last_error_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, expected: str
) -> None:
    result = subprocess.CompletedProcess([], 1, stderr=stderr)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: result)
    with pytest.raises(SourceError) as raised:
        fetch._download_wheel("pkg==1", tmp_path)
    assert str(raised.value) == expected


def test_a_machine_without_npm_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SourceError, match="npm is not on the PATH"):
        fetch._download_npm("npm:thing@1.2.3", tmp_path)


def test_of_npms_complaints_the_first_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = "npm error code E1\nnpm error syscall x\nnpm error network it is off\nnpm error more"
    result = subprocess.CompletedProcess([], 1, stderr=stderr)
    monkeypatch.setattr(shutil, "which", lambda name: "npm")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: result)
    with pytest.raises(SourceError) as raised:
        fetch._download_npm("npm:thing@1.2.3", tmp_path)
    assert str(raised.value) == "npm: it is off"


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
