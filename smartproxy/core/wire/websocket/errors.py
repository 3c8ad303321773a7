"""What the WebSocket codec raises."""

from __future__ import annotations

from smartproxy.core.http.messages import Fields


class WebSocketError(Exception):
    """Something that the WebSocket protocol does not allow."""


class RemoteProtocolError(WebSocketError):
    """The peer sent a frame that may not pass.

    `close_code` is what to close both sides with (RFC 6455 §7.4.1). `passed` is what
    was scanned before the frame and can still be handed on; it ends between frames.
    `reason` is a short stable phrase, free of anything a peer sent.
    """

    def __init__(self, close_code: int, reason: str, passed: bytes = b"") -> None:
        super().__init__(close_code, reason)
        self.close_code = close_code
        self.reason = reason
        self.passed = passed

    def __str__(self) -> str:
        return f"{self.close_code}: {self.reason}"


class LocalProtocolError(WebSocketError):
    """The caller asked for a frame or a handshake that cannot be."""


class HandshakeError(WebSocketError):
    """An opening handshake that may not go on.

    `status` is the response status to answer the client with: 400 or 426 for its
    request, 502 for the backend's response. `fields` go with it.
    """

    def __init__(self, status: int, reason: str, fields: Fields | None = None) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.fields: Fields = fields if fields is not None else []

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"
