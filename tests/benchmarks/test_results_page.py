"""The page and the picture of results say what the JSON files say."""

import copy
import json
from pathlib import Path
from typing import Any

from seqrec.errors import DataError
from seqrec.files import write_json

import pytest

from benchmarks.grid.variants import ROWS
from benchmarks.report import results_page as page
from benchmarks.report.plot_accuracy import draw, order_rows, write_figure
from benchmarks.report.plot_accuracy import main as plot
from benchmarks.report.results_page import (
    format_page,
    main,
    mean_gains,
    read_catalogues,
    read_results,
    verdict,
)
from benchmarks.report.tables import format_table

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results"


def over(mean: float, half_width: float = 2.0) -> dict[str, float]:
    return {"mean": mean, "low": mean - half_width, "high": mean + half_width}


def row(name: str, arch: str, gains: dict[str, Any], level: float = 0.1) -> dict[str, Any]:
    taught = name in ("distilled", "temperature-2")
    value = {"mean": level, "low": level - 0.01, "high": level + 0.01}
    metrics = dict.fromkeys(("hr@10", "ndcg@10", "mrr@10"), {**value, "seed_min": 1, "seed_max": 2})
    return {
        "row": name,
        "arch": arch,
        "about": ROWS[name].about,
        "kind": ROWS[name].kind,
        "ablation": ROWS[name].ablation,
        "overrides": dict(ROWS[name].overrides),
        "command": f"python -m benchmarks.accuracy --arch {arch} --rows {name}",
        "seeds": [] if ROWS[name].kind in ("popularity", "teacher") else [0, 1],
        "metrics": {"seen_excluded": metrics, "seen_kept": metrics},
        "valid_ndcg@10": 0.1,
        "gain_over": gains,
        "by_frequency": {
            "1-5": {
                "num_targets": 4,
                "ndcg@10": 0.02,
                "over_no_language_model": over(25.0) if taught else None,
            }
        },
        "num_parameters": 1234,
        "file_bytes": 2**20,
        "times": {"train": {"wall_s": 7200.0, "cpu_s": 5400.0, "num_cells": 2}},
        "shared_times": {"auxiliary teacher": {"wall_s": 800.0, "cpu_s": 720.0}} if taught else {},
        "cells": [],
    }


def make_results(distilled: float = 9.0) -> dict[str, Any]:
    return {
        "schema": "seqrec-accuracy/1",
        "command": "python -m benchmarks.accuracy",
        "environment": {
            "cpu": "Abacus 9",
            "os": "Linux",
            "python": "3.11.7",
            "versions": {"torch": "2.0"},
        },
        "seeds": [0, 1],
        "student_flags": "",
        "dataset": {
            "name": "tiny",
            "fingerprint": "0123456789abcdef",
            "num_users": 40,
            "num_items": 30,
            "split": "leave-one-out",
            "protocol": "seen_excluded",
        },
        "teacher": {
            "recipe": {},
            "command": "accelerate launch teacher/finetune.py",
            "wall_s": 3600.0,
            "cpu_s": 7200.0,
            "interrupted": False,
        },
        "rows": [
            row("popularity", "gru", {"control": over(-60.0)}),
            row("teacher", "gru", {"control": over(-5.0)}),
            row("control", "gru", {"distilled": over(-8.0)}, level=0.0815),
            row("distilled", "gru", {"control": over(distilled), "teacher": over(1.0)}),
            row("distilled-int8", "gru", {"control": over(9.0), "distilled": over(-0.5, 0.2)}),
            row("control+control", "gru", {"control": None}),
            row("temperature-2", "gru", {"control": over(9.1), "distilled": over(0.1)}),
            row("control", "transformer", {}),
            row("distilled", "transformer", {"control": over(1.0)}),
        ],
    }


def test_the_kept_page_is_what_the_command_writes() -> None:
    if not list(KEPT.glob("*/accuracy.json")):
        pytest.skip(f"no */accuracy.json is kept in {KEPT} yet")
    expected = format_page(read_results(KEPT), KEPT, read_catalogues(KEPT))
    kept = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert kept == expected, "type: python -m benchmarks.report.results_page"


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    pages = []
    for turn in ("first", "second"):
        folder = tmp_path / turn
        for name in ("b", "a") if turn == "first" else ("a", "b"):
            write_json(folder / name / "accuracy.json", make_results())
        main(["--input", str(folder), "--output", str(tmp_path / f"{turn}.md")])
        pages.append((tmp_path / f"{turn}.md").read_text(encoding="utf-8"))
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
        (None, "not known"),
    ],
)
def test_the_verdict_is_the_intervals(gain: dict[str, float] | None, expected: str) -> None:
    assert verdict(gain) == expected


def test_gains_are_averaged_over_data_sets() -> None:
    text = "\n".join(mean_gains({"a": make_results(9.0), "b": make_results(1.0)}))
    gru = "+5.0 % (+1.0 to +9.0) | 1 better, 0 worse, 1 within chance"
    transformer = "+1.0 % (+1.0 to +1.0) | 0 better, 0 worse, 2 within chance"
    assert f"| distilled | {gru} | {transformer} |" in text
    assert "| control |" not in text
    assert "control+control" not in text  # its gain is not known on any


def lines_of(results: dict[str, Any], files: Path) -> list[str]:
    return format_page({"tiny": results}, files).splitlines()


def test_the_page_holds_figures_verdicts_losses_costs_and_commands(tmp_path: Path) -> None:
    lines = lines_of(make_results(), tmp_path)
    metric = "0.1000 [0.0900, 0.1100]"
    assert (
        f"| distilled | 2 | {metric} | {metric} | {metric} | 1.0000 to 2.0000 | "
        "+9.0 % [+7.0, +11.0] | 1,234 | 1.00 |"
    ) in lines
    assert "- Teacher to student: NDCG@10 +1.0 % [-1.0, +3.0] (within chance)" in lines
    assert "- fp32 to int8: NDCG@10 -0.5 % [-0.7, -0.3] (worse)" in lines
    about = ROWS["temperature-2"].about
    assert (
        f"| temperature-2 | {about} | +9.1 % [+7.1, +11.1] | better | +0.1 % [-1.9, +2.1] "
        "| within chance |"
    ) in lines
    assert "| row | auxiliary teacher | train | cells |" in lines
    assert "| distilled | 0.200 | 1.500 | 2 |" in lines  # 720 and 5400 CPU-seconds
    assert "| control | - | 1.500 | 2 |" in lines
    assert any("Auxiliary teacher: made once, for all cells that share" in line for line in lines)
    assert "    python -m benchmarks.accuracy --arch transformer --rows distilled" in lines
    assert any("2.00 CPU-hours, 1.00 hours on the clock" in line for line in lines)


def test_only_pictures_that_are_there_are_shown(tmp_path: Path) -> None:
    link = "![Gains over the control](results/tiny/accuracy.png)"
    assert link not in lines_of(make_results(), tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "accuracy.png").touch()
    assert link in lines_of(make_results(), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no \*/accuracy\.json in .*python -m benchmarks\.accuracy"),
        ("{", "is damaged"),
        ('{"schema": "seqrec-accuracy/0"}', "schema seqrec-accuracy/0, expected"),
    ],
)
def test_unusable_results_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tiny").mkdir()
        (tmp_path / "tiny" / "accuracy.json").write_text(content)
    with pytest.raises(DataError, match=message):
        main(["--input", str(tmp_path), "--output", str(tmp_path / "page.md")])
    assert not (tmp_path / "page.md").exists()


def test_the_page_says_it_is_not_edited_and_how_it_is_made(tmp_path: Path) -> None:
    assert "`python -m benchmarks.report.results_page`" in format_page(
        {"tiny": make_results()}, tmp_path
    )
    assert page.HERE == ROOT / "benchmarks"


# The picture.


def test_rows_are_drawn_in_the_order_of_their_gain_at_their_gain() -> None:
    results = make_results()
    figure = draw(results)
    gru, transformer = figure.axes
    names = [label.get_text() for label in gru.get_yticklabels()]
    # distilled: (9 + 1) / 2; the control is the line at zero, popularity is far off
    assert names == ["temperature-2", "distilled-int8", "distilled", "teacher"]
    points = {
        (names[int(line.get_ydata()[0])], float(line.get_xdata()[0]), line.get_markerfacecolor())
        for axes in (gru, transformer)
        for line in axes.lines
        if line.get_marker() not in ("None", "")
    }
    hollow = {(name, x) for name, x, face in points if face == "white"}
    assert {(name, x) for name, x, _ in points} == {
        ("temperature-2", 9.1),
        ("distilled-int8", 9.0),
        ("distilled", 9.0),
        ("distilled", 1.0),
        ("teacher", -5.0),
    }
    assert hollow == {("distilled", 1.0)}  # its interval holds zero
    assert "0.0815" in gru.get_title(loc="left")


def test_equal_gains_are_ordered_by_name() -> None:
    rows = [row(name, "gru", {"control": over(1.0)}) for name in ("text", "distilled")]
    assert order_rows(rows) == ["distilled", "text"]


def every_row() -> dict[str, Any]:
    results = make_results()
    results["rows"] = [
        row(name, arch, {} if name == "control" else {"control": over(-12.0 + 3 * place)})
        for arch in ("gru", "transformer")
        for place, name in enumerate(ROWS)
    ]
    return results


def test_no_two_labels_overlap_and_none_is_cut_off() -> None:
    figure = draw(every_row())
    figure.draw_without_rendering()
    texts = [figure._suptitle, figure._supxlabel, *figure.axes[0].get_yticklabels()]
    for axes in figure.axes:
        low, high = axes.get_xlim()  # a tick beyond the ends has a label that is not drawn
        ticks = [
            label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high
        ]
        texts += [*axes.texts, axes.xaxis.label, axes._left_title, *ticks]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > 2 * (len(ROWS) - 2)
    for i, first in enumerate(boxes):
        assert not any(first.overlaps(second) for second in boxes[i + 1 :])
        assert first.x0 >= 0
        assert first.x1 <= figure.bbox.x1


def test_the_same_json_gives_the_same_picture(tmp_path: Path) -> None:
    results = make_results()
    untouched = copy.deepcopy(results)
    write_figure(results, tmp_path / "first.png")
    assert results == untouched
    (tmp_path / "accuracy.json").write_text(json.dumps(results))
    plot(["--input", str(tmp_path / "accuracy.json"), "--output", str(tmp_path / "second.png")])
    first, second = ((tmp_path / name).read_bytes() for name in ("first.png", "second.png"))
    assert first == second


def test_missing_results_name_the_command_to_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"python -m benchmarks\.accuracy"):
        plot(["--input", str(tmp_path / "nothing.json")])


def test_catalogues_of_another_version_are_refused_and_none_is_no_mistake(tmp_path: Path) -> None:
    assert read_catalogues(tmp_path) is None
    (tmp_path / "catalogue.json").write_text('{"schema": "seqrec-catalogue/9"}')
    with pytest.raises(DataError, match=r"expected seqrec-catalogue/2\. .*--catalogue-sizes"):
        read_catalogues(tmp_path)
    (tmp_path / "catalogue.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        read_catalogues(tmp_path)


def test_a_kept_benchmark_stands_on_the_page_as_the_command_printed_it() -> None:
    for file in KEPT.glob("*/benchmark.json"):
        section = page.of_benchmark(file.parent.name, "the data", KEPT)
        printed = format_table(json.loads(file.read_text(encoding="utf-8")))
        lines = [line.removeprefix("    ") for line in section if line.startswith("    ")]
        assert lines == [line.rstrip() for line in printed.splitlines() if line]


def test_what_the_language_model_adds_stands_apart_from_what_the_recipe_adds(
    tmp_path: Path,
) -> None:
    results = make_results()
    for values in results["rows"]:
        if values["row"] == "distilled":
            values["gain_over"]["no-language-model"] = over(10.0)
    lines = lines_of(results, tmp_path)
    assert "| row | all targets | items with 1-5 events |" in lines
    gain = "| distilled | +10.0 % [+8.0, +12.0] | +25.0 % [+23.0, +27.0] |"
    assert gain in lines


def test_results_of_the_recipe_before_fused_tables_say_so(tmp_path: Path) -> None:
    results = make_results()
    said = "Measured with the recipe before fused item tables"
    assert not any(line.startswith(said) for line in lines_of(results, tmp_path))
    for values in results["rows"]:
        del values["by_frequency"]
    assert any(line.startswith(said) for line in lines_of(results, tmp_path))
