"""How the fake baseline is trained."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.baselines.system import BaselineSystem
from benchmarks.baselines.training import TrainingFlags

PYTHON = Path(sys.executable)
Serve = Callable[[str], BaselineSystem]
FLAGS = TrainingFlags(seed=0)


def settings(does: str, **more: Any) -> Callable[[int], dict[str, Any]]:
    return lambda _: {"does": does, "patience": 3, **more}
