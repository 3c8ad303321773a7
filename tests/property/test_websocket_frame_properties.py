"""The frame scanner beside wsproto's parser: the same boundaries, and nothing passes that it refuses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, ParseFailed
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from smartproxy.core.wire.websocket import (
    FrameScanner,
    LocalProtocolError,
    Opcode,
    RemoteProtocolError,
    encode_frame,
    encode_ping,
    encode_pong,
)
from smartproxy.testing.strategies.segmentation import cut, segmentations
from smartproxy.testing.strategies.websocket import masks, messages, payload_sizes

MOST_HELD_BYTES = 138
INVALID_PAYLOAD = 1007
REGISTERED_SINCE_WSPROTO = 1014


@st.composite
def arbitrary_frames(draw: st.DrawFn, from_client: bool) -> bytes:
    """One whole frame, its header's fields as they come."""
    usual = st.sampled_from([0x00, 0x01, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A] * 3 + [0x08, 0x09, 0x83, 0xC1])
    first = draw(st.one_of(usual, usual, st.integers(0, 255)))
    masked = draw(st.sampled_from([from_client] * 9 + [not from_client]))
    if first & 0x0F == Opcode.CLOSE:
        codes = st.sampled_from([0, 999, 1000, 1004, 1005, 1006, 1010, 1015, 1016, 2999, 3000, 5000, 65535])
        code = draw(codes).to_bytes(2, "big")
        payload = draw(st.sampled_from([b"", b"\x03", code, code + b"bye", code + b"\xff"]))
    else:
        payload = b"x" * draw(payload_sizes)
    size = len(payload)
    shortest = 0 if size < 126 else 2
    length_bytes = draw(st.sampled_from([shortest] * 8 + [2, 8]))
    mask_bit = 0x80 if masked else 0
    if length_bytes == 0:
        head = bytes((first, mask_bit | size))
    else:
        head = bytes((first, mask_bit | (126 if length_bytes == 2 else 127))) + size.to_bytes(
            length_bytes, "big"
        )
    return head + (b"\0\0\0\0" if masked else b"") + payload


@dataclass
class Outcome:
    """What a parser made of a stream."""

    boundaries: set[int] = field(default_factory=lambda: {0})
    refused: int = 0
    refused_text: bool = False
    close: tuple[int, str] | None = None


def judge(wire: bytes, from_client: bool) -> Outcome:
    """What wsproto makes of `wire`, byte by byte."""
    parser = FrameProtocol(client=not from_client, extensions=[])
    outcome = Outcome()
    try:
        for position in range(len(wire)):
            parser.receive_bytes(wire[position : position + 1])
            for frame in parser.received_frames():
                if frame.frame_finished:
                    outcome.boundaries.add(position + 1)
                if frame.opcode is WsprotoOpcode.CLOSE:
                    assert isinstance(frame.payload, tuple)
                    code, reason = frame.payload
                    outcome.close = (int(code), reason or "")
                    return outcome
    except ParseFailed as failure:
        outcome.refused = int(failure.code)
        outcome.refused_text = parser._message_decoder.opcode is WsprotoOpcode.TEXT
    return outcome


def scan(scanner: FrameScanner, segments: Iterable[bytes]) -> tuple[bytes, tuple[int, str] | None, set[int]]:
    """What passes, the refusal, and every place where a frame could be put in."""
    passed = b""
    places = {0}
    given = 0
    for segment in segments:
        given += len(segment)
        try:
            output = scanner.receive_data(segment)
        except RemoteProtocolError as refusal:
            return passed + refusal.passed, (refusal.close_code, refusal.reason), places
        assert scanner.last_boundary <= len(output)
        assert scanner.at_frame_boundary == (scanner.last_boundary == len(output))
        if scanner.last_boundary >= 0:
            places.add(len(passed) + scanner.last_boundary)
        passed += output
        if scanner.close_code is None and scanner.pong_count == 0:
            assert given - len(passed) <= MOST_HELD_BYTES
    return passed, None, places


@st.composite
def streams(draw: st.DrawFn) -> tuple[bool, bytes]:
    """A direction, and a stream for it: well-formed, of any frames, or damaged."""
    from_client = draw(st.booleans())
    kind = draw(st.sampled_from(["well-formed", "any frames", "damaged", "any bytes"]))
    if kind == "any bytes":
        return from_client, draw(st.binary(max_size=60))
    if kind == "any frames":
        return from_client, b"".join(draw(st.lists(arbitrary_frames(from_client), max_size=4)))
    wire = bytearray(b"".join(draw(messages(from_client))))
    if kind == "damaged":
        for _ in range(draw(st.integers(1, 2))):
            place = draw(st.integers(0, len(wire)))
            wire[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return from_client, bytes(wire)


@given(st.booleans().flatmap(lambda side: st.tuples(st.just(side), messages(side))))
def test_what_is_well_formed_passes_untouched(directed: tuple[bool, list[bytes]]) -> None:
    from_client, frames = directed
    scanner = FrameScanner(from_client=from_client)
    passed, refusal, _ = scan(scanner, frames)
    assert passed == b"".join(frames)
    assert refusal is None
    assert scanner.frame_count == len(frames)
    assert scanner.at_frame_boundary
    assert not scanner.in_message


@given(streams())
def test_boundaries_are_where_wsproto_finds_them_and_what_it_refuses_is_refused(
    stream: tuple[bool, bytes],
) -> None:
    from_client, wire = stream
    judged = judge(wire, from_client)
    if judged.refused == INVALID_PAYLOAD and judged.refused_text:
        # A text that is not UTF-8: nobody but its reader opens it.
        return
    scanner = FrameScanner(from_client=from_client)
    passed, refusal, places = scan(scanner, cut(wire, list(range(len(wire)))))
    assert wire.startswith(passed)
    if judged.refused:
        if refusal is None:
            assert scanner.close_code == REGISTERED_SINCE_WSPROTO
            return
        assert refusal[0] == judged.refused
    elif judged.close is not None:
        assert refusal is None
        assert (scanner.close_code, scanner.close_reason) == judged.close
        assert max(places) == len(passed) == max(judged.boundaries)
    assert places == judged.boundaries


@given(
    st.booleans().flatmap(lambda side: st.tuples(st.just(side), st.lists(arbitrary_frames(side), max_size=5)))
)
def test_of_whole_frames_exactly_those_pass_that_wsproto_takes(directed: tuple[bool, list[bytes]]) -> None:
    from_client, frames = directed
    wire = b"".join(frames)
    judged = judge(wire, from_client)
    _, refusal, _ = scan(FrameScanner(from_client=from_client), frames)
    assert (0 if refusal is None else refusal[0]) == judged.refused


@given(streams(), st.one_of(st.none(), st.integers(0, 200)), st.binary(max_size=2), st.data())
def test_any_segmentation_has_the_same_outcome(
    stream: tuple[bool, bytes], limit: int | None, expected_pong: bytes, data: st.DataObject
) -> None:
    from_client, wire = stream

    def outcome(segments: list[bytes]) -> tuple[object, ...]:
        scanner = FrameScanner(from_client=from_client, max_payload_bytes=limit)
        scanner.expected_pong = expected_pong
        passed, refusal, places = scan(scanner, segments)
        counts = (scanner.frame_count, scanner.pong_count, scanner.expected_pong)
        ends = (scanner.close_code, scanner.close_reason, scanner.at_frame_boundary, scanner.in_message)
        return passed, refusal, counts, ends, max(places)

    *whole, _ = outcome([wire] if wire else [])
    byte_by_byte = outcome(cut(wire, list(range(len(wire)))))
    assert list(byte_by_byte[:-1]) == whole
    *in_segments, last_place = outcome(data.draw(segmentations(wire)))
    assert in_segments == whole
    assert isinstance(last_place, int)
    assert isinstance(byte_by_byte[-1], int)
    assert last_place <= byte_by_byte[-1]


@given(st.booleans().flatmap(lambda side: st.tuples(st.just(side), messages(side))), st.data())
def test_a_frame_put_in_where_the_scanner_says_disturbs_nothing(
    directed: tuple[bool, list[bytes]], data: st.DataObject
) -> None:
    from_client, frames = directed
    wire = b"".join(frames)
    scanner = FrameScanner(from_client=from_client)
    ping = encode_ping(b"between", mask_key=b"mask" if from_client else None)
    woven = b""
    pings = 0
    for segment in data.draw(segmentations(wire)):
        output = scanner.receive_data(segment)
        place = scanner.last_boundary
        if place >= 0 and scanner.close_code is None:
            output = output[:place] + ping + output[place:]
            pings += 1
        woven += output
    assert read(woven, from_client) == (*read(wire, from_client)[:2], read(wire, from_client)[2] + pings)


def read(wire: bytes, from_client: bool) -> tuple[list[tuple[object, bytes]], object, int]:
    """The messages, the close and the number of pings that wsproto reads."""
    parser = FrameProtocol(client=not from_client, extensions=[])
    parser.receive_bytes(wire)
    parts: list[tuple[object, bytes]] = []
    message = b""
    closed: object = None
    pings = 0
    for frame in parser.received_frames():
        payload = frame.payload
        if frame.opcode is WsprotoOpcode.CLOSE:
            closed = payload
        elif frame.opcode is WsprotoOpcode.PING:
            pings += payload in (b"between",)
        elif frame.opcode is not WsprotoOpcode.PONG:
            assert not isinstance(payload, tuple)
            message += payload.encode() if isinstance(payload, str) else payload
            if frame.message_finished:
                parts.append((frame.opcode, message))
                message = b""
    return parts, closed, pings


@given(st.lists(st.integers(0, 300), max_size=6), st.integers(0, 500), st.data())
def test_no_message_passes_that_is_larger_than_allowed(
    sizes: list[int], limit: int, data: st.DataObject
) -> None:
    frames = [
        encode_frame(
            Opcode.CONTINUATION if number else Opcode.BINARY, bytes(size), fin=number == len(sizes) - 1
        )
        for number, size in enumerate(sizes)
    ]
    scanner = FrameScanner(from_client=False, max_payload_bytes=limit)
    passed, refusal, _ = scan(scanner, data.draw(segmentations(b"".join(frames))))
    assert (refusal is not None) == (sum(sizes) > limit)
    fitting = [frame for number, frame in enumerate(frames, 1) if sum(sizes[:number]) <= limit]
    assert passed == b"".join(fitting)
    if refusal is not None:
        assert refusal[0] == 1009


@given(st.integers(0, 125), st.binary(max_size=3), st.data())
def test_the_answer_to_our_own_ping_goes_no_further(position: int, ours: bytes, data: st.DataObject) -> None:
    mask_key = data.draw(masks)
    others = [
        encode_pong(b"theirs", mask_key),
        encode_frame(Opcode.BINARY, bytes(position), mask_key=mask_key),
    ]
    wire = others[0] + encode_pong(ours, mask_key) + others[1] + encode_pong(ours, mask_key)
    scanner = FrameScanner(from_client=True)
    scanner.expected_pong = ours
    passed, _, _ = scan(scanner, data.draw(segmentations(wire)))
    assert passed == b"".join(others) + encode_pong(ours, mask_key)
    assert scanner.pong_count == 3
    assert scanner.expected_pong is None


@given(
    st.sampled_from(list(Opcode)),
    st.one_of(st.binary(max_size=300), st.sampled_from([65535, 65536]).map(bytes)),
    st.booleans(),
    st.one_of(st.none(), masks),
)
def test_what_is_encoded_wsproto_reads(
    opcode: Opcode, payload: bytes, fin: bool, mask_key: bytes | None
) -> None:
    if opcode is Opcode.CLOSE:
        payload = b"\x03\xe8" + bytes(len(payload) % 100)
    if opcode is Opcode.TEXT:
        payload = b"t" * len(payload)
    try:
        frame = encode_frame(opcode, payload, fin=fin, mask_key=mask_key)
    except LocalProtocolError:
        assert opcode >= Opcode.CLOSE
        assert len(payload) > 125 or not fin
        return
    begun = b""
    if opcode is Opcode.CONTINUATION:
        begun = encode_frame(Opcode.BINARY, b"", fin=False, mask_key=mask_key)
    judged = (
        judge(begun + frame, mask_key is not None) if len(frame) < 1000 else Outcome({len(begun + frame)})
    )
    assert not judged.refused
    assert len(begun + frame) in judged.boundaries
    scanner = FrameScanner(from_client=mask_key is not None)
    assert scanner.receive_data(begun + frame) == begun + frame
    assert scanner.in_message == (not fin and opcode < Opcode.CLOSE)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=6)), max_size=5))
def test_with_deflate_the_reserved_bits_are_wsprotos_too(frames: list[tuple[int, bytes]]) -> None:
    wire = b"".join(bytes((first, len(payload))) + payload for first, payload in frames)
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate")
    parser = FrameProtocol(client=True, extensions=[extension])
    scanner = FrameScanner(from_client=False, extensions=b"permessage-deflate")
    _, refusal, _ = scan(scanner, [wire] if wire else [])
    parser.receive_bytes(wire)
    judged = 0
    try:
        list(parser.received_frames())
    except ParseFailed as failure:
        judged = int(failure.code)
    # What is inside a message is its reader's business: wsproto stops there, the scanner goes on.
    if judged != INVALID_PAYLOAD:
        assert (refusal is not None) == (judged != 0)
