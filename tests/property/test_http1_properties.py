"""The HTTP/1.1 codec: no cut changes a meaning, what is encoded is decoded, nothing else is ever raised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.http.messages import UNKNOWN_LENGTH, EndOfMessage, Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http1 import (
    Http1Limits,
    LocalProtocolError,
    RemoteProtocolError,
    RequestDecoder,
    ResponseDecoder,
    encode_chunk,
    encode_last_chunk,
    encode_request_head,
    encode_response_head,
)
from smartproxy.testing.strategies.http1 import (
    HOSTILE_FRAGMENTS,
    RequestExample,
    ResponseExample,
    authorities,
    bodies,
    field_values,
    fields,
    lower_names,
    methods,
    mutations,
    origin_form_targets,
    requests,
    responses,
    tokens,
    trailer_fields,
)
from smartproxy.testing.strategies.segmentation import cut, segmentations

Happening = tuple[object, ...]

SMALL_LIMITS = Http1Limits(
    header_bytes=120, header_count=4, target_bytes=24, chunk_line_bytes=24, chunk_overhead_bytes=32
)
limits_of_all_sizes = st.sampled_from((Http1Limits(), SMALL_LIMITS))


def attributes(head: RequestHead | ResponseHead) -> Happening:
    return tuple((name, getattr(head, name)) for name in type(head).__slots__)


def as_attributes(happening: Happening) -> dict[str, object]:
    pairs: Iterable[tuple[str, object]] = cast("Iterable[tuple[str, object]]", happening)
    return dict(pairs)


def watch(
    decoder: RequestDecoder | ResponseDecoder, segments: list[bytes], limits: Http1Limits, method: bytes = b""
) -> list[Happening]:
    """Everything that a decoder says of the segments and the end after them, adjacent content joined."""
    happenings: list[Happening] = []
    content = b""
    held_bytes = max(limits.header_bytes, limits.chunk_line_bytes)
    if isinstance(decoder, ResponseDecoder):
        decoder.expect_response_to(method)
    try:
        for segment in [*segments, None]:
            if segment is None:
                decoder.receive_eof()
            else:
                decoder.receive_data(segment)
            while (event := decoder.next_event()) is not None:
                if isinstance(event, bytes):
                    assert event
                    content += event
                    continue
                if content:
                    happenings.append((content,))
                    content = b""
                if isinstance(event, EndOfMessage):
                    happenings.append(("end", event.trailers))
                    decoder.start_next_message()
                    if isinstance(decoder, ResponseDecoder):
                        decoder.expect_response_to(method)
                else:
                    happenings.append(attributes(event))
            if decoder.remaining_body_bytes or decoder.has_partial_message:
                assert decoder.buffered_bytes < held_bytes
    except RemoteProtocolError as error:
        assert decoder.buffered_bytes == 0
        if content:
            happenings.append((content,))
        happenings.append((type(error), error.status))
        with pytest.raises(RemoteProtocolError):
            decoder.next_event()
        return happenings
    if content:
        happenings.append((content,))
    happenings.append(("left", decoder.take_buffered()))
    return happenings


def expected_request(example: RequestExample) -> list[Happening]:
    content = [(example.body,)] if example.body else []
    return [*content, ("end", example.trailers)]


@given(st.lists(requests(), min_size=1, max_size=3), st.data())
def test_well_formed_requests_are_read_in_any_segmentation(
    examples: list[RequestExample], data: st.DataObject
) -> None:
    segments = data.draw(segmentations(b"".join(example.wire for example in examples)))
    happenings = watch(RequestDecoder(), segments, Http1Limits())
    for example in examples:
        head = as_attributes(happenings.pop(0))
        assert head["method"] == example.method
        assert head["scheme"] == example.scheme
        assert head["authority"] == (example.authority if example.version == 11 else head["authority"])
        assert head["target"] == example.target
        assert head["version"] == example.version
        assert head["fields"] == example.fields
        assert head["keep_alive"] == (example.version == 11)
        for happening in expected_request(example):
            assert happenings.pop(0) == happening
    assert happenings == [("left", b"")]


@given(responses(), st.data())
def test_well_formed_responses_are_read_in_any_segmentation(
    example: ResponseExample, data: st.DataObject
) -> None:
    segments = data.draw(segmentations(example.wire))
    happenings = watch_one_response(segments, example.request_method)
    head = as_attributes(happenings.pop(0))
    assert head["status"] == example.status
    assert head["reason"] == example.reason
    assert head["version"] == example.version
    assert head["fields"] == example.fields
    assert head["keep_alive"] == (example.version == 11 and not example.ends_with_connection)
    if example.ends_with_connection:
        assert head["body_length_bytes"] == UNKNOWN_LENGTH
    assert happenings == [*([(example.body,)] if example.body else []), ("end", example.trailers)]


def watch_one_response(segments: list[bytes], method: bytes) -> list[Happening]:
    happenings = watch(ResponseDecoder(), segments, Http1Limits(), method)
    # The next response was expected already when the connection ended.
    assert happenings.pop() == (RemoteProtocolError, 502)
    return happenings


def hostile_streams(wires: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(
        wires,
        wires.flatmap(mutations),
        st.lists(wires.flatmap(mutations), max_size=3).map(b"".join),
        st.lists(st.one_of(st.sampled_from(HOSTILE_FRAGMENTS), st.binary(max_size=8))).map(b"".join),
        st.binary(max_size=200),
    )


@given(hostile_streams(requests().map(lambda example: example.wire)), limits_of_all_sizes, st.data())
def test_no_segmentation_changes_what_is_said_of_a_request(
    stream: bytes, limits: Http1Limits, data: st.DataObject
) -> None:
    at_once = watch(RequestDecoder(limits), [stream] if stream else [], limits)
    assert watch(RequestDecoder(limits), data.draw(segmentations(stream)), limits) == at_once
    assert watch(RequestDecoder(limits), cut(stream, list(range(len(stream)))), limits) == at_once


@given(
    hostile_streams(responses().map(lambda example: example.wire)),
    st.sampled_from((b"GET", b"HEAD", b"CONNECT")),
    limits_of_all_sizes,
    st.data(),
)
def test_no_segmentation_changes_what_is_said_of_a_response(
    stream: bytes, method: bytes, limits: Http1Limits, data: st.DataObject
) -> None:
    at_once = watch(ResponseDecoder(limits), [stream] if stream else [], limits, method)
    assert watch(ResponseDecoder(limits), data.draw(segmentations(stream)), limits, method) == at_once
    assert watch(ResponseDecoder(limits), cut(stream, list(range(len(stream)))), limits, method) == at_once


@given(requests(), st.data())
def test_a_reader_that_lags_reads_the_same(example: RequestExample, data: st.DataObject) -> None:
    stream = example.wire * 2
    prompt = watch(RequestDecoder(), [stream], Http1Limits())
    lagging = RequestDecoder()
    for segment in data.draw(segmentations(stream)):
        lagging.receive_data(segment)
        assert lagging.buffered_bytes <= len(stream)
    assert watch(lagging, [], Http1Limits()) == prompt


@given(methods(), origin_form_targets(), authorities(), fields(), st.binary(max_size=40))
def test_an_encoded_request_is_read_back(
    method: bytes, target: bytes, authority: bytes, lines: Fields, body: bytes
) -> None:
    sent = [*lower_names(lines), (b"content-length", b"%d" % len(body))]
    decoder = RequestDecoder()
    decoder.receive_data(encode_request_head(RequestHead(method, target, authority, sent)) + body)
    head = decoder.next_event()
    assert isinstance(head, RequestHead)
    assert (head.method, head.target, head.authority, head.fields) == (method, target, authority, sent)
    assert head.body_length_bytes == len(body)
    assert encode_request_head(head) == encode_request_head(RequestHead(method, target, authority, sent))


@given(st.integers(200, 999), field_values().filter(bool), fields())
def test_an_encoded_response_is_read_back(status: int, reason: bytes, lines: Fields) -> None:
    sent = lower_names(lines)
    decoder = ResponseDecoder()
    decoder.expect_response_to(b"GET")
    decoder.receive_data(encode_response_head(ResponseHead(status, sent, reason=reason)))
    head = decoder.next_event()
    assert isinstance(head, ResponseHead)
    assert (head.status, head.reason, head.fields) == (status, reason, sent)


@given(st.lists(bodies(), max_size=5), trailer_fields(), st.data())
def test_encoded_chunks_are_read_back(pieces: list[bytes], trailers: Fields, data: st.DataObject) -> None:
    wire = b"".join(map(encode_chunk, pieces)) + encode_last_chunk(lower_names(trailers))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    happenings = watch(RequestDecoder(), [head, *data.draw(segmentations(wire))], Http1Limits())
    body = b"".join(pieces)
    content = [(body,)] if body else []
    assert happenings[1:] == [*content, ("end", lower_names(trailers)), ("left", b"")]


anything = st.one_of(st.binary(max_size=12), st.sampled_from(HOSTILE_FRAGMENTS), tokens(6))


@given(
    anything, anything, st.one_of(st.just(b"a.example"), anything), st.lists(st.tuples(anything, anything))
)
def test_no_value_breaks_out_of_its_line_in_a_request(
    method: bytes, target: bytes, authority: bytes, lines: Fields
) -> None:
    head = RequestHead(method, target, authority, lines)
    try:
        wire = encode_request_head(head)
    except LocalProtocolError:
        return
    assert wire.count(b"\n") == wire.count(b"\r\n") == wire.count(b"\r") == len(lines) + 3
    assert b"\0" not in wire
    names = [line.partition(b":")[0] for line in wire.split(b"\r\n")[2:-2]]
    assert names == [name for name, _ in lines]


@given(st.integers(), anything, st.lists(st.tuples(anything, anything)))
def test_no_value_breaks_out_of_its_line_in_a_response(status: int, reason: bytes, lines: Fields) -> None:
    try:
        wire = encode_response_head(ResponseHead(status, lines, reason=reason))
    except LocalProtocolError:
        return
    assert wire.count(b"\n") == wire.count(b"\r\n") == wire.count(b"\r") == len(lines) + 2
    assert b"\0" not in wire


@given(st.integers(0, 300), st.lists(st.integers(1, 80), max_size=6), st.booleans())
def test_a_relay_may_move_content_past_the_decoder(length: int, steps: list[int], until_close: bool) -> None:
    decoder = ResponseDecoder()
    decoder.expect_response_to(b"GET")
    framing = b"" if until_close else b"Content-Length: %d\r\n" % length
    decoder.receive_data(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
    assert isinstance(decoder.next_event(), ResponseHead)
    left = length
    for step in steps:
        if until_close:
            decoder.skip_body(step)
            assert decoder.remaining_body_bytes == -1
        elif step > left or left == 0:
            with pytest.raises(LocalProtocolError):
                decoder.skip_body(step)
        else:
            decoder.skip_body(step)
            left -= step
            assert decoder.remaining_body_bytes == left
    if until_close:
        decoder.receive_eof()
    elif left:
        decoder.receive_data(b"x" * left)
        assert decoder.next_event() == b"x" * left
    assert isinstance(decoder.next_event(), EndOfMessage)
    assert decoder.remaining_body_bytes == 0
