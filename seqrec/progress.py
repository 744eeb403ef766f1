"""Progress bars that do not overwrite each other where several processes show one."""

from typing import Any

from tqdm import tqdm

_position: int | None = None  # the line of the terminal that this process writes on


def set_bar_position(position: int) -> None:
    """Have all later bars of this process on line `position` of those that processes share."""
    global _position
    _position = position


def progress_bar(*args: Any, **kwargs: Any) -> tqdm:
    """Return a `tqdm` bar that is drawn once a second at most, on this process's line."""
    return tqdm(*args, **{"mininterval": 1, "position": _position, **kwargs})
