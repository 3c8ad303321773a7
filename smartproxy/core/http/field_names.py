"""Field names: which are well formed, which are well known, and which spellings a backend confuses."""

from __future__ import annotations

import re
from collections.abc import Iterable

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 §5.6.2; for `fullmatch`."""

WELL_KNOWN_NAMES = frozenset(
    b"""
    accept accept-charset accept-encoding accept-language accept-ranges access-control-allow-credentials
    access-control-allow-headers access-control-allow-methods access-control-allow-origin
    access-control-expose-headers access-control-max-age access-control-request-headers
    access-control-request-method age allow alt-svc authorization cache-control content-disposition
    content-encoding content-language content-length content-location content-range
    content-security-policy content-type cookie cross-origin-embedder-policy cross-origin-opener-policy
    cross-origin-resource-policy date dnt etag expect expires from host if-match if-modified-since
    if-none-match if-range if-unmodified-since last-modified link location max-forwards nel origin
    permissions-policy pragma priority proxy-status range referer referrer-policy refresh report-to
    retry-after sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode
    sec-fetch-site sec-fetch-user sec-gpc sec-websocket-accept sec-websocket-extensions
    sec-websocket-key sec-websocket-protocol sec-websocket-version server server-timing set-cookie
    strict-transport-security timing-allow-origin traceparent tracestate trailer
    upgrade-insecure-requests user-agent vary via warning www-authenticate x-content-type-options
    x-csrf-token x-dns-prefetch-control x-frame-options x-powered-by x-request-id x-requested-with
    x-robots-tag x-xss-protection
    """.split()
)
"""Names so common that looking them up here saves a closer look at most field lines."""


def spelling_pattern(name: str) -> str:
    """A regular expression for `name` and the spellings that a CGI-like backend cannot tell from it.

    Such backends turn a field name into a variable name, in which `-`, `_` and
    (in some) every other mark are the same, and so is the case (RFC 3875 §4.1.18).
    """
    return re.sub(r"[^0-9A-Za-z]", "[^0-9a-z]", name)


ONE_SPELLING = bytes(byte if chr(byte).isalnum() and byte < 128 else ord("-") for byte in range(256))
"""For `bytes.translate` of a lower-case name: the same for all spellings that such a backend confuses."""


def compile_spellings(names: Iterable[str]) -> re.Pattern[bytes]:
    """A pattern for `fullmatch` on every spelling of `names`."""
    alternatives = "|".join(spelling_pattern(name) for name in names)
    return re.compile(f"(?:{alternatives})".encode("ascii"), re.IGNORECASE)
