"""The meaning of the fields that frame messages and govern connections (RFC 9112 §6, §9; RFC 9110 §7.6.1)."""

from __future__ import annotations

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http1.errors import RemoteProtocolError
from smartproxy.core.wire.http1.syntax import CONTENT_LENGTH, TOKEN

MAX_CONNECTION_OPTIONS = 32

_USUAL_CONNECTIONS: dict[bytes, frozenset[bytes]] = {
    spelling: frozenset(option.strip().lower() for option in spelling.split(b","))
    for spelling in (
        b"keep-alive",
        b"Keep-Alive",
        b"close",
        b"Close",
        b"upgrade",
        b"Upgrade",
        b"keep-alive, Upgrade",
        b"TE, close",
        b"Upgrade, HTTP2-Settings",
    )
}

_REFUSED_TRAILERS = frozenset((b"transfer-encoding", b"content-length", b"host"))

# RFC 9110 §6.5.1: framing is refused above; routing, request modifiers, authentication, response
# control data and content format are not to be taken from a trailer section.
DROPPED_TRAILERS = frozenset(
    b"""
    connection keep-alive proxy-connection te trailer upgrade
    forwarded via x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip
    cache-control expect max-forwards pragma range
    if-match if-modified-since if-none-match if-range if-unmodified-since
    authorization proxy-authorization www-authenticate proxy-authenticate cookie set-cookie
    age date expires location retry-after vary warning
    content-encoding content-range content-type
    """.split()
)


def parse_content_length(value: bytes) -> int:
    """The length in bytes. Raises RemoteProtocolError 400 for anything but 1 to 18 digits (RFC 9112 §6.2)."""
    if CONTENT_LENGTH.fullmatch(value) is None:
        raise RemoteProtocolError(400, "malformed Content-Length")
    return int(value)


def require_chunked(transfer_encoding: bytes, has_content_length: bool, minor_version: int) -> None:
    """Raise RemoteProtocolError unless chunked is the one coding, and may be (RFC 9112 §6.1)."""
    if has_content_length:
        raise RemoteProtocolError(400, "both Content-Length and Transfer-Encoding")
    if minor_version == 0:
        raise RemoteProtocolError(400, "Transfer-Encoding on HTTP/1.0")
    if transfer_encoding != b"chunked" and transfer_encoding.lower() != b"chunked":
        if TOKEN.fullmatch(transfer_encoding) is None:
            raise RemoteProtocolError(400, "malformed Transfer-Encoding")
        raise RemoteProtocolError(501, "unknown transfer coding")


def parse_connection(value: bytes) -> frozenset[bytes]:
    """Connection options, lower case. Raises RemoteProtocolError 400 for a non-token or too many."""
    usual = _USUAL_CONNECTIONS.get(value)
    if usual is not None:
        return usual
    options: set[bytes] = set()
    for element in value.lower().split(b","):
        option = element.strip(b" \t")
        # RFC 9110 §5.6.1.2: empty list elements are ignored.
        if not option:
            continue
        if TOKEN.fullmatch(option) is None:
            raise RemoteProtocolError(400, "malformed Connection")
        options.add(option)
        if len(options) > MAX_CONNECTION_OPTIONS:
            raise RemoteProtocolError(400, "too many Connection options")
    return frozenset(options)


def persists(minor_version: int, options: frozenset[bytes]) -> bool:
    """Whether the connection outlives this message (RFC 9112 §9.3)."""
    if b"close" in options:
        return False
    return minor_version == 1 or b"keep-alive" in options


def keep_trailers(field_lines: list[tuple[bytes, bytes]]) -> Fields:
    """Trailer fields that may travel. Raises RemoteProtocolError 400 for ones that would frame or route."""
    trailers: Fields = []
    for raw_name, value in field_lines:
        name = raw_name.lower()
        if name in _REFUSED_TRAILERS:
            raise RemoteProtocolError(400, "framing or routing field in trailers")
        if name not in DROPPED_TRAILERS:
            trailers.append((name, value))
    return trailers
