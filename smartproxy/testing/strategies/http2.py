"""Strategies over HTTP/2 (RFC 9113): exchanges as programmes for both ends, and frames of every kind."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http2 import frames
from smartproxy.testing.strategies.http1 import (
    authorities,
    bodies,
    field_values,
    methods,
    origin_form_targets,
)

_GOVERNING_NAMES = frozenset(
    b"""
    host content-length transfer-encoding connection keep-alive proxy-connection upgrade te expect cookie
    """.split()
)
_NAME_CHARACTERS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_BODYLESS_STATUSES = (204, 304)

REQUEST_BLOCK = b"\x82\x87\x84\x41\x01a"
"""An HPACK block that stands alone: GET https://a/, changing a table by one entry."""
RESPONSE_BLOCK = b"\x88"
"""An HPACK block that stands alone: 200."""


@dataclass(slots=True)
class ExchangeExample:
    """One request and its response, and in which pieces their contents are sent."""

    method: bytes
    target: bytes
    authority: bytes
    request_fields: Fields
    request_chunks: list[bytes]
    """None of them empty; no chunk: the head ends the request."""
    status: int
    response_fields: Fields
    response_chunks: list[bytes]
    request_trailers: Fields = field(default_factory=list)
    """Only where there are chunks, as for the response."""
    response_trailers: Fields = field(default_factory=list)
    interim_statuses: list[int] = field(default_factory=list)


def field_lines(max_size: int = 6) -> st.SearchStrategy[Fields]:
    """Field lines that govern nothing, names lower case."""
    usual = st.sampled_from((b"accept", b"authorization", b"x-request-id", b"set-cookie", b"priority"))
    any_name = st.text(_NAME_CHARACTERS, min_size=1, max_size=12).map(str.encode)
    names = st.one_of(usual, any_name).filter(lambda name: name not in _GOVERNING_NAMES)
    return st.lists(st.tuples(names, field_values()), max_size=max_size)


def trailer_lines() -> st.SearchStrategy[Fields]:
    """Trailer fields that may travel."""
    return st.lists(st.tuples(st.sampled_from((b"grpc-status", b"x-checksum")), field_values()), max_size=2)


def chunk_lists(max_chunk_bytes: int = 70_000) -> st.SearchStrategy[list[bytes]]:
    """Content in pieces, small ones and some larger than a frame or a window."""
    sizes = st.one_of(st.integers(1, 40), st.integers(1, max_chunk_bytes))
    large = st.builds(lambda size, byte: bytes([byte]) * size, sizes, st.integers(0, 255))
    return st.lists(st.one_of(bodies().filter(bool), large), max_size=4)


@st.composite
def exchanges(draw: st.DrawFn) -> ExchangeExample:
    """An exchange that both ends can go through."""
    method = draw(methods())
    status = draw(st.sampled_from((200, 200, 206, 404, 500, *_BODYLESS_STATUSES)))
    has_content = method != b"HEAD" and status not in _BODYLESS_STATUSES
    request_chunks = draw(chunk_lists())
    response_chunks = draw(chunk_lists()) if has_content else []
    return ExchangeExample(
        method=method,
        target=draw(origin_form_targets()),
        authority=draw(authorities()),
        request_fields=draw(field_lines()),
        request_chunks=request_chunks,
        status=status,
        response_fields=draw(field_lines()),
        response_chunks=response_chunks,
        request_trailers=draw(trailer_lines()) if request_chunks else [],
        response_trailers=draw(trailer_lines()) if response_chunks else [],
        interim_statuses=draw(st.lists(st.sampled_from((100, 103)), max_size=2)),
    )


def _payloads() -> st.SearchStrategy[bytes]:
    words = st.sampled_from((0, 1, 2, 5, 65535, 2**31 - 1, 2**31, 2**32 - 1)).map(
        lambda word: word.to_bytes(4, "big")
    )
    setting = st.tuples(st.integers(0, 10), words).map(lambda pair: pair[0].to_bytes(2, "big") + pair[1])
    return st.one_of(
        st.sampled_from(
            (b"", REQUEST_BLOCK, RESPONSE_BLOCK, b"\x00" * 5 + REQUEST_BLOCK, b"\x02" + b"ab" * 3)
        ),
        words,
        st.lists(words, min_size=2, max_size=2).map(b"".join),
        st.lists(setting, max_size=3).map(b"".join),
        st.binary(max_size=40),
        st.integers(0, 20_000).map(bytes),
    )


def plausible_frames() -> st.SearchStrategy[bytes]:
    """A frame with nothing wrong in itself, on one of the first streams of a client."""
    stream_ids = st.sampled_from((1, 1, 1, 3, 3, 5, 7))
    blocks = st.sampled_from(
        (REQUEST_BLOCK, REQUEST_BLOCK, RESPONSE_BLOCK, b"\x08\x03103", b"\x84", REQUEST_BLOCK + b"\x5c\x015")
    )
    words = st.sampled_from((1, 100, 65535, 2**31 - 1)).map(lambda word: word.to_bytes(4, "big"))
    flags = st.sampled_from((0, frames.END_STREAM))

    def of(frame_type: int, flags: object, payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        bits = flags if isinstance(flags, st.SearchStrategy) else st.just(flags)
        return st.builds(frames.encode_frame, st.just(frame_type), bits, stream_ids, payload)

    def of_connection(frame_type: int, payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        return st.builds(frames.encode_frame, st.just(frame_type), flags, st.just(0), payload)

    settings = st.dictionaries(st.sampled_from((1, 3, 4, 8)), st.sampled_from((0, 1)), max_size=3).map(
        lambda values: frames.encode_settings(values)[frames.FRAME_HEADER_BYTES :]
    )
    return st.one_of(
        of(frames.HEADERS, flags.map(lambda bits: bits | frames.END_HEADERS), blocks),
        of(frames.HEADERS, flags, blocks.map(lambda block: block[:1])),
        of(
            frames.CONTINUATION, st.sampled_from((0, frames.END_HEADERS)), blocks.map(lambda block: block[1:])
        ),
        of(frames.DATA, flags, st.sampled_from((b"", b"hello", b"x" * 1000))),
        of(frames.RST_STREAM, 0, words),
        of(frames.WINDOW_UPDATE, 0, words),
        of(frames.PRIORITY, 0, st.just(bytes(5))),
        of_connection(frames.WINDOW_UPDATE, words),
        of_connection(frames.PING, st.sampled_from((bytes(8), b"liveness", b"draining"))),
        of_connection(frames.SETTINGS, st.one_of(st.just(b""), settings)),
        of_connection(frames.GOAWAY, st.lists(words, min_size=2, max_size=2).map(b"".join)),
        of_connection(frames.PRIORITY_UPDATE, words),
    )


def wild_frames() -> st.SearchStrategy[bytes]:
    """A frame of any type with any flags, on a stream that may exist; most are in some way wrong."""
    return st.builds(
        frames.encode_frame,
        st.integers(0, 17),
        st.one_of(st.sampled_from((0, 1, 4, 5)), st.integers(0, 255)),
        st.one_of(st.integers(0, 8), st.integers(0, 2**31 - 1)),
        _payloads(),
    )


@st.composite
def damaged_frame_sequences(draw: st.DrawFn) -> bytes:
    """Frames in which a few bytes were changed, lost, repeated or put in."""
    wire = bytearray(draw(frame_sequences()))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(wire)))
        end = min(start + draw(st.integers(0, 3)), len(wire))
        wire[start:end] = draw(
            st.one_of(st.binary(max_size=3), st.just(bytes(wire[start : start + 20])), st.just(b""))
        )
    return bytes(wire)


def representations() -> st.SearchStrategy[bytes]:
    """One HPACK representation of any kind (RFC 7541 §6), with luck of an index that there is."""
    strings = st.sampled_from(
        (b"\x00", b"\x01a", b"\x02xy", b"\x81\x1f", b"\x0512345", b"\x7f\x0a" + b"v" * 137)
    )
    names = st.sampled_from((b"\x01n", b"\x03x-a", b"\x82\xf3\xa3"))
    indexed = st.one_of(st.integers(0x81, 0xC3), st.integers(0x80, 0xFE)).map(lambda byte: bytes((byte,)))
    by_index = st.builds(
        lambda pattern, index, value: bytes((pattern | index,)) + value,
        st.sampled_from((0x00, 0x10, 0x40)), st.integers(1, 14), strings,
    )  # fmt: skip
    by_long_index = st.builds(
        lambda pattern, index, value: pattern + bytes((index,)) + value,
        st.sampled_from((b"\x0f", b"\x1f")), st.integers(0, 60), strings,
    )  # fmt: skip
    by_name = st.builds(
        lambda pattern, name, value: bytes((pattern,)) + name + value,
        st.sampled_from((0x00, 0x10, 0x40)), names, strings,
    )  # fmt: skip
    resized = st.sampled_from((b"\x20", b"\x3e", b"\x3f\x50", b"\x3f\xe1\x1f", b"\x3f\xe2\x1f", b"\xff\x00"))
    return st.one_of(indexed, indexed, indexed, by_index, by_long_index, by_name, by_name, resized)


def frame_sequences(max_size: int = 16) -> st.SearchStrategy[bytes]:
    """Frames in any order, now and then a wild one."""
    plausible = plausible_frames()
    some_wild = st.one_of(plausible, plausible, plausible, plausible, wild_frames())
    return st.one_of(st.lists(plausible, max_size=max_size), st.lists(some_wild, max_size=max_size)).map(
        b"".join
    )
