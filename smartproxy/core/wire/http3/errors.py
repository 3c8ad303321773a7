"""Error codes of HTTP/3 (RFC 9114 §8.1) and QPACK (RFC 9204 §6), and what the codec raises."""

from __future__ import annotations

from enum import IntEnum

from smartproxy.core.wire import errors


class ErrorCode(IntEnum):
    """Application error codes carried by RESET_STREAM, STOP_SENDING and CONNECTION_CLOSE."""

    H3_NO_ERROR = 0x100
    H3_GENERAL_PROTOCOL_ERROR = 0x101
    H3_INTERNAL_ERROR = 0x102
    H3_STREAM_CREATION_ERROR = 0x103
    H3_CLOSED_CRITICAL_STREAM = 0x104
    H3_FRAME_UNEXPECTED = 0x105
    H3_FRAME_ERROR = 0x106
    H3_EXCESSIVE_LOAD = 0x107
    H3_ID_ERROR = 0x108
    H3_SETTINGS_ERROR = 0x109
    H3_MISSING_SETTINGS = 0x10A
    H3_REQUEST_REJECTED = 0x10B
    H3_REQUEST_CANCELLED = 0x10C
    H3_REQUEST_INCOMPLETE = 0x10D
    H3_MESSAGE_ERROR = 0x10E
    H3_CONNECT_ERROR = 0x10F
    H3_VERSION_FALLBACK = 0x110
    QPACK_DECOMPRESSION_FAILED = 0x200
    QPACK_ENCODER_STREAM_ERROR = 0x201
    QPACK_DECODER_STREAM_ERROR = 0x202


class QuicErrorCode(IntEnum):
    """The transport error codes (RFC 9000 §20.1) this side decides on itself."""

    NO_ERROR = 0x0
    INTERNAL_ERROR = 0x1
    CONNECTION_REFUSED = 0x2
    INVALID_TOKEN = 0xB
    CRYPTO_BUFFER_EXCEEDED = 0xD
    BAD_CERTIFICATE = 0x12A
    """CRYPTO_ERROR with the TLS alert bad_certificate."""


class Http3Error(Exception):
    """What this package raises."""


class LocalProtocolError(Http3Error, errors.LocalProtocolError):
    """The caller asked for something HTTP/3 cannot say, or may not say now. Nothing was sent."""


class RemoteProtocolError(Http3Error):
    """The peer broke the protocol. Never leaves an input: it becomes a reset or a closed connection."""

    def __init__(self, error_code: int, reason: str) -> None:
        super().__init__(error_code, reason)
        self.error_code = error_code
        self.reason = reason


class StreamError(RemoteProtocolError):
    """The peer broke one message: its stream is reset, the connection goes on (RFC 9114 §4.1.2)."""


class RefusedRequest(Http3Error):
    """A well-formed request over a limit, to be answered with `status`. Never leaves this package."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
