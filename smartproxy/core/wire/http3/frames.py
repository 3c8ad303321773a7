"""Variable-length integers (RFC 9000 §16) and HTTP/3 frames (RFC 9114 §7)."""

from __future__ import annotations

DATA = 0x0
HEADERS = 0x1
CANCEL_PUSH = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
GOAWAY = 0x7
MAX_PUSH_ID = 0xD

HTTP2_FRAMES = frozenset((0x2, 0x6, 0x8, 0x9))
"""Frame types of HTTP/2 without a meaning here: receiving one is an error (RFC 9114 §7.2.8)."""

CONTROL_STREAM = 0x0
PUSH_STREAM = 0x1
QPACK_ENCODER_STREAM = 0x2
QPACK_DECODER_STREAM = 0x3

SETTING_MAX_TABLE_CAPACITY = 0x1
SETTING_MAX_FIELD_SECTION_SIZE = 0x6
SETTING_BLOCKED_STREAMS = 0x7
SETTING_ENABLE_CONNECT_PROTOCOL = 0x8
HTTP2_SETTINGS = frozenset((0x0, 0x2, 0x3, 0x4, 0x5))

MAX_VARINT = (1 << 62) - 1
_LENGTHS = (1, 2, 4, 8)
_MASKS = (0x3F, 0x3FFF, 0x3FFFFFFF, MAX_VARINT)


def encode_varint(value: int) -> bytes:
    """Raises OverflowError above 2^62 - 1."""
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x40000000:
        return (value | 0x80000000).to_bytes(4, "big")
    if value > MAX_VARINT:
        raise OverflowError("a QUIC integer has 62 bits")
    return (value | 0xC000000000000000).to_bytes(8, "big")


def decode_varint(data: bytes, position: int) -> tuple[int, int]:
    """The integer at `position` and the position after it; (-1, position) while it is incomplete."""
    if position >= len(data):
        return -1, position
    first = data[position]
    if first < 0x40:
        return first, position + 1
    size = first >> 6
    end = position + _LENGTHS[size]
    if end > len(data):
        return -1, position
    return int.from_bytes(data[position:end], "big") & _MASKS[size], end


def encode_frame(frame_type: int, payload: bytes) -> bytes:
    return encode_varint(frame_type) + encode_varint(len(payload)) + payload


def encode_settings(settings: dict[int, int]) -> bytes:
    """A whole SETTINGS frame."""
    payload = b"".join(encode_varint(name) + encode_varint(value) for name, value in settings.items())
    return encode_frame(SETTINGS, payload)
