"""HTTP/3 peers with bad manners: the right code, bounded memory, and everyone else goes on."""

from __future__ import annotations

import pylsqpack
import pytest

from smartproxy.core.wire.http3 import (
    ErrorCode,
    Http3Event,
    Http3Limits,
    RequestReceived,
    RequestRefused,
    StreamReset,
    frames,
)
from smartproxy.core.wire.http3.qpack import count_field_lines
from smartproxy.testing.http3_frames import (
    DECODER_ID,
    ENCODER_ID,
    ByHand,
    data_frame,
    headers_frame,
    request_fields,
)


def names(events: list[Http3Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def open_request(server: ByHand, stream_id: int = 0, *, end: bool = False) -> list[Http3Event]:
    return server.stream(stream_id, headers_frame(request_fields(), stream_id), end=end)


def test_rapid_reset_ends_the_connection() -> None:
    server = ByHand(Http3Limits(resets=20))
    for number in range(21):
        assert server.quic.closed is None
        open_request(server, number * 4)
        server.handler.stream_reset_received(number * 4, ErrorCode.H3_REQUEST_CANCELLED)
    assert server.quic.closed == ErrorCode.H3_EXCESSIVE_LOAD
    assert not server.state.streams


def test_streams_reset_before_their_first_byte_are_counted() -> None:
    server = ByHand(Http3Limits(resets=20))
    for number in range(21):
        server.handler.stream_reset_received(number * 4, ErrorCode.H3_REQUEST_CANCELLED)
    assert server.quic.closed == ErrorCode.H3_EXCESSIVE_LOAD


def test_resets_provoked_in_us_are_counted() -> None:
    server = ByHand(Http3Limits(resets=20))
    broken = headers_frame([(b":method", b"GET")])
    for number in range(21):
        assert server.quic.closed is None
        server.stream(number * 4, broken)
    assert server.quic.closed == ErrorCode.H3_EXCESSIVE_LOAD


def test_completed_exchanges_pay_for_resets() -> None:
    server = ByHand(Http3Limits(resets=5))
    for number in range(100):
        stream_id = number * 8
        open_request(server, stream_id, end=True)
        server.state.end_sending(server.state.streams[stream_id])
        open_request(server, stream_id + 4)
        server.handler.stream_reset_received(stream_id + 4, ErrorCode.H3_REQUEST_CANCELLED)
    assert server.quic.closed is None


def test_a_later_window_counts_anew() -> None:
    server = ByHand(Http3Limits(resets=5, window_s=10))
    for number in range(50):
        server.state.counters.advance(number * 3.0)
        open_request(server, number * 4)
        server.handler.stream_reset_received(number * 4, ErrorCode.H3_REQUEST_CANCELLED)
    assert server.quic.closed is None


def test_empty_data_frames_are_counted() -> None:
    server = ByHand(Http3Limits(empty_data=50))
    open_request(server)
    assert server.stream(0, data_frame(b"") * 50) == []
    assert server.quic.closed is None
    server.stream(0, data_frame(b""))
    assert server.quic.closed == ErrorCode.H3_EXCESSIVE_LOAD


def test_an_empty_data_frame_that_ends_its_stream_is_free() -> None:
    server = ByHand(Http3Limits(empty_data=2))
    for number in range(5):
        open_request(server, 4 * number)
        assert "StreamEnded" in names(server.stream(4 * number, data_frame(b""), end=True))
    assert server.quic.closed is None


def test_unknown_frames_are_skipped_unheld_and_counted() -> None:
    server = ByHand(Http3Limits(ignored_frames=50))
    open_request(server)
    server.stream(0, frames.encode_varint(0x21) + frames.encode_varint(1 << 40))
    for _ in range(100):
        server.stream(0, bytes(1000))
    assert server.state.streams[0].held == b""
    assert server.quic.consumed[0] > 100_000
    server.stream(4, frames.encode_frame(0x21, b"") * 60)
    assert server.quic.closed == ErrorCode.H3_EXCESSIVE_LOAD


def test_tiny_data_frames_make_one_event() -> None:
    server = ByHand()
    open_request(server)
    events = server.stream(0, data_frame(b"x") * 400)
    assert names(events) == ["DataReceived"]


def test_a_section_too_long_is_refused_without_being_held() -> None:
    server = ByHand(Http3Limits(header_bytes=1000))
    start = frames.encode_varint(frames.HEADERS) + frames.encode_varint(1 << 30)
    [refused] = server.stream(0, start)
    assert isinstance(refused, RequestRefused)
    assert refused.status == 431
    for _ in range(1000):
        assert server.stream(0, bytes(1000)) == []
    assert server.state.streams[0].held == b""
    assert server.quic.consumed[0] == 1_000_000 + len(start)


@pytest.mark.parametrize("cookie_bytes", [50, 4000])
def test_a_qpack_bomb_is_refused_before_it_is_decoded(cookie_bytes: int) -> None:
    """One large table entry, referred to ten thousand times."""
    server = ByHand()
    encoder = pylsqpack.Encoder()
    instructions = encoder.apply_settings(4096, 16)
    server.unidirectional(ENCODER_ID, frames.QPACK_ENCODER_STREAM, instructions)
    bomb = [(b"x-bomb", b"b" * cookie_bytes)]
    for attempt in range(3):
        more, _ = encoder.encode(400 + attempt * 4, bomb)
        server.unidirectional(ENCODER_ID, frames.QPACK_ENCODER_STREAM, more)
    # Required Insert Count 1, Base 1, then entry 0 again and again (RFC 9204 §4.5.1, §4.5.2).
    section = b"\x02\x00" + b"\x80" * 10_000
    assert count_field_lines(section, 512) == 513
    [refused] = server.stream(0, frames.encode_frame(frames.HEADERS, section))
    assert isinstance(refused, RequestRefused)
    assert refused.status == 431
    assert server.quic.closed is None
    assert names(open_request(server, 4)) == ["RequestReceived"]


def test_blocked_streams_hold_no_more_than_their_window_and_are_timed_out() -> None:
    limits = Http3Limits(blocked_streams=2, head_timeout_s=5)
    server = ByHand(limits)
    # A reference to an entry that never comes.
    blocked = frames.encode_frame(frames.HEADERS, b"\x02\x00\x80")
    for stream_id in (0, 4):
        assert server.stream(stream_id, blocked + data_frame(bytes(5000))) == []
        assert server.state.streams[stream_id].is_blocked
        # Nothing of what waits is credited: the peer's window bounds it.
        assert server.quic.consumed[stream_id] == len(blocked)
    server.state.now = 6.0
    for stream in list(server.state.overdue_heads()):
        server.state.abort_and_report(stream, ErrorCode.H3_REQUEST_INCOMPLETE, "late")
    assert names(server.events()) == ["StreamReset", "StreamReset"]
    assert server.quic.resets == {0: ErrorCode.H3_REQUEST_INCOMPLETE, 4: ErrorCode.H3_REQUEST_INCOMPLETE}
    # All of it is credited in the end.
    assert server.quic.consumed[0] == len(blocked) + len(data_frame(bytes(5000)))


def test_too_many_blocked_streams_end_the_connection() -> None:
    server = ByHand(Http3Limits(blocked_streams=2))
    blocked = frames.encode_frame(frames.HEADERS, b"\x02\x00\x80")
    for stream_id in (0, 4, 8):
        server.stream(stream_id, blocked)
    assert server.quic.closed == ErrorCode.QPACK_DECOMPRESSION_FAILED


def test_a_blocked_request_goes_on_when_its_entries_come() -> None:
    server = ByHand()
    encoder = pylsqpack.Encoder()
    instructions = encoder.apply_settings(4096, 16)
    fields = request_fields((b"x-custom", b"value"))
    inserts = b""
    for stream_id in (0, 4):
        more, section = encoder.encode(stream_id, fields)
        inserts += more
        events = server.stream(
            stream_id, frames.encode_frame(frames.HEADERS, section) + data_frame(b"abc"), end=True
        )
    assert server.state.streams[4].is_blocked
    assert events == []
    events = server.unidirectional(ENCODER_ID, frames.QPACK_ENCODER_STREAM, instructions + inserts)
    requests = [event for event in events if isinstance(event, RequestReceived)]
    assert requests
    assert all((b"x-custom", b"value") in request.head.fields for request in requests)
    assert names(events)[-2:] == ["DataReceived", "StreamEnded"]


@pytest.mark.parametrize(
    ("stream", "data", "code"),
    [
        ("control", frames.encode_frame(frames.GOAWAY, b"\x00"), ErrorCode.H3_MISSING_SETTINGS),
        ("control", frames.encode_settings({}) * 2, ErrorCode.H3_FRAME_UNEXPECTED),
        ("control", frames.encode_settings({0x2: 1}), ErrorCode.H3_SETTINGS_ERROR),
        ("control", frames.encode_settings({0x8: 2}), ErrorCode.H3_SETTINGS_ERROR),
        ("control", b"\x04\x04\x06\x01\x06\x01", ErrorCode.H3_SETTINGS_ERROR),
        ("control", b"\x04\x01\x40", ErrorCode.H3_FRAME_ERROR),
        ("control", b"\x04" + frames.encode_varint(1 << 20), ErrorCode.H3_EXCESSIVE_LOAD),
        ("control", frames.encode_settings({}) + data_frame(b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
        ("control", frames.encode_settings({}) + b"\x06\x00", ErrorCode.H3_FRAME_UNEXPECTED),
        ("control", frames.encode_settings({}) + b"\x07\x02\x00\x00", ErrorCode.H3_FRAME_ERROR),
        ("control", frames.encode_settings({}) + b"\x07\x01\x04\x07\x01\x08", ErrorCode.H3_ID_ERROR),
        ("encoder", b"\x80\xff\xff\xff\xff\xff\xff\xff\xff", ErrorCode.QPACK_ENCODER_STREAM_ERROR),
        ("decoder", b"\x05", ErrorCode.QPACK_DECODER_STREAM_ERROR),
        ("push", b"\x00", ErrorCode.H3_STREAM_CREATION_ERROR),
        ("request", data_frame(b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
        ("request", b"\x04\x00", ErrorCode.H3_FRAME_UNEXPECTED),
        ("request", b"\x05\x01\x00", ErrorCode.H3_FRAME_UNEXPECTED),
        ("request", b"\x09\x00", ErrorCode.H3_FRAME_UNEXPECTED),
        ("request", b"\x01\x03\xff\xff\xff", ErrorCode.QPACK_DECOMPRESSION_FAILED),
    ],
)
def test_what_breaks_the_connection(stream: str, data: bytes, code: int) -> None:
    server = ByHand()
    if stream == "control":
        server.control(data)
    elif stream == "encoder":
        server.unidirectional(ENCODER_ID, frames.QPACK_ENCODER_STREAM, data)
    elif stream == "decoder":
        server.unidirectional(DECODER_ID, frames.QPACK_DECODER_STREAM, data)
    elif stream == "push":
        server.unidirectional(14, frames.PUSH_STREAM, data)
    else:
        server.stream(0, data)
    assert server.quic.closed == code
    # Nothing happens any more.
    assert open_request(server, 8) == []


def test_critical_streams_are_opened_once_and_stay() -> None:
    for act in ("twice", "end", "reset", "stop"):
        server = ByHand()
        server.settings()
        if act == "twice":
            server.unidirectional(14, frames.CONTROL_STREAM, b"")
        elif act == "end":
            server.control(b"", end=True)
        elif act == "reset":
            server.handler.stream_reset_received(2, 0)
        else:
            server.handler.sending_stopped(3, 0)
        expected = (
            ErrorCode.H3_STREAM_CREATION_ERROR if act == "twice" else ErrorCode.H3_CLOSED_CRITICAL_STREAM
        )
        assert server.quic.closed == expected, act


def test_unknown_unidirectional_streams_are_stopped_and_forgotten() -> None:
    server = ByHand()
    server.unidirectional(14, 0x21, b"grease")
    assert server.quic.stops == {14: ErrorCode.H3_STREAM_CREATION_ERROR}
    assert server.quic.consumed[14] == 7
    server.handler.stream_reset_received(14, 0)
    assert server.quic.closed is None


def test_a_frame_cut_short_breaks_the_connection() -> None:
    server = ByHand()
    open_request(server)
    server.stream(0, data_frame(b"abcdef")[:-2], end=True)
    assert server.quic.closed == ErrorCode.H3_FRAME_ERROR


def test_content_length_is_held_to() -> None:
    for content, expected in ((b"abc", None), (b"ab", 0x10E), (b"abcd", 0x10E)):
        server = ByHand()
        server.stream(0, headers_frame(request_fields((b"content-length", b"3"), method=b"POST")))
        events = server.stream(0, data_frame(content), end=True)
        reset = [event for event in events if isinstance(event, StreamReset)]
        assert [event.error_code for event in reset] == ([] if expected is None else [expected])
        assert server.quic.closed is None


def test_more_streams_than_allowed_are_rejected() -> None:
    server = ByHand(Http3Limits(concurrent_streams=2))
    for stream_id in (0, 4, 8):
        open_request(server, stream_id)
    assert server.quic.resets == {8: ErrorCode.H3_REQUEST_REJECTED}
    assert set(server.state.streams) == {0, 4}


def test_a_server_that_pushes_is_turned_away() -> None:
    client = ByHand(client_side=True)
    client.unidirectional(14, frames.PUSH_STREAM, b"\x00")
    assert client.quic.closed == ErrorCode.H3_ID_ERROR
