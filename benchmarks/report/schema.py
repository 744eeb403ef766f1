"""The result files: what each one holds, how it is written and how it is read.

Measurers return these types and renderers take nothing else. A file is the JSON object of one of
the `Results` classes, with two more fields: `kind`, which class it is, and `schema`, the version of
all of them. A field that was not measured is None and missing in the file. Metrics are held by
name: `ndcg@10`, `hr@5`, ..., each with `_low` and `_high`, its 95 % bootstrap interval over users.

One long file on purpose: whoever reads a result looks its fields up here.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from seqrec.config import RECIPE_VERSION

SCHEMA = 3
Metrics = dict[str, float]
Protocol = Literal["seen_excluded", "seen_kept"]
Kind = Literal["popularity", "teacher", "student", "selection", "int8", "ensemble"]


class Results:
    """A file of results. Its values are checked strictly: no text for a number, no NaN."""

    KIND: ClassVar[str]
    COMMAND: ClassVar[str]  # makes it
    __pydantic_config__: ClassVar[dict[str, bool]] = {"strict": True, "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the figures depend on besides the code."""

    cpu: str
    num_cores: int
    num_threads: int  # of each call
    os: str
    python: str
    versions: dict[str, str]  # of libraries
    cpu_flags: tuple[str, ...] | None = None  # those that matrix products use
    cpu_mhz: float | None = None
    load_at_start: float | None = None  # processes that were running
    other_work: float | None = None  # cores that other processes kept busy meanwhile, on average
    gpu: str | None = None  # with --device cuda

    @property
    def label(self) -> str:
        """Processor and threads, as tables and pictures show them."""
        return f"{self.cpu}, {self.num_threads} thread{'s' * (self.num_threads != 1)}"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What systems are judged on."""

    name: str
    fingerprint: str
    num_items: int
    split: str
    protocol: Protocol  # the headline: what metrics and latency refer to
    num_users: int | None = None  # judged

    @property
    def label(self) -> str:
        """What was judged on, as tables and pictures say it."""
        return (
            f"{self.name}: {self.num_users:,} test users, {self.num_items:,} items, {self.split}, "
            f"{self.protocol.replace('_', ' ')}"
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over users with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Gain(Estimate):
    """A difference, paired over users."""

    @property
    def verdict(self) -> Literal["better", "worse", "within chance"]:
        """What the interval says: it lies above zero, below zero, or holds it."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "within chance"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which system it is; rows are told apart by `system` and `precision_label`."""

    system: str  # "popularity", "teacher", "gru control", "gru distilled", a library's model
    precision: str  # of its weights: "fp32", "int8", "nf4", "bf16", ...
    family: str  # "popularity", "teacher", "gru", "transformer", "baseline", "runner"
    role: str | None = None  # "control", "distilled": of a student; "texts": a baseline reads them
    # "call": asked through the client, ids in and items out; "step": a GRU's file asked after one
    # new event, the state before it kept; "optimum": what Optimum's quantizer makes of the fp32
    # file; "index": items in an index inside the file; "torch eager", "torch compiled": in PyTorch
    variant: str | None = None

    @property
    def precision_label(self) -> str:
        """Precision and variant, as tables show them."""
        return " ".join(filter(None, (self.precision, self.variant)))

    @property
    def label(self) -> str:
        """System and precision, as pictures show them; popularity has none."""
        if self.family == "popularity":
            return self.system
        return f"{self.system} {self.precision_label}"

    @property
    def is_untaught(self) -> bool:
        """Whether it learnt from the interactions alone."""
        return self.role == "control" or (self.family == "baseline" and self.role is None)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one user's request."""

    p50: float
    p95: float
    p99: float | None = None  # None for fewer than 200 calls: it would be the longest one
    p50_least: float | None = None  # medians of the fastest and the slowest of the 20 turns
    p50_most: float | None = None
    cpu: float | None = None  # mean CPU time, all threads of its process


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """Milliseconds that one core needs in any case; see `benchmarks.measure.lower_bound`."""

    read: float  # the parameters once
    top_k: float  # each score once

    @property
    def total(self) -> float:
        """Both, one after the other."""
        return self.read + self.top_k


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """What a new process costs until its first answer; see `benchmarks.measure.first_answer`."""

    load_ms: float | None = None
    first_ms: float | None = None
    peak_mib: float | None = None


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How good a system's lists are, and how they compare with others'."""

    metrics: Metrics  # test targets, headline protocol
    metrics_other_protocol: Metrics
    gain_over_control: Gain | None = None  # NDCG@10, distilled students over the fp32 control
    gain_over_fp32: Gain | None = None  # int8 files
    gain_over_baselines: dict[str, Gain] | None = None  # distilled int8 files, by system
    top10_overlap_with_fp32: float | None = None  # int8 files: of the top 10, items of both lists


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a system answers."""

    latency_ms: Latency
    num_timed_calls: int
    throughput_per_s: float  # users, in batches of `throughput_batch_size`
    lower_bound_ms: LowerBound | None = None  # None: an answer does not take all weights
    lower_bound_bytes: int | None = None  # of the parameters
    ratio_to_lower_bound: float | None = None  # p50 over it
    idle_call_ms: float | None = None  # ONNX files: p50 of a graph that does nothing
    start_up: StartUp | None = None  # median of three
    throughput_by_batch: dict[str, float] | None = None  # with --sweeps: by batch size
    p50_ms_by_history: dict[str, float] | None = None  # with --sweeps: by history length


@dataclass(frozen=True, kw_only=True)
class Training:
    """How another library's model was trained."""

    minutes: float  # of CPU time
    cut_short: bool  # whether --minutes ended the choice of the number of epochs
    num_epochs: int | None = None
    num_neighbours: int | None = None
    num_tried: int | None = None  # of how many epochs or numbers of neighbours that was the best
    device: str = "cpu"  # or the name of the GPU
    versions: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class SystemResult(Identity, Quality, Speed):
    """A row of `benchmark.json`."""

    size_mib: float  # of the file; of the weights in memory for the teacher
    num_parameters: int
    teacher_weight: float | None = None  # distilled students: of the language model's answers
    budget: str | None = None  # students: of their training
    library_versions: dict[str, str] | None = None  # baselines
    training: Training | None = None  # baselines


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A system without figures, and why."""

    system: str
    precision: str
    reason: str  # one line
    num_items: int | None = None  # of the catalogue, where sizes are compared


@dataclass(frozen=True, kw_only=True)
class Measured(Results):
    """What results of one run have in common."""

    config: dict[str, Any]  # the flags of the run
    environment: Machine


@dataclass(frozen=True, kw_only=True)
class LatencyResults(Measured):
    """`benchmark.json`, of `benchmarks.latency` and `benchmarks.baselines`."""

    KIND = "latency"
    COMMAND = "python -m benchmarks.latency --device cpu"
    dataset: DataSet
    throughput_batch_size: int
    rows: tuple[SystemResult, ...]
    failed: tuple[Failure, ...] = ()
    # In words. None: measured when the bound still was that of a whole file's bytes.
    lower_bound: str | None = None
    recipe_version: int | None = None  # None: measured before they were counted

    @property
    def is_earlier(self) -> bool:
        """Whether students are trained in another way today."""
        return (self.recipe_version or 0) < RECIPE_VERSION


@dataclass(frozen=True, kw_only=True)
class CatalogueRow(Identity):
    """A system of random weights over one catalogue size."""

    num_items: int
    history_length: int
    latency_ms: Latency
    num_timed_calls: int
    size_mib: float
    lower_bound_ms: LowerBound
    ratio_to_lower_bound: float
    idle_call_ms: float | None = None
    profile: tuple[tuple[str, float], ...] = ()  # operators that take most, fraction of all's time


@dataclass(frozen=True, kw_only=True)
class CatalogueResults(Measured):
    """`catalogue.json`, of `benchmarks.catalogue`."""

    KIND = "catalogue"
    COMMAND = "python -m benchmarks.catalogue"
    rows: tuple[CatalogueRow, ...]
    failed: tuple[Failure, ...] = ()
    lower_bound: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScalingRow:
    """Preparing, or one training, at one size."""

    num_items: int
    num_events: int
    system: str  # "prepare", "transformer", "gru", "teacher"
    peak_mib: float | None = None  # the most memory that the process held
    seconds: float | None = None  # of preparing, loading the libraries not counted
    batch_size: int | None = None  # windows of a step
    steps_per_s: float | None = None
    targets_per_s: float | None = None  # next items learnt in a second of the clock
    targets_per_cpu_s: float | None = None
    validated_users: int | None = None
    validation_s: float | None = None
    planned_mib: float | None = None  # the teacher's, as its --dry-run plans them
    planned_steps_per_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class ScalingResults(Measured):
    """`scaling.json`, of `benchmarks.scaling`."""

    KIND = "scaling"
    COMMAND = "python -m benchmarks.scaling"
    rows: tuple[ScalingRow, ...]


@dataclass(frozen=True, kw_only=True)
class ColdRow(Identity):
    """A system, judged on cold and on warm targets."""

    cold: Metrics
    warm: Metrics
    exposure: float  # of all places in the top 10, those with a cold item


@dataclass(frozen=True, kw_only=True)
class ColdResults(Measured):
    """`cold.json`, of `benchmarks.cold_start`."""

    KIND = "cold-start"
    COMMAND = "python -m benchmarks.cold_start"
    dataset: DataSet
    num_cold_items: int  # that --cold-share held out of training
    num_untrained_items: int  # without an event before the test
    num_cold_targets: int
    num_warm_targets: int
    rows: tuple[ColdRow, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of a stage; CPU seconds are those of all threads."""

    wall_s: float
    cpu_s: float
    num_runs: int | None = None  # of a mean


@dataclass(frozen=True, kw_only=True)
class SeedMetric(Estimate):
    """A metric over seeds, with the least and the most of a seed; the interval is over both.

    A seed is a replication of the whole recipe, from the teacher to the student.
    """

    seed_min: float
    seed_max: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run's own file and the summary both tell."""

    times: dict[str, Cost]
    interrupted: bool  # the times are those of the last part alone
    seed: int | None = None
    teacher_weight: float | None = None
    file: str | None = None
    file_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunResult(Run, Results):
    """`cell.json`: one variant, architecture and seed, trained and judged once."""

    KIND = "accuracy-run"
    COMMAND = "python -m benchmarks.accuracy"
    variant: str
    recipe: dict[str, Any]
    environment: Machine
    num_parameters: int  # an ensemble's: the sum of its parts
    arch: str | None = None
    valid_ndcg_at_10: float | None = None  # headline protocol; not of int8 and ensembles
    shared_times: dict[str, Cost] | None = None
    file_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunSummary(Run):
    """What a summary keeps of a run."""

    folder: str


@dataclass(frozen=True, kw_only=True)
class FrequencyGroup:
    """Test targets whose item has so many events before the test."""

    num_targets: int
    ndcg_at_10: float  # headline protocol, mean over seeds
    over_no_language_model: Gain | None = None


@dataclass(frozen=True, kw_only=True)
class VariantSummary:
    """A variant under one architecture, over its finished seeds."""

    variant: str
    arch: str  # popularity and teacher stand under each, compared with its control
    description: str
    kind: Kind
    ablation: bool
    overrides: dict[str, Any]  # of `student.distill`'s defaults
    command: str
    seeds: tuple[int, ...]
    metrics: dict[Protocol, dict[str, SeedMetric]]  # by protocol, then hr@10, ndcg@10, mrr@10
    # NDCG@10, headline protocol, in percent of the other variant's; None: it has too few hits
    gain_over: dict[str, Gain | None]
    num_parameters: int
    times: dict[str, Cost]  # mean over the runs that were not interrupted
    shared_times: dict[str, Cost]  # of what the runs of a seed share; the first seed's
    runs: tuple[RunSummary, ...]
    valid_ndcg_at_10: float | None = None
    # By "0", "1-5", "6-20", "more" events. None: measured when tables only started from the texts.
    by_frequency: dict[str, FrequencyGroup] | None = None
    teacher_weight: tuple[float | None, ...] = ()  # one for each seed
    file_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class TeacherCost:
    """How the first seed's teacher was trained; what is not known is None."""

    recipe: dict[str, Any] | None = None
    command: str | None = None
    wall_s: float | None = None
    cpu_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class AccuracyResults(Results):
    """`accuracy.json`, of `benchmarks.accuracy`."""

    KIND = "accuracy"
    COMMAND = "python -m benchmarks.accuracy"
    command: str  # what was typed last; each row has its own
    environment: Machine
    seeds: tuple[int, ...]  # those asked for
    student_flags: str
    dataset: DataSet
    rows: tuple[VariantSummary, ...]
    teacher: TeacherCost | None = None
    recipe_version: int | None = None  # None: measured before they were counted

    def find(self, variant: str, arch: str) -> VariantSummary | None:
        """Return a row, None if it was not computed."""
        rows = (row for row in self.rows if (row.variant, row.arch) == (variant, arch))
        return next(rows, None)

    @property
    def is_earlier(self) -> bool:
        """Whether teachers and students are trained in another way today."""
        return (self.recipe_version or 0) < RECIPE_VERSION

    @property
    def archs(self) -> list[str]:
        """The architectures, in order."""
        return list(dict.fromkeys(row.arch for row in self.rows))
