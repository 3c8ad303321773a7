"""HTTP/2 flow control both ways: credit on consumption, backlogs, and patience with them (RFC 9113 §5.2)."""

from __future__ import annotations

import math

import pytest
from http2_peer import ENGINES, POST, REQUEST, RawPeer, data_frame, types_of
from hyperframe.frame import DataFrame, WindowUpdateFrame

from smartproxy.core.http.messages import ResponseHead
from smartproxy.core.wire.http2 import (
    DataReceived,
    ErrorCode,
    Http2EngineName,
    Http2Limits,
    LocalProtocolError,
    StreamReset,
    StreamWritable,
    frames,
)

OK = ResponseHead(200, [])
TRAILERS = [(b"x-sum", b"1")]
HUGE_WINDOW = 2**31 - 1


def answered(peer: RawPeer, stream_id: int = 1) -> RawPeer:
    """The peer has asked, and the head of the answer is out."""
    peer.feed(peer.headers(stream_id, REQUEST))
    peer.connection.send_response(stream_id, OK, end_stream=False)
    peer.take_frames()
    return peer


def sent_bytes(peer: RawPeer) -> int:
    return sum(len(frame.data) for frame in peer.take_frames() if isinstance(frame, DataFrame))


@pytest.mark.parametrize("engine", ENGINES)
def test_credit_is_given_for_what_is_consumed_in_portions(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=False))
    for _ in range(4):
        peer.feed(data_frame(1, bytes(16384)))
    assert peer.take_frames() == [], "nothing is credited for arriving"
    for _ in range(655):
        peer.connection.acknowledge_received_data(1, 100)
    updates = peer.take_frames()
    assert 1 <= len(updates) <= 3
    assert all(isinstance(frame, WindowUpdateFrame) and frame.stream_id == 1 for frame in updates)
    peer.connection.acknowledge_received_data(1, 10**9)
    assert peer.feed(data_frame(1, bytes(16384))), "more may come"


@pytest.mark.parametrize("engine", ENGINES)
def test_more_than_the_window_ends_the_connection(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=False))
    for _ in range(4):
        peer.feed(data_frame(1, bytes(16384)))
    assert peer.feed_expecting_end(data_frame(1, b"x")).error_code == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("engine", ENGINES)
def test_streams_nobody_reads_do_not_starve_the_others(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, limits=Http2Limits(concurrent_streams=5))
    for stream_id in (1, 3, 5, 7):
        peer.feed(peer.headers(stream_id, POST, end_stream=False))
        for _ in range(4):
            peer.feed(data_frame(stream_id, bytes(16384)))
    peer.feed(peer.headers(9, POST, end_stream=False))
    window = 65535 + 6 * 65536 + 4 * 65536
    for _ in range(200):
        for event in peer.feed(data_frame(9, bytes(16384))):
            assert isinstance(event, DataReceived)
            peer.connection.acknowledge_received_data(9, len(event.data))
        window -= 16384
        updates = [frame for frame in peer.take_frames() if isinstance(frame, WindowUpdateFrame)]
        window += sum(frame.window_increment for frame in updates if not frame.stream_id)
        assert window > 16384


@pytest.mark.parametrize("engine", ENGINES)
def test_padding_and_dropped_content_cost_the_window_nothing(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, limits=Http2Limits(concurrent_streams=1))
    window = peer.connection._state.limits.connection_window_bytes
    peer.feed(peer.headers(1, POST, end_stream=False))
    for _ in range(300):
        assert len(peer.feed(data_frame(1, b"x", padding=254))) == 1
        peer.connection.acknowledge_received_data(1, 1)
    peer.connection.reset_stream(1, ErrorCode.CANCEL)
    for _ in range(20):
        assert peer.feed(data_frame(1, bytes(16000))) == []
    granted = [frame.window_increment for frame in peer.take_frames() if isinstance(frame, WindowUpdateFrame)]
    # Less than the portions in which it is given.
    assert sum(granted) > 300 * 256 + 20 * 16000 - window


@pytest.mark.parametrize("engine", ENGINES)
def test_what_was_received_of_a_reset_stream_is_credited(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    for stream_id in range(1, 1001, 2):
        peer.feed(peer.headers(stream_id, POST, end_stream=False) + data_frame(stream_id, bytes(16384)))
        peer.connection.reset_stream(stream_id, ErrorCode.NO_ERROR)
        peer.take_frames()
    assert peer.connection.open_streams == 0, "and 8 MiB have come in through a window of 13"
    for stream_id in range(1001, 2001, 2):
        peer.feed(peer.headers(stream_id, POST, end_stream=False) + data_frame(stream_id, bytes(16384)))
        peer.connection.reset_stream(stream_id, ErrorCode.NO_ERROR)
        peer.take_frames()


@pytest.mark.parametrize("engine", ENGINES)
def test_content_waits_for_the_window_and_keeps_its_order(engine: Http2EngineName) -> None:
    peer = answered(RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: 10}))
    connection = peer.connection
    assert connection.send_data(1, b"0123456789abc", peer.now) == 3
    assert connection.send_data(1, b"de", peer.now) == 5
    assert connection.send_data(1, b"f", peer.now, end_stream=True) == 6
    assert connection.unsent_bytes(1) == connection.buffered_bytes == 6
    assert sent_bytes(peer) == 10
    peer.feed(frames.encode_window_update(1, 4))
    [first] = peer.take_frames()
    peer.feed(frames.encode_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 12}))
    second = peer.take_frames()[-1]
    assert isinstance(first, DataFrame)
    assert isinstance(second, DataFrame)
    assert (first.data, second.data) == (b"abcd", b"ef")
    assert "END_STREAM" in second.flags
    assert connection.open_streams == connection.buffered_bytes == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_trailers_wait_behind_content(engine: Http2EngineName) -> None:
    peer = answered(RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: 0}))
    peer.connection.send_data(1, b"hello", peer.now)
    with pytest.raises(LocalProtocolError):
        peer.connection.send_trailers(1, [(b"x", b"a\nb")])
    peer.connection.send_trailers(1, TRAILERS)
    assert peer.take_frames() == []
    peer.feed(frames.encode_window_update(1, 5))
    assert types_of(peer.take_frames()) == [frames.DATA, frames.HEADERS]
    assert peer.connection.open_streams == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_an_end_needs_no_window(engine: Http2EngineName) -> None:
    peer = answered(RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: 10}))
    peer.connection.send_data(1, bytes(10), peer.now)
    peer.feed(frames.encode_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 0}))
    peer.take_frames()
    assert peer.connection.send_data(1, b"", peer.now, end_stream=True) == 0
    assert "END_STREAM" in peer.take_frames()[0].flags


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shrinking_backlog_is_announced_once(engine: Http2EngineName) -> None:
    peer = answered(RawPeer(engine, limits=Http2Limits(low_water_bytes=100)))
    peer.connection.send_data(1, bytes(65535), peer.now)
    assert peer.connection.send_data(1, bytes(99), peer.now) == 99
    assert peer.feed(frames.encode_window_update(0, 50) + frames.encode_window_update(1, 50)) == []
    peer.connection.send_data(1, bytes(200), peer.now)
    assert peer.feed(frames.encode_window_update(0, HUGE_WINDOW - 50)) == []
    [event] = peer.feed(frames.encode_window_update(1, 150))
    assert isinstance(event, StreamWritable)
    assert peer.feed(frames.encode_window_update(1, 50)) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_streams_share_the_connections_window_in_turns(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: HUGE_WINDOW})
    for stream_id in (1, 3, 5):
        answered(peer, stream_id)
    for stream_id in (1, 3, 5):
        peer.connection.send_data(stream_id, bytes(300_000), peer.now)
    assert sent_bytes(peer) == 65535
    order = []
    for _ in range(6):
        peer.feed(frames.encode_window_update(0, 16384))
        [frame] = peer.take_frames()
        order.append(frame.stream_id)
    assert order == [1, 3, 5, 1, 3, 5]
    peer.feed(frames.encode_window_update(0, 16384 * 6))
    assert [frame.stream_id for frame in peer.take_frames()] == [1, 3, 5, 1, 3, 5]


@pytest.mark.parametrize("engine", ENGINES)
def test_small_chunks_of_a_backlog_are_sent_together(engine: Http2EngineName) -> None:
    peer = answered(RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: 0}))
    for _ in range(500):
        peer.connection.send_data(1, b"0123456789", peer.now)
    peer.feed(frames.encode_window_update(1, 4999))
    [frame] = peer.take_frames()
    assert isinstance(frame, DataFrame)
    assert frame.data == (b"0123456789" * 500)[:4999]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_window_kept_closed_ends_its_stream_after_a_minute(engine: Http2EngineName) -> None:
    peer = answered(RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: 0}))
    answered(peer, 3)
    connection = peer.connection
    assert connection.next_timeout() == math.inf
    connection.send_data(1, bytes(1000), 200.0)
    connection.send_data(3, b"", 200.0)
    assert connection.next_timeout() == 260.0
    assert connection.check(259.9) == []
    [reset] = connection.check(260.0)
    assert isinstance(reset, StreamReset)
    assert (reset.stream_id, reset.error_code, reset.by_peer) == (1, ErrorCode.CANCEL, False)
    assert types_of(peer.take_frames()) == [frames.RST_STREAM]
    assert (connection.buffered_bytes, connection.open_streams, connection.next_timeout()) == (0, 1, math.inf)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_window_opened_by_crumbs_is_as_good_as_closed(engine: Http2EngineName) -> None:
    peer = answered(RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: 0}))
    peer.connection.send_data(1, bytes(100_000), 200.0)
    for second in range(201, 260):
        peer.now = float(second)
        peer.feed(frames.encode_window_update(1, 1))
    assert isinstance(peer.connection.check(260.0)[0], StreamReset)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_slow_reader_is_not_a_dead_one(engine: Http2EngineName) -> None:
    peer = answered(RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: 0}))
    peer.connection.send_data(1, bytes(50_000), 200.0)
    for minute in range(1, 10):
        peer.now = 200.0 + 60 * minute
        peer.feed(frames.encode_window_update(1, 5000))
        assert peer.connection.check(peer.now) == []
        assert peer.connection.next_timeout() == peer.now + 60
    peer.feed(frames.encode_window_update(1, 5000))
    assert peer.connection.next_timeout() == math.inf
