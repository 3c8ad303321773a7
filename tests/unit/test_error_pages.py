"""The proxy's own responses."""

from __future__ import annotations

import json

import pytest

from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.errors import EXPLANATION_LIMIT, error_response, proxy_status, status_for
from smartproxy.core.http.messages import ResponseHead

REFUSED = Failure(
    FailureSource.BACKEND, FailureCode.CONNECTION_REFUSED, "connect to 10.0.0.1:8080 (db.internal) failed"
)
BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def field(head: ResponseHead, name: bytes) -> bytes | None:
    return dict(head.fields).get(name)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (b"", b"application/problem+json"),
        (b"*/*", b"application/problem+json"),
        (BROWSER, b"text/html; charset=utf-8"),
        (b"text/html", b"text/html; charset=utf-8"),
        (b"TEXT/HTML ; Q=0.5, text/plain;q=0.4", b"text/html; charset=utf-8"),
        (b"text/plain", b"text/plain; charset=utf-8"),
        (b"text/plain, text/html;q=0.9", b"text/plain; charset=utf-8"),
        (b"application/json, text/plain, */*", b"application/problem+json"),
        (b"application/json;q=0.2, text/html;q=0.1", b"application/problem+json"),
        (b"application/*;q=0.2, text/*;q=0.9", b"text/html; charset=utf-8"),
        (b"text/*, text/html;q=0", b"text/plain; charset=utf-8"),
        (b"*/*, application/problem+json;q=0, application/json;q=0", b"text/html; charset=utf-8"),
        (b"image/png", b"application/problem+json"),
        (b"text/html;q=0", b"application/problem+json"),
        (b"text/html;q=nan, text/plain;q=0.1", b"text/plain; charset=utf-8"),
        (b"text/html;q=1e3, text/plain;q=0.1", b"text/plain; charset=utf-8"),
        (b",;=,,\xff/\xff;q", b"application/problem+json"),
        (b"image/png," * 10_000 + b"text/html", b"application/problem+json"),
    ],
)
def test_the_content_is_of_the_type_preferred(accept: bytes, content_type: bytes) -> None:
    head, _ = error_response(404, accept=accept)
    assert field(head, b"content-type") == content_type


@pytest.mark.parametrize("accept", [b"", BROWSER, b"text/plain"])
def test_what_every_error_has(accept: bytes) -> None:
    head, body = error_response(502, REFUSED, accept=accept, request_id="r-17")
    assert head.status == 502
    assert head.reason == b"Bad Gateway"
    assert head.body_length_bytes == len(body) > 0
    assert field(head, b"content-length") == str(len(body)).encode()
    assert field(head, b"cache-control") == b"no-store"
    assert field(head, b"x-content-type-options") == b"nosniff"
    assert field(head, b"retry-after") is None
    assert b"r-17" in body
    assert b"502" in body


@pytest.mark.parametrize("accept", [b"", BROWSER, b"text/plain"])
def test_addresses_do_not_leak(accept: bytes) -> None:
    head, body = error_response(502, REFUSED, accept=accept)
    everything = body + b"".join(value for _, value in head.fields)
    for secret in (b"10.0.0.1", b"8080", b"db.internal"):
        assert secret not in everything


def test_problem_json() -> None:
    _, body = error_response(404, explanation="No route matches GET /ä.", request_id="r-17")
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "No route matches GET /ä.",
        "request_id": "r-17",
    }


def test_a_page_escapes_what_it_shows() -> None:
    head, body = error_response(
        404, accept=BROWSER, explanation="<script>alert('1')</script>", request_id='"><b>'
    )
    assert b"<script" not in body
    assert b"&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;" in body
    assert b"&quot;&gt;&lt;b&gt;" in body
    assert field(head, b"content-security-policy") == b"default-src 'none'; style-src 'unsafe-inline'"


def test_a_page_is_whole_and_brings_nothing_along() -> None:
    _, body = error_response(503, accept=BROWSER)
    assert body.startswith(b"<!doctype html>")
    assert b"prefers-color-scheme: dark" in body
    assert b"viewport" in body
    assert b"http:" not in body
    assert b"https:" not in body
    assert b"{" not in body.split(b"</style>")[1]


def test_plain_text() -> None:
    _, body = error_response(404, accept=b"text/plain", explanation="No route.", request_id="r-1")
    assert body == b"404 Not Found\nNo route.\nRequest r-1\n"


def test_an_explanation_cannot_speak_to_a_terminal() -> None:
    _, body = error_response(404, accept=b"text/plain", explanation="a\x1b[31m\r\x9bb\nc")
    assert "a\N{REPLACEMENT CHARACTER}[31m".encode() in body
    assert not set(body) & ({*range(32), 127} - {10})


@pytest.mark.parametrize("accept", [b"", BROWSER, b"text/plain"])
def test_a_long_or_broken_explanation_is_no_problem(accept: bytes) -> None:
    _, body = error_response(404, accept=accept, explanation="\ud800" + "é" * 1_000_000)
    assert len(body) < 8 * EXPLANATION_LIMIT


def test_retry_after() -> None:
    head, _ = error_response(503, retry_after_s=7)
    assert field(head, b"retry-after") == b"7"


@pytest.mark.parametrize(
    ("status", "title"),
    [(413, b"Content Too Large"), (414, b"URI Too Long"), (421, b"Misdirected Request"), (599, b"Error")],
)
def test_titles_are_those_of_rfc_9110(status: int, title: bytes) -> None:
    head, body = error_response(status)
    assert head.reason == title
    assert json.loads(body)["title"] == title.decode()


def test_proxy_status() -> None:
    assert proxy_status("smartproxy", 502, REFUSED) == (
        b'smartproxy; error=connection_refused; details="the backend refused the connection"'
    )
    assert proxy_status("edge 1", 404, None) == b'"edge 1"; error=proxy_internal_response'
    too_large = Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_DENIED)
    assert proxy_status("p", 413, too_large) == (b'p; error=http_request_denied; details="content too large"')


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("edge.example.com", b"edge.example.com"),
        ("9lives", b'"9lives"'),
        ('a"b\\c', b'"a\\"b\\\\c"'),
        ("né\r\n", b'"n???"'),
        ("", b'""'),
    ],
)
def test_any_proxy_name_makes_a_structured_field(name: str, item: bytes) -> None:
    assert proxy_status(name, 404, None).partition(b";")[0] == item


@pytest.mark.parametrize("source", list(FailureSource))
@pytest.mark.parametrize("code", list(FailureCode))
def test_every_failure_has_a_status_and_a_reason(source: FailureSource, code: FailureCode) -> None:
    failure = Failure(source, code)
    status = status_for(failure)
    assert 400 <= status < 600
    if source is FailureSource.CLIENT and code.value.startswith(("connection_t", "connection_read", "tls")):
        assert status < 500
    head, body = error_response(status, failure)
    assert head.reason != b"Error"
    assert json.loads(body)["detail"]
    assert (field(head, b"proxy-status") or b"").startswith(b"smartproxy; error=")


@pytest.mark.parametrize(
    ("source", "code", "status"),
    [
        (FailureSource.CLIENT, FailureCode.HTTP_REQUEST_ERROR, 400),
        (FailureSource.CLIENT, FailureCode.HTTP_PROTOCOL_ERROR, 400),
        (FailureSource.CLIENT, FailureCode.CONNECTION_READ_TIMEOUT, 408),
        (FailureSource.CLIENT, FailureCode.INITIAL_DATA_TIMEOUT, 408),
        (FailureSource.CLIENT, FailureCode.ACCESS_DENIED, 403),
        (FailureSource.CLIENT, FailureCode.NO_ROUTE, 404),
        (FailureSource.PROXY, FailureCode.NO_ROUTE, 404),
        (FailureSource.PROXY, FailureCode.CONNECTION_LIMIT_REACHED, 503),
        (FailureSource.BACKEND, FailureCode.DESTINATION_UNAVAILABLE, 503),
        (FailureSource.BACKEND, FailureCode.CONNECTION_REFUSED, 502),
        (FailureSource.BACKEND, FailureCode.CONNECTION_TERMINATED, 502),
        (FailureSource.BACKEND, FailureCode.CONNECTION_TIMEOUT, 504),
        (FailureSource.BACKEND, FailureCode.HTTP_RESPONSE_TIMEOUT, 504),
        (FailureSource.BACKEND, FailureCode.HTTP_PROTOCOL_ERROR, 502),
        (FailureSource.BACKEND, FailureCode.TLS_CERTIFICATE_ERROR, 502),
        (FailureSource.BACKEND, FailureCode.DNS_ERROR, 502),
        (FailureSource.BACKEND, FailureCode.DNS_TIMEOUT, 504),
        (FailureSource.PROXY, FailureCode.PROXY_INTERNAL_ERROR, 500),
    ],
)
def test_statuses(source: FailureSource, code: FailureCode, status: int) -> None:
    assert status_for(Failure(source, code)) == status
