"""The grammar of RFC 9112 and RFC 9110 §5 as compiled patterns.

Possessive quantifiers throughout: no input makes a pattern backtrack.
"""

from __future__ import annotations

import re

_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# RFC 9110 §5.5 without its control bytes: obs-text is opaque, HTAB is the only control byte.
_VCHAR_OR_OWS = rb"[\t\x20-\x7e\x80-\xff]"
# RFC 9112 §5: no white space before the colon. Trailing white space is left to the slower pattern.
_FIELD_LINE = _TCHAR + rb"++:" + _VCHAR_OR_OWS + rb"*+(?<![ \t])\r\n"
# RFC 9112 §3.2.1 plus the printable bytes that clients leave unescaped; "#" would be a fragment.
_ORIGIN_FORM = rb"/[!\"$-~]*+"

TOKEN = re.compile(_TCHAR + rb"++")
"""RFC 9110 §5.6.2."""

ORIGIN_FORM = re.compile(_ORIGIN_FORM)

REQUEST_HEAD = re.compile(
    rb"(" + _TCHAR + rb"++) (" + _ORIGIN_FORM + rb") HTTP/1\.([01])\r\n((?:" + _FIELD_LINE + rb")*+)\r\n"
)
"""A whole request head in origin-form: method, target, minor version, field lines."""

RESPONSE_HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9]{2}) (" + _VCHAR_OR_OWS + rb"*+)\r\n((?:" + _FIELD_LINE + rb")*+)\r\n"
)
"""A whole response head: minor version, status, reason, field lines."""

TRAILER_SECTION = re.compile(rb"((?:" + _FIELD_LINE + rb")*+)\r\n")
"""A whole trailer section: field lines."""

SPLIT_FIELD_LINES = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")
"""Name and value of each line, for `findall` over lines already recognised."""

FIELD_LINE_WITH_TRAILING_SPACE = re.compile(rb"(" + _TCHAR + rb"++):[ \t]*+(" + _VCHAR_OR_OWS + rb"*+)")
"""One line without its CRLF; the value is still to be stripped on the right."""

PERMITTED_BYTES = re.compile(rb"(?:[^\x00-\x08\x0a-\x1f\x7f]++|\r\n)*+")
"""What a head or trailer section consists of: no control byte, no bare CR, no bare LF."""

VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")

CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}+")
"""RFC 9112 §6.2; 18 digits always fit 63 bits."""

# RFC 9112 §7.1.1. White space only where h11 also takes it: never between the size and ";".
_QUOTED_STRING = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_CHUNK_EXTENSION = (
    rb"(?:;[ \t]*+"
    + _TCHAR
    + rb"++[ \t]*+(?:=[ \t]*+(?:"
    + _TCHAR
    + rb"++|"
    + _QUOTED_STRING
    + rb")[ \t]*+)?+)*+"
)
_CHUNK_SIZE = rb"[0-9A-Fa-f]{1,15}+"
_PARTIAL_CHUNK_LINE = rb"(?:" + _CHUNK_SIZE + rb"(?:;" + _VCHAR_OR_OWS + rb"*+)?+\r?+)?+"

FIRST_CHUNK_LINE = re.compile(rb"(" + _CHUNK_SIZE + rb")" + _CHUNK_EXTENSION + rb"\r\n")
"""A chunk's size line at the start of a body: size."""
NEXT_CHUNK_LINE = re.compile(rb"\r\n(" + _CHUNK_SIZE + rb")" + _CHUNK_EXTENSION + rb"\r\n")
"""The CRLF that ends a chunk's data and the size line after it: size."""
PARTIAL_FIRST_CHUNK_LINE = re.compile(_PARTIAL_CHUNK_LINE)
"""Whatever may still become a `FIRST_CHUNK_LINE`, for `fullmatch`."""
PARTIAL_NEXT_CHUNK_LINE = re.compile(rb"\r?+|\r\n" + _PARTIAL_CHUNK_LINE)

# Host names as DNS and IDNA A-labels spell them, "_" included. RFC 3986 also allows sub-delims and
# percent escapes, which one parser decodes and another does not.
_LABEL = rb"[0-9A-Za-z_\-]++"
# The longer numbers first: a possessive group does not come back for them.
_PORT = rb"(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}+)"
HOST_NAME_AND_PORT = re.compile(_LABEL + rb"(?:\." + _LABEL + rb")*+\.?+(?::" + _PORT + rb")?+")
BRACKETED_HOST_AND_PORT = re.compile(rb"\[([0-9A-Fa-f:.]{2,45}+)\](?::" + _PORT + rb")?+")

ABSOLUTE_FORM = re.compile(rb"([A-Za-z][0-9A-Za-z+.\-]*+)://([^/?#]*+)(.*+)", re.DOTALL)
"""Scheme, authority, the rest (RFC 3986 §3)."""
TARGET_BYTES = re.compile(rb"[!\"$-~]++")

CONTROL_BYTES = bytes(byte for byte in (*range(32), 127) if byte != 9)
TOKEN_BYTES = bytes(byte for byte in range(256) if TOKEN.fullmatch(bytes((byte,))))
