"""The page in a real browser: what it shows, how it sorts, and that names are text in it."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.page import accuracy_chart, cells, columns, page, write_report

HOSTILE = "</script><script>document.title='hacked'</script>"


def row(system: str, precision: str, ndcg: float, p50: float, **more: Any) -> dict[str, Any]:
    metrics = {"hr@10": 2 * ndcg, "mrr@10": ndcg / 2, "ndcg@10": ndcg}
    metrics |= {"ndcg@10_low": ndcg - 0.01, "ndcg@10_high": ndcg + 0.01}
    return {
        "system": system,
        "precision": precision,
        "metrics": metrics,
        "latency_ms": {"p50": p50, "p95": 1.5 * p50, "p99": None, "cpu": p50},
        "num_timed_calls": 173,
        "throughput_per_s": 1000 / p50,
        "size_mib": 1.5,
        "num_parameters": 1234,
        **more,
    }


@pytest.fixture
def results() -> dict[str, Any]:
    gain = {"mean": 0.02, "low": 0.01, "high": 0.03}
    fresh = {"load_ms": 80.0, "first_ms": 1.0, "peak_mib": 64.0}
    swept = {"throughput_by_batch": {"1": 10.0, "128": 99.0}, "p50_ms_by_history": {"1": 0.1}}
    return {
        "config": {"throughput_batch_size": 128},
        "environment": {
            "cpu": "Abacus 9",
            "num_cores": 2,
            "num_threads": 1,
            "other_work": 1.8,
            "os": "Linux",
            "python": "3.11",
            "versions": {"onnxruntime": "1.0"},
        },
        "dataset": {
            "name": "tiny",
            "fingerprint": "f" * 64,
            "num_users": 40,
            "num_items": 30,
            "split": "leave-one-out",
            "protocol": "seen_excluded",
        },
        "rows": [
            row("popularity", "fp32", 0.04, 0.10),
            row(HOSTILE, "fp32", 0.10, 90.0),
            row("gru control", "fp32", 0.08, 0.11, fresh=fresh, over_limit=2.0),
            row(
                "gru distilled",
                "int8",
                0.12,
                0.02,
                gain_over_control=gain,
                fresh=fresh,
                over_limit=1.5,
                **swept,
            ),
        ],
    }


def named_cells(row: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, cell) for (name, _), cell in zip(columns(128), cells(row), strict=True)]


def systems(opened: Any) -> list[str]:
    found: list[str] = opened.locator("#systems tbody td:first-child").all_inner_texts()
    return found


def test_the_page_shows_and_sorts_in_a_browser(
    results: dict[str, Any], browser: Any, tmp_path: Path
) -> None:
    write_report(results, tmp_path / "report.html")
    opened, errors, requests = browser.new_page(), [], []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto((tmp_path / "report.html").as_uri())
    opened.wait_for_selector("#chart-accuracy .main-svg")
    as_measured = ["popularity", HOSTILE, "gru control", "gru distilled"]
    assert systems(opened) == as_measured
    opened.get_by_role("button", name="NDCG@10").click()  # best first
    assert systems(opened) == ["gru distilled", HOSTILE, "gru control", "popularity"]
    opened.get_by_role("button", name="NDCG@10").click()
    assert systems(opened) == ["popularity", "gru control", HOSTILE, "gru distilled"]
    opened.get_by_role("button", name="times the limit").click()  # two were not measured
    assert systems(opened)[:2] == ["gru control", "gru distilled"]
    opened.get_by_role("button", name="times the limit").click()
    assert systems(opened)[:2] == ["gru distilled", "gru control"]
    for chart in ("accuracy", "throughput_by_batch", "p50_ms_by_history"):
        assert opened.locator(f"#chart-{chart} .scatterlayer .trace").count() > 0
    assert opened.title() == "tiny: accuracy over latency"
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_the_page_says_what_was_gained_and_that_the_machine_was_busy(
    results: dict[str, Any],
) -> None:
    text = page(results)
    assert "gru distilled int8 over control: NDCG@10 +0.0200 [+0.0100, +0.0300]" in text
    assert "The machine was busy: other processes kept 1.8 of 2 cores at work" in text
    results["environment"]["other_work"] = 0.1
    assert "The machine was busy" not in page(results)


def test_a_system_that_failed_is_named_with_its_reason(results: dict[str, Any]) -> None:
    results["failed"] = [{"system": "knn", "precision": "-", "reason": "no <b> on the machine"}]
    assert "<p>knn failed: no &lt;b&gt; on the machine</p>" in page(results)


def test_what_was_measured_elsewhere_is_on_the_page(results: dict[str, Any]) -> None:
    assert "Measured elsewhere" not in page(results)
    model = {"arch": "gru", "role": "distilled", "precision": "int8"}
    result = {
        "device": {"name": "<my> phone"},
        "runtime": {"name": "onnxruntime-web", "version": "1.2", "num_threads": 1},
        "model": {**model, "dataset_fingerprint": "0" * 64},
        "latency_ms": {"p50": 0.4567, "p95": 0.6, "p99": 0.7},
        "num_requests": 300,
        "calls_per_sample": 1,
    }
    text = page({**results, "included": [result]})
    assert "<h2>Measured elsewhere" in text
    for shown in ("&lt;my&gt; phone", "gru distilled (other data)", "0.457"):
        assert shown in text
    assert "<my>" not in text


def test_few_calls_have_no_p99_and_their_number_is_told(results: dict[str, Any]) -> None:
    (p99,) = [cell for name, cell in named_cells(results["rows"][0]) if name == "p99 ms"]
    (calls,) = [cell for name, cell in named_cells(results["rows"][0]) if name == "calls"]
    assert (p99, calls) == (None, 173)


def test_what_was_not_swept_has_no_chart(results: dict[str, Any]) -> None:
    del results["rows"][-1]["throughput_by_batch"]
    assert "chart-throughput_by_batch" not in page(results)
    assert "chart-p50_ms_by_history" in page(results)


def test_other_libraries_are_told_apart_and_how_they_were_trained_is_said(
    results: dict[str, Any],
) -> None:
    training = {"num_epochs": 3, "num_tried": 5, "minutes": 4.0, "cut_short": True}
    training["device"] = "cpu"
    results["rows"] += [
        row("one sasrec", "fp32", 0.05, 1.0, peer="one sasrec", training=training),
        row("two sasrec", "fp32", 0.06, 1.1, peer="two sasrec"),
    ]
    chart = {trace.name: trace for trace in accuracy_chart(results["rows"]).data}
    one, two = (chart[f"{name} sasrec fp32"].marker.symbol for name in ("one", "two"))
    assert one != two
    assert one.endswith("-open")  # hollow: no teacher
    assert chart["gru control fp32"].marker.symbol.endswith("-open")
    assert not chart["gru distilled int8"].marker.symbol.endswith("-open")
    text = page(results)
    assert "one sasrec: 3 epochs of 5 tried in 4.0 CPU minutes, cut short by --peer-minutes" in text
