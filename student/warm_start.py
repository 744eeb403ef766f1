"""Students that start from those of an earlier run: `student.distill --init-from`.

The encoder's weights are taken as they are, and items' rows by the items' ids. What is kept of an
earlier student is folded: plain rows, and the text map that makes a row x B + b of a text vector x.
A fused table wants a projection and residuals instead. Its components are c = x A + a, with the
text map (A, a) of the knowledge, so the projection W that says the same of a text has
W^T = pinv(A) B, exactly where the components are still those of the earlier run, as a teacher that
was started from there leaves them. A known item's residual is its row less W c. A new item's is
b - a W^T, so that its row is what the earlier text map gives it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import selection
from seqrec.histories import PAD
from seqrec.item_table import FusedItemTable
from seqrec.knowledge import Knowledge
from seqrec.warm_start import earlier_numbers, fingerprint_of, require_finished, require_same

import numpy as np
import torch
from torch import Tensor

from student.config import DistillConfig, FullDistillConfig
from student.model import Arch, Student
from student.text_map import FILE as TEXT_MAP_FILE
from student.text_map import TextMap

SHAPE = ("hidden_dim", "num_layers", "num_heads", "max_len")
READING = ("model_fingerprint", "bits", "num_layers", "max_tokens")


@dataclass(frozen=True)
class Start:
    """The student of an earlier run that one of the same architecture and role starts from."""

    run: Path
    folder: Path

    @classmethod
    def of(cls, arch: Arch, config: DistillConfig, *, is_control: bool) -> "Start | None":
        """Return what `--init-from` makes a student or a control start from; None: nothing."""
        if config.init_from is None:
            return None
        role = "control" if is_control else "distilled"
        return cls(config.init_from, config.init_from / "students" / arch / role)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that is carried over."""
        return fingerprint_of(self.run, self.folder)

    @property
    def is_finished(self) -> bool:
        """Whether there is such a student."""
        return (self.folder / "recipe.json").is_file()

    @property
    def is_refitted(self) -> bool:
        """Whether the validation events of its data set were trained on at last."""
        return selection(self.folder) != self.folder

    def check(
        self, flags: FullDistillConfig, output_dir: Path, knowledge: Knowledge | None
    ) -> None:
        """Refuse a start that cannot be made, before any work is done.

        Args:
            flags: of the student that shall start here.
            output_dir: of its run.
            knowledge: what it learns from; None: it is a control.

        Raises:
            SeqRecError: the earlier run is unfinished, or its student has another shape, another
                kind of item table, or texts that another language model read.
        """
        described = require_finished(
            self.run, output_dir, self.folder, "recipe.json", "config.json"
        )
        wanted: dict[str, Any] = {name: getattr(flags, name) for name in SHAPE}
        fused = knowledge is not None and flags.item_table == "fused"
        wanted["item_table"] = "fused" if fused else "plain"
        has_texts = (self.folder / TEXT_MAP_FILE).is_file()
        found = {**described, "item_table": "fused" if has_texts else "plain"}
        require_same(found, wanted, self.folder)
        for part in {self.folder, selection(self.folder)}:
            Student.from_pretrained(part)  # refuses one that cannot be read
        if not fused or knowledge is None:
            return
        reader, earlier = knowledge.meta["teacher"], described.get("text_reader")
        earlier = earlier if isinstance(earlier, dict) else {}
        if any(reader[name] != earlier.get(name) for name in READING):
            names = ("model", "bits", "num_layers", "max_tokens")
            told = [
                ", ".join(f"{name} {by.get(name)}" for name in names) for by in (earlier, reader)
            ]
            raise ModelError(
                f"the texts behind {self.folder} were read by {told[0]}, those of this run by "
                f"{told[1]}. Tune the teacher with the same language model, or train without "
                "--init-from"
            )

    @torch.no_grad()
    def carry_over(
        self,
        student: Student,
        dataset: SequenceDataset,
        texts: Knowledge | None,
        *,
        refitted: bool = False,
    ) -> None:
        """Give a student the earlier one's weights, items' rows by id.

        Args:
            student: of the same shape, for the items of `dataset`.
            dataset: what the student will be trained on.
            texts: has the text map of the student's fused table; None: the table is plain, where
                new items keep the rows that they have.
            refitted: take what the validation events of the earlier data set were trained on too;
                of a log that has grown, some may be validation events today.
        """
        folder = self.folder if refitted else selection(self.folder)
        earlier = Student.from_pretrained(folder)
        student.encoder.load_state_dict(earlier.encoder.state_dict())
        numbers = torch.from_numpy(earlier_numbers(self.run, dataset))
        known = (numbers != PAD)[:, None].to(student.device)
        rows = earlier.item_embedding.weight[numbers].to(student.device)
        table = student.item_embedding
        if not isinstance(table, FusedItemTable):
            table.weight.copy_(torch.where(known, rows, table.weight))
            return
        assert texts is not None
        projection, constant = in_components(TextMap.load(folder / TEXT_MAP_FILE), texts)
        table.projection.weight.copy_(projection)
        table.residual.weight.zero_()
        residual = torch.where(known, rows - table.weight, constant.to(rows))
        residual[PAD] = 0
        table.residual.weight.copy_(residual)


def in_components(text_map: TextMap, texts: Knowledge) -> tuple[Tensor, Tensor]:
    """Return the projection (H, C) of text components, and the rest (H,), that say what a map says.

    Components that tell less of a text than the map asks for give the row of the shortest text
    vector that has them.
    """
    affine = texts.text_map.astype(np.float64)  # (L + 1, C)
    projection = np.linalg.pinv(affine[:-1]) @ text_map.weight  # (C, H)
    return torch.from_numpy(projection.T), torch.from_numpy(text_map.bias - affine[-1] @ projection)
