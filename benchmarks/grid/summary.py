"""From finished runs to `accuracy.json`: means over seeds, intervals over users, paired gains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from seqrec.data import SequenceDataset
from seqrec.files import read_json
from seqrec.metrics import METRICS, Evaluation, bootstrap_interval, relative_gain

import numpy as np
from numpy.typing import NDArray

from benchmarks.grid.plan import variant_runs
from benchmarks.grid.run import load_ranks, read_finished
from benchmarks.grid.variants import (
    CONTROL,
    DISTILLED,
    NO_LANGUAGE_MODEL,
    VARIANTS,
    needs_teacher,
    unknown_settings,
)
from benchmarks.grid.workspace import RunKey, Workspace, run_folder
from benchmarks.measure.machine import describe_machine
from benchmarks.measure.quality import describe_dataset
from benchmarks.report.schema import (
    AccuracyResults,
    Cost,
    FrequencyGroup,
    Gain,
    Protocol,
    Run,
    RunResult,
    RunSummary,
    SeedMetric,
    TeacherCost,
    VariantSummary,
)
from student.model import Arch

ARCHS: tuple[Arch, ...] = ("gru", "transformer")
PROTOCOLS: tuple[Protocol, ...] = ("seen_excluded", "seen_kept")
COMPARED = (CONTROL, NO_LANGUAGE_MODEL, "text-and-auxiliaries", "teacher", DISTILLED)
K = 10
FREQUENCIES = {"0": (0, 0), "1-5": (1, 5), "6-20": (6, 20), "more": (21, None)}
Ranks = dict[int | None, Evaluation]  # by seed; None: a variant without seeds


@dataclass(frozen=True)
class Finished:
    """A variant's finished runs under one architecture."""

    runs: list[tuple[RunKey, RunResult]]
    ranks: Ranks


def collect(
    space: Workspace, archs: Sequence[Arch], seeds: Sequence[int]
) -> dict[tuple[str, Arch], Finished]:
    """Return what is finished of all variants, by variant and architecture.

    An architecture of which no student is finished is left out, unless there is none at all.
    """
    found = {}
    for arch in archs:
        for name in VARIANTS:
            if unknown_settings(name) or (needs_teacher(name) and space.knowledge is None):
                continue
            pairs = [(key, read_finished(key, space)) for key in variant_runs(name, arch, seeds)]
            runs = [(key, result) for key, result in pairs if result is not None]
            ranks = {
                key.seed: load_ranks(run_folder(key, space) / "ranks.safetensors")
                for key, _ in runs
            }
            if runs:
                found[name, arch] = Finished(runs, ranks)
    begun = {arch for name, arch in found if VARIANTS[name].kind == "student"}
    shown = begun or set(archs[:1])
    return {key: finished for key, finished in found.items() if key[1] in shown}


def per_user(
    ranks: Ranks, metric: str, *, exclude_seen: bool, seeds: Sequence[int | None] | None = None
) -> NDArray[np.float64]:
    """Return a metric at 10 of each seed and user, (S, N)."""
    chosen = list(ranks) if seeds is None else seeds
    return np.stack([METRICS[metric](ranks[s].ranks(exclude_seen=exclude_seen), K) for s in chosen])


def summarize_metrics(ranks: Ranks) -> dict[Protocol, dict[str, SeedMetric]]:
    """Return the metrics of all seeds under both protocols."""
    report: dict[Protocol, dict[str, SeedMetric]] = {}
    for protocol in PROTOCOLS:
        report[protocol] = {}
        for metric in METRICS:
            values = per_user(ranks, metric, exclude_seen=protocol == "seen_excluded")
            low, high = bootstrap_interval(values.mean(axis=0))
            by_seed = values.mean(axis=1)
            report[protocol][f"{metric}@{K}"] = SeedMetric(
                mean=float(values.mean()),
                low=low,
                high=high,
                seed_min=float(by_seed.min()),
                seed_max=float(by_seed.max()),
            )
    return report


def gain(
    own: Ranks,
    other: Ranks,
    *,
    exclude_seen: bool,
    seeds_of: Mapping[int | None, Sequence[int | None]] | None = None,
    users: NDArray[np.bool_] | slice = slice(None),
) -> Gain | None:
    """Return NDCG@10 of one variant over another's, in percent, paired over users and seeds.

    Args:
        own: ranks of the variant.
        other: ranks of the one it is compared with. Where one of the two has no seeds, all seeds
            of the other count.
        exclude_seen: the protocol.
        seeds_of: the seeds of `other` that each of `own` is compared with; itself if not given. An
            ensemble of two seeds is compared with the mean of both: one of them may be lucky.
        users: those that count, bool (N,); all if not given.

    Returns:
        None where they have no seed in common, or the other has too few hits.
    """
    sides: list[list[int | None]] = [list(own), list(other)]
    if None not in own and None not in other:
        pairs = {seed: (seeds_of or {}).get(seed, (seed,)) for seed in own}
        common = [seed for seed, partners in pairs.items() if all(p in other for p in partners)]
        sides = [common, [partner for seed in common for partner in pairs[seed]]]
    if not sides[0]:
        return None
    values = [
        per_user(ranks, "ndcg", exclude_seen=exclude_seen, seeds=seeds).mean(axis=0)[users]
        for ranks, seeds in zip((own, other), sides, strict=True)
    ]
    found = relative_gain(*values)
    return None if found is None else Gain(mean=found[0], low=found[1], high=found[2])


def frequency_groups(dataset: SequenceDataset) -> dict[str, NDArray[np.bool_]]:
    """Mark the test targets whose items have so many events before the test, bool (N,) each."""
    counts = dataset.before_test().train_counts()[dataset.eval_targets("test").items]
    return {
        name: (counts >= least) & (counts <= (most if most is not None else counts))
        for name, (least, most) in FREQUENCIES.items()
    }


def by_frequency(
    ranks: Ranks, reference: Ranks | None, groups: Mapping[str, NDArray[np.bool_]], exclude: bool
) -> dict[str, FrequencyGroup]:
    """Return NDCG@10 of each group of targets, and over the reference; no empty groups."""
    values = per_user(ranks, "ndcg", exclude_seen=exclude).mean(axis=0)
    return {
        name: FrequencyGroup(
            num_targets=int(members.sum()),
            ndcg_at_10=float(values[members].mean()),
            over_no_language_model=gain(ranks, reference, exclude_seen=exclude, users=members)
            if reference
            else None,
        )
        for name, members in groups.items()
        if members.any()
    }


def mean_times(runs: Sequence[Run]) -> dict[str, Cost]:
    """Average each stage's times over the runs that were not interrupted."""
    whole = [run.times for run in runs if not run.interrupted]
    return {
        stage: Cost(
            wall_s=float(np.mean([times[stage].wall_s for times in whole])),
            cpu_s=float(np.mean([times[stage].cpu_s for times in whole])),
            num_runs=len(whole),
        )
        for stage in (whole[0] if whole else {})
    }


def summarize(space: Workspace, seeds: Sequence[int], command: str) -> AccuracyResults:
    """Return the content of `accuracy.json`: all variants that are finished for some seeds."""
    found = collect(space, ARCHS, seeds)
    return AccuracyResults(
        command=command,
        environment=describe_machine(num_threads=1),
        seeds=tuple(seeds),
        student_flags=space.student_flags,
        dataset=describe_dataset(space.dataset),
        teacher=describe_teacher(space),
        rows=tuple(summarize_variant(name, arch, found, space, seeds) for name, arch in found),
    )


def summarize_variant(
    name: str,
    arch: Arch,
    found: Mapping[tuple[str, Arch], Finished],
    space: Workspace,
    seeds: Sequence[int],
) -> VariantSummary:
    """Return a variant's row, compared with the others that are finished."""
    variant, finished, exclude = VARIANTS[name], found[name, arch], space.dataset.exclude_seen
    runs = [run for _, run in finished.runs]
    others = {
        other: found[other, arch].ranks
        for other in COMPARED
        if other != name and (other, arch) in found
    }
    seeds_of = {
        key.seed: (key.seed, key.partner_seed)
        for key, _ in finished.runs
        if key.partner_seed is not None
    }
    valid = [run.valid_ndcg_at_10 for run in runs if run.valid_ndcg_at_10 is not None]
    reference = others.get(NO_LANGUAGE_MODEL)
    return VariantSummary(
        variant=name,
        arch=arch,
        description=variant.description,
        kind=variant.kind,
        ablation=variant.ablation,
        overrides=dict(variant.overrides),
        command=variant_command(name, arch, seeds, space),
        seeds=tuple(seed for seed in finished.ranks if seed is not None),
        metrics=summarize_metrics(finished.ranks),
        valid_ndcg_at_10=float(np.mean(valid)) if valid else None,
        gain_over={
            other: gain(finished.ranks, ranks, exclude_seen=exclude, seeds_of=seeds_of)
            for other, ranks in others.items()
        },
        by_frequency=by_frequency(
            finished.ranks, reference, frequency_groups(space.dataset), exclude
        ),
        teacher_weight=tuple(run.teacher_weight for run in runs),
        num_parameters=runs[0].num_parameters,
        file_bytes=runs[0].file_bytes,
        times=mean_times(runs),
        shared_times=next((run.shared_times for run in runs if run.shared_times), {}),
        runs=tuple(summarize_run(key, run, space) for key, run in finished.runs),
    )


def summarize_run(key: RunKey, run: RunResult, space: Workspace) -> RunSummary:
    """Return what the summary keeps of a run."""
    kept = {field.name: getattr(run, field.name) for field in fields(Run)}
    return RunSummary(folder=str(run_folder(key, space).relative_to(space.root)), **kept)


def describe_teacher(space: Workspace) -> TeacherCost | None:
    """Return how the teacher was trained and what that cost, None where there is none."""
    file = space.root / "teacher" / "metrics.json"
    if space.knowledge is None or not file.is_file():
        return None
    times = space.root / "teacher_times.json"
    cost = read_json(times) if times.is_file() else {}
    return TeacherCost(recipe=read_json(file).get("recipe"), **cost)


def variant_command(name: str, arch: Arch, seeds: Sequence[int], space: Workspace) -> str:
    """Return what to type to compute one variant."""
    words = ["python -m benchmarks.accuracy --data-dir", str(space.dataset.path)]
    words += ["--seeds", *map(str, seeds), "--arch", arch, "--variants", name]
    return " ".join(
        words + ([f'"--student-flags={space.student_flags}"'] * bool(space.student_flags))
    )
