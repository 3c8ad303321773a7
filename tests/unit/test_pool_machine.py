"""A pool under any order of arrivals, dials, streams and ends: nobody is forgotten, nothing is left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pool_by_hand import (
    ALERT,
    ALT_SVC,
    LOST,
    REFUSED,
    TIMED_OUT,
    FakeAcquirer,
    FakeDial,
    FakeMultiplexed,
    PoolByHand,
)

from smartproxy.core.configuration import BackendProtocol, Limits, Timeouts
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.http1_client import Http1Client
from smartproxy.core.upstream.suppression import Availability
from smartproxy.core.upstream.ticket import Step, Ticket

OURS = Failure(FailureSource.PROXY, FailureCode.CONNECTION_LIMIT_REACHED, "no sockets")
CONNECTIONS = 3

index = st.integers(0, 1 << 16)


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.acquirers: list[FakeAcquirer] = []

    @initialize(
        mode=st.sampled_from([*[BackendProtocol.AUTO] * 4, *BackendProtocol]),
        tls=st.sampled_from([True, True, True, False]),
        stream_limit=st.integers(0, 3),
        settings_come_later=st.booleans(),
        connections=st.integers(1, CONNECTIONS),
        pending=st.integers(0, 6),
        learns=st.sampled_from(["", "http2", "http2 http3", "http3"]),
    )
    def begin(
        self,
        mode: BackendProtocol,
        tls: bool,
        stream_limit: int,
        settings_come_later: bool,
        connections: int,
        pending: int,
        learns: str,
    ) -> None:
        self.hand = PoolByHand(
            self.patch,
            mode,
            tls=tls or mode is BackendProtocol.HTTP3,
            limits=Limits(pool_connections_per_host=connections, pending_per_host=pending),
            timeouts=Timeouts(lifetime_s=100.0, pool_idle_s=20.0),
            stream_limit=stream_limit,
            settings_come_later=settings_come_later,
        )
        if "http2" in learns:
            self.acquirers.append(self.hand.ask())
            self.hand.dial().connect("h2")
        if "http3" in learns:
            self.hand.pool.chooser.alt_svc_seen(ALT_SVC, self.hand.context.now)

    # What can be chosen among.

    @property
    def alive(self) -> list[FakeMultiplexed]:
        return [connection for connection in self.hand.multiplexed if not connection.is_gone]

    @property
    def served(self) -> list[FakeAcquirer]:
        return [a for a in self.acquirers if a.stream is not None and not self._is_over(a.stream)]

    @staticmethod
    def _is_over(stream: Any) -> bool:
        if isinstance(stream, Http1Client):
            return stream.closed or stream.receiver is None
        return bool(stream.is_over or stream.connection.is_gone)

    # Those who ask.

    @rule(
        needs_new=st.booleans(),
        for_websocket=st.booleans(),
        kind=st.sampled_from(["", "", "", "exclusive", "preamble"]),
        over_limit=st.sampled_from([False, False, False, True]),
    )
    def ask(self, needs_new: bool, for_websocket: bool, kind: str, over_limit: bool) -> None:
        options: dict[str, Any] = {"for_websocket": for_websocket}
        if needs_new:
            options["needs_new"] = True
        if kind == "exclusive":
            options |= {"exclusive": True, "over_limit": over_limit}
        elif kind == "preamble" and self.hand.pool.mode is not BackendProtocol.HTTP3:
            options["preamble"] = b"PROXY UNKNOWN\r\n"
        self.acquirers.append(self.hand.ask(**options))

    @precondition(lambda self: any(a.is_waiting for a in self.acquirers))
    @rule(which=index)
    def cancel(self, which: int) -> None:
        waiting = [acquirer for acquirer in self.acquirers if acquirer.is_waiting]
        waiting[which % len(waiting)].cancel()

    @precondition(lambda self: self.served)
    @rule(which=index)
    def finish(self, which: int) -> None:
        served = self.served
        served[which % len(served)].finish()

    # Dials.

    @precondition(lambda self: self.hand.dials)
    @rule(which=index, alpn=st.sampled_from(["h2", "h2", "http/1.1", None, "spdy/3"]))
    def connect(self, which: int, alpn: str | None) -> None:
        self._dial(which).connect(alpn)

    @precondition(lambda self: self.hand.dials)
    @rule(which=index, failure=st.sampled_from([REFUSED, TIMED_OUT, ALERT, OURS]))
    def fail(self, which: int, failure: Failure) -> None:
        self._dial(which).fail(failure)

    def _dial(self, which: int) -> FakeDial:
        return self.hand.dials[which % len(self.hand.dials)]

    # Multiplexed connections.

    @precondition(lambda self: self.alive)
    @rule(which=index, limit=st.integers(0, 3), extended=st.booleans())
    def announce(self, which: int, limit: int, extended: bool) -> None:
        self._connection(which).announce(limit=limit, extended=extended)

    @precondition(lambda self: self.alive)
    @rule(which=index)
    def be_late_with_settings(self, which: int) -> None:
        self._connection(which).be_late_with_settings()

    @precondition(lambda self: self.alive)
    @rule(which=index)
    def go_away(self, which: int) -> None:
        self._connection(which).go_away()

    @precondition(lambda self: self.alive)
    @rule(which=index, failure=st.sampled_from([None, LOST]))
    def lose(self, which: int, failure: Failure | None) -> None:
        self._connection(which).lose(failure)

    @precondition(lambda self: self.alive)
    @rule(
        which=index,
        status=st.sampled_from([200, 200, 421]),
        alt_svc=st.sampled_from([None, ALT_SVC, ALT_SVC, b"clear", b"?"]),
    )
    def respond(self, which: int, status: int, alt_svc: bytes | None) -> None:
        self._connection(which).respond(status, alt_svc)

    @precondition(lambda self: self.alive)
    @rule(which=index)
    def require_earlier_version(self, which: int) -> None:
        self._connection(which).require_earlier_version()

    def _connection(self, which: int) -> FakeMultiplexed:
        return self.alive[which % len(self.alive)]

    # The rest.

    @rule(seconds=st.sampled_from([0.1, 0.2, 0.3, 1.0, 5.0, 50.0]))
    def advance(self, seconds: float) -> None:
        self.hand.advance(seconds)

    @rule(sure=st.integers(0, 19))
    def drain(self, sure: int) -> None:
        if not sure:
            self.hand.pools.drain()

    # What always holds.

    @invariant()
    def every_connection_and_dial_is_counted(self) -> None:
        if not hasattr(self, "hand"):
            return
        hand = self.hand
        http1 = {
            a.stream for a in self.acquirers if isinstance(a.stream, Http1Client) and not a.stream.closed
        }
        assert hand.pool.open_count == len(hand.dials) + len(self.alive) + len(http1)
        assert hand.pools.open_connections() == hand.pool.open_count

    @invariant()
    def nobody_waits_while_there_is_something_for_him(self) -> None:
        if not hasattr(self, "hand"):
            return
        hand = self.hand
        waiting: list[Ticket] = list(hand.pool.waits.waiting)
        limits = hand.pools.limits
        # Beyond those who may queue, each connection or racing dial may have one who began it.
        assert len(waiting) <= limits.pending_per_host + limits.pool_connections_per_host + 1
        assert not waiting or hand.pool.open_count
        for ticket in waiting:
            assert ticket.acquirer is not None
            if ticket.for_websocket or ticket.needs_new or ticket.is_exclusive:
                continue
            versions = (30,) if ticket.step is Step.HTTP3 else (20, 30)
            assert not [c for c in self._with_room() if c.version in versions]
            if ticket.step is Step.TCP:
                assert not hand.pool.idle
            # What he waits for is a dial, room for one, or what a new connection has to say.
            assert (
                hand.dials
                or hand.pool.open_count >= limits.pool_connections_per_host
                or any(c.holds_back_streams or not c.open_streams for c in self.alive)
            )

    def _with_room(self) -> list[FakeMultiplexed]:
        shared = self.hand.pool.multiplexed
        return [
            connection
            for connection in self.alive
            if connection.free_streams
            and (pooled := shared.get(connection)) is not None
            and not pooled.is_leaving
            and not pooled.is_exclusive
        ]

    @invariant()
    def a_trial_is_only_held_by_a_dial(self) -> None:
        if not hasattr(self, "hand"):
            return
        hand = self.hand
        snapshot = hand.pool.chooser.snapshot(hand.context.now)
        if not any(dial.is_quic for dial in hand.dials):
            assert not [a for a in snapshot.alternatives if a.availability is Availability.ON_TRIAL]
        if not any(len(dial.alpn) > 1 for dial in hand.dials):
            assert snapshot.http2 is not Availability.ON_TRIAL

    def teardown(self) -> None:
        try:
            if hasattr(self, "hand"):
                self._end()
        finally:
            self.patch.undo()

    def _end(self) -> None:
        for _ in range(1000):
            if self.hand.dials:
                self.hand.dials[0].fail(REFUSED)
            elif self.alive:
                self.alive[0].lose()
            elif self.served:
                self.served[0].finish()
            else:
                break
        assert not [acquirer for acquirer in self.acquirers if acquirer.is_waiting]
        self.hand.settle()


TestPoolMachine = PoolMachine.TestCase
