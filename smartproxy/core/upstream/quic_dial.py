"""Opening an HTTP/3 connection: look-up, a race of addresses (RFC 8305), the QUIC handshake (RFC 9001)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from smartproxy.core.configuration import OriginTls, Timeouts
from smartproxy.core.context import Context
from smartproxy.core.datagrams import DEAF, Datagram, DatagramLink
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.ops import Address, OpenDatagrams, Opened, OperationFailed, Result
from smartproxy.core.records import Level
from smartproxy.core.timers import Timer
from smartproxy.core.upstream.attempts import Attempt
from smartproxy.core.upstream.dial import interleave_families, open_failure
from smartproxy.core.upstream.multiplexed import MultiplexedClient, MultiplexedOwner
from smartproxy.core.upstream.resolver import Lookup, Resolver
from smartproxy.core.wire.http3 import (
    DEFAULT_LIMITS,
    ClientParameters,
    ConnectionEnded,
    EngineName,
    HandshakeCompleted,
    Http3Connection,
    Http3Event,
    Http3Limits,
    QuicErrorCode,
    ServerTrust,
)

_CRYPTO_ERRORS = range(0x100, 0x200)
"""A TLS alert, added to 0x100 (RFC 9001 §4.8)."""
_CERTIFICATE_ALERTS = frozenset({42, 43, 44, 45, 46, 48})
"""bad_certificate to certificate_unknown, and unknown_ca (RFC 8446 §6.2)."""


@dataclass(frozen=True, slots=True)
class QuicSupport:
    """What QUIC towards backends needs from outside.

    `new_http3` makes the pool's connection of one whose handshake is done. It gets the
    events that came with the end of the handshake, and takes over as `link.handler`.
    """

    engine: EngineName
    new_datagram_link: Callable[[Address], DatagramLink]
    new_http3: Callable[
        [Http3Connection, DatagramLink, MultiplexedOwner, list[Http3Event]], MultiplexedClient
    ]
    limits: Http3Limits = DEFAULT_LIMITS


def failure_of(ended: ConnectionEnded, where: str) -> Failure:
    """What the end of a connection during its handshake says."""
    code = FailureCode.CONNECTION_TERMINATED
    if not ended.is_application:
        if ended.error_code in _CRYPTO_ERRORS:
            alert = ended.error_code - _CRYPTO_ERRORS.start
            if ended.by_peer:
                code = FailureCode.TLS_ALERT_RECEIVED
            elif alert in _CERTIFICATE_ALERTS:
                code = FailureCode.TLS_CERTIFICATE_ERROR
            else:
                code = FailureCode.TLS_PROTOCOL_ERROR
        elif ended.error_code == QuicErrorCode.CONNECTION_REFUSED:
            code = FailureCode.CONNECTION_REFUSED
    side = "the backend" if ended.by_peer else "this side"
    detail = f"{where}: ended by {side} with {ended.error_code:#x} {ended.reason}".rstrip()
    return Failure(FailureSource.BACKEND, code, detail, retryable=True)


class QuicDial:
    """Carries out one QUIC attempt within its `connect_timeout_s`, over all addresses of its host.

    Ends in `on_connected(connection, link, events)` or `on_failed(failure)`, once, unless
    `cancel()` came first. Either may come before `start` returns.
    """

    __slots__ = (
        "_addresses",
        "_attempt",
        "_context",
        "_expires_at",
        "_handshakes",
        "_lookup",
        "_on_connected",
        "_on_failed",
        "_quic",
        "_resolver",
        "_started_at",
        "_timeouts",
        "_timer",
        "_tls",
        "_trust",
        "done",
    )

    def __init__(
        self,
        context: Context,
        resolver: Resolver,
        attempt: Attempt,
        tls: OriginTls | None,
        quic: QuicSupport | None,
        timeouts: Timeouts,
        *,
        on_connected: Callable[[Http3Connection, DatagramLink, list[Http3Event]], None],
        on_failed: Callable[[Failure], None],
    ) -> None:
        self._context = context
        self._resolver = resolver
        self._attempt = attempt
        self._tls = tls
        self._quic = quic
        self._timeouts = timeouts
        self._on_connected = on_connected
        self._on_failed = on_failed
        timeout_s = attempt.connect_timeout_s
        self._started_at = context.now
        self._expires_at = context.now + (timeouts.connection_s if timeout_s is None else timeout_s)
        self._trust: ServerTrust | None = None
        self._addresses: list[str] = []
        self._handshakes: list[_Handshake] = []
        self._lookup: Lookup | None = None
        self._timer = Timer(self._timer_fired)
        self.done = False

    def start(self) -> None:
        tls = self._tls
        if self._quic is None or tls is None:
            self._fail_here("HTTP/3 needs TLS towards the backend, and a QUIC engine")
            return
        pinned = tls.fingerprint_sha256
        try:
            self._trust = ServerTrust(
                self._attempt.certificate_name,
                tls.ca_pem if tls.verifies else b"",
                verify=tls.verifies,
                accepts_certificate=None if pinned is None else _pinned_check(pinned),
            )
        except ValueError as error:
            self._fail_here(str(error))
            return
        self._context.timers.set(self._timer, self._expires_at)
        self._lookup = self._resolver.resolve(self._attempt.host, self._resolved)

    def _fail_here(self, detail: str) -> None:
        self.fail(Failure(FailureSource.PROXY, FailureCode.PROXY_CONFIGURATION_ERROR, detail))

    def cancel(self) -> None:
        """Give up: nothing of this dial is left behind, and neither callback comes."""
        if not self.done:
            self.done = True
            if self._lookup is not None:
                self._lookup.cancel()
            self._withdraw_handshakes(None)
            self._context.timers.cancel(self._timer)

    def _withdraw_handshakes(self, but: _Handshake | None) -> None:
        for handshake in self._handshakes:
            if handshake is not but:
                handshake.cancel()
        self._handshakes.clear()

    def _timer_fired(self) -> None:
        if self._context.now < self._expires_at:
            self._try_next_address()
        elif self._lookup is not None:
            self.fail(
                Failure(FailureSource.BACKEND, FailureCode.DNS_TIMEOUT, self._attempt.host, retryable=True)
            )
        else:
            detail = f"{self._attempt.host}:{self._attempt.port} over UDP"
            self.fail(Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TIMEOUT, detail, retryable=True))

    def _resolved(self, addresses: tuple[str, ...], failure: Failure | None) -> None:
        self._lookup = None
        if self.done:
            return
        if failure is not None:
            self.fail(failure)
            return
        self._addresses = interleave_families(addresses)
        self._try_next_address()

    def _try_next_address(self) -> None:
        if not self._addresses:
            return
        address = (self._addresses.pop(0), self._attempt.port)
        assert self._quic is not None
        assert self._trust is not None
        handshake = _Handshake(self, self._context, self._quic, self._trust, address)
        self._handshakes.append(handshake)
        next_at = self._context.now + self._timeouts.address_race_s if self._addresses else inf
        self._context.timers.set(self._timer, min(next_at, self._expires_at))
        handshake.start()

    # From the handshakes.

    def handshake_completed(
        self, handshake: _Handshake, connection: Http3Connection, link: DatagramLink, events: list[Http3Event]
    ) -> None:
        self.done = True
        self._withdraw_handshakes(handshake)
        self._context.timers.cancel(self._timer)
        self._on_connected(connection, link, events)

    def handshake_failed(self, handshake: _Handshake, failure: Failure) -> None:
        self._handshakes.remove(handshake)
        if self._addresses:
            self._try_next_address()
        elif not self._handshakes:
            self.fail(failure)

    def fail(self, failure: Failure) -> None:
        if self.done:
            return
        self.cancel()
        self._context.record(
            "upstream",
            "dial_failed",
            Level.WARNING,
            backend=f"{self._attempt.host}:{self._attempt.port}",
            protocol="http3",
            error=failure.code.value,
            detail=failure.detail,
            duration_s=round(self._context.now - self._started_at, 6),
        )
        self._on_failed(failure)


def _pinned_check(pinned_sha256: bytes) -> Callable[[bytes], bool]:
    return lambda certificate: hashlib.sha256(certificate).digest() == pinned_sha256


class _Handshake:
    """The handshake with one address."""

    __slots__ = (
        "_address",
        "_connection",
        "_context",
        "_dial",
        "_done",
        "_link",
        "_operation_id",
        "_quic",
        "_timer",
        "_trust",
    )

    def __init__(
        self, dial: QuicDial, context: Context, quic: QuicSupport, trust: ServerTrust, address: Address
    ) -> None:
        self._dial = dial
        self._context = context
        self._quic = quic
        self._trust = trust
        self._address = address
        self._link = quic.new_datagram_link(address)
        self._operation_id = 0
        self._connection: Http3Connection | None = None
        self._timer = Timer(self._timer_fired)
        self._done = False

    def start(self) -> None:
        operation = OpenDatagrams(self._context.next_operation_id(), self._link, self._address)
        self._operation_id = self._context.start(operation, self._answered)

    def cancel(self) -> None:
        """Leave without a callback; a server that has answered is told."""
        if self._done:
            return
        self._done = True
        if self._operation_id:
            self._context.cancel(self._operation_id)
            return
        connection = self._connection
        if connection is not None:
            connection.close()
            self._link.send(connection.datagrams_to_send(self._context.now))
        self._link.close()
        self._context.timers.cancel(self._timer)

    def _fail(self, failure: Failure) -> None:
        if not self._done:
            self.cancel()
            self._dial.handshake_failed(self, failure)

    def _answered(self, result: Result) -> None:
        self._operation_id = 0
        if not isinstance(result, Opened):
            assert isinstance(result, OperationFailed)
            self._done = True
            self._dial.handshake_failed(self, open_failure(result, self._address[0]))
            return
        self._link.handler = self
        parameters = ClientParameters(self._quic.limits, self._trust, self._context.env.entropy)
        try:
            connection = Http3Connection(parameters, engine=self._quic.engine)
        except (ImportError, ValueError) as error:
            # Roots that the engine cannot read; only it can tell.
            self._fail(Failure(FailureSource.PROXY, FailureCode.PROXY_CONFIGURATION_ERROR, str(error)))
            return
        self._connection = connection
        connection.connect(self._address, self._context.now)
        self._advance(connection, [])

    # The UDP socket.

    def receive_datagrams(self, datagrams: list[Datagram]) -> None:
        connection = self._connection
        assert connection is not None
        events: list[Http3Event] = []
        for data, _ in datagrams:
            events += connection.receive_datagram(data, self._address, self._context.now)
        self._advance(connection, events)

    def datagrams_writable(self) -> None: ...

    def datagrams_lost(self, failure: Failure) -> None:
        self._fail(
            Failure(
                FailureSource.BACKEND, failure.code, f"{self._address[0]}: {failure.detail}", retryable=True
            )
        )

    def _timer_fired(self) -> None:
        connection = self._connection
        assert connection is not None
        self._advance(connection, connection.handle_timer(self._context.now))

    def _advance(self, connection: Http3Connection, events: list[Http3Event]) -> None:
        now = self._context.now
        self._link.send(connection.datagrams_to_send(now))
        events += connection.poll_events()
        for event in events:
            if isinstance(event, ConnectionEnded):
                self._fail(failure_of(event, self._address[0]))
                return
        for position, event in enumerate(events):
            if isinstance(event, HandshakeCompleted):
                self._done = True
                self._link.handler = DEAF
                self._context.timers.cancel(self._timer)
                self._dial.handshake_completed(self, connection, self._link, events[position + 1 :])
                return
        due = connection.get_timer()
        if due is None:
            self._context.timers.cancel(self._timer)
        else:
            self._context.timers.set(self._timer, due)
