"""The errors a user can repair: what was found, what was expected, what to type."""

import errno
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from typing import NoReturn

# A disk is full, over a quota or a limit, read-only, or not permitted.
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
SECONDS_FOR_PROCESS_0 = 5.0


class SeqRecError(Exception):
    """A fault that the user can repair; entry points show it as one line and exit with code 2."""


class DataError(SeqRecError):
    """An input file or a prepared data set is not what it has to be."""


class SourceError(SeqRecError):
    """A named data set or language model could not be fetched, or its checksum is wrong."""


class StaleKnowledgeError(SeqRecError):
    """Teacher knowledge is missing, damaged, or was made from other data."""


class ModelError(SeqRecError):
    """A language model or a student cannot be loaded or used as asked."""


def set_up_logging(level: int = logging.INFO) -> None:
    """Have messages of this level and above stand on stderr as they are."""
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)


def run_main(main: Callable[[], None]) -> None:
    """Run an entry point: set up logging, turn a `SeqRecError` into one line and exit code 2.

    So does a disk that is full or may not be written. Everything else keeps its traceback: it is a
    bug of ours, not a mistake of the user's. Of several processes only number 0 says what it does.
    What goes wrong in all of them is said once: the launcher ends the others as soon as number 0
    has failed.
    """
    rank = int(os.environ.get("RANK", "0"))
    set_up_logging(logging.WARNING if rank else logging.INFO)
    try:
        main()
    except SeqRecError as error:
        _exit(str(error), rank)
    except Exception as error:
        if (refusal := _disk_refusal(error)) is None:
            raise
        _exit(
            f"{refusal}. What was finished before is intact: make room or give another "
            "--output-dir (SEQREC_CACHE, if it is the cache), and type the same command again",
            rank,
        )
    except KeyboardInterrupt:
        sys.stderr.write(
            "\ninterrupted; type the same command again to go on from the last checkpoint\n"
        )
        raise SystemExit(130) from None


def _exit(message: str, rank: int) -> NoReturn:
    """Say what went wrong and end with code 2."""
    line = " ".join(message.split())
    if rank:
        time.sleep(SECONDS_FOR_PROCESS_0)
        line = f"process {rank}: {line}"
    sys.stderr.write(f"error: {line}\n")
    raise SystemExit(2) from None


def _disk_refusal(error: Exception) -> str | None:
    """Return what a disk refuses and why, None if the error is another one."""
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    # So does NumPy of an array that did not fit.
    if isinstance(error, OSError) and re.search(r"\d+ requested and \d+ written", str(error)):
        return f"an array could not be written whole ({error})"
    # Rust libraries (safetensors, Polars) say it in words.
    match = re.search(r"\(os error (\d+)\)", str(error))
    return str(error) if match and int(match[1]) in REFUSALS else None
