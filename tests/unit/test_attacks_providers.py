"""Malformed answers to challenges, and providers that misbehave: nobody is let in, and nothing is left."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engine_http2_by_hand import connect_websocket, http2_client
from gates_by_hand import (
    ATTACKER_IP,
    FORM,
    JSON,
    NAVIGATION,
    Answer,
    Browser,
    GatesByHand,
    Make,
    challenged,
    engines,
    solves,
)

from smartproxy.core.http.gated_answer import GATE_DEADLINE_S
from smartproxy.core.ops import Returned
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    Decision,
    Verification,
)
from smartproxy.core.security.challenge.submission import MAX_SUBMISSION_BYTES
from smartproxy.core.security.policies import (
    ChallengePolicy,
    RequestPolicy,
)
from smartproxy.core.wire.http2 import DEFAULT_LIMITS, frames


@pytest.fixture
def make() -> Iterator[Make]:
    yield from engines()


# Answers.


def posted(hand: GatesByHand, browser: Browser, body: bytes, *lines: str) -> Answer:
    return browser.ask(browser.verify_path, *lines, method="POST", body=body)


DEEP = b'{"a":' * 3000 + b"1" + b"}" * 3000
MALFORMED = [
    (JSON, b'{"a":' * 2700),
    (JSON, b"[" * 16_000),
    (JSON, b"[]"),
    (JSON, b"null"),
    (JSON, b'"text"'),
    (JSON, b""),
    (JSON, b"{"),
    (JSON, b'{"a":1,"a":2}'),
    (JSON, b'{"a":{"b":"c"}}'),
    (JSON, b'{"a":[1]}'),
    (JSON, b'{"a":null}'),
    (JSON, b'{"a":NaN}'),
    (JSON, b'{"a":"\\ud800"}'),
    (JSON, b'{"\\udfff":"a"}'),
    (JSON, b'\xff{"a":"b"}'),
    (JSON, b'{"a":"\xc3("}'),
    (JSON, json.dumps({str(number): "x" for number in range(65)}).encode()),
    (FORM, b"a=1&a=2"),
    (FORM, b"a=%ff"),
    (FORM, b"\xff=1"),
    (FORM, b"a=%ed%a0%80"),
    (FORM, b"&".join(b"%d=1" % number for number in range(65))),
    (FORM, b"a=1&" * 4000),
]


@pytest.mark.parametrize(("content_type", "body"), MALFORMED)
def test_a_malformed_answer_is_refused_unread_by_the_provider(
    make: Make, content_type: str, body: bytes
) -> None:
    hand = make()
    browser = challenged(hand)
    solves(hand)
    assert posted(hand, browser, body, content_type).status == 400
    assert "verify" not in hand.provider.calls
    assert posted(hand, browser, b"a=1", FORM).status == 303


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Content-Type: text/plain"],
        ["Content-Type: multipart/form-data; boundary=x"],
        ["Content-Type: application/json; charset=utf-16"],
        [JSON, FORM],
        [JSON, "Content-Encoding: gzip"],
        ["Content-Type: application/json, text/plain"],
        ["Content-Type: " + "x" * 10_000],
        ["Content-Type:"],
    ],
)
def test_an_answer_of_another_type_is_refused_by_its_head(make: Make, lines: list[str]) -> None:
    hand = make()
    browser = challenged(hand)
    # Nothing of the body is sent: nothing of it is waited for.
    end = browser.begin(browser.verify_path, *lines, "Content-Length: 10", method="POST")
    assert Answer(end.take()).status == 415
    assert "verify" not in hand.provider.calls


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "A" * 30])
def test_an_answer_by_another_method_is_refused(make: Make, method: str) -> None:
    hand = make()
    browser = challenged(hand)
    answer = browser.ask(f"{browser.verify_path}?x=1", method=method)
    assert answer.status == 405
    assert answer.field(b"allow") == b"GET, HEAD, POST"


def test_a_huge_answer_is_refused_before_it_is_sent(make: Make) -> None:
    hand = make()
    browser = challenged(hand)
    for length in (MAX_SUBMISSION_BYTES + 1, 10**15):
        end = browser.begin(
            browser.verify_path, FORM, f"Content-Length: {length}", "Expect: 100-continue", method="POST"
        )
        answer = Answer(end.take())
        assert answer.status == 413
        assert answer.field(b"connection") == b"close"
        assert not end.is_open
        browser.end = None


def test_a_huge_chunked_answer_is_refused_on_the_way(make: Make) -> None:
    hand = make()
    browser = challenged(hand)
    end = browser.begin(browser.verify_path, FORM, "Transfer-Encoding: chunked", method="POST")
    chunk = b"1000\r\n" + b"a" * 4096 + b"\r\n"
    tracemalloc.start()
    sent = 0
    while end.is_open:
        end.send(chunk)
        sent += 4096
        assert sent <= MAX_SUBMISSION_BYTES + 4096
    # What comes behind is not kept.
    for _ in range(500):
        end.send(chunk, under_way=True)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 300_000
    assert Answer(end.take()).status == 413


def test_one_byte_more_than_an_answer_may_have(make: Make) -> None:
    hand = make()
    browser = challenged(hand)
    fits = b"a=" + b"x" * (MAX_SUBMISSION_BYTES - 2)
    assert posted(hand, browser, fits, FORM).status == 403
    assert hand.provider.payloads == [{"a": fits[2:].decode()}]
    assert posted(hand, browser, fits + b"x", FORM).status == 413
    browser.end = None
    assert browser.ask(f"{browser.verify_path}?{'a' * (MAX_SUBMISSION_BYTES - 200)}").status in (403, 414)


def test_who_expects_to_be_asked_for_an_answer_is_asked(make: Make) -> None:
    hand = make()
    browser = challenged(hand)
    solves(hand)
    end = browser.begin(browser.verify_path, FORM, "Content-Length: 3", "Expect: 100-continue", method="POST")
    assert end.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    end.send(b"a=1")
    assert browser.answer(end).status == 303


@pytest.mark.parametrize("pace_s", [None, 1.0])
def test_a_slow_answer_has_a_deadline(make: Make, pace_s: float | None) -> None:
    hand = make()
    browser = challenged(hand)
    end = browser.begin(browser.verify_path, FORM, "Content-Length: 1000", method="POST")
    began_at = hand.now
    while end.is_open:
        assert hand.now - began_at <= GATE_DEADLINE_S
        hand.advance(pace_s or 40.0)
        if pace_s is not None and end.is_open:
            end.send(b"a")
        if pace_s is None:
            break
    assert Answer(end.take()).status == 408
    assert "verify" not in hand.provider.calls


@pytest.mark.parametrize("how", ["reset", "finish"])
@pytest.mark.parametrize("when", ["body", "verify"])
def test_who_leaves_while_answering_leaves_nothing(make: Make, how: str, when: str) -> None:
    hand = make()
    browser = challenged(hand)
    solves(hand)
    end = browser.begin(browser.verify_path, FORM, "Content-Length: 3", method="POST")
    end.send(b"a=1" if when == "verify" else b"a")
    if how == "reset":
        end.reset()
        assert not hand.calls()
        assert len(hand.cancelled) == (when == "verify")
        return
    end.finish()
    if when == "body":
        assert Answer(end.take()).status == 400
        assert not hand.calls()
    else:
        assert browser.answer(end).status == 303


def test_an_answer_without_end_over_http2(make: Make) -> None:
    hand = make()
    browser = challenged(hand)
    [(name, value)] = browser.jar.items()
    client = http2_client(hand, ip=ATTACKER_IP)
    fields = (
        (b"cookie", name + b"=" + value),
        (b"content-type", b"application/x-www-form-urlencoded"),
    )
    path = browser.verify_path.encode()
    flood = client.request(b"POST", path, *fields, ends=False)
    sent = 0
    while client.stream(flood).head_or_none is None:
        client.data(flood, b"a" * 1000)
        sent += 1000
        assert sent <= MAX_SUBMISSION_BYTES + 1000
    assert client.stream(flood).status == 413
    assert client.stream(flood).reset == 0
    # As many as there may be, that only ever dribble.
    count = DEFAULT_LIMITS.concurrent_streams
    dribbles = [client.request(b"POST", path, *fields, ends=False) for _ in range(count)]
    for _ in range(25):
        hand.advance(1.0)
        for stream_id in dribbles:
            client.data(stream_id, b"a")
    hand.advance(GATE_DEADLINE_S)
    assert {client.stream(each).status for each in dribbles} == {408}
    assert client.is_open
    # One that is reset in the middle, and one while it is verified.
    for body in (None, b"a=1"):
        stream_id = client.request(b"POST", path, *fields, body=body, ends=body is not None)
        assert len(hand.calls()) == (body is not None)
        client.reset(stream_id)
        assert not hand.calls()
    client.feed(frames.encode_goaway(0, 0))
    client.end.reset()


# Providers.


class Strange:
    """Its attributes raise."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class StrangeMapping(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("items")

    def __iter__(self) -> Any:
        raise RuntimeError("iter")

    def keys(self) -> Any:
        raise RuntimeError("keys")


def raised(error: BaseException) -> Any:
    raise error


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


BAD_ASSESSMENTS: list[Callable[[], Any]] = [
    lambda: None,
    lambda: "challenge",
    lambda: True,
    lambda: Decision.ALLOW,
    lambda: Strange(),
    lambda: raised(RuntimeError("boom")),
    lambda: raised(RecursionError()),
    lambda: raised(StopIteration()),
    lambda: raised(AssertionError("x" * 100_000)),
    lambda: Assessment("allow"),  # type: ignore[arg-type]  # that is the test
    lambda: Assessment(Decision.CHALLENGE, {"a": object()}),
    lambda: Assessment(Decision.CHALLENGE, {"a": float("nan")}),
    lambda: Assessment(Decision.CHALLENGE, {"a": 10**5000}),
    lambda: Assessment(Decision.CHALLENGE, {"a": "\ud800"}),
    lambda: Assessment(Decision.CHALLENGE, {"a": "x" * 2000}),
    lambda: Assessment(Decision.CHALLENGE, {("a",): "x"}),  # type: ignore[dict-item]  # that is the test
    lambda: Assessment(Decision.CHALLENGE, nested(100_000)),
    lambda: Assessment(Decision.CHALLENGE, StrangeMapping(a=1)),
    lambda: Assessment(Decision.CHALLENGE, None),  # type: ignore[arg-type]  # that is the test
    lambda: Assessment(Decision.ALLOW, reason=b"x"),  # type: ignore[arg-type]  # that is the test
]

BAD_PAGES: list[Callable[[], Any]] = [
    lambda: None,
    lambda: "<p>",
    lambda: Strange(),
    lambda: raised(RuntimeError("boom")),
    lambda: ChallengePage(None),  # type: ignore[arg-type]  # that is the test
    lambda: ChallengePage("\ud800"),
    lambda: ChallengePage("x" * 300_000),
    lambda: ChallengePage("é" * 200_000),
    lambda: ChallengePage(b"x" * 10_000_000),
    lambda: ChallengePage("<p>", status=-1),
    lambda: ChallengePage("<p>", status=0),
    lambda: ChallengePage("<p>", status=101),
    lambda: ChallengePage("<p>", status=204),
    lambda: ChallengePage("<p>", status=304),
    lambda: ChallengePage("<p>", status=1000),
    lambda: ChallengePage("<p>", status=True),
    lambda: ChallengePage("<p>", status="200"),  # type: ignore[arg-type]  # that is the test
    lambda: ChallengePage("<p>", content_type="text/html\r\nX: y"),
    lambda: ChallengePage("<p>", headers={"X": "a\r\nSet-Cookie: a=b"}),
    lambda: ChallengePage("<p>", headers={"X": "a\nb"}),
    lambda: ChallengePage("<p>", headers={"X": "a\x00b"}),
    lambda: ChallengePage("<p>", headers={"X": "€"}),
    lambda: ChallengePage("<p>", headers={"X": "x" * 10_000}),
    lambda: ChallengePage("<p>", headers={"X\r\nY": "a"}),
    lambda: ChallengePage("<p>", headers={"X: a\r\nY": "a"}),
    lambda: ChallengePage("<p>", headers={"": "a"}),
    lambda: ChallengePage("<p>", headers={":status": "200"}),
    lambda: ChallengePage("<p>", headers={"Transfer-Encoding": "chunked"}),
    lambda: ChallengePage("<p>", headers={"Connection": "X"}),
    lambda: ChallengePage("<p>", headers={"Content-Length": "0"}),
    lambda: ChallengePage("<p>", headers={"SET-COOKIE": "__smartproxy_clearance=x"}),
    lambda: ChallengePage("<p>", headers={"Upgrade": "h2c"}),
    lambda: ChallengePage("<p>", headers={1: "a"}),  # type: ignore[dict-item]  # that is the test
    lambda: ChallengePage("<p>", headers=[("X", "a")]),  # type: ignore[arg-type]  # that is the test
    lambda: ChallengePage("<p>", headers=StrangeMapping(a="b")),
    lambda: ChallengePage("<p>", headers={f"x-{number}": "a" for number in range(65)}),
]

BAD_VERIFICATIONS: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: "yes",
    lambda: Strange(),
    lambda: raised(RuntimeError("boom")),
    lambda: Verification(1),  # type: ignore[arg-type]  # that is the test
    lambda: Verification("true"),  # type: ignore[arg-type]  # that is the test
    lambda: Verification(True, None),  # type: ignore[arg-type]  # that is the test
    lambda: Assessment(Decision.ALLOW),
]


@pytest.mark.parametrize(
    ("method", "bad"),
    [
        (method, bad)
        for method, every in (
            ("assess", BAD_ASSESSMENTS),
            ("render", BAD_PAGES),
            ("verify", BAD_VERIFICATIONS),
        )
        for bad in every
    ],
)
def test_a_provider_that_misbehaves_lets_nobody_in(make: Make, method: str, bad: Callable[[], Any]) -> None:
    hand = make()
    browser = challenged(hand) if method == "verify" else Browser(hand)
    setattr(hand.provider, f"on_{method}", bad)
    answers = [browser.ask("/page", NAVIGATION)]
    if method == "verify":
        answers.append(browser.ask(f"{browser.verify_path}?x=1"))
        answers.append(posted(hand, browser, b"a=1", FORM))
    for answer in answers:
        assert answer.status == 503
        assert not answer.all(b"set-cookie")
    assert not hand.seen
    assert hand.events("security").count("challenge_provider_failed") == len(answers)


def test_a_provider_that_is_gone_lets_nobody_in(make: Make) -> None:
    hand = make(RequestPolicy(challenge=ChallengePolicy("nobody", "plain")))
    assert Browser(hand).ask("/page", NAVIGATION).status == 503
    assert not hand.seen


@pytest.mark.parametrize("method", ["assess", "render", "verify", "submission"])
def test_a_provider_that_hangs_lets_nobody_in(make: Make, method: str) -> None:
    hand = make()
    browser = challenged(hand) if method in ("verify", "submission") else Browser(hand)
    end = browser.begin(f"{browser.verify_path}?x" if method == "submission" else "/page", NAVIGATION)
    if method == "render":
        hand.run_call(hand.calls()[0])
    [call] = hand.calls()
    hand.advance(4.9)
    assert not end.take()
    hand.advance(0.2)
    assert Answer(end.take()).status == 503
    assert hand.cancelled == [call]
    # Its answer comes after all.
    hand.answer(call, Returned(Verification(True)))
    hand.answer(call, Returned(Assessment(Decision.ALLOW)))
    assert not end.take()
    assert not hand.seen
    assert browser.ask("/page", NAVIGATION).status == 403


@pytest.mark.parametrize("method", ["assess", "render", "verify"])
def test_who_leaves_while_the_provider_works_cancels_it(make: Make, method: str) -> None:
    hand = make()
    browser = challenged(hand) if method == "verify" else Browser(hand)
    end = browser.begin("/page", NAVIGATION)
    if method == "render":
        hand.run_call(hand.calls()[0])
    [call] = hand.calls()
    end.reset()
    assert hand.cancelled == [call]
    hand.answer(call, Returned(Assessment(Decision.ALLOW)))
    assert not hand.seen
    assert not hand.pending


def test_a_page_is_no_websocket(make: Make) -> None:
    """RFC 8441 §5: a page of status 200 would be an open tunnel to who asked for one."""
    hand = make()
    hand.provider.on_render = lambda: ChallengePage("<p>", status=200)
    client = http2_client(hand)
    stream_id = connect_websocket(client, b"/page")
    hand.run_calls()
    assert client.stream(stream_id).status == 403
    assert client.stream(stream_id).ended
    stream_id = client.request(b"GET", b"/page")
    hand.run_calls()
    assert client.stream(stream_id).status == 200
