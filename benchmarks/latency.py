"""Accuracy against latency on this machine. Entry point: `python -m benchmarks.latency`.

Every student is judged and timed from the same exported file, in plain ONNX Runtime: the timed
call is `session.run` on prepared arrays, history in, top 10 out, exclusions and top-k inside.
Runners get the same test users in the same order and take turns, after a warm-up. The teacher's
metrics are those that fine-tuning wrote. Exports that are missing or
stale are made first. With `--peers` the systems of other libraries are measured in the same run:
each answers in a process and an environment of its own, which are made first, and times itself
there (`benchmarks.baselines`).

Writes `benchmark.json`, `benchmark.png` and `report.html` into the output directory, and a table to
stdout. Schema "seqrec-benchmark/2":

    schema          "seqrec-benchmark/2"
    config          the flags of the run
    environment     cpu, cpu_flags, cpu_mhz, num_cores, num_threads, load_at_start (processes that
                    were running), os, python, versions; gpu with --device cuda; other_work: how
                    many cores other processes kept busy on average while systems were timed; null
                    where the system does not say
    dataset         name, fingerprint, num_users (judged), num_items, split,
                    protocol: "seen_excluded" or "seen_kept", what `metrics` and latency refer to
    rows            a list, one object per system and precision:
      system          "popularity", "teacher", "gru control", "gru distilled", ...
      precision       "fp32", "int8", "int8-optimum" (what Optimum's quantizer makes of the fp32
                      file, for comparison), "int8 step" (the int8 file of a GRU, asked after one
                      new event, the state before it kept), "nf4", "bf16"; with --torch "torch
                      eager", "torch compiled"
      metrics         test targets, headline protocol: `ndcg@10` and so on for ndcg, hr, mrr at
                      5, 10, 20, each with `_low` and `_high`, a 95 % bootstrap interval over users
      metrics_other_protocol    the same under the other protocol
      latency_ms      p50, p95, p99 of one user's request (p99 null for fewer than 200 calls: it
                      would be the longest one); p50_least and p50_most of the 20 turns; cpu, the
                      mean CPU time of one, all threads of its process
      num_timed_calls how many calls they come from
      limit_ms        read (`limit_bytes`, once, by one core), top_k (one look at each score), less
                      what NumPy takes for a call of its own: p50 each, timed in alternation with
                      the systems; missing where an answer does not take all weights. See
                      `benchmarks.measure.lower_bound`
      limit_bytes     of the parameters, without what else a file holds
      over_limit      latency_ms.p50 over the sum of these
      idle_call_ms    ONNX files: p50 of a call of a graph that does nothing, timed likewise
      fresh           load_ms, first_ms, peak_mib of a fresh process, the median of three: see
                      `measure.startup`; null where that is not measured (popularity, PyTorch,
                      systems of your own)
      throughput_per_s          users per second in batches of `throughput_batch_size`
      throughput_by_batch       with --sweeps, ONNX files: users per second by batch size
      p50_ms_by_history         with --sweeps, ONNX files: one user's request by history length
      size_mib        of the file; of the weights in memory for the teacher
      num_parameters
      teacher_weight  distilled rows: of the language model's answers in their soft targets
      gain_over_control         distilled rows: NDCG@10 minus the fp32 control's, user by user:
                                mean, low, high
      gain_over_peers           int8 distilled rows: the same over each peer, by its name
      gain_over_fp32            int8 rows: the same over the fp32 file
      top10_overlap_with_fp32   int8 rows: share of the top 10 that the fp32 file returns too
      peer                      rows of other libraries: their versions
      training                  the same rows: num_epochs or num_neighbours; num_tried, of how many
                                that was the best; minutes of CPU time;
                                cut_short, whether --peer-minutes ended the choice of that number;
                                device, "cpu" or the name of the GPU; versions it was trained with
    failed          with --peers: those without figures: system, precision, reason
    limit           in words, what `limit_ms` is; a file without it is of an earlier version, whose
                    limit was that of all bytes of a file, NumPy's own calls included
    included        with --include: what was measured elsewhere, see `benchmarks.report.browser`
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from seqrec.config import DEFAULT_DATA_DIR, default_output_dir, flag, parse_flags, to_json
from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError, ModelError, run_main
from seqrec.files import read_json, write_json
from seqrec.metrics import Evaluation, bootstrap_interval, ndcg

import numpy as np
import torch

from benchmarks.baselines.libraries import PEERS, Peer
from benchmarks.baselines.opening import Failure, open_peers
from benchmarks.baselines.system import PeerError, PeerRunner
from benchmarks.catalogue import format_catalogues, measure_catalogues
from benchmarks.measure.lower_bound import DEFINITION, idle, limit_calls, limit_ms, parameter_bytes
from benchmarks.measure.machine import watch_others
from benchmarks.measure.startup import measure_fresh
from benchmarks.measure.systems import (
    OnnxRunner,
    PopularityRunner,
    Request,
    Runner,
    StepRunner,
    TeacherRunner,
    TorchRunner,
    checked_answer,
    load_runner,
)
from benchmarks.measure.timing import (
    TIMED_K,
    affordable_lists,
    evaluate_lists,
    histories_before_test,
    make_requests,
    measure_latency,
    measure_throughput,
    overlap,
)
from benchmarks.report.browser import format_included, read_included
from benchmarks.report.page import write_report
from benchmarks.report.plot_catalogue import write_figure as write_growth
from benchmarks.report.plots import write_figure
from benchmarks.report.regression import (
    SCHEMA,
    compare_runs,
    format_comparison,
    missing,
    read_baseline,
)
from benchmarks.report.tables import describe_machine, format_table
from export.to_onnx import Precision, ensure_exported, student_folders

logger = logging.getLogger(__name__)

MAX_BATCHES = 20
NUM_STARTS = 3  # fresh processes of each system
THROUGHPUT_S = 0.5  # of each system, for each batch size
SWEPT_BATCHES = (1, 8, 32, 128, 512)
SWEPT_LENGTHS = (1, 2, 5, 10, 20, 50, 100)
MEASURED: dict[str, tuple[Precision, ...]] = {"control": ("fp32",), "distilled": ("fp32", "int8")}
COMPARED: Precision = "int8-optimum"  # a third file of distilled students, where speed is measured
FINETUNE = "accelerate launch teacher/finetune.py"


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of `benchmarks.latency`."""

    data_dir: Path = flag(DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare")
    output_dir: Path | None = flag(None, "where all stages write; default runs/<name of data-dir>")
    device: Literal["cpu", "cuda"] = flag(
        "cpu", "where the teacher and --torch run; exported files run on the CPU"
    )
    teacher: bool = flag(True, "measure the teacher as well; loads its language model")
    peers: bool = flag(
        False,
        "measure implicit, RecBole, RecTools and RePlay as well; they are trained first (with "
        "--catalogue-sizes: not)",
    )
    peer_names: tuple[str, ...] = flag((), "with --peers: these alone, by the names of their rows")
    peer_minutes: float = flag(
        0, "with --peers: CPU minutes in which each chooses its number of epochs; 0: no limit"
    )
    peer_device: Literal["cpu", "cuda"] = flag(
        "cpu", "with --peers: where they are trained; they are timed on the CPU"
    )
    num_threads: int = flag(1, "threads of each call")
    num_calls: int = flag(2000, "timed calls of each system, at batch size 1")
    throughput_batch_size: int = flag(128, "users at once when throughput is measured")
    catalogue_sizes: tuple[int, ...] = flag(
        (), "measure students of random weights over these catalogue sizes instead"
    )
    budget_s: float = flag(20.0, "seconds after which a slow system is asked no more")
    sweeps: bool = flag(
        False, "measure throughput over batch sizes and latency over history lengths, too"
    )
    seed: int = flag(0, "seed of the order of the users, and of peers' trainings")
    torch: bool = flag(
        False, "measure the distilled students in PyTorch as well, eager and compiled"
    )
    runners: tuple[str, ...] = flag(
        (), "systems of your own as module:name, where name(dataset) returns a runner"
    )
    baseline: Path | None = flag(
        None, "benchmark.json of an earlier run; exit code 1 if this one is worse"
    )
    max_ndcg_loss: float = flag(0.02, "with --baseline: how much of its NDCG@10 may be lost")
    max_slowdown: float = flag(
        1.5, "with --baseline: how many times as far from the limit a system may be"
    )
    include: tuple[Path, ...] = flag(
        (), "measured elsewhere: files of the web page's measure button, benchmark.json"
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if strange := set(self.peer_names) - {peer.name for peer in PEERS}:
            raise ValueError(
                f"--peer-names {min(strange)!r} is none of "
                + ", ".join(repr(peer.name) for peer in PEERS)
            )
        if self.peer_minutes < 0:
            raise ValueError(f"--peer-minutes {self.peer_minutes:g} is below 0")
        if not 0 <= self.max_ndcg_loss < 1 or self.max_slowdown < 1:
            raise ValueError(
                f"--max-ndcg-loss {self.max_ndcg_loss:g} is a share from 0 to 1 (0.02: 2 %), "
                f"--max-slowdown {self.max_slowdown:g} a factor of at least 1"
            )
        if self.catalogue_sizes:
            whole = {
                "--baseline": self.baseline is not None,
                "--device cuda": self.device == "cuda",
                "--peer-device cuda": self.peer_device == "cuda",
                "--include": bool(self.include),
                "--runners": bool(self.runners),
                "--sweeps": self.sweeps,
                "--torch": self.torch,
            }
            if given := [name for name, is_given in whole.items() if is_given]:
                raise ValueError(
                    f"--catalogue-sizes measures models of random weights alone: {given[0]} "
                    "belongs to a run without it"
                )
        if (
            min(self.num_threads, self.num_calls, self.throughput_batch_size) < 1
            or self.budget_s <= 0
        ):
            raise ValueError(
                "--num-threads, --num-calls, --throughput-batch-size, --budget-s: above 0"
            )


@dataclass
class System:
    """A runner and what is known of it so far."""

    runner: Runner
    report: dict[str, dict[str, float]]  # `Evaluation.report()`
    comparison: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure everything and return the content of `benchmark.json`.

    Raises:
        SeqRecError: an earlier stage is missing or was run on other data, or a system of ours does
            not answer as it should.
    """
    for name, device in (("--device", config.device), ("--peer-device", config.peer_device)):
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError(f"{name} cuda: PyTorch finds no GPU here. Use {name} cpu")
    torch.set_num_threads(config.num_threads)  # for systems of a user's own, too
    dataset = load_dataset(config.data_dir)
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    if not len(dataset.eval_targets("test").users):
        raise DataError(
            f"{dataset.path} has no test target: there is nothing to judge. A user needs an event "
            "to train on and one after it: prepare a longer log with python -m seqrec.prepare"
        )
    of_teacher = teacher_report(output_dir, dataset) if config.teacher else None
    students = open_students(dataset, output_dir, config.num_threads, compared=True)
    own = [load_runner(spec, dataset) for spec in config.runners]
    if config.torch:
        own += [
            TorchRunner(folder, config.num_threads, is_compiled=is_compiled, device=config.device)
            for folder in student_folders(output_dir)
            if folder.name in MEASURED
            for is_compiled in (False, True)
        ]
    with ExitStack() as stack:
        peers, failed = open_peers(
            chosen_peers(config),
            dataset,
            output_dir,
            seed=config.seed,
            num_threads=config.num_threads,
            max_minutes=config.peer_minutes,
            device=config.peer_device,
            stack=stack,
        )
        # Once peers are trained: the load is that of the measurement.
        environment = describe_machine(config.num_threads)
        if config.device == "cuda":
            environment["gpu"] = torch.cuda.get_device_name()
        runners: list[Runner] = [PopularityRunner(dataset), *students, *own, *peers]
        systems = judge(runners, dataset, failed, batch_size=config.throughput_batch_size)
        if of_teacher is not None:
            teacher = TeacherRunner(output_dir / "teacher", config.num_threads, config.device)
            systems.insert(1, System(teacher, of_teacher))
        with watch_others(peer.pid for peer in peers) as others:
            systems = time_systems(systems, dataset, config, failed)
        environment |= others
    headline, other = protocols(dataset)
    results = {
        "schema": SCHEMA,
        "config": to_json(config),
        "environment": environment,
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "num_users": len(dataset.eval_targets("test").users),
            "num_items": dataset.num_items,
            "split": dataset.meta["split"],
            "protocol": headline,
        },
        "limit": DEFINITION,
        "rows": [describe(system, headline, other) for system in systems],
    }
    return results | ({"failed": [asdict(failure) for failure in failed]} if config.peers else {})


def chosen_peers(config: BenchmarkConfig) -> list[Peer]:
    """Return the peers that the flags ask for."""
    if not config.peers:
        return []
    return [p for p in PEERS if not config.peer_names or p.name in config.peer_names]


def judge(
    runners: Sequence[Runner], dataset: SequenceDataset, failed: list[Failure], *, batch_size: int
) -> list[System]:
    """Rank the test targets in what runners answer; a peer that lies goes to `failed`.

    A batch of the size that throughput is measured with is checked, too, and used where single
    users would take too long.
    """
    judged, evaluations, lists = [], [], []
    some = histories_before_test(dataset)[:batch_size]
    for runner in runners:
        try:
            (batch,) = make_requests(
                some,
                max_len=runner.max_len,
                k=min(TIMED_K, dataset.num_items),
                exclude_seen=dataset.exclude_seen,
                batch_size=batch_size,
            )
            checked_answer(runner, batch.items, batch.excluded, batch.k, dataset.num_items)
            excluding, keeping = (
                affordable_lists(runner, dataset, exclude_seen=flag, batch_size=batch_size)
                for flag in (True, False)
            )
        except ModelError as error:
            if not isinstance(runner, PeerRunner):
                raise
            failed.append(Failure.of(runner.system, runner.precision, error))
            continue
        judged.append(runner)
        evaluations.append(evaluate_lists(excluding, keeping, dataset))
        lists.append(excluding if dataset.exclude_seen else keeping)
    gains = compare(judged, evaluations, lists, exclude_seen=dataset.exclude_seen)
    reports = [evaluation.report() for evaluation in evaluations]
    return [System(*known) for known in zip(judged, reports, gains, strict=True)]


def time_systems(
    systems: list[System],
    dataset: SequenceDataset,
    config: BenchmarkConfig,
    failed: list[Failure],
) -> list[System]:
    """Time all in turns; if a peer stops meanwhile, it fails and the others begin again."""
    while True:
        try:
            timings = time_runners([system.runner for system in systems], dataset, config)
        except PeerError as error:
            failed.append(Failure.of(error.runner.system, error.runner.precision, error))
            systems = [system for system in systems if system.runner is not error.runner]
            continue
        for system, timing in zip(systems, timings, strict=True):
            system.timing = timing
        return systems


def describe(system: System, headline: str, other: str) -> dict[str, Any]:
    """Return a system's row."""
    runner = system.runner
    weight = getattr(runner, "teacher_weight", None)
    return {
        "system": runner.system,
        "precision": runner.precision,
        "metrics": system.report[headline],
        "metrics_other_protocol": system.report[other],
        **system.timing,
        "size_mib": float(runner.size_mib),
        "num_parameters": int(runner.num_parameters),
        **({} if weight is None else {"teacher_weight": weight}),
        **system.comparison,
        **(
            {"peer": runner.versions, "training": runner.training}
            if isinstance(runner, PeerRunner)
            else {}
        ),
    }


def protocols(dataset: SequenceDataset) -> tuple[str, str]:
    """Return the names of the headline protocol and of the other one."""
    names = ("seen_excluded", "seen_kept")
    return names if dataset.exclude_seen else (names[1], names[0])


def open_students(
    dataset: SequenceDataset, output_dir: Path, num_threads: int, *, compared: bool = False
) -> list[OnnxRunner]:
    """Open the exports to be measured, made now where missing.

    `compared`: with Optimum's version, and with one event on a kept state where there is one.
    """
    opened = []
    for student_folder in student_folders(output_dir):
        precisions = MEASURED.get(student_folder.name, ())
        if compared and "int8" in precisions:
            precisions += (COMPARED,)
        for precision in precisions:
            logger.info("%s %s %s", student_folder.parent.name, student_folder.name, precision)
            folder = ensure_exported(dataset, output_dir, student_folder, precision)
            opened.append(OnnxRunner.from_pretrained(folder, num_threads))
            if compared and precision == "int8" and opened[-1].keeps_state:
                opened.append(StepRunner.after(opened[-1]))
    return opened


def teacher_report(output_dir: Path, dataset: SequenceDataset) -> dict[str, dict[str, float]]:
    """Return the teacher's test metrics, which fine-tuning wrote.

    Raises:
        ModelError: there is no teacher, or it was trained on other data.
    """
    file = output_dir / "teacher" / "metrics.json"
    if not file.is_file():
        raise ModelError(
            f"no fine-tuned teacher in {file.parent}. Train one: {FINETUNE} --data-dir "
            f"{dataset.path} --output-dir {output_dir}. To measure without: --no-teacher"
        )
    metrics = read_json(file)
    if metrics["dataset_fingerprint"] != dataset.fingerprint:
        raise ModelError(
            f"the teacher in {file.parent} was trained on data set "
            f"{metrics['dataset_fingerprint']}, but {dataset.path} is {dataset.fingerprint}. "
            f"Train it again: {FINETUNE} --data-dir {dataset.path}"
        )
    report: dict[str, dict[str, float]] = metrics["test"]
    return report


def compare(
    runners: Sequence[Runner],
    evaluations: Sequence[Evaluation],
    lists: Sequence[np.ndarray],
    *,
    exclude_seen: bool,
) -> list[dict[str, Any]]:
    """Compare distilled rows with their control, and int8 rows with their fp32 file and peers."""
    place = {(runner.system, runner.precision): i for i, runner in enumerate(runners)}
    values = [ndcg(evaluation.ranks(exclude_seen=exclude_seen), 10) for evaluation in evaluations]

    def gain(own: int, other: int) -> dict[str, float]:
        difference = values[own] - values[other]
        low, high = bootstrap_interval(difference)
        return {"mean": float(difference.mean()), "low": low, "high": high}

    peers = {r.system: i for i, r in enumerate(runners) if isinstance(r, PeerRunner)}
    comparisons: list[dict[str, Any]] = []
    for own, runner in enumerate(runners):
        comparison: dict[str, Any] = {}
        control = place.get((runner.system.replace("distilled", "control"), "fp32"))
        if control is not None and "distilled" in runner.system:
            comparison["gain_over_control"] = gain(own, control)
            if peers and runner.precision == "int8":
                comparison["gain_over_peers"] = {name: gain(own, i) for name, i in peers.items()}
        fp32 = place.get((runner.system, "fp32"))
        if fp32 is not None and runner.precision.startswith("int8"):
            comparison["gain_over_fp32"] = gain(own, fp32)
            comparison["top10_overlap_with_fp32"] = overlap(lists[own], lists[fp32])
        comparisons.append(comparison)
    return comparisons


def time_runners(
    runners: Sequence[Runner], dataset: SequenceDataset, config: BenchmarkConfig
) -> list[dict[str, Any]]:
    """Time all runners on the test users, shuffled; headline protocol."""
    histories = histories_before_test(dataset)
    order = np.random.default_rng(config.seed).permutation(len(histories))

    def requests(runner: Runner, users: np.ndarray, batch_size: int) -> list[Request]:
        return make_requests(
            [histories[user] for user in users],
            max_len=runner.max_len,
            k=min(TIMED_K, dataset.num_items),
            exclude_seen=dataset.exclude_seen,
            batch_size=batch_size,
        )

    charged = [parameter_bytes(runner) for runner in runners]
    limits = [*limit_calls(charged, dataset.num_items), idle(config.num_threads)]
    everything = [*runners, *limits]
    timings = measure_latency(
        everything,
        [requests(runner, order[: config.num_calls], 1) for runner in everything],
        num_calls=config.num_calls,
        budget_s=config.budget_s,
    )
    summaries = [timing.summary() for timing in timings]
    p50 = {r.system: found["p50"] for r, found in zip(everything, summaries, strict=True)}
    # Whole batches only; a data set with fewer users than one batch is gone through again.
    size = config.throughput_batch_size
    users = np.resize(order, max(len(order) // size, 1) * size)[: MAX_BATCHES * size]
    throughput = measure_throughput(
        runners, [requests(runner, users, size) for runner in runners], budget_s=THROUGHPUT_S
    )
    rows = []
    fresh_starts = start_afresh(runners, config)
    for runner, num_bytes, timing, found, fresh, rate in zip(
        runners, charged, timings, summaries, fresh_starts, throughput, strict=False
    ):
        row = {
            "latency_ms": found,
            "num_timed_calls": len(timing.durations_ns),
            "fresh": fresh,
            "throughput_per_s": rate,
        }
        if getattr(runner, "reads_all_weights", True):
            row["limit_bytes"] = num_bytes
            row["limit_ms"] = limit_ms(p50, num_bytes, dataset.num_items)
            row["over_limit"] = found["p50"] / sum(row["limit_ms"].values())
        if isinstance(runner, OnnxRunner):
            row["idle_call_ms"] = p50["call"]
        rows.append(row)
    if config.sweeps:
        swept = [place for place, runner in enumerate(runners) if type(runner) is OnnxRunner]
        shuffled = [histories[user] for user in order]
        curves = sweep([runners[place] for place in swept], shuffled, dataset, config)
        for place, own in zip(swept, curves, strict=True):
            rows[place] |= own
    return rows


def start_afresh(
    runners: Sequence[Runner], config: BenchmarkConfig
) -> list[dict[str, float | None] | None]:
    """Return what each system costs a fresh process, the median of turns; None: not measured."""
    starts: list[list[dict[str, float | None]]] = [[] for _ in runners]
    for _ in range(NUM_STARTS):
        for runner, own in zip(runners, starts, strict=True):
            if isinstance(runner, PeerRunner):
                own.append(runner.start_afresh())
            elif (folder := getattr(runner, "folder", None)) is not None:
                own.append(measure_fresh(folder, config.num_threads, config.device))
    return [
        {key: _median([start[key] for start in own]) for key in own[0]} if own else None
        for own in starts
    ]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def sweep(
    runners: Sequence[Runner],
    histories: Sequence[np.ndarray],
    dataset: SequenceDataset,
    config: BenchmarkConfig,
) -> list[dict[str, dict[int, float]]]:
    """Return throughput by batch size and latency by history length, as the schema says."""
    shared: dict[str, Any] = {
        "k": min(TIMED_K, dataset.num_items),
        "exclude_seen": dataset.exclude_seen,
    }
    curves: list[dict[str, dict[int, float]]] = [
        {"throughput_by_batch": {}, "p50_ms_by_history": {}} for _ in runners
    ]
    for size in SWEPT_BATCHES:
        asked = [histories[i % len(histories)] for i in range(size * MAX_BATCHES)]
        made = [
            make_requests(asked, max_len=runner.max_len, batch_size=size, **shared)
            for runner in runners
        ]
        rates = measure_throughput(runners, made, budget_s=THROUGHPUT_S)
        for own, rate in zip(curves, rates, strict=True):
            own["throughput_by_batch"][size] = rate
    longest = max(runner.max_len for runner in runners)
    for length in (*(n for n in SWEPT_LENGTHS if n < longest), longest):
        asked = [history[-length:] for history in histories if len(history) >= length]
        able = [place for place, runner in enumerate(runners) if runner.max_len >= length]
        if not asked:
            break
        requests = make_requests(asked, max_len=length, batch_size=1, **shared)
        timings = measure_latency(
            [runners[place] for place in able],
            [requests] * len(able),
            num_calls=config.num_calls // 4,
            budget_s=THROUGHPUT_S,
        )
        for place, timing in zip(able, timings, strict=True):
            curves[place]["p50_ms_by_history"][length] = timing.summary()["p50"]
    return curves


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its results."""
    config = parse_flags(BenchmarkConfig, (__doc__ or "").partition("\n")[0], argv)
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    included = read_included(config.include)
    if config.catalogue_sizes:
        with watch_others() as others:
            catalogues = measure_catalogues(
                config.catalogue_sizes,
                num_threads=config.num_threads,
                num_calls=config.num_calls,
                budget_s=config.budget_s,
                seed=config.seed,
                peers=chosen_peers(config),
            )
        catalogues["environment"] |= others
        write_json(output_dir / "catalogue.json", {**catalogues, "config": to_json(config)})
        write_growth(catalogues, output_dir / "catalogue.png")
        sys.stdout.write(format_catalogues(catalogues))
        logger.info("wrote %s; catalogue.png beside it", output_dir / "catalogue.json")
        return
    earlier = None
    if config.baseline is not None:
        if config.baseline.resolve() == (output_dir / "benchmark.json").resolve():
            raise DataError(
                f"--baseline {config.baseline} is where this run writes its own results. Copy it "
                "to another name and give that"
            )
        earlier = read_baseline(
            config.baseline, load_dataset(config.data_dir).fingerprint, config.num_threads
        )
    results = benchmark(config)
    if included:
        results["included"] = included
    write_json(output_dir / "benchmark.json", results)
    write_figure(results, output_dir / "benchmark.png")
    write_report(results, output_dir / "report.html")
    sys.stdout.write(format_table(results))
    sys.stdout.write(format_included(included, results["dataset"]["fingerprint"]))
    logger.info("wrote %s; benchmark.png, report.html beside it", output_dir / "benchmark.json")
    if earlier is not None:
        compared = compare_runs(
            earlier,
            results,
            max_ndcg_loss=config.max_ndcg_loss,
            max_slowdown=config.max_slowdown,
        )
        sys.stdout.write(format_comparison(compared, earlier, results))
        if missing(earlier, results) or any(row["worse"] for row in compared):
            raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
