"""The stage that looks at a connection's first bytes and decides what they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from smartproxy.core.configuration import BackendProtocol, ForwardAction, Route
from smartproxy.core.downstream.raw import RawForward
from smartproxy.core.failure import Failure, FailureCode
from smartproxy.core.routing.table import FirstBytes
from smartproxy.core.stream import ByteStream
from smartproxy.core.wire.client_hello import (
    ClientHelloDecoder,
    ClientHelloError,
    encode_alert,
    looks_like_tls,
)

if TYPE_CHECKING:
    from smartproxy.core.downstream.connection import ClientConnection

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_REQUEST_LINE = re.compile(rb"(?:\r?\n){0,2}" + _TOKEN + rb"{1,32} +[^ \r\n]+ +HTTP/[0-9]")
_REQUEST_LINE_BEGUN = re.compile(
    rb"\r?\n?\r?\n?"
    + _TOKEN
    + rb"{0,32}(?:(?<=[^\r\n]) +(?:[^ \x00-\x1f\x7f]+(?: +(?:H(?:T(?:T(?:P/?)?)?)?)?)?)?)?\Z"
)
_LONGEST_REQUEST_LINE = 16 * 1024 + 64

_HTTP2_PREFACE = b"PRI * HTTP/2"
"""Of RFC 9113 §3.4, what tells it from everything else."""

_ALERT_FATAL = 2


def looks_like_http(received: bytes) -> bool | None:
    """Whether bytes begin an HTTP request line (RFC 9112 §3); None: too few to tell."""
    if _REQUEST_LINE.match(received):
        return True
    if len(received) <= _LONGEST_REQUEST_LINE and _REQUEST_LINE_BEGUN.match(received):
        return None
    return False


def _backend_may_greet(route: Route) -> bool:
    """Whether a client that stays silent may be one who waits for its backend's first word.

    Not where the backend is said to speak one version of HTTP: a server of HTTP/2 does send
    the first bytes, its SETTINGS, and they are not for the client.
    """
    action = route.action
    return not isinstance(action, ForwardAction) or action.backend_protocol is BackendProtocol.AUTO


class PeekStage:
    """Collects first bytes until TLS, HTTP or something else is certain.

    Where a raw route could take a client that stays silent, its backend may be one
    that speaks first (SMTP, MySQL): it is dialled after `server_first_s`, and who
    then speaks first decides. A client that turns out to speak HTTP never gets that
    raw connection, or it could slip past the header rules by waiting.
    """

    __slots__ = (
        "_connection",
        "_early",
        "_early_route",
        "_first_byte_at",
        "_hello",
        "_raw_route",
        "_received",
        "_stream",
    )

    def __init__(self, connection: ClientConnection, stream: ByteStream) -> None:
        self._connection = connection
        self._stream = stream
        self._received = b""
        self._hello: ClientHelloDecoder | None = None
        self._raw_route: Route | None = None
        self._early: RawForward | None = None
        self._early_route: Route | None = None
        self._first_byte_at = 0.0

    def begin(self, received: bytes) -> None:
        """Look at a plain connection; `received` came before this stage did."""
        connection = self._connection
        number = connection.client_number
        plan = connection.plan
        self._raw_route = plan.match_connection(number, None, FirstBytes.OTHER)
        if plan.needs_no_bytes(number) and self._raw_route is not None:
            connection.start_raw(self._raw_route, received)
            return
        self._early_route = self._greeted_on(plan.server_first_candidate(number))
        self._wait(received)

    def begin_decrypted(self, alpn_protocol: str | None) -> None:
        """Look at what a client's TLS decrypts to."""
        connection = self._connection
        route = connection.plan.match_decrypted(
            connection.client_number, connection.server_name, FirstBytes.OTHER, connection.tls_version
        )
        self._raw_route = route
        if alpn_protocol == "h2":
            connection.start_http2(b"")
            return
        if alpn_protocol == "http/1.1":
            connection.start_http1(b"", None)
            return
        # RFC 7301: who negotiates no HTTP may still speak it; who may be spoken to first must be.
        self._early_route = self._greeted_on(route)
        self._wait(b"")

    def _greeted_on(self, route: Route | None) -> Route | None:
        """`route`, if a client that stays silent may be one who is to be greeted there."""
        if route is None or not _backend_may_greet(route):
            return None
        gate = self._connection.generation.gates.get(route)
        # Where HTTP is to be shown first nobody is greeted, and a silent client may still show it.
        return None if gate is not None and gate.policy.needs_http else route

    def _wait(self, received: bytes) -> None:
        self._stream.handler = self
        connection = self._connection
        if received:
            self.receive_data(received)
        elif self._early_route is not None:
            connection.timer.callback = self._client_is_silent
            connection.context.set_timer(connection.timer, connection.timeouts.server_first_s)

    def _client_is_silent(self) -> None:
        connection = self._connection
        route = self._early_route
        assert route is not None
        connection.await_first_bytes()
        if connection.refusal_of_raw(route) is not None or not RawForward.can_forward(route):
            connection.start_raw(route, b"")
            return
        connection.cancel_stage = self._drop_early
        self._early = RawForward(
            connection, route, on_backend_speaks=self._backend_spoke, on_backend_gone=self._backend_gone
        )
        self._early.begin()

    def _backend_spoke(self) -> None:
        """The backend greets, so this is not HTTP."""
        route = self._early_route
        assert route is not None
        self._connection.start_raw(route, self._received, early=self._early)

    def _backend_gone(self) -> None:
        # Whoever connects may still speak HTTP, or be given another try once it has spoken.
        self._early = None

    def receive_data(self, data: bytes) -> None:
        connection = self._connection
        if self._hello is not None:
            self._read_hello(data)
            return
        if self._received:
            received = self._received = self._received + data
        else:
            received = self._received = data
            self._first_byte_at = connection.context.now
            # Now it is the client's turn, and no backend is dialled for one that speaks.
            connection.await_first_bytes()
        if self._stream is connection.link and connection.plan.may_need_tls:
            is_tls = looks_like_tls(received)
            if is_tls is None:
                return
            if is_tls:
                self._hello = ClientHelloDecoder(connection.limits.client_hello_bytes)
                self._drop_early()
                self._read_hello(received)
                return
        raw_route = self._raw_route
        if raw_route is None:
            self._start_http(received)
            return
        is_http = looks_like_http(received) if not connection.takes_every_byte(raw_route) else False
        if is_http is None:
            return
        if is_http:
            self._drop_early()
            self._start_http(received)
        else:
            early = self._early if raw_route is self._early_route else None
            if early is None:
                self._drop_early()
            connection.start_raw(raw_route, received, early=early)

    def _start_http(self, received: bytes) -> None:
        """HTTP/2 with prior knowledge begins like a request of HTTP/1.1 that nobody makes (RFC 9113 §3.4)."""
        connection = self._connection
        if received.startswith(_HTTP2_PREFACE):
            connection.start_http2(received)
        elif not _HTTP2_PREFACE.startswith(received):
            connection.start_http1(received, self._first_byte_at)

    def _drop_early(self) -> None:
        if self._early is not None:
            self._early.cancel()
            self._early = None

    def _read_hello(self, data: bytes) -> None:
        connection = self._connection
        decoder = self._hello
        assert decoder is not None
        try:
            hello = decoder.receive_data(data)
        except ClientHelloError as error:
            self._stream.write(encode_alert(_ALERT_FATAL, error.alert))
            connection.refuse(FailureCode.CLIENT_HELLO_ERROR, str(error))
            return
        if hello is not None:
            connection.tls_peeked(hello, decoder.buffered)

    def receive_eof(self) -> None:
        self._drop_early()
        if self._received and self._hello is None and self._raw_route is not None:
            # All there will ever be has been seen, and it was not a request line.
            self._connection.start_raw(self._raw_route, self._received)
            self._connection.stream.handler.receive_eof()
            return
        self._connection.client_left()

    def stream_writable(self) -> None: ...

    def stream_lost(self, failure: Failure) -> None:
        self._drop_early()
        self._connection.lost(failure)
