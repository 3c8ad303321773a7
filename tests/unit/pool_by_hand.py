"""A pool whose dials and connections are played by the test: no byte is carried, and time moves when told."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from smartproxy.core.configuration import BackendProtocol, Limits, OriginTls, Timeouts
from smartproxy.core.context import Context
from smartproxy.core.datagrams import DatagramLink
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.http1_client import Http1Client
from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.records import Record
from smartproxy.core.stream import DEAF, Link
from smartproxy.core.upstream import connecting
from smartproxy.core.upstream.attempts import Attempt
from smartproxy.core.upstream.dial import Endpoint
from smartproxy.core.upstream.multiplexed import MultiplexedOwner
from smartproxy.core.upstream.pool import Pool, Pools, Ticket
from smartproxy.core.upstream.quic_dial import QuicSupport
from smartproxy.core.wire.tls import TlsStream

REFUSED = Failure(FailureSource.BACKEND, FailureCode.CONNECTION_REFUSED, "refused", retryable=True)
TIMED_OUT = Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TIMEOUT, "silence", retryable=True)
ALERT = Failure(FailureSource.BACKEND, FailureCode.TLS_ALERT_RECEIVED, "no_application_protocol")
LOST = Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TERMINATED, "gone")

ALT_SVC = b'h3=":8443"; ma=3600'


class FakeTls(TlsStream):
    """A TLS stream whose handshake came to `alpn`."""

    def __init__(self, link: Link, alpn: str | None) -> None:
        self.below = link
        self.handler = DEAF
        self.established = True
        self.eof_is_clean = True
        self._alpn = alpn

    def alpn_protocol(self) -> str | None:
        return self._alpn

    def write(self, data: bytes) -> None:
        self.below.write(data)

    def _send_close_notify(self) -> None:
        return


class FakeStream:
    """A stream of a fake connection, as far as pools and acquirers mind."""

    relayed_bytes = 0
    sent_bytes = 0
    request_sink = None

    def __init__(self, connection: FakeMultiplexed) -> None:
        self.connection = connection
        self.version = connection.version
        self.is_over = False

    def end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.connection.stream_over()

    cancel = end

    def send_request(self, head: RequestHead, receiver: Any) -> None: ...
    def send_data(self, data: bytes) -> bool:
        return False

    def send_end(self, trailers: Fields) -> None: ...
    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...
    def relay_body(self, sink: Link, least_bytes: int) -> bool:
        return False

    def take_over(self) -> Any:
        raise AssertionError("nothing to take over")


class FakeMultiplexed:
    """An HTTP/2 or HTTP/3 connection that does what the test says the backend does."""

    def __init__(self, hand: PoolByHand, owner: MultiplexedOwner, version: int) -> None:
        self._hand = hand
        self._owner = owner
        self.version = version
        self.opened_at = hand.context.now
        self.open_streams = 0
        self.limit = hand.stream_limit
        #: Until SETTINGS come, or are overdue, an HTTP/2 connection has one stream.
        self.holds_back_streams = version == 20 and hand.settings_come_later
        self.takes_extended_connect: bool | None = None
        self.is_leaving = False
        self.is_gone = False
        self.has_begun = False
        hand.multiplexed.append(self)

    def begin(self) -> None:
        self.has_begun = True

    @property
    def free_streams(self) -> int:
        limit = min(self.limit, 1) if self.holds_back_streams else self.limit
        return 0 if self.is_leaving else max(0, limit - self.open_streams)

    def open_stream(self) -> FakeStream:
        assert self.has_begun
        assert not self.is_gone
        assert self.free_streams > 0
        self.open_streams += 1
        return FakeStream(self)

    def drain(self) -> None:
        self.is_leaving = True
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self.is_leaving and not self.open_streams and not self.is_gone:
            self.is_gone = True
            self._owner.connection_gone(self, None)

    def stream_over(self) -> None:
        if self.is_gone:
            return
        self.open_streams -= 1
        self._owner.stream_ended(self)
        self._end_if_drained()

    # The backend's doing.

    def announce(self, *, limit: int | None = None, extended: bool = False) -> None:
        """SETTINGS come."""
        self.takes_extended_connect = extended
        self.holds_back_streams = False
        if limit is not None:
            self.limit = limit
        self._owner.stream_room(self)

    def be_late_with_settings(self) -> None:
        """They have been waited for long enough."""
        if self.holds_back_streams:
            self.holds_back_streams = False
            self._owner.stream_room(self)

    def go_away(self) -> None:
        if not self.is_leaving:
            self.is_leaving = True
            self._owner.connection_draining(self)
            self._end_if_drained()

    def lose(self, failure: Failure | None = LOST) -> None:
        """It breaks; its streams would hear first."""
        if not self.is_gone:
            self.is_gone = self.is_leaving = True
            self._owner.connection_gone(self, failure)

    def respond(self, status: int = 200, alt_svc: bytes | None = None) -> None:
        self._owner.response_received(self, status, alt_svc)

    def require_earlier_version(self) -> None:
        self._owner.earlier_version_required(self)


class FakeDial:
    """A dial that ends when told to."""

    def __init__(self, hand: PoolByHand, attempt: Attempt | None, options: dict[str, Any]) -> None:
        self._hand = hand
        self.attempt = attempt
        self.alpn: tuple[bytes, ...] = options.get("alpn", ())
        self.preamble: bytes = options.get("preamble", b"")
        self._on_connected: Callable[..., None] = options["on_connected"]
        self._on_failed: Callable[[Failure], None] = options["on_failed"]

    @property
    def is_quic(self) -> bool:
        return self.attempt is not None

    def start(self) -> None:
        self._hand.dials.append(self)

    def cancel(self) -> None:
        self._hand.dials.remove(self)
        self._hand.cancelled_dials += 1

    def connect(self, alpn: str | None = None) -> None:
        """Over TCP, ALPN chooses `alpn`."""
        hand = self._hand
        hand.dials.remove(self)
        if self.is_quic:
            self._on_connected(None, DatagramLink(hand.context, 0, ("10.0.0.1", 8443), ("", 0)), [])
            return
        link = hand.new_link(("10.0.0.1", 443))
        self._on_connected(link if hand.endpoint.tls is None else FakeTls(link, alpn), link)

    def fail(self, failure: Failure = REFUSED) -> None:
        self._hand.dials.remove(self)
        self._on_failed(failure)


class FakeAcquirer:
    """Hears exactly one thing."""

    def __init__(self, hand: PoolByHand) -> None:
        self._hand = hand
        self.stream: Any = None
        self.failure: Failure | None = None
        self.ticket: Ticket | None = None
        self.cancelled = False

    @property
    def is_waiting(self) -> bool:
        return self.stream is None and self.failure is None and not self.cancelled

    @property
    def version(self) -> int:
        """0 while there is none."""
        return 0 if self.stream is None else int(self.stream.version)

    def connection_ready(self, stream: Any) -> None:
        assert self.is_waiting
        self.stream = stream
        if isinstance(stream, Http1Client):
            stream.send_request(RequestHead(b"GET", b"/", b"app", []), self)

    def connection_failed(self, failure: Failure) -> None:
        assert self.is_waiting
        self.failure = failure

    def cancel(self) -> None:
        assert self.ticket is not None
        self.cancelled = True
        self.ticket.cancel()

    def finish(self) -> None:
        """The response comes, whole."""
        if isinstance(self.stream, Http1Client):
            self.stream.receive_data(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        else:
            self.stream.end()

    # From an HTTP/1.1 connection.

    def response_informational(self, head: ResponseHead) -> None: ...
    def response_head(self, head: ResponseHead) -> None: ...
    def response_data(self, data: bytes) -> None: ...
    def response_relayed(self, byte_count: int) -> None: ...
    def response_end(self, trailers: Fields) -> None: ...
    def response_failed(self, failure: Failure) -> None: ...
    def request_writable(self) -> None: ...


class PoolByHand:
    """One pool, its dials under way, its connections, and the clock."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        mode: BackendProtocol = BackendProtocol.AUTO,
        *,
        tls: bool = True,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        stream_limit: int = 100,
        settings_come_later: bool = False,
    ) -> None:
        monkeypatch.setattr(connecting, "Dial", self._new_dial)
        monkeypatch.setattr(connecting, "QuicDial", self._new_quic_dial)
        self.context = Context(Env(entropy=bytes, wall_clock=lambda: 0.0))
        self.context.now = 1000.0
        self.dials: list[FakeDial] = []
        self.cancelled_dials = 0
        self.multiplexed: list[FakeMultiplexed] = []
        self.stream_limit = stream_limit
        self.settings_come_later = settings_come_later
        self.endpoint = Endpoint(
            "10.0.0.1",
            443,
            OriginTls(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), None, None, "test") if tls else None,
            mode,
        )
        self.pools = Pools(
            self.context,
            self.new_link,
            limits or Limits(),
            timeouts or Timeouts(),
            new_http2=lambda stream, link, owner: FakeMultiplexed(self, owner, 20),
            quic=QuicSupport(
                "aioquic",
                lambda address: DatagramLink(self.context, 0, address, ("", 0)),
                lambda http3, link, owner, events: FakeMultiplexed(self, owner, 30),
            ),
        )
        self.pool: Pool = self.pools.pool(self.endpoint)

    def new_link(self, address: tuple[str, int]) -> Link:
        return Link(self.context, 0, address, ("", 0))

    def _new_dial(
        self, context: Any, resolver: Any, endpoint: Any, timeouts: Any, **options: Any
    ) -> FakeDial:
        return FakeDial(self, None, options)

    def _new_quic_dial(
        self, context: Any, resolver: Any, attempt: Attempt, *_: Any, **options: Any
    ) -> FakeDial:
        return FakeDial(self, attempt, options)

    # Doing.

    def ask(self, **options: Any) -> FakeAcquirer:
        """One request, as an exchange makes it: what is there, else a ticket."""
        acquirer = FakeAcquirer(self)
        for_websocket = options.get("for_websocket", False)
        if not options.keys() - {"for_websocket"}:
            stream = self.pool.take(for_websocket=for_websocket)
            if stream is not None:
                acquirer.connection_ready(stream)
                return acquirer
        acquirer.ticket = self.pool.open(acquirer, **options)
        return acquirer

    def advance(self, seconds: float) -> None:
        until = self.context.now + seconds
        while (deadline := self.context.timers.next_deadline()) <= until:
            self.context.now = max(self.context.now, deadline)
            self.context.timers.fire(self.context.now)
        self.context.now = until

    def dial(self) -> FakeDial:
        """The one dial under way."""
        [dial] = self.dials
        return dial

    def tcp(self) -> FakeDial:
        [dial] = [dial for dial in self.dials if not dial.is_quic]
        return dial

    def quic(self) -> FakeDial:
        [dial] = [dial for dial in self.dials if dial.is_quic]
        return dial

    def learn_http3(self) -> None:
        """An HTTP/2 response has advertised HTTP/3; its connection stays."""
        acquirer = self.ask()
        self.dial().connect("h2")
        self.multiplexed[0].announce()
        self.multiplexed[0].respond(200, ALT_SVC)
        acquirer.finish()
        self.take_records()

    def take_records(self) -> list[str]:
        """The names of the records since the last time."""
        records, self.context.records = self.context.records, []
        return [record.event for record in records if isinstance(record, Record)]

    def settle(self) -> None:
        """Nothing is left when all idle times have passed."""
        self.advance(8000.0)
        assert not self.dials
        assert not self.pool.waits.waiting
        assert self.pool.open_count == 0
        assert self.pools.open_connections() == 0
        assert self.context.timers.next_deadline() == inf
        assert all(connection.is_gone for connection in self.multiplexed)
