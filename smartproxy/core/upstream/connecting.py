"""An attempt at work: dialled, reported on, and made into a connection of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smartproxy.core.datagrams import DatagramLink
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.http1_client import Http1Client
from smartproxy.core.records import Level
from smartproxy.core.stream import ByteStream, Link
from smartproxy.core.upstream.attempts import Attempt, AttemptTransport, HttpProtocol
from smartproxy.core.upstream.dial import Dial, Endpoint
from smartproxy.core.upstream.multiplexed import MultiplexedClient
from smartproxy.core.upstream.multiplexed_connections import PooledConnection
from smartproxy.core.upstream.quic_dial import QuicDial
from smartproxy.core.wire.http3 import Http3Connection, Http3Event
from smartproxy.core.wire.tls import TlsStream

if TYPE_CHECKING:
    from smartproxy.core.upstream.pool import Pool

NewConnection = Http1Client | PooledConnection


class Connecting:
    """One dial of a pool, counted among its connections from `start` on.

    Ends in `on_connected(connection)` or `on_failed(failure)`, once, unless `cancel()`
    came first. The chooser has heard of it before. Both may come before `start` returns.
    """

    __slots__ = ("_dial", "_exclusive", "_on_connected", "_on_failed", "_pool", "_preamble", "attempt")

    def __init__(
        self,
        pool: Pool,
        attempt: Attempt,
        *,
        preamble: bytes = b"",
        exclusive: bool = False,
        on_connected: Callable[[NewConnection], None],
        on_failed: Callable[[Failure], None],
    ) -> None:
        self._pool = pool
        self.attempt = attempt
        self._preamble = preamble
        self._exclusive = exclusive
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._dial: Dial | QuicDial | None = None

    def start(self) -> None:
        pool = self._pool
        pools = pool.pools
        attempt = self.attempt
        pool.opening()
        if attempt.transport is AttemptTransport.QUIC:
            pools.context.record(
                "upstream",
                "quic_dial",
                backend=str(pool.endpoint),
                address=str(Endpoint(attempt.host, attempt.port)),
                alternative="" if attempt.alternative is None else str(attempt.alternative),
            )
            quic_dial = self._dial = QuicDial(
                pools.context,
                pools.resolver,
                attempt,
                pool.endpoint.tls,
                pools.quic,
                pools.timeouts,
                on_connected=self._quic_connected,
                on_failed=self._failed,
            )
            quic_dial.start()
            return
        dial = self._dial = Dial(
            pools.context,
            pools.resolver,
            pool.endpoint,
            pools.timeouts,
            new_link=pools.new_link,
            preamble=self._preamble,
            alpn=attempt.alpn,
            on_connected=self._stream_connected,
            on_failed=self._failed,
        )
        dial.start()

    def cancel(self) -> None:
        """Withdraw it; nothing is left behind."""
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
            self._pool.chooser.attempt_abandoned(self.attempt)
            self._pool.closed()

    def _stream_connected(self, stream: ByteStream, link: Link) -> None:
        pool = self._pool
        pools = pool.pools
        alpn = stream.alpn_protocol() if isinstance(stream, TlsStream) else None
        chosen = alpn.encode("latin-1") if alpn else None
        protocol = pool.chooser.attempt_succeeded(self.attempt, pools.context.now, chosen)
        connection: NewConnection
        if protocol is HttpProtocol.HTTP1:
            connection = Http1Client(pools.context, stream, link, pool, shareable=not self._exclusive)
        elif protocol is HttpProtocol.HTTP2 and pools.new_http2 is not None:
            client = pools.new_http2(stream, link, pool)
            connection = self._joined(client)
        else:
            stream.abort()
            if protocol is None:
                detail = f"{pool.endpoint}: ALPN chose {alpn or 'nothing'}"
                failure = Failure(FailureSource.BACKEND, FailureCode.TLS_PROTOCOL_ERROR, detail)
            else:
                detail = "HTTP/2 is not available"
                failure = Failure(FailureSource.PROXY, FailureCode.PROXY_CONFIGURATION_ERROR, detail)
            self._failed(failure)
            return
        assert protocol is not None
        self._connected(connection, protocol, link.peer[0])

    def _quic_connected(self, http3: Http3Connection, link: DatagramLink, events: list[Http3Event]) -> None:
        pool = self._pool
        pools = pool.pools
        quic = pools.quic
        assert quic is not None
        pool.chooser.attempt_succeeded(self.attempt, pools.context.now)
        client = quic.new_http3(http3, link, pool, events)
        connection = self._joined(client)
        self._connected(connection, HttpProtocol.HTTP3, link.peer[0] if link.peer is not None else "")

    def _joined(self, client: MultiplexedClient) -> PooledConnection:
        pooled = self._pool.multiplexed.add(client, self.attempt, exclusive=self._exclusive)
        client.begin()
        return pooled

    def _connected(self, connection: NewConnection, protocol: HttpProtocol, peer: str) -> None:
        pool = self._pool
        self._dial = None
        pool.tell_protocol_events()
        pool.pools.context.record(
            "upstream",
            "backend_connected",
            Level.INFO if protocol is HttpProtocol.HTTP3 else Level.DEBUG,
            backend=str(pool.endpoint),
            peer=peer,
            protocol=protocol.value,
        )
        if isinstance(connection, PooledConnection) and connection.is_leaving:
            # Its own end, which the pool hears of, is counted; the requests are not to try it for ever.
            detail = f"{pool.endpoint}: takes no request"
            self._on_failed(Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TERMINATED, detail))
            return
        self._on_connected(connection)

    def _failed(self, failure: Failure) -> None:
        pool = self._pool
        self._dial = None
        pool.chooser.attempt_failed(self.attempt, failure, pool.pools.context.now)
        pool.tell_protocol_events()
        self._on_failed(failure)
        pool.closed()
