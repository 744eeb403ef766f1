"""Hugging Face's model hub: folders that are fetched from it by name, or sent to it.

Needs huggingface_hub, which is loaded when it is asked for. `HF_TOKEN` or `hf auth login` say who
asks, `HF_ENDPOINT` names another server, and `HF_HUB_OFFLINE=1` keeps to what was fetched before.
"""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqrec.errors import SourceError

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?")


def is_hub_id(name: str) -> bool:
    """Tell whether a name can be one of the hub: user/model, or user/model@revision."""
    return bool(HUB_ID.fullmatch(name))


def fetch_folder(name: str, patterns: Sequence[str], otherwise: str = "") -> Path:
    """Return a folder with the files of a hub's repository, in the hub client's own cache.

    Args:
        name: `user/model`, pinned to a commit, tag or branch by `@` and its name.
        patterns: which files are wanted, such as `*.json`; others are not fetched.
        otherwise: what to do instead, at the end of the message: ", or ...".

    Raises:
        SourceError: the hub does not give it, or huggingface_hub is not installed.
    """
    repository, _, revision = name.partition("@")
    hub = _client(f"there is no folder {name!r} here, and the model hub is asked")
    try:
        folder = hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=list(patterns)
        )
    # The client raises a dozen kinds, of its own and of its transport's.
    except Exception as error:
        raise SourceError(
            f"the model hub did not give {name!r}, and there is no such folder here "
            f"({_reason(error)}). Check the name and the network, log in with `hf auth login` if "
            f"it is gated or private{otherwise}"
        ) from error
    return Path(folder)


def send_folder(folder: Path, name: str, files: Sequence[str], *, private: bool) -> str:
    """Send files to a repository of the hub, in one commit; return the repository's address.

    Args:
        folder: where the files are.
        name: `user/model`. The repository is made if there is none.
        files: their names; what else is in `folder` stays here.
        private: whether a new repository is for its owner's eyes; an old one stays as it is.

    Raises:
        SourceError: the name is none of the hub's, the hub does not take the files, or
            huggingface_hub is not installed.
    """
    if not is_hub_id(name) or "@" in name:
        raise SourceError(f"{name!r} is no name of the model hub. Expected user/model")
    hub = _client("the model hub takes files")
    try:
        api = hub.HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message=f"Upload {folder.resolve().name}",
        )
    except Exception as error:
        raise SourceError(
            f"the model hub did not take {name!r} ({_reason(error)}). Check the name and the "
            "network, and log in with `hf auth login` by a token that may write"
        ) from error
    return str(address)


def _client(why: str) -> Any:
    """Return the module huggingface_hub; `why` it is needed begins the message if it is missing."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise SourceError(
            f"{why} through huggingface_hub, which is not installed ({error}). Type: "
            "pip install huggingface_hub"
        ) from error


def _reason(error: Exception) -> str:
    """Return an error's class and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
