"""The connections to each backend: which one a request gets, and what they tell of the backend."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.configuration import BackendProtocol, Limits, Timeouts
from smartproxy.core.context import Context
from smartproxy.core.failure import Failure
from smartproxy.core.http.client_stream import ClientStream
from smartproxy.core.http.http1_client import Http1Client
from smartproxy.core.ops import UNIX_PORT, Address
from smartproxy.core.stream import ByteStream, Link
from smartproxy.core.upstream.acquisition import Waits
from smartproxy.core.upstream.alt_svc_cache import AltSvcCache, Origin
from smartproxy.core.upstream.attempts import Attempt, AttemptTransport, HttpProtocol
from smartproxy.core.upstream.dial import Endpoint
from smartproxy.core.upstream.multiplexed import MultiplexedClient, MultiplexedOwner
from smartproxy.core.upstream.multiplexed_connections import HTTP2, HTTP3, MultiplexedConnections
from smartproxy.core.upstream.protocol_choice import ProtocolChooser, ProtocolSnapshot
from smartproxy.core.upstream.quic_dial import QuicSupport
from smartproxy.core.upstream.resolver import Resolver
from smartproxy.core.upstream.ticket import Acquirer, Ticket

__all__ = ["Acquirer", "NewHttp2", "Pool", "Pools", "Ticket"]

POOLS_KEPT = 4096
"""Pools remembered; beyond it empty ones are forgotten."""
SNAPSHOTS = 256

NewHttp2 = Callable[[ByteStream, Link, MultiplexedOwner], MultiplexedClient]
"""Makes the pool's connection of a stream on which HTTP/2 has been agreed."""

_MISDIRECTED = 421


class Pool:
    """The connections to one endpoint. Their owner: what happens to them, they tell it."""

    __slots__ = (
        "_http1_attempt",
        "chooser",
        "endpoint",
        "idle",
        "learns_alternatives",
        "may_multiplex",
        "mode",
        "multiplexed",
        "open_count",
        "pools",
        "waits",
    )

    def __init__(self, pools: Pools, endpoint: Endpoint) -> None:
        self.pools = pools
        self.endpoint = endpoint
        self.mode = endpoint.protocol
        #: Free HTTP/1.1 connections, the most recently used last: it goes first, so that the rest may age.
        self.idle: list[Http1Client] = []
        self.multiplexed = MultiplexedConnections(pools)
        #: Connections and dials.
        self.open_count = 0
        self.chooser = pools.chooser(endpoint)
        #: Whether responses are to be looked at for Alt-Svc fields.
        self.learns_alternatives = self.chooser.learns_alternatives
        self.may_multiplex = self.mode in (BackendProtocol.HTTP2, BackendProtocol.HTTP3) or (
            self.mode is BackendProtocol.AUTO and endpoint.tls is not None
        )
        self._http1_attempt = Attempt(
            AttemptTransport.TCP, endpoint.host, endpoint.port, protocol=HttpProtocol.HTTP1
        )
        self.waits = Waits(self)

    @property
    def is_empty(self) -> bool:
        return not self.open_count and not self.waits.waiting

    # What is there.

    def take(self, *, for_websocket: bool = False) -> ClientStream | None:
        """A connection that can be had at once, for one request. None: `open` one.

        None also where HTTP/3 has been found to be available and is not there yet,
        so that it will be dialled. For a WebSocket it is a connection that takes one.
        """
        if not self.may_multiplex:
            return self.take_idle()
        if len(self.multiplexed):
            stream = self.multiplexed.stream(HTTP3, for_websocket=for_websocket)
            if stream is not None:
                return stream
        if self.waits.http3_wanted(for_websocket=for_websocket):
            return None
        stream = self.multiplexed.stream(HTTP2, for_websocket=for_websocket)
        return stream if stream is not None else self.take_idle()

    def take_idle(self) -> Http1Client | None:
        """A free HTTP/1.1 connection still young enough for a new request."""
        idle = self.idle
        oldest_start = self.pools.context.now - self.pools.timeouts.lifetime_s
        while idle:
            connection = idle.pop()
            if connection.opened_at > oldest_start:
                return connection
            connection.close()
        return None

    def open(
        self,
        acquirer: Acquirer,
        preamble: bytes = b"",
        *,
        needs_new: bool = False,
        over_limit: bool = False,
        for_websocket: bool = False,
        exclusive: bool = False,
    ) -> Ticket:
        """Get `acquirer` a connection for one request: dialled, shared, or waited for where the pool is full.

        With `needs_new` none that was open before will do. With `exclusive`, which a
        `preamble` (a PROXY header) implies, it is one of its own that serves nobody
        after it; with a preamble it speaks HTTP/1.1 unless the mode says otherwise.
        `over_limit` is for probes: a busy host must not look like a dead one. May call
        back before it returns.
        """
        ticket = Ticket(
            self,
            acquirer,
            preamble,
            needs_new=needs_new,
            over_limit=over_limit,
            for_websocket=for_websocket,
            exclusive=exclusive or bool(preamble),
        )
        self.waits.begin(ticket)
        return ticket

    # Room.

    @property
    def shares_dials(self) -> bool:
        """Whether a dial may come to HTTP/2, which many can share: ALPN did not choose HTTP/1.1 last."""
        return self.chooser.learned is not HttpProtocol.HTTP1 and self.pools.new_http2 is not None

    @property
    def has_anything(self) -> bool:
        """Whether one who waits might be helped."""
        return (
            self.open_count - self.waits.racing_dials < self.pools.limits.pool_connections_per_host
            or bool(self.idle)
            or self.multiplexed.have_room
        )

    def has_room(self, *, over_limit: bool = False) -> bool:
        """Whether one more connection may be dialled, making room for it where something is idle.

        A racing QUIC dial does not count: TCP must not have to wait for it.
        """
        return (
            over_limit
            or self.open_count - self.waits.racing_dials < self.pools.limits.pool_connections_per_host
            or self._close_one_idle()
        )

    def _close_one_idle(self) -> bool:
        if self.idle:
            self.idle[0].close()
            return True
        return self.multiplexed.retire_unused()

    def trim(self) -> None:
        """Keep no new connection for later while draining, nor what a race has let in above the limit."""
        if self.pools.draining:
            self.multiplexed.retire_all()
        elif self.open_count > self.pools.limits.pool_connections_per_host:
            self._close_one_idle()

    def opening(self) -> None:
        """A dial begins; it counts as the connection it may become."""
        if not self.open_count:
            self.pools.live.add(self)
        self.open_count += 1

    def closed(self) -> None:
        """A connection, or a dial for one, is over."""
        self.open_count -= 1
        if not self.open_count:
            self.pools.live.discard(self)
        self.waits.advance()

    # What connections tell their pool.

    def connection_free(self, connection: Http1Client) -> bool:
        """A connection finished a request cleanly. False: it is not kept, and must close."""
        if self.waits.waiting:
            if self.waits.offer(connection):
                return True
            if self.open_count >= self.pools.limits.pool_connections_per_host:
                return False
        pools = self.pools
        if pools.draining or len(self.idle) >= pools.limits.pool_idle_per_host:
            return False
        self.idle.append(connection)
        return True

    def connection_gone(
        self, connection: Http1Client | MultiplexedClient, failure: Failure | None = None
    ) -> None:
        """A connection is over; `failure` is None when that was in good order."""
        if isinstance(connection, Http1Client):
            if connection in self.idle:
                self.idle.remove(connection)
            self.closed()
            return
        pooled = self.multiplexed.remove(connection)
        if pooled is not None:
            self.chooser.connection_lost(pooled.attempt, failure, self.pools.context.now)
            self.tell_protocol_events()
            if pooled.is_exclusive:
                self.waits.reserved_changed(pooled)
            self.closed()

    def stream_room(self, connection: MultiplexedClient) -> None:
        """It may take more streams than before, or its SETTINGS have come."""
        self.multiplexed.note(connection)
        self._tell_waits(connection)

    def stream_ended(self, connection: MultiplexedClient) -> None:
        """One of its streams is over, and it may have none left."""
        self.multiplexed.note(connection)
        self._tell_waits(connection)

    def connection_draining(self, connection: MultiplexedClient) -> None:
        """It takes no new streams (GOAWAY), and ends when those under way are over."""
        self.multiplexed.leaving(connection)
        self._tell_waits(connection)

    def _tell_waits(self, connection: MultiplexedClient) -> None:
        pooled = self.multiplexed.get(connection)
        if pooled is not None and pooled.is_exclusive:
            self.waits.reserved_changed(pooled)
        else:
            self.waits.advance()

    def response_received(
        self,
        connection: Http1Client | MultiplexedClient,
        status: int,
        alt_svc: bytes | None,
        response_age_s: float = 0.0,
    ) -> None:
        """A final response came by it; `alt_svc` is its Alt-Svc field, several joined by commas.

        What a cache has kept for `response_age_s` is that much less fresh (RFC 7838 §3.1).

        An HTTP/1.1 connection need only tell of those that have one, and only if
        `learns_alternatives`.
        """
        now = self.pools.context.now
        if isinstance(connection, Http1Client):
            attempt = self._http1_attempt
            self.chooser.response_received(attempt, status, alt_svc, now, response_age_s=response_age_s)
        else:
            pooled = self.multiplexed.get(connection)
            if pooled is None:
                return
            attempt = pooled.attempt
            if attempt.responded and alt_svc is None and status != _MISDIRECTED:
                return
            self.chooser.response_received(attempt, status, alt_svc, now, response_age_s=response_age_s)
            if status == _MISDIRECTED and attempt.alternative is not None:
                self.multiplexed.retire(pooled)
        self.tell_protocol_events()

    def earlier_version_required(self, connection: MultiplexedClient) -> None:
        """The backend sent HTTP_1_1_REQUIRED or H3_VERSION_FALLBACK."""
        pooled = self.multiplexed.get(connection)
        if pooled is None:
            return
        self.chooser.earlier_version_required(pooled.attempt, self.pools.context.now)
        self.tell_protocol_events()
        if self.mode is BackendProtocol.AUTO:
            self.multiplexed.retire(pooled)

    def tell_protocol_events(self) -> None:
        """Record what the chooser has learned or decided."""
        for event in self.chooser.poll_events():
            self.pools.context.record(
                "upstream", event.name, event.level, backend=str(self.endpoint), **event.fields
            )
            if event.name == "alt_svc_cleared":
                states = self.chooser.cache.states(self.chooser.origin, self.pools.context.now)
                self.multiplexed.retire_withdrawn({state.alternative for state in states})

    # Ends.

    def close_idle(self) -> None:
        """Keep nothing that is not in use, now or later."""
        for connection in list(self.idle):
            connection.close()
        self.waits.drop_needless_dials()
        self.multiplexed.retire_all()


class Pools:
    """All pools of an engine, by endpoint and TLS identity. They outlive configurations.

    `new_http2` and `quic` bring in the versions they are for; without, none of their
    connections is made. `alt_svc` is what is known of all backends' alternatives.
    """

    __slots__ = (
        "_pools",
        "alt_svc",
        "context",
        "draining",
        "limits",
        "live",
        "new_http2",
        "new_link",
        "quic",
        "resolver",
        "timeouts",
    )

    def __init__(
        self,
        context: Context,
        new_link: Callable[[Address], Link],
        limits: Limits,
        timeouts: Timeouts,
        *,
        new_http2: NewHttp2 | None = None,
        quic: QuicSupport | None = None,
    ) -> None:
        self.context = context
        self.new_link = new_link
        self.limits = limits
        self.timeouts = timeouts
        self.new_http2 = new_http2
        self.quic = quic
        self.resolver = Resolver(context)
        self.alt_svc = AltSvcCache()
        self.draining = False
        #: Those with a connection or a dial; a target may still use one that is forgotten below.
        self.live: set[Pool] = set()
        self._pools: dict[tuple[str, int, str, str, BackendProtocol], Pool] = {}

    def pool(self, endpoint: Endpoint) -> Pool:
        """The pool of `endpoint`. Keep it: finding it again costs more than a request should pay."""
        tls = endpoint.tls
        identity, server_name = (tls.identity, tls.server_name or "") if tls is not None else ("", "")
        key = (endpoint.host, endpoint.port, identity, server_name, endpoint.protocol)
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= POOLS_KEPT:
                for old_key in [k for k, p in self._pools.items() if p.is_empty]:
                    del self._pools[old_key]
            pool = self._pools[key] = Pool(self, endpoint)
        return pool

    def chooser(self, endpoint: Endpoint) -> ProtocolChooser:
        """What decides for a new pool; what is known of the origin's alternatives may be older."""
        tls = endpoint.tls
        return ProtocolChooser(
            Origin(
                "https" if tls is not None else "http",
                endpoint.host.lower() if endpoint.port != UNIX_PORT else endpoint.host,
                endpoint.port,
                f"{tls.identity} {tls.server_name or ''}" if tls is not None else "",
            ),
            self.alt_svc,
            mode=endpoint.protocol,
            certificate_name=(tls.server_name or "") if tls is not None else "",
            quic_available=self.quic is not None and tls is not None and endpoint.port != UNIX_PORT,
            http2_available=self.new_http2 is not None,
            certificate_verified=tls is not None and (tls.verifies or tls.fingerprint_sha256 is not None),
        )

    def drain(self) -> None:
        """Keep no idle connection from now on."""
        self.draining = True
        for pool in list(self.live):
            pool.close_idle()

    def open_connections(self) -> int:
        """Connections and dials under way, over all pools."""
        return sum(pool.open_count for pool in self.live)

    def protocol_snapshots(self, most: int = SNAPSHOTS) -> list[tuple[str, ProtocolSnapshot]]:
        """What is known of the backends that have more than one protocol, by endpoint."""
        now = self.context.now
        snapshots: list[tuple[str, ProtocolSnapshot]] = []
        for pool in self._pools.values():
            if pool.may_multiplex:
                snapshots.append((str(pool.endpoint), pool.chooser.snapshot(now)))
                if len(snapshots) >= most:
                    break
        return snapshots
