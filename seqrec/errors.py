"""The errors a user can repair: what was found, what was expected, what to type."""

import logging
import os
import sys
import time
from collections.abc import Callable

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


def run_main(main: Callable[[], None]) -> None:
    """Run an entry point: set up logging, turn a `SeqRecError` into one line and exit code 2.

    Everything else keeps its traceback: it is a bug of ours, not a mistake of the user's. Of
    several processes only number 0 says what it does. What goes wrong in all of them is said once:
    the launcher ends the others as soon as number 0 has failed.
    """
    rank = int(os.environ.get("RANK", "0"))
    level = logging.WARNING if rank else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    try:
        main()
    except SeqRecError as error:
        message = " ".join(str(error).split())
        if rank:
            time.sleep(SECONDS_FOR_PROCESS_0)
            message = f"process {rank}: {message}"
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write(
            "\ninterrupted; type the same command again to go on from the last checkpoint\n"
        )
        raise SystemExit(130) from None
