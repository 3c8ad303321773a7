"""Connection counts over any history of connections and configurations, against lists of who is there."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from smartproxy.core.configuration import HandlerAction, HandlerKind, Limits, Route, RouteMatch
from smartproxy.core.security.connection_limits import Admission, ConnectionLimits, ConnectionRefusal
from smartproxy.core.security.ip_rules import ip_number

UNIX = -1
NUMBERS = {
    "192.0.2.1": "192.0.2.1",
    "::ffff:192.0.2.1": "192.0.2.1",
    "192.0.2.2": "192.0.2.2",
    "2001:db8::1": "2001:db8::/64",
    "2001:db8::ffff:0:1": "2001:db8::/64",
    "2001:db8:0:1::1": "2001:db8:0:1::/64",
    "::1": "::/64",
}
"""Addresses, and who each is counted as."""
ROUTE_NAMES = ("a", "b", "c")
RATE_RESOLUTION_S = 2.0

clients = st.sampled_from([*NUMBERS, "unix"])
maxima = st.none() | st.integers(1, 4)


def number_of(client: str) -> int:
    return UNIX if client == "unix" else ip_number(client)


def route(name: str, most: int | None) -> Route:
    return Route(
        position=0,
        name=name,
        id="",
        priority=0,
        match=RouteMatch(ports=((443, 443),)),
        action=HandlerAction(HandlerKind.ECHO),
        max_connections=most,
    )


@dataclass(eq=False)
class Connection:
    client: str
    admission: Admission
    routes: set[str] = field(default_factory=set)


class ConnectionCounts(RuleBasedStateMachine):
    """Admits, enters, releases and configures in any order."""

    connections = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.limits = ConnectionLimits()
        self.max_per_address: int | None = None
        self.rate: int | None = None
        self.now = 0.0
        self.alive: list[Connection] = []
        #: Admissions per address since the limit per minute was last changed.
        self.admitted: list[tuple[str, float]] = []

    def alive_of(self, client: str) -> int:
        return sum(NUMBERS.get(other.client) == NUMBERS[client] for other in self.alive)

    def alive_on(self, name: str) -> int:
        return sum(name in connection.routes for connection in self.alive)

    def admitted_since(self, client: str, moment: float) -> int:
        return sum(NUMBERS[other] == NUMBERS[client] and at > moment for other, at in self.admitted)

    @initialize(most=maxima, rate=maxima)
    def begin(self, most: int | None, rate: int | None) -> None:
        self.configure(most, rate)

    @rule(most=maxima, rate=maxima | st.sampled_from([40]))
    def configure(self, most: int | None, rate: int | None) -> None:
        if rate != self.rate:
            self.admitted.clear()
        self.max_per_address, self.rate = most, rate
        self.limits.configure(Limits(max_connections_per_ip=most, connection_rate_limit_per_minute=rate))

    @rule(seconds=st.sampled_from([0.0, 0.5, 10.0, 60.0, 90.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(client=clients, target=connections)
    def admit(self, client: str) -> Connection | MultipleResults[Connection]:
        outcome = self.limits.admit(number_of(client), self.now)
        if isinstance(outcome, ConnectionRefusal):
            self.check_refusal(client, outcome)
            return multiple()
        if client != "unix":
            assert self.max_per_address is None or self.alive_of(client) < self.max_per_address
            self.admitted.append((client, self.now))
            assert self.rate is None or self.admitted_since(client, self.now - 60.0) <= self.rate
        connection = Connection(client, outcome)
        self.alive.append(connection)
        return connection

    def check_refusal(self, client: str, refusal: ConnectionRefusal) -> None:
        assert client != "unix"
        if refusal.reason == "too many connections from this address":
            assert self.max_per_address is not None
            assert self.alive_of(client) >= self.max_per_address
            assert refusal.retry_after_s == 0.0
        else:
            assert refusal.reason == "too many new connections from this address"
            assert self.rate is not None
            assert self.admitted_since(client, self.now - 60.0 - RATE_RESOLUTION_S) >= self.rate
            assert 0.0 < refusal.retry_after_s <= 60.0 + RATE_RESOLUTION_S

    @rule(connection=connections, name=st.sampled_from(ROUTE_NAMES), most=maxima)
    def enter_where_there_is_room(self, connection: Connection, name: str, most: int | None) -> None:
        """The maximum may be another each time, as after any number of configurations."""
        if connection not in self.alive:
            return
        asked = route(name, most)
        there = self.alive_on(name)
        expected = most is None or name in connection.routes or there < most
        assert connection.admission.has_room(asked) == expected
        if expected:
            connection.admission.enter(asked)
            connection.routes.add(name)

    @rule(connection=connections, name=st.sampled_from(ROUTE_NAMES))
    def enter_regardless(self, connection: Connection, name: str) -> None:
        connection.admission.enter(route(name, 1))
        if connection in self.alive:
            connection.routes.add(name)

    @rule(connection=connections)
    def release(self, connection: Connection) -> None:
        connection.admission.release()
        if connection in self.alive:
            self.alive.remove(connection)

    @invariant()
    def counts_are_of_those_who_are_there(self) -> None:
        assert self.limits.total == len(self.alive)
        assert self.limits.connections_of(UNIX) == 0
        for client in NUMBERS:
            assert self.limits.connections_of(ip_number(client)) == self.alive_of(client)
        for name in ROUTE_NAMES:
            assert self.limits.connections_on(name) == self.alive_on(name)

    def teardown(self) -> None:
        for connection in self.alive:
            connection.admission.release()
        self.alive.clear()
        self.counts_are_of_those_who_are_there()
        assert not self.limits._of_address
        assert not self.limits._on_route


TestConnectionCounts = ConnectionCounts.TestCase
