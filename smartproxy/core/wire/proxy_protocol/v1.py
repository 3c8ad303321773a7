"""Version 1: one line of text (§2.1)."""

from __future__ import annotations

import re

from smartproxy.core.wire.ip_text import IPV4_PATTERN, canonical_ip, ip_text
from smartproxy.core.wire.proxy_protocol.addresses import UNIX_PORT, ProxyAddress, pack_ip_pair
from smartproxy.core.wire.proxy_protocol.errors import ProxyProtocolError
from smartproxy.core.wire.proxy_protocol.header import AddressFamily, ProxyHeader, TransportProtocol

MAX_V1_BYTES = 107
"""The longest line there can be, CR LF included (§2.1)."""

_PORT = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}|0)"
_IPV6 = "([0-9A-Fa-f:.]{2,45})"
_TCP4 = re.compile(f"PROXY TCP4 ({IPV4_PATTERN}) ({IPV4_PATTERN}) {_PORT} {_PORT}\r\n".encode())
_TCP6 = re.compile(f"PROXY TCP6 {_IPV6} {_IPV6} {_PORT} {_PORT}\r\n".encode())
# §2.1 lets anything stand after UNKNOWN, but never a CR or LF that is not the line's end.
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")


def _beginnings(word: str, fields: list[tuple[str, str]]) -> list[str]:
    """Patterns of unfinished lines: a part of `word`, or all of it with fields whose last is unfinished."""
    patterns = [word[:length] for length in range(len("PROXY"), len(word) + 1)]
    finished_part = word
    for unfinished, finished in fields:
        patterns.append(finished_part + unfinished)
        finished_part += finished
    return patterns


_UNFINISHED_PORTS = [(" [0-9]{0,5}", " [0-9]{1,5}"), (" [0-9]{0,5}", " [0-9]{1,5}"), ("\r", "")]
_UNFINISHED_LINE = re.compile(
    "|".join(
        _beginnings("PROXY TCP4", [(" [0-9.]{0,15}", " [0-9.]{7,15}")] * 2 + _UNFINISHED_PORTS)
        + _beginnings(
            "PROXY TCP6", [(" [0-9A-Fa-f:.]{0,45}", " [0-9A-Fa-f:.]{2,45}")] * 2 + _UNFINISHED_PORTS
        )
        + _beginnings("PROXY UNKNOWN", [("\r", ""), (" [^\r\n]*\r?", "")])
    ).encode()
)


def decode_v1(data: bytes) -> tuple[ProxyHeader, int] | None:
    """The header that `data`, beginning with `PROXY`, starts with, and its length in bytes.

    None when the line is not complete yet. Raises ProxyProtocolError as soon as its shape
    rules it out.
    """
    match = _TCP4.match(data)
    if match is not None:
        source, destination, source_port, destination_port = match.groups()
        header = ProxyHeader(
            1,
            "PROXY",
            AddressFamily.INET,
            TransportProtocol.STREAM,
            (source.decode(), int(source_port)),
            (destination.decode(), int(destination_port)),
        )
        return header, match.end()
    match = _TCP6.match(data, 0, MAX_V1_BYTES)
    if match is not None:
        source, destination, source_port, destination_port = match.groups()
        header = ProxyHeader(
            1,
            "PROXY",
            AddressFamily.INET6,
            TransportProtocol.STREAM,
            (_ipv6(source), int(source_port)),
            (_ipv6(destination), int(destination_port)),
        )
        return header, match.end()
    match = _UNKNOWN.match(data, 0, MAX_V1_BYTES)
    if match is not None:
        unspecified = ProxyHeader(1, "PROXY", AddressFamily.UNSPEC, TransportProtocol.UNSPEC, None, None)
        return unspecified, match.end()
    if len(data) >= MAX_V1_BYTES or _UNFINISHED_LINE.fullmatch(data) is None:
        raise ProxyProtocolError(f"malformed version 1 line: {data[:MAX_V1_BYTES]!r}")
    return None


def _ipv6(text: bytes) -> str:
    try:
        canonical = canonical_ip(text.decode())
    except ValueError:
        canonical = ""
    # §2.1: the announced family dictates the format, so a dotted quad alone is not one of TCP6.
    if ":" not in canonical:
        raise ProxyProtocolError(f"{text!r} is not an IPv6 address")
    return canonical


def encode_proxy_v1(source: ProxyAddress | None, destination: ProxyAddress | None) -> bytes:
    """The line that says a TCP connection goes from `source` to `destination`.

    An IPv4 address beside an IPv6 one is written IPv4-mapped. Without both addresses,
    or for unix sockets, the line says UNKNOWN, which is all version 1 has for them.
    Raises ValueError if an address is no IP address or a port not in 0-65535.
    """
    if source is None or destination is None or UNIX_PORT in (source[1], destination[1]):
        return b"PROXY UNKNOWN\r\n"
    source_packed, destination_packed = pack_ip_pair(source, destination)
    protocol = "TCP4" if len(source_packed) == 4 else "TCP6"
    addresses = f"{ip_text(source_packed)} {ip_text(destination_packed)}"
    return f"PROXY {protocol} {addresses} {source[1]} {destination[1]}\r\n".encode()
