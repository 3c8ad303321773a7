"""HTTP/2 clients of an engine driven by hand, with HTTP/1.1 backends."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from engine_by_hand import End, EngineByHand, configuration, plain_forward, response, route, target
from engine_http2_by_hand import Http2End, http2_client
from tls_by_hand import TlsEnd, certificate, client_context

from smartproxy.core.configuration import (
    ForwardAction,
    HandlerAction,
    HandlerKind,
    Limits,
    OriginTls,
    RouteTls,
    Timeouts,
    TlsMode,
)
from smartproxy.core.wire.http2 import DEFAULT_LIMITS, ErrorCode, frames

CHUNK = b"x" * 16384
WINDOW_BYTES = DEFAULT_LIMITS.stream_window_bytes


@pytest.fixture
def hand() -> Iterator[EngineByHand]:
    """An engine with one backend behind port 80; nothing may be left of the test at its end."""
    by_hand = EngineByHand(plain_forward())
    yield by_hand
    by_hand.settle()


def begun(hand: EngineByHand, *args: Any, **options: Any) -> tuple[Http2End, int, End]:
    """A client, its request's stream, and the backend that it has reached."""
    client = http2_client(hand)
    stream_id = client.request(*args, **options)
    return client, stream_id, hand.open()


def opens(hand: EngineByHand) -> list[End]:
    """Every connect under way succeeds."""
    return [hand.open(operation) for operation in list(hand.pending.values())]  # type: ignore[arg-type]  # all are


# Requests and responses.


def test_a_request_with_prior_knowledge(hand: EngineByHand) -> None:
    client, stream_id, backend = begun(hand, b"GET", b"/a?b", (b"cookie", b"a=1"), (b"cookie", b"b=2"))
    head = backend.take()
    assert head.startswith(b"GET /a?b HTTP/1.1\r\nhost: app.example.com\r\n")
    assert b"\r\ncookie: a=1; b=2\r\n" in head
    assert b"\r\nx-forwarded-for: 198.51.100.7\r\n" in head
    backend.send(response(b"hello", "X-It: yes", "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5"))
    seen = client.stream(stream_id)
    assert seen.status == 200
    assert seen.head[b"x-it"] == b"yes"
    assert not {b"connection", b"x-hop", b"keep-alive", b"transfer-encoding"} & seen.head.keys()
    assert seen.data == b"hello"
    assert seen.ended
    assert seen.reset is None
    [record] = hand.access
    assert record.protocol == "HTTP/2"
    assert record.backend_protocol == "HTTP/1.1"
    assert (record.status, record.bytes_sent, record.failure) == (200, 5, "")
    assert record.method == "GET"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_request_by_alpn(version: ssl.TLSVersion) -> None:
    client, hand = over_tls("a.test", version=version)
    stream_id = client.request(host=b"a.test", scheme=b"https")
    backend = hand.open()
    assert b"\r\nx-forwarded-proto: https\r\n" in backend.take()
    backend.send(response())
    assert client.stream(stream_id).data == b"hello"
    [record] = hand.access
    assert record.tls_version == version.name.replace("_", ".")
    hand.settle()


def over_tls(
    name: str, *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, **options: Any
) -> tuple[Http2End, EngineByHand]:
    contexts = {each: http2_context(each) for each in ("a.test", "b.test")}
    routes = [
        route(each, ForwardAction((target(),), tls=RouteTls(TlsMode.TERMINATE)), domains=(each,))
        for each in contexts
    ]
    hand = EngineByHand(configuration(*routes, certificates=contexts, **options))
    tls = TlsEnd(hand.connect(), client_context(alpn="h2", version=version), server_name=name)
    tls.handshake()
    assert tls.tls.selected_alpn_protocol() == "h2"
    return Http2End(tls, client=True), hand


def http2_context(name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    certificate(name).configure_cert(context)
    return context


def test_a_request_for_anothers_name_is_misdirected() -> None:
    client, hand = over_tls("a.test")
    wrong = client.request(host=b"b.test", scheme=b"https")
    right = client.request(host=b"a.test", scheme=b"https")
    assert client.stream(wrong).status == 421
    backend = hand.open()
    backend.send(response())
    assert client.stream(right).status == 200
    assert [record.status for record in hand.access] == [421, 200]
    hand.settle()


def test_a_client_byte_by_byte(hand: EngineByHand) -> None:
    end = hand.connect()
    hello = Http2End(_Collecting(), client=True)
    hello.answers = False
    stream_id = hello.request(b"POST", b"/slow", body=b"content")
    end.send_slowly(hello.carrier.sent)  # type: ignore[attr-defined]  # _Collecting
    backend = hand.open()
    assert backend.take().count(b"content") == 1
    backend.send(response())
    hello.carrier = end
    assert hello.stream(stream_id).data == b"hello"


class _Collecting:
    def __init__(self) -> None:
        self.sent = b""

    def send(self, data: bytes) -> None:
        self.sent += data

    def take(self) -> bytes:
        return b""


def test_streams_are_served_at_the_same_time(hand: EngineByHand) -> None:
    client = http2_client(hand)
    ids = [client.request(b"GET", b"/%d" % number) for number in range(5)]
    backends = opens(hand)
    assert len(backends) == 5
    for number in (3, 0, 4, 1, 2):
        [backend] = [each for each in backends if b"GET /%d " % number in each._received]
        backend.send(response(b"%d" % number))
        assert client.stream(ids[number]).data == b"%d" % number
    assert [record.target for record in hand.access] == ["/3", "/0", "/4", "/1", "/2"]
    # The next ones share what is there.
    for _ in ids:
        client.request(b"GET", b"/again")
    assert not hand.pending
    for backend in backends:
        backend.send(response())
    assert sum(seen.data == b"hello" for seen in client.look().streams.values()) == 5


def test_trailers_cross_both_ways(hand: EngineByHand) -> None:
    client, stream_id, backend = begun(hand, b"POST", b"/", (b"te", b"trailers"), body=b"abc", ends=False)
    client.trailers(stream_id, (b"x-sum", b"1"))
    sent = backend.take()
    assert b"transfer-encoding: chunked\r\n" in sent
    assert sent.endswith(b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n")
    backend.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n"
        b"2\r\nhi\r\n0\r\nX-Check: ok\r\n\r\n"
    )
    seen = client.stream(stream_id)
    assert seen.data == b"hi"
    assert seen.trailers == {b"x-check": b"ok"}


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_responses_without_content_end_with_their_head(
    hand: EngineByHand, method: bytes, answer: bytes
) -> None:
    client, stream_id, backend = begun(hand, method)
    backend.send(answer)
    seen = client.stream(stream_id)
    assert seen.frames == ["Headers"]
    assert seen.ended
    second = client.request()
    backend.send(response())
    assert client.stream(second).data == b"hello"


def test_interim_responses_cross(hand: EngineByHand) -> None:
    client, stream_id, backend = begun(hand, b"POST", b"/", (b"expect", b"100-continue"), ends=False)
    backend.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    seen = client.stream(stream_id)
    assert [head[b":status"] for head in seen.heads] == [b"100", b"103"]
    assert seen.heads[1][b"link"] == b"</a>"
    client.data(stream_id, b"body", end=True)
    assert b"body" in backend.take()
    backend.send(response())
    assert seen is client.stream(stream_id)
    assert seen.status == 200


def test_an_early_response_resets_the_stream_without_error(hand: EngineByHand) -> None:
    client, stream_id, backend = begun(hand, b"POST", b"/", body=b"abc", ends=False)
    backend.send(response(b"no", status="403 Forbidden"))
    seen = client.stream(stream_id)
    assert seen.status == 403
    assert seen.data == b"no"
    assert seen.frames[-2:] == ["Data", "RstStream"]
    assert seen.reset == ErrorCode.NO_ERROR
    # What the client had sent before it knew does no harm, and costs no window.
    client.data(stream_id, CHUNK)
    assert client.is_open
    assert not backend.is_open
    second = client.request()
    hand.open().send(response())
    assert client.stream(second).data == b"hello"


@pytest.mark.parametrize("end_s_late", [False, True])
def test_an_early_response_that_waits_for_the_client(hand: EngineByHand, end_s_late: bool) -> None:
    client = http2_client(hand, gives_credit=False)
    stream_id = client.request(b"POST", b"/", ends=False)
    backend = hand.open()
    body = b"y" * 100_000
    backend.send(response(body, status="403 Forbidden"))
    seen = client.stream(stream_id)
    assert len(seen.data) == 65535
    assert seen.reset is None
    if end_s_late:
        client.data(stream_id, b"the end", end=True)
    client.give_credit(stream_id, 100_000)
    assert seen.data == body
    assert seen.reset == (None if end_s_late else ErrorCode.NO_ERROR)


# Answers of the proxy's own.


def test_own_answers_and_refusals() -> None:
    hello = HandlerAction(HandlerKind.HTTP_RESPONSE, status=200, text="hi")
    cut = HandlerAction(HandlerKind.HTTP_BLOCK, status=403, text="no")
    hand = EngineByHand(
        configuration(
            route("hello", hello, path="/hi"), route("cut", cut, path="/cut"), limits=Limits(target_bytes=100)
        )
    )
    client = http2_client(hand)
    assert client.stream(client.request(b"GET", b"/hi")).data == b"hi"
    head_only = client.stream(client.request(b"HEAD", b"/hi"))
    assert (head_only.status, head_only.data, head_only.ended) == (200, b"", True)
    assert client.stream(client.request(b"GET", b"/cut")).status == 403
    assert client.stream(client.request(b"GET", b"/none")).status == 404
    assert client.stream(client.request(b"GET", b"/" + b"x" * 200)).status == 414
    assert client.stream(client.request(b"GET", b"/hi", *[(b"x", b"y")] * 200)).status == 431
    assert client.stream(client.request(b"GET", b"/hi", (b"expect", b"miracles"))).status == 417
    unread = client.stream(client.request(b"POST", b"/none", body=CHUNK, ends=False))
    assert (unread.status, unread.reset) == (404, ErrorCode.NO_ERROR)
    assert client.stream(client.request(b"CONNECT", b"/hi")).reset == ErrorCode.PROTOCOL_ERROR
    assert client.is_open
    statuses = [record.status for record in hand.access]
    assert statuses == [200, 200, 403, 404, 414, 431, 417, 404]
    assert {record.protocol for record in hand.access} == {"HTTP/2"}
    hand.settle()


def test_a_body_over_the_limit_is_refused() -> None:
    hand = EngineByHand(configuration(route("app", target()), limits=Limits(body_bytes=10)))
    client = http2_client(hand)
    announced = client.request(b"POST", b"/", (b"content-length", b"11"), body=b"x" * 11)
    assert client.stream(announced).status == 413
    assert not hand.pending
    stream_id = client.request(b"POST", b"/", body=b"x" * 6, ends=False)
    backend = hand.open()
    client.data(stream_id, b"x" * 6)
    seen = client.stream(stream_id)
    assert (seen.status, seen.reset) == (413, ErrorCode.NO_ERROR)
    assert not backend.is_open
    hand.settle()


# Resets and losses.


def test_a_clients_reset_cancels_its_backend(hand: EngineByHand) -> None:
    client, stream_id, backend = begun(hand)
    other = client.request(b"GET", b"/other")
    other_backend = hand.open()
    client.reset(stream_id)
    assert not backend.is_open
    assert other_backend.is_open
    other_backend.send(response())
    assert client.stream(other).data == b"hello"
    assert [record.failure != "" for record in hand.access] == [True, False]


def test_a_clients_reset_cancels_the_dial(hand: EngineByHand) -> None:
    client = http2_client(hand)
    client.reset(client.request())
    assert not hand.pending
    assert len(hand.cancelled) == 1
    assert len(hand.access) == 1


@pytest.mark.parametrize("begun_already", [False, True])
def test_a_backends_loss_ends_its_stream_only(hand: EngineByHand, begun_already: bool) -> None:
    client, stream_id, backend = begun(hand)
    other = client.request(b"GET", b"/other")
    other_backend = hand.open()
    if begun_already:
        backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    backend.reset()
    seen = client.stream(stream_id)
    if begun_already:
        assert (seen.data, seen.ended, seen.reset) == (b"half", False, ErrorCode.INTERNAL_ERROR)
    else:
        assert (seen.status, seen.ended, seen.reset) == (502, True, None)
    other_backend.send(response())
    assert client.stream(other).data == b"hello"


@pytest.mark.parametrize("how", ["reset", "eof", "goaway and eof"])
def test_a_clients_loss_cancels_every_stream(hand: EngineByHand, how: str) -> None:
    client = http2_client(hand)
    for _ in range(3):
        client.request()
    backends = opens(hand)
    client.request(b"GET", b"/dialling")
    backends[0].send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    end = client.carrier
    assert isinstance(end, End)
    if how == "reset":
        end.reset()
    else:
        if "goaway" in how:
            client.go_away(0)
        end.finish()
    assert not any(backend.is_open for backend in backends)
    assert not hand.pending
    assert hand.engine.connection_count == 0
    assert len(hand.access) == 4
    assert all(record.failure for record in hand.access)


# The connection's life.


def test_an_idle_connection_is_closed_with_a_goaway(hand: EngineByHand) -> None:
    client, stream_id, backend = begun(hand)
    backend.send(response())
    assert client.stream(stream_id).ended
    hand.advance(74.0)
    assert client.look().is_open
    hand.advance(2.0)
    assert client.goaway_code == ErrorCode.NO_ERROR
    assert client.goaways[-1].last_stream_id == stream_id
    assert not client.is_open


def test_a_connection_without_a_request_is_closed_earlier(hand: EngineByHand) -> None:
    client = http2_client(hand)
    hand.advance(61.0)
    assert client.goaway_code == ErrorCode.NO_ERROR
    assert not client.is_open
    assert not hand.access


def test_an_exchange_under_way_keeps_the_connection(hand: EngineByHand) -> None:
    client, stream_id, backend = begun(hand)
    for _ in range(5):
        hand.advance(50.0)
        backend.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    backend.send(response())
    assert client.stream(stream_id).data == b"hello"
    hand.advance(70.0)
    assert client.is_open


def test_settings_that_are_never_acknowledged(hand: EngineByHand) -> None:
    client = http2_client(hand, answers=False)
    hand.advance(29.0)
    assert client.is_open
    hand.advance(2.0)
    assert client.goaway_code == ErrorCode.SETTINGS_TIMEOUT
    assert not client.is_open


def test_a_connection_of_a_great_age_is_drained() -> None:
    hand = EngineByHand(configuration(route("app", target()), timeouts=Timeouts(lifetime_s=100.0)))
    client = http2_client(hand)
    backend = None
    for _ in range(4):
        hand.advance(30.0)
        stream_id = client.request()
        backend = backend or hand.open()
        if backend.is_open:
            backend.send(response())
        else:
            hand.open().send(response())
        assert client.stream(stream_id).data == b"hello"
    assert client.goaways
    assert client.goaways[-1].last_stream_id == stream_id
    assert not client.is_open
    hand.settle()


@pytest.mark.parametrize("how", ["drain", "configuration"])
def test_draining_finishes_what_is_under_way(how: str) -> None:
    hand = EngineByHand(plain_forward())
    client, stream_id, backend = begun(hand)
    idle = http2_client(hand)
    busy = http2_client(hand, answers=False)
    busy_id = busy.request()
    busy_backend = hand.open()
    if how == "drain":
        hand.engine.handle_drain(hand.now)
        hand.drain()
    else:
        hand.configure(plain_forward("10.0.0.2"))
    assert idle.goaway_code == ErrorCode.NO_ERROR
    assert not idle.is_open
    # It has been told, and asked for a sign that it has heard; a request that was on its way is served.
    assert busy.look().goaways[0].last_stream_id == frames.MAX_STREAM_ID
    assert busy.pings == 1
    late = busy.request()
    late_operation = hand.operation()
    hand.open(late_operation).send(response(b"late"))
    assert busy.stream(late).data == b"late"
    busy_backend.send(response())
    assert busy.stream(busy_id).data == b"hello"
    backend.send(response())
    assert client.stream(stream_id).data == b"hello"
    assert not client.is_open
    hand.advance(16.0)
    assert not busy.is_open
    assert hand.engine.connection_count == 0
    hand.settle()


def test_shutdown_ends_everything(hand: EngineByHand) -> None:
    client, _, backend = begun(hand)
    hand.engine.handle_shutdown(hand.now)
    hand.drain()
    assert not client.is_open
    assert not backend.is_open
    assert hand.engine.connection_count == 0
    assert len(hand.access) == 1


def test_a_backend_without_an_answer_in_time(hand: EngineByHand) -> None:
    client, stream_id, backend = begun(hand)
    hand.advance(61.0)
    assert client.stream(stream_id).status == 504
    assert not backend.is_open
    second = client.request()
    hand.open().send(response())
    assert client.stream(second).data == b"hello"


def test_a_body_that_trickles(hand: EngineByHand) -> None:
    client, stream_id, backend = begun(hand, b"POST", b"/", ends=False)
    for _ in range(13):
        client.data(stream_id, b"x")
        hand.advance(5.0)
    assert client.stream(stream_id).status == 408
    assert client.stream(stream_id).reset == ErrorCode.NO_ERROR
    assert not backend.is_open
    assert client.is_open


def test_tls_to_the_backend_behind_http2() -> None:
    backend_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    backend_context.set_alpn_protocols(["h2", "http/1.1"])
    certificate("backend.test").configure_cert(backend_context)
    origin = OriginTls(client_context(alpn="h2"), "backend.test", None, "test")
    hand = EngineByHand(configuration(route("app", target(tls=origin))))
    client = http2_client(hand)
    ids = [client.request(b"GET", b"/%d" % number) for number in range(3)]
    tls = TlsEnd(hand.open(), backend_context)
    tls.handshake()
    assert tls.tls.selected_alpn_protocol() == "h2"
    backend = Http2End(tls, client=False)
    for backend_id in backend.new_streams():
        backend.respond(backend_id)
    assert [client.stream(stream_id).data for stream_id in ids] == [b"hello"] * 3
    assert {record.backend_protocol for record in hand.access} == {"HTTP/2"}
    assert not hand.pending
    hand.settle()
