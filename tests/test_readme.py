"""What the README says holds: its table is a kept run's, and its flags exist."""

import dataclasses
import re
from pathlib import Path

from seqrec.files import read_json
from seqrec.prepare import PrepareConfig

from benchmarks.accuracy import AccuracyConfig
from benchmarks.cold import ColdConfig
from benchmarks.latency import BenchmarkConfig
from benchmarks.report import format_table
from export.add_items import AddItemsConfig
from export.serve_web import ServeConfig
from export.to_web import ToWebConfig
from student.distill import DistillConfig
from teacher.finetune import FinetuneConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "ml-100k"


def test_the_table_is_that_of_the_kept_results() -> None:
    table = format_table(read_json(RESULTS / "benchmark.json"))
    for line in filter(None, table.splitlines()):
        assert line.rstrip() in README, line


def test_every_flag_it_names_exists() -> None:
    configs = (
        PrepareConfig,
        FinetuneConfig,
        DistillConfig,
        AddItemsConfig,
        ToWebConfig,
        ServeConfig,
        BenchmarkConfig,
        ColdConfig,
        AccuracyConfig,
    )
    flags = {
        "--" + field.name.replace("_", "-") for c in configs for field in dataclasses.fields(c)
    }
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--help", "--editable"}
    assert named <= flags, named - flags
