"""The choice of a TLS context by route and name."""

from __future__ import annotations

import ssl

import pytest

from smartproxy.core.certificates import CertificateIndex, NameIndex, ServedTls
from smartproxy.core.configuration import HandlerAction, HandlerKind, Route, RouteMatch


def route(position: int) -> Route:
    match = RouteMatch(ports=((443, 443),))
    return Route(position, f"route[{position}]", "", 0, match, HandlerAction(HandlerKind.ECHO))


def served() -> ServedTls:
    return ServedTls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


EXACT, WILDCARD, DEEPER, DEFAULT = served(), served(), served(), served()
INDEX = NameIndex(
    {"app.example.com": EXACT, "*.example.com": WILDCARD, "*.deep.example.com": DEEPER}, DEFAULT
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("app.example.com", EXACT),
        ("APP.Example.COM.", EXACT),
        ("other.example.com", WILDCARD),
        ("deep.example.com", WILDCARD),
        ("a.deep.example.com", DEEPER),
        # A star is one whole label (RFC 9525 §6.3).
        ("a.b.deep.example.com", DEFAULT),
        ("example.com", DEFAULT),
        ("com", DEFAULT),
        ("", DEFAULT),
        (".", DEFAULT),
        ("*.example.com", WILDCARD),
        (None, DEFAULT),
    ],
)
def test_exact_then_wildcard_then_default(name: str | None, expected: ServedTls) -> None:
    assert INDEX.lookup(name) is expected


def test_without_a_default_unknown_names_have_none() -> None:
    index = NameIndex({"a.example": EXACT}, None)
    assert index.lookup("a.example") is EXACT
    assert index.lookup("b.example") is None
    assert index.lookup(None) is None


def test_each_route_has_its_own_choice() -> None:
    index = CertificateIndex({0: INDEX, 1: NameIndex({}, EXACT)})
    assert index.lookup("other.example.com", route(0)) is WILDCARD
    assert index.lookup("other.example.com", route(1)) is EXACT
    assert index.lookup("other.example.com", route(2)) is None
