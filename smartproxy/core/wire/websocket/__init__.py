"""WebSocket (RFC 6455, RFC 8441, RFC 9220): handshakes of every HTTP version, frames found but not opened.

    scanner = FrameScanner(from_client=True, max_payload_bytes=1 << 20)
    passed = scanner.receive_data(data)         # hand these on
    if scanner.at_frame_boundary:
        ...                                     # a frame of our own may follow: encode_ping(b"1")

What a peer may not send is refused with `RemoteProtocolError`; it has the close code, and
the bytes before it that may still pass. Nothing here inflates, and nothing grows.
"""

from __future__ import annotations

from smartproxy.core.wire.websocket.errors import (
    HandshakeError,
    LocalProtocolError,
    RemoteProtocolError,
    WebSocketError,
)
from smartproxy.core.wire.websocket.frames import (
    CloseCode,
    Opcode,
    apply_mask,
    encode_close,
    encode_frame,
    encode_ping,
    encode_pong,
    is_close_code,
)
from smartproxy.core.wire.websocket.handshake import (
    KEY_ENTROPY_BYTES,
    NegotiatedWebSocket,
    WebSocketRequest,
    accept_key,
    accept_response,
    accepts_websocket,
    check_websocket_response,
    connect_request,
    is_websocket_request,
    parse_websocket_request,
    refusal_status,
    restrict_subprotocols,
    upgrade_request,
    websocket_key,
)
from smartproxy.core.wire.websocket.keep_alive import (
    DEAD_PEER_CLOSE_CODE,
    DEAD_PEER_REASON,
    KeepAlive,
    KeepAliveStep,
)
from smartproxy.core.wire.websocket.origins import OriginAllowList
from smartproxy.core.wire.websocket.scanner import FrameScanner

__all__ = [
    "DEAD_PEER_CLOSE_CODE",
    "DEAD_PEER_REASON",
    "KEY_ENTROPY_BYTES",
    "CloseCode",
    "FrameScanner",
    "HandshakeError",
    "KeepAlive",
    "KeepAliveStep",
    "LocalProtocolError",
    "NegotiatedWebSocket",
    "Opcode",
    "OriginAllowList",
    "RemoteProtocolError",
    "WebSocketError",
    "WebSocketRequest",
    "accept_key",
    "accept_response",
    "accepts_websocket",
    "apply_mask",
    "check_websocket_response",
    "connect_request",
    "encode_close",
    "encode_frame",
    "encode_ping",
    "encode_pong",
    "is_close_code",
    "is_websocket_request",
    "parse_websocket_request",
    "refusal_status",
    "restrict_subprotocols",
    "upgrade_request",
    "websocket_key",
]
