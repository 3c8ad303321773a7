"""PROXY headers: HAProxy's own, each thing that can be wrong, and how early it is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartproxy.core.wire.proxy_protocol import (
    MAX_V1_BYTES,
    SIGNATURE,
    AddressFamily,
    NotProxyProtocol,
    ProxyAddress,
    ProxyHeader,
    ProxyHeaderDecoder,
    ProxyProtocolError,
    SslTlv,
    TlvType,
    TransportProtocol,
    encode_proxy_v1,
    encode_proxy_v2,
)
from smartproxy.core.wire.proxy_protocol.crc32c import crc32c

VECTORS = Path(__file__).parents[1] / "vectors" / "proxy_protocol"
CLIENT = ("198.51.100.7", 50211)
SERVER = ("203.0.113.1", 443)
CLIENT6 = ("2001:db8::7", 50211)
SERVER6 = ("2001:db8::1", 443)


def decode(wire: bytes) -> ProxyHeader:
    decoder = ProxyHeaderDecoder()
    header = decoder.receive_data(wire)
    assert header is not None
    assert decoder.remainder == b""
    return header


def bytes_until_refused(wire: bytes, max_header_bytes: int = 4096) -> tuple[int, type[ProxyProtocolError]]:
    """After how many bytes, coming one by one, the decoder gives up."""
    decoder = ProxyHeaderDecoder(max_header_bytes)
    for count in range(1, len(wire) + 1):
        try:
            decoder.receive_data(wire[count - 1 : count])
        except ProxyProtocolError as error:
            return count, type(error)
    raise AssertionError("never refused")


def version_2(version_and_command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + bytes((version_and_command, family)) + len(block).to_bytes(2, "big") + block


@pytest.mark.parametrize(
    ("name", "source", "destination"),
    [
        ("haproxy_v1_ipv4", ("127.0.0.1", 57836), ("127.0.0.1", 47517)),
        ("haproxy_v1_ipv6", ("::1", 52906), ("::1", 41571)),
        ("haproxy_v2_ipv4", ("127.0.0.1", 37782), ("127.0.0.1", 40313)),
        ("haproxy_v2_ipv6_crc32c", ("::1", 36178), ("::1", 46819)),
        ("haproxy_v2_tls_everything", ("127.0.0.1", 57346), ("127.0.0.1", 53377)),
        ("haproxy_v2_health_check", None, None),
    ],
)
def test_haproxys_addresses(name: str, source: ProxyAddress | None, destination: ProxyAddress | None) -> None:
    header = decode((VECTORS / f"{name}.bin").read_bytes())
    assert (header.source, header.destination) == (source, destination)
    assert header.command == ("PROXY" if source else "LOCAL")
    assert header.version == (1 if "v1" in name else 2)


@pytest.mark.parametrize("name", ["haproxy_v1_ipv4", "haproxy_v1_ipv6", "haproxy_v2_ipv4"])
def test_our_bytes_are_haproxys(name: str) -> None:
    wire = (VECTORS / f"{name}.bin").read_bytes()
    header = decode(wire)
    encode = encode_proxy_v1 if header.version == 1 else encode_proxy_v2
    assert encode(header.source, header.destination) == wire


def test_our_checksum_is_haproxys() -> None:
    wire = (VECTORS / "haproxy_v2_ipv6_crc32c.bin").read_bytes()
    header = decode(wire)
    assert encode_proxy_v2(header.source, header.destination, crc32c=True) == wire
    assert header.crc32c == 0xA46FB0AA


def test_haproxys_vectors_are_readable() -> None:
    header = decode((VECTORS / "haproxy_v2_tls_everything.bin").read_bytes())
    assert header.alpn == b"h2"
    assert header.authority == "app.example.com"
    assert header.unique_id == b"request-127.0.0.1---"
    assert header.crc32c == 0xC91A5BAE
    assert header.netns is None
    ssl = header.ssl
    assert ssl is not None
    assert ssl.over_tls
    assert ssl.client_certificate_on_connection
    assert ssl.client_certificate_in_session
    assert ssl.client_certificate_verified
    assert (ssl.version, ssl.cn) == ("TLSv1.3", "Zoë Client")
    assert (ssl.cipher, ssl.key_alg, ssl.sig_alg) == (
        "TLS_AES_256_GCM_SHA384",
        "EC256",
        "ecdsa-with-SHA256",
    )
    assert (ssl.group, ssl.sig_scheme, ssl.client_certificate) == (None, None, None)


def test_a_certificate_that_was_never_sent_is_not_verified() -> None:
    assert not SslTlv(client_flags=0x01, verify=0).client_certificate_verified
    assert not SslTlv(client_flags=0x03, verify=18).client_certificate_verified


def test_unknown_vectors_stay_readable_in_their_order() -> None:
    vectors = ((0xEA, b"\x01vpce-1"), (TlvType.NOOP, b""), (0xEA, b"second"), (TlvType.NETNS, b"blue"))
    header = decode(encode_proxy_v2(CLIENT, SERVER, tlvs=vectors))
    assert header.tlvs == vectors
    assert header.tlv(0xEA) == b"\x01vpce-1"
    assert header.tlv(0xEB) is None
    assert header.netns == "blue"


def test_the_checksum_algorithm() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_version_1_lines() -> None:
    assert encode_proxy_v1(CLIENT, SERVER) == b"PROXY TCP4 198.51.100.7 203.0.113.1 50211 443\r\n"
    assert encode_proxy_v1(CLIENT6, SERVER6) == b"PROXY TCP6 2001:db8::7 2001:db8::1 50211 443\r\n"
    assert encode_proxy_v1(None, SERVER) == b"PROXY UNKNOWN\r\n"
    assert encode_proxy_v1(("/run/a", -1), ("/run/b", -1)) == b"PROXY UNKNOWN\r\n"


def test_addresses_of_two_families_meet_as_ipv6() -> None:
    mapped = ("::ffff:198.51.100.7", 50211)
    assert decode(encode_proxy_v1(CLIENT, SERVER6)).source == mapped
    assert decode(encode_proxy_v2(CLIENT, SERVER6)).source == mapped
    assert decode(encode_proxy_v2(SERVER6, CLIENT)).destination == mapped


def test_a_zone_is_dropped() -> None:
    assert decode(encode_proxy_v2(("fe80::1%eth0", 1), ("fe80::2%3", 2))).source == ("fe80::1", 1)


def test_addresses_of_one_kind_alone_are_not_written() -> None:
    header = decode(encode_proxy_v2(("/run/client", -1), SERVER))
    assert (header.command, header.family, header.source) == ("PROXY", AddressFamily.UNSPEC, None)


def test_unix_sockets_and_datagrams() -> None:
    header = decode(
        encode_proxy_v2(("\0abstract", -1), ("/run/" + "x" * 103, -1), transport=TransportProtocol.DGRAM)
    )
    assert (header.family, header.transport) == (AddressFamily.UNIX, TransportProtocol.DGRAM)
    assert header.source == ("\0abstract", -1)
    assert header.destination == ("/run/" + "x" * 103, -1)


def test_an_unnamed_unix_socket_and_garbage_after_a_path() -> None:
    block = bytes(108) + b"/run/b\0left over".ljust(108, b"\xff")
    header = decode(version_2(0x21, 0x31, block))
    assert (header.source, header.destination) == (("", -1), ("/run/b", -1))


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (("localhost", 1), SERVER),
        (("1.2.3.4", 65536), SERVER),
        (("1.2.3.4", -2), SERVER),
        (("01.2.3.4", 1), SERVER),
    ],
)
def test_what_is_no_address_is_not_encoded(source: ProxyAddress, destination: ProxyAddress) -> None:
    with pytest.raises(ValueError, match="is not a"):
        encode_proxy_v1(source, destination)
    with pytest.raises(ValueError, match="is not a"):
        encode_proxy_v2(source, destination)


def test_what_does_not_fit_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="path of a unix socket"):
        encode_proxy_v2(("/" + "x" * 108, -1), ("/b", -1))
    with pytest.raises(ValueError, match="more than 65535"):
        encode_proxy_v2(CLIENT, SERVER, tlvs=[(0xE0, bytes(65_536))])
    with pytest.raises(ValueError, match="more than 65535"):
        encode_proxy_v2(CLIENT, SERVER, tlvs=[(0xE0, bytes(65_521))])
    with pytest.raises(ValueError, match="transport"):
        encode_proxy_v2(CLIENT, SERVER, transport=TransportProtocol.UNSPEC)


def test_the_checksum_of_another_header_is_left_out() -> None:
    header = decode(encode_proxy_v2(CLIENT, SERVER, tlvs=[(TlvType.CRC32C, b"\0\0\0\0"), (1, b"h2")]))
    assert header.tlvs == ((1, b"h2"),)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f::1 ffff::ffff 65535 65535\r\n",
        b"PROXY UNKNOWN anything \0\xff at all\r\n",
        b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n",
    ],
)
def test_unknown_carries_no_address(line: bytes) -> None:
    header = decode(line)
    assert (header.version, header.command, header.source) == (1, "PROXY", None)
    assert len(line) <= MAX_V1_BYTES


@pytest.mark.parametrize(
    ("family", "block", "tlvs"),
    [
        (0x00, b"", ()),
        (0x00, b"\x01\x00\x02h2", ((1, b"h2"),)),
        (0x11, bytes(12) + b"\x01\x00\x02h2", ((1, b"h2"),)),
        (0x11, b"short", ()),
        (0x00, b"\x01\xff\xffno vector", ()),
        (0x00, b"\x02\x00\x01\xff", ()),
        (0xFF, b"a family nobody knows", ()),
    ],
)
def test_local_is_accepted_whatever_its_block(
    family: int, block: bytes, tlvs: tuple[tuple[int, bytes], ...]
) -> None:
    header = decode(version_2(0x20, family, block))
    assert (header.command, header.family, header.source) == ("LOCAL", AddressFamily.UNSPEC, None)
    assert header.tlvs == tlvs


def test_a_wrong_checksum_is_refused_in_local_too() -> None:
    with pytest.raises(ProxyProtocolError, match="CRC32C"):
        decode(version_2(0x20, 0, b"\x03\x00\x04\0\0\0\0"))


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (b"\x01", "cut off"),
        (b"\x01\x00", "cut off"),
        (b"\x01\x00\x03h2", "0x01 is longer"),
        (b"\xe0\xff\xff", "0xe0 is longer"),
        (b"\x02\x00\x01\xff", "0x02 is not text"),
        (b"\x30\x00\x01\x80", "0x30 is not text"),
        (b"\x03\x00\x03\x00\x00\x00", "CRC32C TLV has 3"),
        (b"\x03\x00\x04\x00\x00\x00\x00", "CRC32C is"),
        (b"\x05\x00\x81" + bytes(129), "unique ID has 129"),
        (b"\x20\x00\x04" + bytes(4), "SSL TLV has 4"),
        (b"\x20\x00\x07" + bytes(5) + b"\x21\x00", "cut off"),
        (b"\x20\x00\x09" + bytes(5) + b"\x21\x00\x02a", "0x21 is longer"),
        (b"\x20\x00\x09" + bytes(5) + b"\x22\x00\x01\xff", "0x22 is not text"),
    ],
)
def test_malformed_vectors(vectors: bytes, reason: str) -> None:
    addresses = encode_proxy_v2(CLIENT, SERVER)[16:]
    with pytest.raises(ProxyProtocolError, match=reason):
        decode(version_2(0x21, 0x11, addresses + vectors))


def test_two_checksums_are_refused() -> None:
    with pytest.raises(ProxyProtocolError, match="two"):
        decode(version_2(0x20, 0, b"\x03\x00\x04\0\0\0\0" * 2))


@pytest.mark.parametrize(
    ("wire", "count", "error"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1, NotProxyProtocol),
        (b"POST / HTTP/1.1\r\n\r\n", 2, NotProxyProtocol),
        (b"PRI * HTTP/2.0\r\n\r\n", 3, NotProxyProtocol),
        (b"PROPFIND / HTTP/1.1\r\n\r\n", 4, NotProxyProtocol),
        (b"\x16\x03\x01\x02\x00", 1, NotProxyProtocol),
        (b"\r\nGET / HTTP/1.1\r\n", 3, NotProxyProtocol),
        (b"\r\n\r\n\0\r\nQUIT\r\n", 12, NotProxyProtocol),
        (b"PROXYING\r\n", 6, ProxyProtocolError),
        (b"PROXY HTTP/1.1\r\n", 7, ProxyProtocolError),
        (b"PROXY TCP5 ", 10, ProxyProtocolError),
        (b"PROXY TCP4 ::1", 12, ProxyProtocolError),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 65536", 33, ProxyProtocolError),
        (b"PROXY UNKNOWNS", 14, ProxyProtocolError),
        (b"PROXY UNKNOWN \n", 15, ProxyProtocolError),
        (b"PROXY UNKNOWN \rx", 16, ProxyProtocolError),
        (b"PROXY UNKNOWN " + b"x" * 200, MAX_V1_BYTES, ProxyProtocolError),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", 31, ProxyProtocolError),
        (SIGNATURE + b"\x11", 13, ProxyProtocolError),
        (SIGNATURE + b"\x2f", 13, ProxyProtocolError),
        (SIGNATURE + b"\x21\x14", 14, ProxyProtocolError),
        (SIGNATURE + b"\x21\x11\x0f\xf1", 16, ProxyProtocolError),
        (SIGNATURE + b"\x21\x11\x00\x0b", 16, ProxyProtocolError),
        (SIGNATURE + b"\x21\x31\x00\x24", 16, ProxyProtocolError),
    ],
)
def test_refusal_comes_as_early_as_it_can(wire: bytes, count: int, error: type[ProxyProtocolError]) -> None:
    assert bytes_until_refused(wire + b"\r\n") == (count, error)


def test_what_is_no_header_can_be_replayed() -> None:
    decoder = ProxyHeaderDecoder()
    assert decoder.receive_data(b"PR") is None
    with pytest.raises(NotProxyProtocol):
        decoder.receive_data(b"I * HTTP/2.0\r\n")
    assert decoder.buffered == b"PRI * HTTP/2.0\r\n"


def test_the_bound_is_the_callers() -> None:
    wire = encode_proxy_v2(CLIENT, SERVER, tlvs=[(0xE0, bytes(5000))])
    assert len(wire) == 5031
    assert bytes_until_refused(wire) == (16, ProxyProtocolError)
    assert ProxyHeaderDecoder(max_header_bytes=5031).receive_data(wire) is not None
    assert bytes_until_refused(wire, 5030) == (16, ProxyProtocolError)


@pytest.mark.parametrize("wire", [b"PROXY UNKNOWN\r\n", b"PROXY \n", b"GET"])
def test_a_finished_decoder_takes_no_more(wire: bytes) -> None:
    decoder = ProxyHeaderDecoder()
    try:
        decoder.receive_data(wire)
    except ProxyProtocolError:
        assert decoder.remainder == b""
    with pytest.raises(RuntimeError):
        decoder.receive_data(b"more")
