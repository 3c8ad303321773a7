"""Choosing hosts: fairness, stability and ejection, for any group and any history."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smartproxy.core.configuration import Balancing, BalancingAlgorithm, HealthCheck, Target
from smartproxy.core.upstream.balancing import HostGroup
from smartproxy.core.upstream.health import LAST_RESORT_S, LONGEST_EJECTION_S, ActiveHealth, Host

CHECK = HealthCheck("/health", interval_s=10.0, timeout_s=2.0, unhealthy_threshold=3, healthy_threshold=2)

host_weights = st.lists(st.integers(1, 9), min_size=1, max_size=7)
algorithms = st.sampled_from(BalancingAlgorithm)


def group_of(
    weights: list[int] | dict[str, int],
    algorithm: BalancingAlgorithm = BalancingAlgorithm.ROUND_ROBIN,
    check: HealthCheck | None = None,
) -> HostGroup:
    named = weights if isinstance(weights, dict) else {f"10.0.0.{i}": w for i, w in enumerate(weights)}
    return HostGroup(
        Target(
            hosts=tuple(named),
            weights=tuple(named.values()),
            balancing=Balancing(algorithm, check),
        )
    )


def chosen(group: HostGroup, client_key: bytes, now: float = 0.0) -> Host:
    host = group.choose(client_key, now)
    assert host is not None
    return host


@given(host_weights, st.integers(1, 3))
def test_round_robin_gives_each_host_its_weight_in_every_cycle(weights: list[int], cycles: int) -> None:
    group = group_of(weights)
    for _ in range(cycles):
        turns = Counter(chosen(group, b"") for _ in range(sum(weights)))
        assert turns == {host: host.weight for host in group.hosts}


@given(host_weights)
def test_round_robin_never_leaves_its_weights_by_more_than_a_turn(weights: list[int]) -> None:
    group = group_of(weights)
    turns: Counter[Host] = Counter()
    for number in range(1, sum(weights) + 1):
        turns[chosen(group, b"")] += 1
        for host in group.hosts:
            # Smooth: nobody gets their share in one burst.
            assert abs(turns[host] - number * host.weight / sum(weights)) < len(weights)


@given(host_weights, st.lists(st.integers(0, 6), max_size=60))
def test_least_connections_chooses_a_least_loaded_host(weights: list[int], ends: list[int]) -> None:
    group = group_of(weights, BalancingAlgorithm.LEAST_CONNECTIONS)
    for end in ends:
        host = chosen(group, b"")
        load = host.in_flight / host.weight
        assert all(load <= other.in_flight / other.weight for other in group.hosts)
        host.in_flight += 1
        finished = group.hosts[end % len(group.hosts)]
        finished.in_flight = max(0, finished.in_flight - 1)


@given(host_weights)
def test_least_connections_fills_hosts_by_weight(weights: list[int]) -> None:
    group = group_of(weights, BalancingAlgorithm.LEAST_CONNECTIONS)
    for _ in range(sum(weights) * 2):
        chosen(group, b"").in_flight += 1
    assert [host.in_flight for host in group.hosts] == [weight * 2 for weight in weights]


@given(host_weights, st.integers(1, 9), st.lists(st.binary(max_size=16), min_size=1, max_size=50))
def test_hashing_gives_a_new_host_only_its_share(
    weights: list[int], new_weight: int, client_keys: list[bytes]
) -> None:
    named = {f"10.0.0.{i}": w for i, w in enumerate(weights)}
    before = group_of(named, BalancingAlgorithm.IP_HASH)
    after = group_of({"new": new_weight, **named}, BalancingAlgorithm.IP_HASH)
    for client_key in client_keys:
        old, new = chosen(before, client_key).name, chosen(after, client_key).name
        assert new in (old, "new")


@given(host_weights, st.lists(st.binary(max_size=16), min_size=1, max_size=30))
def test_hashing_depends_on_neither_order_nor_history(weights: list[int], client_keys: list[bytes]) -> None:
    named = {f"10.0.0.{i}": w for i, w in enumerate(weights)}
    group = group_of(named, BalancingAlgorithm.IP_HASH)
    reversed_group = group_of(dict(reversed(named.items())), BalancingAlgorithm.IP_HASH)
    first = [chosen(group, client_key).name for client_key in client_keys]
    again = [chosen(reversed_group, client_key).name for client_key in reversed(client_keys)]
    assert first == again[::-1]


@given(host_weights, st.lists(st.binary(max_size=16), min_size=1, max_size=30))
def test_hashing_moves_only_an_ejected_hosts_clients(weights: list[int], client_keys: list[bytes]) -> None:
    group = group_of([1, *weights], BalancingAlgorithm.IP_HASH)
    before = [chosen(group, client_key) for client_key in client_keys]
    ejected = group.hosts[0]
    for _ in range(3):
        group.report_connect_failure(ejected, 0.0)
    for client_key, host in zip(client_keys, before, strict=True):
        now_chosen = chosen(group, client_key, 1.0)
        assert now_chosen is not ejected
        assert now_chosen is host or host is ejected
    group.hosts[0].end_ejection(2.0)
    group.report_response(ejected, 200, 2.0)
    assert [chosen(group, client_key, 2.0) for client_key in client_keys] == before


@given(algorithms, host_weights, st.data())
def test_an_excluded_host_is_never_chosen(
    algorithm: BalancingAlgorithm, weights: list[int], data: st.DataObject
) -> None:
    group = group_of(weights, algorithm)
    exclude = data.draw(st.lists(st.sampled_from(group.hosts), unique=True))
    host = group.choose(b"client", 0.0, exclude)
    assert host not in exclude
    assert (host is None) == (len(exclude) == len(group.hosts))


class GroupLife(RuleBasedStateMachine):
    """A group through successes, failures, probes and new configurations, by a clock that only runs on."""

    group: HostGroup
    active: ActiveHealth

    @initialize(
        weights=st.lists(st.integers(0, 3), min_size=1, max_size=5),
        algorithm=algorithms,
        checked=st.booleans(),
    )
    def start(self, weights: list[int], algorithm: BalancingAlgorithm, checked: bool) -> None:
        self.now = 100.0
        self.algorithm = algorithm
        self.check = CHECK if checked else None
        self.group = group_of(weights, algorithm, self.check)
        self.active = ActiveHealth(CHECK, self.group.hosts if checked else [])
        self.in_flight: list[Host] = []

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 6.0, 70.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(client_key=st.binary(max_size=3), exclude_first=st.booleans())
    def choose(self, client_key: bytes, exclude_first: bool) -> None:
        group, now = self.group, self.now
        exclude = group.hosts[:1] if exclude_first else []
        serving = [host for host in group.hosts if host.weight and host.passes_probes]
        usable = [host for host in serving if not host.is_ejected(now)]
        host = group.choose(client_key, now, exclude)
        if host is None:
            assert not [other for other in usable if other not in exclude]
            if not usable:
                # Only what was found unreachable within the last moment keeps everybody out.
                assert all(
                    other in exclude
                    or (not other.ejected_for_errors and other.ejected_at + LAST_RESORT_S > now)
                    for other in serving
                )
            assert 1 <= group.retry_after_s(now) <= LONGEST_EJECTION_S
            return
        assert host in serving
        assert host not in exclude
        assert not host.is_ejected(now)
        assert host in usable or not usable
        host.in_flight += 1
        self.in_flight.append(host)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), outcome=st.sampled_from(["unreachable", "connected", 200, 404, 500, 503, 503]))
    def finish(self, data: st.DataObject, outcome: str | int) -> None:
        host = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        host.in_flight -= 1
        was_ejected, was_on_trial = host.is_ejected(self.now), host.on_trial
        if outcome == "unreachable":
            change = self.group.report_connect_failure(host, self.now)
        elif outcome == "connected":
            change = self.group.report_success(host, self.now)
        else:
            assert isinstance(outcome, int)
            change = self.group.report_response(host, outcome, self.now)
        assert (change == "host_ejected") == (host.is_ejected(self.now) and not was_ejected)
        assert (change == "host_returned") == (was_on_trial and not host.on_trial)

    @rule(ok=st.booleans())
    def probe(self, ok: bool) -> None:
        for host in self.active.due(self.now):
            self.active.probe_started(host, self.now)
            before = host.passes_probes
            change = self.active.probe_finished(host, ok, self.now)
            assert (change is not None) == (before != host.passes_probes)
        assert self.active.next_due() > self.now

    @rule(weights=st.lists(st.integers(0, 3), min_size=1, max_size=5))
    def reconfigure(self, weights: list[int]) -> None:
        old = self.group
        self.group = group_of(weights, self.algorithm, self.check)
        self.group.adopt(old)
        self.active = ActiveHealth(CHECK, self.group.hosts if self.check else [])

    @invariant()
    def nothing_is_lost_count_of(self) -> None:
        counts = Counter(self.in_flight)
        for host in {*self.group.hosts, *self.in_flight}:
            assert host.in_flight == counts[host]
            assert host.ejected_until <= self.now + LONGEST_EJECTION_S

    @invariant()
    def server_errors_leave_somebody_to_serve(self) -> None:
        serving = [host for host in self.group.hosts if host.weight and host.passes_probes]
        if serving and all(host.is_ejected(self.now) and host.ejected_for_errors for host in serving):
            # Only probes or a new configuration can have taken the others away; then nobody is kept out.
            assert self.group.choose(b"", self.now) is not None


TestGroupLife = GroupLife.TestCase
