"""Opening a backend connection: look-up, a race of addresses (RFC 8305), PROXY header, TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from smartproxy.core.configuration import BackendProtocol, OriginTls, Timeouts
from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource, LostReason
from smartproxy.core.ops import UNIX_PORT, Address, Opened, OpenStream, OperationFailed, Result
from smartproxy.core.records import Level
from smartproxy.core.stream import ByteStream, Link
from smartproxy.core.timers import Timer
from smartproxy.core.upstream.resolver import Lookup, Resolver
from smartproxy.core.wire.tls import TlsStream

_OPEN_FAILURES = {
    LostReason.REFUSED: FailureCode.CONNECTION_REFUSED,
    LostReason.TIMED_OUT: FailureCode.CONNECTION_TIMEOUT,
    LostReason.UNREACHABLE: FailureCode.DESTINATION_IP_UNROUTABLE,
    LostReason.RESET: FailureCode.CONNECTION_TERMINATED,
    LostReason.RESOURCE_EXHAUSTED: FailureCode.CONNECTION_LIMIT_REACHED,
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a backend is and how it is spoken to. Equal endpoints may share connections."""

    host: str
    """A name, an IP address, or with `port == UNIX_PORT` a unix socket's path."""
    port: int
    tls: OriginTls | None = None
    protocol: BackendProtocol = BackendProtocol.AUTO
    """Which HTTP version is spoken; raw streams do not mind it."""

    def __str__(self) -> str:
        if self.port == UNIX_PORT:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def open_failure(result: OperationFailed, host: str) -> Failure:
    """Why no socket to `host` could be had. What this machine has run out of tells nothing of the backend."""
    ours = result.reason is LostReason.RESOURCE_EXHAUSTED
    return Failure(
        FailureSource.PROXY if ours else FailureSource.BACKEND,
        _OPEN_FAILURES.get(result.reason, FailureCode.DESTINATION_UNAVAILABLE),
        f"{host}: {result.detail or result.reason.value}",
        retryable=True,
    )


def interleave_families(addresses: tuple[str, ...]) -> list[str]:
    """Alternate address families, the resolver's first choice first (RFC 8305 §4)."""
    first = [a for a in addresses if (":" in a) == (":" in addresses[0])]
    second = [a for a in addresses if (":" in a) != (":" in addresses[0])]
    mixed: list[str] = []
    for index in range(max(len(first), len(second))):
        mixed += first[index : index + 1] + second[index : index + 1]
    return mixed


class Dial:
    """One attempt to reach an endpoint, over all its addresses, within `timeouts.connection_s`.

    `alpn` is what TLS offers, best first; the stream tells what was chosen of it.
    Ends in `on_connected(stream, link)` or `on_failed(failure)`, once, unless
    `cancel()` came first; then every operation of it has been withdrawn.
    """

    __slots__ = (
        "_addresses",
        "_alpn",
        "_attempts",
        "_context",
        "_endpoint",
        "_link",
        "_lookup",
        "_new_link",
        "_on_connected",
        "_on_failed",
        "_preamble",
        "_resolver",
        "_started_at",
        "_stream",
        "_timeouts",
        "_timer",
        "done",
    )

    def __init__(
        self,
        context: Context,
        resolver: Resolver,
        endpoint: Endpoint,
        timeouts: Timeouts,
        *,
        new_link: Callable[[Address], Link],
        preamble: bytes = b"",
        alpn: tuple[bytes, ...] = (),
        on_connected: Callable[[ByteStream, Link], None],
        on_failed: Callable[[Failure], None],
    ) -> None:
        self._context = context
        self._resolver = resolver
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._new_link = new_link
        self._preamble = preamble
        self._alpn = alpn
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._addresses: list[str] = []
        self._attempts: dict[int, Link] = {}
        self._link: Link | None = None
        self._stream: ByteStream | None = None
        self._lookup: Lookup | None = None
        self._started_at = context.now
        self._timer = Timer(self._timer_fired)
        self.done = False

    def start(self) -> None:
        self._arm(self._timeouts.connection_s)
        if self._endpoint.port == UNIX_PORT:
            self._addresses = [self._endpoint.host]
            self._try_next_address()
        else:
            self._lookup = self._resolver.resolve(self._endpoint.host, self._resolved)

    def cancel(self) -> None:
        """Give up: nothing of this dial is left behind, and neither callback comes."""
        if not self.done:
            self.done = True
            self._withdraw_attempts()
            if self._lookup is not None:
                self._lookup.cancel()
            if self._stream is not None:
                self._stream.abort()
            elif self._link is not None:
                self._link.abort()
            self._context.timers.cancel(self._timer)

    def _arm(self, delay_s: float) -> None:
        expires_at = self._started_at + self._timeouts.connection_s
        self._context.timers.set(self._timer, min(self._context.now + delay_s, expires_at))

    def _timer_fired(self) -> None:
        if self._context.now >= self._started_at + self._timeouts.connection_s:
            if self._lookup is not None and not self._addresses and not self._attempts:
                code = FailureCode.DNS_TIMEOUT
            else:
                code = FailureCode.CONNECTION_TIMEOUT
            self._fail(Failure(FailureSource.BACKEND, code, str(self._endpoint), retryable=True))
        elif self._link is None:
            self._try_next_address()

    def _resolved(self, addresses: tuple[str, ...], failure: Failure | None) -> None:
        self._lookup = None
        if self.done:
            return
        if failure is not None:
            self._fail(failure)
            return
        self._addresses = interleave_families(addresses)
        self._try_next_address()

    def _try_next_address(self) -> None:
        if not self._addresses:
            return
        host = self._addresses.pop(0)
        address = (host, self._endpoint.port)
        link = self._new_link(address)
        operation = OpenStream(self._context.next_operation_id(), link, address)
        self._attempts[operation.id] = link
        self._context.start(operation, lambda result: self._answered(operation, result))
        if self._addresses:
            self._arm(self._timeouts.address_race_s)
        else:
            self._arm(self._timeouts.connection_s)

    def _answered(self, operation: OpenStream, result: Result) -> None:
        del self._attempts[operation.id]
        if isinstance(result, Opened):
            self._link = operation.link
            self._withdraw_attempts()
            self._arm(self._timeouts.connection_s)
            self._opened(operation.link)
            return
        assert isinstance(result, OperationFailed)
        if self._addresses:
            self._try_next_address()
        elif not self._attempts:
            self._fail(open_failure(result, operation.address[0]))

    def _withdraw_attempts(self) -> None:
        for operation_id in self._attempts:
            self._context.cancel(operation_id)
        self._attempts.clear()

    def _opened(self, link: Link) -> None:
        link.write(self._preamble)
        tls = self._endpoint.tls
        if tls is None:
            self._finish(link)
            return
        # An IP literal must be in the certificate but is never sent as SNI (RFC 6066 §3); `ssl` sees to it.
        is_unix = self._endpoint.port == UNIX_PORT
        name = tls.server_name or (None if is_unix else self._endpoint.host)
        try:
            stream = TlsStream(
                link,
                tls.context_for(self._alpn),
                server_side=False,
                server_name=name,
                on_established=self._tls_established,
                handler=_DialHandler(self),
            )
        except (ssl.SSLError, ValueError) as error:
            self._fail(Failure(FailureSource.PROXY, FailureCode.TLS_PROTOCOL_ERROR, str(error)))
            return
        self._stream = stream
        stream.start_handshake()

    def _tls_established(self) -> None:
        stream = self._stream
        tls = self._endpoint.tls
        assert isinstance(stream, TlsStream)
        assert tls is not None
        pinned = tls.fingerprint_sha256
        if pinned is not None and stream.peer_certificate_sha256() != pinned:
            detail = f"{self._endpoint}: the certificate is not the pinned one"
            self._fail(Failure(FailureSource.BACKEND, FailureCode.TLS_CERTIFICATE_ERROR, detail))
            return
        self._finish(stream)

    def _finish(self, stream: ByteStream) -> None:
        assert self._link is not None
        self.done = True
        self._context.timers.cancel(self._timer)
        self._on_connected(stream, self._link)

    def lost(self, failure: Failure) -> None:
        """The TLS handshake failed; its stream has closed itself, with the alert on its way."""
        self._stream = self._link = None
        self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        if self.done:
            return
        self.cancel()
        self._context.record(
            "upstream",
            "dial_failed",
            Level.WARNING,
            backend=str(self._endpoint),
            error=failure.code.value,
            detail=failure.detail,
            duration_s=round(self._context.now - self._started_at, 6),
        )
        self._on_failed(failure)


class _DialHandler:
    """Hears a TLS handshake towards a backend fail."""

    __slots__ = ("_dial",)

    def __init__(self, dial: Dial) -> None:
        self._dial = dial

    def receive_data(self, data: bytes) -> None:
        raise AssertionError("no application data before the session takes the stream")

    def receive_eof(self) -> None:
        self._dial.lost(Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TERMINATED, retryable=True))

    def stream_writable(self) -> None: ...

    def stream_lost(self, failure: Failure) -> None:
        self._dial.lost(failure)
