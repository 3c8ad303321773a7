"""Where in a request's fields its credentials are."""

from __future__ import annotations

from smartproxy.core.http.messages import Fields


def has_basic_scheme(value: bytes) -> bool:
    """Whether a field's value has the scheme Basic; schemes are case-insensitive (RFC 9110 §11.1)."""
    return value[:6].lower() in (b"basic ", b"basic")


def has_bearer_scheme(value: bytes) -> bool:
    """Whether a field's value has the scheme Bearer."""
    return value[:7].lower() in (b"bearer ", b"bearer")


def token_cookie(fields: Fields, cookie_name: bytes) -> bytes | None:
    """The value of the cookie of that name (RFC 6265 §4.2); None without one, empty for two that differ.

    Another site of the same domain can add a cookie, and a browser does not tell which one is whose.
    """
    found: bytes | None = None
    for name, value in fields:
        if name == b"cookie" and cookie_name in value:
            for pair in value.split(b";"):
                cookie, _, content = pair.strip(b" \t").partition(b"=")
                content = content.strip(b'"')
                if content and cookie == cookie_name:
                    if found is not None and found != content:
                        return b""
                    found = content
    return found
