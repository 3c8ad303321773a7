"""Answers to challenges in every form that they may be submitted in, and in many that they may not."""

from __future__ import annotations

import pytest
from challenges_by_hand import NAVIGATION, Desk, refused

from smartproxy.core.security.challenge.submission import refuse_submission

FORM = b"application/x-www-form-urlencoded"
JSON = b"application/json"


@pytest.mark.parametrize(
    ("content_type", "body", "payload"),
    [
        (FORM, b"", {}),
        (FORM, b"a=%C3%A9&b=x+y&c", {"a": "é", "b": "x y", "c": ""}),
        (FORM + b";charset=utf-8", "a=é".encode(), {"a": "é"}),
        (JSON, b'{"a": "\xc3\xa9", "n": 12345678901234567890, "f": 1.50, "t": true, "u": false}', None),
        (JSON, b"{}", {}),
        (JSON, b' {"a":"\\u00e9"} ', {"a": "é"}),
    ],
)
def test_submission_that_is_read(content_type: bytes, body: bytes, payload: dict[str, str] | None) -> None:
    desk = Desk()
    desk.visit()
    desk.submit(desk.verify_target, body, method=b"POST", content_type=content_type)
    if payload is None:
        payload = {"a": "é", "n": "12345678901234567890", "f": "1.50", "t": "true", "u": "false"}
    assert desk.provider.payloads == [payload]


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (FORM, b"a=1&a=2", 400),
        (FORM, b"a=%FF", 400),
        (FORM, b"a=\xff", 400),
        (FORM, b"&".join(b"f%d=" % n for n in range(65)), 400),
        (FORM, b"a=" + b"x" * (16 * 1024), 413),
        (JSON, b"", 400),
        (JSON, b"[]", 400),
        (JSON, b'"x"', 400),
        (JSON, b'{"a": {}}', 400),
        (JSON, b'{"a": {"b": "c"}}', 400),
        (JSON, b'{"a": []}', 400),
        (JSON, b'{"a": null}', 400),
        (JSON, b'{"a": NaN}', 400),
        (JSON, b'{"a": "1", "a": "1"}', 400),
        (JSON, b'{"a": "\xff"}', 400),
        (JSON, b'{"a": "\\ud800"}', 400),
        (JSON, b'{"a": 1', 400),
        (JSON, b'\xef\xbb\xbf{"a": "1"}', 400),
        (JSON, b"[" * 16000, 400),
        (JSON, b'{"a":' * 3000, 400),
        (JSON, b"{" + b",".join(b'"%d":""' % n for n in range(65)) + b"}", 400),
        (JSON, b'{"a": "' + b"x" * (16 * 1024) + b'"}', 413),
        (b"", b"a=1", 415),
        (b"text/plain", b"a=1", 415),
        (b"multipart/form-data; boundary=x", b"a=1", 415),
        (FORM + b"; charset=utf-16", b"a=1", 415),
        (JSON + b'; charset="iso-8859-1"', b"{}", 415),
    ],
)
def test_submission_that_is_refused(content_type: bytes, body: bytes, status: int) -> None:
    desk = Desk()
    desk.visit()
    desk.solve()
    refused(desk.submit(desk.verify_target, body, method=b"POST", content_type=content_type), status)
    assert desk.provider.payloads == []


@pytest.mark.parametrize(
    "fields",
    [
        [(b"content-encoding", b"gzip")],
        [(b"content-type", JSON)],
    ],
)
def test_submission_that_says_two_things(fields: list[tuple[bytes, bytes]]) -> None:
    desk = Desk()
    desk.visit()
    verdict = desk.submit(desk.verify_target, b"{}", method=b"POST", content_type=JSON, fields=fields)
    refused(verdict, 415)


@pytest.mark.parametrize("query", [b"?a=1&a=2", b"?a=%ff", b"?" + b"&" * 65])
def test_query_that_is_refused(query: bytes) -> None:
    desk = Desk()
    desk.visit()
    refused(desk.submit(desk.verify_target + query), 400)


def test_query_that_is_too_long() -> None:
    desk = Desk()
    desk.visit()
    refused(desk.submit(desk.verify_target + b"?a=" + b"x" * (16 * 1024)), 413)


def test_methods_of_a_submission() -> None:
    desk = Desk()
    desk.visit()
    verdict = refused(desk.submit(desk.verify_target, method=b"PUT"), 405)
    assert verdict.fields == ((b"allow", b"GET, HEAD, POST"),)


def test_submission_is_refused_by_its_head_before_its_body_is_read() -> None:
    form = [(b"content-type", FORM)]
    assert refuse_submission(b"GET", NAVIGATION, 0) is None
    assert refuse_submission(b"POST", form, -1) is None
    assert refuse_submission(b"POST", form, 16 * 1024) is None
    refused(refuse_submission(b"POST", form, 16 * 1024 + 1), 413)
    refused(refuse_submission(b"POST", [], 5), 415)
    refused(refuse_submission(b"DELETE", form, 5), 405)
