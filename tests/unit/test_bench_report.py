"""The benchmark's own bookkeeping: medians, aims, and tables put between markers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.report import AIMS, BEGIN, BOUNDS, END, TITLES, Report, as_json, as_markdown, update_results
from bench.scenarios import SCENARIOS


def make_report() -> Report:
    report = Report(
        runs=3, seconds=2, bulk_gib=4, versions={"smartproxy": "0.1", "nginx": "1.2", "caddy": "2.3"}
    )
    report.add("keep-alive", "smartproxy", "cpu_us", [50.0, 30.0, 31.0])
    report.add("keep-alive", "nginx", "cpu_us", [20.0, 20.0, 20.0])
    report.add("idle", "smartproxy", "kib_per_connection", [30.0])
    report.add("idle", "caddy", "kib_per_connection", [27.0])
    return report


def test_a_cell_is_the_median_of_its_runs() -> None:
    row = next(
        line for line in as_markdown(make_report()).splitlines() if "keep-alive, 64 connections" in line
    )
    assert row.endswith("| 31.0 | 20.0 | n/a |")


def test_an_aim_is_met_or_missed_by_the_ratio_of_medians() -> None:
    lines = as_markdown(make_report()).splitlines()
    assert "| HTTP/1.1 keep-alive: within 2× of nginx | 1.55× | met |" in lines
    assert "| Memory per idle connection: under Caddy's | 1.11× | missed |" in lines
    assert not any("Envoy" in line for line in lines)


def test_a_bound_is_met_or_missed_by_our_own_median() -> None:
    report = make_report()
    report.add("gatekeeping", "smartproxy", "all-password_more_us", [14.0, 40.0, 15.0])
    report.add("gatekeeping", "smartproxy", "all-token_more_us", [15.1])
    report.add("gatekeeping", "nginx", "all-token_more_us", [1.0])
    lines = as_markdown(report).splitlines()
    assert "| Gatekeeping, all-password: at most 15 µs more | 15.0 µs | met |" in lines
    assert "| Gatekeeping, all-token: at most 15 µs more | 15.1 µs | missed |" in lines
    assert not any("at most 15 µs more" in line for line in as_markdown(make_report()).splitlines())


def test_a_difference_may_be_below_zero_and_zero_has_no_sign() -> None:
    report = make_report()
    report.add("gatekeeping", "smartproxy", "password_more_us", [-0.04])
    report.add("gatekeeping", "nginx", "password_more_us", [-1.26])
    row = next(line for line in as_markdown(report).splitlines() if "more with a password" in line)
    assert row.endswith("| 0.0 | -1.3 | n/a |")


def test_a_proxy_that_failed_is_told_from_one_that_was_not_asked() -> None:
    report = make_report()
    report.unavailable = {"http3": {"smartproxy": "nobody answered"}, "idle": {"nginx": "it ended"}}
    lines = as_markdown(report).splitlines()
    http3 = next(line for line in lines if line.startswith("| HTTP/3"))
    assert http3.endswith("| not available | n/a | n/a |")
    idle = next(line for line in lines if line.startswith("| Memory per idle"))
    assert idle.endswith("| 30.00 | not available | 27.00 |")
    assert not any(line.startswith("| HTTP/3: ahead") for line in lines)


def test_json_holds_every_run_and_every_reason() -> None:
    report = make_report()
    report.unavailable = {"http3": {"smartproxy": "nobody answered"}}
    data = json.loads(as_json(report))
    assert data["numbers"]["keep-alive"]["smartproxy"]["cpu_us"] == [50.0, 30.0, 31.0]
    assert data["unavailable"] == {"http3": {"smartproxy": "nobody answered"}}


def test_tables_replace_those_between_the_markers_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    report = make_report()
    update_results(path, report)
    update_results(path, report)
    assert path.read_text() == f"before\n{BEGIN}\n{as_markdown(report)}\n{END}\nafter\n"


def test_a_file_without_markers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("no markers\n")
    with pytest.raises(ValueError, match="lacks the markers"):
        update_results(path, make_report())
    assert path.read_text() == "no markers\n"


def test_the_results_we_publish_have_markers() -> None:
    text = (Path(__file__).resolve().parents[2] / "bench" / "RESULTS.md").read_text()
    assert text.index(BEGIN) < text.index(END)


def test_every_aim_is_about_a_number_that_is_shown() -> None:
    shown = {(scenario.name, row.number) for scenario in SCENARIOS for row in scenario.rows}
    assert {(aim.scenario, aim.number) for aim in AIMS} <= shown
    assert {aim.peer for aim in AIMS} <= set(TITLES)
    assert BOUNDS
    assert {(bound.scenario, bound.number) for bound in BOUNDS} <= shown


def test_every_row_has_a_title_of_its_own_in_its_scenario() -> None:
    for scenario in SCENARIOS:
        titles = [row.title for row in scenario.rows]
        assert titles
        assert len(set(titles)) == len(titles)
