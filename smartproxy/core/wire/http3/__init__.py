"""HTTP/3 over QUIC (RFC 9114, RFC 9000), sans-IO, on whichever QUIC engine is installed.

    connection = Http3Connection(ClientParameters(DEFAULT_LIMITS, ServerTrust("example.com", roots), entropy))
    endpoint = QuicServerEndpoint(lambda server_name: identity, entropy)

The engine carries packets, TLS, loss recovery and congestion control; what a peer may cost, when it gets
credit, frames, field sections and messages are decided here. Events have HTTP/2's names where they mean
the same.
"""

from __future__ import annotations

from smartproxy.core.wire.http3.connection import Http3Connection
from smartproxy.core.wire.http3.credentials import (
    IdentityForName,
    ServerIdentity,
    ServerTrust,
    SessionTicket,
    SessionTicketStore,
)
from smartproxy.core.wire.http3.endpoint import QuicServerEndpoint
from smartproxy.core.wire.http3.errors import ErrorCode, Http3Error, LocalProtocolError, QuicErrorCode
from smartproxy.core.wire.http3.events import (
    ConnectionEnded,
    DataReceived,
    GoAwayReceived,
    HandshakeCompleted,
    Http3Event,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    SendingStopped,
    SettingsChanged,
    StreamEnded,
    StreamReset,
    StreamWritable,
)
from smartproxy.core.wire.http3.limits import (
    DEFAULT_ENDPOINT_LIMITS,
    DEFAULT_LIMITS,
    EndpointLimits,
    Http3Limits,
)
from smartproxy.core.wire.http3.quic_engine import (
    VERSION_1,
    VERSION_2,
    ClientParameters,
    EngineName,
    available_engines,
)

__all__ = [
    "DEFAULT_ENDPOINT_LIMITS",
    "DEFAULT_LIMITS",
    "VERSION_1",
    "VERSION_2",
    "ClientParameters",
    "ConnectionEnded",
    "DataReceived",
    "EndpointLimits",
    "EngineName",
    "ErrorCode",
    "GoAwayReceived",
    "HandshakeCompleted",
    "Http3Connection",
    "Http3Error",
    "Http3Event",
    "Http3Limits",
    "IdentityForName",
    "LocalProtocolError",
    "QuicErrorCode",
    "QuicServerEndpoint",
    "RequestReceived",
    "RequestRefused",
    "ResponseReceived",
    "SendingStopped",
    "ServerIdentity",
    "ServerTrust",
    "SessionTicket",
    "SessionTicketStore",
    "SettingsChanged",
    "StreamEnded",
    "StreamReset",
    "StreamWritable",
    "available_engines",
]
