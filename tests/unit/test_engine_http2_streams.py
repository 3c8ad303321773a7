"""Windows and tunnels of HTTP/2 clients of an engine driven by hand: who waits for whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_by_hand import End, EngineByHand, plain_forward, response
from engine_http2_by_hand import Http2End, connect_websocket, data_frames, http2_client, switching

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


# Flow control.


def test_content_waits_for_the_backend_unacknowledged(hand: EngineByHand) -> None:
    client = http2_client(hand)
    stream_id = client.request(b"POST", b"/", body=b"\0" * 49152, ends=False)
    assert client.stream(stream_id).credit_bytes == 0
    backend = hand.open()
    assert backend.take().count(b"\0") == 49152
    assert client.stream(stream_id).credit_bytes >= 32768
    client.data(stream_id, b"end", end=True)
    backend.send(response())
    assert client.stream(stream_id).data == b"hello"


def test_a_stalled_backend_stops_the_credit_of_its_own_stream_only(hand: EngineByHand) -> None:
    client = http2_client(hand)
    slow, fast = (client.request(b"POST", path, ends=False) for path in (b"/slow", b"/fast"))
    backends = opens(hand)
    [slow_backend] = [end for end in backends if b" /slow " in end._received]
    [fast_backend] = [end for end in backends if b" /fast " in end._received]
    slow_backend.takes_bytes = False
    sent = {slow: 0, fast: 0}
    for _ in range(200):
        for stream_id in (slow, fast):
            seen = client.stream(stream_id)
            if sent[stream_id] + len(CHUNK) <= WINDOW_BYTES + seen.credit_bytes:
                client.data(stream_id, CHUNK)
                sent[stream_id] += len(CHUNK)
    assert sent[fast] == 200 * len(CHUNK)
    # The mark, and a window that stays unacknowledged.
    assert sent[slow] <= 256 * 1024 + 2 * WINDOW_BYTES
    assert slow_backend.link.outgoing_bytes <= 256 * 1024 + WINDOW_BYTES
    before = client.stream(slow).credit_bytes
    slow_backend.take_bytes_again()
    assert client.stream(slow).credit_bytes > before
    for stream_id in (slow, fast):
        client.data(stream_id, b"", end=True)
    for backend in (slow_backend, fast_backend):
        backend.send(response())
    assert [record.status for record in hand.access] == [200, 200]
    assert {record.bytes_received for record in hand.access} == set(sent.values())


def test_a_client_that_stops_reading_one_stream_pauses_its_backend_only(hand: EngineByHand) -> None:
    client = http2_client(hand, gives_credit=False)
    stalled, other = client.request(b"GET", b"/stalled"), client.request(b"GET", b"/other")
    backends = opens(hand)
    [stalled_backend] = [end for end in backends if b" /stalled " in end._received]
    [other_backend] = [end for end in backends if b" /other " in end._received]
    for backend in backends:
        backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
    sent = 0
    while stalled_backend.is_read():
        stalled_backend.send(CHUNK)
        sent += len(CHUNK)
    assert 65535 + 65536 <= sent <= 65535 + 65536 + 2 * len(CHUNK)
    client.feed(frames.encode_window_update(0, 100_000_000))
    for _ in range(50):
        assert other_backend.is_read()
        other_backend.send(CHUNK)
        client.feed(frames.encode_window_update(other, len(CHUNK)))
    assert len(client.stream(other).data) == 50 * len(CHUNK)
    assert len(client.stream(stalled).data) == 65535
    client.feed(frames.encode_window_update(stalled, 100_000_000))
    assert len(client.stream(stalled).data) == sent
    assert stalled_backend.is_read()
    for backend, already in ((stalled_backend, sent), (other_backend, 50 * len(CHUNK))):
        client.feed(frames.encode_window_update(other, 10_000_000)) if backend is other_backend else None
        backend.send(bytes(10_000_000 - already))
    assert client.stream(stalled).ended
    assert client.stream(other).ended


def test_a_client_whose_socket_is_full_pauses_every_backend(hand: EngineByHand) -> None:
    client = http2_client(hand)
    client.feed(frames.encode_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 10_000_000}))
    client.feed(frames.encode_window_update(0, 100_000_000))
    ids = [client.request(b"GET", b"/%d" % number) for number in range(3)]
    backends = opens(hand)
    end = client.carrier
    assert isinstance(end, End)
    end.takes_bytes = False
    for backend in backends:
        backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n")
    total = 0
    while any(backend.is_read() for backend in backends):
        for backend in backends:
            if backend.is_read():
                backend.send(CHUNK)
                total += len(CHUNK)
    assert end.link.outgoing_bytes <= 256 * 1024 + 4 * len(CHUNK) + 1000
    end.take_bytes_again()
    assert all(backend.is_read() for backend in backends)
    for backend, stream_id in zip(backends, ids, strict=True):
        got = len(client.stream(stream_id).data)
        backend.send(bytes(2_000_000 - got))
        assert client.stream(stream_id).ended
        assert len(client.stream(stream_id).data) == 2_000_000


def test_a_stream_that_nobody_reads_is_given_up(hand: EngineByHand) -> None:
    client = http2_client(hand, gives_credit=False)
    stream_id = client.request()
    backend = hand.open()
    backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(200_000))
    hand.advance(130.0)
    assert client.stream(stream_id).reset == ErrorCode.CANCEL
    assert not backend.is_open
    [record] = hand.access
    assert record.failure


def test_an_unused_prefix_of_a_body_is_credited_to_the_connection(hand: EngineByHand) -> None:
    """Bodies that are refused must not eat up the connection's window."""
    client = http2_client(hand)
    for _ in range(40):
        stream_id = client.request(b"POST", b"/", body=CHUNK * 4, ends=False)
        client.reset(stream_id)
        hand.advance(11.0)
    assert client.look().connection_credit_bytes >= 30 * 4 * len(CHUNK)
    assert len(data_frames(1, b"")) == 9
    hand.engine.handle_drain(hand.now)
    hand.drain()


# Extended CONNECT.


def test_a_websocket_by_extended_connect_to_http1(hand: EngineByHand) -> None:
    client = http2_client(hand)
    assert client.settings[frames.SETTING_ENABLE_CONNECT_PROTOCOL] == 1
    stream_id = connect_websocket(client)
    backend = hand.open()
    head = backend.take()
    assert head.startswith(b"GET /chat HTTP/1.1\r\n")
    assert b"\r\nupgrade: websocket\r\n" in head
    backend.send(switching(head))
    seen = client.stream(stream_id)
    assert seen.status == 200
    assert not seen.ended
    client.data(stream_id, b"\x81\x85\x00\x00\x00\x00hello")
    assert backend.take() == b"\x81\x85\x00\x00\x00\x00hello"
    backend.send(b"\x81\x05world")
    assert client.stream(stream_id).data == b"\x81\x05world"
    client.data(stream_id, b"\x88\x80\x00\x00\x00\x00", end=True)
    backend.send(b"\x88\x00")
    backend.finish()
    assert client.stream(stream_id).ended
    assert len(hand.access) == 1
    assert hand.access[0].status in (101, 200)
    assert hand.access[0].backend_protocol == "HTTP/1.1"


def test_a_backend_that_takes_no_websocket(hand: EngineByHand) -> None:
    client = http2_client(hand)
    stream_id = connect_websocket(client)
    hand.open().send(response(b"no", status="403 Forbidden"))
    seen = client.stream(stream_id)
    assert (seen.status, seen.data) == (403, b"no")
    assert client.is_open


def test_a_backend_that_answers_a_handshake_with_content(hand: EngineByHand) -> None:
    """A 2xx would mean to the client that the WebSocket is open (RFC 8441 §5)."""
    client = http2_client(hand)
    stream_id = connect_websocket(client)
    hand.open().send(response(b"what?"))
    assert client.stream(stream_id).status == 502
    assert client.is_open


@pytest.mark.parametrize("who", ["client", "backend"])
def test_a_websocket_that_breaks(hand: EngineByHand, who: str) -> None:
    client = http2_client(hand)
    other = client.request()
    other_backend = hand.open()
    stream_id = connect_websocket(client)
    backend = hand.open()
    backend.send(switching(backend.take()))
    assert client.stream(stream_id).status == 200
    if who == "client":
        client.reset(stream_id)
        assert backend.is_reset or backend.is_closed
    else:
        backend.reset()
        assert client.stream(stream_id).reset == ErrorCode.CANCEL
    other_backend.send(response())
    assert client.stream(other).data == b"hello"
    assert len(hand.access) == 2


def test_a_websocket_outlives_a_new_configuration(hand: EngineByHand) -> None:
    client = http2_client(hand)
    stream_id = connect_websocket(client)
    backend = hand.open()
    backend.send(switching(backend.take()))
    hand.configure(plain_forward("10.0.0.2"))
    assert client.look().goaways
    hand.advance(3600.0)
    backend.send(b"\x81\x05world")
    assert client.stream(stream_id).data == b"\x81\x05world"
    backend.reset()
    assert not client.look().is_open


def test_a_websocket_that_nobody_reads_pauses_its_backend_only(hand: EngineByHand) -> None:
    client = http2_client(hand, gives_credit=False)
    stream_id = connect_websocket(client)
    backend = hand.open()
    backend.send(switching(backend.take()))
    sent = 0
    frame = b"\x82\x7e\x40\x00" + CHUNK
    while backend.is_read():
        backend.send(frame)
        sent += len(frame)
        assert sent < 1_000_000
    client.feed(frames.encode_window_update(0, 1_000_000))
    client.feed(frames.encode_window_update(stream_id, 1_000_000))
    assert len(client.stream(stream_id).data) == sent
    assert backend.is_read()
    client.reset(stream_id)
