"""Active health checks: when to probe, and what probes mean."""

from __future__ import annotations

from math import inf

import pytest

from smartproxy.core.configuration import HealthCheck
from smartproxy.core.upstream.health import ActiveHealth, Host

CHECK = HealthCheck("/health", interval_s=10.0, timeout_s=2.0, unhealthy_threshold=3, healthy_threshold=2)


def probe(active: ActiveHealth, host: Host, ok: bool, now: float) -> str | None:
    active.probe_started(host, now)
    return active.probe_finished(host, ok, now)


def test_first_probes_are_spread_over_one_interval() -> None:
    hosts = [Host(name) for name in "abcd"]
    active = ActiveHealth(CHECK, hosts)
    assert active.next_due() <= 500.0
    probed: list[tuple[float, str]] = []
    now = 500.0
    while now < 520.0:
        for host in active.due(now):
            active.probe_started(host, now)
            active.probe_finished(host, True, now + 0.1)
            probed.append((now, host.name))
        now = active.next_due()
    assert probed == [
        (500.0, "a"),
        (502.5, "b"),
        (505.0, "c"),
        (507.5, "d"),
        (510.0, "a"),
        (512.5, "b"),
        (515.0, "c"),
        (517.5, "d"),
    ]


def test_a_host_is_not_probed_twice_at_a_time() -> None:
    host = Host("a")
    active = ActiveHealth(CHECK, [host])
    assert active.due(0.0) == [host]
    active.probe_started(host, 0.0)
    assert active.due(100.0) == []
    assert active.next_due() == inf
    active.probe_finished(host, True, 100.0)
    assert active.next_due() == 100.0


def test_thresholds() -> None:
    host = Host("a")
    active = ActiveHealth(CHECK, [host])
    results = [False, False, True, False, False, False, False, True, False, True, True, True]
    changes = [probe(active, host, ok, float(number)) for number, ok in enumerate(results)]
    assert [(i, change) for i, change in enumerate(changes) if change] == [
        (5, "became_unhealthy"),
        (10, "became_healthy"),
    ]


def test_an_unhealthy_host_is_closed_until_it_is_healthy() -> None:
    host = Host("a")
    active = ActiveHealth(CHECK, [host])
    assert host.closed_until == -inf
    for number in range(3):
        probe(active, host, False, float(number))
    assert host.closed_until == inf
    probe(active, host, True, 4.0)
    assert host.closed_until == inf
    probe(active, host, True, 5.0)
    assert host.closed_until <= 5.0


def test_healthy_probes_end_an_ejection_and_leave_the_host_on_trial() -> None:
    host = Host("a")
    active = ActiveHealth(CHECK, [host])
    host.eject(0.0, for_errors=False)
    for number in range(3):
        probe(active, host, False, float(number))
    probe(active, host, True, 3.0)
    assert host.is_ejected(3.0)
    assert probe(active, host, True, 4.0) == "became_healthy"
    assert not host.is_ejected(4.0)
    assert host.on_trial


def test_probes_do_not_end_an_ejection_they_had_no_part_in() -> None:
    host = Host("a")
    active = ActiveHealth(CHECK, [host])
    host.eject(0.0, for_errors=True)
    for number in range(4):
        assert probe(active, host, True, float(number)) is None
    assert host.is_ejected(4.0)


@pytest.mark.parametrize("ok", [True, False])
def test_answers_nobody_asked_for_mean_nothing(ok: bool) -> None:
    host, stranger = Host("a"), Host("b")
    active = ActiveHealth(CHECK, [host])
    for number in range(10):
        assert active.probe_finished(host, ok, float(number)) is None
        assert probe(active, stranger, ok, float(number)) is None
    assert host.passes_probes
    assert stranger.passes_probes


def test_no_hosts_no_probes() -> None:
    active = ActiveHealth(CHECK, [])
    assert active.due(0.0) == []
    assert active.next_due() == inf
