"""From finished cells to `accuracy.json`: means over seeds, intervals over users, paired gains.

Schema "seqrec-accuracy/1":

    schema          "seqrec-accuracy/1"
    command         what was typed last; each row has its own
    environment     as in `benchmark.json`, of the machine that wrote this file
    seeds           those asked for
    student_flags   flags of student.distill for all students alike
    dataset         name, fingerprint, num_users (judged), num_items, split,
                    protocol: "seen_excluded" or "seen_kept", the headline
    teacher         recipe, and the cost of training: wall_s, cpu_s, interrupted; null: not known
    rows            a list, one object per row and architecture; popularity and teacher stand under
                    each architecture, compared with its control:
      row, arch, about, kind, ablation, overrides, command
      seeds         those that are finished; empty for popularity and teacher
      metrics       by protocol, then hr@10, ndcg@10, mrr@10: mean over seeds; seed_min, seed_max;
                    low, high: 95 % bootstrap interval over users of the mean over seeds
      valid_ndcg@10 mean over seeds, headline protocol; null for int8
      gain_over     by "control", "no-language-model", "text-and-auxiliaries", "teacher",
                    "distilled", where both are there: NDCG@10, headline protocol, in percent of the
                    other's: mean, low, high; paired over users and over the seeds that both have;
                    null where the other has too few hits
      by_frequency  by how many events before the test the target's item has ("0", "1-5", "6-20",
                    "more"): num_targets, ndcg@10 (headline protocol, mean over seeds), and
                    over_no_language_model, a gain as above
      teacher_weight  of a distilled student's soft targets, one for each seed
      num_parameters, file_bytes    of the system; a fusion's are the sum of its parts
      times         by stage: wall_s and cpu_s, mean over the cells that ran in one piece, and
                    num_cells, how many those are
      shared_times  of what is made once and shared by cells: by stage (see
                    `benchmarks.grid.run.share_soft_targets`), wall_s and cpu_s, as far as known
      cells         their folders, seeds, files' checksums, times
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.files import read_json
from seqrec.metrics import METRICS, Evaluation, bootstrap_interval, relative_gain

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from benchmarks.grid.run import Cell, Workplace, cell_folder, load_ranks, read_finished
from benchmarks.grid.variants import (
    CONTROL,
    DISTILLED,
    NO_LANGUAGE_MODEL,
    ROWS,
    needs_teacher,
    unknown_settings,
)
from benchmarks.report.tables import describe_machine
from student.model import Arch

SCHEMA = "seqrec-accuracy/1"
ARCHS: tuple[Arch, ...] = ("gru", "transformer")
PROTOCOLS = ("seen_excluded", "seen_kept")
COMPARED = (CONTROL, NO_LANGUAGE_MODEL, "text-and-auxiliaries", "teacher", DISTILLED)
K = 10
FREQUENCIES = {"0": (0, 0), "1-5": (1, 5), "6-20": (6, 20), "more": (21, None)}
KEPT = ("seed", "partner_seed", "teacher_weight", "times", "interrupted", "file", "file_sha256")
Ranks = dict[int | None, Evaluation]  # by seed; None: a row without seeds


@dataclass(frozen=True)
class Finished:
    """A row's finished cells under one architecture."""

    cells: list[tuple[Cell, dict[str, Any]]]  # with their `cell.json`
    ranks: Ranks


def fusion_pairs(seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Pair each seed with the next, the last with the first; two seeds make one pair.

    >>> fusion_pairs([0, 1, 2])
    [(0, 1), (1, 2), (2, 0)]
    """
    pairs = list(zip(seeds, [*seeds[1:], *seeds[:1]], strict=True))
    return pairs if len(seeds) > 2 else pairs[:1]


def row_cells(name: str, arch: Arch, seeds: Sequence[int]) -> list[Cell]:
    """Return the cells of a row."""
    row = ROWS[name]
    if row.kind in ("popularity", "teacher"):
        return [Cell(name)]
    if row.kind == "fusion" and len(set(row.made_of)) < len(row.made_of):
        return [Cell(name, arch, *pair) for pair in fusion_pairs(seeds)]
    return [Cell(name, arch, seed) for seed in seeds]


def collect(place: Workplace, archs: Sequence[Arch], seeds: Sequence[int]) -> dict[Any, Finished]:
    """Return what is finished of the whole table, by (row, arch).

    An architecture of which no student is finished is left out, unless there is none at all.
    """
    found = {}
    for arch in archs:
        for name in ROWS:
            if unknown_settings(name) or (needs_teacher(name) and place.knowledge is None):
                continue
            pairs = [(cell, read_finished(cell, place)) for cell in row_cells(name, arch, seeds)]
            cells = [(cell, about) for cell, about in pairs if about is not None]
            ranks = {
                cell.seed: load_ranks(cell_folder(cell, place) / "ranks.safetensors")
                for cell, _ in cells
            }
            if cells:
                found[name, arch] = Finished(cells, ranks)
    begun = {arch for (name, arch), _ in found.items() if ROWS[name].kind == "student"}
    shown = begun or set(archs[:1])
    return {key: finished for key, finished in found.items() if key[1] in shown}


def per_user(
    ranks: Ranks, metric: str, *, exclude_seen: bool, seeds: Sequence[int | None] | None = None
) -> NDArray[np.float64]:
    """Return a metric at 10 of each seed and user, (S, N)."""
    chosen = list(ranks) if seeds is None else seeds
    return np.stack([METRICS[metric](ranks[s].ranks(exclude_seen=exclude_seen), K) for s in chosen])


def summarize_row(ranks: Ranks) -> dict[str, dict[str, dict[str, float]]]:
    """Return a row's `metrics`, as the module's docstring says."""
    report: dict[str, dict[str, dict[str, float]]] = {}
    for protocol in PROTOCOLS:
        report[protocol] = {}
        for metric in METRICS:
            values = per_user(ranks, metric, exclude_seen=protocol == "seen_excluded")
            low, high = bootstrap_interval(values.mean(axis=0))
            by_seed = values.mean(axis=1)
            report[protocol][f"{metric}@{K}"] = {
                "mean": float(values.mean()),
                "low": low,
                "high": high,
                "seed_min": float(by_seed.min()),
                "seed_max": float(by_seed.max()),
            }
    return report


def gain(
    own: Ranks,
    other: Ranks,
    *,
    exclude_seen: bool,
    seeds_of: Mapping[int | None, Sequence[int | None]] | None = None,
    users: NDArray[np.bool_] | slice = slice(None),
) -> dict[str, float] | None:
    """Return NDCG@10 of one row over another's, in percent, paired; see `gain_over` above.

    Args:
        own: ranks of the row.
        other: ranks of the row it is compared with. Where one of the two has no seeds, all seeds
            of the other count.
        exclude_seen: the protocol.
        seeds_of: the seeds of `other` that each of `own` is compared with; itself if not given. A
            row fused of two seeds is compared with the mean of both: one of them may be lucky.
        users: those that count, bool (N,); all if not given.
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
    return None if found is None else dict(zip(("mean", "low", "high"), found, strict=True))


def frequency_groups(dataset: SequenceDataset) -> dict[str, NDArray[np.bool_]]:
    """Mark the test targets whose items have so many events before the test, bool (N,) each."""
    counts = dataset.before_test().train_counts()[dataset.eval_targets("test").items]
    return {
        name: (counts >= least) & (counts <= (most if most is not None else counts))
        for name, (least, most) in FREQUENCIES.items()
    }


def by_frequency(
    ranks: Ranks, reference: Ranks | None, groups: Mapping[str, NDArray[np.bool_]], exclude: bool
) -> dict[str, Any]:
    """Return a row's `by_frequency`, as the module's docstring says; empty groups are left out."""
    values = per_user(ranks, "ndcg", exclude_seen=exclude).mean(axis=0)
    return {
        name: {
            "num_targets": int(members.sum()),
            f"ndcg@{K}": float(values[members].mean()),
            "over_no_language_model": reference
            and gain(ranks, reference, exclude_seen=exclude, users=members),
        }
        for name, members in groups.items()
        if members.any()
    }


def mean_times(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Average each stage's times over the cells that were not interrupted."""
    whole = [cell["times"] for cell in cells if not cell["interrupted"]]
    return {
        stage: {
            **{
                unit: float(np.mean([times[stage][unit] for times in whole]))
                for unit in ("wall_s", "cpu_s")
            },
            "num_cells": len(whole),
        }
        for stage in (whole[0] if whole else {})
    }


def summarize(place: Workplace, seeds: Sequence[int], command: str) -> dict[str, Any]:
    """Return the content of `accuracy.json`: all of the table that is finished for some seeds."""
    dataset, found = place.dataset, collect(place, ARCHS, seeds)
    groups = frequency_groups(dataset)
    rows = []
    for (name, arch), finished in found.items():
        row, about = ROWS[name], [about for _, about in finished.cells]
        others = {
            other: found[other, arch].ranks
            for other in COMPARED
            if other != name and (other, arch) in found
        }
        seeds_of = {
            cell.seed: (cell.seed, cell.partner_seed)
            for cell, _ in finished.cells
            if cell.partner_seed is not None
        }
        valid = [cell["valid_ndcg@10"] for cell in about if cell["valid_ndcg@10"] is not None]
        rows.append(
            {
                "row": name,
                "arch": arch,
                "about": row.about,
                "kind": row.kind,
                "ablation": row.ablation,
                "overrides": dict(row.overrides),
                "command": row_command(name, arch, seeds, place),
                "seeds": [seed for seed in finished.ranks if seed is not None],
                "metrics": summarize_row(finished.ranks),
                "valid_ndcg@10": float(np.mean(valid)) if valid else None,
                "gain_over": {
                    other: gain(
                        finished.ranks, ranks, exclude_seen=dataset.exclude_seen, seeds_of=seeds_of
                    )
                    for other, ranks in others.items()
                },
                "by_frequency": by_frequency(
                    finished.ranks, others.get(NO_LANGUAGE_MODEL), groups, dataset.exclude_seen
                ),
                "teacher_weight": [cell.get("teacher_weight") for cell in about],
                "num_parameters": about[0]["num_parameters"],
                "file_bytes": about[0].get("file_bytes"),
                "times": mean_times(about),
                "shared_times": next(filter(None, (c.get("shared_times") for c in about)), {}),
                "cells": [
                    {
                        "folder": str(cell_folder(cell, place).relative_to(place.root)),
                        **{key: values[key] for key in KEPT if key in values},
                    }
                    for cell, values in finished.cells
                ],
            }
        )
    return {
        "schema": SCHEMA,
        "command": command,
        "environment": describe_machine(num_threads=1),
        "seeds": list(seeds),
        "student_flags": place.student_flags,
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "num_users": len(dataset.eval_targets("test").users),
            "num_items": dataset.num_items,
            "split": dataset.meta["split"],
            "protocol": PROTOCOLS[0] if dataset.exclude_seen else PROTOCOLS[1],
        },
        "teacher": describe_teacher(place),
        "rows": rows,
    }


def describe_teacher(place: Workplace) -> dict[str, Any] | None:
    """Return how the teacher was trained and what that cost, None where there is none."""
    file = place.root / "teacher" / "metrics.json"
    if place.knowledge is None or not file.is_file():
        return None
    times = place.root / "teacher_times.json"
    cost = read_json(times) if times.is_file() else {}
    return {
        "recipe": read_json(file).get("recipe"),
        **{key: cost.get(key) for key in ("command", "wall_s", "cpu_s", "interrupted")},
    }


def row_command(name: str, arch: Arch, seeds: Sequence[int], place: Workplace) -> str:
    """Return what to type to compute one row of the table."""
    words = ["python -m benchmarks.accuracy --data-dir", str(place.dataset.path)]
    words += ["--seeds", *map(str, seeds), "--arch", arch, "--rows", name]
    return " ".join(
        words + ([f'"--student-flags={place.student_flags}"'] * bool(place.student_flags))
    )


def format_gain(values: Mapping[str, float] | None) -> str:
    """Format a relative gain with its interval: `+5.2 % [+1.1, +9.4]`; a dash for none."""
    if values is None:
        return "-"
    return f"{values['mean']:+.1f} % [{values['low']:+.1f}, {values['high']:+.1f}]"


def format_metric(values: Mapping[str, float]) -> str:
    """Format a mean with its interval over users: `0.1180 [0.1034, 0.1321]`."""
    return f"{values['mean']:.4f} [{values['low']:.4f}, {values['high']:.4f}]"


def frequency_table(results: Mapping[str, Any]) -> str:
    """Return NDCG@10 by how many events the target's item has before the test, as a text table."""
    sizes = {
        name: group["num_targets"]
        for row in results["rows"]
        for name, group in row["by_frequency"].items()
    }
    headers = [f"{name} events ({size:,} targets)" for name, size in sizes.items()]
    rows = [
        [row["arch"], row["row"], *(f"{row['by_frequency'][n][f'ndcg@{K}']:.4f}" for n in sizes)]
        for row in results["rows"]
    ]
    return tabulate(rows, headers=["arch", "row", *headers], disable_numparse=True)


def format_table(results: Mapping[str, Any]) -> str:
    """Return the results as a text table that ends in a newline."""
    data = results["dataset"]
    rows = [
        [
            row["arch"],
            row["row"],
            len(row["seeds"]) or "-",
            format_metric(row["metrics"][data["protocol"]]["ndcg@10"]),
            f"{row['metrics'][data['protocol']]['hr@10']['mean']:.4f}",
            format_gain(row["gain_over"].get(CONTROL)),
            format_gain(row["gain_over"].get(NO_LANGUAGE_MODEL)),
        ]
        for row in results["rows"]
    ]
    headers = ["arch", "row", "seeds", "NDCG@10 [95 %]", "HR@10"]
    headers += ["over control [95 %]", "over no language model [95 %]"]
    table = tabulate(rows, headers=headers, disable_numparse=True)
    return (
        f"{table}\n\n{frequency_table(results)}\n\n"
        f"{data['name']}: {data['num_users']:,} test users, {data['num_items']:,} items, "
        f"{data['split']}, {data['protocol'].replace('_', ' ')}\n"
    )
