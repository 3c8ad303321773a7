"""What only the engine of our own does: its credit, its header tables, its memory of requests."""

from __future__ import annotations

import hpack
import pytest
from http2_peer import POST, REQUEST, RawPeer, data_frame
from hyperframe.frame import HeadersFrame, WindowUpdateFrame

from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http2 import (
    ErrorCode,
    Http2EngineName,
    Http2Limits,
    LocalProtocolError,
    NeverIndexedField,
    RemoteProtocolError,
    RequestReceived,
    RequestRefused,
    StreamEnded,
    StreamReset,
    frames,
)
from smartproxy.core.wire.http2.header_compression import COMPILED_CODER_IS_THERE, HeaderDecoder
from smartproxy.core.wire.http2.native_engine import NativeEngine
from smartproxy.testing.strategies.http2 import REQUEST_BLOCK

NATIVE: tuple[Http2EngineName, ...] = ("native", "native-hpack")
OK = ResponseHead(200, [])
both = pytest.mark.parametrize("engine", NATIVE)


def new_engine(*, client_side: bool = False) -> NativeEngine:
    engine = NativeEngine(client_side=client_side, limits=Http2Limits(), compiled_headers=False)
    engine.initiate({}, 2**20)
    engine.data_to_send()
    return engine


# Windows.


def test_content_out_of_turn_or_over_a_window_is_our_own_fault() -> None:
    engine = new_engine(client_side=True)
    with pytest.raises(LocalProtocolError, match="content out of turn"):
        engine.send_data(1, b"x", False)
    engine.send_headers(1, [], False, interim=False)
    engine.receive_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 5})
    with pytest.raises(LocalProtocolError, match="content out of turn"):
        engine.send_data(1, b"123456", False)
    engine.data_to_send()
    engine.send_data(1, b"12345", True)
    assert engine.data_to_send() == data_frame(1, b"12345", end_stream=True)
    assert (engine.send_window(1), engine.connection_send_window()) == (0, 65530)


def test_windows_may_become_negative_and_recover() -> None:
    engine = new_engine(client_side=True)
    engine.send_headers(1, [], False, interim=False)
    engine.send_data(1, bytes(16384), False)
    engine.receive_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 100})
    assert engine.send_window(1) == 100 - 16384
    engine.send_data(1, b"", False)
    assert engine.receive_window_update(1, 16384)
    assert engine.send_window(1) == 100
    engine.send_headers(3, [], False, interim=False)
    assert engine.send_window(3) == 100


def test_a_window_that_settings_overflow_is_the_connections_end() -> None:
    engine = new_engine(client_side=True)
    engine.send_headers(1, [], False, interim=False)
    assert engine.receive_window_update(1, 1)
    with pytest.raises(RemoteProtocolError) as raised:
        engine.receive_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 2**31 - 1})
    assert raised.value.error_code == ErrorCode.FLOW_CONTROL_ERROR


@both
def test_a_request_that_is_complete_earns_its_stream_no_credit(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, limits=Http2Limits(concurrent_streams=1))
    peer.feed(peer.headers(1, POST, end_stream=False))
    for index in range(4):
        peer.feed(data_frame(1, bytes(16000), end_stream=index == 3))
    for _ in range(4):
        peer.connection.acknowledge_received_data(1, 16000)
    assert peer.take_frames() == []


@both
def test_a_peer_that_waits_for_credit_gets_some_early(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=False))
    for _ in range(4):
        peer.feed(data_frame(1, bytes(16384)))
    peer.connection.acknowledge_received_data(1, 1023)
    assert peer.take_frames() == []
    peer.connection.acknowledge_received_data(1, 1)
    [update] = peer.take_frames()
    assert isinstance(update, WindowUpdateFrame)
    assert (update.stream_id, update.window_increment) == (1, 1024)


# Header compression.


def block_sizes(peer: RawPeer, heads: list[ResponseHead]) -> list[int]:
    sizes = []
    for index, head in enumerate(heads):
        stream_id = 1 + 2 * index
        peer.feed(peer.headers(stream_id, REQUEST))
        peer.connection.send_response(stream_id, head, end_stream=True)
        [frame] = peer.take_frames()
        assert isinstance(frame, HeadersFrame)
        assert peer.decode(frame)[1:] == head.fields
        sizes.append(len(frame.data))
    return sizes


@both
def test_what_is_said_again_becomes_short(engine: Http2EngineName) -> None:
    fields = [(b"server", b"an example of a server"), (b"x-own", b"of some length, too")]
    sizes = block_sizes(RawPeer(engine), [ResponseHead(200, fields)] * 4)
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3] == 3


@both
def test_what_is_never_the_same_does_not_drive_out_what_is(engine: Http2EngineName) -> None:
    lasting = (b"server", b"an example of a server")
    heads = [
        ResponseHead(200, [(b"etag", b"%d" % index * 100), lasting, (b"x-id", b"%d" % index * 50)])
        for index in range(100)
    ]
    sizes = block_sizes(RawPeer(engine), heads)
    literals = [len(b"%d" % index) * 150 for index in range(100)]
    assert all(size - literal < 20 for size, literal in zip(sizes[3:], literals[3:], strict=True))


@both
def test_secrets_are_in_no_table_however_often_they_are_said(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    fields = [(b"authorization", b"Basic secret"), (b"cookie", b"short=1")]
    for index in range(4):
        peer.connection.send_request(
            RequestHead(b"GET", b"/", b"a.example", fields, scheme=b"https"), end_stream=True
        )
        [frame] = peer.take_frames()
        assert isinstance(frame, HeadersFrame)
        read = list(peer.decoder.decode(frame.data, raw=True))
        assert [line.indexable for line in read[-2:]] == [False, False], index
    assert all(b"secret" not in value for _, value in peer.decoder.header_table.dynamic_entries)


@both
def test_a_bomb_of_what_is_remembered_goes_off_as_well(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    large = (b"x", b"a" * 4000)
    peer.feed(frames.encode_frame(frames.HEADERS, 5, 1, peer.encoder.encode([*REQUEST, large])))
    reference = peer.encoder.encode([large])
    for stream_id in (3, 5):
        block = peer.encoder.encode(REQUEST) + reference
        assert isinstance(
            peer.feed(frames.encode_frame(frames.HEADERS, 5, stream_id, block))[0], RequestReceived
        )
    wire = frames.encode_frame(frames.HEADERS, 5, 7, peer.encoder.encode(REQUEST) + reference * 40)
    error = peer.feed_expecting_end(wire)
    assert (error.error_code, error.reason) == (ErrorCode.ENHANCE_YOUR_CALM, "header block too large")


@pytest.mark.parametrize("compiled", [False, COMPILED_CODER_IS_THERE])
def test_a_literal_named_by_the_table_means_something_else_once_that_has_changed(compiled: bool) -> None:
    decoder = HeaderDecoder(Http2Limits(), compiled=compiled)
    first, second = b"\x40\x01a\x010", b"\x40\x01b\x010"
    newest_name = b"\x0f\x2f\x011"
    for block, name in (
        (first, b"a"),
        (b"", b"a"),
        (second, b"b"),
        (b"", b"b"),
        (b"\x20\x3f\xe1\x1f" + first, b"a"),
    ):
        assert decoder.decode(block + newest_name)[-1] == (name, b"1")
        assert decoder.decode(newest_name + b"\xbe") == [(name, b"1"), (name, b"0")]


@both
def test_a_table_of_nothing_is_announced_before_anything_else(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    fields = [(b"x-own", b"value")]
    assert block_sizes(peer, [ResponseHead(200, fields)] * 3)[-1] == 2
    peer.feed(frames.encode_settings({frames.SETTING_HEADER_TABLE_SIZE: 0}))
    peer.take_frames()
    peer.decoder.max_allowed_table_size = 0
    peer.feed(peer.headers(7, REQUEST))
    peer.connection.send_response(7, OK, end_stream=False)
    peer.connection.send_trailers(7, fields)
    head, trailers = peer.take_frames()
    assert head.data == b"\x20\x88"  # type: ignore[attr-defined]  # HeadersFrame
    assert peer.decode(head) == [(b":status", b"200")]
    assert peer.decode(trailers) == fields


# The memory of requests.


def target(lines: Fields, value: bytes) -> Fields:
    return [(name, value if name == b":path" else old) for name, old in lines]


@both
def test_a_path_is_looked_at_however_well_the_rest_is_known(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, limits=Http2Limits(target_bytes=100))
    lines = [*REQUEST, (b"accept", b"*/*")]
    for stream_id, path in ((1, b"/"), (3, b"/other"), (5, b"/" + b"a" * 99)):
        [request] = peer.feed(peer.headers(stream_id, target(lines, path)))
        assert isinstance(request, RequestReceived)
        assert (request.head.target, request.head.fields) == (path, [(b"accept", b"*/*")])
    [refused] = peer.feed(peer.headers(7, target(lines, b"/" + b"a" * 100)))
    assert isinstance(refused, RequestRefused)
    assert refused.status == 414
    for stream_id, path in ((9, b"/a b"), (11, b"*"), (13, b""), (15, b"http://a.example/"), (17, b"/\x00")):
        [reset] = peer.feed(peer.headers(stream_id, target(lines, path)))
        assert isinstance(reset, StreamReset), path


@both
def test_what_is_done_to_a_head_is_not_done_to_the_next(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    for stream_id in (1, 3, 5):
        [request] = peer.feed(peer.headers(stream_id, [*REQUEST, (b"accept", b"*/*")]))
        assert isinstance(request, RequestReceived)
        head = request.head
        assert (head.target, head.authority, head.fields) == (b"/", b"a.example", [(b"accept", b"*/*")])
        head.target = head.authority = b"changed"
        head.fields = []


@both
def test_a_known_request_may_have_content_or_none(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    lines = [*POST, (b"content-length", b"2")]
    for stream_id in (1, 3):
        [request] = peer.feed(peer.headers(stream_id, lines, end_stream=False))
        assert isinstance(request, RequestReceived)
        assert request.head.body_length_bytes == 2
        assert isinstance(peer.feed(data_frame(stream_id, b"ab", end_stream=True))[-1], StreamEnded)
    [reset] = peer.feed(peer.headers(5, lines, end_stream=True))
    assert isinstance(reset, StreamReset)
    assert reset.reason == "Content-Length differs from the content"


@both
def test_a_known_request_with_a_secret_in_it_is_another_one(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    kinds = []
    for index, never_indexed in enumerate((False, True, True, False)):
        pattern = b"\x10" if never_indexed else b"\x00"
        block = REQUEST_BLOCK + pattern + b"\x05x-key\x05value"
        [request] = peer.feed(frames.encode_frame(frames.HEADERS, 5, 1 + 2 * index, block))
        assert isinstance(request, RequestReceived)
        kinds.append(isinstance(request.head.fields[0], NeverIndexedField))
    assert kinds == [False, True, True, False]


# Frames.


@both
def test_a_request_larger_than_a_frame_is_continued(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    fields = [(b"x%d" % index, b"v" * 2000) for index in range(20)]
    peer.connection.send_request(
        RequestHead(b"GET", b"/", b"a.example", fields, scheme=b"https"), end_stream=True
    )
    data = peer.connection.data_to_send()
    headers, block, position = [], b"", 0
    while position < len(data):
        high, low, frame_type, flags, _ = frames.FRAME_HEADER.unpack_from(data, position)
        position += frames.FRAME_HEADER_BYTES
        payload = data[position : position + (high << 8 | low)]
        position += len(payload)
        headers.append((frame_type, flags))
        block += payload
    assert headers == [
        (frames.HEADERS, frames.END_STREAM),
        (frames.CONTINUATION, 0),
        (frames.CONTINUATION, frames.END_HEADERS),
    ]
    assert len(list(hpack.Decoder(10**6).decode(block, raw=True))) == 24
