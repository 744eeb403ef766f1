"""The variants of the accuracy grid, one table of what is compared with what, and their runs.

A variant of kind "student" is `student.distill` with `overrides` put over its defaults; one that is
not `taught` gets no knowledge of the teacher's at all. To compare something else, edit `VARIANTS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seqrec.errors import ModelError

from benchmarks.report.schema import Kind
from benchmarks.report.tables import CONTROL, NO_LANGUAGE_MODEL
from student.config import DistillConfig
from student.model import Arch

DISTILLED = "distilled"


@dataclass(frozen=True)
class Variant:
    """A way to make a system."""

    description: str  # one sentence
    kind: Kind = "student"
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of `DistillConfig`'s defaults
    taught: bool = True  # a student: whether it is given the teacher's knowledge
    words: bool = False  # a student: item texts as bags of words, not as the language model reads
    made_of: tuple[str, ...] = ()  # what is exported, averaged, or looked at before its refit
    ablation: bool = False  # a part taken from "distilled", and run only when asked for

    def __post_init__(self) -> None:
        """Refuse what `student.distill` does not have."""
        DistillConfig(**self.overrides)

    @property
    def needs_teacher(self) -> bool:
        """Whether it can be computed only after a teacher was trained."""
        if self.made_of:
            return any(VARIANTS[name].needs_teacher for name in self.made_of)
        return self.kind == "teacher" or (self.kind == "student" and self.taught)


def ablation(description: str, **overrides: Any) -> Variant:
    """Return a variant that differs from "distilled" in what is named."""
    return Variant(description, overrides=overrides, ablation=True)


VARIANTS: dict[str, Variant] = {
    "popularity": Variant(
        "the items most frequent in training, the same for everyone", "popularity"
    ),
    "teacher": Variant("the fine-tuned language model itself", "teacher"),
    CONTROL: Variant(
        "the student on the data alone: plain item table, no soft targets",
        overrides={"item_table": "plain"},
        taught=False,
    ),
    NO_LANGUAGE_MODEL: Variant(
        "the distilled student's recipe without a language model: plain item tables, soft targets "
        "of the auxiliary teachers alone",
        overrides={"item_table": "plain", "teacher_weight": 0.0},
    ),
    "text": Variant(
        "fused item table, no soft targets: the language model's reading of the texts, untuned",
        overrides={"kd_weight": 0.0},
    ),
    "text-and-auxiliaries": Variant(
        "fused item tables, soft targets of the auxiliary teachers alone: all but what the tuned "
        "teacher answers",
        overrides={"teacher_weight": 0.0},
    ),
    DISTILLED: Variant("the student as `python -m student.distill` trains it"),
    "distilled-int8": Variant(
        "the distilled student's exported int8 file, through onnxruntime",
        "int8",
        made_of=(DISTILLED,),
    ),
    "control-before-refit": Variant(
        "the control before it is trained on the validation events, as most published figures are",
        "selection",
        made_of=(CONTROL,),
    ),
    "distilled-before-refit": Variant(
        "the distilled student before it is trained on the validation events",
        "selection",
        made_of=(DISTILLED,),
    ),
    "words": Variant(
        "fused item table of bags of words (TF-IDF) in place of the language model's reading, no "
        "soft targets",
        overrides={"kd_weight": 0.0},
        words=True,
        ablation=True,
    ),
    "words-and-auxiliaries": Variant(
        "the distilled student's recipe with bags of words in place of the language model: fused "
        "item tables, soft targets of the auxiliary teachers alone",
        overrides={"teacher_weight": 0.0},
        words=True,
    ),
    "teacher-alone": ablation(
        "distilled from the teacher's answers alone, no auxiliary teachers", teacher_weight=1.0
    ),
    "plain-table": ablation("distilled, but a plain item table", item_table="plain"),
    "control+teacher": Variant(
        "mean of the log-probabilities of the control and the teacher",
        "ensemble",
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
    "default": tuple(name for name, variant in VARIANTS.items() if not variant.ablation),
    "ablations": tuple(name for name, variant in VARIANTS.items() if variant.ablation),
    "all": tuple(VARIANTS),
}


def select_variants(names: Sequence[str]) -> list[str]:
    """Return the variants that are meant, and those they are made of, in the table's order.

    Args:
        names: variants, or sets of them: "default", "ablations", "all".

    Raises:
        ModelError: there is none of that name.
    """
    wanted: set[str] = set()
    for name in names:
        if name not in VARIANTS and name not in SETS:
            raise ModelError(
                f"--variants {name}: there is no such variant; expected {', '.join(VARIANTS)}, or "
                f"a set of them: {', '.join(SETS)}"
            )
        wanted.update(SETS.get(name, (name,)))
    for name in list(wanted):
        wanted.update(VARIANTS[name].made_of)
    return [name for name in VARIANTS if name in wanted]


@dataclass(frozen=True)
class RunKey:
    """What is computed in a replication."""

    variant: str
    arch: Arch | None = None  # None: of a variant that has none

    @classmethod
    def of(cls, variant: str, arch: Arch | None) -> "RunKey":
        """Return the run of a variant for an architecture, if the variant has one."""
        return cls(variant, None if VARIANTS[variant].kind in ("popularity", "teacher") else arch)

    def __str__(self) -> str:
        """Return its name in messages, such as `gru distilled`."""
        return " ".join(part for part in (self.arch, self.variant) if part)

    @property
    def sources(self) -> list["RunKey"]:
        """The runs that it is made from."""
        return [RunKey.of(name, self.arch) for name in VARIANTS[self.variant].made_of]


def plan(variants: Sequence[str], archs: Sequence[Arch]) -> tuple[list[RunKey], list[RunKey]]:
    """Return a replication's runs in two phases: those of the second are made from the first's."""
    keys = dict.fromkeys(RunKey.of(name, arch) for arch in archs for name in variants)
    return [key for key in keys if not key.sources], [key for key in keys if key.sources]
