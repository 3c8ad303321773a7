"""Frames onto the wire (RFC 6455 §5.2), and the numbers they are made of."""

from __future__ import annotations

from enum import IntEnum

from smartproxy.core.wire.websocket.errors import LocalProtocolError

MAX_CONTROL_PAYLOAD_BYTES = 125
MASK_KEY_BYTES = 4
FIN = 0x80
MASKED = 0x80


class Opcode(IntEnum):
    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """RFC 6455 §7.4.1 and the IANA registry it made."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    """Never on the wire: a Close frame without a code."""
    ABNORMAL_CLOSURE = 1006
    """Never on the wire: the connection ended without a Close frame."""
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015
    """Never on the wire."""


def is_close_code(code: int) -> bool:
    """Whether a Close frame may carry `code` (RFC 6455 §7.4)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def apply_mask(payload: bytes, mask_key: bytes) -> bytes:
    """`payload` masked, or unmasked (RFC 6455 §5.3)."""
    size = len(payload)
    key = (mask_key * (size // MASK_KEY_BYTES + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def encode_frame(
    opcode: Opcode, payload: bytes = b"", *, fin: bool = True, mask_key: bytes | None = None
) -> bytes:
    """One frame. A client gives a fresh, unpredictable `mask_key` of 4 bytes each time, a server None (§5.1).

    Raises LocalProtocolError for a control frame that is fragmented or over 125
    bytes, and a `mask_key` of another length.
    """
    size = len(payload)
    if opcode >= Opcode.CLOSE and (size > MAX_CONTROL_PAYLOAD_BYTES or not fin):
        raise LocalProtocolError("a control frame has one frame of at most 125 bytes")
    first = opcode | FIN if fin else int(opcode)
    masked = 0 if mask_key is None else MASKED
    if size <= MAX_CONTROL_PAYLOAD_BYTES:
        head = bytes((first, masked | size))
    elif size <= 0xFFFF:
        head = bytes((first, masked | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + size.to_bytes(8, "big")
    if mask_key is None:
        return head + payload
    if len(mask_key) != MASK_KEY_BYTES:
        raise LocalProtocolError("a masking key has 4 bytes")
    return head + mask_key + apply_mask(payload, mask_key)


def encode_ping(payload: bytes = b"", mask_key: bytes | None = None) -> bytes:
    """A Ping (RFC 6455 §5.5.2). Raises LocalProtocolError as `encode_frame` does."""
    return encode_frame(Opcode.PING, payload, mask_key=mask_key)


def encode_pong(payload: bytes = b"", mask_key: bytes | None = None) -> bytes:
    """A Pong (RFC 6455 §5.5.3). Raises LocalProtocolError as `encode_frame` does."""
    return encode_frame(Opcode.PONG, payload, mask_key=mask_key)


def encode_close(
    code: int = CloseCode.NO_STATUS_RECEIVED, reason: str = "", mask_key: bytes | None = None
) -> bytes:
    """A Close (RFC 6455 §5.5.1), without a code for 1005. A long `reason` is cut between characters.

    Raises LocalProtocolError for a code that may not be sent, and a reason without a code.
    """
    if code == CloseCode.NO_STATUS_RECEIVED:
        if reason:
            raise LocalProtocolError("a close reason needs a code")
        return encode_frame(Opcode.CLOSE, mask_key=mask_key)
    if not is_close_code(code):
        raise LocalProtocolError("a close code that may not be sent")
    text = reason.encode("utf-8", "replace")
    if len(text) > MAX_CONTROL_PAYLOAD_BYTES - 2:
        text = text[: MAX_CONTROL_PAYLOAD_BYTES - 2].decode("utf-8", "ignore").encode()
    return encode_frame(Opcode.CLOSE, code.to_bytes(2, "big") + text, mask_key=mask_key)
