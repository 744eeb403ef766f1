"""The page in a real browser: what it shows, how it sorts, and that names are text in it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.page import page
from benchmarks.report.schema import Failure, LatencyResults, Training
from tests.benchmarks.report.made import MACHINE, latency_results, over, system

pytestmark = pytest.mark.slow

HOSTILE = "</script><script>document.title='hacked'</script>"


@pytest.fixture
def results() -> LatencyResults:
    gain = replace(over(0.02), low=0.01, high=0.03)
    swept = {"throughput_by_batch": {"1": 10.0, "128": 99.0}, "p50_ms_by_history": {"1": 0.1}}
    return latency_results(
        system("popularity", "fp32", 0.10, 0.04),
        system(HOSTILE, "fp32", 90.0, 0.10),
        system("gru control", "fp32", 0.11, 0.08, ratio=2.0),
        system("gru distilled", "int8", 0.02, 0.12, ratio=1.5, gain_over_control=gain, **swept),
        environment=replace(MACHINE, other_work=1.8),
    )


def systems(opened: Any) -> list[str]:
    table = opened.locator("table").first
    return list(table.locator("tbody td:first-child").all_inner_texts())


def test_the_page_shows_and_sorts_in_a_browser(
    results: LatencyResults, browser: Any, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text(page(results), encoding="utf-8")
    opened, errors, requests = browser.new_page(), [], []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto((tmp_path / "report.html").as_uri())
    as_measured = ["popularity", HOSTILE, "gru control", "gru distilled"]
    assert systems(opened) == as_measured
    opened.get_by_role("columnheader", name="NDCG@10").click()  # best first
    assert systems(opened) == ["gru distilled", HOSTILE, "gru control", "popularity"]
    opened.get_by_role("columnheader", name="NDCG@10").click()
    assert systems(opened) == ["popularity", "gru control", HOSTILE, "gru distilled"]
    opened.get_by_role("columnheader", name="ratio to lower bound").click()  # two are not known
    assert systems(opened)[:2] == ["gru control", "gru distilled"]
    opened.get_by_role("columnheader", name="ratio to lower bound").click()
    assert systems(opened)[:2] == ["gru distilled", "gru control"]
    assert opened.locator("svg").count() == 1
    swept = opened.locator("table").nth(1).locator("tbody td").all_inner_texts()
    assert swept == ["gru distilled int8", "10", "99"]
    assert opened.title() == "tiny: accuracy over latency"
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_the_page_says_what_was_gained_what_failed_and_that_the_machine_was_busy(
    results: LatencyResults,
) -> None:
    failure = Failure(system="knn", precision="-", reason="no <b> on the machine")
    text = page(replace(results, failed=(failure,)))
    assert "gru distilled int8 over control: NDCG@10 +0.0200 [+0.0100, +0.0300]" in text
    assert "<li>knn failed: no &lt;b&gt; on the machine</li>" in text
    assert "The machine was busy: other processes kept 1.8 of 2 cores at work" in text
    assert HOSTILE not in text
    # What was not swept has no table.
    assert "Users per second, by users at once" in text
    rows = (*results.rows[:-1], replace(results.rows[-1], throughput_by_batch=None))
    text = page(replace(results, rows=rows, environment=MACHINE))
    assert "Users per second, by users at once" not in text
    assert "p50 in ms, by items in the history" in text
    assert "The machine was busy" not in text


def test_how_other_libraries_were_trained_is_said() -> None:
    training = Training(num_epochs=3, num_tried=5, minutes=4.0, cut_short=True)
    row = system("one sasrec", "fp32", 0.05, 1.0, family="baseline", training=training)
    text = page(latency_results(row))
    assert "one sasrec: 3 epochs of 5 tried in 4.0 CPU minutes, cut short by --minutes" in text
    gpu = replace(training, cut_short=False, device="Some GPU")
    text = page(latency_results(replace(row, training=gpu)))
    assert "in 4.0 CPU minutes with a GPU, Some GPU" in text


def test_a_gain_over_a_library_that_was_cut_short_has_no_interval() -> None:
    training = Training(num_epochs=3, num_tried=5, minutes=4.0, cut_short=True)
    rows = [
        system(name, "fp32", 0.05, 1.0, family="baseline", training=one)
        for name, one in (("one sasrec", training), ("other", replace(training, cut_short=False)))
    ]
    gains = {row.system: over(0.02, 0.01) for row in rows}
    ours = system("gru distilled", "int8", 0.05, 1.0, gain_over_baselines=gains)
    text = page(latency_results(ours, *rows))
    assert "over one sasrec (cut short): NDCG@10 +0.0200 -<" in text
    assert "over other: NDCG@10 +0.0200 [+0.0100, +0.0300]<" in text
