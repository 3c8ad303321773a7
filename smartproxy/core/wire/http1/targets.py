"""Request targets in their four forms (RFC 9112 §3.2), and authorities."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address

from smartproxy.core.wire.http1.errors import RemoteProtocolError
from smartproxy.core.wire.http1.syntax import (
    ABSOLUTE_FORM,
    BRACKETED_HOST_AND_PORT,
    HOST_NAME_AND_PORT,
    ORIGIN_FORM,
    TARGET_BYTES,
)

_MAX_AUTHORITY_BYTES = 255 + len(":65535")


def is_authority(value: bytes) -> bool:
    """Whether `value` is a host name, IPv4 or bracketed IPv6 address, with a port of 1 to 65535 or none.

    Narrower than RFC 3986 §3.2: no user information, percent escapes, sub-delims, empty labels,
    empty or zero ports, leading zeros in ports, zones.
    """
    if HOST_NAME_AND_PORT.fullmatch(value) is not None:
        return len(value) <= _MAX_AUTHORITY_BYTES
    bracketed = BRACKETED_HOST_AND_PORT.fullmatch(value)
    if bracketed is None:
        return False
    try:
        IPv6Address(bracketed[1].decode("ascii"))
    except AddressValueError:
        return False
    return True


def same_authority(target_authority: bytes, host: bytes, *, is_connect: bool) -> bool:
    """Whether a Host field agrees with the authority in the target (RFC 9112 §3.2.2, §3.2.3)."""
    expected = target_authority.lower()
    host = host.lower()
    if host == expected:
        return True
    # CONNECT's target always has its port; clients commonly leave it out of Host.
    return is_connect and host == expected.rpartition(b":")[0]


def split_target(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a request target into scheme, authority and path with query.

    What the form does not carry is empty. Raises RemoteProtocolError 400.
    """
    if TARGET_BYTES.fullmatch(target) is None:
        raise RemoteProtocolError(400, "malformed request target")
    if method == b"CONNECT":
        return b"", _connect_authority(target), b""
    if target == b"*":
        if method != b"OPTIONS":
            raise RemoteProtocolError(400, "asterisk-form target without OPTIONS")
        return b"", b"", target
    if ORIGIN_FORM.fullmatch(target) is not None:
        return b"", b"", target
    absolute = ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise RemoteProtocolError(400, "malformed request target")
    scheme = absolute[1].lower()
    if scheme not in (b"http", b"https"):
        raise RemoteProtocolError(400, "unsupported scheme in request target")
    if not is_authority(absolute[2]):
        raise RemoteProtocolError(400, "invalid authority in request target")
    path = absolute[3]
    if not path and method == b"OPTIONS":
        # RFC 9112 §3.2.4: the server as a whole.
        return scheme, absolute[2], b"*"
    if not path.startswith(b"/"):
        path = b"/" + path
    return scheme, absolute[2], path


def _connect_authority(target: bytes) -> bytes:
    if not is_authority(target):
        raise RemoteProtocolError(400, "invalid authority in request target")
    # RFC 9110 §9.3.6: there is no default port.
    if target.endswith(b"]") or b":" not in target:
        raise RemoteProtocolError(400, "CONNECT without a port")
    return target
