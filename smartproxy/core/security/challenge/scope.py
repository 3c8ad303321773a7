"""Which requests of a route a challenge is asked of."""

from __future__ import annotations

import re

from smartproxy.core.http.messages import Fields
from smartproxy.core.security.policies import ChallengePolicy

_HTML = b"text/html"
# RFC 9110 §12.4.2: zero in all its spellings. What is no weight at all is not zero.
_ZERO_WEIGHT = re.compile(rb"0(?:\.0{0,3})?")


def applies(policy: ChallengePolicy, method: bytes, path: str, fields: Fields) -> bool:
    """Whether `policy` asks anything of this request; `path` is its normalised path."""
    if policy.methods and method not in policy.methods:
        return False
    if policy.paths and all(pattern.match(path) is None for pattern in policy.paths):
        return False
    return not policy.browser_navigations_only or is_navigation(method, fields)


def is_navigation(method: bytes, fields: Fields) -> bool:
    """Whether a browser wants a page to show.

    Sec-Fetch-Mode says so where it is sent; browsers leave it out on plain HTTP, where the
    request is judged by its method and by whether it accepts HTML.
    """
    accepts_html = False
    for name, value in fields:
        if name == b"sec-fetch-mode":
            return value == b"navigate"
        if name == b"accept" and not accepts_html:
            accepts_html = _accepts_html(value)
    return accepts_html and method in (b"GET", b"HEAD")


def _accepts_html(accept: bytes) -> bool:
    """Whether text/html itself is named with a weight above zero (RFC 9110 §12.5.1)."""
    accept = accept.lower()
    if _HTML not in accept:
        return False
    for member in accept.split(b","):
        media_range, *parameters = [part.strip(b" \t") for part in member.split(b";")]
        if media_range == _HTML:
            return not any(
                name.rstrip(b" \t") == b"q" and _ZERO_WEIGHT.fullmatch(weight.lstrip(b" \t")) is not None
                for name, _, weight in (parameter.partition(b"=") for parameter in parameters)
            )
    return False
