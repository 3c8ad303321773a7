"""HTTP/1.1 (RFC 9112): strict sans-IO decoders and encoders.

    decoder = RequestDecoder()
    decoder.receive_data(data)
    head = decoder.next_event()         # RequestHead, then bytes of content, then EndOfMessage
    encode_response_head(ResponseHead(204, []))

Whatever two parsers could read differently is refused with `RemoteProtocolError`. Well-formed
heads are recognised by one pattern each; h11 judges the rest (see `judge`).
"""

from __future__ import annotations

from smartproxy.core.wire.http1.encode import (
    encode_chunk,
    encode_last_chunk,
    encode_request_head,
    encode_response_head,
)
from smartproxy.core.wire.http1.errors import Http1Error, LocalProtocolError, RemoteProtocolError
from smartproxy.core.wire.http1.limits import DEFAULT_LIMITS, Http1Limits
from smartproxy.core.wire.http1.requests import RequestDecoder, RequestEvent
from smartproxy.core.wire.http1.responses import ResponseDecoder, ResponseEvent
from smartproxy.core.wire.http1.targets import is_authority

__all__ = [
    "DEFAULT_LIMITS",
    "Http1Error",
    "Http1Limits",
    "LocalProtocolError",
    "RemoteProtocolError",
    "RequestDecoder",
    "RequestEvent",
    "ResponseDecoder",
    "ResponseEvent",
    "encode_chunk",
    "encode_last_chunk",
    "encode_request_head",
    "encode_response_head",
    "is_authority",
]
