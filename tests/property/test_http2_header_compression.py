"""HPACK with a memory says and understands the same as the library without one."""

from __future__ import annotations

import hpack
from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http2 import Http2Limits, RemoteProtocolError
from smartproxy.core.wire.http2.errors import RefusedRequest, StreamError
from smartproxy.core.wire.http2.header_compression import (
    COMPILED_CODER_IS_THERE,
    HeaderDecoder,
    HeaderEncoder,
)
from smartproxy.core.wire.http2.heads import NeverIndexedField, decode_request
from smartproxy.core.wire.http2.limits import HEADER_TABLE_BYTES
from smartproxy.core.wire.http2.request_memory import RequestMemory
from smartproxy.testing.strategies.http2 import representations

LIMITS = Http2Limits()
SMALL_LIMITS = Http2Limits(header_bytes=400, header_count=4, target_bytes=16)

coders = st.sampled_from((False, True) if COMPILED_CODER_IS_THERE else (False,))

names = st.sampled_from(
    (b":status", b"date", b"etag", b"x-a", b"x-b", b"set-cookie", b"authorization", b"x" * 200)
)
values = st.one_of(
    st.sampled_from((b"", b"200", b"a", b"b", b"c" * 50, b"d" * 127, b"e" * 300, b"f" * 1500, b"g" * 5000)),
    st.binary(max_size=20),
)
encoded_lines = st.tuples(names, values, st.sampled_from((False, False, False, True)))


@given(st.lists(st.one_of(st.lists(encoded_lines, max_size=6), st.integers(0, 6000)), max_size=12), coders)
def test_the_library_reads_what_we_write(
    steps: list[list[tuple[bytes, bytes, bool]] | int], compiled: bool
) -> None:
    ours = HeaderEncoder(compiled=compiled)
    theirs = hpack.Decoder(max_header_list_size=10**6)
    for step in steps:
        if isinstance(step, int):
            ours.resize_table(step)
            theirs.max_allowed_table_size = min(step, HEADER_TABLE_BYTES)
        # Twice, for what the first time has taught.
        for _ in range(2):
            lines = step if isinstance(step, list) else []
            read = theirs.decode(ours.encode(lines), raw=True)
            assert [(*line, not line.indexable) for line in read] == lines


def outcome(decoder: HeaderDecoder | hpack.Decoder, block: bytes) -> Fields | None:
    try:
        if isinstance(decoder, HeaderDecoder):
            return [(type(line) is NeverIndexedField, *line) for line in decoder.decode(block)]  # type: ignore[misc]  # told apart
        return [(not line.indexable, *line) for line in decoder.decode(block, raw=True)]  # type: ignore[misc]  # told apart
    except (RemoteProtocolError, hpack.HPACKError):
        return None


blocks = st.lists(representations(), max_size=12).map(b"".join)


@given(st.lists(st.one_of(blocks, blocks, blocks, st.binary(max_size=30)), max_size=8), coders)
def test_blocks_mean_what_they_mean_to_the_library(sent: list[bytes], compiled: bool) -> None:
    ours = HeaderDecoder(LIMITS, compiled=compiled)
    theirs = hpack.Decoder()
    for block in sent:
        for _ in range(2):
            understood = outcome(ours, block)
            assert understood == outcome(theirs, block)
            if understood is None:
                return


@given(st.lists(st.lists(encoded_lines, max_size=6), max_size=12), st.booleans(), coders)
def test_we_read_what_the_library_writes(
    sections: list[list[tuple[bytes, bytes, bool]]], huffman: bool, compiled: bool
) -> None:
    ours = HeaderDecoder(LIMITS, compiled=compiled)
    theirs = hpack.Encoder()
    for lines in sections:
        for _ in range(2):
            read = ours.decode(theirs.encode(lines, huffman=huffman))
            assert read == [(name, value) for name, value, _ in lines]
            # The library writes an index for a line that is in the table, whatever it is now asked.
            for line, (*_, never_indexed) in zip(read, lines, strict=True):
                assert never_indexed or type(line) is not NeverIndexedField


@given(st.lists(blocks, max_size=8), coders)
def test_no_section_is_larger_than_its_limit(sent: list[bytes], compiled: bool) -> None:
    ours = HeaderDecoder(SMALL_LIMITS, compiled=compiled)
    for block in sent:
        try:
            lines = ours.decode(block)
        except RemoteProtocolError:
            return
        assert len(lines) <= 4 * SMALL_LIMITS.header_count
        assert sum(len(name) + len(value) + 32 for name, value in lines) <= 2 * SMALL_LIMITS.header_bytes


request_lines = st.lists(
    st.one_of(
        st.tuples(
            st.just(b":path"),
            st.sampled_from(
                (b"/", b"/a", b"/" + b"b" * 15, b"/" + b"b" * 16, b"*", b"", b"/ ", b"/\n", b"http://a/")
            ),
        ),
        st.tuples(
            st.sampled_from((b"x-a", b"accept", b"content-length", b"cookie", b"host")),
            st.sampled_from((b"0", b"a.example", b"y" * 70, b"z ")),
        ),
        st.sampled_from(((b"x-a", b"secret"), NeverIndexedField((b"x-a", b"secret")))),
    ),
    min_size=1,
    max_size=3,
)
beginnings = st.sampled_from(
    (
        [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.example")],
        [(b":method", b"OPTIONS"), (b":scheme", b"https"), (b":authority", b"a.example")],
        [(b":method", b"CONNECT"), (b":authority", b"a.example:80")],
    )
)  # fmt: skip


@given(
    st.lists(st.tuples(beginnings, request_lines, st.booleans()), min_size=1, max_size=4),
    st.sampled_from((LIMITS, SMALL_LIMITS)),
)
def test_a_remembered_request_is_what_it_would_have_been(
    sent: list[tuple[Fields, Fields, bool]], limits: Http2Limits
) -> None:
    memory = RequestMemory(limits)
    for beginning, rest, end_stream in [request for request in sent for _ in range(2)]:
        lines = [*beginning, *rest]
        outcomes = []
        for remembers in (True, False):
            try:
                if remembers:
                    head = memory.decode(lines, end_stream)
                else:
                    head = decode_request(lines, end_stream, limits, extended_connect=True)
            except (StreamError, RefusedRequest) as error:
                outcomes.append(("refused", *error.args))
            else:
                kinds = [type(line) for line in head.fields]
                outcomes.append((kinds, *[getattr(head, name) for name in type(head).__slots__]))
        assert outcomes[0] == outcomes[1]


@given(st.lists(st.integers(0, 2), min_size=60, max_size=140))
def test_a_client_that_never_repeats_itself_is_still_understood(choices: list[int]) -> None:
    memory = RequestMemory(LIMITS)
    for index, choice in enumerate(choices):
        lines = [
            (b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.example"),
            (b":path", b"/%d" % index), (b"x-id", b"%d" % (index if choice else 0)),
        ]  # fmt: skip
        head = memory.decode(lines, True)
        assert (head.target, head.fields) == (b"/%d" % index, [lines[4]])
