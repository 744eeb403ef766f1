"""What the commands behind a table are, and how they are run."""

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from seqrec.config import parse_flags
from seqrec.errors import DataError

import pytest

from benchmarks import reproduce
from benchmarks.accuracy import AccuracyConfig
from benchmarks.baselines.libraries import BaselinesConfig
from benchmarks.catalogue import CatalogueConfig
from benchmarks.grid.variants import select_variants
from benchmarks.report.files import save
from benchmarks.report.results_page import HERE, TABLES, read_results
from benchmarks.report.schema import Cost, RunSummary, Training
from tests.benchmarks.report.made import accuracy_results, latency_results, system, variant

CPU_HOUR = Cost(wall_s=1.0, cpu_s=3600.0)


def run_of(folder: str) -> RunSummary:
    return RunSummary(times={"train": CPU_HOUR}, interrupted=False, folder=folder)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of a data set that can be fetched and of one that cannot, in an empty folder."""
    control = replace(variant("control", "gru", {}), runs=(run_of("a"), run_of("b")))
    distilled = replace(variant("distilled", "gru", {}), seeds=(0,), runs=(run_of("c"),))
    results = accuracy_results(control, distilled)  # its teacher took 2 CPU hours, auxiliaries 0.2
    for name in ("ml-100k", "mine"):
        data = replace(results.dataset, name=name)
        save(replace(results, dataset=data), tmp_path / "results" / name / "accuracy.json")
    took = Training(minutes=30.0, cut_short=True)
    rows = (
        system("gru distilled", "int8", 0.1, 0.1, budget="best"),
        system("one sasrec", "fp32", 1.0, 0.1, family="baseline", training=took),
    )
    flags = {"minutes": 30.0, "names": ["implicit item-knn"], "data_dir": "/else", "teacher": False}
    timed = latency_results(*rows, config=flags, lower_bound="all")
    save(timed, tmp_path / "results" / "mine" / "benchmark.json")
    monkeypatch.setattr(reproduce, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> list[tuple[str, str]]:
    """Return what stands above each command, and the command."""
    reproduce.main(argv)
    lines = capsys.readouterr().out.splitlines()
    return list(zip(lines[::2], lines[1::2], strict=True))


def test_commands_train_what_the_table_shows_with_its_seeds(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data, prepare), (cost, first), (_, last) = shown(capsys, "ranking", "--data", "mine")
    assert data == "# mine: 40 test users, 30 items, leave-one-out, seen excluded"
    assert prepare.startswith("python -m seqrec.prepare --interactions LOG --items CATALOGUE ")
    assert prepare.endswith(" --output-dir data/mine")
    assert cost == "# CPU hours: 5.20"  # three runs, the teacher, the auxiliary teacher
    # The last one's summary holds the seeds of all.
    accuracy = "python -m benchmarks.accuracy --data-dir data/mine"
    assert first == f"{accuracy} --seeds 0 --variants distilled"
    assert last == f"{accuracy} --seeds 0 1 --variants control"
    everywhere = shown(capsys, "where")
    assert [command for _, command in everywhere if "accuracy" in command] == [
        f"python -m benchmarks.accuracy --data-dir data/{name} --seeds 0 --variants distilled"
        for name in ("mine", "ml-100k")
    ]
    assert any("seqrec.prepare --dataset ml-100k" in command for _, command in everywhere)


def test_stages_before_a_benchmark_are_shown_with_its_flags(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, (teacher_cost, teacher), (_, students), (cost, benchmark) = shown(capsys, "answer")
    assert teacher == ("accelerate launch teacher/finetune.py --data-dir data/mine --budget best")
    assert teacher_cost == "# CPU hours: 2.00"
    assert students == "python -m student.distill --data-dir data/mine --budget best"
    assert cost == "# CPU hours: 0.50 + unknown"  # choosing epochs; timing is not kept
    flags = shlex.split(benchmark)[3:]
    given = parse_flags(BaselinesConfig, "", flags)
    assert given == BaselinesConfig(
        data_dir=Path("data/mine"), minutes=30.0, names=("implicit item-knn",), teacher=False
    )


def test_every_table_of_the_kept_page_has_commands_that_can_be_typed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reproduce.main([])
    assert capsys.readouterr().out.split() == list(TABLES)
    for table in TABLES:
        steps = shown(capsys, table)
        assert steps
        for _, command in steps:
            words = shlex.split(command)
            if "benchmarks.accuracy" in words:
                given = parse_flags(AccuracyConfig, "", words[3:])
                assert set(given.variants) <= set(select_variants(given.variants))
            elif "benchmarks.baselines" in words:
                parse_flags(BaselinesConfig, "", words[3:])
    results = read_results(HERE / "results").catalogue
    [(_, command)] = shown(capsys, "catalogue")
    given = parse_flags(CatalogueConfig, "", shlex.split(command)[3:])
    assert results is not None
    assert list(given.num_items) == results.config["num_items"]
    assert given.index_lists == results.config["index_lists"]


def test_commands_are_run_in_order_until_one_fails(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def start(program: list[str], **_: object) -> SimpleNamespace:
        assert program[:2] == [sys.executable, "-m"]
        started.append(program[2:])
        return SimpleNamespace(returncode=3 * ("student.distill" in program))

    monkeypatch.setattr(subprocess, "run", start)
    # Nothing is begun if a data set is missing that only its owner can prepare.
    with pytest.raises(DataError, match=r"data/mine is not there.* seqrec\.prepare .*--data NAME"):
        reproduce.main(["ranking", "--run"])
    assert started == []
    reproduce.main(["where", "--run", "--data", "ml-100k"])  # this one is fetched
    assert [program[0] for program in started] == ["seqrec.prepare", "benchmarks.accuracy"]
    started.clear()
    (kept / "data" / "mine").mkdir(parents=True)
    with pytest.raises(DataError, match=r"student\.distill .* exit code 3"):
        reproduce.main(["answer", "--run"])
    assert [program[0] for program in started] == ["accelerate.commands.launch", "student.distill"]
    assert started[0][1] == "teacher/finetune.py"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["rankings"], r"no table 'rankings'; expected one of ranking, libraries"),
        (["ranking", "--data", "other"], r"--data other: .* mine, ml-100k"),
    ],
)
def test_what_is_not_kept_is_refused(kept: Path, argv: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        reproduce.main(argv)
