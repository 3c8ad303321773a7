"""The addresses a PROXY header carries."""

from __future__ import annotations

from smartproxy.core.wire.ip_text import V4_MAPPED_PREFIX, pack_ip

ProxyAddress = tuple[str, int]
"""An IP address in its RFC 5952 spelling and a port, or a unix socket's path and -1.

An abstract socket's name keeps its leading NUL. Path bytes that are not UTF-8 are
surrogate-escaped, as `os.fsdecode` does it.
"""

UNIX_PORT = -1
MAX_UNIX_PATH_BYTES = 108


def pack_ip_pair(source: ProxyAddress, destination: ProxyAddress) -> tuple[bytes, bytes]:
    """Both IP addresses' bytes, in one family. An RFC 4007 zone, which no header can carry, is dropped.

    Raises ValueError if one is no IP address or its port not in 0-65535.
    """
    for _, port in (source, destination):
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"{port} is not a port")
    source_packed = pack_ip(source[0].partition("%")[0])
    destination_packed = pack_ip(destination[0].partition("%")[0])
    if len(source_packed) < len(destination_packed):
        return V4_MAPPED_PREFIX + source_packed, destination_packed
    if len(source_packed) > len(destination_packed):
        return source_packed, V4_MAPPED_PREFIX + destination_packed
    return source_packed, destination_packed


def pack_unix_path(path: str) -> bytes:
    """The path's bytes. Raises ValueError if they do not fit a `sockaddr_un`."""
    packed = path.encode("utf-8", "surrogateescape")
    if len(packed) > MAX_UNIX_PATH_BYTES or b"\0" in packed[1:]:
        raise ValueError(f"{path!r} is not the path of a unix socket")
    return packed


def unix_path_text(packed: bytes) -> str:
    """The path in a field padded with NULs, where only an abstract name begins with one."""
    end = packed.find(b"\0", 1)
    return (packed if end < 0 else packed[:end]).rstrip(b"\0").decode("utf-8", "surrogateescape")
