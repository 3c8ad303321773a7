"""QUIC packets that need no connection, and what all versions share (RFC 8999, RFC 9000 §17, RFC 9369)."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smartproxy.core.wire.http3.frames import decode_varint
from smartproxy.core.wire.http3.quic_engine import CONNECTION_ID_BYTES, VERSION_1, VERSION_2

MIN_INITIAL_DATAGRAM_BYTES = 1200
"""RFC 9000 §14.1."""
MAX_CONNECTION_ID_BYTES = 20
MIN_INITIAL_DESTINATION_ID_BYTES = 8
"""RFC 9000 §7.2."""
MIN_STATELESS_RESET_BYTES = 21

_LONG_HEADER = 0x80
_FIXED_BIT = 0x40
_TYPE_BITS = 0x30
# RFC 9001 §5.8 and RFC 9369 §3.3.3.
_RETRY_KEYS = {
    VERSION_1: (
        AESGCM(bytes.fromhex("be0c690b9f66575a1d766b54e368c84e")),
        bytes.fromhex("461599d35d632bf2239825bb"),
    ),
    VERSION_2: (
        AESGCM(bytes.fromhex("8fb4b01b56ac48e260fbcbcead7ccc92")),
        bytes.fromhex("d86969bc2d7c6d9990efb04a"),
    ),
}
_INITIAL_TYPE = {VERSION_1: 0x00, VERSION_2: 0x10}
_RETRY_TYPE = {VERSION_1: 0x30, VERSION_2: 0x00}


class LongHeader:
    """The part of a long header that no version may change (RFC 8999 §5.1)."""

    __slots__ = ("destination_id", "end", "first_byte", "source_id", "version")

    def __init__(
        self, first_byte: int, version: int, destination_id: bytes, source_id: bytes, end: int
    ) -> None:
        self.first_byte = first_byte
        self.version = version
        self.destination_id = destination_id
        self.source_id = source_id
        #: Where in the datagram the version's own part begins.
        self.end = end

    @property
    def is_initial(self) -> bool:
        return bool(self.first_byte & _FIXED_BIT) and self.first_byte & _TYPE_BITS == _INITIAL_TYPE.get(
            self.version, -1
        )


def parse_long_header(data: bytes) -> LongHeader | None:
    """The header of a datagram's first packet; None for a short or broken one."""
    size = len(data)
    if size < 7 or not data[0] & _LONG_HEADER:
        return None
    version = int.from_bytes(data[1:5], "big")
    destination_end = 6 + data[5]
    if destination_end >= size:
        return None
    source_end = destination_end + 1 + data[destination_end]
    if source_end > size:
        return None
    return LongHeader(
        data[0], version, data[6:destination_end], data[destination_end + 1 : source_end], source_end
    )


def short_header_destination(data: bytes) -> bytes | None:
    """The connection ID of ours that a short-header packet goes to; None for a broken one."""
    if len(data) <= CONNECTION_ID_BYTES or data[0] & (_LONG_HEADER | _FIXED_BIT) != _FIXED_BIT:
        return None
    return data[1 : 1 + CONNECTION_ID_BYTES]


def initial_token(data: bytes, header: LongHeader) -> bytes | None:
    """The token of an Initial packet, maybe empty; None for a broken one."""
    length, position = decode_varint(data, header.end)
    if length < 0 or position + length > len(data):
        return None
    return data[position : position + length]


def _long_packet_start(first_byte: int, version: int, destination_id: bytes, source_id: bytes) -> bytes:
    return b"".join(
        (
            bytes((first_byte,)),
            version.to_bytes(4, "big"),
            bytes((len(destination_id),)),
            destination_id,
            bytes((len(source_id),)),
            source_id,
        )
    )


def encode_version_negotiation(header: LongHeader, versions: tuple[int, ...], unused_bits: int) -> bytes:
    """The answer to a packet of an unknown version (RFC 9000 §17.2.1)."""
    start = _long_packet_start(
        _LONG_HEADER | _FIXED_BIT | unused_bits & 0x3F, 0, header.source_id, header.destination_id
    )
    return start + b"".join(version.to_bytes(4, "big") for version in versions)


def encode_retry(header: LongHeader, source_id: bytes, token: bytes, unused_bits: int) -> bytes:
    """The answer that asks an Initial's sender to come back with `token` (RFC 9000 §17.2.5)."""
    first_byte = _LONG_HEADER | _FIXED_BIT | _RETRY_TYPE[header.version] | unused_bits & 0x0F
    packet = _long_packet_start(first_byte, header.version, header.source_id, source_id) + token
    aead, nonce = _RETRY_KEYS[header.version]
    original = header.destination_id
    return packet + aead.encrypt(nonce, b"", bytes((len(original),)) + original + packet)


def encode_stateless_reset(token: bytes, unpredictable: bytes) -> bytes:
    """A datagram that looks like a short-header packet and ends a connection (RFC 9000 §10.3)."""
    return bytes((unpredictable[0] & 0x3F | _FIXED_BIT,)) + unpredictable[1:] + token
