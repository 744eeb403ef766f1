"""Whether a stage's work is done, so that the same command can be run again.

What decides a stage's result is its recipe: JSON values. A finished folder keeps the recipe that it
was made by, so a stage is skipped if the recipe is the same, and replaces the folder if it is not.

    stage = Stage(folder, recipe)
    if not stage.is_finished():
        with stage.replacing() as unfinished:
            model.save_pretrained(unfinished)

A stage that takes long keeps checkpoints, each with the digest of the recipe, and goes on from one
only if the digest is the same (`seqrec.training.fit`).
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.files import atomic_directory, read_json, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A folder, and the recipe of what belongs into it.

    Attributes:
        folder: where the result goes.
        recipe: all that decides the result, as JSON values.
        record: the file in the folder that holds the recipe; it is written last.
        key: under which the record holds it; None: the record is the recipe.
    """

    folder: Path
    recipe: dict[str, Any]
    record: str = "recipe.json"
    key: str | None = None

    def is_finished(self) -> bool:
        """Tell whether the folder holds what this very recipe makes; say so if it is another's."""
        try:
            record = read_json(self.folder / self.record)
        except (OSError, ValueError):
            return False
        made_by = record if self.key is None else record.get(self.key)
        if not isinstance(made_by, dict):
            return False
        missing = object()
        keys = {*made_by, *self.recipe}
        other = [k for k in keys if made_by.get(k, missing) != self.recipe.get(k, missing)]
        if other:
            changed = ", ".join(sorted(other))
            logger.info("%s was made with another %s: it is made again", self.folder, changed)
        return not other

    @contextlib.contextmanager
    def replacing(self) -> Iterator[Path]:
        """Yield an empty folder to fill; with its record, it replaces the stage's folder whole."""
        with atomic_directory(self.folder) as unfinished:
            yield unfinished
            if self.key is None:
                write_json(unfinished / self.record, self.recipe)
