"""What decoding a PROXY header may raise."""

from __future__ import annotations


class ProxyProtocolError(Exception):
    """The bytes are not a valid PROXY header: malformed, over-long, or with a wrong checksum."""


class NotProxyProtocol(ProxyProtocolError):
    """The first bytes belong to another protocol: no PROXY header was begun at all."""
