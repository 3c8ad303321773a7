"""Where a browser is sent once its challenge is solved: to what it asked for, and never to another site."""

from __future__ import annotations

import re

# Scheme and authority of an absolute-form target (RFC 9112 §3.2.2).
_ABSOLUTE_FORM = re.compile(rb"[A-Za-z][0-9A-Za-z+.\-]*+://[^/\\?#]*+")

# Browsers read a backslash as a slash, leave out tabs and line ends wherever they stand, and take what
# follows two slashes for a host (WHATWG URL §4.4).
_LEADING_SLASHES = b"/\\\t\r\n"

_NOT_IN_PATH_OR_QUERY = re.compile(rb"%(?![0-9A-Fa-f]{2})|[^0-9A-Za-z\-._~!$&'()*+,;=:@/?%]")
"""Beyond pchar, "/" and "?" (RFC 3986 §3.3, §3.4); a "%" is kept where it begins an escape."""


def return_path(target: bytes) -> str:
    """The path and query of a request's target, as a value for Location that stays on the site.

    `target` is in any form of RFC 9112 §3.2. The result begins with exactly one slash, and is ASCII of
    the path and query characters of RFC 3986 only: whatever else was there is percent-encoded,
    existing escapes are kept, a fragment is dropped. It is "/" where the target has no path.
    """
    absolute = _ABSOLUTE_FORM.match(target)
    if absolute is not None:
        target = target[absolute.end() :]
    elif target[:1] not in (b"/", b"\\"):
        return "/"
    path = target.partition(b"#")[0].lstrip(_LEADING_SLASHES)
    return "/" + _NOT_IN_PATH_OR_QUERY.sub(_percent_encoded, path).decode("ascii")


def without_query(path: str) -> str:
    """The path alone of a `return_path`."""
    return path.partition("?")[0]


def _percent_encoded(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % ord(match[0])
