"""HPACK (RFC 7541) by a library's coder, which is asked only for what cannot be remembered.

Clients and servers repeat themselves: once a line is in a header table, it is the same byte or
two until the table changes. So both directions remember, for as long as their table stays as it
is, what those bytes stand for. Whatever changes a table goes through the library, which alone
knows what is in it.
"""

from __future__ import annotations

from typing import Any

import hpack

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.field_sections import LINE_OVERHEAD_BYTES
from smartproxy.core.wire.http2.errors import ErrorCode, RemoteProtocolError
from smartproxy.core.wire.http2.header_blocks import check_header_block, literal_end
from smartproxy.core.wire.http2.heads import EncodedLine, FieldLine, NeverIndexedField
from smartproxy.core.wire.http2.limits import HEADER_TABLE_BYTES, Http2Limits

_OVERSIZED: tuple[type[Exception], ...] = (hpack.OversizedHeaderListError,)
_DAMAGED: tuple[type[Exception], ...] = (hpack.HPACKError,)
try:
    import jh2._hazmat
except ImportError:
    # The extra `fast` is not installed, or not built for this platform.
    COMPILED_CODER_IS_THERE = False
else:
    COMPILED_CODER_IS_THERE = True
    _OVERSIZED += (jh2._hazmat.OversizedHeaderListError,)
    _DAMAGED += (jh2._hazmat.HPACKError,)

_STATIC_LINES = 61
_MAX_REMEMBERED_LITERALS = 64
_MAX_REMEMBERED_LITERAL_BYTES = 256
_MAX_NOTED_LINES = 64
# What a byte of a Huffman code (RFC 7541 §5.2) can stand for, rounded up.
_MAX_EXPANSION = 2

_WITHOUT_INDEXING = 0x00
_NEVER_INDEXED = 0x10
_INDEXED = 0x80


def _static_table() -> list[FieldLine]:
    """RFC 7541 Appendix A, from the library."""
    block = bytes(_INDEXED | index for index in range(1, _STATIC_LINES + 1))
    return [(bytes(name), bytes(value)) for name, value in hpack.Decoder().decode(block, raw=True)]


_STATIC_TABLE = _static_table()
#: By first byte of a representation; bytes without a meaning of their own have None.
_STATIC_BY_FIRST_BYTE: list[FieldLine | None] = [
    _STATIC_TABLE[byte - 0x81] if 0x81 <= byte <= 0x80 + _STATIC_LINES else None for byte in range(256)
]
_STATIC_INDICES = {line: index + 1 for index, line in reversed(list(enumerate(_STATIC_TABLE)))}
_STATIC_NAME_INDICES = {line[0]: index + 1 for index, line in reversed(list(enumerate(_STATIC_TABLE)))}


class HeaderDecoder:
    """The receiving direction of a connection's header compression."""

    __slots__ = ("_by_first_byte", "_compiled", "_library", "_literals", "_max_bytes", "_max_lines")

    def __init__(self, limits: Http2Limits, *, compiled: bool) -> None:
        self._max_bytes = 2 * limits.header_bytes
        self._max_lines = 4 * limits.header_count
        self._compiled = compiled
        self._library: Any = jh2._hazmat.Decoder() if compiled else hpack.Decoder()
        self._library.max_header_list_size = self._max_bytes
        self._library.max_allowed_table_size = HEADER_TABLE_BYTES
        #: Lines whose index is their only byte, in the table as it is.
        self._by_first_byte = _STATIC_BY_FIRST_BYTE
        #: Literals that leave the table as it is (RFC 7541 §6.2.2, §6.2.3).
        self._literals: dict[bytes, FieldLine] = {}

    def decode(self, block: bytes) -> Fields:
        """The lines of a whole header block, NeverIndexedField where so sent. Raises RemoteProtocolError."""
        end = len(block)
        if end > self._max_lines:
            # No line takes less than a byte: shorter blocks cannot have too many.
            check_header_block(block, HEADER_TABLE_BYTES, self._max_lines)
        by_first_byte = self._by_first_byte
        lines: Fields = []
        position = 0
        while position < end:
            first = block[position]
            line = by_first_byte[first]
            if line is not None:
                lines.append(line)
                position += 1
            elif first < 0x20:
                line_end = literal_end(block, position)
                representation = block[position:line_end]
                line = self._literals.get(representation)
                lines.append(line if line is not None else self._decode_literal(representation))
                position = line_end
            elif 0x80 < first < 0xFF:
                lines.append(self._decode_index(first))
                by_first_byte = self._by_first_byte
                position += 1
            else:
                if lines and first & 0xE0 == 0x20:
                    # RFC 7541 §4.2: a table's size changes before the first line.
                    raise _undecodable()
                lines += self._decode_rest(block[position:])
                break
        if (
            len(lines) * HEADER_TABLE_BYTES + _MAX_EXPANSION * end > self._max_bytes
            and sum([len(name) + len(value) + LINE_OVERHEAD_BYTES for name, value in lines]) > self._max_bytes
        ):
            raise _too_large()
        return lines

    def _decode_index(self, first: int) -> FieldLine:
        [line] = self._decode(bytes((first,)))
        if self._by_first_byte is _STATIC_BY_FIRST_BYTE:
            self._by_first_byte = _STATIC_BY_FIRST_BYTE.copy()
        self._by_first_byte[first] = line
        return line

    def _decode_literal(self, representation: bytes) -> FieldLine:
        [line] = self._decode(representation)
        if len(representation) <= _MAX_REMEMBERED_LITERAL_BYTES:
            if len(self._literals) >= _MAX_REMEMBERED_LITERALS:
                self._literals.clear()
            self._literals[representation] = line
        return line

    def _decode_rest(self, rest: bytes) -> Fields:
        """What begins with a change of the table, after which nothing is what it was."""
        check_header_block(rest, HEADER_TABLE_BYTES, self._max_lines)
        self._by_first_byte = _STATIC_BY_FIRST_BYTE
        self._literals.clear()
        return self._decode(rest)

    def _decode(self, block: bytes) -> Fields:
        try:
            decoded: list[Any] = self._library.decode(block, True)
        except _OVERSIZED:
            raise _too_large() from None
        except _DAMAGED:
            raise _undecodable() from None
        if self._compiled:
            return [
                NeverIndexedField((name, value)) if never_indexed else (name, value)
                for name, value, never_indexed in decoded
            ]
        return [
            (line[0], line[1]) if type(line) is hpack.HeaderTuple else NeverIndexedField(line)
            for line in decoded
        ]


class HeaderEncoder:
    """The sending direction.

    A line enters the table when it is sent for the second time, so that what is different in each
    message (dates, lengths, identifiers) does not drive out what is not.
    """

    __slots__ = ("_library", "_noted", "_remembered", "_size_update_due", "_table_bytes")

    def __init__(self, *, compiled: bool) -> None:
        self._library: Any = jh2._hazmat.Encoder() if compiled else hpack.Encoder()
        self._table_bytes = HEADER_TABLE_BYTES
        self._size_update_due = False
        #: What stands for a line that is in a table, for as long as the dynamic one stays as it is.
        self._remembered: dict[EncodedLine, bytes] = {}
        #: Hashes of lines sent of late.
        self._noted: set[int] = set()

    def resize_table(self, table_bytes: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE (RFC 7541 §4.2)."""
        self._table_bytes = min(table_bytes, HEADER_TABLE_BYTES)
        self._library.header_table_size = self._table_bytes
        self._remembered.clear()
        self._size_update_due = True

    def encode(self, lines: list[EncodedLine]) -> bytes:
        """A whole header block."""
        remembered = self._remembered
        parts = []
        if self._size_update_due:
            self._size_update_due = False
            parts.append(bytes(self._library.encode([])))
        for line in lines:
            representation = remembered.get(line)
            parts.append(representation if representation is not None else self._encode_line(line))
        return b"".join(parts)

    def _encode_line(self, line: EncodedLine) -> bytes:
        name, value, never_indexed = line
        if never_indexed:
            return _literal(_NEVER_INDEXED, name, value)
        index = _STATIC_INDICES.get((name, value))
        if index is not None:
            representation = bytes((_INDEXED | index,))
            self._remembered[line] = representation
            return representation
        noted = self._noted
        mark = hash(line)
        if mark not in noted or 2 * (len(name) + len(value) + LINE_OVERHEAD_BYTES) > self._table_bytes:
            if len(noted) >= _MAX_NOTED_LINES:
                noted.clear()
            noted.add(mark)
            return _literal(_WITHOUT_INDEXING, name, value)
        representation = bytes(self._library.encode([line]))
        if representation[0] & _INDEXED:
            self._remembered[line] = representation
        else:
            self._remembered.clear()
        return representation


def _literal(pattern: int, name: bytes, value: bytes) -> bytes:
    """A literal that leaves every table as it is (RFC 7541 §6.2.2, §6.2.3)."""
    index = _STATIC_NAME_INDICES.get(name)
    if index is None:
        return b"".join(
            (bytes((pattern,)), _integer(0, 7, len(name)), name, _integer(0, 7, len(value)), value)
        )
    return b"".join((_integer(pattern, 4, index), _integer(0, 7, len(value)), value))


def _integer(pattern: int, prefix_bits: int, value: int) -> bytes:
    """RFC 7541 §5.1."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((pattern | value,))
    written = bytearray((pattern | limit,))
    value -= limit
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _too_large() -> RemoteProtocolError:
    return RemoteProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")


def _undecodable() -> RemoteProtocolError:
    return RemoteProtocolError(ErrorCode.COMPRESSION_ERROR, "undecodable header block")
