"""HTTP/2 backends of an engine driven by hand: one connection for many clients, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_by_hand import End, EngineByHand, configuration, request, response, route, target
from engine_http2_by_hand import Http2End, http2_backend, http2_client

from smartproxy.core.configuration import BackendProtocol, Configuration, ForwardAction, Limits, Timeouts
from smartproxy.core.failure import LostReason
from smartproxy.core.http.http2_client import SETTINGS_GRACE_S
from smartproxy.core.ops import OpenStream
from smartproxy.core.wire.http2 import DEFAULT_LIMITS, ErrorCode, frames

CHUNK = b"x" * 16384
WINDOW_BYTES = DEFAULT_LIMITS.stream_window_bytes


def http2_forward(*hosts: str, **options: Any) -> Configuration:
    """Everything on port 80 goes by HTTP/2 with prior knowledge."""
    action = ForwardAction((target(*hosts),), backend_protocol=BackendProtocol.HTTP2)
    return configuration(route("app", action), **options)


@pytest.fixture
def hand() -> Iterator[EngineByHand]:
    """An engine with one HTTP/2 backend behind port 80; nothing may be left of the test at its end."""
    by_hand = EngineByHand(http2_forward())
    yield by_hand
    by_hand.settle()


def begun(hand: EngineByHand, *paths: str, **options: Any) -> tuple[list[End], Http2End, list[int]]:
    """HTTP/1.1 clients, the backend that all have reached, and their streams there in the same order."""
    clients = [hand.connect(data=request("GET", path)) for path in paths or ("/",)]
    backend = http2_backend(hand, **options)
    by_path = {backend.streams[stream_id].head[b":path"]: stream_id for stream_id in backend.new_streams()}
    return clients, backend, [by_path[path.encode()] for path in paths or ("/",)]


def status(client: End) -> int:
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 ")
    return int(answer[9:12])


# Sharing.


def test_clients_share_a_connection(hand: EngineByHand) -> None:
    clients, backend, ids = begun(hand, "/a", "/b", "/c")
    head = backend.streams[ids[0]].head
    assert head[b":method"] == b"GET"
    assert head[b":authority"] == b"app.example.com"
    assert b"host" not in head
    for client, stream_id in reversed(list(zip(clients, ids, strict=True))):
        backend.respond(stream_id, body=b"%d" % stream_id)
        assert client.take().endswith(b"%d\r\n0\r\n\r\n" % stream_id)
    assert {record.backend_protocol for record in hand.access} == {"HTTP/2"}
    assert hand.engine.backend_connection_count == 1
    clients[0].send(request("POST", "/d", "Content-Length: 3") + b"abc")
    stream_id = backend.new_stream()
    seen = backend.stream(stream_id)
    assert (seen.data, seen.ended, seen.head[b"content-length"]) == (b"abc", True, b"3")
    backend.respond(stream_id, 200, (b"content-length", b"2"), body=b"ok")
    assert clients[0].take() == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    assert not hand.pending


def test_http2_to_http2_both_ways(hand: EngineByHand) -> None:
    client = http2_client(hand)
    stream_id = client.request(b"POST", b"/", (b"te", b"trailers"), body=b"abc", ends=False)
    backend = http2_backend(hand)
    there = backend.new_stream()
    client.trailers(stream_id, (b"x-sum", b"1"))
    seen = backend.stream(there)
    assert seen.data == b"abc"
    assert seen.trailers == {b"x-sum": b"1"}
    backend.respond(there, 103, (b"link", b"</a>"), body=None, ends=False)
    backend.respond(there, 200, body=b"hi", ends=False)
    backend.trailers(there, (b"x-check", b"ok"))
    answered = client.stream(stream_id)
    assert [head[b":status"] for head in answered.heads[:2]] == [b"103", b"200"]
    assert answered.data == b"hi"
    assert answered.trailers == {b"x-check": b"ok"}


def test_the_backends_limit_of_streams_is_kept(hand: EngineByHand) -> None:
    two = {frames.SETTING_MAX_CONCURRENT_STREAMS: 2}
    first = hand.connect(data=request("GET", "/first"))
    backends = [http2_backend(hand, settings=two)]
    backends[0].respond(backends[0].new_stream())
    assert status(first) == 200
    clients = [hand.connect(data=request("GET", f"/{number}")) for number in range(7)]
    while opening := [each for each in hand.pending.values() if isinstance(each, OpenStream)]:
        backends += [Http2End(hand.open(each), client=False, settings=two) for each in opening]
    under_way = {backend: backend.new_streams() for backend in backends}
    assert all(len(ids) <= 2 for ids in under_way.values())
    assert len(under_way[backends[0]]) == 2
    assert sum(map(len, under_way.values())) == 7
    for backend, ids in under_way.items():
        for stream_id in ids:
            backend.respond(stream_id)
    assert [status(client) for client in clients] == [200] * 7
    for client in clients:
        client.send(request())
    assert all(len(backend.new_streams()) <= 2 for backend in backends)
    for client in clients:
        client.reset()


def heads_sent(backend: End) -> int:
    """How many HEADERS frames a backend that has said nothing yet has been sent since the last time."""
    sent = backend.take().removeprefix(frames.PREFACE)
    count = 0
    while sent:
        count += sent[3] == frames.HEADERS
        sent = sent[9 + int.from_bytes(sent[:3], "big") :]
    return count


@pytest.mark.parametrize("settings_come", [True, False])
def test_a_new_connection_gets_one_request_until_its_settings_are_here(
    hand: EngineByHand, settings_come: bool
) -> None:
    clients = [hand.connect(data=request("GET", f"/{number}")) for number in range(5)]
    backend = hand.open()
    assert heads_sent(backend) == 1
    clients.append(hand.connect(data=request("GET", "/later")))
    hand.advance(SETTINGS_GRACE_S - 0.1)
    assert heads_sent(backend) == 0
    assert not [each for each in hand.pending.values() if isinstance(each, OpenStream)]
    if settings_come:
        backend.send(frames.encode_settings({frames.SETTING_MAX_CONCURRENT_STREAMS: 4}))
        assert heads_sent(backend) == 3
        # For those who found no room there.
        assert len([each for each in hand.pending.values() if isinstance(each, OpenStream)]) == 1
    else:
        hand.advance(0.2)
        assert heads_sent(backend) == 5
    for client in clients:
        client.reset()


def test_a_request_waiting_for_settings_outlives_the_connection(hand: EngineByHand) -> None:
    clients = [hand.connect(data=request("POST", f"/{number}", "Content-Length: 0")) for number in range(2)]
    backend = hand.open()
    assert heads_sent(backend) == 1
    backend.reset()
    assert status(clients[0]) == 502
    other = http2_backend(hand)
    other.respond(other.new_stream())
    assert status(clients[1]) == 200


def test_a_connection_is_kept_for_a_while_and_closed_with_a_goaway(hand: EngineByHand) -> None:
    clients, backend, [stream_id] = begun(hand)
    backend.respond(stream_id)
    assert status(clients[0]) == 200
    hand.advance(59.0)
    assert backend.look().is_open
    hand.advance(3.0)
    assert backend.goaway_code == ErrorCode.NO_ERROR
    assert not backend.is_open
    assert hand.engine.backend_connection_count == 0


# GOAWAY.


def test_a_goaway_lets_streams_finish_and_takes_no_more(hand: EngineByHand) -> None:
    clients, backend, [first, second] = begun(hand, "/a", "/b")
    backend.go_away(second)
    clients.append(hand.connect(data=request("GET", "/c")))
    other = http2_backend(hand)
    other.respond(other.new_stream(), body=b"other")
    assert b"other" in clients[2].take()
    backend.respond(first)
    assert backend.look().is_open
    backend.respond(second)
    assert [status(client) for client in clients[:2]] == [200, 200]
    assert not backend.is_open
    assert hand.engine.backend_connection_count == 1


def test_unprocessed_streams_are_asked_again_once(hand: EngineByHand) -> None:
    clients, backend, [first, _, _] = begun(hand, "/a", "/b", "/c")
    backend.go_away(first, ErrorCode.ENHANCE_YOUR_CALM)
    other = http2_backend(hand)
    again = other.new_streams()
    assert [other.streams[stream_id].head[b":path"] for stream_id in again] == [b"/b", b"/c"]
    other.respond(again[0])
    other.go_away(again[0])
    backend.respond(first)
    assert [status(client) for client in clients] == [200, 200, 502]
    assert hand.events("http").count("request_retried") == 2
    assert not hand.pending


def test_a_refused_stream_is_asked_again_once(hand: EngineByHand) -> None:
    # Also where its method says that it must not be: nothing has been done.
    client = hand.connect(data=request("PATCH", "/"))
    first = http2_backend(hand)
    hand.advance(1.0)
    first.reset(first.new_stream(), ErrorCode.REFUSED_STREAM)
    second = http2_backend(hand)
    second.respond(second.new_stream())
    assert status(client) == 200
    client.send(request("PATCH", "/x"))
    hand.advance(1.0)
    first.reset(first.new_stream(), ErrorCode.REFUSED_STREAM)
    third = http2_backend(hand)
    third.reset(third.new_stream(), ErrorCode.REFUSED_STREAM)
    assert status(client) == 502
    assert hand.events("http").count("request_retried") == 2


def test_a_body_on_its_way_is_not_asked_again(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", "Content-Length: 3") + b"ab")
    backend = http2_backend(hand)
    backend.reset(backend.new_stream(), ErrorCode.REFUSED_STREAM)
    assert status(client) == 502
    assert not hand.pending


def test_an_earlier_version_that_is_required_cannot_be_had(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    for _ in range(2):
        backend = http2_backend(hand)
        hand.advance(1.0)
        backend.reset(backend.new_stream(), ErrorCode.HTTP_1_1_REQUIRED)
    assert status(client) == 502
    assert not hand.pending


# Resets.


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_backends_reset(hand: EngineByHand, has_begun: bool) -> None:
    client = http2_client(hand)
    reset, other = client.request(b"GET", b"/reset"), client.request(b"GET", b"/other")
    backend = http2_backend(hand)
    [first, second] = backend.new_streams()
    if has_begun:
        backend.respond(first, body=b"half", ends=False)
    backend.reset(first, ErrorCode.INTERNAL_ERROR)
    seen = client.stream(reset)
    if has_begun:
        assert (seen.data, seen.reset) == (b"half", ErrorCode.INTERNAL_ERROR)
    else:
        assert (seen.status, seen.ended) == (502, True)
    backend.respond(second)
    assert client.stream(other).data == b"hello"
    assert hand.engine.backend_connection_count == 1


def test_a_clients_loss_resets_its_stream_only(hand: EngineByHand) -> None:
    clients, backend, [first, second] = begun(hand, "/a", "/b")
    clients[0].reset()
    assert backend.stream(first).reset == ErrorCode.CANCEL
    # A backend that has been silent until then is asked whether it lives.
    assert backend.pings == 1
    backend.respond(second)
    assert status(clients[1]) == 200


def test_a_dead_connection_is_found_out(hand: EngineByHand) -> None:
    """A request that was given up in silence is followed by a PING; without an answer it is the end."""
    clients, backend, [_, second] = begun(hand, "/a", "/b")
    backend.answers = False
    hand.advance(20.0)
    clients[0].reset()
    hand.advance(16.0)
    other = http2_backend(hand)
    other.respond(other.new_stream())
    assert status(clients[1]) == 200
    assert not backend.is_open
    assert backend.streams[second].head[b":path"] == b"/b"


def test_many_early_responses_do_not_end_the_connection(hand: EngineByHand) -> None:
    """A backend may answer before it has read the request, and then reset the stream (RFC 9113 §8.1)."""
    backend: Http2End | None = None
    for _ in range(150):
        client = hand.connect(data=request("POST", "/", "Content-Length: 1000") + b"ab")
        backend = backend or http2_backend(hand)
        stream_id = backend.new_stream()
        backend.respond(stream_id, 403)
        assert status(client) == 403
        assert backend.stream(stream_id).reset == ErrorCode.NO_ERROR
    assert backend is not None
    assert backend.is_open


# Malformed responses.


MALFORMED: dict[str, list[tuple[bytes, bytes]]] = {
    "no status": [(b"content-length", b"0")],
    "status of four digits": [(b":status", b"2000")],
    "upper case": [(b":status", b"200"), (b"X-Big", b"1")],
    "connection": [(b":status", b"200"), (b"connection", b"close")],
    "transfer-encoding": [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
    "request pseudo-header": [(b":status", b"200"), (b":path", b"/")],
    "pseudo-header behind": [(b"a", b"b"), (b":status", b"200")],
    "two statuses": [(b":status", b"200"), (b":status", b"200")],
    "line feed": [(b":status", b"200"), (b"a", b"b\nc: d")],
    "two lengths": [(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2")],
    "switching": [(b":status", b"101")],
}


@pytest.mark.parametrize("lines", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_response(hand: EngineByHand, lines: list[tuple[bytes, bytes]]) -> None:
    clients, backend, [bad, good] = begun(hand, "/bad", "/good")
    backend.feed(backend.headers(bad, lines))
    assert status(clients[0]) == 502
    assert backend.stream(bad).reset == ErrorCode.PROTOCOL_ERROR
    backend.respond(good)
    assert status(clients[1]) == 200
    assert {record.failure for record in hand.access} == {"http_protocol_error", ""}


@pytest.mark.parametrize(("announced", "sent"), [(10, 4), (3, 4), (0, 4)])
def test_a_response_of_another_length_than_announced(hand: EngineByHand, announced: int, sent: int) -> None:
    client = http2_client(hand)
    stream_id = client.request()
    backend = http2_backend(hand)
    there = backend.new_stream()
    backend.respond(there, 200, (b"content-length", b"%d" % announced), body=bytes(sent))
    seen = client.stream(stream_id)
    # Where none was to come, the response was complete for the client before any did.
    assert seen.reset == ErrorCode.INTERNAL_ERROR or (announced == 0 and seen.data == b"" and seen.ended)
    assert backend.stream(there).reset == ErrorCode.PROTOCOL_ERROR
    assert backend.is_open


@pytest.mark.parametrize(
    ("method", "code"), [("HEAD", 200), ("GET", 304), ("GET", 204)], ids=["head", "304", "204"]
)
def test_lengths_that_announce_no_content(hand: EngineByHand, method: str, code: int) -> None:
    client = hand.connect(data=request(method))
    backend = http2_backend(hand)
    length = [(b"content-length", b"1000")] if code != 204 else []
    backend.respond(backend.new_stream(), code, *length, body=None)
    assert status(client) == code
    client.send(request())
    backend.respond(backend.new_stream())
    assert status(client) == 200


@pytest.mark.parametrize(
    "fault",
    [
        frames.encode_frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, bytes(5)),
        frames.encode_frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        frames.encode_window_update(0, 0),
        frames.encode_frame(frames.DATA, 0, 0, b"x"),
        frames.encode_frame(frames.PING, 0, 0, bytes(8)) * 101,
        frames.encode_settings({}) * 51,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_a_backend_that_breaks_the_protocol(hand: EngineByHand, fault: bytes) -> None:
    client = http2_client(hand)
    ids = [client.request(b"GET", path) for path in (b"/a", b"/b")]
    backend = http2_backend(hand)
    there = backend.new_streams()
    backend.respond(there[0], body=b"half", ends=False)
    backend.answers = False
    backend.feed(fault)
    assert not backend.is_open
    assert client.stream(ids[0]).reset == ErrorCode.INTERNAL_ERROR
    assert client.stream(ids[1]).status == 502
    assert hand.engine.backend_connection_count == 0
    assert client.is_open


def test_a_backend_that_speaks_http1(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    hand.open().send(response())
    assert status(client) == 502
    assert not hand.pending


# Flow control.


def test_a_backend_that_gives_no_credit_holds_back_its_own_client_only(hand: EngineByHand) -> None:
    slow = hand.connect(data=request("POST", "/slow", "Transfer-Encoding: chunked"))
    fast = hand.connect(data=request("POST", "/fast", "Transfer-Encoding: chunked"))
    backend = http2_backend(hand, gives_credit=False)
    by_path = {backend.streams[i].head[b":path"]: i for i in backend.new_streams()}
    backend.feed(frames.encode_window_update(0, 100_000_000))
    wire_chunk = b"4000\r\n" + CHUNK + b"\r\n"
    sent = 0
    while slow.is_read():
        slow.send(wire_chunk)
        sent += len(CHUNK)
        assert sent <= 1_000_000
    assert sent <= 65535 + 65536 + 2 * len(CHUNK)
    for _ in range(50):
        assert fast.is_read()
        fast.send(wire_chunk)
        backend.feed(frames.encode_window_update(by_path[b"/fast"], len(CHUNK)))
    assert len(backend.stream(by_path[b"/fast"]).data) == 50 * len(CHUNK)
    backend.feed(frames.encode_window_update(by_path[b"/slow"], 1_000_000))
    assert slow.is_read()
    assert len(backend.stream(by_path[b"/slow"]).data) == sent
    for client in (slow, fast):
        client.send(b"0\r\n\r\n")
    for stream_id in by_path.values():
        backend.respond(stream_id)
    assert [status(slow), status(fast)] == [200, 200]


def test_a_client_that_does_not_read_withholds_its_own_streams_credit(hand: EngineByHand) -> None:
    clients, backend, [slow, fast] = begun(hand, "/slow", "/fast")
    clients[0].takes_bytes = False
    sent = {}
    for stream_id in (slow, fast):
        backend.respond(stream_id, body=b"", ends=False)
        sent[stream_id] = 0
    for _ in range(100):
        for stream_id in (slow, fast):
            if sent[stream_id] + len(CHUNK) <= WINDOW_BYTES + backend.stream(stream_id).credit_bytes:
                backend.data(stream_id, CHUNK)
                sent[stream_id] += len(CHUNK)
    assert sent[fast] == 100 * len(CHUNK)
    assert sent[slow] <= 256 * 1024 + 2 * WINDOW_BYTES
    assert clients[0].link.outgoing_bytes <= 256 * 1024 + WINDOW_BYTES
    clients[0].take_bytes_again()
    for stream_id in (slow, fast):
        backend.data(stream_id, b"", end=True)
    for client, stream_id in zip(clients, (slow, fast), strict=True):
        assert client.take().count(b"x") >= sent[stream_id]


def test_a_complete_response_survives_its_connection(hand: EngineByHand) -> None:
    """What has come in full belongs to the client, however slowly it takes it."""
    client = http2_client(hand, gives_credit=False)
    stream_id = client.request()
    backend = http2_backend(hand)
    there = backend.new_stream()
    backend.respond(there, body=b"", ends=False)
    sent = 0
    while sent + len(CHUNK) <= WINDOW_BYTES + backend.stream(there).credit_bytes:
        backend.data(there, CHUNK)
        sent += len(CHUNK)
    backend.data(there, b"", end=True)
    assert isinstance(backend.carrier, End)
    backend.carrier.finish()
    client.give_credit(stream_id, 1_000_000)
    seen = client.stream(stream_id)
    assert len(seen.data) == sent
    assert seen.ended
    assert [record.failure for record in hand.access] == [""]


# Losses.


@pytest.mark.parametrize("how", ["reset", "eof"])
def test_a_lost_connection_ends_its_streams(hand: EngineByHand, how: str) -> None:
    client = http2_client(hand)
    ids = [client.request(b"GET", b"/begun"), client.request(b"GET", b"/not")]
    post = client.request(b"POST", b"/post", body=b"abc", ends=False)
    backend = http2_backend(hand)
    there = backend.new_streams()
    backend.respond(there[0], body=b"half", ends=False)
    assert isinstance(backend.carrier, End)
    if how == "reset":
        backend.carrier.reset()
    else:
        backend.carrier.finish()
    assert client.stream(ids[0]).reset == ErrorCode.INTERNAL_ERROR
    assert client.stream(post).status == 502
    # Others have been answered there, so it is worth another try where that does no harm.
    other = http2_backend(hand)
    other.respond(other.new_stream())
    assert client.stream(ids[1]).data == b"hello"
    assert hand.engine.backend_connection_count == 1
    assert len(hand.access) == 3


def test_a_connection_that_is_lost_at_once(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    backend.reset()
    assert status(client) == 502
    assert not hand.pending


def test_a_refused_connect_tries_another_host() -> None:
    hand = EngineByHand(http2_forward("10.0.0.1", "10.0.0.2"))
    client = hand.connect(data=request())
    hand.fail(LostReason.REFUSED)
    backend = http2_backend(hand)
    backend.respond(backend.new_stream())
    assert status(client) == 200
    hand.settle()


def test_a_backend_that_is_silent(hand: EngineByHand) -> None:
    clients, backend, [first] = begun(hand)
    hand.advance(61.0)
    assert status(clients[0]) == 504
    assert backend.stream(first).reset == ErrorCode.CANCEL
    assert backend.is_open


def test_an_aged_connection_takes_no_new_request() -> None:
    hand = EngineByHand(http2_forward(timeouts=Timeouts(lifetime_s=100.0, socket_s=1000.0)))
    clients, old, [long] = begun(hand, "/long")
    hand.advance(101.0)
    clients.append(hand.connect(data=request("GET", "/new")))
    new = http2_backend(hand)
    new.respond(new.new_stream())
    assert status(clients[1]) == 200
    assert old.look().goaways
    old.respond(long)
    assert status(clients[0]) == 200
    assert not old.is_open
    hand.settle()


def test_draining_ends_the_connection_with_its_last_stream() -> None:
    hand = EngineByHand(http2_forward())
    clients, backend, [first] = begun(hand)
    hand.engine.handle_drain(hand.now)
    hand.drain()
    assert backend.look().is_open
    backend.respond(first)
    assert status(clients[0]) == 200
    assert backend.goaway_code == ErrorCode.NO_ERROR
    assert not backend.is_open
    hand.settle()


def test_who_waits_for_room_is_served_or_refused_in_turn() -> None:
    limits = Limits(pool_connections_per_host=1, pending_per_host=3)
    hand = EngineByHand(http2_forward(limits=limits))
    first = hand.connect(data=request("GET", "/first"))
    backend = http2_backend(hand, settings={frames.SETTING_MAX_CONCURRENT_STREAMS: 2})
    backend.respond(backend.new_stream())
    assert status(first) == 200
    clients = [hand.connect(data=request("GET", f"/{number}")) for number in range(7)]
    assert [status(client) for client in clients[5:]] == [503, 503]
    paths = []
    while ids := backend.new_streams():
        assert len(ids) <= 2
        backend.respond(ids[0])
        paths += [backend.streams[each].head[b":path"] for each in ids]
        if len(ids) == 2:
            backend.respond(ids[1])
    assert paths == [b"/0", b"/1", b"/2", b"/3", b"/4"]
    assert [status(client) for client in clients[:5]] == [200] * 5
    hand.settle()


# WebSocket.


@pytest.mark.parametrize("who", ["client", "backend", "connection"])
def test_a_websocket_by_extended_connect(hand: EngineByHand, who: str) -> None:
    client = hand.connect(
        data=request(
            "GET",
            "/chat",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
    )
    backend = http2_backend(hand, settings={frames.SETTING_ENABLE_CONNECT_PROTOCOL: 1})
    stream_id = backend.new_stream()
    head = backend.streams[stream_id].head
    assert head[b":method"] == b"CONNECT"
    assert head[b":protocol"] == b"websocket"
    assert head[b":path"] == b"/chat"
    assert b"sec-websocket-key" not in head
    other = hand.connect(data=request("GET", "/other"))
    backend.respond(stream_id, body=None, ends=False)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer
    client.send(b"\x81\x85\x00\x00\x00\x00hello")
    assert backend.stream(stream_id).data == b"\x81\x85\x00\x00\x00\x00hello"
    backend.data(stream_id, b"\x81\x05world")
    assert client.take() == b"\x81\x05world"
    if who == "client":
        client.reset()
        assert backend.stream(stream_id).reset == ErrorCode.CANCEL
    elif who == "backend":
        backend.reset(stream_id)
        assert not client.is_open
    else:
        assert isinstance(backend.carrier, End)
        backend.carrier.reset()
        assert not client.is_open
    if who != "connection":
        backend.respond(backend.new_stream())
        assert status(other) == 200
    assert "app" in [record.route for record in hand.access]


def test_a_websocket_where_the_backend_takes_none(hand: EngineByHand) -> None:
    client = hand.connect(
        data=request(
            "GET",
            "/chat",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
    )
    backend = http2_backend(hand)
    assert not backend.new_streams()
    assert status(client) == 502
