"""Cookies by name: read from a request, left out of it, and set (RFC 6265)."""

from __future__ import annotations

from collections.abc import Collection
from math import ceil

from smartproxy.core.http.messages import Fields

MAX_VALUES = 8
"""Values of one name that are looked at: a planted cookie must not hide the real one, nor cost much."""

MAX_SET_COOKIE_BYTES = 4096
"""What every browser keeps (RFC 6265 §6.1), with the attributes counted in."""

MAX_AGE_S = 400 * 24 * 3600.0
"""What browsers cut a longer Max-Age to."""

_OWS = b" \t"


def cookie_values(fields: Fields, name: bytes) -> list[bytes]:
    """The values of the cookies called `name`, in order, quotation marks removed; at most `MAX_VALUES`.

    All Cookie lines count, as do HTTP/2's crumbs (RFC 9113 §8.2.3).
    """
    found: list[bytes] = []
    for field_name, line in fields:
        if field_name == b"cookie" and name in line:
            for pair in line.split(b";"):
                key, _, value = pair.partition(b"=")
                if key.strip(_OWS) == name:
                    found.append(_unquoted(value.strip(_OWS)))
                    if len(found) == MAX_VALUES:
                        return found
    return found


def cookie_names(fields: Fields, prefix: bytes) -> list[bytes]:
    """The names, each once, of the cookies whose name begins with `prefix`."""
    names: dict[bytes, None] = {}
    for field_name, line in fields:
        if field_name == b"cookie" and prefix in line:
            for pair in line.split(b";"):
                name = pair.partition(b"=")[0].strip(_OWS)
                if name.startswith(prefix):
                    names[name] = None
    return list(names)


def without_cookies(fields: Fields, names: Collection[bytes]) -> Fields:
    """The fields, as a new list, without the cookies called `names`; a Cookie line left empty goes too.

    Lines that hold none of them stay byte for byte.
    """
    # A client may send thousands of cookies, all of them with such names.
    unwanted = frozenset(names)
    kept: Fields = []
    for line in fields:
        if line[0] == b"cookie":
            value = line[1]
            pairs = [pair.strip(_OWS) for pair in value.split(b";")]
            others = [pair for pair in pairs if pair.partition(b"=")[0].rstrip(_OWS) not in unwanted]
            if len(others) < len(pairs):
                value = b"; ".join(filter(None, others))
                line = (b"cookie", value)
            if not value.strip(_OWS):
                continue
        kept.append(line)
    return kept


def set_cookie(name: bytes, value: bytes, *, max_age_s: float, is_secure: bool) -> bytes:
    """A Set-Cookie value for the whole site, kept from scripts and from other sites' form posts.

    `name` and `value` are of the bytes that RFC 6265 §4.1.1 allows. `is_secure`: only over TLS.
    """
    secure = b"; Secure" if is_secure else b""
    return b"%s=%s; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax%s" % (
        name,
        value,
        ceil(min(max_age_s, MAX_AGE_S)),
        secure,
    )


def deleted_cookie(name: bytes, *, is_secure: bool) -> bytes:
    """A Set-Cookie value that takes back the one of `set_cookie`."""
    return set_cookie(name, b"", max_age_s=0, is_secure=is_secure)


def _unquoted(value: bytes) -> bytes:
    return value[1:-1] if len(value) > 1 and value[:1] == b'"' == value[-1:] else value
