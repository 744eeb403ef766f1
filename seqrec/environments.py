"""An environment of its own for a library whose pins contradict ours.

It is built once from a requirements file, in the folder `<its folder>/<its name>-<its digest>` of
the cache, so that other pins are another environment: `benchmarks/baselines/workers/implicit.txt`
is installed in `workers/implicit-<digest>`.
"""

import hashlib
import logging
import venv
from pathlib import Path

from seqrec.errors import SourceError
from seqrec.fetch import cache_dir, cache_error, run_pip
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
                for_python = ("--python", str(unfinished / python), "install", "--no-compile")
                run_pip(*for_python, "--requirement", str(requirements))
        except OSError as error:
            raise cache_error(cache_dir(), error) from error
        except SourceError as error:
            raise SourceError(
                f"{requirements.name} could not be installed ({error}). Connect to the network and "
                "type the same command again"
            ) from error
    # Not resolved: the interpreter is a link, and finds its environment by where the link is.
    return (folder / python).absolute()
