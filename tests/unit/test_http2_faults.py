"""Frames of a wrong size, in a wrong place or on a wrong stream (RFC 9113 §4, §5.1, §6)."""

from __future__ import annotations

import pytest
from http2_peer import ENGINES, POST, REQUEST, RawPeer, data_frame

from smartproxy.core.http.messages import RequestHead, ResponseHead
from smartproxy.core.wire.http2 import (
    ErrorCode,
    Http2EngineName,
    RequestReceived,
    StreamReset,
    frames,
)

frame = frames.encode_frame
PROTOCOL = ErrorCode.PROTOCOL_ERROR
SIZE = ErrorCode.FRAME_SIZE_ERROR
OK = ResponseHead(200, [])
TRAILERS = [(b"x-sum", b"1")]
GET = RequestHead(b"GET", b"/", b"a.example", [], scheme=b"https")
HUGE_WINDOW = 2**31 - 1


FAULTS: dict[str, tuple[bytes, ErrorCode]] = {
    "frame too large": (frame(frames.DATA, 0, 1, bytes(16385)), SIZE),
    "DATA on the connection": (data_frame(0, b"x"), PROTOCOL),
    "DATA on an idle stream": (data_frame(9, b"x"), PROTOCOL),
    "padding over the payload": (frame(frames.DATA, 8, 1, b"\x05abc"), PROTOCOL),
    "padding without a length": (frame(frames.DATA, 8, 1), PROTOCOL),
    "HEADERS on the connection": (frame(frames.HEADERS, 4, 0), PROTOCOL),
    "HEADERS on a server's stream": (frame(frames.HEADERS, 4, 2), PROTOCOL),
    "HEADERS too short": (frame(frames.HEADERS, 0x24, 3, b"123"), SIZE),
    "trailers that do not end": (frame(frames.HEADERS, 4, 1), PROTOCOL),
    "truncated block": (frame(frames.HEADERS, 4, 3, b"\x40"), ErrorCode.COMPRESSION_ERROR),
    "unknown index": (frame(frames.HEADERS, 4, 3, b"\xfe"), ErrorCode.COMPRESSION_ERROR),
    "lone CONTINUATION": (frame(frames.CONTINUATION, 4, 1), PROTOCOL),
    "interrupted block": (
        frame(frames.HEADERS, 0, 3) + frame(frames.PING, 0, 0, bytes(8)),
        PROTOCOL,
    ),
    "crossed blocks": (
        frame(frames.HEADERS, 0, 3) + frame(frames.CONTINUATION, 4, 5),
        PROTOCOL,
    ),
    "push": (frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), PROTOCOL),
    "RST_STREAM too short": (frame(frames.RST_STREAM, 0, 1, b"x"), SIZE),
    "RST_STREAM on an idle stream": (frames.encode_rst_stream(9, 0), PROTOCOL),
    "SETTINGS on a stream": (frame(frames.SETTINGS, 0, 1), PROTOCOL),
    "SETTINGS of a half": (frame(frames.SETTINGS, 0, 0, b"123"), SIZE),
    "SETTINGS ACK with more": (frame(frames.SETTINGS, 1, 0, bytes(6)), SIZE),
    "PING too long": (frame(frames.PING, 0, 0, bytes(9)), SIZE),
    "PING on a stream": (frame(frames.PING, 0, 1, bytes(8)), PROTOCOL),
    "GOAWAY too short": (frame(frames.GOAWAY, 0, 0, bytes(7)), SIZE),
    "WINDOW_UPDATE too long": (frame(frames.WINDOW_UPDATE, 0, 0, bytes(5)), SIZE),
    "WINDOW_UPDATE of nothing": (frames.encode_window_update(0, 0), PROTOCOL),
    "WINDOW_UPDATE on an idle stream": (frames.encode_window_update(9, 1), PROTOCOL),
    "connection window overflow": (frames.encode_window_update(0, HUGE_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
    "window overflow by SETTINGS": (
        frames.encode_window_update(1, 2**30) + frames.encode_settings({4: HUGE_WINDOW}),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "PRIORITY on the connection": (frame(frames.PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "PRIORITY too short": (frame(frames.PRIORITY, 0, 1, bytes(4)), SIZE),
    "PRIORITY_UPDATE too short": (
        frame(frames.PRIORITY_UPDATE, 0, 0, bytes(3)), SIZE,
    ),
    "PRIORITY_UPDATE on a stream": (
        frame(frames.PRIORITY_UPDATE, 0, 1, bytes(4)), PROTOCOL,
    ),
}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("wire", "code"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_of_framing_end_the_connection(engine: Http2EngineName, wire: bytes, code: ErrorCode) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=False))
    assert peer.feed_expecting_end(wire).error_code == code


@pytest.mark.parametrize("engine", ENGINES)
def test_frames_on_streams_that_have_ended(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, REQUEST) + peer.headers(3, REQUEST) + peer.headers(5, REQUEST))
    for wire in (data_frame(1, b"x"), peer.headers(3, TRAILERS), frames.encode_window_update(5, 0)):
        [reset] = peer.feed(wire)
        assert isinstance(reset, StreamReset)
        assert reset.error_code == (
            ErrorCode.PROTOCOL_ERROR if reset.stream_id == 5 else ErrorCode.STREAM_CLOSED
        )
    peer.feed(peer.headers(7, REQUEST))
    peer.connection.send_response(7, OK, end_stream=True)
    assert peer.feed(data_frame(7, b"x")) == []
    assert peer.feed_expecting_end(peer.headers(7, TRAILERS)).error_code == ErrorCode.STREAM_CLOSED


@pytest.mark.parametrize("engine", ENGINES)
def test_a_skipped_stream_cannot_be_opened_later(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(5, REQUEST))
    assert peer.feed_expecting_end(peer.headers(3, REQUEST)).error_code == ErrorCode.STREAM_CLOSED


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stream_id", [2, 3])
def test_a_server_answers_only_what_was_asked(engine: Http2EngineName, stream_id: int) -> None:
    peer = RawPeer(engine, client=False)
    peer.connection.send_request(GET, end_stream=True)
    error = peer.feed_expecting_end(peer.headers(stream_id, [(b":status", b"200")]))
    assert error.error_code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_sends_no_priority_updates(engine: Http2EngineName) -> None:
    wire = frame(frames.PRIORITY_UPDATE, 0, 0, bytes(4) + b"u=1")
    assert RawPeer(engine, client=False).feed_expecting_end(wire).error_code == ErrorCode.PROTOCOL_ERROR
    assert RawPeer(engine).feed(wire) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_frames_of_unknown_types_are_ignored(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    assert peer.feed(frame(0xA, 0, 0, b"\0\0") + frame(0xEE, 0xFF, 7, b"x")) == []
    assert isinstance(peer.feed(peer.headers(1, REQUEST))[0], RequestReceived)
