"""One way to reach a backend, as a plan lists it."""

from __future__ import annotations

from enum import Enum

from smartproxy.core.failure import Failure, FailureCode
from smartproxy.core.upstream.alt_svc_cache import AlternativeService

ALPN_HTTP1 = b"http/1.1"
ALPN_HTTP2 = b"h2"
ALPN_HTTP3 = b"h3"

HOST_ANSWERED = frozenset(
    {FailureCode.TLS_PROTOCOL_ERROR, FailureCode.TLS_ALERT_RECEIVED, FailureCode.HTTP_PROTOCOL_ERROR}
)
"""Failures that another HTTP version, spoken to the same host and port, may not have."""


class HttpProtocol(Enum):
    HTTP1 = "http1"
    HTTP2 = "http2"
    HTTP3 = "http3"


class AttemptTransport(Enum):
    QUIC = "quic"
    TLS = "tls"
    """TLS over TCP; ALPN says which HTTP version, unless the attempt allows only one."""
    TCP = "tcp"


class Attempt:
    """One connection to try. Whoever dials it, and then owns the connection, reports on it by this object.

    `alpn` is what to offer, best first. `head_start_s` is how long the next attempt of
    the plan waits while this one is neither connected nor failed; 0.0 where it
    waits for the failure. `connect_timeout_s` is this attempt's own, None: the
    caller's. `certificate_name` is who the certificate must be valid for, whatever
    `host` is. `alternative` is the service it reaches, None for the backend's own
    address. `is_trial`: it is the only one allowed to find out if that works again.
    """

    __slots__ = (
        "alpn",
        "alternative",
        "certificate_name",
        "connect_timeout_s",
        "follows_only_an_answer",
        "head_start_s",
        "host",
        "is_trial",
        "overtaken",
        "port",
        "protocol",
        "responded",
        "settled",
        "transport",
    )

    def __init__(
        self,
        transport: AttemptTransport,
        host: str,
        port: int,
        *,
        alpn: tuple[bytes, ...] = (),
        protocol: HttpProtocol | None = None,
        certificate_name: str = "",
        head_start_s: float = 0.0,
        connect_timeout_s: float | None = None,
        alternative: AlternativeService | None = None,
        is_trial: bool = False,
        follows_only_an_answer: bool = False,
    ) -> None:
        self.transport = transport
        self.host = host
        self.port = port
        self.alpn = alpn
        #: What is spoken; None until ALPN has said so.
        self.protocol = protocol
        self.certificate_name = certificate_name
        self.head_start_s = head_start_s
        self.connect_timeout_s = connect_timeout_s
        self.alternative = alternative
        self.is_trial = is_trial
        #: Only worth starting when the one before it reached the host (`is_worth_trying_after`).
        self.follows_only_an_answer = follows_only_an_answer
        #: Whether its dial has been reported on.
        self.settled = False
        #: Whether a later attempt connected first.
        self.overtaken = False
        #: Whether a response came by it.
        self.responded = False

    def __repr__(self) -> str:
        offered = b",".join(self.alpn).decode("latin-1")
        return f"<Attempt {self.transport.value} {self.host}:{self.port} {offered or '-'}>"

    @property
    def alpn_decides(self) -> bool:
        """Whether the backend may choose between HTTP/2 and HTTP/1.1."""
        return len(self.alpn) > 1

    def protocol_for(self, alpn: bytes | None) -> HttpProtocol | None:
        """What to speak after ALPN chose `alpn` (None or empty: nothing). None: the attempt has failed."""
        if self.transport is AttemptTransport.TCP:
            return self.protocol
        if not alpn:
            # RFC 7301 §3.2: a server without ALPN says nothing, and speaks what was there before it.
            return HttpProtocol.HTTP1 if ALPN_HTTP1 in self.alpn else None
        if alpn not in self.alpn:
            return None
        if alpn == ALPN_HTTP3:
            return HttpProtocol.HTTP3
        return HttpProtocol.HTTP2 if alpn == ALPN_HTTP2 else HttpProtocol.HTTP1

    def is_worth_trying_after(self, failure: Failure) -> bool:
        """Whether to start it once the attempt before it in the plan ended in `failure`."""
        return not self.follows_only_an_answer or failure.code in HOST_ANSWERED
