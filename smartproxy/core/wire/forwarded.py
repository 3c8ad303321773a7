"""Forwarded (RFC 7239) and X-Forwarded-For: the syntax alone. Whom to believe is for the caller to know."""

from __future__ import annotations

import re
from dataclasses import dataclass

from smartproxy.core.wire.ip_text import canonical_ip, is_ipv4

MAX_VALUE_BYTES = 16 * 1024
MAX_ELEMENTS = 128
"""Longer values, or more hops than this, are refused."""

_TCHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"((?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+)"'
_PAIR = re.compile(rf"({_TCHARS})=(?:({_TCHARS})|{_QUOTED})".encode("latin-1"))
_BLANKS = re.compile(rb"[ \t]*")
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_NEEDS_BACKSLASH = re.compile(rb'(["\\])')
_BARE = re.compile(_TCHARS.encode())
_QUOTABLE = re.compile(rb"[\t -~\x80-\xff]*")

_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_OBFUSCATED = re.compile(r"_[A-Za-z0-9._-]+")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_ADDRESS_CHARACTERS = re.compile(r"[0-9A-Fa-f:.]+")


class ForwardedError(ValueError):
    """The value does not follow the field's grammar, or is over the bounds of this module."""


@dataclass(slots=True)
class ForwardedNode:
    """One end of a hop (RFC 7239 §6).

    `name` is an IP address in its RFC 5952 spelling, without brackets, or `unknown`, or
    an obfuscated identifier with its underscore. `port` is a number, an obfuscated
    port with its underscore, or None.
    """

    name: str
    port: int | str | None = None

    @property
    def ip(self) -> str | None:
        """The IP address, if the node is one."""
        return None if self.name == "unknown" or self.name.startswith("_") else self.name


@dataclass(slots=True)
class ForwardedElement:
    """What one proxy said of one hop (RFC 7239 §4). None: not said.

    `host` is as the client sent it, `proto` a URI scheme in lower case. `extensions`
    are the other parameters, their names in lower case, as latin-1 text.
    """

    for_: ForwardedNode | None = None
    by: ForwardedNode | None = None
    host: str | None = None
    proto: str | None = None
    extensions: tuple[tuple[str, str], ...] = ()


def parse_forwarded(value: bytes) -> list[ForwardedElement]:
    """The elements of a Forwarded field value, the one nearest to the client first.

    Several field lines are joined with commas first (RFC 9110 §5.3). Beyond the
    grammar it takes blanks around `;`, which many senders write, and empty list
    elements (RFC 9110 §5.6.1). Raises ForwardedError for anything else.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise ForwardedError(f"a Forwarded value of {len(value)} bytes")
    elements: list[ForwardedElement] = []
    parameters: dict[str, str] = {}
    element_is_empty = True
    position, end = _skip_blanks(value, 0), len(value)
    while True:
        pair = _PAIR.match(value, position)
        if pair is not None:
            name = pair[1].decode("ascii").lower()
            if name in parameters:
                # RFC 7239 §4: once per element, or two readers would see two clients.
                raise ForwardedError(f"Forwarded names {name!r} twice")
            parameters[name] = _parameter_value(pair)
            position = _skip_blanks(value, pair.end())
            element_is_empty = False
        separator = value[position : position + 1]
        if separator == b";":
            element_is_empty = False
        elif separator == b"," or position == end:
            if not element_is_empty:
                elements.append(_element(parameters))
                if len(elements) > MAX_ELEMENTS:
                    raise ForwardedError(f"more than {MAX_ELEMENTS} Forwarded elements")
                parameters = {}
                element_is_empty = True
            if position == end:
                return elements
        else:
            raise ForwardedError(f"malformed Forwarded value at {value[position : position + 32]!r}")
        position = _skip_blanks(value, position + 1)


def _skip_blanks(value: bytes, position: int) -> int:
    match = _BLANKS.match(value, position)
    return position if match is None else match.end()


def _parameter_value(pair: re.Match[bytes]) -> str:
    token = pair[2]
    if token is not None:
        return str(token, "ascii")
    quoted = pair[3]
    if b"\\" in quoted:
        quoted = _QUOTED_PAIR.sub(rb"\1", quoted)
    return str(quoted, "latin-1")


def _element(parameters: dict[str, str]) -> ForwardedElement:
    element = ForwardedElement()
    extensions: list[tuple[str, str]] = []
    for name, value in parameters.items():
        if name == "for":
            element.for_ = parse_node(value)
        elif name == "by":
            element.by = parse_node(value)
        elif name == "host":
            element.host = _checked_host(value)
        elif name == "proto":
            if _SCHEME.fullmatch(value) is None:
                raise ForwardedError(f"Forwarded proto {value[:64]!r}")
            element.proto = value.lower()
        else:
            extensions.append((name, value))
    element.extensions = tuple(extensions)
    return element


def _checked_host(value: str) -> str:
    match = _HOST.fullmatch(value)
    if match is None:
        raise ForwardedError(f"Forwarded host {value[:64]!r}")
    if match[1] is not None:
        _ipv6(match[1])
    return value


def parse_node(text: str) -> ForwardedNode:
    """A node identifier without its quotes (RFC 7239 §6). Raises ForwardedError for anything else."""
    match = _NODE.fullmatch(text)
    if match is None:
        raise ForwardedError(f"Forwarded node {text[:64]!r}")
    ipv6, name, port_text = match.groups()
    port: int | str | None = port_text
    if port_text is not None and not port_text.startswith("_"):
        port = _port(port_text)
    if ipv6 is not None:
        return ForwardedNode(_ipv6(ipv6), port)
    if is_ipv4(name) or _OBFUSCATED.fullmatch(name) is not None:
        return ForwardedNode(name, port)
    if name.lower() == "unknown":
        return ForwardedNode("unknown", port)
    raise ForwardedError(f"Forwarded node {text[:64]!r}")


def _port(digits: str) -> int:
    port = int(digits)
    if port > 0xFFFF:
        raise ForwardedError(f"port {digits}")
    return port


def _ipv6(text: str) -> str:
    try:
        canonical = canonical_ip(text)
    except ValueError:
        canonical = ""
    if ":" not in canonical:
        raise ForwardedError(f"{text[:64]!r} is not an IPv6 address")
    return canonical


def format_node(ip: str, port: int | None = None) -> bytes:
    """A node identifier as a parameter's value: IPv6 in brackets, in quotes where a token may not hold it.

    `ip` is an IP address, `unknown`, or an obfuscated identifier. Raises ForwardedError for others.
    """
    if _ADDRESS_CHARACTERS.fullmatch(ip) is None and ip != "unknown" and _OBFUSCATED.fullmatch(ip) is None:
        raise ForwardedError(f"{ip[:64]!r} is no node name")
    if ":" in ip:
        return f'"[{ip}]"'.encode() if port is None else f'"[{ip}]:{port}"'.encode()
    return ip.encode() if port is None else f'"{ip}:{port}"'.encode()


def format_forwarded_element(
    *, for_: bytes, by: bytes | None = None, host: bytes | None = None, proto: bytes | None = None
) -> bytes:
    """One element to append to Forwarded: `for_` and `by` as `format_node` made them, the others unquoted.

    Raises ForwardedError when `host` or `proto` has a byte that no quoted string may hold.
    """
    element = b"for=" + for_
    if by is not None:
        element += b";by=" + by
    if host is not None:
        element += b";host=" + _quote(host)
    if proto is not None:
        element += b";proto=" + _quote(proto)
    return element


def _quote(value: bytes) -> bytes:
    if _BARE.fullmatch(value) is not None:
        return value
    if _QUOTABLE.fullmatch(value) is None:
        raise ForwardedError(f"{value[:64]!r} cannot be quoted")
    return b'"' + _NEEDS_BACKSLASH.sub(rb"\\\1", value) + b'"'


def parse_x_forwarded_for(value: bytes) -> list[str]:
    """The addresses in an X-Forwarded-For value, the one nearest to the client first.

    Addresses come back in their RFC 5952 spelling. Ports, as in `192.0.2.1:80` and
    `[2001:db8::1]:80`, are dropped, empty entries passed over. Raises ForwardedError
    for an entry that is no address, such as `unknown`.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise ForwardedError(f"an X-Forwarded-For value of {len(value)} bytes")
    try:
        entries = value.decode("ascii").split(",")
    except UnicodeDecodeError:
        raise ForwardedError("X-Forwarded-For is not ASCII") from None
    addresses = [_listed_address(entry.strip(" \t")) for entry in entries if entry.strip(" \t")]
    if len(addresses) > MAX_ELEMENTS:
        raise ForwardedError(f"more than {MAX_ELEMENTS} X-Forwarded-For entries")
    return addresses


def _listed_address(entry: str) -> str:
    if is_ipv4(entry):
        return entry
    if entry.startswith("["):
        return _node_address(entry)
    if entry.count(":") >= 2:
        return _ipv6(entry)
    return _node_address(entry)


def _node_address(entry: str) -> str:
    node = parse_node(entry)
    address = node.ip
    if address is None or isinstance(node.port, str):
        raise ForwardedError(f"{entry!r} in X-Forwarded-For is no IP address")
    return address
