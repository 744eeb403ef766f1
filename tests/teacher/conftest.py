"""Folders of small language models, as users have them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from tests.teacher.models import ModelFolder, build


@pytest.fixture(scope="session")
def model_folder(
    save_model: Callable[[nn.Module, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> ModelFolder:
    """Return what gives a model's folder by its name, saved once."""
    folders: dict[str, Path] = {}

    def give(name: str) -> Path:
        if name not in folders:
            folders[name] = save_model(build(name), tmp_path_factory.mktemp("model") / name)
        return folders[name]

    return give


@pytest.fixture
def copied(model_folder: ModelFolder, tmp_path: Path) -> Path:
    """A copy of the Llama's folder, to be changed."""
    return Path(shutil.copytree(model_folder("llama"), tmp_path / "changed"))
