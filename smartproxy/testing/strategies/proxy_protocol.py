"""Strategies for PROXY headers, versions 1 and 2: as values, as bytes, and as bytes that must be refused."""

from __future__ import annotations

import os
from typing import Literal

from hypothesis import strategies as st

from smartproxy.core.wire.ip_text import canonical_ip
from smartproxy.core.wire.proxy_protocol import (
    SIGNATURE,
    UNIX_PORT,
    AddressFamily,
    ProxyAddress,
    ProxyHeader,
    SslTlv,
    Tlv,
    TlvType,
    TransportProtocol,
    encode_proxy_v1,
    encode_proxy_v2,
)

ports = st.integers(0, 0xFFFF)

AddressPair = tuple[ProxyAddress, ProxyAddress]


def ip_addresses(version: Literal[4, 6] | None = None) -> st.SearchStrategy[str]:
    """IP addresses as sockets spell them."""
    return st.ip_addresses(v=version).map(str).map(canonical_ip)


def ip_endpoints(version: Literal[4, 6] | None = None) -> st.SearchStrategy[ProxyAddress]:
    """An IP address and a port."""
    return st.tuples(ip_addresses(version), ports)


def unix_addresses() -> st.SearchStrategy[ProxyAddress]:
    """Paths of unix sockets, with bytes that are not UTF-8, and abstract names."""
    without_nul = st.binary(min_size=1, max_size=107).map(lambda name: name.replace(b"\0", b"\xff"))
    names = st.one_of(without_nul, without_nul.map(lambda name: b"\0" + name))
    return names.map(lambda name: (os.fsdecode(name), UNIX_PORT))


def address_pairs() -> st.SearchStrategy[tuple[AddressFamily, AddressPair]]:
    """A family, with a source and a destination of it."""
    endpoints = {
        AddressFamily.INET: ip_endpoints(4),
        AddressFamily.INET6: ip_endpoints(6),
        AddressFamily.UNIX: unix_addresses(),
    }
    return st.sampled_from(list(endpoints)).flatmap(
        lambda family: st.tuples(st.just(family), st.tuples(endpoints[family], endpoints[family]))
    )


def ascii_values(max_size: int = 40) -> st.SearchStrategy[bytes]:
    """ASCII text as bytes."""
    return st.text(st.characters(codec="ascii"), max_size=max_size).map(str.encode)


def utf8_values(max_size: int = 40) -> st.SearchStrategy[bytes]:
    """Text as UTF-8 bytes."""
    return st.text(st.characters(codec="utf-8"), max_size=max_size).map(str.encode)


def ssl_tlvs() -> st.SearchStrategy[SslTlv]:
    """The content of an SSL vector, nested vectors included."""
    ascii_types = (
        TlvType.SSL_VERSION,
        TlvType.SSL_CIPHER,
        TlvType.SSL_SIG_ALG,
        TlvType.SSL_KEY_ALG,
        TlvType.SSL_GROUP,
        TlvType.SSL_SIG_SCHEME,
    )
    nested: st.SearchStrategy[Tlv] = st.one_of(
        st.tuples(st.sampled_from(ascii_types).map(int), ascii_values()),
        st.tuples(st.just(int(TlvType.SSL_CN)), utf8_values()),
        st.tuples(st.just(int(TlvType.SSL_CLIENT_CERT)), st.binary(max_size=64)),
        st.tuples(st.integers(0x80, 0xFF), st.binary(max_size=16)),
    )
    return st.builds(
        SslTlv, st.integers(0, 255), st.integers(0, 0xFFFFFFFF), st.lists(nested, max_size=5).map(tuple)
    )


def tlvs(max_size: int = 6) -> st.SearchStrategy[tuple[Tlv, ...]]:
    """Well-formed vectors, of registered types but CRC32C (which an encoder adds) and of unknown ones."""
    registered = {int(tlv_type) for tlv_type in TlvType}
    unknown_types = st.integers(0, 255).filter(lambda tlv_type: tlv_type not in registered)
    one: st.SearchStrategy[Tlv] = st.one_of(
        st.tuples(st.just(int(TlvType.ALPN)), st.sampled_from([b"h2", b"http/1.1", b"h3"])),
        st.tuples(st.just(int(TlvType.AUTHORITY)), utf8_values()),
        st.tuples(st.just(int(TlvType.NOOP)), st.binary(max_size=8)),
        st.tuples(st.just(int(TlvType.UNIQUE_ID)), st.binary(max_size=128)),
        st.tuples(st.just(int(TlvType.SSL)), ssl_tlvs().map(SslTlv.encode)),
        st.tuples(st.just(int(TlvType.NETNS)), ascii_values()),
        st.tuples(unknown_types, st.binary(max_size=40)),
    )
    return st.lists(one, max_size=max_size).map(tuple)


@st.composite
def proxy_headers_v1(draw: st.DrawFn) -> ProxyHeader:
    """What a version 1 line can say."""
    version: Literal[4, 6] | None = draw(st.sampled_from([None, 4, 6]))
    if version is None:
        return ProxyHeader(1, "PROXY", AddressFamily.UNSPEC, TransportProtocol.UNSPEC, None, None)
    family = AddressFamily.INET if version == 4 else AddressFamily.INET6
    source, destination = draw(ip_endpoints(version)), draw(ip_endpoints(version))
    return ProxyHeader(1, "PROXY", family, TransportProtocol.STREAM, source, destination)


@st.composite
def proxy_headers_v2(draw: st.DrawFn) -> ProxyHeader:
    """What a version 2 header can say, without a checksum."""
    vectors = draw(tlvs())
    if draw(st.integers(0, 4)) == 0:
        command: Literal["PROXY", "LOCAL"] = draw(st.sampled_from(["PROXY", "LOCAL"]))
        return ProxyHeader(2, command, AddressFamily.UNSPEC, TransportProtocol.UNSPEC, None, None, vectors)
    family, (source, destination) = draw(address_pairs())
    transport = draw(st.sampled_from([TransportProtocol.STREAM, TransportProtocol.DGRAM]))
    return ProxyHeader(2, "PROXY", family, transport, source, destination, vectors)


def proxy_headers() -> st.SearchStrategy[ProxyHeader]:
    """Headers of either version. `encode_header` makes their bytes."""
    return st.one_of(proxy_headers_v1(), proxy_headers_v2())


def encode_header(header: ProxyHeader, *, crc32c: bool = False) -> bytes:
    """The bytes that say what `header` says; `crc32c` adds a checksum to version 2."""
    if header.version == 1:
        return encode_proxy_v1(header.source, header.destination)
    return encode_proxy_v2(
        header.source,
        header.destination,
        transport=header.transport,
        tlvs=header.tlvs,
        local=header.command == "LOCAL",
        crc32c=crc32c,
    )


def _malformed_v1(source: str, destination: str, source_port: int, destination_port: int) -> list[str]:
    addresses, port_pair = f"{source} {destination}", f"{source_port} {destination_port}"
    return [
        f"proxy TCP4 {addresses} {port_pair}\r\n",
        f"PROXY TCP6 {addresses} {port_pair}\r\n",
        f"PROXY UDP4 {addresses} {port_pair}\r\n",
        f"PROXY tcp4 {addresses} {port_pair}\r\n",
        f"PROXY  TCP4 {addresses} {port_pair}\r\n",
        f"PROXY TCP4 {source}  {destination} {port_pair}\r\n",
        f"PROXY TCP4\t{addresses} {port_pair}\r\n",
        f"PROXY TCP4 {addresses} {port_pair} \r\n",
        f"PROXY TCP4 {addresses} {port_pair}\n",
        f"PROXY TCP4 {addresses} {port_pair}\r\r\n",
        f"PROXY TCP4 {addresses} 0{port_pair}\r\n",
        f"PROXY TCP4 {addresses} {source_port} 65536\r\n",
        f"PROXY TCP4 {addresses} {source_port} -1\r\n",
        f"PROXY TCP4 {addresses} {source_port}\r\n",
        f"PROXY TCP4 0{addresses} {port_pair}\r\n",
        f"PROXY TCP4 {source}.1 {destination} {port_pair}\r\n",
        f"PROXY TCP4 {source} 256.1.1.1 {port_pair}\r\n",
        f"PROXY TCP4 ::1 {destination} {port_pair}\r\n",
        f"PROXY TCP6 ::1%1 ::1 {port_pair}\r\n",
        f"PROXY TCP6 ::1 1::2::3 {port_pair}\r\n",
        f"PROXY TCP6 ::1 {destination} {port_pair}\r\n",
        f"PROXY UNKNOWN{addresses}\r\n",
        f"PROXY UNKNOWN {addresses}\r{port_pair}\r\n",
        f"PROXY UNKNOWN {'f' * 92}\r\n",
        f"PROXY {addresses} {port_pair}\r\n",
        "PROXY\r\n",
    ]


def malformed_proxy_headers_v1() -> st.SearchStrategy[bytes]:
    """Lines with one thing wrong each."""
    lines = st.builds(_malformed_v1, ip_addresses(4), ip_addresses(4), ports, ports)
    return lines.flatmap(st.sampled_from).map(str.encode)


def _with_byte(header: bytes, position: int, value: int) -> bytes:
    return header[:position] + bytes((value,)) + header[position + 1 :]


def _v2_header(family_byte: int, block: bytes) -> bytes:
    return SIGNATURE + bytes((0x21, family_byte)) + len(block).to_bytes(2, "big") + block


@st.composite
def malformed_proxy_headers_v2(draw: st.DrawFn) -> bytes:
    """Binary headers with one thing wrong each."""
    source, destination = draw(ip_endpoints(4)), draw(ip_endpoints(4))
    vectors = draw(tlvs())
    good = encode_proxy_v2(source, destination, tlvs=vectors, crc32c=True)
    checksum_position = len(good) - 4
    block = good[16:28]
    return draw(
        st.sampled_from(
            [
                _with_byte(good, 12, 0x11),
                _with_byte(good, 12, 0x31),
                _with_byte(good, 12, 0x22),
                _with_byte(good, 13, 0x13),
                _with_byte(good, 13, 0x41),
                _with_byte(good, 13, 0x10),
                _with_byte(good, 14, 0xFF),
                _with_byte(good, 16, good[16] ^ 0x10),
                _with_byte(good, checksum_position, good[checksum_position] ^ 1),
                _v2_header(0x11, block[:11]),
                _v2_header(0x21, block),
                _v2_header(0x31, block),
                _v2_header(0x11, block + b"\x01"),
                _v2_header(0x11, block + b"\x01\x00"),
                _v2_header(0x11, block + b"\x01\x00\x03h2"),
                _v2_header(0x11, block + b"\x02\x00\x01\xff"),
                _v2_header(0x11, block + b"\x03\x00\x03\x00\x00\x00"),
                _v2_header(0x11, block + b"\x05\x00\x81" + bytes(129)),
                _v2_header(0x11, block + b"\x20\x00\x04" + bytes(4)),
                _v2_header(0x11, block + b"\x20\x00\x08" + bytes(5) + b"\x21\x00\x01"),
                _v2_header(0x11, block + b"\x30\x00\x01\x80"),
            ]
        )
    )


def malformed_proxy_headers() -> st.SearchStrategy[bytes]:
    """Bytes that begin like a header, or nearly so, and that every decoder must refuse."""
    return st.one_of(malformed_proxy_headers_v1(), malformed_proxy_headers_v2())
