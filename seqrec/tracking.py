"""Trackers such as TensorBoard, which follow a training through Accelerate when `--log-with` asks.

Each training is a run of its own, named after its label: `teacher`, `gru-control`,
`gru-control-refit`. It has its recipe and, over steps, `loss`, `learning_rate` and `ndcg@10`, that
of validation. The loss is that of the newest batch, of process 0's last part of it.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from seqrec.errors import SeqRecError

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

LOGS = "logs"  # the folder in the output directory, for trackers that write files
LOG_EVERY = 10  # steps: a student's take milliseconds


def require_tracker(name: str) -> None:
    """Raise a `SeqRecError` unless Accelerate knows a tracker and its package is installed."""
    if name not in LOGGER_TYPE_TO_CLASS:
        raise SeqRecError(
            f"--log-with {name}: Accelerate knows no such tracker. Expected one of: "
            f"{', '.join(LOGGER_TYPE_TO_CLASS)}"
        )
    if name not in [str(tracker) for tracker in get_available_trackers()]:
        package = name.replace("_", "-")
        raise SeqRecError(
            f"--log-with {name} needs a package that is not installed. Type: pip install {package}"
        )


@contextlib.contextmanager
def tracked(accelerator: Accelerator, label: str, recipe: dict[str, Any]) -> Iterator[None]:
    """Have what `fit` logs inside of the block go to a run of the trackers, if there are any."""
    if accelerator.log_with:
        values = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in recipe.items()
        }
        accelerator.init_trackers(re.sub(r"\W+", "-", label), config=values)
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers.clear()
