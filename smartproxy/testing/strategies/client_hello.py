"""Builders of ClientHellos, byte by byte or by OpenSSL, and strategies over them."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from smartproxy.core.wire.client_hello import MAX_RECORD_BYTES, ClientHello

Extension = tuple[int, bytes]
"""An extension's type and content."""

SERVER_NAME = 0
ALPN = 16
SUPPORTED_VERSIONS = 43
KEY_SHARE = 51
ENCRYPTED_CLIENT_HELLO = 0xFE0D

X25519MLKEM768 = 0x11EC
X25519MLKEM768_SHARE_BYTES = 1216

_KNOWN_TYPES = (SERVER_NAME, ALPN, SUPPORTED_VERSIONS, ENCRYPTED_CLIENT_HELLO)


def _vector8(content: bytes) -> bytes:
    return bytes((len(content),)) + content


def _vector16(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def server_name_extension(name: bytes) -> Extension:
    """RFC 6066 §3, one host name."""
    return SERVER_NAME, _vector16(b"\0" + _vector16(name))


def alpn_extension(protocols: Iterable[bytes]) -> Extension:
    """RFC 7301 §3.1."""
    return ALPN, _vector16(b"".join(map(_vector8, protocols)))


def supported_versions_extension(versions: Sequence[int]) -> Extension:
    """RFC 8446 §4.2.1."""
    return SUPPORTED_VERSIONS, _vector8(struct.pack(f">{len(versions)}H", *versions))


def key_share_extension(
    group: int = X25519MLKEM768, share_bytes: int = X25519MLKEM768_SHARE_BYTES
) -> Extension:
    """RFC 8446 §4.2.8, one share of zeros: for its size, not for a handshake."""
    return KEY_SHARE, _vector16(group.to_bytes(2, "big") + _vector16(bytes(share_bytes)))


def client_hello_body(
    extensions: Iterable[Extension] | None = (),
    *,
    legacy_version: int = 0x0303,
    random: bytes = bytes(32),
    session_id: bytes = b"",
    cipher_suites: Sequence[int] = (0x1301, 0x1302),
    compression_methods: bytes = b"\0",
) -> bytes:
    """A ClientHello without its handshake header. `extensions=None` leaves out even their length."""
    body = legacy_version.to_bytes(2, "big") + random + _vector8(session_id)
    body += _vector16(struct.pack(f">{len(cipher_suites)}H", *cipher_suites)) + _vector8(compression_methods)
    if extensions is None:
        return body
    return body + _vector16(
        b"".join(kind.to_bytes(2, "big") + _vector16(content) for kind, content in extensions)
    )


def handshake_message(body: bytes, message_type: int = 1) -> bytes:
    """`body` after a handshake header (RFC 8446 §4)."""
    return bytes((message_type,)) + len(body).to_bytes(3, "big") + body


def in_records(message: bytes, record_sizes: Iterable[int] = (), version: int = 0x0301) -> bytes:
    """`message` in handshake records: the first ones of `record_sizes` bytes, the rest as long as may be."""
    records = []
    sizes = iter(record_sizes)
    while message:
        size = next(sizes, MAX_RECORD_BYTES)
        fragment, message = message[:size], message[size:]
        records.append(b"\x16" + version.to_bytes(2, "big") + _vector16(fragment))
    return b"".join(records)


def build_client_hello(
    server_name: str | None = "example.com",
    alpn: Sequence[bytes] = (),
    supported_versions: Sequence[int] = (0x0304, 0x0303),
    extensions: Sequence[Extension] = (),
    record_sizes: Iterable[int] = (),
) -> bytes:
    """A whole ClientHello in its records. `extensions` follow those that the other arguments make."""
    made: list[Extension] = []
    if server_name is not None:
        made.append(server_name_extension(server_name.encode("ascii")))
    if alpn:
        made.append(alpn_extension(alpn))
    if supported_versions:
        made.append(supported_versions_extension(supported_versions))
    return in_records(handshake_message(client_hello_body([*made, *extensions])), record_sizes)


def openssl_client_hello(
    server_name: str | None = "example.com",
    alpn: Sequence[str] = (),
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    maximum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> bytes:
    """The ClientHello that this Python's OpenSSL sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = minimum_version
    context.maximum_version = maximum_version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def host_names() -> st.SearchStrategy[str]:
    """Host names of up to 253 characters in mixed case, their last label no number."""
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    label = st.text(alphabet, min_size=1, max_size=63)
    top = st.from_regex(r"[a-zA-Z][a-zA-Z0-9]{1,20}", fullmatch=True)
    names = st.tuples(st.lists(label, max_size=5), top).map(lambda parts: ".".join([*parts[0], parts[1]]))
    return names.filter(lambda name: len(name) <= 253)


@dataclass(slots=True)
class ClientHelloExample:
    """A ClientHello as bytes, and what a parser must find in it."""

    wire: bytes
    """In records."""
    body: bytes
    """Without records and handshake header."""
    expected: ClientHello


@st.composite
def client_hellos(draw: st.DrawFn) -> ClientHelloExample:
    """Well-formed ClientHellos: any order of extensions, unknown ones, up to 40 KiB, any records."""
    server_name = draw(st.none() | host_names())
    alpn = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    versions = draw(st.lists(st.sampled_from([0x0304, 0x0303, 0x0301, 0x0A0A, 0x7F1C]), max_size=4))
    has_ech = draw(st.booleans())
    extensions: list[Extension] = []
    if server_name is not None:
        dot = draw(st.sampled_from(["", "."]))
        extensions.append(server_name_extension((server_name + dot).encode("ascii")))
    if alpn:
        extensions.append(alpn_extension(alpn))
    if versions:
        extensions.append(supported_versions_extension(versions))
    if has_ech:
        extensions.append((ENCRYPTED_CLIENT_HELLO, draw(st.binary(max_size=40))))
    others = draw(
        st.dictionaries(
            st.integers(0, 0xFFFF).filter(lambda kind: kind not in _KNOWN_TYPES),
            st.one_of(st.binary(max_size=40), st.integers(0, 20_000).map(bytes)),
            max_size=2,
        )
    )
    extensions = draw(st.permutations([*extensions, *others.items()]))
    expected = ClientHello(
        legacy_version=draw(st.sampled_from([0x0300, 0x0301, 0x0303, 0x0304])),
        random=draw(st.binary(min_size=32, max_size=32)),
        session_id=draw(st.binary(max_size=32)),
        cipher_suites=tuple(draw(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=8))),
        extension_types=tuple(kind for kind, _ in extensions),
        server_name=None if server_name is None else server_name.lower(),
        alpn_protocols=tuple(alpn),
        supported_versions=tuple(versions),
        has_ech=has_ech,
    )
    body = client_hello_body(
        None if not extensions and draw(st.booleans()) else extensions,
        legacy_version=expected.legacy_version,
        random=expected.random,
        session_id=expected.session_id,
        cipher_suites=expected.cipher_suites,
        compression_methods=draw(st.sampled_from([b"\0", b"\1\0"])),
    )
    record_sizes = draw(st.lists(st.integers(1, MAX_RECORD_BYTES), max_size=6))
    wire = in_records(handshake_message(body), record_sizes, draw(st.sampled_from([0x0301, 0x0303])))
    expected.raw_length_bytes = len(wire)
    return ClientHelloExample(wire, body, expected)


@st.composite
def mutated_client_hellos(draw: st.DrawFn) -> bytes:
    """ClientHellos with bytes overwritten, inserted, removed or cut off: some still valid, most not."""
    wire = bytearray(draw(client_hellos()).wire)
    for _ in range(draw(st.integers(1, 4))):
        # Near the front stand the lengths and types that steer a parser.
        position = draw(st.integers(0, len(wire)) | st.integers(0, min(len(wire), 80)))
        replaced = draw(st.integers(0, 4))
        wire[position : position + replaced] = draw(st.binary(max_size=4))
    return bytes(wire)
