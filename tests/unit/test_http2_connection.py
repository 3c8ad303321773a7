"""An HTTP/2 connection's life: its beginning, exchanges, signs of life, its end (RFC 9113 §3, §6, §8)."""

from __future__ import annotations

import math

import pytest
from http2_peer import ENGINES, POST, REQUEST, RawPeer, data_frame, types_of
from hyperframe.frame import GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame, WindowUpdateFrame

from smartproxy.core.http.messages import RequestHead, ResponseHead
from smartproxy.core.wire.http2 import (
    AVAILABLE_ENGINES,
    DataReceived,
    ErrorCode,
    GoAwayReceived,
    Http2Connection,
    Http2EngineName,
    Http2Limits,
    LocalProtocolError,
    RemoteProtocolError,
    RequestReceived,
    ResponseReceived,
    SettingsChanged,
    StreamEnded,
    StreamReset,
    StreamWritable,
    frames,
)

OK = ResponseHead(200, [])
TRAILERS = [(b"x-sum", b"1")]
GET = RequestHead(b"GET", b"/", b"a.example", [], scheme=b"https")
HUGE_WINDOW = 2**31 - 1


def answered(peer: RawPeer, stream_id: int = 1) -> RawPeer:
    """The peer has asked, and the head of the answer is out."""
    peer.feed(peer.headers(stream_id, REQUEST))
    peer.connection.send_response(stream_id, OK, end_stream=False)
    peer.take_frames()
    return peer


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("client", [True, False])
def test_the_greeting_says_what_holds(engine: Http2EngineName, client: bool) -> None:
    limits = Http2Limits(concurrent_streams=7, stream_window_bytes=70_000, header_bytes=5000)
    peer = RawPeer(engine, client=client, limits=limits)
    settings = peer.greeting[0]
    assert isinstance(settings, SettingsFrame)
    expected = {
        frames.SETTING_ENABLE_PUSH: 0,
        frames.SETTING_MAX_CONCURRENT_STREAMS: 7,
        frames.SETTING_INITIAL_WINDOW_SIZE: 70_000,
        frames.SETTING_MAX_FRAME_SIZE: 16384,
        frames.SETTING_HEADER_TABLE_SIZE: 4096,
        frames.SETTING_MAX_HEADER_LIST_SIZE: 5000,
        frames.SETTING_NO_RFC7540_PRIORITIES: 1,
    }
    assert expected.items() <= settings.settings.items()
    assert settings.settings.get(frames.SETTING_ENABLE_CONNECT_PROTOCOL, 0) == int(client)
    window, acknowledgement = peer.greeting[1:]
    assert isinstance(window, WindowUpdateFrame)
    assert 65535 + window.window_increment == limits.connection_window_bytes == 15 * 70_000
    assert "ACK" in acknowledgement.flags


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "beginning", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx", b"\x16\x03\x01"]
)
def test_what_is_not_http2_is_told_apart(engine: Http2EngineName, beginning: bytes) -> None:
    connection = Http2Connection(client_side=False, engine=engine)
    connection.initiate(0.0)
    with pytest.raises(RemoteProtocolError, match="not an HTTP/2 preface"):
        connection.receive_data(beginning, 0.0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("client_side", [True, False])
def test_a_connection_begins_with_settings(engine: Http2EngineName, client_side: bool) -> None:
    connection = Http2Connection(client_side=client_side, engine=engine)
    connection.initiate(0.0)
    start = b"" if client_side else frames.PREFACE
    with pytest.raises(RemoteProtocolError, match="does not begin with SETTINGS"):
        connection.receive_data(start + frames.encode_frame(frames.PING, 0, 0, bytes(8)), 0.0)


def test_an_engine_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from smartproxy.core.wire.http2 import library_engine

    assert Http2Connection(client_side=True)
    assert (AVAILABLE_ENGINES[0], AVAILABLE_ENGINES[-1]) == ("h2", "native")
    monkeypatch.delitem(library_engine.LIBRARIES, "jh2", raising=False)
    with pytest.raises(LocalProtocolError, match="jh2 is not installed"):
        Http2Connection(client_side=True, engine="jh2")


@pytest.mark.parametrize("engine", ENGINES)
def test_settings_that_are_never_acknowledged_end_the_connection(engine: Http2EngineName) -> None:
    connection = Http2Connection(client_side=True, engine=engine)
    connection.initiate(10.0)
    assert connection.next_timeout() == 40.0
    assert connection.check(39.0) == []
    with pytest.raises(RemoteProtocolError) as raised:
        connection.check(40.0)
    assert raised.value.error_code == ErrorCode.SETTINGS_TIMEOUT
    assert connection.ended
    assert connection.next_timeout() == math.inf


INVALID_SETTINGS = {
    "push from a server": ({frames.SETTING_ENABLE_PUSH: 1}, ErrorCode.PROTOCOL_ERROR),
    "push of two": ({frames.SETTING_ENABLE_PUSH: 2}, ErrorCode.PROTOCOL_ERROR),
    "window": ({frames.SETTING_INITIAL_WINDOW_SIZE: 2**31}, ErrorCode.FLOW_CONTROL_ERROR),
    "small frames": ({frames.SETTING_MAX_FRAME_SIZE: 16383}, ErrorCode.PROTOCOL_ERROR),
    "large frames": ({frames.SETTING_MAX_FRAME_SIZE: 2**24}, ErrorCode.PROTOCOL_ERROR),
    "extended CONNECT": ({frames.SETTING_ENABLE_CONNECT_PROTOCOL: 2}, ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("values", "code"), INVALID_SETTINGS.values(), ids=INVALID_SETTINGS.keys())
def test_invalid_settings_end_the_connection(
    engine: Http2EngineName, values: dict[int, int], code: ErrorCode
) -> None:
    assert RawPeer(engine, client=False).feed_expecting_end(frames.encode_settings(values)).error_code == code


@pytest.mark.parametrize("engine", ENGINES)
def test_extended_connect_cannot_be_taken_back(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False, settings={frames.SETTING_ENABLE_CONNECT_PROTOCOL: 1})
    error = peer.feed_expecting_end(frames.encode_settings({frames.SETTING_ENABLE_CONNECT_PROTOCOL: 0}))
    assert error.error_code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("engine", ENGINES)
def test_settings_of_all_kinds_are_acknowledged_and_only_known_ones_kept(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    unknown = dict.fromkeys(range(16, 2000), 5)
    assert peer.connection.max_outbound_streams == 100
    [event] = peer.feed(frames.encode_settings({**unknown, frames.SETTING_MAX_CONCURRENT_STREAMS: 2}))
    assert isinstance(event, SettingsChanged)
    [acknowledgement] = peer.take_frames()
    assert (acknowledgement.type, "ACK" in acknowledgement.flags) == (frames.SETTINGS, True)
    assert peer.connection.max_outbound_streams == 2
    for _ in range(2):
        peer.connection.send_request(GET, end_stream=True)
    with pytest.raises(LocalProtocolError, match="no more streams"):
        peer.connection.send_request(GET, end_stream=True)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("table_bytes", [0, 40, 2**32 - 1])
def test_the_peer_decides_how_small_our_header_table_is_not_how_large(
    engine: Http2EngineName, table_bytes: int
) -> None:
    peer = RawPeer(engine, settings={frames.SETTING_HEADER_TABLE_SIZE: table_bytes})
    peer.decoder.max_allowed_table_size = min(table_bytes, 4096)
    for stream_id in range(1, 121, 2):
        peer.feed(peer.headers(stream_id, REQUEST))
        fields = [(b"x-long", b"%d" % stream_id * 60)]
        peer.connection.send_response(stream_id, ResponseHead(200, fields), end_stream=True)
        [frame] = peer.take_frames()
        assert peer.decode(frame) == [(b":status", b"200"), *fields]
        assert peer.decoder.header_table_size <= peer.decoder.max_allowed_table_size


# Exchanges.


@pytest.mark.parametrize("engine", ENGINES)
def test_a_request_and_its_answer(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    connection = peer.connection
    events = peer.feed(
        peer.headers(1, POST, end_stream=False)
        + data_frame(1, b"hello")
        + data_frame(1, b" world", padding=7)
        + peer.headers(1, TRAILERS)
    )
    assert isinstance(events[0], RequestReceived)
    assert [event.data for event in events if isinstance(event, DataReceived)] == [b"hello", b" world"]
    assert isinstance(events[-1], StreamEnded)
    assert events[-1].trailers == TRAILERS
    connection.send_response(1, ResponseHead(103, [(b"link", b"</a.css>")]), end_stream=False)
    connection.send_response(1, OK, end_stream=False)
    assert connection.send_data(1, b"good", peer.now) == 0
    connection.send_trailers(1, TRAILERS)
    taken = peer.take_frames()
    assert types_of(taken) == [frames.HEADERS, frames.HEADERS, frames.DATA, frames.HEADERS]
    assert [peer.decode(taken[index])[0] for index in (0, 1, 3)] == [
        (b":status", b"103"), (b":status", b"200"), *TRAILERS,
    ]  # fmt: skip
    assert "END_STREAM" in taken[3].flags
    assert connection.open_streams == 1, "11 bytes are not consumed yet"
    connection.acknowledge_received_data(1, 11)
    assert connection.open_streams == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("content", [b"", b"x"])
def test_an_end_without_trailers(engine: Http2EngineName, content: bytes) -> None:
    peer = answered(RawPeer(engine))
    peer.connection.send_data(1, content, peer.now)
    peer.connection.send_trailers(1, [])
    assert "END_STREAM" in peer.take_frames()[-1].flags
    assert peer.connection.open_streams == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_head_larger_than_a_frame_goes_out_in_several(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, REQUEST))
    fields = [(b"x%d" % index, b"\xff" * 1000) for index in range(30)]
    peer.connection.send_response(1, ResponseHead(200, fields), end_stream=True)
    taken = peer.take_frames()
    assert types_of(taken)[:2] == [frames.HEADERS, frames.CONTINUATION]
    block = b"".join(frame.data for frame in taken)  # type: ignore[attr-defined]  # header frames
    decoded = [(bytes(name), bytes(value)) for name, value in peer.decoder.decode(block, raw=True)]
    assert decoded[1:] == fields


@pytest.mark.parametrize("engine", ENGINES)
def test_a_header_block_may_be_padded_prioritised_and_continued(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    block = peer.encoder.encode(REQUEST)
    flags = frames.PADDED | frames.PRIORITY_FLAG | frames.END_STREAM
    # A stream that depends on itself: an error once, of no meaning now.
    priority = (1).to_bytes(4, "big") + b"\xff"
    first = frames.encode_frame(frames.HEADERS, flags, 1, b"\x04" + priority + block[:3] + bytes(4))
    middle = frames.encode_frame(frames.CONTINUATION, 0, 1, block[3:4])
    last = frames.encode_frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[4:])
    assert peer.feed(first) == peer.feed(middle) == []
    assert peer.connection.buffered_bytes == 4
    [request] = peer.feed(last)
    assert isinstance(request, RequestReceived)
    assert (request.end_stream, peer.connection.buffered_bytes) == (True, 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_sending_out_of_turn_is_our_own_fault(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    connection = peer.connection
    peer.feed(peer.headers(1, REQUEST))
    with pytest.raises(LocalProtocolError, match="no such stream"):
        connection.send_data(3, b"x", peer.now)
    with pytest.raises(LocalProtocolError, match="content out of turn"):
        connection.send_data(1, b"x", peer.now)
    with pytest.raises(LocalProtocolError, match="interim"):
        connection.send_response(1, ResponseHead(103, []), end_stream=True)
    with pytest.raises(LocalProtocolError, match="does not have"):
        connection.send_response(1, ResponseHead(101, []), end_stream=False)
    connection.send_response(1, OK, end_stream=False)
    with pytest.raises(LocalProtocolError, match="response out of turn"):
        connection.send_response(1, OK, end_stream=False)
    connection.send_data(1, bytes(70_000), peer.now, end_stream=True)
    with pytest.raises(LocalProtocolError, match="content out of turn"):
        connection.send_data(1, b"x", peer.now)
    with pytest.raises(LocalProtocolError, match="content out of turn"):
        connection.send_trailers(1, TRAILERS)
    with pytest.raises(LocalProtocolError, match="sends no requests"):
        connection.send_request(GET, end_stream=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_that_is_over_takes_everything_in_silence(engine: Http2EngineName) -> None:
    peer = answered(RawPeer(engine))
    [reset] = peer.feed(frames.encode_rst_stream(1, ErrorCode.CANCEL))
    assert isinstance(reset, StreamReset)
    assert (reset.by_peer, reset.error_code, reset.unprocessed) == (True, ErrorCode.CANCEL, False)
    connection = peer.connection
    connection.send_response(1, OK, end_stream=False)
    assert connection.send_data(1, b"x", peer.now, end_stream=True) == 0
    connection.send_trailers(1, TRAILERS)
    connection.acknowledge_received_data(1, 5)
    connection.reset_stream(1, ErrorCode.CANCEL)
    assert (connection.data_to_send(), connection.unsent_bytes(1)) == (b"", 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sign_of_life_is_asked_for_and_missed(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    connection = peer.connection
    connection.ping(200.0)
    connection.ping(201.0)
    [ping] = peer.take_frames()
    assert isinstance(ping, PingFrame)
    assert connection.next_timeout() == 215.0
    peer.feed(frames.encode_frame(frames.PING, frames.ACK, 0, bytes(8)))
    assert connection.next_timeout() == 215.0
    peer.feed(frames.encode_frame(frames.PING, frames.ACK, 0, ping.opaque_data))
    assert connection.next_timeout() == math.inf
    connection.ping(300.0)
    with pytest.raises(RemoteProtocolError, match="PING not acknowledged"):
        connection.check(315.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_pings_are_answered(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(frames.encode_frame(frames.PING, 0, 0, b"12345678"))
    [pong] = peer.take_frames()
    assert isinstance(pong, PingFrame)
    assert (pong.opaque_data, "ACK" in pong.flags) == (b"12345678", True)


def goaways(peer: RawPeer) -> list[tuple[int, int]]:
    taken = peer.take_frames()
    return [(frame.last_stream_id, frame.error_code) for frame in taken if isinstance(frame, GoAwayFrame)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_goes_away_in_two_steps_and_finishes_its_work(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    connection = peer.connection
    peer.feed(peer.headers(1, REQUEST))
    connection.go_away(200.0)
    announcement, ping = peer.take_frames()
    assert isinstance(announcement, GoAwayFrame)
    assert isinstance(ping, PingFrame)
    assert (announcement.last_stream_id, announcement.error_code) == (HUGE_WINDOW, 0)
    [crossed] = peer.feed(peer.headers(3, REQUEST))
    assert isinstance(crossed, RequestReceived), "it was on its way"
    peer.feed(frames.encode_frame(frames.PING, frames.ACK, 0, ping.opaque_data))
    assert goaways(peer) == [(3, 0)]
    ignored = peer.headers(5, POST, end_stream=False) + data_frame(5, b"x") + peer.headers(5, TRAILERS)
    assert peer.feed(ignored) == []
    assert peer.take_frames() == []
    ended = []
    for stream_id in (1, 3):
        ended.append(peer.connection.ended)
        connection.send_response(stream_id, ResponseHead(200, [(b"x", b"y")]), end_stream=True)
    assert [*ended, peer.connection.ended] == [False, False, True]
    assert [peer.decode(frame)[1] for frame in peer.take_frames()] == [(b"x", b"y")] * 2
    connection.go_away(201.0)
    assert connection.data_to_send() == b""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_does_not_wait_for_ever_to_go_away(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.connection.go_away(200.0)
    peer.take_frames()
    assert peer.connection.next_timeout() == 215.0
    assert peer.connection.check(215.0) == []
    assert goaways(peer) == [(0, 0)]
    assert peer.connection.ended


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_asked_again_goes_at_once(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.connection.go_away(200.0)
    peer.connection.go_away(200.5)
    assert goaways(peer) == [(HUGE_WINDOW, 0), (0, 0)]
    assert peer.connection.ended


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_goes_away_when_its_streams_are_over(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    connection = peer.connection
    connection.send_request(GET, end_stream=True)
    connection.go_away(200.0)
    assert connection.max_outbound_streams == 0
    assert goaways(peer) == [(0, 0)]
    assert not connection.ended
    peer.feed(peer.headers(1, [(b":status", b"200")]))
    assert connection.ended


@pytest.mark.parametrize("engine", ENGINES)
def test_going_away_for_a_reason_is_immediate(engine: Http2EngineName) -> None:
    peer = answered(RawPeer(engine, settings={frames.SETTING_INITIAL_WINDOW_SIZE: 0}))
    peer.connection.send_data(1, bytes(100), peer.now)
    peer.connection.go_away(200.0, ErrorCode.INTERNAL_ERROR)
    assert goaways(peer) == [(1, ErrorCode.INTERNAL_ERROR)]
    assert peer.connection.ended
    assert peer.connection.buffered_bytes == 0
    assert peer.feed(peer.headers(3, REQUEST)) == []
    assert peer.connection.send_data(1, b"x", peer.now) == 0
    assert peer.connection.check(1e9) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_streams_go_on_after_the_peers_goaway(engine: Http2EngineName) -> None:
    """Both libraries would end every stream with it."""
    peer = RawPeer(engine, client=False)
    connection = peer.connection
    ids = [connection.send_request(GET, end_stream=True) for _ in range(3)]
    assert ids == [1, 3, 5]
    [announced] = peer.feed(frames.encode_goaway(HUGE_WINDOW, 0))
    assert isinstance(announced, GoAwayReceived)
    assert announced.unprocessed_stream_ids == []
    assert connection.max_outbound_streams == 0
    [final] = peer.feed(frames.encode_goaway(3, 0))
    assert isinstance(final, GoAwayReceived)
    assert (final.last_stream_id, final.unprocessed_stream_ids) == (3, [5])
    assert connection.open_streams == 2
    response, *rest = peer.feed(
        peer.headers(1, [(b":status", b"200")], end_stream=False) + data_frame(1, b"hi", end_stream=True)
    )
    assert isinstance(response, ResponseReceived)
    assert len(rest) == 2
    assert not connection.ended
    peer.feed(peer.headers(3, [(b":status", b"204")]))
    assert connection.ended


@pytest.mark.parametrize("engine", ENGINES)
def test_a_refused_request_is_known_to_be_unprocessed(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    peer.connection.send_request(GET, end_stream=False)
    [reset] = peer.feed(frames.encode_rst_stream(1, ErrorCode.REFUSED_STREAM))
    assert isinstance(reset, StreamReset)
    assert (reset.by_peer, reset.unprocessed) == (True, True)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_came_before_a_fault_is_not_lost(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    peer.connection.send_request(GET, end_stream=True)
    error = peer.feed_expecting_end(
        peer.headers(1, [(b":status", b"204")]) + frames.encode_frame(frames.PING, 0, 0, b"short")
    )
    [response] = error.events
    assert isinstance(response, ResponseReceived)
    assert response.end_stream


@pytest.mark.parametrize("engine", ENGINES)
def test_late_frames_of_a_stream_we_reset_are_ignored(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=False))
    peer.connection.reset_stream(1, ErrorCode.NO_ERROR)
    peer.take_frames()
    late = (
        data_frame(1, b"late")
        + frames.encode_window_update(1, 5)
        + peer.headers(1, [(b"x-late", b"table entry")])
        + frames.encode_rst_stream(1, ErrorCode.CANCEL)
    )
    assert peer.feed(late) == []
    [request] = peer.feed(peer.headers(3, [*REQUEST, (b"x-late", b"table entry")]))
    assert isinstance(request, RequestReceived)
    assert request.head.fields == [(b"x-late", b"table entry")], "header compression went on"
    assert peer.take_frames() == []


def test_limits_that_cannot_be_announced_are_refused() -> None:
    for window in (65534, 2**31):
        with pytest.raises(ValueError, match="stream_window_bytes"):
            Http2Limits(stream_window_bytes=window)
    with pytest.raises(ValueError, match="concurrent_streams"):
        Http2Limits(concurrent_streams=0)
    assert Http2Limits(stream_window_bytes=2**31 - 1).connection_window_bytes == 2**31 - 1


def test_reprs_tell_what_is_what() -> None:
    events = [
        RequestReceived(1, GET, True),
        ResponseReceived(1, OK, False),
        DataReceived(1, b"12345"),
        StreamEnded(1, TRAILERS),
        StreamReset(1, ErrorCode.CANCEL, by_peer=True),
        StreamWritable(1),
        GoAwayReceived(5, 0, [7]),
        SettingsChanged(),
    ]
    assert all(type(event).__name__ in repr(event) for event in events)
    assert "5 bytes" in repr(events[2])
    assert str(RemoteProtocolError(ErrorCode.CANCEL, "why")) == "CANCEL: why"


def test_a_header_frame_of_hyperframe_is_what_we_write() -> None:
    written = frames.encode_frame(frames.HEADERS, frames.END_HEADERS, 5, b"\x82")
    theirs = HeadersFrame(5, b"\x82", flags=["END_HEADERS"])
    assert written == theirs.serialize()
    assert frames.encode_goaway(7, 11) == GoAwayFrame(0, 7, 11).serialize()
