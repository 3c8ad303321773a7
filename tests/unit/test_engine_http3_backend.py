"""HTTP/3 backends of an engine driven by hand: one connection for many clients, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_http3_by_hand import (
    Http3Backend,
    Http3Client,
    Http3World,
    http3_configuration,
    http3_origin,
    http3_route,
)

from smartproxy.core.http.http3_client import SIGN_OF_LIFE_S, SUSPECT_S
from smartproxy.core.wire.http3 import DEFAULT_LIMITS, ErrorCode
from smartproxy.testing.http3_network import SERVER_NAME

WINDOW_BYTES = DEFAULT_LIMITS.stream_window_bytes


@pytest.fixture
def through() -> Iterator[Http3World]:
    """An engine with HTTP/3 on both sides."""
    built = Http3World(http3_configuration(http3_route("app", http3_origin())))
    yield built
    built.settle()


def reached(
    world: Http3World, *paths: bytes, **options: Any
) -> tuple[Http3Client, list[int], Http3Backend, list[int]]:
    """A client, its streams, the backend, and the same streams there."""
    client = world.client(**options)
    ids = [client.request(b"GET", path) for path in paths or (b"/",)]
    backend = world.backend()
    by_path = {backend.streams[each].head[b":path"]: each for each in backend.new_streams()}
    return client, ids, backend, [by_path[path] for path in paths or (b"/",)]


def test_requests_share_a_backend_connection(through: Http3World) -> None:
    client, ids, backend, there = reached(through, b"/a", b"/b", b"/c")
    assert backend.streams[there[0]].head[b":authority"] == SERVER_NAME.encode()
    for stream_id, beyond in reversed(list(zip(ids, there, strict=True))):
        backend.respond(beyond, body=b"%d" % beyond)
        assert client.stream(stream_id).data == b"%d" % beyond
    post = client.request(b"POST", b"/d", (b"content-length", b"3"), body=b"abc", ends=False)
    client.connection.send_trailers(post, [(b"x-sum", b"1")])
    through.run()
    beyond = backend.new_stream()
    seen = backend.streams[beyond]
    assert (seen.data, seen.ended) == (b"abc", True)
    backend.respond(beyond, 103, (b"link", b"</a>"), body=None, ends=False)
    backend.respond(beyond, body=b"hi", ends=False)
    backend.trailers(beyond, (b"x-check", b"ok"))
    answered = client.stream(post)
    assert [head[b":status"] for head in answered.heads[:2]] == [b"103", b"200"]
    assert answered.trailers == {b"x-check": b"ok"}
    assert {record.backend_protocol for record in through.hand.access} == {"HTTP/3"}
    assert through.hand.engine.backend_connection_count == 1


def test_bodies_cross_both_ways(through: Http3World) -> None:
    client = through.client()
    stream_id = client.request(b"POST", b"/", body=bytes(1_000_000))
    backend = through.backend()
    beyond = backend.new_stream()
    assert len(backend.streams[beyond].data) == 1_000_000
    assert backend.streams[beyond].ended
    backend.respond(beyond, body=bytes(1_000_000))
    assert len(client.stream(stream_id).data) == 1_000_000
    assert client.streams[stream_id].ended


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_backends_reset(through: Http3World, has_begun: bool) -> None:
    client, [first, second], backend, there = reached(through, b"/a", b"/b")
    if has_begun:
        backend.respond(there[0], body=b"half", ends=False)
    backend.reset(there[0], ErrorCode.H3_INTERNAL_ERROR)
    seen = client.stream(first)
    if has_begun:
        assert seen.reset == ErrorCode.H3_INTERNAL_ERROR
    else:
        assert seen.status == 502
    backend.respond(there[1])
    assert client.stream(second).data == b"hello"


def test_a_rejected_request_is_asked_again_once(through: Http3World) -> None:
    client, [stream_id], backend, [beyond] = reached(through)
    backend.reset(beyond, ErrorCode.H3_REQUEST_REJECTED)
    other = through.backend()
    other.respond(other.new_stream())
    assert client.stream(stream_id).data == b"hello"
    assert through.hand.events("http").count("request_retried") == 1


def test_a_goaway_lets_streams_finish_and_takes_no_more(through: Http3World) -> None:
    client, [first], backend, [beyond] = reached(through)
    backend.connection.go_away(through.hand.now)
    through.run()
    second = client.request(b"GET", b"/b")
    other = through.backend()
    other.respond(other.new_stream(), body=b"other")
    assert client.stream(second).data == b"other"
    backend.respond(beyond)
    assert client.stream(first).data == b"hello"
    through.run()
    assert backend.end.link.closing
    assert through.hand.engine.backend_connection_count == 1


def test_a_clients_reset_reaches_the_backend(through: Http3World) -> None:
    client, [stream_id], backend, [beyond] = reached(through)
    client.connection.reset_stream(stream_id)
    through.run()
    assert backend.streams[beyond].reset == ErrorCode.H3_REQUEST_CANCELLED
    assert backend.ended is None


def test_a_backend_that_falls_silent_is_given_up(through: Http3World) -> None:
    client, [stream_id], backend, [beyond] = reached(through)
    backend.respond(beyond)
    assert client.stream(stream_id).data == b"hello"
    backend.answers = False
    asked_at = through.hand.now
    again = client.request(b"GET", b"/again", runs=False)
    # The watch may have begun with a request up to `SUSPECT_S` before.
    through.let_pass(SIGN_OF_LIFE_S - SUSPECT_S - 0.1)
    assert not through.hand.pending
    through.let_pass(asked_at + SIGN_OF_LIFE_S + 0.1 - through.hand.now)
    other = through.backend()
    other.respond(other.new_stream(), body=b"other")
    assert client.stream(again).data == b"other"
    assert backend.end.link.closing


def test_a_silent_backend_is_found_out_whoever_has_given_up(through: Http3World) -> None:
    """That the one request was cancelled makes the connection no better for the next."""
    client, [stream_id], backend, [beyond] = reached(through)
    backend.respond(beyond)
    assert client.stream(stream_id).data == b"hello"
    backend.answers = False
    client.connection.reset_stream(client.request(b"GET", b"/given-up"))
    through.let_pass(SIGN_OF_LIFE_S)
    assert backend.end.link.closing
    again = client.request(b"GET", b"/again")
    other = through.backend()
    other.respond(other.new_stream(), body=b"other")
    assert client.stream(again).data == b"other"


def test_an_icmp_message_ends_nothing(through: Http3World) -> None:
    client, [stream_id], backend, [beyond] = reached(through)
    backend.end.lose()
    backend.respond(beyond)
    assert client.stream(stream_id).data == b"hello"


def test_a_backend_that_closes_ends_its_streams(through: Http3World) -> None:
    client, [first, second], backend, there = reached(through, b"/a", b"/b")
    backend.respond(there[0], body=b"half", ends=False)
    backend.connection.close(ErrorCode.H3_INTERNAL_ERROR)
    assert client.stream(first).reset == ErrorCode.H3_INTERNAL_ERROR
    other = through.backend()
    other.respond(other.new_stream())
    assert client.stream(second).data == b"hello"


def test_a_backend_that_does_not_answer_the_dial(through: Http3World) -> None:
    client = through.client()
    stream_id = client.request()
    through.hand.open_datagrams()
    through.let_pass(4.0)
    assert client.stream(stream_id).status == 504
    assert not through.hand.pending


def test_a_complete_response_survives_its_connection(through: Http3World) -> None:
    client, [stream_id], backend, [beyond] = reached(through, gives_credit=False)
    backend.respond(beyond, body=bytes(350_000))
    through.run()
    sent = backend.connection.unsent_bytes(beyond) == 0
    backend.connection.close(ErrorCode.H3_NO_ERROR)
    through.run()
    client.gives_credit = True
    client.connection.acknowledge_received_data(stream_id, len(client.streams[stream_id].data))
    seen = client.stream(stream_id)
    assert sent == (len(seen.data) == 350_000 and seen.ended)


def test_a_client_that_does_not_read_withholds_its_own_backend_streams_credit(through: Http3World) -> None:
    client, [slow, fast], backend, there = reached(through, b"/slow", b"/fast", gives_credit=False)
    for beyond in there:
        backend.respond(beyond, body=bytes(1_000_000))
    for _ in range(100):
        size = len(client.streams[fast].data)
        client.connection.acknowledge_received_data(fast, size)
        through.let_pass(0.01)
    assert len(client.streams[fast].data) == 1_000_000
    assert len(client.streams[slow].data) <= WINDOW_BYTES
    assert backend.connection.unsent_bytes(there[0]) > 400_000
    client.connection.reset_stream(slow)
    through.run()
    assert backend.connection.unsent_bytes(there[0]) == 0


def test_an_idle_backend_connection_is_closed(through: Http3World) -> None:
    client, [stream_id], backend, [beyond] = reached(through)
    backend.respond(beyond)
    assert client.stream(stream_id).data == b"hello"
    through.let_pass(70.0)
    assert backend.end.link.closing
    assert through.hand.engine.backend_connection_count == 0
