"""Requests that wait for a connection: which of them shares a dial, which has its own, who is next."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from smartproxy.core.configuration import BackendProtocol
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.client_stream import ClientStream
from smartproxy.core.http.http1_client import Http1Client
from smartproxy.core.timers import Timer
from smartproxy.core.upstream.attempts import HOST_ANSWERED, Attempt
from smartproxy.core.upstream.connecting import Connecting, NewConnection
from smartproxy.core.upstream.multiplexed_connections import HTTP2, HTTP3, PooledConnection
from smartproxy.core.upstream.ticket import SharedDial, Step, Ticket

if TYPE_CHECKING:
    from smartproxy.core.upstream.pool import Pool

SETTINGS_WAIT_S = 2.0
"""How long a WebSocket waits to hear if a new connection takes it."""
OWN_SIDE_PAUSE_S = 5.0
"""How long no QUIC is dialled after one failed for a reason of our own."""


class Waits:
    """Those who wait for a connection of one pool, in the order they came."""

    __slots__ = (
        "_again",
        "_dialling",
        "_is_advancing",
        "_no_quic_until",
        "_pool",
        "_quic",
        "_quic_timer",
        "_shared",
        "waiting",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        #: Those without a dial of their own.
        self.waiting: dict[Ticket, None] = {}
        self._dialling: dict[Ticket, None] = {}
        #: At most one QUIC dial, and one by TCP that may come to HTTP/2, are shared at a time.
        self._quic: SharedDial | None = None
        self._quic_timer = Timer(self._head_start_over)
        self._shared: SharedDial | None = None
        self._no_quic_until = -inf
        self._is_advancing = False
        self._again = False

    # Beginning.

    def begin(self, ticket: Ticket) -> None:
        """Serve `ticket`, start what it needs, or queue it; it may be over when this returns."""
        if ticket.is_exclusive:
            if self._pool.mode is BackendProtocol.HTTP3:
                ticket.step = Step.HTTP3
        elif self._pool.may_multiplex and self.http3_wanted(for_websocket=ticket.for_websocket):
            ticket.step = Step.HTTP3
        self._seek_first(ticket)
        if ticket.acquirer is None or ticket.dial is not None or ticket.reserved is not None:
            return
        pool = self._pool
        if len(self.waiting) <= pool.pools.limits.pending_per_host or any(
            dial is not None and dial.owner is ticket for dial in (self._shared, self._quic)
        ):
            return
        detail = f"{pool.endpoint}: {pool.open_count} connections, {len(self.waiting) - 1} waiting"
        self._fail(ticket, Failure(FailureSource.PROXY, FailureCode.CONNECTION_LIMIT_REACHED, detail))

    def http3_wanted(self, *, for_websocket: bool) -> bool:
        """Whether a request should go by an HTTP/3 connection that is not there, or has no room."""
        pool = self._pool
        if pool.mode is BackendProtocol.HTTP3:
            return True
        if not pool.learns_alternatives:
            return False
        quic = self._quic
        if quic is not None:
            return not quic.head_start_is_over
        multiplexed = pool.multiplexed
        if for_websocket and len(multiplexed) and multiplexed.awaits_settings(HTTP3):
            return True
        now = pool.pools.context.now
        wanted = pool.chooser.http3_available(now)
        pool.tell_protocol_events()
        return (
            wanted
            and now >= self._no_quic_until
            and pool.open_count <= pool.pools.limits.pool_connections_per_host
            and not multiplexed.has_unused(HTTP3)
            and not (for_websocket and multiplexed.refuses_websockets(HTTP3))
        )

    @property
    def racing_dials(self) -> int:
        """QUIC dials that TCP is ahead of, or will be."""
        return 1 if self._quic is not None and self._pool.mode is BackendProtocol.AUTO else 0

    # Going on.

    def advance(self) -> None:
        """Something has changed: let everybody who waits see what there is for them."""
        if not self.waiting:
            return
        if self._is_advancing:
            self._again = True
            return
        self._is_advancing = True
        try:
            self._again = True
            while self._again:
                self._again = False
                self._advance_once()
        finally:
            self._is_advancing = False

    def _seek_first(self, ticket: Ticket) -> None:
        """See to `ticket` before anybody else, also before those whom making room for it would wake."""
        was_advancing, self._is_advancing = self._is_advancing, True
        try:
            self._seek(ticket)
        finally:
            self._is_advancing = was_advancing
        if self._again and not was_advancing:
            self._again = False
            self.advance()

    def _advance_once(self) -> None:
        stuck: set[tuple[Step, bool, bool]] = set()
        for ticket in list(self.waiting):
            if not self._pool.has_anything:
                return
            if ticket not in self.waiting:
                continue
            kind = (ticket.step, ticket.for_websocket, ticket.only_http1)
            is_ordinary = not ticket.needs_new and not ticket.is_exclusive
            if is_ordinary and kind in stuck:
                continue
            self._seek(ticket)
            if is_ordinary and ticket in self.waiting and ticket.step is kind[0]:
                stuck.add(kind)

    def _seek(self, ticket: Ticket) -> None:
        """Serve `ticket`, or start what it needs, or let it wait."""
        if not ticket.is_exclusive:
            stream = self._find(ticket)
            if stream is not None:
                self._serve(ticket, stream)
                return
        self.waiting[ticket] = None
        if ticket.step is Step.HTTP3:
            self._seek_http3(ticket)
        if ticket.step is Step.TCP and ticket in self.waiting:
            self._seek_tcp(ticket)

    def _find(self, ticket: Ticket) -> ClientStream | None:
        pool = self._pool
        if not pool.may_multiplex:
            return None if ticket.needs_new else pool.take_idle()
        since = ticket.opened_since
        stream = pool.multiplexed.stream(HTTP3, for_websocket=ticket.for_websocket, opened_since=since)
        if stream is not None or ticket.step is Step.HTTP3:
            return stream
        stream = pool.multiplexed.stream(HTTP2, for_websocket=ticket.for_websocket, opened_since=since)
        if stream is not None or ticket.needs_new:
            return stream
        return pool.take_idle()

    def _seek_http3(self, ticket: Ticket) -> None:
        pool = self._pool
        is_forced = pool.mode is BackendProtocol.HTTP3
        if self._waits_for_settings(ticket, HTTP3):
            return
        if is_forced and self._is_refused(ticket, HTTP3):
            return
        if ticket.for_websocket and not is_forced and pool.multiplexed.refuses_websockets(HTTP3):
            ticket.step = Step.TCP
            return
        if not ticket.is_exclusive:
            if self._quic is not None:
                return
            if pool.multiplexed.has_unused(HTTP3, ticket.opened_since):
                if not is_forced:
                    ticket.step = Step.TCP
                return
        if is_forced and not pool.has_room(over_limit=ticket.over_limit):
            return
        attempt = pool.chooser.http3_attempt(pool.pools.context.now)
        pool.tell_protocol_events()
        if attempt is None:
            ticket.step = Step.TCP
        elif ticket.is_exclusive:
            self._dial_alone(ticket, attempt)
        else:
            self._dial_quic(ticket, attempt)

    def _seek_tcp(self, ticket: Ticket) -> None:
        pool = self._pool
        is_forced = pool.mode is BackendProtocol.HTTP2
        if is_forced and (self._waits_for_settings(ticket, HTTP2) or self._is_refused(ticket, HTTP2)):
            return
        shares = (
            not ticket.is_exclusive
            and pool.may_multiplex
            and (is_forced or (pool.shares_dials and not ticket.for_websocket and not ticket.only_http1))
        )
        if shares and (
            self._shared is not None
            or pool.multiplexed.has_unused(HTTP2, ticket.opened_since)
            or pool.multiplexed.hold_back_streams(HTTP2, ticket.opened_since)
        ):
            return
        if not pool.has_room(over_limit=ticket.over_limit):
            return
        if not ticket.attempts:
            ticket.attempts = pool.chooser.tcp_attempts(
                pool.pools.context.now,
                for_websocket=ticket.for_websocket or ticket.only_http1 or bool(ticket.preamble),
            )
            pool.tell_protocol_events()
        attempt = ticket.attempts.pop(0)
        if shares and (is_forced or attempt.alpn_decides):
            ticket.attempts.clear()
            self._dial_shared(ticket, attempt)
        else:
            self._dial_alone(ticket, attempt)

    # A WebSocket on a multiplexed connection.

    def _waits_for_settings(self, ticket: Ticket, version: int) -> bool:
        if (
            not ticket.for_websocket
            or ticket.is_exclusive
            or ticket.settings_waited
            or not self._pool.multiplexed.awaits_settings(version, ticket.opened_since)
        ):
            return False
        self._arm_settings_timer(ticket)
        return True

    def _arm_settings_timer(self, ticket: Ticket) -> None:
        if ticket.settings_timer is None:
            ticket.settings_timer = Timer(lambda: self._settings_overdue(ticket))
            self._pool.pools.context.set_timer(ticket.settings_timer, SETTINGS_WAIT_S)

    def _settings_overdue(self, ticket: Ticket) -> None:
        ticket.settings_waited = True
        pool = self._pool
        if ticket.reserved is None and ticket not in self.waiting:
            # Something else has come up meanwhile, and is being dialled for it.
            return
        if ticket.reserved is not None:
            hears_nothing = ticket.reserved.connection.takes_extended_connect is None
        elif pool.mode is BackendProtocol.AUTO:
            ticket.step = Step.TCP
            hears_nothing = False
        else:
            version = HTTP3 if pool.mode is BackendProtocol.HTTP3 else HTTP2
            hears_nothing = pool.multiplexed.awaits_settings(version, ticket.opened_since)
        if hears_nothing:
            self._fail(ticket, _upgrade_failure(f"{pool.endpoint}: no SETTINGS in {SETTINGS_WAIT_S} s"))
        elif ticket.reserved is None:
            self._seek_first(ticket)

    def _is_refused(self, ticket: Ticket, version: int) -> bool:
        """Fail a WebSocket that the backend, which is spoken to in no other version, does not take."""
        pool = self._pool
        if (
            not ticket.for_websocket
            or ticket.is_exclusive
            or not pool.multiplexed.refuses_websockets(version, ticket.opened_since)
        ):
            return False
        self._fail(ticket, _upgrade_failure(f"{pool.endpoint} takes no extended CONNECT"))
        return True

    # Dials.

    def _dial_quic(self, ticket: Ticket, attempt: Attempt) -> None:
        dial = self._quic = SharedDial(ticket)

        def connected(connection: NewConnection) -> None:
            self._quic = None
            self._quic_connected()

        def failed(failure: Failure) -> None:
            self._quic = None
            self._quic_failed(dial, failure)

        if attempt.head_start_s:
            self._pool.pools.context.set_timer(self._quic_timer, attempt.head_start_s)
        dial.connecting = Connecting(self._pool, attempt, on_connected=connected, on_failed=failed)
        dial.connecting.start()

    def _dial_shared(self, ticket: Ticket, attempt: Attempt) -> None:
        dial = self._shared = SharedDial(ticket)

        def connected(connection: NewConnection) -> None:
            self._shared = None
            self._shared_connected(connection)

        def failed(failure: Failure) -> None:
            self._shared = None
            self._shared_failed(dial, failure)

        dial.connecting = Connecting(self._pool, attempt, on_connected=connected, on_failed=failed)
        dial.connecting.start()

    def _dial_alone(self, ticket: Ticket, attempt: Attempt) -> None:
        self.waiting.pop(ticket, None)
        self._dialling[ticket] = None

        def connected(connection: NewConnection) -> None:
            ticket.dial = None
            self._connected_alone(ticket, connection)

        def failed(failure: Failure) -> None:
            ticket.dial = None
            self._failed_alone(ticket, failure)

        ticket.dial = Connecting(
            self._pool,
            attempt,
            preamble=ticket.preamble,
            exclusive=ticket.is_exclusive,
            on_connected=connected,
            on_failed=failed,
        )
        ticket.dial.start()

    def _connected_alone(self, ticket: Ticket, connection: NewConnection) -> None:
        if isinstance(connection, Http1Client):
            self._serve(ticket, connection)
        elif ticket.is_exclusive:
            ticket.reserved = connection
            if ticket.for_websocket:
                self._arm_settings_timer(ticket)
            self.reserved_changed(connection)
        else:
            self._dialling.pop(ticket, None)
            self._abandon(ticket)
            self._seek_first(ticket)
            self.advance()
            self._pool.trim()

    def _failed_alone(self, ticket: Ticket, failure: Failure) -> None:
        if ticket.attempts and ticket.attempts[0].is_worth_trying_after(failure):
            # The connection it had counted is not given up yet, so that nobody takes its place.
            self._dial_alone(ticket, ticket.attempts.pop(0))
        else:
            self._fail(ticket, failure)

    def _shared_connected(self, connection: NewConnection) -> None:
        if isinstance(connection, Http1Client) and not self.offer(connection):
            connection.close()
        self.advance()
        self._pool.trim()

    def _shared_failed(self, dial: SharedDial, failure: Failure) -> None:
        is_forced = self._pool.mode is BackendProtocol.HTTP2
        waiting = [
            ticket
            for ticket in self.waiting
            if ticket.step is Step.TCP
            and not ticket.is_exclusive
            and not ticket.only_http1
            and (is_forced or not ticket.for_websocket)
        ]
        if not is_forced and failure.code in HOST_ANSWERED:
            for ticket in waiting:
                ticket.only_http1 = True
            self.advance()
        else:
            self._fail_together(dial, waiting, failure)

    def _fail_together(self, dial: SharedDial, waiting: list[Ticket], failure: Failure) -> None:
        """Who waits for a dial that failed fails with it; not who may yet be served by what else there is."""
        if self._pool.open_count > 1:
            waiting = [ticket for ticket in waiting if ticket is dial.owner]
        for ticket in waiting:
            self._fail(ticket, failure)

    # The race with QUIC.

    def _head_start_over(self) -> None:
        if self._quic is not None:
            self._quic.head_start_is_over = True
            self._go_on_by_tcp()

    def _go_on_by_tcp(self) -> None:
        for ticket in self.waiting:
            if ticket.step is Step.HTTP3 and not ticket.is_exclusive:
                ticket.step = Step.TCP
        self.advance()

    def _quic_connected(self) -> None:
        pool = self._pool
        pool.pools.context.timers.cancel(self._quic_timer)
        self.advance()
        # It came late, but before TCP did.
        for ticket in list(self._dialling):
            if ticket.acquirer is None or ticket.is_exclusive or ticket.dial is None:
                continue
            stream = pool.multiplexed.stream(HTTP3, for_websocket=ticket.for_websocket)
            if stream is not None:
                dial, ticket.dial = ticket.dial, None
                dial.cancel()
                self._serve(ticket, stream)
        self._drop_shared_dial()
        pool.trim()

    def _quic_failed(self, dial: SharedDial, failure: Failure) -> None:
        pool = self._pool
        context = pool.pools.context
        context.timers.cancel(self._quic_timer)
        if failure.source is not FailureSource.BACKEND:
            self._no_quic_until = context.now + OWN_SIDE_PAUSE_S
        if pool.mode is BackendProtocol.HTTP3:
            waiting = [t for t in self.waiting if t.step is Step.HTTP3 and not t.is_exclusive]
            self._fail_together(dial, waiting, failure)
        else:
            self._go_on_by_tcp()

    # What comes free.

    def offer(self, connection: Http1Client) -> bool:
        """Give an HTTP/1.1 connection to the first who takes one. False: nobody does."""
        for ticket in self.waiting:
            if ticket.step is Step.TCP:
                if ticket.is_exclusive or (ticket.needs_new and connection.requests_sent):
                    # It makes room for a new one.
                    return False
                self._serve(ticket, connection)
                return True
        return False

    def reserved_changed(self, pooled: PooledConnection) -> None:
        """A connection for one request only may have room for it now, or have ended."""
        for ticket in list(self._dialling):
            if ticket.reserved is pooled:
                break
        else:
            return
        connection = pooled.connection
        if pooled.is_leaving:
            detail = f"{self._pool.endpoint}: closed before a request"
            self._fail(ticket, Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TERMINATED, detail))
        elif ticket.for_websocket and connection.takes_extended_connect is False:
            self._fail(ticket, _upgrade_failure(f"{self._pool.endpoint} takes no extended CONNECT"))
        elif connection.free_streams > 0 and (not ticket.for_websocket or connection.takes_extended_connect):
            ticket.reserved = None
            stream = connection.open_stream()
            self._pool.multiplexed.retire(pooled)
            self._serve(ticket, stream)

    # Ends.

    def _leave(self, ticket: Ticket) -> None:
        self.waiting.pop(ticket, None)
        self._dialling.pop(ticket, None)
        if ticket.settings_timer is not None:
            self._pool.pools.context.timers.cancel(ticket.settings_timer)
        self._abandon(ticket)
        reserved, ticket.reserved = ticket.reserved, None
        if reserved is not None:
            self._pool.multiplexed.retire(reserved)

    def _abandon(self, ticket: Ticket) -> None:
        for attempt in ticket.attempts:
            self._pool.chooser.attempt_abandoned(attempt)
        ticket.attempts.clear()

    def _serve(self, ticket: Ticket, stream: ClientStream) -> None:
        quic = self._quic
        if quic is not None and quic.head_start_is_over and stream.version != HTTP3:
            assert quic.connecting is not None
            self._pool.chooser.attempt_overtaken(quic.connecting.attempt)
            self._pool.tell_protocol_events()
        acquirer, ticket.acquirer = ticket.acquirer, None
        assert acquirer is not None
        self._leave(ticket)
        acquirer.connection_ready(stream)

    def _fail(self, ticket: Ticket, failure: Failure) -> None:
        acquirer, ticket.acquirer = ticket.acquirer, None
        if acquirer is not None:
            self._leave(ticket)
            acquirer.connection_failed(failure)

    def cancelled(self, ticket: Ticket) -> None:
        """Its acquirer has gone. A QUIC dial goes on: what it finds out is worth knowing."""
        dial, ticket.dial = ticket.dial, None
        self._leave(ticket)
        if dial is not None:
            dial.cancel()
        self._drop_shared_dial()

    def _drop_shared_dial(self) -> None:
        if self._shared is not None and not any(ticket.step is Step.TCP for ticket in self.waiting):
            dial, self._shared = self._shared, None
            if dial.connecting is not None:
                dial.connecting.cancel()

    def drop_needless_dials(self) -> None:
        """The pool drains: keep no dial that nobody waits for."""
        self._drop_shared_dial()
        if self._quic is not None and not self.waiting:
            dial, self._quic = self._quic, None
            self._pool.pools.context.timers.cancel(self._quic_timer)
            if dial.connecting is not None:
                dial.connecting.cancel()


def _upgrade_failure(detail: str) -> Failure:
    return Failure(FailureSource.BACKEND, FailureCode.HTTP_UPGRADE_FAILED, detail)
