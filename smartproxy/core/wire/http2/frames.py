"""Frames as bytes (RFC 9113 §4, §6): the header, and those that we read or write without an engine."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from smartproxy.core.wire.http2.errors import ErrorCode, RemoteProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client's connection begins with (RFC 9113 §3.4)."""

FRAME_HEADER = struct.Struct(">HBBBL")
"""Length in two parts (16 and 8 bits), type, flags, stream identifier."""
FRAME_HEADER_BYTES = 9
FLAGS_OFFSET = 4

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9
PRIORITY_UPDATE = 0x10

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

STREAM_ID_MASK = 0x7FFFFFFF
MAX_STREAM_ID = 2**31 - 1

_PRIORITY_BYTES = 5
_SETTING = struct.Struct(">HL")
_TWO_WORDS = struct.Struct(">LL")
_WORD = struct.Struct(">L")

SETTING_HEADER_TABLE_SIZE = 0x1
SETTING_ENABLE_PUSH = 0x2
SETTING_MAX_CONCURRENT_STREAMS = 0x3
SETTING_INITIAL_WINDOW_SIZE = 0x4
SETTING_MAX_FRAME_SIZE = 0x5
SETTING_MAX_HEADER_LIST_SIZE = 0x6
SETTING_ENABLE_CONNECT_PROTOCOL = 0x8
SETTING_NO_RFC7540_PRIORITIES = 0x9


def encode_frame(frame_type: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    return FRAME_HEADER.pack(length >> 8, length & 0xFF, frame_type, flags, stream_id) + payload


def encode_settings(values: Mapping[int, int]) -> bytes:
    return encode_frame(SETTINGS, 0, 0, b"".join([_SETTING.pack(*entry) for entry in values.items()]))


def encode_goaway(last_stream_id: int, error_code: int) -> bytes:
    return encode_frame(GOAWAY, 0, 0, _TWO_WORDS.pack(last_stream_id, error_code))


def encode_rst_stream(stream_id: int, error_code: int) -> bytes:
    return encode_frame(RST_STREAM, 0, stream_id, _WORD.pack(error_code))


def encode_window_update(stream_id: int, increment: int) -> bytes:
    return encode_frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def parse_word(payload: bytes) -> int:
    """The four bytes of RST_STREAM and WINDOW_UPDATE. Raises RemoteProtocolError (RFC 9113 §6.4, §6.9)."""
    if len(payload) != 4:
        raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "frame of a wrong size")
    return int(_WORD.unpack(payload)[0])


def parse_goaway(payload: bytes) -> tuple[int, int]:
    """Last stream identifier and error code. Raises RemoteProtocolError (RFC 9113 §6.8)."""
    if len(payload) < 8:
        raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "frame of a wrong size")
    last_stream_id, error_code = _TWO_WORDS.unpack_from(payload)
    return last_stream_id & STREAM_ID_MASK, error_code


def parse_settings(payload: bytes, *, from_server: bool) -> dict[int, int]:
    """The settings that mean something to us, valid ones. Raises RemoteProtocolError (RFC 9113 §6.5.2).

    Unknown identifiers are dropped here, so that nobody behind keeps 65,536 of them.
    """
    if len(payload) % 6:
        raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "frame of a wrong size")
    values: dict[int, int] = {}
    for identifier, value in _SETTING.iter_unpack(payload):
        if identifier == SETTING_INITIAL_WINDOW_SIZE:
            if value > MAX_STREAM_ID:
                raise RemoteProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "invalid setting")
        elif identifier == SETTING_MAX_FRAME_SIZE:
            if not 16384 <= value <= 16777215:
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "invalid setting")
        elif identifier in (SETTING_ENABLE_PUSH, SETTING_ENABLE_CONNECT_PROTOCOL):
            # RFC 9113 §6.5.2: a server must not invite a client to push.
            if value > 1 or (identifier == SETTING_ENABLE_PUSH and value and from_server):
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "invalid setting")
        elif identifier not in (
            SETTING_HEADER_TABLE_SIZE,
            SETTING_MAX_CONCURRENT_STREAMS,
            SETTING_MAX_HEADER_LIST_SIZE,
        ):
            continue
        values[identifier] = value
    return values


def padding_bytes(flags: int, payload: bytes) -> int:
    """What a DATA or HEADERS payload spends on padding, its length byte included (RFC 9113 §6.1)."""
    if not flags & PADDED:
        return 0
    if not payload or payload[0] >= len(payload):
        raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[0] + 1


def header_block_fragment(flags: int, payload: bytes) -> bytes:
    """A HEADERS payload without padding and the priority nobody uses any more (RFC 9113 §6.2, §5.3.2)."""
    padding = padding_bytes(flags, payload)
    start = 1 if padding else 0
    end = len(payload) - (padding - start)
    if flags & PRIORITY_FLAG:
        start += _PRIORITY_BYTES
        if start > end:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "frame of a wrong size")
    return payload[start:end]
