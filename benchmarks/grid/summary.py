"""From finished runs to `accuracy.json`: means, paired gains, intervals over users and seeds.

A seed is a replication of the whole recipe. Shape letters: S seeds, N test targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from seqrec.config import RECIPE_VERSION
from seqrec.data import SequenceDataset
from seqrec.files import read_json
from seqrec.metrics import METRICS, Evaluation, bootstrap_interval, ndcg, relative_gain

import numpy as np
from numpy.typing import NDArray

from benchmarks.grid.run import load_ranks, read_finished
from benchmarks.grid.variants import (
    CONTROL,
    DISTILLED,
    NO_LANGUAGE_MODEL,
    VARIANTS,
    RunKey,
)
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
Runs = list[tuple[Workspace, RunResult]]  # what is finished of a variant and an architecture
Ranks = dict[int, Evaluation]  # by seed
Values = Mapping[int, NDArray[np.float64]]  # NDCG@10 of each user, (N,), headline protocol
Users = NDArray[np.bool_] | slice


def collect(spaces: Sequence[Workspace], archs: Sequence[Arch]) -> dict[tuple[str, Arch], Runs]:
    """Return what is finished of all variants, by variant and architecture.

    An architecture of which no student is finished is left out, unless there is none at all.
    """
    finished: dict[tuple[str, Arch], Runs] = {}
    for arch in archs:
        for name, variant in VARIANTS.items():
            results = [
                (space, result)
                for space in spaces
                if not (variant.needs_teacher and space.knowledge is None)
                and (result := read_finished(RunKey.of(name, arch), space)) is not None
            ]
            if results:
                finished[name, arch] = results
    begun = {arch for name, arch in finished if VARIANTS[name].kind == "student"}
    shown = begun or set(archs[:1])
    return {key: results for key, results in finished.items() if key[1] in shown}


def summarize_metrics(ranks: Ranks) -> dict[Protocol, dict[str, SeedMetric]]:
    """Return the metrics of all seeds under both protocols."""

    def summarize_metric(metric: str, protocol: Protocol) -> SeedMetric:
        exclude_seen = protocol == "seen_excluded"
        values = np.stack(  # (S, N)
            [METRICS[metric](run.ranks(exclude_seen=exclude_seen), K) for run in ranks.values()]
        )
        low, high = bootstrap_interval(values)
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


def gain(values: Values, others: Values, users: Users = slice(None)) -> Gain | None:
    """Return NDCG@10 of one variant over another's, in percent, paired over users and seeds.

    Args:
        values: of the variant.
        others: of the one it is compared with, over the seeds that both have.
        users: those that count; all if not given.

    Returns:
        None where they have no seed in common, or the other has too few hits.
    """
    seeds = [seed for seed in values if seed in others]
    if not seeds:
        return None
    one, other = (np.stack([runs[seed][users] for seed in seeds]) for runs in (values, others))
    measured = relative_gain(one, other)
    return measured and Gain(mean=measured[0], low=measured[1], high=measured[2])


def by_frequency(
    values: Values, reference: Values | None, dataset: SequenceDataset
) -> dict[str, FrequencyGroup]:
    """Return NDCG@10 by how many events the target's item has before the test; no empty groups.

    Also over the reference, if there is one.
    """
    counts = dataset.before_test().train_counts()[dataset.eval_targets("test").items]
    mean = np.mean(list(values.values()), axis=0)
    groups = {}
    for name, (least, most) in FREQUENCIES.items():
        members = (counts >= least) & (counts <= most)
        if members.any():
            groups[name] = FrequencyGroup(
                num_targets=int(members.sum()),
                ndcg_at_10=float(mean[members].mean()),
                over_no_language_model=gain(values, reference, members) if reference else None,
            )
    return groups


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


def summarize(spaces: Sequence[Workspace], command: str) -> AccuracyResults:
    """Return the content of a data set's `accuracy.json`: all that is finished of some seeds.

    Args:
        spaces: the data set's replications.
        command: what was typed.
    """
    finished, dataset = collect(spaces, ARCHS), spaces[0].dataset
    ranks: dict[tuple[str, Arch], Ranks] = {
        who: {
            space.seed: load_ranks(run_folder(RunKey.of(*who), space) / "ranks.safetensors")
            for space, _ in runs
        }
        for who, runs in finished.items()
    }
    values: dict[tuple[str, Arch], Values] = {
        who: {s: ndcg(run.ranks(exclude_seen=dataset.exclude_seen), K) for s, run in runs.items()}
        for who, runs in ranks.items()
    }
    rows = []
    for (name, arch), runs in finished.items():
        of_variant = values[name, arch]
        compared = [other for other in COMPARED if other != name and (other, arch) in ranks]
        reference = values[NO_LANGUAGE_MODEL, arch] if NO_LANGUAGE_MODEL in compared else None
        rows.append(
            VariantSummary(
                **describe_variant(name, arch, runs),
                command=variant_command(name, arch, spaces),
                metrics=summarize_metrics(ranks[name, arch]),
                gain_over={other: gain(of_variant, values[other, arch]) for other in compared},
                by_frequency=by_frequency(of_variant, reference, dataset),
            )
        )
    return AccuracyResults(
        command=command,
        environment=describe_machine(num_threads=1),
        seeds=tuple(space.seed for space in spaces),
        student_flags=spaces[0].student_flags,
        dataset=describe_dataset(dataset),
        teacher=describe_teacher(spaces[0]),
        recipe_version=RECIPE_VERSION,
        rows=tuple(rows),
    )


def describe_variant(name: str, arch: Arch, runs: Runs) -> dict[str, Any]:
    """Return the fields of `VariantSummary` that need no ranks."""
    variant, results = VARIANTS[name], [run for _, run in runs]
    valid = [run.valid_ndcg_at_10 for run in results if run.valid_ndcg_at_10 is not None]
    return {
        "variant": name,
        "arch": arch,
        "description": variant.description,
        "kind": variant.kind,
        "ablation": variant.ablation,
        "overrides": dict(variant.overrides),
        "seeds": tuple(space.seed for space, _ in runs),
        "valid_ndcg_at_10": float(np.mean(valid)) if valid else None,
        "teacher_weight": tuple(run.teacher_weight for run in results),
        "num_parameters": results[0].num_parameters,
        "file_bytes": results[0].file_bytes,
        "times": mean_times(results),
        "shared_times": next((run.shared_times for run in results if run.shared_times), {}),
        "runs": tuple(
            RunSummary(
                folder=str(run_folder(RunKey.of(name, arch), space).relative_to(space.results)),
                **{kept.name: getattr(run, kept.name) for kept in fields(Run)},
            )
            for space, run in runs
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


def variant_command(name: str, arch: Arch, spaces: Sequence[Workspace]) -> str:
    """Return what to type to compute one variant."""
    words = ["python -m benchmarks.accuracy --data-dir", str(spaces[0].dataset.path), "--seeds"]
    words += [*(str(space.seed) for space in spaces), "--arch", arch, "--variants", name]
    if flags := spaces[0].student_flags:
        words.append(f'"--student-flags={flags}"')
    return " ".join(words)
