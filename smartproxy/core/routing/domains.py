"""Domain names: one spelling for each, patterns over them, and an index of patterns.

A pattern is an exact name, `*.example.com` (any depth below it, not the name
itself), `example.*` (one or more labels after it) or `*` (any name).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Generic, TypeVar

import idna

from smartproxy.core.security.ip_rules import ip_number, ip_text

T = TypeVar("T")

MAX_NAME_LENGTH = 253
"""Of a name as text, without a trailing dot (RFC 1035 §2.3.4)."""
CACHED_HOSTS = 4096
"""How many authorities `normalise_host` remembers; each is at most some 260 bytes."""

_LABEL = re.compile("[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# Underscores are no host name's (RFC 1123 §2.1), yet live in DNS and in container networks.
_AUTHORITY = re.compile(
    rb"(?:([A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*)\.?|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{0,5}))?"
)


def normalise_domain(text: str) -> str:
    """The one spelling of a name or pattern from a configuration: lower case A-labels, no trailing dot.

    Unicode names are mapped by UTS #46 (non-transitional) and encoded by IDNA 2008
    (RFC 5891 §4). A-labels are taken as they are, because names that predate
    IDNA 2008 are still in use. An IPv6 address may stand in brackets. Raises
    ValueError, naming the domain and what is wrong with it.
    """
    try:
        pattern = text.lower() if text.isascii() else idna.uts46_remap(text, std3_rules=False)
        pattern = pattern.removesuffix(".")
        if ":" in pattern:
            return _normalise_address(pattern)
        if pattern == "*":
            return pattern
        if pattern.startswith("*."):
            return "*." + _normalise_name(pattern[2:])
        if pattern.endswith(".*"):
            return _normalise_name(pattern[:-2]) + ".*"
        return _normalise_name(pattern)
    except ValueError as error:
        raise ValueError(f"domain {text!r}: {error}") from None


def _normalise_address(text: str) -> str:
    if text.count(":") == 1 or (text.startswith("[") and not text.endswith("]")):
        raise ValueError("a port is not part of a domain")
    if "%" in text:
        raise ValueError("a scope id is not part of a domain")
    return ip_text(ip_number(text[1:-1] if text.startswith("[") else text))


def _normalise_name(name: str) -> str:
    if "*" in name:
        raise ValueError("a star stands for whole labels, first (*.example.com) or last (example.*)")
    labels = name.split(".")
    for position, label in enumerate(labels):
        if not label:
            raise ValueError("a label is empty")
        if not label.isascii():
            labels[position] = label = idna.alabel(label).decode("ascii")
        if _LABEL.fullmatch(label) is None:
            raise ValueError(f"{label!r} is not a label: up to 63 letters, digits, '_' and inner '-'")
    name = ".".join(labels)
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"the name is longer than {MAX_NAME_LENGTH} characters")
    return name


@lru_cache(maxsize=CACHED_HOSTS)
def normalise_host(authority: bytes) -> tuple[str, int | None]:
    """The host and port of a request's Host or `:authority` value (RFC 9110 §7.2, RFC 3986 §3.2).

    The host is lower case, without a trailing dot; an IPv6 address is in its
    canonical text, without brackets. No port, or an empty one, is None. Raises
    ValueError for everything else: user information, percent-encoding, bytes
    outside ASCII, scope ids, empty labels, ports above 65535, and the empty authority.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("not an authority")
    name, address, port_text = match.groups()
    port: int | None = None
    if port_text:
        port = int(port_text)
        if port > 65535:
            raise ValueError("not an authority: the port is above 65535")
    if address is not None:
        if b":" not in address:
            raise ValueError("not an authority: only IPv6 stands in brackets")
        return ip_text(ip_number(address.decode("ascii"))), port
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError("not an authority: the name is too long")
    return name.decode("ascii").lower(), port


def domain_matches(pattern: str, host: str) -> bool:
    """Whether a normalised `host` is one that a normalised `pattern` names."""
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    if pattern.endswith(".*"):
        return host.startswith(pattern[:-1])
    return host == pattern


def domain_specificity(pattern: str | None) -> tuple[int, int]:
    """Greater for the more specific pattern: exact, `*.x`, `x.*`, `*`, none; of two alike, the longer."""
    if pattern is None:
        return 0, 0
    if pattern == "*":
        return 1, 0
    if pattern.endswith(".*"):
        return 2, len(pattern)
    if pattern.startswith("*."):
        return 3, len(pattern)
    return 4, 0


class DomainIndex(Generic[T]):
    """Finds the items of every pattern that matches a host, at a cost that many patterns do not raise.

    What an exact name finds is joined beforehand; any other host is looked up once
    for each of its labels, up to the number of labels in the longest pattern.
    """

    __slots__ = ("_any", "_exact", "_nameless", "_prefix_labels", "_prefixes", "_suffix_labels", "_suffixes")

    def __init__(self, items: Mapping[str | None, T]) -> None:
        """From normalised patterns; None is the item of those who ask for no name at all."""
        self._suffixes: dict[str, T] = {}
        self._prefixes: dict[str, T] = {}
        self._suffix_labels = 0
        self._prefix_labels = 0
        self._nameless: tuple[T, ...] = (items[None],) if None in items else ()
        self._any: tuple[T, ...] = (items["*"], *self._nameless) if "*" in items else self._nameless
        exact: dict[str, T] = {}
        for pattern, item in items.items():
            if pattern is None or pattern == "*":
                continue
            if pattern.startswith("*."):
                self._suffixes[pattern[1:]] = item
                self._suffix_labels = max(self._suffix_labels, pattern.count("."))
            elif pattern.endswith(".*"):
                self._prefixes[pattern[:-1]] = item
                self._prefix_labels = max(self._prefix_labels, pattern.count("."))
            else:
                exact[pattern] = item
        self._exact: dict[str, tuple[T, ...]] = {
            name: (item, *self._find_wildcards(name)) for name, item in exact.items()
        }

    def find(self, host: str | None) -> tuple[T, ...]:
        """The items of all patterns that match; `host` is normalised, or None when there is no name."""
        if host is None:
            return self._nameless
        found = self._exact.get(host)
        return found if found is not None else self._find_wildcards(host)

    def _find_wildcards(self, host: str) -> tuple[T, ...]:
        if not self._suffixes and not self._prefixes:
            return self._any
        found: list[T] = []
        position = len(host)
        for _ in range(self._suffix_labels):
            position = host.rfind(".", 0, position)
            if position < 0:
                break
            item = self._suffixes.get(host[position:])
            if item is not None:
                found.append(item)
        position = -1
        for _ in range(self._prefix_labels):
            position = host.find(".", position + 1)
            if position < 0:
                break
            item = self._prefixes.get(host[: position + 1])
            if item is not None:
                found.append(item)
        return (*found, *self._any) if found else self._any
