"""What the HTTP/2 layer raises, and the error codes of RFC 9113 §7."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from smartproxy.core.wire import errors

if TYPE_CHECKING:
    from smartproxy.core.wire.http2.events import Http2Event


class ErrorCode(IntEnum):
    """RFC 9113 §7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Http2Error(Exception):
    """What this package raises."""


class RemoteProtocolError(Http2Error):
    """The peer broke the protocol or a limit; the connection is over (RFC 9113 §5.4.1).

    `error_code` is that of the GOAWAY now waiting in `data_to_send`. `reason` is a
    short stable phrase, free of anything a peer sent. `events` holds what the same
    input brought before the fault, so that no complete message is lost with it.
    """

    def __init__(self, error_code: ErrorCode, reason: str) -> None:
        super().__init__(error_code, reason)
        self.error_code = error_code
        self.reason = reason
        self.events: list[Http2Event] = []

    def __str__(self) -> str:
        return f"{self.error_code.name}: {self.reason}"


class LocalProtocolError(Http2Error, errors.LocalProtocolError):
    """The caller asked for something HTTP/2 cannot say, or out of turn."""


class StreamError(Http2Error):
    """A malformed message: its stream is reset, the connection goes on (RFC 9113 §8.1.1).

    Never leaves this package.
    """

    def __init__(self, reason: str, error_code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(reason, error_code)
        self.reason = reason
        self.error_code = error_code


class RefusedRequest(Http2Error):
    """A well-formed request over a limit, to be answered with `status`. Never leaves this package."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
