"""Sec-WebSocket-Extensions and Sec-WebSocket-Protocol (RFC 6455 §9.1, §11.3): syntax alone."""

from __future__ import annotations

import re

_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_EXTENSION = re.compile(
    rb"(" + _TCHAR + rb"++)"
    rb"(?:[ \t]*+;[ \t]*+" + _TCHAR + rb"++(?:[ \t]*+=[ \t]*+(?:" + _TCHAR + rb"++|" + _QUOTED + rb"))?+)*+"
)
_GAP = re.compile(rb"[ \t,]*+")
_SEPARATOR = re.compile(rb"[ \t]*+(?:,[ \t,]*+|\Z)")
_TOKEN = re.compile(_TCHAR + rb"++")

MAX_ELEMENTS = 64
"""More extensions or subprotocols than this are refused."""


def extension_names(value: bytes) -> tuple[bytes, ...]:
    """The extensions a Sec-WebSocket-Extensions value names, in order, lower case; empty for an empty value.

    Raises ValueError for what is not in the grammar, or over `MAX_ELEMENTS`.
    """
    names: list[bytes] = []
    gap = _GAP.match(value)
    position = gap.end() if gap is not None else 0
    while position < len(value):
        extension = _EXTENSION.match(value, position)
        separator = _SEPARATOR.match(value, extension.end()) if extension is not None else None
        if extension is None or separator is None or len(names) == MAX_ELEMENTS:
            raise ValueError("malformed Sec-WebSocket-Extensions")
        names.append(extension[1].lower())
        position = separator.end()
    return tuple(names)


def parse_subprotocols(value: bytes) -> tuple[bytes, ...]:
    """The subprotocols of a Sec-WebSocket-Protocol value, in order of preference.

    Raises ValueError for one that is no token or is named twice (RFC 6455 §4.1), and over `MAX_ELEMENTS`.
    """
    subprotocols = tuple(name for element in value.split(b",") if (name := element.strip(b" \t")))
    if len(subprotocols) > MAX_ELEMENTS or len(set(subprotocols)) < len(subprotocols):
        raise ValueError("malformed Sec-WebSocket-Protocol")
    if not all(map(_TOKEN.fullmatch, subprotocols)):
        raise ValueError("malformed Sec-WebSocket-Protocol")
    return subprotocols
