"""Which runs a grid consists of, what each is made from, and in what order they are computed."""

from collections.abc import Sequence
from dataclasses import dataclass

from seqrec.errors import ModelError

from benchmarks.grid.variants import VARIANTS
from student.model import Arch


@dataclass(frozen=True)
class RunKey:
    """What is computed; None where a variant has no architecture or no seed."""

    variant: str
    arch: Arch | None = None
    seed: int | None = None
    partner_seed: int | None = None  # a variant averaged with itself: the other one's seed

    def __str__(self) -> str:
        """Return its name in messages, such as `gru distilled seed 0`."""
        seed = None if self.seed is None else f"seed {self.seed}"
        partner = None if self.partner_seed is None else f"and {self.partner_seed}"
        return " ".join(part for part in (self.arch, self.variant, seed, partner) if part)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the students in it."""
        return tuple(seed for seed in (self.seed, self.partner_seed) if seed is not None)

    @property
    def sources(self) -> list["RunKey"]:
        """The runs that it is made from."""
        seeds = [self.seed, self.seed if self.partner_seed is None else self.partner_seed]
        return [
            RunKey(name) if VARIANTS[name].kind == "teacher" else RunKey(name, self.arch, seed)
            for name, seed in zip(VARIANTS[self.variant].made_of, seeds, strict=False)
        ]


def seed_pairs(seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Pair each seed with the next, the last with the first; two seeds make one pair.

    >>> seed_pairs([0, 1, 2])
    [(0, 1), (1, 2), (2, 0)]
    """
    pairs = list(zip(seeds, [*seeds[1:], *seeds[:1]], strict=True))
    return pairs if len(seeds) > 2 else pairs[:1]


def variant_runs(name: str, arch: Arch, seeds: Sequence[int]) -> list[RunKey]:
    """Return the runs of a variant."""
    if VARIANTS[name].kind in ("popularity", "teacher"):
        return [RunKey(name)]
    if VARIANTS[name].averages_itself:
        return [RunKey(name, arch, *pair) for pair in seed_pairs(seeds)]
    return [RunKey(name, arch, seed) for seed in seeds]


def plan(
    variants: Sequence[str], archs: Sequence[Arch], seeds: Sequence[int]
) -> tuple[list[RunKey], list[RunKey]]:
    """Return a data set's runs in two phases: those of the second are made from the first's.

    Raises:
        ModelError: a variant averages students of two seeds, and there is one seed only.
    """
    for name in variants:
        if VARIANTS[name].averages_itself and len(seeds) < 2:
            raise ModelError(
                f"variant {name} averages students of two seeds, but --seeds names {len(seeds)}: "
                f"--seeds {' '.join(map(str, seeds))} {max(seeds) + 1}, or leave it out of "
                "--variants"
            )
    keys = dict.fromkeys(
        key for arch in archs for name in variants for key in variant_runs(name, arch, seeds)
    )
    # Seed by seed: a grid that is stopped halfway then holds whole tables of its first seeds.
    ordered = sorted(keys, key=lambda k: -1 if k.seed is None else seeds.index(k.seed))
    first = [key for key in ordered if not key.sources]
    return first, [key for key in ordered if key.sources]
