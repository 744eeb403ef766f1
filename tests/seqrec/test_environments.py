"""Environments of their own, without installing anything."""

from pathlib import Path

from seqrec import environments
from seqrec.environments import ensure_environment, environment_folder
from seqrec.errors import SourceError

import pytest


def test_an_environment_that_cannot_be_built_leaves_nothing_behind(tmp_path: Path) -> None:
    requirements = tmp_path / "broken.txt"
    requirements.write_text("./no-such-wheel-1.0-py3-none-any.whl\n")
    with pytest.raises(SourceError, match=r"broken\.txt could not be installed \(pip: .*wheel"):
        ensure_environment(requirements)
    assert not environment_folder(requirements).exists()


def test_an_environment_is_built_once_and_anew_when_its_pins_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = []
    monkeypatch.setattr(environments, "run_pip", lambda *given: installed.append(given))
    requirements = tmp_path / "lib.txt"
    requirements.write_text("lib==1\n")
    first = ensure_environment(requirements)
    assert ensure_environment(requirements) == first
    assert first.is_file()
    requirements.write_text("lib==2\n")
    assert ensure_environment(requirements) != first
    assert len(installed) == 2
