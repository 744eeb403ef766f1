"""An environment of its own for a library whose pins contradict ours.

It is built once from a requirements file, in the folder `<its folder>/<its name>-<its digest>` of
the cache, so that other pins are another environment: `benchmarks/baselines/workers/implicit.txt`
is installed in `workers/implicit-<digest>`.
"""

import hashlib
import logging
import subprocess
import sys
import venv
from pathlib import Path

from seqrec.errors import SourceError
from seqrec.fetch import cache_dir
from seqrec.files import atomic_directory

logger = logging.getLogger(__name__)


def environment_folder(requirements: Path) -> Path:
    """Return where the environment of a requirements file belongs."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    return cache_dir() / requirements.resolve().parent.name / f"{requirements.stem}-{digest}"


def ensure_environment(requirements: Path) -> Path:
    """Return the interpreter of a requirements file's environment, built on the first call.

    Raises:
        SourceError: pip could not install what is pinned.
    """
    folder = environment_folder(requirements)
    python = Path("bin", "python")
    if not (folder / python).exists():
        logger.info("installing %s into %s", requirements.name, folder)
        try:
            # An environment may be renamed as long as only its interpreter is called by path.
            with atomic_directory(folder) as unfinished:
                venv.create(unfinished, symlinks=True)
                _install(requirements, unfinished / python)
        except OSError as error:
            raise SourceError(f"the cache {cache_dir()} cannot be written ({error})") from error
    # Not resolved: the interpreter is a link, and finds its environment by where the link is.
    return (folder / python).absolute()


def _install(requirements: Path, python: Path) -> None:
    """Let our own pip install a requirements file for another interpreter."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-input"]
    command += ["--disable-pip-version-check", "--no-compile", "--requirement", str(requirements)]
    # pip's progress goes to our stderr (descriptor 2): stdout is for results.
    result = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no output"]
        raise SourceError(
            f"{requirements.name} could not be installed (pip: "
            f"{errors[-1].removeprefix('ERROR:').strip()}). Connect to the network and type the "
            "same command again"
        )
