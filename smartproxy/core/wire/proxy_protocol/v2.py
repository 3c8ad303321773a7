"""Version 2: a binary header with type-length-value vectors (§2.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Literal

from smartproxy.core.wire.ip_text import ipv4_text, ipv6_text
from smartproxy.core.wire.proxy_protocol.addresses import (
    UNIX_PORT,
    ProxyAddress,
    pack_ip_pair,
    pack_unix_path,
    unix_path_text,
)
from smartproxy.core.wire.proxy_protocol.crc32c import crc32c as checksum
from smartproxy.core.wire.proxy_protocol.errors import ProxyProtocolError
from smartproxy.core.wire.proxy_protocol.header import AddressFamily, ProxyHeader, TransportProtocol
from smartproxy.core.wire.proxy_protocol.tlv import (
    CRC32C_BYTES,
    TLV_HEAD_BYTES,
    Tlv,
    TlvType,
    check_tlv_values,
    encode_tlvs,
    split_tlvs,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED_BYTES = 16
"""The signature, version and command, family and transport, and length."""

_VERSION_AND_LOCAL = 0x20
_VERSION_AND_PROXY = 0x21
_FIXED_TAIL = struct.Struct(">BBH")
_INET_BLOCK = struct.Struct(">4s4sHH")
_INET6_BLOCK = struct.Struct(">16s16sHH")
_UNIX_BLOCK = struct.Struct(">108s108s")
_BLOCK_BYTES = {
    AddressFamily.UNSPEC: 0,
    AddressFamily.INET: _INET_BLOCK.size,
    AddressFamily.INET6: _INET6_BLOCK.size,
    AddressFamily.UNIX: _UNIX_BLOCK.size,
}
_FAMILIES = {
    family << 4 | transport: (family, transport)
    for family in (AddressFamily.INET, AddressFamily.INET6, AddressFamily.UNIX)
    for transport in (TransportProtocol.STREAM, TransportProtocol.DGRAM)
}
_FAMILIES[0] = (AddressFamily.UNSPEC, TransportProtocol.UNSPEC)
_UNSPECIFIED = _FAMILIES[0]


def header_length(data: bytes, max_bytes: int) -> int:
    """How long the header is that `data` begins with, or 0 while its length field is not there.

    Raises ProxyProtocolError as soon as the version, the command, the family or the
    length rules the header out.
    """
    if len(data) > 12 and data[12] not in (_VERSION_AND_PROXY, _VERSION_AND_LOCAL):
        raise ProxyProtocolError(f"version and command 0x{data[12]:02x}")
    # §2.2: LOCAL's family is ignored, so it may be anything.
    if len(data) > 13 and data[12] == _VERSION_AND_PROXY and data[13] not in _FAMILIES:
        raise ProxyProtocolError(f"family and transport 0x{data[13]:02x}")
    if len(data) < FIXED_BYTES:
        return 0
    length = FIXED_BYTES + (data[14] << 8 | data[15])
    if length > max_bytes:
        raise ProxyProtocolError(f"a header of {length} bytes, more than {max_bytes}")
    if data[12] == _VERSION_AND_PROXY:
        block_bytes = _BLOCK_BYTES[_FAMILIES[data[13]][0]]
        if length < FIXED_BYTES + block_bytes:
            raise ProxyProtocolError(f"{length - FIXED_BYTES} bytes for addresses of {block_bytes}")
    return length


def decode_v2(data: bytes, length: int) -> ProxyHeader:
    """The header in `data[:length]`, where `length` is what `header_length` said.

    Raises ProxyProtocolError for malformed vectors or a wrong checksum.
    """
    if data[12] == _VERSION_AND_LOCAL or data[13] == 0:
        return _decode_without_addresses(data, length)
    family, transport = _FAMILIES[data[13]]
    source: ProxyAddress
    destination: ProxyAddress
    if family == AddressFamily.INET:
        source_packed, destination_packed, source_port, destination_port = _INET_BLOCK.unpack_from(data, 16)
        source = (ipv4_text(source_packed), source_port)
        destination = (ipv4_text(destination_packed), destination_port)
        position = FIXED_BYTES + _INET_BLOCK.size
    elif family == AddressFamily.INET6:
        source_packed, destination_packed, source_port, destination_port = _INET6_BLOCK.unpack_from(data, 16)
        source = (ipv6_text(source_packed), source_port)
        destination = (ipv6_text(destination_packed), destination_port)
        position = FIXED_BYTES + _INET6_BLOCK.size
    else:
        source_path, destination_path = _UNIX_BLOCK.unpack_from(data, 16)
        source = (unix_path_text(source_path), UNIX_PORT)
        destination = (unix_path_text(destination_path), UNIX_PORT)
        position = FIXED_BYTES + _UNIX_BLOCK.size
    tlvs: tuple[Tlv, ...] = ()
    if position < length:
        tlvs = split_tlvs(data, position, length)
        check_tlv_values(tlvs)
        _verify_checksum(data, position, length, tlvs)
    return ProxyHeader(2, "PROXY", family, transport, source, destination, tlvs)


def _decode_without_addresses(data: bytes, length: int) -> ProxyHeader:
    command: Literal["PROXY", "LOCAL"] = "PROXY" if data[12] == _VERSION_AND_PROXY else "LOCAL"
    family, _ = _FAMILIES.get(data[13], _UNSPECIFIED)
    position = FIXED_BYTES + _BLOCK_BYTES[family]
    # §2.2: the block of such a header is to be discarded, so whatever else stands there is no fault.
    try:
        tlvs = split_tlvs(data, position, length)
        check_tlv_values(tlvs)
    except ProxyProtocolError:
        tlvs = ()
    _verify_checksum(data, position, length, tlvs)
    return ProxyHeader(2, command, AddressFamily.UNSPEC, TransportProtocol.UNSPEC, None, None, tlvs)


def _verify_checksum(data: bytes, position: int, length: int, tlvs: tuple[Tlv, ...]) -> None:
    """Check the CRC32C vector, if there is one, among the `tlvs` that start at `position` (§2.2.3)."""
    value_position = -1
    for tlv_type, value in tlvs:
        if tlv_type == TlvType.CRC32C:
            if value_position >= 0:
                raise ProxyProtocolError("two CRC32C TLVs")
            value_position = position + TLV_HEAD_BYTES
        position += TLV_HEAD_BYTES + len(value)
    if value_position < 0:
        return
    value_end = value_position + CRC32C_BYTES
    told = int.from_bytes(data[value_position:value_end], "big")
    found = checksum(data[:value_position] + bytes(CRC32C_BYTES) + data[value_end:length])
    if told != found:
        raise ProxyProtocolError(f"the header's CRC32C is {found:08x}, but it says {told:08x}")


def encode_proxy_v2(
    source: ProxyAddress | None,
    destination: ProxyAddress | None,
    *,
    transport: TransportProtocol = TransportProtocol.STREAM,
    tlvs: Iterable[Tlv] = (),
    local: bool = False,
    crc32c: bool = False,
) -> bytes:
    """The header that says a connection goes from `source` to `destination`.

    An IPv4 address beside an IPv6 one is written IPv4-mapped. Without both addresses,
    or for a unix socket beside an IP address, the header says UNSPEC. `local` says that
    the connection is the proxy's own; addresses are not written then. `crc32c` adds
    the checksum; a CRC32C among `tlvs`, which belonged to another header, is left out.

    Raises ValueError for what the format cannot hold: no IP address, a port not in
    0-65535, a unix path over 108 bytes, TLVs over 65,535 bytes, transport UNSPEC
    with addresses.
    """
    vectors = encode_tlvs(tlv for tlv in tlvs if tlv[0] != TlvType.CRC32C)
    family_byte, block = (0, b"") if local else _address_block(source, destination, transport)
    length = len(block) + len(vectors) + (TLV_HEAD_BYTES + CRC32C_BYTES if crc32c else 0)
    if length > 0xFFFF:
        raise ValueError(f"a header of {length} bytes after its length field, more than 65535")
    version_and_command = _VERSION_AND_LOCAL if local else _VERSION_AND_PROXY
    header = SIGNATURE + _FIXED_TAIL.pack(version_and_command, family_byte, length) + block + vectors
    if crc32c:
        header += bytes((TlvType.CRC32C, 0, CRC32C_BYTES))
        header += checksum(header + bytes(CRC32C_BYTES)).to_bytes(CRC32C_BYTES, "big")
    return header


def _address_block(
    source: ProxyAddress | None, destination: ProxyAddress | None, transport: TransportProtocol
) -> tuple[int, bytes]:
    """The family and transport byte, and the block of addresses that goes with it."""
    if source is None or destination is None or (source[1] == UNIX_PORT) != (destination[1] == UNIX_PORT):
        return 0, b""
    if transport == TransportProtocol.UNSPEC:
        raise ValueError("addresses need a transport protocol")
    if source[1] == UNIX_PORT:
        block = _UNIX_BLOCK.pack(pack_unix_path(source[0]), pack_unix_path(destination[0]))
        return AddressFamily.UNIX << 4 | transport, block
    source_packed, destination_packed = pack_ip_pair(source, destination)
    if len(source_packed) == 4:
        block = _INET_BLOCK.pack(source_packed, destination_packed, source[1], destination[1])
        return AddressFamily.INET << 4 | transport, block
    block = _INET6_BLOCK.pack(source_packed, destination_packed, source[1], destination[1])
    return AddressFamily.INET6 << 4 | transport, block
