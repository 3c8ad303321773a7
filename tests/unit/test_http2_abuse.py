"""HTTP/2 attacked: floods end the connection with ENHANCE_YOUR_CALM, and memory stays bounded meanwhile."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest
from hpack import Encoder
from http2_peer import ENGINES, POST, REQUEST, RawPeer, data_frame, types_of
from hyperframe.frame import RstStreamFrame

from smartproxy.core.http.messages import RequestHead, ResponseHead
from smartproxy.core.wire.http2 import (
    ErrorCode,
    Http2EngineName,
    Http2Limits,
    RemoteProtocolError,
    RequestReceived,
    RequestRefused,
    StreamReset,
    frames,
)

frame = frames.encode_frame
OK = ResponseHead(200, [])
HUGE_WINDOW = 2**31 - 1


def flood(
    peer: RawPeer, make: Callable[[int], bytes], at_most: int = 20_000, *, reads: bool = True
) -> tuple[int, RemoteProtocolError]:
    """Feed `make(0)`, `make(1)` ... at one moment until the connection ends; how many were taken, and why."""
    largest = 0
    for index in range(at_most):
        try:
            peer.feed(make(index))
        except RemoteProtocolError as error:
            assert peer.connection.ended
            assert largest <= 70_000
            return index, error
        largest = max(largest, peer.connection.buffered_bytes)
        if reads:
            peer.connection.data_to_send()
    raise AssertionError("the flood was never stopped")


def calm(outcome: tuple[int, RemoteProtocolError]) -> tuple[int, str]:
    count, error = outcome
    assert error.error_code == ErrorCode.ENHANCE_YOUR_CALM
    return count, error.reason


@pytest.mark.parametrize("engine", ENGINES)
def test_rapid_reset(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)

    def open_and_reset(index: int) -> bytes:
        stream_id = 1 + 2 * index
        return peer.headers(stream_id, REQUEST) + frames.encode_rst_stream(stream_id, ErrorCode.CANCEL)

    assert calm(flood(peer, open_and_reset)) == (100, "too many resets")


@pytest.mark.parametrize("engine", ENGINES)
def test_cancelling_now_and_then_is_no_attack(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    stream_id = 1
    for second in range(60):
        peer.now = 1000.0 + second
        for _ in range(30):
            peer.feed(peer.headers(stream_id, REQUEST))
            peer.feed(peer.headers(stream_id + 2, REQUEST))
            peer.feed(frames.encode_rst_stream(stream_id, ErrorCode.CANCEL))
            peer.connection.send_response(stream_id + 2, OK, end_stream=True)
            stream_id += 4
        peer.connection.data_to_send()
    assert not peer.connection.ended


@pytest.mark.parametrize("engine", ENGINES)
def test_the_count_begins_anew_with_each_window_of_time(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    for window in range(5):
        peer.now = 1000.0 + 10 * window
        for index in range(100):
            stream_id = 1 + 2 * (100 * window + index)
            peer.feed(peer.headers(stream_id, REQUEST) + frames.encode_rst_stream(stream_id, 8))
    assert not peer.connection.ended
    peer.feed_expecting_end(peer.headers(1001, REQUEST) + frames.encode_rst_stream(1001, 8))


def overflow_window(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, POST, end_stream=False) + frames.encode_window_update(
        stream_id, HUGE_WINDOW
    )


def update_by_nothing(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, POST, end_stream=False) + frames.encode_window_update(stream_id, 0)


def content_after_the_end(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, REQUEST) + data_frame(stream_id, b"x")


def head_after_the_end(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, REQUEST) * 2


def malformed_head(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, [*REQUEST, (b"connection", b"close")])


def wrong_length(peer: RawPeer, stream_id: int) -> bytes:
    return peer.headers(stream_id, [*POST, (b"content-length", b"0")], end_stream=False) + data_frame(
        stream_id, b"x"
    )


PROVOCATIONS = [
    overflow_window, update_by_nothing, content_after_the_end, head_after_the_end, malformed_head,
    wrong_length,
]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("provoke", PROVOCATIONS)
def test_made_you_reset(engine: Http2EngineName, provoke: Callable[[RawPeer, int], bytes]) -> None:
    peer = RawPeer(engine)
    [reset] = [event for event in peer.feed(provoke(peer, 1)) if isinstance(event, StreamReset)]
    assert not reset.by_peer
    [written] = [frame for frame in peer.take_frames() if isinstance(frame, RstStreamFrame)]
    assert written.error_code == reset.error_code
    assert peer.connection.open_streams == 0
    assert calm(flood(peer, lambda index: provoke(peer, 3 + 2 * index))) == (99, "too many resets")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("acknowledged", [True, False])
def test_streams_beyond_the_limit_are_refused_and_counted(
    engine: Http2EngineName, acknowledged: bool
) -> None:
    peer = RawPeer(engine)
    if not acknowledged:
        peer.connection = type(peer.connection)(client_side=False, engine=engine)
        peer.connection.initiate(peer.now)
        peer.feed(frames.PREFACE + frames.encode_settings({}))
    for index in range(100):
        assert peer.feed(peer.headers(1 + 2 * index, REQUEST))
    peer.take_frames()
    assert peer.feed(peer.headers(201, REQUEST)) == []
    [refusal] = peer.take_frames()
    assert isinstance(refusal, RstStreamFrame)
    assert (refusal.stream_id, refusal.error_code) == (201, ErrorCode.REFUSED_STREAM)
    assert peer.connection.open_streams == 100
    peer.connection.send_response(1, OK, end_stream=True)
    assert isinstance(peer.feed(peer.headers(203, REQUEST))[0], RequestReceived)
    assert calm(flood(peer, lambda index: peer.headers(205 + 2 * index, REQUEST))) == (100, "too many resets")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("flags", [0, frames.ACK])
def test_ping_flood(engine: Http2EngineName, flags: int) -> None:
    peer = RawPeer(engine)
    assert calm(flood(peer, lambda _: frame(frames.PING, flags, 0, bytes(8)))) == (
        100,
        "too many PING frames",
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_measuring_the_way_with_pings_is_no_flood(engine: Http2EngineName) -> None:
    """gRPC sends a PING with each burst of content that it receives."""
    peer = RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: HUGE_WINDOW})
    peer.feed(frames.encode_window_update(0, HUGE_WINDOW - 65535))
    peer.feed(peer.headers(1, REQUEST))
    peer.connection.send_response(1, OK, end_stream=False)
    for _ in range(2000):
        peer.connection.send_data(1, b"content", peer.now)
        peer.feed(frame(frames.PING, 0, 0, b"measured"))
        peer.connection.data_to_send()
    count, reason = calm(flood(peer, lambda _: frame(frames.PING, 0, 0, bytes(8))))
    assert (count, reason) == (100, "too many PING frames"), "all credit is used up"
    saver = RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: HUGE_WINDOW})
    saver.feed(saver.headers(1, REQUEST))
    saver.connection.send_response(1, OK, end_stream=False)
    for _ in range(2000):
        saver.connection.send_data(1, b"content", saver.now)
    assert calm(flood(saver, lambda _: frame(frames.PING, 0, 0, bytes(8))))[0] == 200


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wire", [frames.encode_settings({4: 70_000}), frame(frames.SETTINGS, frames.ACK, 0)])
def test_settings_flood(engine: Http2EngineName, wire: bytes) -> None:
    peer = RawPeer(engine)
    assert calm(flood(peer, lambda _: wire)) == (48, "too many SETTINGS frames"), "two were for the greeting"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("padding", [None, 0, 255])
def test_empty_data_flood(engine: Http2EngineName, padding: int | None) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=False))
    wire = data_frame(1, padding=padding)
    assert calm(flood(peer, lambda _: wire)) == (100, "too many empty DATA frames")


@pytest.mark.parametrize("engine", ENGINES)
def test_ends_of_requests_are_no_empty_data(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    for stream_id in range(1, 1001, 2):
        peer.feed(peer.headers(stream_id, POST, end_stream=False) + data_frame(stream_id, end_stream=True))
        peer.connection.send_response(stream_id, OK, end_stream=True)
        peer.connection.data_to_send()
    assert not peer.connection.ended


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("piece", [b"", b"\x00\x01a\x01b"])
def test_continuation_flood(engine: Http2EngineName, piece: bytes) -> None:
    peer = RawPeer(engine)
    peer.feed(frame(frames.HEADERS, 0, 1, peer.encoder.encode(REQUEST)))
    wire = frame(frames.CONTINUATION, 0, 1, piece)
    assert calm(flood(peer, lambda _: wire)) == (20, "header block too large")


@pytest.mark.parametrize("engine", ENGINES)
def test_header_block_without_end(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(frame(frames.HEADERS, 0, 1, bytes(16384)))
    count, error = flood(peer, lambda _: frame(frames.CONTINUATION, 0, 1, bytes(16384)))
    assert (count, error.error_code) == (3, ErrorCode.ENHANCE_YOUR_CALM)


@pytest.mark.parametrize("engine", ENGINES)
def test_window_update_flood(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, REQUEST))
    count, reason = calm(flood(peer, lambda index: frames.encode_window_update(index % 2, 1)))
    assert (count, reason) == (1000, "too many WINDOW_UPDATE frames")


@pytest.mark.parametrize("engine", ENGINES)
def test_dribbling_window(engine: Http2EngineName) -> None:
    """A byte of window at a time would buy a frame for every frame (CVE-2019-9511)."""
    peer = RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: 0})
    peer.feed(peer.headers(1, REQUEST))
    peer.connection.send_response(1, OK, end_stream=False)
    peer.connection.send_data(1, bytes(10_000), peer.now)
    assert calm(flood(peer, lambda _: frames.encode_window_update(1, 1)))[0] == 1000


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fast_reader_is_no_flood(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, REQUEST))
    peer.connection.send_response(1, OK, end_stream=False)
    for _ in range(3000):
        peer.connection.send_data(1, bytes(16384), peer.now)
        peer.feed(frames.encode_window_update(0, 16384) + frames.encode_window_update(1, 16384))
        peer.connection.data_to_send()
    assert peer.connection.unsent_bytes(1) == 0


IGNORED = {
    "PRIORITY": (frame(frames.PRIORITY, 0, 3, bytes(5)), 500),
    "PRIORITY_UPDATE": (frame(frames.PRIORITY_UPDATE, 0, 0, bytes(4) + b"u=1"), 500),
    "unknown type": (frame(0xB, 0, 0), 500),
    "GOAWAY": (frames.encode_goaway(0, 0), 501),
    "resets of a closed stream": (frames.encode_rst_stream(1, 0), 100),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("wire", "allowed"), IGNORED.values(), ids=IGNORED.keys())
def test_floods_of_what_has_no_effect(engine: Http2EngineName, wire: bytes, allowed: int) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, REQUEST))
    peer.connection.send_response(1, OK, end_stream=True)
    assert calm(flood(peer, lambda _: wire))[0] == allowed


@pytest.mark.parametrize("engine", ENGINES)
def test_heads_after_goaway_are_counted_too(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, REQUEST))
    peer.connection.go_away(peer.now)
    peer.connection.go_away(peer.now)
    assert not peer.connection.ended
    assert calm(flood(peer, lambda index: peer.headers(3 + 2 * index, REQUEST))) == (
        500,
        "too many ignored frames",
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_replies_nobody_reads_are_bounded(engine: Http2EngineName) -> None:
    """A peer slow enough for every counter, that never reads."""
    peer = RawPeer(engine)

    def ping(index: int) -> bytes:
        peer.now = 1000.0 + index
        return frame(frames.PING, 0, 0, bytes(8))

    count, reason = calm(flood(peer, ping, reads=False))
    assert (count, reason) == (16384 // 17, "too many unread replies")
    assert len(peer.connection.data_to_send()) < 16384 + 100


@pytest.mark.parametrize("engine", ENGINES)
def test_hpack_bomb_of_references(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    large = (b"x", b"a" * 4000)
    block = peer.encoder.encode([*REQUEST, large])
    peer.feed(frame(frames.HEADERS, 5, 1, block))
    reference = Encoder.encode(peer.encoder, [large])
    assert len(reference) == 1
    [refused] = peer.feed(frame(frames.HEADERS, 5, 3, peer.encoder.encode(REQUEST) + reference * 20))
    assert isinstance(refused, RequestRefused)
    assert refused.status == 431
    wire = frame(frames.HEADERS, 5, 5, peer.encoder.encode(REQUEST) + reference * 40)
    error = peer.feed_expecting_end(wire)
    assert (error.error_code, error.reason) == (ErrorCode.ENHANCE_YOUR_CALM, "header block too large")


@pytest.mark.parametrize("engine", ENGINES)
def test_hpack_bomb_of_lines(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    [refused] = peer.feed(frame(frames.HEADERS, 5, 1, peer.encoder.encode(REQUEST) + b"\x90" * 200))
    assert isinstance(refused, RequestRefused)
    assert refused.status == 431
    error = peer.feed_expecting_end(frame(frames.HEADERS, 5, 3, b"\x90" * 16_000))
    assert (error.error_code, error.reason) == (ErrorCode.ENHANCE_YOUR_CALM, "too many field lines")


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_refused_for_their_size_are_counted(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)

    def refused_request(index: int) -> bytes:
        for stream_id in (event.stream_id for event in peer.events if isinstance(event, RequestRefused)):
            peer.connection.send_response(stream_id, ResponseHead(431, []), end_stream=True)
        peer.events.clear()
        return frame(frames.HEADERS, 5, 1 + 2 * index, peer.encoder.encode(REQUEST) + b"\x90" * 200)

    assert calm(flood(peer, refused_request)) == (100, "too many resets")


@pytest.mark.parametrize("engine", ENGINES)
def test_hpack_bomb_of_a_growing_table(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    grow = b"\x3f\xe1\xff\x03" + peer.encoder.encode(REQUEST)
    assert (
        peer.feed_expecting_end(frame(frames.HEADERS, 5, 1, grow)).error_code == ErrorCode.COMPRESSION_ERROR
    )


HPACK_DAMAGE = {
    "endless integer": b"\xff" + b"\x80" * 16_000,
    "endless name length": b"\x40\x7f" + b"\xff" * 30 + b"\x01",
    "name past the end": b"\x40\x05ab",
    "value past the end": b"\x40\x01a\x05ab",
    "no value": b"\x41",
    "no name": b"\x00",
    "table size behind a field": b"\x82\x3f\x01",
    "index nought": b"\x80",
    "index past the tables": b"\xbe",
    "named by an index past the tables": b"\x7f\x20\x01a",
    "end-of-string in a code": b"\x40\x84\xff\xff\xff\xff\x01a",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("block", HPACK_DAMAGE.values(), ids=HPACK_DAMAGE.keys())
def test_damaged_header_blocks(
    engine: Http2EngineName, block: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    error = RawPeer(engine).feed_expecting_end(frame(frames.HEADERS, 5, 1, block))
    assert (error.error_code, error.reason) == (ErrorCode.COMPRESSION_ERROR, "undecodable header block")
    assert capfd.readouterr().err == "", "jh2's decoder would panic, and say so on stderr"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_streams_may_hold_is_what_their_windows_allow(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, limits=Http2Limits(concurrent_streams=10))
    held = 0
    for stream_id in range(1, 21, 2):
        peer.feed(peer.headers(stream_id, POST, end_stream=False))
        for _ in range(4):
            peer.feed(data_frame(stream_id, bytes(16384)))
            held += 16384
    assert held == 10 * 65536
    assert peer.feed_expecting_end(data_frame(19, b"x")).error_code == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_counts_finished_content_nobody_consumes_as_streams(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False, limits=Http2Limits(concurrent_streams=2))
    head = RequestHead(b"GET", b"/", b"a.example", [], scheme=b"https")
    for stream_id in (1, 3):
        peer.connection.send_request(head, end_stream=True)
        peer.feed(peer.headers(stream_id, [(b":status", b"200")], end_stream=False))
        peer.feed(data_frame(stream_id, b"x" * 100, end_stream=True))
    assert peer.connection.open_streams == peer.connection.max_outbound_streams == 2
    peer.connection.acknowledge_received_data(1, 60)
    assert peer.connection.open_streams == 2
    peer.connection.acknowledge_received_data(1, 60)
    assert peer.connection.open_streams == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_backend_may_reset_as_many_of_our_requests_as_we_make(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    head = RequestHead(b"GET", b"/", b"a.example", [], scheme=b"https")
    for _ in range(500):
        stream_id = peer.connection.send_request(head, end_stream=True)
        [reset] = peer.feed(frames.encode_rst_stream(stream_id, ErrorCode.INTERNAL_ERROR))
        assert isinstance(reset, StreamReset)
        peer.connection.data_to_send()
    assert not peer.connection.ended


def use_up_streams(peer: RawPeer, first: int, count: int) -> None:
    for stream_id in range(first, first + 6 * count, 6):
        fields = [(b"x-unique", b"%d" % stream_id)]
        peer.feed(
            peer.headers(stream_id, [*POST, *fields], end_stream=False) + data_frame(stream_id, b"hello")
        )
        peer.connection.acknowledge_received_data(stream_id, 5)
        peer.feed(data_frame(stream_id, end_stream=True))
        peer.connection.send_response(stream_id, ResponseHead(200, fields), end_stream=True)
        peer.feed(peer.headers(stream_id + 2, POST, end_stream=False))
        peer.connection.reset_stream(stream_id + 2, ErrorCode.CANCEL)
        peer.feed(peer.headers(stream_id + 4, REQUEST))
        peer.feed(frames.encode_rst_stream(stream_id + 4, ErrorCode.CANCEL))
        peer.events.clear()
        peer.connection.data_to_send()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_long_life_leaves_nothing_behind(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    tracemalloc.start()
    try:
        use_up_streams(peer, 1, 600)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        use_up_streams(peer, 3601, 400)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10_000
    assert peer.connection.open_streams == peer.connection.buffered_bytes == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_frame_is_refused_before_it_is_held(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=False))
    peer.feed(data_frame(1, bytes(16384))[:-1])
    assert peer.connection.buffered_bytes == 16384 + 9 - 1
    peer.feed(b"\0")
    assert peer.connection.buffered_bytes == 0
    announced = frame(frames.DATA, 0, 1, bytes(16385))[:9]
    assert peer.feed_expecting_end(announced).error_code == ErrorCode.FRAME_SIZE_ERROR
    assert peer.connection.buffered_bytes == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_flood_by_one_connection_is_nothing_to_another(engine: Http2EngineName) -> None:
    attacker, other = RawPeer(engine), RawPeer(engine)
    other.feed(other.headers(1, POST, end_stream=False))
    flood(attacker, lambda _: frame(frames.PING, 0, 0, bytes(8)))
    assert types_of(other.take_frames()) == []
    other.feed(data_frame(1, b"x", end_stream=True))
    other.connection.send_response(1, OK, end_stream=True)
    assert types_of(other.take_frames()) == [frames.HEADERS]
