"""Tables of what was measured, for people (Markdown) and programs (JSON)."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from bench.gates import ALL_CASES
from bench.lookup import SIZES as LOOKUP_SIZES
from bench.scenarios import SCENARIOS, Row, Scenario

TITLES = {
    "smartproxy": "smartproxy",
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "envoy": "Envoy",
    "caddy": "Caddy",
}
OURS = "smartproxy"
WORTH_TELLING = 0.05
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True, slots=True)
class Aim:
    """How one of our numbers should stand to a peer's."""

    scenario: str
    number: str
    peer: str
    at_most: float
    title: str


AIMS = (
    Aim("keep-alive", "cpu_us", "envoy", 1.0, "HTTP/1.1 keep-alive: ahead of Envoy"),
    Aim("keep-alive", "cpu_us", "caddy", 1.0, "HTTP/1.1 keep-alive: ahead of Caddy"),
    Aim("keep-alive", "cpu_us", "nginx", 2.0, "HTTP/1.1 keep-alive: within 2× of nginx"),
    Aim("new-connections", "cpu_us", "envoy", 1.0, "HTTP/1.1 new connections: ahead of Envoy"),
    Aim("new-connections", "cpu_us", "caddy", 1.0, "HTTP/1.1 new connections: ahead of Caddy"),
    Aim("new-connections", "cpu_us", "nginx", 2.0, "HTTP/1.1 new connections: within 2× of nginx"),
    Aim("large-bodies", "cpu_us", "envoy", 1.0, "HTTP/1.1, 1 MiB bodies: ahead of Envoy"),
    Aim("large-bodies", "cpu_us", "caddy", 1.0, "HTTP/1.1, 1 MiB bodies: ahead of Caddy"),
    Aim("large-bodies", "cpu_us", "nginx", 2.0, "HTTP/1.1, 1 MiB bodies: within 2× of nginx"),
    Aim("http2", "cpu_us", "caddy", 1.0, "HTTP/2: ahead of Caddy"),
    Aim("http3", "cpu_us", "caddy", 1.0, "HTTP/3: ahead of Caddy"),
    Aim("http3", "cpu_us", "envoy", 1.0, "HTTP/3: ahead of Envoy"),
    Aim(
        "tcp-download", "cpu_s_per_gib", "haproxy", 1.2, "Plain TCP down: within 1.2× of HAProxy with splice"
    ),
    Aim("tcp-upload", "cpu_s_per_gib", "haproxy", 1.2, "Plain TCP up: within 1.2× of HAProxy with splice"),
    Aim("passthrough-download", "cpu_s_per_gib", "haproxy", 1.2, "Passthrough down: within 1.2× of HAProxy"),
    Aim("passthrough-upload", "cpu_s_per_gib", "haproxy", 1.2, "Passthrough up: within 1.2× of HAProxy"),
    Aim("idle", "kib_per_connection", "caddy", 1.0, "Memory per idle connection: under Caddy's"),
)


@dataclass(frozen=True, slots=True)
class Bound:
    """How great one of our numbers should be at most."""

    scenario: str
    number: str
    at_most: float
    unit: str
    title: str


BOUNDS = tuple(
    Bound("gatekeeping", f"{case.name}_more_us", 15.0, "µs", f"Gatekeeping, {case.name}: at most 15 µs more")
    for case in ALL_CASES
)


@dataclass(slots=True)
class Report:
    """All numbers of one run."""

    runs: int
    seconds: float
    bulk_gib: float
    versions: dict[str, str] = field(default_factory=dict)
    busy_share: float = 0.0
    """How busy the machine was with other things before the run (0 to 1)."""
    lookups: list[tuple[str, list[float]]] = field(default_factory=list)
    """A kind of route look-up, and its µs at each of `LOOKUP_SIZES` routes."""
    numbers: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    """scenario → peer → number → one value a run."""

    unavailable: dict[str, dict[str, str]] = field(default_factory=dict)
    """scenario → peer → why it could not be measured."""

    def add(self, scenario: str, peer: str, number: str, values: list[float]) -> None:
        self.numbers.setdefault(scenario, {}).setdefault(peer, {})[number] = values

    def median(self, scenario: str, peer: str, number: str) -> float | None:
        values = self.numbers.get(scenario, {}).get(peer, {}).get(number)
        return statistics.median(values) if values else None


def machine() -> str:
    """The facts of this machine that bear on the numbers."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = " ".join(line.partition(":")[2].split())
            break
    kernel = ".".join(platform.release().split(".")[:2])
    return (
        f"{os.cpu_count()} cores ({model or platform.machine()}), Linux {kernel}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def _busy(report: Report) -> str:
    if report.busy_share < WORTH_TELLING:
        return ""
    return f" The machine was busy with other things, too ({report.busy_share:.0%} of it)."


def _cell(report: Report, scenario: Scenario, row: Row, peer: str) -> str:
    value = report.median(scenario.name, peer, row.number)
    if value is not None:
        # A difference may round to minus zero; the sum with zero has no sign.
        return f"{round(value, row.decimals) + 0.0:,.{row.decimals}f}"
    return "not available" if peer in report.unavailable.get(scenario.name, {}) else "n/a"


def _table(report: Report) -> list[str]:
    shown = [
        scenario
        for scenario in SCENARIOS
        if scenario.name in report.numbers or scenario.name in report.unavailable
    ]
    if not shown:
        return []
    peers = [name for name in TITLES if name in report.versions]
    lines = [
        "| | " + " | ".join(f"{TITLES[name]} {report.versions[name]}" for name in peers) + " |",
        "|---|" + "---:|" * len(peers),
    ]
    for scenario in shown:
        for row in scenario.rows:
            cells = " | ".join(_cell(report, scenario, row, peer) for peer in peers)
            lines.append(f"| {row.title} | {cells} |")
    return lines


def _aims(report: Report) -> list[str]:
    lines = []
    for aim in AIMS:
        ours = report.median(aim.scenario, OURS, aim.number)
        theirs = report.median(aim.scenario, aim.peer, aim.number)
        if ours is None or theirs is None:
            continue
        ratio = ours / theirs
        lines.append(f"| {aim.title} | {ratio:.2f}× | {'met' if ratio <= aim.at_most else 'missed'} |")
    for bound in BOUNDS:
        value = report.median(bound.scenario, OURS, bound.number)
        if value is not None:
            verdict = "met" if value <= bound.at_most else "missed"
            lines.append(f"| {bound.title} | {value:.1f} {bound.unit} | {verdict} |")
    return ["", "| Aim | measured | |", "|---|---:|---|", *lines] if lines else []


def _lookups(report: Report) -> list[str]:
    if not report.lookups:
        return []
    return [
        "",
        "| Route look-up in smartproxy: µs | "
        + " | ".join(f"{size:,} routes" for size in LOOKUP_SIZES)
        + " |",
        "|---|" + "---:|" * len(LOOKUP_SIZES),
        *(
            f"| {label} | " + " | ".join(f"{time:.2f}" for time in times) + " |"
            for label, times in report.lookups
        ),
    ]


def as_markdown(report: Report) -> str:
    """The tables, with the machine and the settings they were measured on."""
    lines = [
        f"Machine: {machine()}. Median of {report.runs} runs; {report.seconds:g} s of load "
        f"or {report.bulk_gib:g} GiB in each.{_busy(report)}",
        "",
        *_table(report),
        *_aims(report),
        *_lookups(report),
    ]
    return "\n".join(lines)


def as_json(report: Report) -> str:
    """Every run's numbers."""
    return json.dumps(
        {
            "machine": machine(),
            "runs": report.runs,
            "seconds": report.seconds,
            "bulk_gib": report.bulk_gib,
            "busy_share": report.busy_share,
            "versions": report.versions,
            "numbers": report.numbers,
            "unavailable": report.unavailable,
            "lookups": report.lookups,
        },
        indent=1,
    )


def update_results(path: Path, report: Report) -> None:
    """Put the tables between the markers in `path`, in place of those that stand there."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the markers {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{as_markdown(report)}\n{END}{after}")
