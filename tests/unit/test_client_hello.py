"""ClientHellos: those of real clients, each thing that can be wrong with its alert, bounds, and cost."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from smartproxy.core.wire.client_hello import (
    AlertDescription,
    AlertLevel,
    ClientHello,
    ClientHelloDecoder,
    ClientHelloError,
    encode_alert,
    looks_like_tls,
    parse_client_hello_body,
)
from smartproxy.testing.strategies.client_hello import (
    Extension,
    alpn_extension,
    build_client_hello,
    client_hello_body,
    handshake_message,
    in_records,
    key_share_extension,
    openssl_client_hello,
    server_name_extension,
    supported_versions_extension,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "client_hello"
EXPECTED: dict[str, dict[str, Any]] = json.loads((VECTORS / "expected.json").read_text())

DECODE_ERROR = AlertDescription.DECODE_ERROR
UNEXPECTED_MESSAGE = AlertDescription.UNEXPECTED_MESSAGE
ILLEGAL_PARAMETER = AlertDescription.ILLEGAL_PARAMETER


def decode(wire: bytes, limit_bytes: int = 64 * 1024) -> ClientHello:
    hello = ClientHelloDecoder(limit_bytes).receive_data(wire)
    assert hello is not None
    return hello


def parse(*extensions: Extension) -> ClientHello:
    return parse_client_hello_body(client_hello_body(extensions))


def test_every_vector_is_expected() -> None:
    assert {path.name for path in VECTORS.glob("*.bin")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_hellos_of_real_clients(name: str) -> None:
    expected = EXPECTED[name]
    wire = (VECTORS / name).read_bytes()
    hello = decode(wire)
    assert hello.server_name == expected["server_name"]
    assert [protocol.decode() for protocol in hello.alpn_protocols[: len(expected["alpn"])]] == expected[
        "alpn"
    ]
    assert len(hello.alpn_protocols) == expected["alpn_count"]
    assert hello.max_version == expected["max_version"]
    assert hello.has_ech is expected["has_ech"]
    assert len(hello.extension_types) == expected["extensions"]
    assert hello.raw_length_bytes == len(wire)


@pytest.mark.parametrize("name", EXPECTED)
def test_hellos_of_real_clients_in_small_segments(name: str) -> None:
    wire = (VECTORS / name).read_bytes()
    decoder = ClientHelloDecoder()
    hellos = [decoder.receive_data(wire[start : start + 7]) for start in range(0, len(wire), 7)]
    assert hellos[:-1] == [None] * (len(hellos) - 1)
    assert hellos[-1] == decode(wire)
    assert decoder.buffered == wire


def test_a_post_quantum_hello_over_16_kib_spread_over_records_of_any_size() -> None:
    extensions = [key_share_extension(share_bytes=30_000)]
    wire = build_client_hello("big.example", [b"h2"], extensions=extensions, record_sizes=[1, 3, 500, 16_384])
    assert len(wire) > 30_000
    hello = decode(wire)
    assert (hello.server_name, hello.alpn_protocols) == ("big.example", (b"h2",))
    assert hello.raw_length_bytes == len(wire)


def test_openssl_without_a_name_or_alpn() -> None:
    hello = decode(openssl_client_hello(None))
    assert (hello.server_name, hello.alpn_protocols) == (None, ())


def test_what_follows_the_hello_stays_in_the_buffer() -> None:
    wire = build_client_hello()
    decoder = ClientHelloDecoder()
    hello = decoder.receive_data(wire + b"\x17\x03\x03early data")
    assert hello is not None
    assert hello.raw_length_bytes == len(wire)
    assert decoder.buffered == wire + b"\x17\x03\x03early data"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"Example.COM", "example.com"),
        (b"example.com.", "example.com"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"_sip._tls.a--b.example", "_sip._tls.a--b.example"),
        (b"localhost", "localhost"),
        (b"1.2.3", "1.2.3"),
        (b"a" * 63 + b".example", "a" * 63 + ".example"),
        (b".".join([b"a" * 49] * 5) + b".abc", ".".join(["a" * 49] * 5) + ".abc"),
        # An address names no host (RFC 6066 §3).
        (b"192.0.2.1", None),
        (b"2001:db8::1", None),
    ],
)
def test_server_names(sent: bytes, read: str | None) -> None:
    assert parse(server_name_extension(sent)).server_name == read


@pytest.mark.parametrize(
    "name",
    [
        b".",
        b".example.com",
        b"example..com",
        b"example.com..",
        b"a b",
        b"a/b",
        b"a\0.example",
        b"a\r\n.example",
        b"*.example.com",
        b"b\xc3\xbccher.example",
        b"192.0.2.1:443",
        b"[2001:db8::1]",
        b"a" * 64 + b".example",
        b".".join([b"a" * 49] * 5) + b".abcd",
        b"a." * 4000,
    ],
)
def test_names_that_are_no_host_names(name: bytes) -> None:
    with pytest.raises(ClientHelloError) as refusal:
        parse(server_name_extension(name))
    assert refusal.value.alert == ILLEGAL_PARAMETER


@pytest.mark.parametrize(
    ("versions", "legacy", "expected"),
    [
        ((0x0304, 0x0303), 0x0303, "TLSv1.3"),
        ((0x0A0A, 0x0303, 0x0304), 0x0303, "TLSv1.3"),
        ((0x0303,), 0x0303, "TLSv1.2"),
        ((0x7F1C, 0x9A9A), 0x0303, None),
        ((), 0x0304, "TLSv1.2"),
        ((), 0x0303, "TLSv1.2"),
        ((), 0x0301, "TLSv1"),
    ],
)
def test_max_version(versions: tuple[int, ...], legacy: int, expected: str | None) -> None:
    extensions = [supported_versions_extension(versions)] if versions else []
    hello = parse_client_hello_body(client_hello_body(extensions, legacy_version=legacy))
    assert hello.max_version == expected


@pytest.mark.parametrize(
    "extension",
    [
        (0, b""),
        (0, b"\0\0"),
        (0, b"\0\3\0\0\0"),
        (0, b"\0\4\0\0\1ab"),
        (0, b"\0\4\1\0\1a"),
        (0, b"\0\x08\0\0\1a\0\0\1b"),
        (16, b""),
        (16, b"\0\0"),
        (16, b"\0\1\0"),
        (16, b"\0\3\2h"),
        (16, b"\0\4\2h2\0"),
        (16, b"\0\3\3h2"),
        (43, b""),
        (43, b"\0"),
        (43, b"\1\3"),
        (43, b"\3\3\4\3"),
        (43, b"\4\3\4"),
    ],
)
def test_malformed_extensions(extension: Extension) -> None:
    with pytest.raises(ClientHelloError) as refusal:
        parse(extension)
    assert refusal.value.alert == DECODE_ERROR


GOOD_BODY = client_hello_body([server_name_extension(b"a.example")])


@pytest.mark.parametrize(
    ("body", "alert"),
    [
        (b"", DECODE_ERROR),
        (GOOD_BODY + b"\0", DECODE_ERROR),
        (client_hello_body(None) + b"\0", DECODE_ERROR),
        (client_hello_body(None) + b"\0\2\0\0", DECODE_ERROR),
        (client_hello_body(None) + b"\0\5\0\0\0\2a", DECODE_ERROR),
        (client_hello_body(session_id=bytes(33)), DECODE_ERROR),
        (client_hello_body(cipher_suites=()), DECODE_ERROR),
        (client_hello_body(compression_methods=b""), DECODE_ERROR),
        (client_hello_body(legacy_version=0x0200), AlertDescription.PROTOCOL_VERSION),
        (client_hello_body(legacy_version=0x0400), AlertDescription.PROTOCOL_VERSION),
        (client_hello_body([(5, b""), (7, b""), (5, b"")]), ILLEGAL_PARAMETER),
        (client_hello_body([alpn_extension([b"h2"])] * 2), ILLEGAL_PARAMETER),
    ],
)
def test_malformed_bodies(body: bytes, alert: int) -> None:
    with pytest.raises(ClientHelloError) as refusal:
        parse_client_hello_body(body)
    assert refusal.value.alert == alert


@pytest.mark.parametrize("length", range(len(GOOD_BODY)))
def test_every_cut_body_is_refused(length: int) -> None:
    body = GOOD_BODY[:length]
    if length == len(client_hello_body(None)):
        assert parse_client_hello_body(body).server_name is None
        return
    with pytest.raises(ClientHelloError) as refusal:
        parse_client_hello_body(body)
    assert refusal.value.alert == DECODE_ERROR


@pytest.mark.parametrize(
    ("wire", "count", "alert"),
    [
        (b"GET / HTTP/1.1\r\n", 1, UNEXPECTED_MESSAGE),
        (b"\x80\x2e\x01\x03\x01", 1, UNEXPECTED_MESSAGE),
        (b"\x17\x03\x03\x00\x05", 1, UNEXPECTED_MESSAGE),
        (b"\x16\x02\x00", 2, UNEXPECTED_MESSAGE),
        (b"\x16\x03\x05", 3, UNEXPECTED_MESSAGE),
        (b"\x16\x03\x01\x00\x00", 5, UNEXPECTED_MESSAGE),
        (b"\x16\x03\x01\x40\x01", 5, AlertDescription.RECORD_OVERFLOW),
        (b"\x16\x03\x01\x00\x10\x02", 6, UNEXPECTED_MESSAGE),
        (b"\x16\x03\x01\x00\x10\x01\x01\x00\x00", 9, ILLEGAL_PARAMETER),
        # A record of application data, and one with something after the message.
        (in_records(handshake_message(GOOD_BODY)[:20]) + b"\x17", 26, UNEXPECTED_MESSAGE),
        (in_records(handshake_message(GOOD_BODY) + b"\x01"), 9 + len(GOOD_BODY), UNEXPECTED_MESSAGE),
    ],
)
def test_refusal_comes_as_early_as_it_can(wire: bytes, count: int, alert: int) -> None:
    decoder = ClientHelloDecoder()
    for position in range(count - 1):
        assert decoder.receive_data(wire[position : position + 1]) is None
    with pytest.raises(ClientHelloError) as refusal:
        decoder.receive_data(wire[count - 1 : count])
    assert refusal.value.alert == alert
    with pytest.raises(ClientHelloError) as refusal_at_once:
        ClientHelloDecoder().receive_data(wire)
    assert refusal_at_once.value.alert == alert


def hello_of(message_bytes: int) -> bytes:
    padding = message_bytes - len(handshake_message(client_hello_body([(21, b"")])))
    return handshake_message(client_hello_body([(21, bytes(padding))]))


def test_a_hello_may_have_64_kib_and_no_more() -> None:
    assert decode(in_records(hello_of(64 * 1024))).raw_length_bytes == 64 * 1024 + 4 * 5
    with pytest.raises(ClientHelloError, match="65537 bytes"):
        decode(in_records(hello_of(64 * 1024 + 1)))
    assert decode(in_records(hello_of(2000)), limit_bytes=2000).extension_types == (21,)
    with pytest.raises(ClientHelloError, match="2001 bytes"):
        decode(in_records(hello_of(2001)), limit_bytes=2000)


def test_records_of_one_byte_are_read_up_to_twice_the_limit() -> None:
    message = hello_of(600)
    wire = in_records(message, [1] * 600)
    assert decode(wire, limit_bytes=1800).raw_length_bytes == 3600
    decoder = ClientHelloDecoder(limit_bytes=1799)
    for position in range(0, len(wire) - 6, 6):
        assert decoder.receive_data(wire[position : position + 6]) is None
    with pytest.raises(ClientHelloError, match="records exceed"):
        decoder.receive_data(wire[-6:])
    assert len(decoder.buffered) <= 3600


def test_a_finished_decoder_takes_no_more() -> None:
    for wire in (build_client_hello(), b"GET "):
        decoder = ClientHelloDecoder()
        try:
            decoder.receive_data(wire)
        except ClientHelloError:
            assert wire == b"GET "
        with pytest.raises(RuntimeError):
            decoder.receive_data(b"more")


@pytest.mark.parametrize(
    ("first_bytes", "verdict"),
    [
        (b"", None),
        (b"\x16", None),
        (b"\x16\x03", None),
        (b"\x16\x03\x01", True),
        (b"\x16\x03\x01\x02\x00\x01", True),
        (b"\x16\x03\x05", False),
        (b"\x16\x02", False),
        (b"G", False),
        (b"\x15\x03\x01", False),
        (b"\x80\x2e\x01", False),
    ],
)
def test_looks_like_tls(first_bytes: bytes, verdict: bool | None) -> None:
    assert looks_like_tls(first_bytes) is verdict


def test_an_alert_is_understood_by_a_client() -> None:
    incoming = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="nowhere.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(encode_alert(AlertLevel.FATAL, AlertDescription.UNRECOGNIZED_NAME))
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        client.do_handshake()


def test_a_hello_that_trickles_in_is_appended_to_and_never_copied() -> None:
    wire = in_records(hello_of(64 * 1024))
    decoder = ClientHelloDecoder()
    held, message = decoder._received, decoder._message
    hello = None
    for position in range(len(wire)):
        assert hello is None
        # Each byte is looked at once: what is held of the message is what its records have brought.
        before = len(message)
        hello = decoder.receive_data(wire[position : position + 1])
        assert len(message) - before <= 1
        assert decoder._received is held
        assert decoder._message is message
    assert hello is not None
