"""The page of results says what the JSON files say."""

import re
from dataclasses import replace
from pathlib import Path

from seqrec.errors import DataError

import pytest

from benchmarks.report.files import save
from benchmarks.report.results_page import TABLES, Kept, format_page, main, read_results
from benchmarks.report.schema import (
    AccuracyResults,
    Failure,
    FrequencyGroup,
    Gain,
    LatencyResults,
    Training,
)
from tests.benchmarks.report.made import accuracy_results, latency_results, over, system

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "benchmarks" / "results"


def test_the_kept_page_is_what_the_command_writes() -> None:
    expected = format_page(read_results(KEPT), KEPT)
    kept = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert kept == expected, "type: python -m benchmarks.report.results_page"


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    pages = []
    for turn in ("first", "second"):
        folder = tmp_path / turn
        for name in ("b", "a") if turn == "first" else ("a", "b"):
            save(accuracy_results(), folder / name / "accuracy.json")
        main(["--input", str(folder), "--output", str(tmp_path / f"{turn}.md")])
        pages.append((tmp_path / f"{turn}.md").read_text(encoding="utf-8"))
        assert (folder / "a" / "accuracy.png").is_file()
    assert pages[0] == pages[1]
    assert pages[0].endswith("\n")
    assert not pages[0].endswith("\n\n")


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (over(3.0), "better"),
        (over(-3.0), "worse"),
        (over(1.0), "within chance"),
        (over(2.0), "within chance"),  # the interval ends at zero
    ],
)
def test_the_verdict_is_the_intervals(gain: Gain, expected: str) -> None:
    assert gain.verdict == expected


def tables_of(page: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return the cells of a page by the table's name, the row's and the column's."""
    found = {}
    for text in re.split(r"^`python -m benchmarks\.reproduce ", page, flags=re.MULTILINE)[1:]:
        name = text.partition("`")[0]
        above = page.partition(f"\n\n`python -m benchmarks.reproduce {name}`")[0]
        lines = [line.strip("|").split("|") for line in above.rpartition("\n\n")[2].splitlines()]
        head, _, *rows = [[cell.strip() for cell in line] for line in lines]
        found[name] = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    return found


def page_of(
    folder: Path, *every: AccuracyResults, latency: LatencyResults | None = None
) -> tuple[str, dict[str, dict[str, dict[str, str]]]]:
    named = {results.dataset.name: results for results in every}
    timed = {every[0].dataset.name: latency} if latency else {}
    page = format_page(Kept(named, timed, None, None), folder)
    return page, tables_of(page)


def named(results: AccuracyResults, name: str) -> AccuracyResults:
    return replace(results, dataset=replace(results.dataset, name=name))


def test_the_kept_page_can_be_read() -> None:
    """It is short, and tables fit a screen; a link takes the width of its text."""
    lines = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    rows = [line for line in lines if line.startswith("| ")]
    assert max(len(re.sub(r"\]\(.*?\)| (?= )", "", row)) for row in rows) <= 140
    assert set(tables_of("\n".join(lines))) == set(TABLES)


def test_data_sets_stand_side_by_side_and_what_one_lacks_is_a_dash(tmp_path: Path) -> None:
    whole = accuracy_results()
    part = replace(whole, rows=tuple(row for row in whole.rows if row.variant != "teacher"))
    _, tables = page_of(tmp_path, named(part, "one"), named(whole, "two"))
    assert tables["ranking"]["gru distilled"] == dict.fromkeys(("one", "two"), ".1000 ±.0100")
    assert tables["ranking"]["teacher"] == {"one": "-", "two": ".1000 ±.0100"}
    assert tables["added"]["two, gru"]["recipe"] == "+9.0 % [7.0, 11.0]"
    assert tables["added"]["two, transformer"]["recipe"] == "-"  # it has no int8 file


def test_training_is_in_cpu_minutes(tmp_path: Path) -> None:
    took = Training(minutes=4.0, cut_short=True, num_epochs=3, device="Some GPU")
    row = system("one sasrec", "fp32", 1.0, 0.1, family="baseline", training=took)
    page, tables = page_of(tmp_path, accuracy_results(), latency=latency_results(row))
    assert {name: cells["tiny"] for name, cells in tables["training"].items()} == {
        "teacher": "120.0",  # 7200 CPU seconds
        "gru control": "90.0",
        "auxiliary teacher": "12.0",
        "gru distilled": "90.0",
        "transformer control": "90.0",
        "transformer distilled": "90.0",
        "one sasrec": "4.0, GPU",
    }
    # It is not edited, and this is how it is made.
    assert "`python -m benchmarks.report.results_page`" in page


def test_systems_that_somebody_would_use_are_shown(tmp_path: Path) -> None:
    took = Training(minutes=4.0, cut_short=True, num_epochs=3)
    results = latency_results(
        system("popularity", "fp32", 0.02, 0.04),
        system("teacher", "nf4", 90.0, 0.10),
        system("gru control", "fp32", 0.11, 0.08),
        system("gru distilled", "fp32", 0.11, 0.12),
        system("gru distilled", "int8", 0.10, 0.11),
        system("gru distilled", "int8", 0.02, 0.11, variant="step"),
        system("gru distilled", "int8", 0.10, 0.11, variant="optimum"),
        system("one sasrec", "fp32", 1.0, 0.05, family="baseline", training=took),
        failed=(Failure(system="two sasrec", precision="-", reason="no disk"),),
        lower_bound="what it takes",
    )
    _, tables = page_of(tmp_path, accuracy_results(), latency=results)
    assert {name: cells["tiny"] for name, cells in tables["answer"].items()} == {
        "cores busy with other work": "-",  # it was not measured
        "teacher": "90.000 (135.000)",
        "gru distilled int8": "0.100 (0.150)",
        "gru distilled int8 step": "0.020 (0.030)",
        "one sasrec": "1.000 (1.500)",
    }
    assert {name: cells["tiny"] for name, cells in tables["libraries"].items()} == {
        "teacher": ".1000 ±.0100",
        "gru distilled int8": ".1100 ±.0100",
        "one sasrec": ".0500 ±.0100, cut short",
        "two sasrec": "failed",
    }


def test_only_pictures_that_are_there_are_shown(tmp_path: Path) -> None:
    link = "](results/tiny/accuracy.png)"
    assert link not in page_of(tmp_path, accuracy_results())[0]
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "accuracy.png").touch()
    assert link in page_of(tmp_path, accuracy_results())[0]


def test_unusable_results_are_refused(tmp_path: Path) -> None:
    """What else may be wrong with a file is told by `load`."""
    flags = ["--input", str(tmp_path), "--output", str(tmp_path / "page.md")]
    with pytest.raises(
        DataError, match=r"no \*/accuracy\.json in .*python -m benchmarks\.accuracy"
    ):
        main(flags)
    save(accuracy_results(), tmp_path / "tiny" / "accuracy.json")
    assert read_results(tmp_path).catalogue is None
    (tmp_path / "catalogue.json").write_text("{")
    with pytest.raises(DataError, match=r"damaged.*python -m benchmarks\.catalogue"):
        main(flags)
    assert not (tmp_path / "page.md").exists()


def test_what_the_language_model_adds_is_shown_by_frequency(tmp_path: Path) -> None:
    results = accuracy_results()
    rows = [
        replace(
            row,
            gain_over={**row.gain_over, "no-language-model": over(10.0)},
            by_frequency={
                name: FrequencyGroup(num_targets=4, ndcg_at_10=0.1, over_no_language_model=gain)
                for name, gain in (("0", None), ("1-5", over(25.0)))
            },
        )
        if row.variant == "distilled-int8"
        else row
        for row in results.rows
    ]
    _, tables = page_of(tmp_path, replace(results, rows=tuple(rows)))
    assert tables["where"] == {
        "tiny, gru": {
            "all targets": "+10.0 % [8.0, 12.0]",
            "events: 1-5": "+25.0 % [23.0, 27.0]",  # no hits at "0"
        }
    }
    assert tables["added"]["tiny, gru"]["language model"] == "+10.0 % [8.0, 12.0]"
    assert "where" not in page_of(tmp_path, results)[1]  # nothing is known of it


def test_results_of_an_earlier_recipe_are_marked_and_come_last(tmp_path: Path) -> None:
    today = accuracy_results()
    earlier = named(replace(today, recipe_version=1), "a")
    save(earlier, tmp_path / "a" / "accuracy.json")
    save(named(today, "b"), tmp_path / "b" / "accuracy.json")
    row = system("gru distilled", "int8", 0.10, 0.11)
    save(latency_results(row, recipe_version=1), tmp_path / "b" / "benchmark.json")
    tables = tables_of(format_page(read_results(tmp_path), tmp_path))
    assert list(tables["ranking"]["gru control"]) == ["b", "a (earlier)"]
    assert list(tables["answer"]["gru distilled int8"]) == ["tiny (earlier)"]
