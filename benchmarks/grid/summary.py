"""From finished runs to `accuracy.json`: means over seeds, intervals over users, paired gains."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.files import read_json
from seqrec.metrics import METRICS, Evaluation, bootstrap_interval, relative_gain

import numpy as np
from numpy.typing import NDArray

from benchmarks.grid.plan import RunKey, variant_runs
from benchmarks.grid.run import load_ranks, read_finished
from benchmarks.grid.variants import CONTROL, DISTILLED, NO_LANGUAGE_MODEL, VARIANTS
from benchmarks.grid.workspace import Workspace, run_folder, times_file
from benchmarks.measure.machine import describe_machine
from benchmarks.measure.quality import K, describe_dataset
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
FREQUENCIES = {"0": (0, 0), "1-5": (1, 5), "6-20": (6, 20), "more": (21, np.inf)}
Runs = dict[RunKey, RunResult]  # the finished runs of a variant under one architecture
Ranks = dict[tuple[int, ...], Evaluation]  # by the seeds of the students in it


def collect(
    space: Workspace, archs: Sequence[Arch], seeds: Sequence[int]
) -> dict[tuple[str, Arch], Runs]:
    """Return what is finished of all variants, by variant and architecture.

    An architecture of which no student is finished is left out, unless there is none at all.
    """
    finished: dict[tuple[str, Arch], Runs] = {}
    for arch in archs:
        for name, variant in VARIANTS.items():
            if variant.needs_teacher and space.knowledge is None:
                continue
            results = {
                key: result
                for key in variant_runs(name, arch, seeds)
                if (result := read_finished(key, space)) is not None
            }
            if results:
                finished[name, arch] = results
    begun = {arch for name, arch in finished if VARIANTS[name].kind == "student"}
    shown = begun or set(archs[:1])
    return {key: results for key, results in finished.items() if key[1] in shown}


def per_user(ranks: Ranks, metric: str, *, exclude_seen: bool) -> NDArray[np.float64]:
    """Return a metric at 10 of each run and user, (S, N)."""
    return np.stack(
        [METRICS[metric](run.ranks(exclude_seen=exclude_seen), K) for run in ranks.values()]
    )


def summarize_metrics(ranks: Ranks) -> dict[Protocol, dict[str, SeedMetric]]:
    """Return the metrics of all seeds under both protocols."""

    def summarize_metric(metric: str, protocol: Protocol) -> SeedMetric:
        values = per_user(ranks, metric, exclude_seen=protocol == "seen_excluded")
        low, high = bootstrap_interval(values.mean(axis=0))
        by_seed = values.mean(axis=1)
        return SeedMetric(
            mean=float(values.mean()),
            low=low,
            high=high,
            seed_min=float(by_seed.min()),
            seed_max=float(by_seed.max()),
        )

    return {
        protocol: {f"{metric}@{K}": summarize_metric(metric, protocol) for metric in METRICS}
        for protocol in PROTOCOLS
    }


def gain(
    ranks: Ranks,
    others: Ranks,
    *,
    exclude_seen: bool,
    users: NDArray[np.bool_] | slice = slice(None),
) -> Gain | None:
    """Return NDCG@10 of one variant over another's, in percent, paired over users and seeds.

    Args:
        ranks: of the variant.
        others: of the one it is compared with, over the seeds that both have. Where one of the two
            has no seeds, all of the other count. An ensemble of two seeds is compared with the mean
            of both: one of them may be lucky.
        exclude_seen: the protocol.
        users: those that count, bool (N,); all if not given.

    Returns:
        None where they have no seed in common, or the other has too few hits.
    """
    if () not in ranks and () not in others:
        ranks = {s: run for s, run in ranks.items() if all((seed,) in others for seed in s)}
        used = {(seed,) for seeds in ranks for seed in seeds}
        others = {seeds: run for seeds, run in others.items() if seeds in used}
    if not ranks:
        return None
    values = [
        per_user(runs, "ndcg", exclude_seen=exclude_seen).mean(axis=0)[users]
        for runs in (ranks, others)
    ]
    measured = relative_gain(*values)
    return measured and Gain(mean=measured[0], low=measured[1], high=measured[2])


def frequency_groups(dataset: SequenceDataset) -> dict[str, NDArray[np.bool_]]:
    """Mark the test targets whose items have so many events before the test, bool (N,) each."""
    counts = dataset.before_test().train_counts()[dataset.eval_targets("test").items]
    return {
        name: (counts >= least) & (counts <= most) for name, (least, most) in FREQUENCIES.items()
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
    finished = collect(space, ARCHS, seeds)
    ranks: dict[tuple[str, Arch], Ranks] = {
        who: {key.seeds: load_ranks(run_folder(key, space) / "ranks.safetensors") for key in runs}
        for who, runs in finished.items()
    }
    groups, exclude = frequency_groups(space.dataset), space.dataset.exclude_seen
    rows = []
    for (name, arch), runs in finished.items():
        variant_ranks = ranks[name, arch]
        compared = [other for other in COMPARED if other != name and (other, arch) in ranks]
        reference = ranks.get((NO_LANGUAGE_MODEL, arch)) if NO_LANGUAGE_MODEL in compared else None
        rows.append(
            VariantSummary(
                **describe_variant(name, runs, space),
                arch=arch,
                command=variant_command(name, arch, seeds, space),
                metrics=summarize_metrics(variant_ranks),
                gain_over={
                    other: gain(variant_ranks, ranks[other, arch], exclude_seen=exclude)
                    for other in compared
                },
                by_frequency=by_frequency(variant_ranks, reference, groups, exclude),
            )
        )
    return AccuracyResults(
        command=command,
        environment=describe_machine(num_threads=1),
        seeds=tuple(seeds),
        student_flags=space.student_flags,
        dataset=describe_dataset(space.dataset),
        teacher=describe_teacher(space),
        rows=tuple(rows),
    )


def describe_variant(name: str, runs: Runs, space: Workspace) -> dict[str, Any]:
    """Return the fields of `VariantSummary` that need no ranks."""
    variant, results = VARIANTS[name], list(runs.values())
    valid = [run.valid_ndcg_at_10 for run in results if run.valid_ndcg_at_10 is not None]
    return {
        "variant": name,
        "description": variant.description,
        "kind": variant.kind,
        "ablation": variant.ablation,
        "overrides": dict(variant.overrides),
        "seeds": tuple(key.seed for key in runs if key.seed is not None),
        "valid_ndcg_at_10": float(np.mean(valid)) if valid else None,
        "teacher_weight": tuple(run.teacher_weight for run in results),
        "num_parameters": results[0].num_parameters,
        "file_bytes": results[0].file_bytes,
        "times": mean_times(results),
        "shared_times": next((run.shared_times for run in results if run.shared_times), {}),
        "runs": tuple(
            RunSummary(
                folder=str(run_folder(key, space).relative_to(space.root)),
                **{kept.name: getattr(run, kept.name) for kept in fields(Run)},
            )
            for key, run in runs.items()
        ),
    }


def describe_teacher(space: Workspace) -> TeacherCost | None:
    """Return how the teacher was trained and what that cost, None where there is none."""
    file = space.root / "teacher" / "metrics.json"
    if space.knowledge is None or not file.is_file():
        return None
    cost = read_json(times) if (times := times_file(file.parent)).is_file() else {}
    known = {name: cost.get(name) for name in ("command", "wall_s", "cpu_s")}
    return TeacherCost(recipe=read_json(file).get("recipe"), **known)


def variant_command(name: str, arch: Arch, seeds: Sequence[int], space: Workspace) -> str:
    """Return what to type to compute one variant."""
    words = ["python -m benchmarks.accuracy --data-dir", str(space.dataset.path)]
    words += ["--seeds", *map(str, seeds), "--arch", arch, "--variants", name]
    if space.student_flags:
        words.append(f'"--student-flags={space.student_flags}"')
    return " ".join(words)
