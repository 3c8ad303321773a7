"""Which web sites may open a WebSocket (RFC 6455 §10.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ORIGIN = re.compile(r"([a-z][a-z0-9+.\-]*+)://(\[[0-9a-f:.]++\]|[0-9a-z._\-]++)(?::([0-9]{1,5}+))?+")
_PATTERN = re.compile(
    r"(?:([a-z][a-z0-9+.\-]*+)://)?+(\[[0-9a-f:.]++\]|(?:\*\.)?+[0-9a-z._\-]++)(?::([0-9]{1,5}+))?+"
)


class OriginAllowList:
    """The origins that `patterns` allow, in any case of letters, default ports written or not.

    A pattern is an origin (`https://app.example.com`, `http://localhost:3000`), one
    with a wildcard for everything below a name (`https://*.example.com`), a host with
    or without wildcard and port for any scheme (`app.example.com`), `null`, or `*`
    for any. Raises ValueError for anything else.
    """

    __slots__ = ("_allows_any", "_exact", "_suffixes")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._allows_any = False
        #: (scheme or "", host, port).
        self._exact: set[tuple[str, str, str]] = set()
        #: The same, the host a suffix with its dot.
        self._suffixes: list[tuple[str, str, str]] = []
        for pattern in patterns:
            self._add(pattern)

    def _add(self, pattern: str) -> None:
        if pattern == "*":
            self._allows_any = True
            return
        if pattern == "null":
            self._exact.add(("null", "", ""))
            return
        match = _PATTERN.fullmatch(pattern.lower().removesuffix("/"))
        if match is None:
            raise ValueError(f"{pattern!r} is not an origin")
        scheme, host, port = match[1] or "", match[2], match[3] or ""
        if host.startswith("*."):
            self._suffixes.append((scheme, host[1:], _port_of(scheme, port)))
        else:
            self._exact.add((scheme, host, _port_of(scheme, port)))

    def allows(self, origin: bytes | None) -> bool:
        """Whether a request with this Origin field (None: without) may go on.

        One without is refused unless any is allowed: browsers always send it.
        """
        if self._allows_any:
            return True
        if origin is None:
            return False
        if origin == b"null":
            return ("null", "", "") in self._exact
        match = _ORIGIN.fullmatch(origin.decode("latin-1").lower())
        if match is None:
            return False
        scheme, host = match[1], match[2]
        port = _port_of(scheme, match[3] or "")
        ways = [(scheme, port), ("", port)]
        if port == _DEFAULT_PORTS.get(scheme):
            # A pattern with neither scheme nor port means the scheme's own.
            ways.append(("", ""))
        return any(
            (wanted_scheme, host, wanted_port) in self._exact for wanted_scheme, wanted_port in ways
        ) or any(
            host.endswith(suffix) and len(host) > len(suffix) and (wanted_scheme, wanted_port) in ways
            for wanted_scheme, suffix, wanted_port in self._suffixes
        )


def _port_of(scheme: str, port: str) -> str:
    return port or _DEFAULT_PORTS.get(scheme, "")
