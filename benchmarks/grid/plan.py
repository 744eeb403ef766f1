"""Which runs a grid consists of, and in what order they are computed."""

from collections.abc import Sequence

from seqrec.errors import ModelError

from benchmarks.grid.run import read_finished
from benchmarks.grid.shared import share_soft_targets
from benchmarks.grid.variants import VARIANTS
from benchmarks.grid.workspace import RunKey, Workspace, parts
from student.model import Arch


def ensemble_pairs(seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Pair each seed with the next, the last with the first; two seeds make one pair.

    >>> ensemble_pairs([0, 1, 2])
    [(0, 1), (1, 2), (2, 0)]
    """
    pairs = list(zip(seeds, [*seeds[1:], *seeds[:1]], strict=True))
    return pairs if len(seeds) > 2 else pairs[:1]


def variant_runs(name: str, arch: Arch, seeds: Sequence[int]) -> list[RunKey]:
    """Return the runs of a variant."""
    variant = VARIANTS[name]
    if variant.kind in ("popularity", "teacher"):
        return [RunKey(name)]
    if variant.kind == "ensemble" and len(set(variant.made_of)) < len(variant.made_of):
        return [RunKey(name, arch, *pair) for pair in ensemble_pairs(seeds)]
    return [RunKey(name, arch, seed) for seed in seeds]


def check_seeds(variants: Sequence[str], seeds: Sequence[int]) -> None:
    """Refuse to average a variant with itself when there is one seed only."""
    for name in variants:
        made_of = VARIANTS[name].made_of
        if len(set(made_of)) < len(made_of) and len(seeds) < 2:
            raise ModelError(
                f"variant {name} averages students of two seeds, but --seeds names {len(seeds)}: "
                f"--seeds {' '.join(map(str, seeds))} {max(seeds) + 1}, or leave it out of "
                "--variants"
            )


def plan(
    variants: Sequence[str], archs: Sequence[Arch], seeds: Sequence[int]
) -> list[list[RunKey]]:
    """Return a data set's runs in two phases: those of the second are made from the first's."""
    keys = dict.fromkeys(
        key for arch in archs for name in variants for key in variant_runs(name, arch, seeds)
    )
    # Seed by seed: a grid that is stopped halfway then holds whole tables of its first seeds.
    ordered = sorted(keys, key=lambda k: -1 if k.seed is None else seeds.index(k.seed))
    return [[key for key in ordered if bool(parts(key)) == later] for later in (False, True)]


def share_all_soft_targets(keys: Sequence[RunKey], space: Workspace) -> None:
    """Make what runs share before the first begins: two at once would make the same twice."""
    todo = [key for key in keys if read_finished(key, space) is None]
    for key in {key.variant: key for key in reversed(todo)}.values():  # one of each variant
        share_soft_targets(key, space)
