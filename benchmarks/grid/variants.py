"""The rows of the accuracy benchmark: one table says what is compared with what.

A row of kind "student" is `student.distill` with `overrides` put over its defaults; a row that is
not `taught` gets no knowledge of the teacher's at all. To compare something else, edit `ROWS`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from seqrec.errors import ModelError

from student.config import DistillConfig

Kind = Literal["popularity", "teacher", "student", "int8", "fusion"]


@dataclass(frozen=True)
class Row:
    """What stands in a row of the table."""

    about: str  # one sentence
    kind: Kind = "student"
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of `DistillConfig`'s defaults
    taught: bool = True  # a student: whether it is given the teacher's knowledge
    made_of: tuple[str, ...] = ()  # int8: the row that is exported; fusion: those averaged
    ablation: bool = False  # a part taken from "distilled", and run only when asked for


def ablation(about: str, **overrides: Any) -> Row:
    """Return a row that differs from "distilled" in what is named: one thing, or all of a kind."""
    return Row(about, overrides=overrides, ablation=True)


CONTROL, DISTILLED, NO_LANGUAGE_MODEL = "control", "distilled", "no-language-model"

ROWS: dict[str, Row] = {
    "popularity": Row("the items most frequent in training, the same for everyone", "popularity"),
    "teacher": Row("the fine-tuned language model itself", "teacher"),
    CONTROL: Row("the student on the data alone: plain item table, no soft targets", taught=False),
    NO_LANGUAGE_MODEL: Row(
        "the distilled student's recipe without a language model: plain item tables, soft targets "
        "of the auxiliary teachers alone",
        overrides={"item_table": "plain", "teacher_weight": 0.0},
    ),
    "text": Row(
        "fused item table, no soft targets: the language model's reading of the texts, untuned",
        overrides={"kd_weight": 0.0},
    ),
    "text-and-auxiliaries": Row(
        "fused item tables, soft targets of the auxiliary teachers alone: all but what the tuned "
        "teacher answers",
        overrides={"teacher_weight": 0.0},
    ),
    DISTILLED: Row("the student as `python -m student.distill` trains it"),
    "distilled-int8": Row(
        "the distilled student's exported int8 file, through onnxruntime",
        "int8",
        made_of=(DISTILLED,),
    ),
    "teacher-alone": ablation(
        "distilled from the teacher's answers alone, no auxiliary teachers", teacher_weight=1.0
    ),
    "plain-table": ablation("distilled, but a plain item table", item_table="plain"),
    "control+control": Row(
        "mean of the log-probabilities of two controls of different seeds",
        "fusion",
        made_of=(CONTROL, CONTROL),
    ),
    "control+teacher": Row(
        "mean of the log-probabilities of the control and the teacher",
        "fusion",
        made_of=(CONTROL, "teacher"),
    ),
    "kd-weight-0.25": ablation(
        "distilled, a quarter of the loss the soft targets'", kd_weight=0.25
    ),
    "kd-weight-0.75": ablation("distilled, three quarters the soft targets'", kd_weight=0.75),
    "temperature-2": ablation("distilled from softened soft targets", temperature=2.0),
    "all-items": ablation(
        "distilled, the softmax over all items where it is sampled by default", num_negatives=0
    ),
}

SETS = {
    "default": tuple(name for name, row in ROWS.items() if not row.ablation),
    "ablations": tuple(name for name, row in ROWS.items() if row.ablation),
    "all": tuple(ROWS),
}


def select_rows(names: Sequence[str]) -> list[str]:
    """Return the rows that are meant, and those they are made of, in the table's order.

    Args:
        names: rows, or sets of rows: "default", "ablations", "all".

    Raises:
        ModelError: there is no row of that name, or `student.distill` lacks what a row sets.
    """
    wanted: set[str] = set()
    for name in names:
        if name not in ROWS and name not in SETS:
            raise ModelError(
                f"--rows {name}: there is no such row; expected {', '.join(ROWS)}, or a set of "
                f"them: {', '.join(SETS)}"
            )
        wanted.update(SETS.get(name, (name,)))
    for name in list(wanted):
        wanted.update(ROWS[name].made_of)
    for name in sorted(wanted):
        if unknown := unknown_settings(name):
            raise ModelError(
                f"row {name} sets {', '.join(unknown)}, which student.distill does not have. "
                "Correct the table in benchmarks/rows.py, or leave the row out: --rows"
            )
    return [name for name in ROWS if name in wanted]


def unknown_settings(name: str) -> list[str]:
    """Return what a row sets that `student.distill` does not have."""
    known = {setting.name for setting in dataclasses.fields(DistillConfig)}
    return sorted(ROWS[name].overrides.keys() - known)


def needs_teacher(name: str) -> bool:
    """Tell whether a row can be computed only after a teacher was trained."""
    row = ROWS[name]
    return row.kind == "teacher" or (
        any(map(needs_teacher, row.made_of))
        if row.made_of
        else row.kind == "student" and row.taught
    )
