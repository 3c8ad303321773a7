"""Frames one by one: what passes, what is refused and how, where another may go in; and signs of life."""

from __future__ import annotations

from math import inf

import pytest
from wsproto.frame_protocol import FrameProtocol

from smartproxy.core.wire.websocket import (
    DEAD_PEER_CLOSE_CODE,
    CloseCode,
    FrameScanner,
    KeepAlive,
    KeepAliveStep,
    LocalProtocolError,
    Opcode,
    RemoteProtocolError,
    encode_close,
    encode_frame,
    encode_ping,
    encode_pong,
    is_close_code,
)

KEY = b"\x01\x02\x03\x04"
HELLO = encode_frame(Opcode.TEXT, b"Hello")


def refused(scanner: FrameScanner, data: bytes) -> tuple[int, str, bytes]:
    with pytest.raises(RemoteProtocolError) as raised:
        scanner.receive_data(data)
    error = raised.value
    assert str(error) == f"{int(error.close_code)}: {error.reason}"
    return error.close_code, error.reason, error.passed


# RFC 6455 §5.7.


@pytest.mark.parametrize(
    ("from_client", "wire"),
    [
        (False, "810548656c6c6f"),
        (True, "818537fa213d7f9f4d5158"),
        (False, "010348656c 80026c6f"),
        (False, "890548656c6c6f"),
        (True, "8a8537fa213d7f9f4d5158"),
        (False, "827e0100" + "00" * 256),
        (False, "827f0000000000010000" + "00" * 65536),
    ],
)
def test_the_examples_of_the_specification_pass(from_client: bool, wire: str) -> None:
    data = bytes.fromhex(wire)
    scanner = FrameScanner(from_client=from_client)
    assert scanner.receive_data(data) is data
    assert scanner.at_frame_boundary
    assert not scanner.in_message


def test_the_examples_are_encoded_so() -> None:
    assert encode_frame(Opcode.TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    masked = encode_frame(Opcode.TEXT, b"Hello", mask_key=bytes.fromhex("37fa213d"))
    assert masked == bytes.fromhex("818537fa213d7f9f4d5158")
    assert encode_ping(b"Hello") == bytes.fromhex("890548656c6c6f")
    assert encode_pong(b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("8a8537fa213d7f9f4d5158")
    assert encode_frame(Opcode.BINARY, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert encode_frame(Opcode.BINARY, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")


# What may not pass.


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes_are_refused(opcode: int) -> None:
    for extensions in (b"", b"permessage-deflate"):
        scanner = FrameScanner(from_client=False, extensions=extensions)
        assert refused(scanner, bytes((0x80 | opcode, 0))) == (1002, "reserved opcode", b"")


@pytest.mark.parametrize(
    ("from_client", "wire", "reason"),
    [
        (False, "c100", "reserved bit without its extension"),
        (False, "a100", "reserved bit without its extension"),
        (False, "9100", "reserved bit without its extension"),
        (False, "c900", "reserved bit without its extension"),
        (False, "0900", "fragmented control frame"),
        (False, "0800", "fragmented control frame"),
        (False, "897e0080", "control frame over 125 bytes"),
        (False, "897f", "control frame over 125 bytes"),
        (False, "8180", "masked frame from a server"),
        (False, "8980", "masked frame from a server"),
        (True, "8100", "unmasked frame from a client"),
        (True, "8800", "unmasked frame from a client"),
        (False, "827e007d", "payload length not in its shortest form"),
        (False, "827f000000000000ffff", "payload length not in its shortest form"),
        (False, "827f8000000000000000", "payload length over 63 bits"),
        (True, "82fe0000", "payload length not in its shortest form"),
        (False, "8000", "continuation of no message"),
        (False, "0000", "continuation of no message"),
        (False, "880103", "invalid close code"),
        (False, "880203ec", "invalid close code"),
        (False, "880203ed", "invalid close code"),
        (False, "88020000", "invalid close code"),
    ],
)
def test_malformed_frames_are_refused_before_they_pass(from_client: bool, wire: str, reason: str) -> None:
    good = encode_frame(Opcode.TEXT, b"Hello", mask_key=KEY if from_client else None)
    bad = bytes.fromhex(wire)
    scanner = FrameScanner(from_client=from_client)
    assert refused(scanner, good + bad) == (1002, reason, good)
    assert scanner.at_frame_boundary
    # What comes after is refused alike, and nothing of it passes.
    assert refused(scanner, good) == (1002, reason, b"")
    split = FrameScanner(from_client=from_client)
    assert split.receive_data(good + bad[:1]) == good
    assert refused(split, bad[1:]) == (1002, reason, b"")


def test_a_message_within_a_message_is_refused() -> None:
    scanner = FrameScanner(from_client=False)
    begun = encode_frame(Opcode.TEXT, b"a", fin=False)
    assert refused(scanner, begun + HELLO) == (1002, "message begun within a message", begun)
    assert scanner.in_message


def test_a_close_reason_that_is_not_text_is_refused() -> None:
    scanner = FrameScanner(from_client=False)
    assert refused(scanner, b"\x88\x04\x03\xe8\xff\xff") == (1007, "close reason is not UTF-8", b"")


def test_close_codes() -> None:
    registered = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    for code in (*range(5100), 65535):
        assert is_close_code(code) == (code in registered)
        frame = encode_frame(Opcode.CLOSE, code.to_bytes(2, "big"), mask_key=KEY)
        scanner = FrameScanner(from_client=True)
        if code in registered:
            assert scanner.receive_data(frame) == frame
            assert scanner.close_code == code
            assert frame == encode_close(code, mask_key=KEY)
            continue
        assert refused(scanner, frame) == (1002, "invalid close code", b"")
        if code != CloseCode.NO_STATUS_RECEIVED:
            with pytest.raises(LocalProtocolError):
                encode_close(code)


# Size.


def test_a_message_too_big_is_refused_at_its_header() -> None:
    scanner = FrameScanner(from_client=True, max_payload_bytes=1000)
    fits = encode_frame(Opcode.BINARY, bytes(1000), mask_key=KEY)
    assert scanner.receive_data(fits) == fits
    header = encode_frame(Opcode.BINARY, bytes(1001), mask_key=KEY)[:4]
    assert refused(scanner, fits + header) == (1009, "message too big", fits)


def test_fragments_add_up_and_control_frames_do_not() -> None:
    scanner = FrameScanner(from_client=False, max_payload_bytes=10)
    first = encode_frame(Opcode.TEXT, b"12345", fin=False) + encode_ping(bytes(125))
    second = encode_frame(Opcode.CONTINUATION, b"67890", fin=False)
    assert scanner.receive_data(first + second) == first + second
    empty = encode_frame(Opcode.CONTINUATION, b"", fin=False)
    assert scanner.receive_data(empty * 100) == empty * 100
    assert refused(scanner, encode_frame(Opcode.CONTINUATION, b"x"))[0] == 1009


def test_the_next_message_begins_at_nothing() -> None:
    scanner = FrameScanner(from_client=False, max_payload_bytes=5)
    assert scanner.receive_data(HELLO * 50) == HELLO * 50


def test_a_length_of_63_bits_is_believed_and_costs_nothing() -> None:
    scanner = FrameScanner(from_client=False)
    header = b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"
    assert scanner.receive_data(header) == header
    chunk = bytes(65536)
    for _ in range(100):
        assert scanner.receive_data(chunk) is chunk
        assert scanner.last_boundary == -1
    assert not scanner.at_frame_boundary
    assert refused(FrameScanner(from_client=False, max_payload_bytes=1 << 40), header)[0] == 1009


def test_nothing_is_copied_within_a_frame() -> None:
    wire = encode_frame(Opcode.BINARY, bytes(1 << 20), mask_key=KEY)
    scanner = FrameScanner(from_client=True)
    chunks = [wire[start : start + 65536] for start in range(0, len(wire), 65536)]
    assert all(scanner.receive_data(chunk) is chunk for chunk in chunks)
    assert scanner.at_frame_boundary
    assert scanner.frame_count == 1


# Places.


def test_headers_and_control_frames_are_held_until_they_are_whole() -> None:
    scanner = FrameScanner(from_client=True)
    header = encode_frame(Opcode.BINARY, bytes(65536), mask_key=KEY)[:14]
    for byte in header[:-1]:
        assert scanner.receive_data(bytes((byte,))) == b""
        assert scanner.at_frame_boundary
        assert scanner.last_boundary == 0
    assert scanner.receive_data(header[-1:]) == header
    assert not scanner.at_frame_boundary
    assert scanner.receive_data(bytes(65536)) == bytes(65536)
    ping = encode_ping(bytes(125), KEY)
    assert scanner.receive_data(ping[:-1]) == b""
    assert scanner.receive_data(ping[-1:] + b"\x82") == ping


def test_the_last_place_in_a_chunk_is_told() -> None:
    scanner = FrameScanner(from_client=False)
    large = encode_frame(Opcode.BINARY, bytes(1000))
    output = scanner.receive_data(HELLO + HELLO + large[:500])
    assert scanner.last_boundary == 2 * len(HELLO)
    assert output == HELLO + HELLO + large[:500]
    scanner.receive_data(large[500:600])
    assert scanner.last_boundary == -1
    scanner.receive_data(large[600:] + large[:10])
    assert scanner.last_boundary == len(large) - 600
    assert scanner.receive_data(b"") == b""
    assert scanner.last_boundary == -1


def test_between_the_frames_of_a_message_there_is_a_place() -> None:
    scanner = FrameScanner(from_client=False)
    scanner.receive_data(encode_frame(Opcode.TEXT, b"a", fin=False))
    assert scanner.at_frame_boundary
    assert scanner.in_message


# Close and Pong.


def test_after_a_close_frame_nothing_passes() -> None:
    scanner = FrameScanner(from_client=True)
    close = encode_close(1001, "going away: Größe", KEY)
    assert scanner.receive_data(close + b"anything" + close) == close
    assert (scanner.close_code, scanner.close_reason) == (1001, "going away: Größe")
    assert scanner.receive_data(b"\xff" * 1000) == b""
    assert scanner.at_frame_boundary


def test_a_close_frame_may_be_empty() -> None:
    scanner = FrameScanner(from_client=False)
    assert scanner.receive_data(encode_close()) == b"\x88\x00"
    assert scanner.close_code == CloseCode.NO_STATUS_RECEIVED


def test_the_answer_to_our_own_ping_is_not_passed_on() -> None:
    scanner = FrameScanner(from_client=True)
    scanner.expected_pong = b"7"
    masked_hello = encode_frame(Opcode.TEXT, b"Hello", mask_key=KEY)
    ours, theirs = encode_pong(b"7", KEY), encode_pong(b"8", KEY)
    assert scanner.receive_data(theirs + ours + masked_hello[:8]) == theirs + masked_hello[:8]
    assert scanner.last_boundary == len(theirs)
    assert scanner.pong_count == 2
    assert scanner.receive_data(masked_hello[8:] + ours) == masked_hello[8:] + ours


# Extensions.


def test_deflate_may_mark_a_messages_first_frame() -> None:
    compressed = bytes.fromhex("c107f248cdc9c90700")
    scanner = FrameScanner(from_client=False, extensions=b"permessage-deflate; client_max_window_bits=15")
    assert scanner.receive_data(compressed) == compressed
    scanner.receive_data(bytes.fromhex("4103f248cd"))
    assert refused(scanner, bytes.fromhex("c004c9c90700"))[0] == 1002


@pytest.mark.parametrize("wire", ["c900", "a100", "9100", "c000"])
def test_deflate_may_mark_nothing_else(wire: str) -> None:
    scanner = FrameScanner(from_client=False, extensions=b"permessage-deflate")
    assert refused(scanner, bytes.fromhex(wire))[0] == 1002


def test_an_unknown_extension_may_use_any_reserved_bit() -> None:
    scanner = FrameScanner(from_client=False, extensions=b"permessage-deflate, x-other; a=1")
    for wire in ("f100", "f900", "7100", "f000"):
        assert scanner.receive_data(bytes.fromhex(wire)) == bytes.fromhex(wire)


def test_extensions_must_be_well_formed() -> None:
    with pytest.raises(LocalProtocolError):
        FrameScanner(from_client=False, extensions=b"permessage-deflate;")


# Encoding.


def test_what_cannot_be_a_frame_is_not_encoded() -> None:
    with pytest.raises(LocalProtocolError):
        encode_ping(bytes(126))
    with pytest.raises(LocalProtocolError):
        encode_frame(Opcode.CLOSE, fin=False)
    with pytest.raises(LocalProtocolError):
        encode_pong(b"", b"key")
    with pytest.raises(LocalProtocolError):
        encode_close(reason="without a code")


def test_a_long_close_reason_is_cut_between_characters() -> None:
    frame = encode_close(1011, "ü" * 100)
    scanner = FrameScanner(from_client=False)
    assert scanner.receive_data(frame) == frame
    assert scanner.close_reason == "ü" * 61


def test_wsproto_reads_what_is_encoded() -> None:
    server = FrameProtocol(client=False, extensions=[])
    server.receive_bytes(encode_ping(b"1", KEY) + encode_pong(b"2", KEY) + encode_close(1013, "later", KEY))
    assert [frame.payload for frame in server.received_frames()] == [b"1", b"2", (1013, "later")]


# Signs of life.


def test_a_silent_peer_is_asked_and_given_up() -> None:
    keep_alive = KeepAlive(30.0, 10.0, 100.0)
    assert keep_alive.deadline == 130.0
    assert keep_alive.handle_timeout(129.9) is KeepAliveStep.WAIT
    assert keep_alive.handle_timeout(130.0) is KeepAliveStep.PING
    keep_alive.ping_sent(130.5)
    assert not keep_alive.ping_due
    assert keep_alive.deadline == 140.5
    assert keep_alive.handle_timeout(140.4) is KeepAliveStep.WAIT
    assert keep_alive.handle_timeout(140.5) is KeepAliveStep.DEAD
    assert is_close_code(DEAD_PEER_CLOSE_CODE)


def test_whatever_comes_is_a_sign_of_life() -> None:
    keep_alive = KeepAlive(30.0, 10.0, 0.0)
    keep_alive.handle_timeout(30.0)
    keep_alive.ping_sent(30.0)
    keep_alive.received(39.0)
    assert keep_alive.handle_timeout(40.0) is KeepAliveStep.WAIT
    assert keep_alive.deadline == 69.0


def test_a_peer_that_talks_is_never_asked() -> None:
    keep_alive = KeepAlive(30.0, 10.0, 0.0)
    for second in range(0, 1000, 20):
        assert keep_alive.handle_timeout(float(second)) is KeepAliveStep.WAIT
        keep_alive.received(float(second))


def test_time_does_not_count_while_the_ping_waits_for_its_place() -> None:
    keep_alive = KeepAlive(30.0, 10.0, 0.0)
    keep_alive.handle_timeout(30.0)
    assert keep_alive.ping_due
    assert keep_alive.deadline == inf
    assert keep_alive.handle_timeout(1e9) is KeepAliveStep.WAIT
    keep_alive.received(31.0)
    keep_alive.ping_sent(500.0)
    assert keep_alive.handle_timeout(510.0) is KeepAliveStep.DEAD


def test_without_a_timeout_a_peer_is_asked_again_and_never_given_up() -> None:
    keep_alive = KeepAlive(30.0, None, 0.0)
    for now in (30.0, 60.0, 90.0):
        assert keep_alive.handle_timeout(now) is KeepAliveStep.PING
        keep_alive.ping_sent(now)
