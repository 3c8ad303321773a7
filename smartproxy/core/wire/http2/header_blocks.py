"""The structure of a header block (RFC 7541 §5, §6), walked without decoding it."""

from __future__ import annotations

from smartproxy.core.wire.http2.errors import ErrorCode, RemoteProtocolError

_MAX_INTEGER_BYTES = 4


def check_header_block(block: bytes, max_table_bytes: int, max_lines: int) -> None:
    """Raise RemoteProtocolError unless `block` is whole, with table size updates in place and in bounds.

    Decoders are not to be trusted with less: one of them panics on truncated blocks, the
    other takes 5 µs for each one-byte line. Indices and Huffman codes are left to them.
    """
    position = lines = 0
    end = len(block)
    while position < end:
        first = block[position]
        position += 1
        if first & 0xE0 != 0x20:
            lines += 1
            if lines > max_lines:
                raise RemoteProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many field lines")
        if first & 0x80:
            # RFC 7541 §6.1: indices of one byte are nearly all there are.
            if first == 0xFF:
                _, position = _integer(block, position)
        elif first & 0xE0 == 0x20:
            size = first & 0x1F
            if size == 0x1F:
                more, position = _integer(block, position)
                size += more
            # RFC 7541 §4.2, §6.3.
            if lines or size > max_table_bytes:
                raise _undecodable()
        else:
            prefix = 0x3F if first & 0x40 else 0x0F
            index = first & prefix
            if index == prefix:
                _, position = _integer(block, position)
            elif not index:
                position = _string_end(block, position, end)
            position = _string_end(block, position, end)


def literal_end(block: bytes, position: int) -> int:
    """Where an unindexed literal ends (RFC 7541 §6.2.2, §6.2.3). Raises RemoteProtocolError."""
    index = block[position] & 0x0F
    position += 1
    if index == 0x0F:
        _, position = _integer(block, position)
    end = len(block)
    if not index:
        position = _string_end(block, position, end)
    return _string_end(block, position, end)


def _string_end(block: bytes, position: int, end: int) -> int:
    if position >= end:
        raise _undecodable()
    length = block[position] & 0x7F
    position += 1
    if length == 0x7F:
        more, position = _integer(block, position)
        length += more
    position += length
    if position > end:
        raise _undecodable()
    return position


def _integer(block: bytes, position: int) -> tuple[int, int]:
    """What follows a full prefix (RFC 7541 §5.1), and where it ends."""
    value = 0
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        if position >= len(block):
            break
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _undecodable()


def _undecodable() -> RemoteProtocolError:
    return RemoteProtocolError(ErrorCode.COMPRESSION_ERROR, "undecodable header block")
