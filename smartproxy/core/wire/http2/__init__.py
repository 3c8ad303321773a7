"""HTTP/2 (RFC 9113, RFC 8441): a strict, bounded sans-IO connection over an exchangeable engine.

    connection = Http2Connection(client_side=False)
    connection.initiate(now)
    events = connection.receive_data(data, now)
    transport.write(connection.data_to_send())

Messages are those of `smartproxy.core.http.messages`. Whatever HTTP/1.1 could read
differently resets its stream; whatever costs us more than the peer is counted
(`Http2Limits`), and one too many ends the connection with ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

from smartproxy.core.wire.http2.connection import Http2Connection
from smartproxy.core.wire.http2.engine import Http2EngineName
from smartproxy.core.wire.http2.engine_choice import AVAILABLE_ENGINES
from smartproxy.core.wire.http2.errors import (
    ErrorCode,
    Http2Error,
    LocalProtocolError,
    RemoteProtocolError,
)
from smartproxy.core.wire.http2.events import (
    DataReceived,
    GoAwayReceived,
    Http2Event,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    SettingsChanged,
    StreamEnded,
    StreamReset,
    StreamWritable,
)
from smartproxy.core.wire.http2.heads import NeverIndexedField
from smartproxy.core.wire.http2.limits import DEFAULT_LIMITS, Http2Limits

__all__ = [
    "AVAILABLE_ENGINES",
    "DEFAULT_LIMITS",
    "DataReceived",
    "ErrorCode",
    "GoAwayReceived",
    "Http2Connection",
    "Http2EngineName",
    "Http2Error",
    "Http2Event",
    "Http2Limits",
    "LocalProtocolError",
    "NeverIndexedField",
    "RemoteProtocolError",
    "RequestReceived",
    "RequestRefused",
    "ResponseReceived",
    "SettingsChanged",
    "StreamEnded",
    "StreamReset",
    "StreamWritable",
]
