"""Choosing among hosts, and ejecting those that fail."""

from __future__ import annotations

from collections import Counter

import pytest

from smartproxy.core.configuration import Balancing, BalancingAlgorithm, HealthCheck, Target
from smartproxy.core.upstream import balancing
from smartproxy.core.upstream.balancing import HostGroup
from smartproxy.core.upstream.health import Host

ROUND_ROBIN = BalancingAlgorithm.ROUND_ROBIN
LEAST_CONNECTIONS = BalancingAlgorithm.LEAST_CONNECTIONS
IP_HASH = BalancingAlgorithm.IP_HASH


def group_of(
    *names: str,
    weights: tuple[int, ...] = (),
    algorithm: BalancingAlgorithm = ROUND_ROBIN,
    check: HealthCheck | None = None,
) -> HostGroup:
    return HostGroup(Target(hosts=names, weights=weights, balancing=Balancing(algorithm, check)))


def names_chosen(group: HostGroup, count: int, now: float = 0.0) -> str:
    hosts = [group.choose(b"", now) for _ in range(count)]
    return "".join(host.name if host is not None else "-" for host in hosts)


def eject(group: HostGroup, host: Host, now: float) -> None:
    changes = [group.report_connect_failure(host, now) for _ in range(3)]
    assert changes[-1] == "host_ejected"


def test_equals_take_turns() -> None:
    assert names_chosen(group_of("a", "b", "c"), 7) == "abcabca"


def test_weighted_turns_are_spread_evenly() -> None:
    assert names_chosen(group_of("a", "b", "c", weights=(5, 1, 1)), 14) == "aabacaaaabacaa"


def test_a_lone_host_is_always_chosen() -> None:
    for algorithm in BalancingAlgorithm:
        assert names_chosen(group_of("a", algorithm=algorithm), 3) == "aaa"


def test_a_unix_socket_is_a_group_of_one() -> None:
    group = HostGroup(Target(unix_path="/run/app.sock"))
    assert names_chosen(group, 2) == "/run/app.sock" * 2


def test_a_group_of_nobody_has_nobody() -> None:
    for algorithm in BalancingAlgorithm:
        group = group_of(algorithm=algorithm)
        assert group.choose(b"x", 0.0) is None
        assert group.retry_after_s(0.0) == 1


def test_a_host_named_twice_counts_once_with_both_weights() -> None:
    group = group_of("a", "b", "a")
    assert [(host.name, host.weight) for host in group.hosts] == [("a", 2), ("b", 1)]


def test_a_host_without_weight_is_never_chosen() -> None:
    for algorithm in BalancingAlgorithm:
        assert names_chosen(group_of("a", "b", weights=(0, 1), algorithm=algorithm), 4) == "bbbb"
        assert names_chosen(group_of("a", weights=(0,), algorithm=algorithm), 2) == "--"


def test_names_of_any_kind_make_a_group() -> None:
    assert group_of("\ud800", "é", algorithm=IP_HASH).choose(b"", 0.0) is not None


def test_least_connections_goes_by_load_per_weight() -> None:
    group = group_of("a", "b", weights=(3, 1), algorithm=LEAST_CONNECTIONS)
    sequence = ""
    for _ in range(8):
        host = group.choose(b"", 0.0)
        assert host is not None
        host.in_flight += 1
        sequence += host.name
    assert Counter(sequence) == {"a": 6, "b": 2}
    group.hosts[1].in_flight = 0
    assert names_chosen(group, 1) == "b"


def test_least_connections_takes_turns_among_the_idle() -> None:
    assert names_chosen(group_of("a", "b", "c", algorithm=LEAST_CONNECTIONS), 6) == "abcabc"


def test_hashing_is_stable_and_even() -> None:
    group = group_of("a", "b", "c", weights=(1, 2, 1), algorithm=IP_HASH)
    clients = [number.to_bytes(4, "big") for number in range(8_000)]
    first = [group.choose(client, 0.0) for client in clients]
    assert [group.choose(client, 0.0) for client in clients] == first
    shares = Counter(host.name for host in first if host is not None)
    assert shares["a"] == pytest.approx(2_000, rel=0.1)
    assert shares["b"] == pytest.approx(4_000, rel=0.1)
    assert shares["c"] == pytest.approx(2_000, rel=0.1)


def test_hashing_gives_the_same_answer_on_every_machine() -> None:
    """Two proxies side by side send a client to the same backend."""
    group = group_of("10.0.0.1", "10.0.0.2", "10.0.0.3", algorithm=IP_HASH)
    chosen = [group.choose(bytes([198, 51, 100, last]), 0.0) for last in range(8)]
    assert "".join(host.name[-1] for host in chosen if host is not None) == "32323321"


def test_remembered_hash_choices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancing, "_FAVOURITES_KEPT", 16)
    group = group_of("a", "b", algorithm=IP_HASH)
    for number in range(1_000):
        group.choose(number.to_bytes(4, "big"), 0.0)
        assert len(group._favourites) <= 16


def test_three_connect_failures_in_a_row_eject() -> None:
    group = group_of("a", "b")
    a = group.hosts[0]
    assert group.report_connect_failure(a, 0.0) is None
    assert group.report_connect_failure(a, 0.0) is None
    assert group.report_success(a, 0.0) is None
    assert group.report_connect_failure(a, 0.0) is None
    assert group.report_connect_failure(a, 0.0) is None
    assert group.report_connect_failure(a, 0.0) == "host_ejected"
    assert names_chosen(group, 4, 4.9) == "bbbb"


def test_news_from_before_an_ejection_does_not_lengthen_it() -> None:
    group = group_of("a", "b")
    a = group.hosts[0]
    eject(group, a, 0.0)
    for _ in range(10):
        assert group.report_connect_failure(a, 1.0) is None
        assert group.report_response(a, 503, 1.0) is None
        assert group.report_response(a, 200, 1.0) is None
    assert a.is_ejected(4.9)
    assert not a.is_ejected(5.0)


def test_a_host_on_trial_gets_a_request_a_second_until_it_answers() -> None:
    group = group_of("a", "b")
    a = group.hosts[0]
    eject(group, a, 0.0)
    assert Counter(names_chosen(group, 10, 5.0)) == {"a": 1, "b": 9}
    assert Counter(names_chosen(group, 10, 5.9)) == {"b": 10}
    assert Counter(names_chosen(group, 10, 6.0)) == {"a": 1, "b": 9}
    assert group.report_success(a, 6.1) == "host_returned"
    assert Counter(names_chosen(group, 10, 6.1)) == {"a": 5, "b": 5}


def test_ejections_grow_and_are_forgiven() -> None:
    group = group_of("a", "b")
    a = group.hosts[0]
    now = 0.0
    eject(group, a, now)
    durations = [a.ejected_until - now]
    for _ in range(8):
        now = a.ejected_until
        assert group.report_connect_failure(a, now) == "host_ejected", "one failure is enough on trial"
        durations.append(a.ejected_until - now)
    assert durations == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    now = a.ejected_until
    assert group.report_success(a, now) == "host_returned"
    now += 125.0
    eject(group, a, now)
    assert a.ejected_until - now == 160
    now = a.ejected_until
    assert group.report_success(a, now) == "host_returned"
    now += 10_000.0
    eject(group, a, now)
    assert a.ejected_until - now == 5


def test_a_burst_of_server_errors_ejects() -> None:
    group = group_of("a", "b")
    a = group.hosts[0]
    changes = [group.report_response(a, status, 0.0) for status in (500, 502, 503, 504, 503)]
    assert changes == [None, None, None, None, "host_ejected"]
    assert names_chosen(group, 2, 1.0) == "bb"
    # A connection proves nothing about its responses.
    assert group.report_success(a, 6.0) is None
    assert group.report_response(a, 502, 6.0) == "host_ejected"
    assert a.ejected_until == 16.0
    assert group.report_response(a, 404, 16.0) == "host_returned"


def test_what_is_no_burst_does_not_eject() -> None:
    group = group_of("a", "b")
    a = group.hosts[0]
    for _ in range(20):
        for _ in range(4):
            assert group.report_response(a, 503, 0.0) is None
        assert group.report_response(a, 200, 0.0) is None
    for number in range(20):
        assert group.report_response(a, 503, 10.0 * number) is None
    for _ in range(20):
        assert group.report_response(a, 501, 500.0) is None


def test_server_errors_never_eject_a_lone_host() -> None:
    group = group_of("a")
    for _ in range(50):
        assert group.report_response(group.hosts[0], 503, 0.0) is None
    assert names_chosen(group, 1) == "a"


def test_server_errors_eject_at_most_half_of_a_group() -> None:
    """A request that makes every host fail must not empty the group."""
    group = group_of("a", "b", "c", "d")
    for _ in range(20):
        for host in group.hosts:
            group.report_response(host, 500, 0.0)
    assert [host.is_ejected(1.0) for host in group.hosts] == [True, True, False, False]


def test_server_errors_do_not_eject_the_last_host_that_can_serve() -> None:
    group = group_of("a", "b", "c")
    a, b, c = group.hosts
    eject(group, a, 0.0)
    b.note_probes(passed=False)
    for _ in range(10):
        assert group.report_response(c, 503, 0.0) is None
    assert names_chosen(group, 2) == "cc"


def test_an_unreachable_group_has_nobody_and_says_when_to_come_back() -> None:
    for group in (group_of("a"), group_of("a", "b"), group_of("a", "b", algorithm=IP_HASH)):
        for host in group.hosts:
            eject(group, host, 10.0)
        assert group.choose(b"", 10.5) is None
        assert group.retry_after_s(10.5) == 1


def test_an_outage_does_not_outlast_its_cause() -> None:
    group = group_of("a", "b")
    a, b = group.hosts
    eject(group, a, 0.0)
    for _ in range(6):
        group.report_connect_failure(a, a.ejected_until)
    now = a.ejected_until - 200.0
    eject(group, b, now)
    # Nobody else can serve, so even a long ejection ends at once, and so does b's after a second.
    assert names_chosen(group, 2, now + 0.5) == "aa"
    assert group.report_connect_failure(a, now + 0.6) == "host_ejected"
    assert names_chosen(group, 1, now + 0.9) == "-"
    assert names_chosen(group, 1, now + 1.0) == "b"
    assert group.report_success(b, now + 1.0) == "host_returned"
    assert names_chosen(group, 3, now + 1.1) == "bbb"


def test_a_host_that_answers_badly_is_better_than_none() -> None:
    group = group_of("a", "b")
    a, b = group.hosts
    for _ in range(5):
        group.report_response(a, 503, 0.0)
    assert a.is_ejected(0.0)
    eject(group, b, 0.1)
    assert names_chosen(group, 2, 0.2) == "aa"


def test_an_excluded_host_does_not_bring_back_the_ejected() -> None:
    group = group_of("a", "b")
    a, b = group.hosts
    eject(group, a, 0.0)
    assert group.choose(b"", 2.0, exclude=(b,)) is None
    assert a.is_ejected(2.0)


def test_a_group_that_fails_its_probes_has_nobody() -> None:
    check = HealthCheck("/", interval_s=7.0, healthy_threshold=2)
    group = group_of("a", "b", check=check)
    for host in group.hosts:
        host.note_probes(passed=False)
    assert group.choose(b"", 1_000.0) is None
    assert group.retry_after_s(1_000.0) == 14


def test_adopting_keeps_hosts_with_what_is_known_of_them() -> None:
    old = group_of("a", "b", "c")
    a, b, c = old.hosts
    eject(old, a, 0.0)
    b.in_flight = 3
    new = group_of("b", "d", "a", weights=(2, 1, 1))
    new.adopt(old)
    assert [host.name for host in new.hosts] == ["b", "d", "a"]
    assert new.hosts[0] is b
    assert new.hosts[2] is a
    assert b.weight == 2
    assert names_chosen(new, 6, 1.0).count("a") == 0
    b.in_flight -= 1
    assert new.hosts[0].in_flight == 2
    assert c not in new.hosts


def test_adopting_drops_the_verdict_of_checks_that_are_gone() -> None:
    old = group_of("a", check=HealthCheck("/"))
    old.hosts[0].note_probes(passed=False)
    new = group_of("a")
    new.adopt(old)
    assert names_chosen(new, 1) == "a"


def test_a_host_whose_weight_is_taken_away_still_serves_the_older_configuration() -> None:
    old = group_of("a", "b", algorithm=LEAST_CONNECTIONS)
    new = group_of("a", "b", weights=(0, 1), algorithm=LEAST_CONNECTIONS)
    new.adopt(old)
    assert names_chosen(new, 2) == "bb"
    assert Counter(names_chosen(old, 4)) == {"a": 2, "b": 2}


def test_a_host_shows_itself() -> None:
    assert repr(group_of("a").hosts[0]) == "<Host a weight 1, 0 in flight>"
