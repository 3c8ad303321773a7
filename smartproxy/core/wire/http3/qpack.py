"""QPACK (RFC 9204) within bounds: what a section may cost is known before it is decoded."""

from __future__ import annotations

from collections.abc import Iterable

import pylsqpack

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http3.errors import ErrorCode, RefusedRequest, RemoteProtocolError
from smartproxy.core.wire.http3.limits import Http3Limits

_MOST_BLOCKED_STREAMS = 0xFFFF
# A browser sends each cookie as a field line of its own (RFC 9114 §4.2.1).
_CRUMBS_PER_FIELD = 4


class SectionBlockedError(Exception):
    """The section refers to table entries that have not arrived (RFC 9204 §2.1.2)."""


class QpackDecoder:
    """Decodes field sections. A field line's dynamic table reference can stand for as much as
    the whole table holds, so the lines are counted in the encoded section first.
    """

    __slots__ = ("_capacity", "_decoder", "_most_lines")

    def __init__(self, limits: Http3Limits) -> None:
        self._decoder = pylsqpack.Decoder(limits.dynamic_table_bytes, limits.blocked_streams)
        self._capacity = limits.dynamic_table_bytes
        self._most_lines = limits.header_count * _CRUMBS_PER_FIELD

    def decode(self, stream_id: int, section: bytes) -> tuple[bytes, Fields]:
        """What to send on the decoder stream, and the fields.

        Raises SectionBlockedError, RefusedRequest for too many lines, RemoteProtocolError.
        """
        # A line is one byte at least.
        most = self._most_lines
        if len(section) > most and count_field_lines(section, most) > most:
            raise RefusedRequest(431, "too many fields")
        try:
            instructions, fields = self._decoder.feed_header(stream_id, section)
        except pylsqpack.StreamBlocked:
            raise SectionBlockedError from None
        except pylsqpack.DecompressionFailed:
            raise RemoteProtocolError(ErrorCode.QPACK_DECOMPRESSION_FAILED, "undecodable section") from None
        return instructions, fields

    def resume(self, stream_id: int) -> tuple[bytes, Fields]:
        """As `decode`, for a stream that `receive_encoder_data` named."""
        try:
            instructions, fields = self._decoder.resume_header(stream_id)
        except pylsqpack.DecompressionFailed:
            raise RemoteProtocolError(ErrorCode.QPACK_DECOMPRESSION_FAILED, "undecodable section") from None
        return instructions, fields

    def cancel(self, stream_id: int) -> bytes:
        """What to send on the decoder stream about a stream nobody reads any more (RFC 9204 §2.2.2.2)."""
        # RFC 9204 §4.4.2: without a dynamic table there is nothing to cancel.
        return self._decoder.cancel_stream(stream_id) if self._capacity else b""

    def receive_encoder_data(self, data: bytes) -> Iterable[int]:
        """Take the peer's encoder stream; the streams that are no longer blocked."""
        try:
            return self._decoder.feed_encoder(data)
        except pylsqpack.EncoderStreamError:
            raise RemoteProtocolError(ErrorCode.QPACK_ENCODER_STREAM_ERROR, "bad encoder stream") from None


class QpackEncoder:
    """Encodes field sections, with the peer's dynamic table if it is no larger than we care to hold."""

    __slots__ = ("_encoder", "_table_bytes")

    def __init__(self, table_bytes: int) -> None:
        self._encoder = pylsqpack.Encoder()
        self._table_bytes = table_bytes

    def apply_settings(self, max_table_capacity: int, blocked_streams: int) -> bytes:
        """What to send on the encoder stream after the peer's SETTINGS."""
        # A smaller table of our own choice would need an encoder that knows both sizes: the larger one
        # is part of how insert counts are written (RFC 9204 §4.5.1.1).
        if max_table_capacity > self._table_bytes:
            return b""
        return self._encoder.apply_settings(max_table_capacity, min(blocked_streams, _MOST_BLOCKED_STREAMS))

    def encode(self, stream_id: int, fields: Fields) -> tuple[bytes, bytes]:
        """What to send on the encoder stream, and the section."""
        return self._encoder.encode(stream_id, fields)

    def receive_decoder_data(self, data: bytes) -> None:
        """Take the peer's decoder stream. Raises RemoteProtocolError."""
        try:
            self._encoder.feed_decoder(data)
        except pylsqpack.DecoderStreamError:
            raise RemoteProtocolError(ErrorCode.QPACK_DECODER_STREAM_ERROR, "bad decoder stream") from None


def count_field_lines(section: bytes, enough: int) -> int:
    """Field lines of an encoded section (RFC 9204 §4.5), counted to `enough` + 1 at most.

    A malformed section counts as far as it can be read: the decoder is the one to refuse it.
    """
    end = len(section)
    position = _skip_integer(section, 0, end, 0xFF)
    position = _skip_integer(section, position, end, 0x7F)
    lines = 0
    while position < end and lines <= enough:
        lines += 1
        first = section[position]
        if first & 0x80:
            position = _skip_integer(section, position, end, 0x3F)
            continue
        if first & 0x40:
            position = _skip_integer(section, position, end, 0x0F)
        elif first & 0x20:
            position = _skip_string(section, position, end, 0x07)
        elif first & 0x10:
            position = _skip_integer(section, position, end, 0x0F)
            continue
        else:
            position = _skip_integer(section, position, end, 0x07)
        position = _skip_string(section, position, end, 0x7F)
    return lines


def _skip_integer(section: bytes, position: int, end: int, mask: int) -> int:
    if position >= end:
        return end
    value = section[position] & mask
    position += 1
    if value == mask:
        while position < end and section[position] & 0x80:
            position += 1
        position += 1
    return position


def _skip_string(section: bytes, position: int, end: int, mask: int) -> int:
    if position >= end:
        return end
    length = section[position] & mask
    position += 1
    if length == mask:
        shift = 0
        while position < end:
            byte = section[position]
            position += 1
            # RFC 9204 §4.1.1: 62 bits.
            if shift < 63:
                length += (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
    return position + length
