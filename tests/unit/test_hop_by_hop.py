"""Which fields cross the proxy (RFC 9110 §7.6.1)."""

from __future__ import annotations

import pytest

from smartproxy.core.http.hop_by_hop import end_to_end_fields

COOKIE = (b"cookie", b"a=b")


def test_connection_and_what_it_nominates_stay_behind() -> None:
    fields = [
        (b"connection", b"close, X-Hop"),
        (b"x-hop", b"1"),
        (b"close", b"odd"),
        COOKIE,
        (b"x-hop", b"2"),
    ]
    assert end_to_end_fields(fields, frozenset({b"close", b"x-hop"})) == [COOKIE]


def test_a_field_that_nobody_nominates_goes_on() -> None:
    fields = [(b"x-hop", b"1"), (b"trailer", b"x-checksum"), COOKIE]
    assert end_to_end_fields(fields, frozenset({b"keep-alive"})) == fields


@pytest.mark.parametrize(
    "name",
    [
        b"host",
        b"content-length",
        b"content-type",
        b"authorization",
        b"cookie",
        b"x-forwarded-for",
        b"x-forwarded-anything",
        b"x_forwarded_for",
        b"forwarded",
        b"x-real-ip",
        b"sec-fetch-site",
    ],
)
def test_a_nomination_cannot_take_away_what_the_backend_relies_on(name: bytes) -> None:
    assert end_to_end_fields([(name, b"1")], frozenset({b"close", name})) == [(name, b"1")]


def test_proxy_credentials_are_for_this_proxy_only() -> None:
    fields = [(b"proxy-authorization", b"Basic eA=="), (b"proxy-authenticate", b"Basic"), COOKIE]
    assert end_to_end_fields(fields, frozenset()) == [COOKIE]


def test_a_proxy_field_cannot_set_a_cgi_backends_http_proxy() -> None:
    assert end_to_end_fields([(b"proxy", b"http://evil.example")], frozenset()) == []


def test_underscore_spellings_of_connection_fields_stay_behind() -> None:
    assert end_to_end_fields([(b"transfer_encoding", b"chunked"), (b"keep_alive", b"1")], frozenset()) == []


@pytest.mark.parametrize(
    "value", [b"trailers", b"Trailers", b"deflate;q=0.5, trailers", b"gzip ,\ttrailers "]
)
def test_te_trailers_survives_where_the_caller_lets_it(value: bytes) -> None:
    fields = [(b"te", value), COOKIE]
    options = frozenset({b"te"})
    assert end_to_end_fields(fields, options, keep_te_trailers=True) == [COOKIE, (b"te", b"trailers")]
    assert end_to_end_fields(fields, options) == [COOKIE]


@pytest.mark.parametrize("value", [b"", b"deflate", b"trailers;q=1", b"x-trailers", b"trailers2"])
def test_other_transfer_codings_never_survive(value: bytes) -> None:
    assert end_to_end_fields([(b"te", value)], frozenset(), keep_te_trailers=True) == []


def test_thousands_of_nominations_are_no_problem() -> None:
    options = frozenset(f"x-{number}".encode() for number in range(20_000))
    assert end_to_end_fields([(b"x-7", b""), COOKIE], options) == [COOKIE]
