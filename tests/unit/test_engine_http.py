"""HTTP/1.1 through the engine: what crosses, in which order, and which connections survive it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_by_hand import End, EngineByHand, configuration, plain_forward, request, response, route, target

from smartproxy.core.configuration import HandlerAction, HandlerKind
from smartproxy.core.failure import LostReason

CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture
def hand() -> Iterator[EngineByHand]:
    """An engine with one backend behind port 80; nothing may be left of the test at its end."""
    by_hand = EngineByHand(plain_forward())
    yield by_hand
    by_hand.settle()


def begun(hand: EngineByHand, *lines: str, method: str = "GET") -> tuple[End, End]:
    """A client and the backend that its first request has reached."""
    client = hand.connect(data=request(method, "/", *lines))
    return client, hand.open()


# Keep-alive and order.


def test_backend_connections_are_reused(hand: EngineByHand) -> None:
    client, backend = begun(hand)
    assert backend.take().startswith(b"GET / HTTP/1.1\r\nhost: app.example.com\r\n")
    backend.send(response())
    assert client.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
    client.send(request("GET", "/2"))
    assert not hand.pending
    assert backend.take().startswith(b"GET /2 HTTP/1.1\r\n")
    backend.send(response(b"two"))
    assert client.take().endswith(b"\r\n\r\ntwo")
    other = hand.connect(data=request("GET", "/3"))
    backend.send(response(b"three"))
    assert other.take().endswith(b"\r\n\r\nthree")
    assert [record.status for record in hand.access] == [200, 200, 200]


def test_pipelined_requests_are_answered_in_order(hand: EngineByHand) -> None:
    client = hand.connect(data=b"".join(request("GET", f"/{n}") for n in range(3)))
    backend = hand.open()
    for n in range(3):
        assert backend.take().startswith(b"GET /%d " % n)
        assert not client.take()
        backend.send(response(b"%d" % n))
        assert client.take().endswith(b"\r\n\r\n%d" % n)
    assert not hand.pending


def test_requests_behind_a_post_wait_for_it(hand: EngineByHand) -> None:
    client = hand.connect(
        data=request("POST", "/a", "Content-Length: 3") + b"abc" + request("GET", "/b") + b"GET /c HT"
    )
    backend = hand.open()
    assert backend.take().endswith(b"\r\n\r\nabc")
    backend.send(response(b"A"))
    assert backend.take().startswith(b"GET /b ")
    backend.send(response(b"B"))
    client.send(b"TP/1.1\r\nHost: a\r\n\r\n")
    assert backend.take().startswith(b"GET /c ")
    backend.send(response(b"C"))
    assert [part[:1] for part in client.take().split(b"\r\n\r\n")[1:]] == [b"A", b"B", b"C"]


def test_requests_behind_a_local_answer_are_served() -> None:
    says_hello = HandlerAction(HandlerKind.HTTP_RESPONSE, status=200, text="hi")
    hand = EngineByHand(
        configuration(route("local", says_hello, path="/hi"), route("app", target(), path="/app"))
    )
    client = hand.connect(
        data=request("POST", "/hi", "Content-Length: 4")
        + b"body"
        + request("GET", "/none")
        + request("GET", "/app")
        + request("GET", "/hi")
    )
    backend = hand.open()
    first = client.take()
    assert first.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 404 " in first
    assert b"connection: close" not in first
    backend.send(response(b"app"))
    assert client.take().endswith(b"\r\n\r\nhi")
    assert client.is_open
    hand.settle()


# Bodies, both ways.


def test_content_streams_both_ways_as_it_comes(hand: EngineByHand) -> None:
    client, backend = begun(hand, "Content-Length: 6", method="POST")
    assert b"content-length: 6\r\n" in backend.take()
    client.send(b"abc")
    assert backend.take() == b"abc"
    client.send(b"def" + request("GET", "/2"))
    assert backend.take() == b"def"
    backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    assert client.take().endswith(b"\r\n\r\nab")
    backend.send(b"cd")
    assert client.take() == b"cd"
    assert backend.take().startswith(b"GET /2 ")
    backend.send(response())


def test_chunks_and_trailers_cross_both_ways(hand: EngineByHand) -> None:
    client, backend = begun(hand, CHUNKED, "Trailer: X-Sum", "TE: trailers", "Connection: TE", method="POST")
    head = backend.take()
    assert b"transfer-encoding: chunked\r\n" in head
    assert b"trailer: X-Sum\r\n" in head
    assert b"te: trailers\r\n" in head
    assert b"connection: te\r\n" in head
    client.send(b"3\r\nabc\r\n")
    assert backend.take() == b"3\r\nabc\r\n"
    client.send(b"0\r\nX-Sum: 1\r\n\r\n")
    assert backend.take() == b"0\r\nx-sum: 1\r\n\r\n"
    backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nhi\r\n")
    answer = client.take()
    assert b"transfer-encoding: chunked\r\n" in answer
    assert answer.endswith(b"\r\n\r\n2\r\nhi\r\n")
    backend.send(b"0\r\nX-T: 2\r\n\r\n")
    assert client.take() == b"0\r\nx-t: 2\r\n\r\n"
    client.send(request())
    assert backend.take().startswith(b"GET / ")
    backend.send(response())


def test_te_is_not_kept_unless_nominated(hand: EngineByHand) -> None:
    _, backend = begun(hand, "TE: trailers")
    assert b"\r\nte:" not in backend.take()


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 500\r\n", b"Transfer-Encoding: chunked\r\n", b""],
    ids=["length", "chunked", "bare"],
)
def test_head_has_no_content_whatever_the_fields_say(hand: EngineByHand, head: bytes) -> None:
    client, backend = begun(hand, method="HEAD")
    backend.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
    answer = client.take()
    assert answer.endswith(b"\r\n\r\n")
    assert (b"content-length: 500" in answer) == (b"500" in head)
    client.send(request("GET", "/2"))
    assert backend.take().endswith(b"\r\n\r\n")
    backend.send(response(b"x"))
    assert client.take().endswith(b"\r\n\r\nx")


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_statuses_without_content(hand: EngineByHand, status: str) -> None:
    client, backend = begun(hand)
    length = "0" if status.startswith("204") else "77"
    backend.send(f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: x\r\n\r\n".encode())
    answer = client.take()
    assert answer.startswith(f"HTTP/1.1 {status}\r\n".encode())
    assert (b"content-length" in answer) == status.startswith("304")
    client.send(request("GET", "/2"))
    backend.send(response())
    assert client.take().endswith(b"hello")


# Interim responses and expectations.


def test_interim_responses_reach_http11(hand: EngineByHand) -> None:
    client, backend = begun(hand)
    backend.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    assert client.take() == b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    backend.send(response())
    assert client.take().startswith(b"HTTP/1.1 200 OK")


def test_interim_responses_do_not_reach_http10(hand: EngineByHand) -> None:
    client = hand.connect(data=b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    backend = hand.open()
    backend.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    assert not client.take()
    backend.send(response())
    assert client.take().startswith(b"HTTP/1.1 200 OK")
    assert client.is_closed


def test_continue_is_asked_of_the_backend(hand: EngineByHand) -> None:
    client, backend = begun(hand, "Content-Length: 3", "Expect: 100-continue", method="POST")
    assert b"expect: 100-continue\r\n" in backend.take()
    backend.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert backend.take() == b"abc"
    backend.send(response())
    assert b"connection: close" not in client.take()
    assert client.is_open


def test_a_final_answer_instead_of_continue_ends_the_connection(hand: EngineByHand) -> None:
    client, backend = begun(hand, "Content-Length: 30", "Expect: 100-continue", method="POST")
    backend.take()
    backend.send(response(b"no", status="417 Expectation Failed"))
    assert b"connection: close\r\n" in client.take()
    assert backend.is_closed or backend.is_reset
    # Whether this is the content or another request, nobody may take it for one.
    client.send(request("GET", "/smuggled"))
    assert not client.take()
    assert not hand.pending
    assert not client.is_open
    hand.advance(5.0)
    assert client.is_closed


def test_an_early_answer_while_the_content_still_comes(hand: EngineByHand) -> None:
    client, backend = begun(hand, "Content-Length: 1000", method="POST")
    client.send(b"x" * 10)
    backend.send(response(b"enough", status="413 Content Too Large"))
    assert client.take().endswith(b"enough")
    assert client.is_half_closed
    client.send(b"x" * 500 + request("GET", "/smuggled"))
    assert backend.is_closed
    client.finish()
    assert client.is_closed
    assert hand.access[0].status == 413


# HTTP/1.0.


def test_http10_closes(hand: EngineByHand) -> None:
    client = hand.connect(data=b"GET / HTTP/1.0\r\n\r\n")
    backend = hand.open()
    assert backend.take().startswith(b"GET / HTTP/1.1\r\nhost: \r\n")
    backend.send(response())
    assert b"connection: close\r\n" in client.take()
    assert client.is_closed
    assert backend.is_open


def test_http10_keep_alive(hand: EngineByHand) -> None:
    client = hand.connect(data=b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    backend = hand.open()
    backend.send(response())
    assert b"connection: keep-alive\r\n" in client.take()
    assert client.is_open


def test_http10_gets_unknown_lengths_until_close(hand: EngineByHand) -> None:
    client = hand.connect(data=b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    backend = hand.open()
    backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    answer = client.take()
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"connection: close\r\n\r\nabc")
    assert client.is_closed


# Backends that end, and misbehave.


def test_a_response_until_close_becomes_chunks(hand: EngineByHand) -> None:
    client, backend = begun(hand)
    backend.send(b"HTTP/1.1 200 OK\r\n\r\nab")
    backend.send(b"cd")
    assert client.take().endswith(b"\r\n\r\n2\r\nab\r\n2\r\ncd\r\n")
    backend.finish()
    assert client.take() == b"0\r\n\r\n"
    assert client.is_open
    assert backend.is_closed


@pytest.mark.parametrize("ending", ["Connection: close", "X: y"])
def test_a_backend_may_close_behind_its_response(hand: EngineByHand, ending: str) -> None:
    client, backend = begun(hand)
    backend.send(response(b"hello", ending))
    assert client.take().endswith(b"hello")
    if backend.is_open:
        backend.finish()
    assert backend.is_closed
    client.send(request("GET", "/2"))
    backend = hand.open()
    backend.send(response(b"two"))
    assert client.take().endswith(b"two")


def test_bytes_behind_a_response_are_nobodys(hand: EngineByHand) -> None:
    client, backend = begun(hand)
    backend.send(response() + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert client.take().endswith(b"hello")
    assert not backend.is_open
    client.send(request("GET", "/2"))
    backend = hand.open()
    backend.send(response(b"good"))
    assert client.take().endswith(b"good")


def test_unasked_bytes_on_an_idle_connection_end_it(hand: EngineByHand) -> None:
    client, backend = begun(hand)
    backend.send(response())
    backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert backend.is_reset
    client.take()
    client.send(request("GET", "/2"))
    hand.open().send(response(b"good"))
    assert client.take().endswith(b"good")


def test_garbage_is_a_502(hand: EngineByHand) -> None:
    client, backend = begun(hand)
    backend.send(b"SSH-2.0-OpenSSH\r\n\r\n")
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"proxy-status: smartproxy; error=http_protocol_error" in answer
    assert backend.is_reset
    assert client.is_open
    assert hand.access[0].failure == "http_protocol_error"


def reused(hand: EngineByHand, *lines: str, method: str = "GET", body: bytes = b"") -> tuple[End, End]:
    client, backend = begun(hand)
    backend.send(response())
    client.take()
    backend.take()
    client.send(request(method, "/2", *lines) + body)
    assert backend.take()
    return client, backend


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_a_stale_connection_is_retried_once_on_a_fresh_one(hand: EngineByHand, how: str) -> None:
    client, backend = reused(hand)
    backend.finish() if how == "eof" else backend.reset()
    fresh = hand.open()
    assert fresh.take().startswith(b"GET /2 ")
    fresh.send(response(b"at last"))
    assert client.take().endswith(b"at last")
    assert "request_retried" in hand.events("http")
    assert len(hand.access) == 2


def test_the_second_failure_is_a_502(hand: EngineByHand) -> None:
    client, backend = reused(hand)
    backend.reset()
    hand.open().finish()
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert not hand.pending


def test_a_retry_takes_no_other_used_connection(hand: EngineByHand) -> None:
    first, one = begun(hand)
    second, two = begun(hand)
    one.send(response())
    two.send(response())
    first.send(request("GET", "/again"))
    used, idle = (one, two) if b"/again" in one.take() else (two, one)
    used.reset()
    assert not idle.take().endswith(b"/again")
    fresh = hand.open()
    assert b"GET /again " in fresh.take()
    fresh.send(response())
    second.reset()


@pytest.mark.parametrize(
    ("method", "lines", "body"),
    [("POST", ("Content-Length: 1",), b"x"), ("POST", (), b""), ("PUT", ("Content-Length: 1",), b"x")],
)
def test_what_may_have_been_acted_on_is_not_repeated(
    hand: EngineByHand, method: str, lines: tuple[str, ...], body: bytes
) -> None:
    client, backend = reused(hand, *lines, method=method, body=body)
    backend.finish()
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert not hand.pending


def test_a_fresh_connection_that_dies_is_not_retried(hand: EngineByHand) -> None:
    client, backend = begun(hand)
    backend.finish()
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert not hand.pending


def test_a_reused_connection_that_dies_mid_head_is_not_retried(hand: EngineByHand) -> None:
    client, backend = reused(hand)
    backend.send(b"HTTP/1.1 2")
    backend.finish()
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"error=http_response_incomplete" in answer


@pytest.mark.parametrize(
    "begun_response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
@pytest.mark.parametrize("how", ["eof", "reset", "garbage"])
def test_a_broken_response_is_seen_to_be_cut(hand: EngineByHand, begun_response: bytes, how: str) -> None:
    client, backend = begun(hand)
    backend.send(begun_response)
    assert b"abc" in client.take()
    if how == "garbage" and b"chunked" in begun_response:
        backend.send(b"nonsense\r\n")
    elif how == "reset":
        backend.reset()
    else:
        backend.finish()
    assert client.is_reset
    assert not client.take()
    assert hand.access[0].failure in ("http_response_incomplete", "http_protocol_error")


# Clients that leave.


def test_leaving_while_the_backend_is_dialled_cancels_the_dial(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    dial = hand.operation()
    client.reset()
    assert hand.cancelled == [dial]
    assert hand.engine.backend_connection_count == 0
    assert hand.access[0].failure == "connection_terminated"
    assert hand.access[0].status == 0


def test_leaving_mid_response_drops_the_backend(hand: EngineByHand) -> None:
    client, backend = begun(hand)
    backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    client.reset(LostReason.TIMED_OUT)
    assert backend.is_reset


def test_a_half_close_behind_the_request_is_still_answered(hand: EngineByHand) -> None:
    client = hand.connect(data=request("GET", "/1") + request("GET", "/2"))
    client.finish()
    backend = hand.open()
    backend.send(response(b"one"))
    assert client.take().endswith(b"one")
    backend.send(response(b"two"))
    answer = client.take()
    assert answer.endswith(b"two")
    assert b"connection: close\r\n" in answer
    assert client.is_closed


def test_a_half_close_behind_content_that_waits_for_the_dial(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", "Content-Length: 3") + b"abc")
    client.finish()
    backend = hand.open()
    assert backend.take().endswith(b"\r\n\r\nabc")
    backend.send(response())
    assert client.take().endswith(b"hello")
    assert client.is_closed


def test_a_half_close_mid_content_ends_both(hand: EngineByHand) -> None:
    client, backend = begun(hand, "Content-Length: 10", method="POST")
    client.send(b"abc")
    client.finish()
    assert backend.is_reset
    assert client.take().startswith(b"HTTP/1.1 400 ")
    assert client.is_closed
    assert "request_refused" in hand.events("http")


def test_a_half_close_mid_head_just_closes(hand: EngineByHand) -> None:
    client = hand.connect(data=b"GET / HTTP/1.1\r\nHost")
    client.finish()
    assert client.is_closed
    assert not client.take()
    assert not hand.pending
