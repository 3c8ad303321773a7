"""What a backend is told of the client: X-Forwarded-* and Forwarded (RFC 7239)."""

from __future__ import annotations

import re

from smartproxy.core.http.field_names import WELL_KNOWN_NAMES, compile_spellings
from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.forwarded import (
    MAX_ELEMENTS,
    ForwardedError,
    format_forwarded_element,
    format_node,
    parse_forwarded,
    parse_x_forwarded_for,
)
from smartproxy.core.wire.ip_text import canonical_ip

_CLAIMS_BY_NAME = (
    "front-end-https",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
)
"""Besides Forwarded and X-Forwarded-*, what backends believe a proxy about client, scheme or path."""

_is_forwarding_claim = re.compile(
    # Any name that begins so, for X-Forwarded-Ssl, -Server, -Prefix… are believed as well.
    rb"(?:x[^0-9a-z])?forwarded|(?:" + compile_spellings(_CLAIMS_BY_NAME).pattern + rb")\Z",
    re.IGNORECASE,
).match

_FORWARDED = b"forwarded"
_FOR = b"x-forwarded-for"
_HOST = b"x-forwarded-host"
_PORT = b"x-forwarded-port"
_PROTO = b"x-forwarded-proto"

_is_plain_spelling = re.compile(rb"[0-9a-z-]+").fullmatch

_UNKNOWN = b"unknown"
"""RFC 7239 §6.2."""


def _unmapped(ip: str) -> str:
    """An IPv4-mapped IPv6 address as the IPv4 address."""
    return ip[7:] if ip.startswith("::ffff:") and "." in ip else ip


class ForwardingFields:
    """Writes the forwarding fields of one client connection's requests.

    `client_ip` and `client_port` are the client's address as this proxy knows it; a
    client without an IP address (a unix socket) is told as `unknown`. `local_port`
    is the port it connected to, `scheme` `http` or `https`. `trusted` says that the
    client is a proxy whose own forwarding fields are believed.
    """

    __slots__ = ("_authority", "_ip", "_node", "_port", "_scheme", "_tail", "_trusted")

    def __init__(
        self, client_ip: str, client_port: int, local_port: int, scheme: bytes, trusted: bool
    ) -> None:
        try:
            # A zone (RFC 4007) means nothing on another machine.
            ip = _unmapped(canonical_ip(client_ip.partition("%")[0]))
        except ValueError:
            self._ip = self._node = _UNKNOWN
        else:
            self._ip = ip.encode("ascii")
            self._node = format_node(ip, client_port if 0 < client_port < 65536 else None)
        self._port = str(local_port).encode("ascii")
        self._scheme = scheme
        self._trusted = trusted
        self._authority: bytes | None = None
        self._tail: Fields = []

    def _write_tail(self, authority: bytes) -> None:
        """Keep-alive requests mostly name the same authority: what is written for the last one is kept."""
        self._authority = authority
        self._tail = [(_FOR, self._ip), (_PROTO, self._scheme), (_PORT, self._port)]
        if authority:
            self._tail.append((_HOST, authority))
        element = format_forwarded_element(for_=self._node, host=authority or None, proto=self._scheme)
        self._tail.append((_FORWARDED, element))

    def apply(self, fields: Fields, authority: bytes) -> Fields:
        """A new list: `fields` with the forwarding fields of a request for `authority`.

        `authority` is the request's own, empty where it has none. From an untrusted
        client every field that backends may believe in this matter is removed first,
        in any spelling. From a trusted one they stay: X-Forwarded-For and Forwarded
        are extended, each becoming one line (a malformed Forwarded is replaced);
        X-Forwarded-Proto, -Host and -Port are only written where they lack.
        """
        if authority != self._authority:
            self._write_tail(authority)
        if self._trusted:
            return self._extend(fields)
        return [
            line for line in fields if line[0] in WELL_KNOWN_NAMES or _is_forwarding_claim(line[0]) is None
        ] + self._tail

    def _extend(self, fields: Fields) -> Fields:
        kept: Fields = []
        claims: dict[bytes, bytes] = {}
        for line in fields:
            name, value = line
            if name in WELL_KNOWN_NAMES or _is_forwarding_claim(name) is None:
                kept.append(line)
            elif name in (_FOR, _FORWARDED):
                if value:
                    claims[name] = claims[name] + b", " + value if name in claims else value
            elif _is_plain_spelling(name):
                claims[name] = value
                kept.append(line)
            # Else it is another spelling, which a trusted proxy passes on unread but does not write.
        if _FORWARDED in claims:
            _complete_from_forwarded(claims, kept)
        if _FOR in claims and _FORWARDED not in claims:
            claims[_FORWARDED] = _forwarded_from(claims)
        for line in self._tail:
            name, value = line
            before = claims.get(name)
            if name in (_FOR, _FORWARDED):
                kept.append((name, before + b", " + value) if before else line)
            elif before is None:
                kept.append(line)
        return kept


# A proxy that writes only one of the two kinds would, to a backend that reads the other, look like the
# client itself; so each is completed from the other (RFC 7239 §7.4).


def _forwarded_from(claims: dict[bytes, bytes]) -> bytes:
    """The Forwarded value that says what X-Forwarded-For, -Proto and -Host say; empty for too long a list."""
    members = claims[_FOR].split(b",", MAX_ELEMENTS)
    if len(members) > MAX_ELEMENTS:
        return b""
    nodes = []
    for member in members:
        try:
            addresses = parse_x_forwarded_for(member)
        except ForwardedError:
            addresses = ["unknown"]
        nodes += [format_node(_unmapped(address)) for address in addresses]
    elements = [format_forwarded_element(for_=node) for node in nodes]
    proto, host = claims.get(_PROTO), claims.get(_HOST)
    if elements and (proto or host):
        # The scheme and host are those of the client's own request, the first hop.
        first = format_forwarded_element(for_=nodes[0], proto=proto or None, host=host or None)
        try:
            parse_forwarded(first)
        except ForwardedError:
            pass  # They are no scheme and host, and go on in their own fields only.
        else:
            elements[0] = first
    return b", ".join(elements)


def _complete_from_forwarded(claims: dict[bytes, bytes], kept: Fields) -> None:
    """Claim and write what Forwarded says and X-Forwarded-* does not."""
    try:
        elements = parse_forwarded(claims[_FORWARDED])
    except ForwardedError:
        # An open quote would swallow our own element; so a malformed value is not extended but replaced.
        del claims[_FORWARDED]
        return
    nodes = [element.for_ for element in elements if element.for_ is not None]
    if nodes and _FOR not in claims:
        claims[_FOR] = b", ".join(_unmapped(node.ip or "unknown").encode("ascii") for node in nodes)
    if elements:
        # The last element is the trusted proxy's own; those before it may be hearsay.
        last = elements[-1]
        for name, said in ((_PROTO, last.proto), (_HOST, last.host)):
            if said and name not in claims:
                claims[name] = said.encode("latin-1")
                kept.append((name, claims[name]))
