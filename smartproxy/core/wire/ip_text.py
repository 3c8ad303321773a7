"""IP addresses between text and packed bytes, in the one spelling the kernel uses (RFC 5952)."""

from __future__ import annotations

import re
import struct
from ipaddress import IPv6Address

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4_PATTERN = _OCTET + r"(?:\." + _OCTET + r"){3}"
"""A dotted quad without leading zeros, for use inside larger patterns."""

_IPV4 = re.compile(IPV4_PATTERN)
_ZERO_RUN = re.compile(r"\b0(?::0\b)+")
_EIGHT_GROUPS = struct.Struct(">8H")
_EIGHT_GROUPS_HEX = ":".join(["{:x}"] * 8).format
V4_MAPPED_PREFIX = b"\0" * 10 + b"\xff\xff"


def ipv4_text(packed: bytes) -> str:
    """The dotted quad of 4 bytes."""
    return f"{packed[0]}.{packed[1]}.{packed[2]}.{packed[3]}"


def ipv6_text(packed: bytes) -> str:
    """The RFC 5952 spelling of 16 bytes. IPv4-mapped ones end in a dotted quad (§5), as in the kernel's."""
    if packed.startswith(V4_MAPPED_PREFIX):
        return "::ffff:" + ipv4_text(packed[12:])
    text = _EIGHT_GROUPS_HEX(*_EIGHT_GROUPS.unpack(packed))
    longest_start = longest_end = 0
    for run in _ZERO_RUN.finditer(text):
        if run.end() - run.start() > longest_end - longest_start:
            longest_start, longest_end = run.span()
    if longest_end == 0:
        return text
    return text[:longest_start].removesuffix(":") + "::" + text[longest_end:].removeprefix(":")


def ip_text(packed: bytes) -> str:
    """The text of 4 or 16 bytes."""
    return ipv4_text(packed) if len(packed) == 4 else ipv6_text(packed)


def is_ipv4(text: str) -> bool:
    """Whether `text` is a dotted quad of decimal octets without leading zeros."""
    return _IPV4.fullmatch(text) is not None


def pack_ip(text: str) -> bytes:
    """The 4 or 16 bytes of an IP address.

    Raises ValueError for anything else: leading zeros, an RFC 4007 zone, brackets.
    """
    if ":" not in text:
        if _IPV4.fullmatch(text) is None:
            raise ValueError(f"{text!r} is not an IP address")
        return bytes(map(int, text.split(".")))
    if "%" in text or len(text) > 45:
        raise ValueError(f"{text[:64]!r} is not an IP address without a zone")
    return IPv6Address(text).packed


def canonical_ip(text: str) -> str:
    """`text` in the spelling of `ip_text`. Raises ValueError as `pack_ip` does."""
    if ":" not in text and _IPV4.fullmatch(text) is not None:
        return text
    return ip_text(pack_ip(text))
