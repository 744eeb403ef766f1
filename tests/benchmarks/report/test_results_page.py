"""The page of results says what the JSON files say."""

from dataclasses import replace
from pathlib import Path

from seqrec.errors import DataError

import pytest

from benchmarks.grid.variants import VARIANTS
from benchmarks.report.files import save
from benchmarks.report.results_page import Kept, format_page, main, mean_gains, read_results
from benchmarks.report.schema import AccuracyResults, Gain
from tests.benchmarks.report.made import accuracy_results, over

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


def cells(text: str) -> list[str]:
    """Lines with the padding of tables taken out."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_gains_are_averaged_over_data_sets() -> None:
    every = [accuracy_results(distilled=9.0), accuracy_results(distilled=1.0)]
    text = "\n".join(cells(mean_gains(every)))
    gru = "+5.0 % (+1.0 to +9.0) | 1 better, 0 worse, 1 within chance"
    transformer = "+1.0 % (+1.0 to +1.0) | 0 better, 0 worse, 2 within chance"
    described = VARIANTS["distilled"].description
    assert f"| distilled | {gru} | {transformer} | {described} |" in text
    assert "| control+control | - | - | - | - |" in text  # its gain is not known on any


def lines_of(results: AccuracyResults, folder: Path) -> list[str]:
    return cells(format_page(Kept({"tiny": results}, {}, None, None), folder))


def test_the_page_holds_figures_and_costs(tmp_path: Path) -> None:
    lines = lines_of(accuracy_results(), tmp_path)
    metric = "0.1000 [0.0900, 0.1100]"
    assert (
        f"| distilled | 2 | {metric} | {metric} | {metric} | 1.0000 to 2.0000 | "
        "+9.0 % [+7.0, +11.0] | +1.0 % [-1.0, +3.0] | - | 1,234 | 1.00 |"
    ) in lines
    header = next(line for line in lines if "over control" in line)
    assert "| over control | over teacher | over distilled | parameters |" in header
    assert "| variant | auxiliary teacher (shared) | train | runs |" in lines
    assert "| distilled | 0.200 | 1.500 | 2 |" in lines  # 720 and 5400 CPU-seconds
    assert "| control | - | 1.500 | 2 |" in lines
    assert any("2.00 CPU-hours, 1.00 hours on the clock" in line for line in lines)
    # It is not edited, and this is how it is made.
    assert any("`python -m benchmarks.report.results_page`" in line for line in lines)


def test_only_pictures_that_are_there_are_shown(tmp_path: Path) -> None:
    link = "![Gains over the control](results/tiny/accuracy.png)"
    assert link not in lines_of(accuracy_results(), tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "accuracy.png").touch()
    assert link in lines_of(accuracy_results(), tmp_path)


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


def test_what_the_language_model_adds_stands_apart_from_what_the_recipe_adds(
    tmp_path: Path,
) -> None:
    results = accuracy_results()
    rows = [
        replace(row, gain_over={**row.gain_over, "no-language-model": over(10.0)})
        if row.variant == "distilled"
        else row
        for row in results.rows
    ]
    lines = lines_of(replace(results, rows=tuple(rows)), tmp_path)
    assert "| variant | all targets | items with 1-5 events |" in lines
    assert "| distilled | +10.0 % [+8.0, +12.0] | +25.0 % [+23.0, +27.0] |" in lines


def test_results_of_the_recipe_before_fused_tables_say_so(tmp_path: Path) -> None:
    results = accuracy_results()
    said = "Measured with the recipe before fused item tables"
    assert not any(line.startswith(said) for line in lines_of(results, tmp_path))
    rows = tuple(replace(row, by_frequency=None) for row in results.rows)
    older = lines_of(replace(results, rows=rows), tmp_path)
    assert any(line.startswith(said) for line in older)
