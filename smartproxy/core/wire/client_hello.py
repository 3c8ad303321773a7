"""TLS ClientHello: what a client asks for before any key is agreed on (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2).

Over a byte stream, in any segmentation and over any number of records:

    decoder = ClientHelloDecoder()
    hello = decoder.receive_data(data)      # None until it is complete
    hello.server_name                       # "app.example.com"
    decoder.buffered                        # every byte so far, for the backend or the TLS engine

Without a record layer, as QUIC carries it: `parse_client_hello_body`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum

from smartproxy.core.wire.ip_text import pack_ip

DEFAULT_LIMIT_BYTES = 64 * 1024

RECORD_HEADER_BYTES = 5
MESSAGE_HEADER_BYTES = 4
MAX_RECORD_BYTES = 16 * 1024
"""The longest TLSPlaintext fragment (RFC 8446 §5.1)."""

_ALERT = 21
_HANDSHAKE = 22
_CLIENT_HELLO = 1

_SERVER_NAME = 0
_ALPN = 16
_SUPPORTED_VERSIONS = 43
_ENCRYPTED_CLIENT_HELLO = 0xFE0D

_RECORD_START = (bytes((_HANDSHAKE,)), b"\x03", bytes(range(5)))
"""What the first bytes of a handshake record may be: its type, and a version from 3.0 to 3.4."""

_VERSION_NAMES = {0x0304: "TLSv1.3", 0x0303: "TLSv1.2", 0x0302: "TLSv1.1", 0x0301: "TLSv1", 0x0300: "SSLv3"}

_HOST_NAME = re.compile(rb"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_MAX_HOST_NAME_BYTES = 253

_EXTENSION_HEADER = struct.Struct(">HH")


class AlertLevel(IntEnum):
    """RFC 8446 §6."""

    WARNING = 1
    FATAL = 2


class AlertDescription(IntEnum):
    """The alerts of RFC 8446 §6 that can answer a ClientHello."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    ILLEGAL_PARAMETER = 47
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112
    NO_APPLICATION_PROTOCOL = 120


class ClientHelloError(Exception):
    """The bytes are no valid ClientHello. `alert` is the TLS alert description to answer with."""

    def __init__(self, message: str, alert: int = AlertDescription.DECODE_ERROR) -> None:
        super().__init__(message)
        self.alert = alert


@dataclass(slots=True)
class ClientHello:
    """A ClientHello's content, as far as routing and logging need it.

    `server_name` is the SNI host name (RFC 6066 §3): lower case, without a trailing
    dot; None when there is none or only an IP address. When `has_ech` is true the
    client offered Encrypted Client Hello, or pretended to, as most browsers do
    (RFC 9849 §6.2): the name is the outer one then, and what the client wants may be
    another.

    `supported_versions` is empty when the extension is absent, which means TLS 1.2 or
    below. `extension_types` are in the order sent. `raw_length_bytes` is the length on
    the wire, record headers included; of the body alone when it came without records.
    """

    legacy_version: int
    random: bytes
    session_id: bytes
    cipher_suites: tuple[int, ...]
    extension_types: tuple[int, ...] = ()
    server_name: str | None = None
    alpn_protocols: tuple[bytes, ...] = ()
    supported_versions: tuple[int, ...] = ()
    has_ech: bool = False
    raw_length_bytes: int = 0

    @property
    def max_version(self) -> str | None:
        """The highest version offered, as `ssl` names it: "TLSv1.3". None if all are unknown."""
        if not self.supported_versions:
            # RFC 8446 §4.2.1: without the extension the client speaks TLS 1.2 at most.
            return _VERSION_NAMES.get(min(self.legacy_version, 0x0303))
        return _VERSION_NAMES.get(max((v for v in self.supported_versions if v in _VERSION_NAMES), default=0))


def looks_like_tls(first_bytes: bytes | bytearray) -> bool | None:
    """Whether a connection that begins so speaks TLS; None when fewer than 3 bytes leave it open.

    The SSL 2 form of a ClientHello is not TLS to us.
    """
    for received, allowed in zip(first_bytes, _RECORD_START, strict=False):
        if received not in allowed:
            return False
    return True if len(first_bytes) >= len(_RECORD_START) else None


def encode_alert(level: int, description: int) -> bytes:
    """An alert in a record of its own, before any key is agreed on (RFC 8446 §6)."""
    return bytes((_ALERT, 3, 3, 0, 2, level, description))


class ClientHelloDecoder:
    """Takes a connection's first bytes until they make a ClientHello.

    `limit_bytes` (default 64 KiB) bounds the message; all its records together may be
    twice as long. Work is linear in the bytes received, however they are cut.
    """

    __slots__ = (
        "_finished",
        "_message",
        "_message_bytes",
        "_raw_bytes",
        "_received",
        "_record_header",
        "_record_remaining",
        "limit_bytes",
    )

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._received = bytearray()
        self._finished = False
        self._record_header = bytearray()
        self._record_remaining = 0
        self._raw_bytes = 0
        """The records begun so far, all of their announced length included."""
        self._message = bytearray()
        self._message_bytes = 0
        """What the message must grow to, its header included; 0 while that is not known."""

    @property
    def buffered(self) -> bytes:
        """All bytes received so far, whatever followed the ClientHello included."""
        return bytes(self._received)

    def receive_data(self, data: bytes) -> ClientHello | None:
        """Take more of the connection; the ClientHello once it is complete, else None.

        Raises ClientHelloError as soon as the bytes cannot become one, and
        RuntimeError when called again after the ClientHello or an error.
        """
        if self._finished:
            raise RuntimeError("the ClientHello is over: take `buffered`")
        is_first = not self._received
        self._received += data
        self._finished = True
        hello = self._parse_single_record(data) if is_first else None
        if hello is None and self._advance(data):
            hello = parse_client_hello_body(bytes(self._message[MESSAGE_HEADER_BYTES:]))
            hello.raw_length_bytes = self._raw_bytes
        self._finished = hello is not None
        return hello

    def _parse_single_record(self, data: bytes) -> ClientHello | None:
        """The usual case at one go: a message that fills one record, all of it here."""
        if len(data) < RECORD_HEADER_BYTES + MESSAGE_HEADER_BYTES or not looks_like_tls(data):
            return None
        record_bytes = data[3] << 8 | data[4]
        message_bytes = MESSAGE_HEADER_BYTES + (data[6] << 16 | data[7] << 8 | data[8])
        if (
            data[5] != _CLIENT_HELLO
            or record_bytes != message_bytes
            or record_bytes > min(MAX_RECORD_BYTES, self.limit_bytes)
            or len(data) < RECORD_HEADER_BYTES + record_bytes
        ):
            return None
        hello = parse_client_hello_body(data[9 : RECORD_HEADER_BYTES + record_bytes])
        hello.raw_length_bytes = RECORD_HEADER_BYTES + record_bytes
        return hello

    def _advance(self, data: bytes) -> bool:
        """Take `data` apart into records and append their content to the message; whether it is complete."""
        position, end = 0, len(data)
        while position < end:
            if self._record_remaining == 0:
                position = self._take_record_header(data, position)
            else:
                position = self._take_fragment(data, position)
                if 0 < self._message_bytes == len(self._message):
                    if self._record_remaining:
                        # Nothing may follow before the server has spoken (RFC 8446 §5.1).
                        raise ClientHelloError(
                            "bytes after the ClientHello in its record",
                            AlertDescription.UNEXPECTED_MESSAGE,
                        )
                    return True
        return False

    def _take_record_header(self, data: bytes, position: int) -> int:
        header = self._record_header
        missing = RECORD_HEADER_BYTES - len(header)
        header += data[position : position + missing]
        if looks_like_tls(header) is False:
            raise ClientHelloError(
                f"no handshake record begins with {bytes(header)!r}", AlertDescription.UNEXPECTED_MESSAGE
            )
        if len(header) == RECORD_HEADER_BYTES:
            record_bytes = header[3] << 8 | header[4]
            if record_bytes == 0:
                # RFC 8446 §5.1: no zero-length fragments of handshake types.
                raise ClientHelloError("an empty handshake record", AlertDescription.UNEXPECTED_MESSAGE)
            if record_bytes > MAX_RECORD_BYTES:
                raise ClientHelloError(f"a record of {record_bytes} bytes", AlertDescription.RECORD_OVERFLOW)
            self._raw_bytes += RECORD_HEADER_BYTES + record_bytes
            if self._raw_bytes > 2 * self.limit_bytes:
                raise ClientHelloError(
                    f"the ClientHello's records exceed {2 * self.limit_bytes} bytes",
                    AlertDescription.ILLEGAL_PARAMETER,
                )
            self._record_remaining = record_bytes
            header.clear()
        return position + missing

    def _take_fragment(self, data: bytes, position: int) -> int:
        message = self._message
        wanted = (self._message_bytes or MESSAGE_HEADER_BYTES) - len(message)
        taken = data[position : position + min(wanted, self._record_remaining)]
        message += taken
        self._record_remaining -= len(taken)
        if not self._message_bytes:
            self._read_message_header()
        return position + len(taken)

    def _read_message_header(self) -> None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise ClientHelloError(
                f"handshake message {message[0]} instead of ClientHello", AlertDescription.UNEXPECTED_MESSAGE
            )
        if len(message) == MESSAGE_HEADER_BYTES:
            message_bytes = MESSAGE_HEADER_BYTES + int.from_bytes(message[1:4], "big")
            if message_bytes > self.limit_bytes:
                raise ClientHelloError(
                    f"a ClientHello of {message_bytes} bytes, more than {self.limit_bytes}",
                    AlertDescription.ILLEGAL_PARAMETER,
                )
            self._message_bytes = message_bytes


def parse_client_hello_body(body: bytes) -> ClientHello:
    """The ClientHello in a handshake message, its 4-byte header removed.

    Raises ClientHelloError when it is malformed.
    """
    try:
        suites_start = 37 + body[34]
        session_id = body[35 : suites_start - 2]
        compressions_start = suites_start + (body[suites_start - 2] << 8 | body[suites_start - 1])
        extensions_start = compressions_start + 1 + body[compressions_start]
    except IndexError:
        raise ClientHelloError("the ClientHello is cut off") from None
    length = len(body)
    suites_bytes = compressions_start - suites_start
    if extensions_start > length:
        raise ClientHelloError("the ClientHello is cut off")
    if len(session_id) > 32 or suites_bytes == 0 or suites_bytes % 2 or body[compressions_start] == 0:
        raise ClientHelloError("malformed session ID, cipher suites or compression methods")
    if body[0] != 3:
        raise ClientHelloError(f"version {body[0]}.{body[1]}", AlertDescription.PROTOCOL_VERSION)
    hello = ClientHello(
        body[0] << 8 | body[1],
        body[2:34],
        session_id,
        struct.unpack_from(f">{suites_bytes // 2}H", body, suites_start),
        raw_length_bytes=length,
    )
    # RFC 5246 §7.4.1.2: before TLS 1.3 the extensions may be absent altogether.
    if extensions_start < length:
        _parse_extensions(hello, body, extensions_start)
    return hello


def _parse_extensions(hello: ClientHello, body: bytes, position: int) -> None:
    length = len(body)
    if length - position < 2 or body[position] << 8 | body[position + 1] != length - position - 2:
        raise ClientHelloError("the extensions do not fill the ClientHello")
    position += 2
    types: list[int] = []
    while position < length:
        if length - position < _EXTENSION_HEADER.size:
            raise ClientHelloError("an extension is cut off")
        extension_type, extension_bytes = _EXTENSION_HEADER.unpack_from(body, position)
        start = position + _EXTENSION_HEADER.size
        position = start + extension_bytes
        if position > length:
            raise ClientHelloError(f"extension {extension_type} is cut off")
        types.append(extension_type)
        if extension_type == _SERVER_NAME:
            hello.server_name = _parse_server_name(body[start:position])
        elif extension_type == _ALPN:
            hello.alpn_protocols = _parse_alpn(body[start:position])
        elif extension_type == _SUPPORTED_VERSIONS:
            hello.supported_versions = _parse_supported_versions(body[start:position])
        elif extension_type == _ENCRYPTED_CLIENT_HELLO:
            hello.has_ech = True
    if len(set(types)) < len(types):
        # RFC 8446 §4.2: one of a type; two SNIs would be two truths.
        raise ClientHelloError("an extension occurs twice", AlertDescription.ILLEGAL_PARAMETER)
    hello.extension_types = tuple(types)


def _parse_server_name(data: bytes) -> str | None:
    # RFC 6066 §3: one name per type, and host_name is the only type there is.
    length = len(data)
    if length < 6 or data[0] << 8 | data[1] != length - 2 or data[3] << 8 | data[4] != length - 5 or data[2]:
        raise ClientHelloError("malformed server_name")
    name = data[5:]
    if _HOST_NAME.fullmatch(name) is None or len(name) > _MAX_HOST_NAME_BYTES + name.endswith(b"."):
        if _is_ip_address(name):
            return None
        raise ClientHelloError(f"server_name {name[:64]!r}", AlertDescription.ILLEGAL_PARAMETER)
    # RFC 6066 §3 forbids IP addresses, but clients send them; they name no host.
    if name[-1:].isdigit() and _is_ip_address(name):
        return None
    return name.rstrip(b".").lower().decode("ascii")


def _is_ip_address(name: bytes) -> bool:
    try:
        pack_ip(name.decode("ascii"))
    except ValueError:
        return False
    return True


def _parse_alpn(data: bytes) -> tuple[bytes, ...]:
    # RFC 7301 §3.1: neither the list nor a name may be empty.
    length = len(data)
    if length < 4 or data[0] << 8 | data[1] != length - 2:
        raise ClientHelloError("malformed ALPN")
    protocols = []
    position = 2
    while position < length:
        start = position + 1
        position = start + data[position]
        if position == start or position > length:
            raise ClientHelloError("malformed ALPN protocol name")
        protocols.append(data[start:position])
    return tuple(protocols)


def _parse_supported_versions(data: bytes) -> tuple[int, ...]:
    # RFC 8446 §4.2.1
    versions_bytes = len(data) - 1
    if versions_bytes < 2 or versions_bytes % 2 or data[0] != versions_bytes:
        raise ClientHelloError("malformed supported_versions")
    return struct.unpack_from(f">{versions_bytes // 2}H", data, 1)
