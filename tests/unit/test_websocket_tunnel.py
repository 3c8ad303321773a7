"""A WebSocket tunnel whose frames are seen: signs of life, limits, and how it ends."""

from __future__ import annotations

import pytest
from websocket_by_hand import LOST, MASK, JoinedByHand, Peer
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.relay.tunnel import Tunnel
from smartproxy.core.relay.websocket_tunnel import (
    CLOSE_WAIT_S,
    CLOSING_SILENCE_S,
    HALF_CLOSE_WAIT_S,
    WebSocketTunnel,
)
from smartproxy.core.stream import HIGH_WATER_BYTES, Ending
from smartproxy.core.wire.websocket import Opcode, encode_close, encode_frame, encode_ping, encode_pong

MASKED_HELLO = encode_frame(Opcode.TEXT, b"hello", mask_key=MASK)
HELLO = encode_frame(Opcode.TEXT, b"hello")
HUGE_HEADER = bytes((0x82, 127)) + (1 << 40).to_bytes(8, "big")
CHUNK = bytes(64 * 1024)


def both(hand: JoinedByHand) -> tuple[Peer, Peer]:
    return hand.client, hand.backend


def failure_of(hand: JoinedByHand) -> tuple[FailureSource, FailureCode, str]:
    [failure] = hand.ends
    assert failure is not None
    return failure.source, failure.code, failure.detail


# Which tunnel it is.


def test_without_an_option_that_needs_them_frames_are_not_opened() -> None:
    hand = JoinedByHand()
    assert type(hand.tunnel) is Tunnel
    hand.client.send(b"whatever")
    assert hand.backend.take() == b"whatever"
    hand.tunnel.end(None)
    assert hand.close_code() is None


@pytest.mark.parametrize("options", [{"ping_interval_s": 1.0}, {"max_payload_bytes": 5}])
def test_options_open_the_frames(options: dict[str, float]) -> None:
    hand = JoinedByHand(**options)  # type: ignore[arg-type]  # a float for each of them
    assert isinstance(hand.tunnel, WebSocketTunnel)
    assert not hand.tunnel.can_relay


def test_a_conversation_and_its_end() -> None:
    hand = JoinedByHand(max_payload_bytes=100, ping_interval_s=30.0)
    hand.client.send(TextMessage("hello"))
    assert [event.data for event in hand.backend.events() if isinstance(event, TextMessage)] == ["hello"]
    hand.backend.send(BytesMessage(b"there"))
    assert [event.data for event in hand.client.events() if isinstance(event, BytesMessage)] == [b"there"]
    assert hand.tunnel.from_client.moved_bytes == 11
    assert hand.tunnel.from_backend.moved_bytes == 7
    assert hand.close_code() is None
    hand.client.send(CloseConnection(4001, "bye"))
    [close] = hand.backend.events()
    assert isinstance(close, CloseConnection)
    assert hand.close_code() == 4001
    hand.backend.send(close.response())
    assert hand.client.close_events() == [(4001, "bye")]
    hand.backend.end()
    assert hand.client.ending() is Ending.SHUT_DOWN_WRITING
    assert not hand.ends
    hand.client.end()
    assert list(hand.ends) == [None]
    assert hand.close_code() == 4001
    assert hand.client.ending() is hand.backend.ending() is Ending.CLOSE


def test_what_follows_a_close_does_not_pass() -> None:
    hand = JoinedByHand(max_payload_bytes=100)
    close = encode_close(1000, "", MASK)
    hand.client.send(close + MASKED_HELLO)
    hand.client.send(MASKED_HELLO)
    assert hand.backend.take() == close


def test_peers_that_do_not_close_after_both_closes_are_closed() -> None:
    hand = JoinedByHand(max_payload_bytes=100)
    hand.client.send(encode_close(1000, "", MASK))
    hand.backend.send(encode_close())
    hand.advance(CLOSE_WAIT_S - 0.1)
    assert not hand.ends
    hand.advance(0.1)
    assert list(hand.ends) == [None]
    assert hand.client.ending() is hand.backend.ending() is Ending.CLOSE


def test_a_close_that_is_not_answered() -> None:
    hand = JoinedByHand(max_payload_bytes=100)
    hand.client.send(encode_close(1000, "", MASK))
    hand.advance(CLOSING_SILENCE_S)
    assert hand.client.take() == encode_close(1001, "close timeout")
    hand.client.end()
    hand.advance(CLOSE_WAIT_S)
    assert failure_of(hand) == (
        FailureSource.BACKEND,
        FailureCode.CONNECTION_READ_TIMEOUT,
        "Close not answered",
    )
    assert hand.close_code() == 1000


def test_a_backend_may_say_more_before_it_answers_a_close() -> None:
    hand = JoinedByHand(max_payload_bytes=100)
    hand.client.send(encode_close(1000, "", MASK))
    for _ in range(5):
        hand.advance(CLOSING_SILENCE_S - 1.0)
        hand.backend.send(HELLO)
    hand.backend.send(encode_close(1000))
    assert hand.client.take() == HELLO * 5 + encode_close(1000)


def test_an_end_without_a_close_is_abnormal() -> None:
    hand = JoinedByHand(max_payload_bytes=100)
    hand.client.end()
    # Many servers drop a connection that is half closed, and with it their own Close.
    assert hand.backend.ending() is Ending.OPEN
    hand.advance(HALF_CLOSE_WAIT_S)
    assert hand.backend.ending() is Ending.SHUT_DOWN_WRITING
    hand.backend.send(HELLO)
    assert hand.client.take() == HELLO
    hand.backend.end()
    assert list(hand.ends) == [None]
    assert hand.close_code() == 1006


def test_a_backend_that_ends_after_the_client_is_told_of_nothing_first() -> None:
    hand = JoinedByHand()
    hand.client.end()
    hand.backend.send(HELLO)
    hand.backend.end()
    assert hand.client.take() == HELLO
    assert list(hand.ends) == [None]
    assert hand.backend.ending() is Ending.CLOSE
    hand.advance(2 * HALF_CLOSE_WAIT_S)


def test_a_backend_that_is_lost_after_the_client_has_ended_ends_well() -> None:
    hand = JoinedByHand()
    hand.client.end()
    hand.backend.send(HELLO)
    hand.backend.link.handler.stream_lost(LOST)
    assert hand.client.take() == HELLO
    assert list(hand.ends) == [None]
    assert hand.client.ending() is Ending.CLOSE


def test_a_lost_side_resets_the_other() -> None:
    hand = JoinedByHand(max_payload_bytes=100)
    hand.client.link.handler.stream_lost(LOST)
    assert list(hand.ends) == [LOST]
    assert hand.backend.ending() is Ending.ABORT
    assert hand.close_code() == 1006


# Pings.


def test_silent_peers_are_asked_and_their_answers_go_no_further() -> None:
    hand = JoinedByHand(ping_interval_s=30.0, ping_timeout_s=10.0, idle_s=50.0)
    for _ in range(20):
        hand.advance(30.0)
        for peer in both(hand):
            [ping] = peer.answer_pings()
            assert isinstance(ping, Ping)
        assert not hand.client.link.outgoing_bytes
        assert not hand.backend.link.outgoing_bytes
    assert not hand.ends


def test_pings_to_the_backend_are_masked_and_others_not() -> None:
    hand = JoinedByHand(ping_interval_s=30.0)
    hand.advance(30.0)
    to_client, to_backend = hand.client.take(), hand.backend.take()
    assert to_client[:2] == b"\x89\x08"
    assert to_backend[:2] == b"\x89\x88"
    assert to_client[2:] != to_backend[6:]


def test_who_talks_is_not_asked() -> None:
    hand = JoinedByHand(ping_interval_s=30.0)
    for _ in range(10):
        hand.advance(20.0)
        hand.client.send(MASKED_HELLO)
        hand.backend.answer_pings()
    assert hand.client.take() == b""


@pytest.mark.parametrize("dead", ["client", "backend"])
def test_a_dead_peer_closes_both_sides(dead: str) -> None:
    hand = JoinedByHand(ping_interval_s=30.0, ping_timeout_s=10.0)
    alive = hand.backend if dead == "client" else hand.client
    hand.advance(30.0)
    alive.answer_pings()
    hand.advance(9.9)
    assert alive.take() == b""
    hand.advance(0.1)
    assert hand.close_code() == 1011
    assert alive.close_events() == [(1011, "ping timeout")]
    assert alive.ending() is Ending.SHUT_DOWN_WRITING
    alive.send(CloseConnection(1011))
    alive.end()
    assert not hand.ends
    hand.advance(CLOSE_WAIT_S)
    source = FailureSource.CLIENT if dead == "client" else FailureSource.BACKEND
    assert failure_of(hand) == (source, FailureCode.CONNECTION_READ_TIMEOUT, "ping timeout")
    assert alive.ending() is Ending.CLOSE
    # What it was sent is stuck on the way to it.
    assert (hand.client if dead == "client" else hand.backend).ending() is Ending.ABORT


def test_anything_is_a_sign_of_life() -> None:
    hand = JoinedByHand(ping_interval_s=30.0, ping_timeout_s=10.0)
    for _ in range(10):
        hand.advance(35.0)
        hand.client.send(MASKED_HELLO)
        hand.backend.send(HELLO)
    assert not hand.ends
    assert hand.close_code() is None


def test_a_ping_waits_for_the_end_of_a_frame() -> None:
    hand = JoinedByHand(ping_interval_s=30.0, ping_timeout_s=10.0)
    message = encode_frame(Opcode.BINARY, bytes(996))
    hand.backend.send(message[:500])
    hand.advance(25.0)
    hand.backend.send(message[500:600])
    hand.advance(15.0)
    # The client has been silent for 40 s, and is not to blame.
    assert hand.client.take() == message[:600]
    hand.backend.send(message[600:] + HELLO[:4])
    received = hand.client.take()
    assert received[:400] == message[600:]
    assert received[400:402] == b"\x89\x08"
    assert received[410:] == HELLO[:4]
    hand.advance(9.9)
    assert hand.close_code() is None
    hand.advance(0.1)
    assert hand.close_code() == 1011


def test_a_ping_goes_between_the_frames_of_a_message() -> None:
    hand = JoinedByHand(ping_interval_s=30.0)
    hand.backend.send(encode_frame(Opcode.TEXT, b"one", fin=False))
    hand.advance(30.0)
    hand.backend.send(encode_frame(Opcode.CONTINUATION, b"two"))
    kinds = [type(event) for event in hand.client.events()]
    assert kinds == [TextMessage, Ping, TextMessage]


def test_after_a_close_nobody_is_asked() -> None:
    hand = JoinedByHand(ping_interval_s=10.0)
    hand.client.send(encode_close(1000, "", MASK))
    hand.advance(20.0)
    assert hand.backend.take() == encode_close(1000, "", MASK)
    assert hand.client.take() == b""


def test_a_ping_due_does_not_go_behind_a_close() -> None:
    hand = JoinedByHand(ping_interval_s=10.0)
    message = encode_frame(Opcode.BINARY, bytes(100)) + encode_close(1000)
    hand.backend.send(message[:50])
    hand.advance(10.0)
    hand.backend.send(message[50:])
    assert hand.client.take() == message


def test_after_an_end_nobody_is_asked() -> None:
    hand = JoinedByHand(ping_interval_s=10.0, idle_s=100.0)
    hand.client.end()
    hand.advance(99.0)
    assert hand.client.take() == hand.backend.take() == b""


def test_pings_of_the_peers_own_pass_and_so_do_their_answers() -> None:
    hand = JoinedByHand(ping_interval_s=30.0)
    hand.backend.send(encode_ping(b"theirs"))
    assert hand.client.take() == encode_ping(b"theirs")
    hand.client.send(encode_pong(b"theirs", MASK))
    assert hand.backend.take() == encode_pong(b"theirs", MASK)


def test_a_peer_with_a_ping_to_answer_is_not_sent_another() -> None:
    hand = JoinedByHand(ping_interval_s=30.0, ping_timeout_s=10.0)
    hand.advance(25.0)
    hand.backend.send(encode_ping(b"theirs"))
    hand.advance(5.0)
    # It may answer the latest alone, and the backend would wait for its own in vain.
    assert hand.client.take() == encode_ping(b"theirs")
    hand.client.send(encode_pong(b"theirs", MASK))
    assert hand.backend.take().endswith(encode_pong(b"theirs", MASK))
    hand.advance(29.0)
    assert hand.client.take() == b""
    hand.advance(1.0)
    assert hand.client.take()[:2] == b"\x89\x08"


def test_a_peer_that_answers_no_ping_is_dead_whoever_sent_it() -> None:
    hand = JoinedByHand(ping_interval_s=30.0, ping_timeout_s=10.0)
    hand.advance(25.0)
    hand.backend.send(encode_ping(b"theirs"))
    hand.advance(15.0)
    assert hand.close_code() == 1011


def test_a_slow_reader_is_not_dead() -> None:
    hand = JoinedByHand(ping_interval_s=30.0, ping_timeout_s=10.0)
    hand.advance(29.0)
    link = hand.client.link
    pieces = [encode_frame(Opcode.BINARY, CHUNK) for _ in range(4)]
    for piece in pieces:
        hand.backend.send(piece)
    hand.advance(1.0)
    hand.advance(9.0)
    link.pull()
    for _ in range(2):
        hand.advance(9.9)
        assert hand.close_code() is None
        link.pull()
    link.pull()
    assert not link.outgoing_bytes
    assert hand.close_code() is None
    # Now it has all of it, and may be expected to answer.
    hand.advance(20.0)
    assert hand.close_code() == 1011


def test_a_reader_that_stands_still_is_dead() -> None:
    hand = JoinedByHand(ping_interval_s=30.0, ping_timeout_s=10.0)
    hand.backend.send(encode_frame(Opcode.BINARY, CHUNK))
    hand.advance(40.0)
    assert hand.close_code() == 1011
    hand.advance(CLOSE_WAIT_S)
    assert hand.client.ending() is Ending.ABORT


def test_a_peer_that_is_not_read_from_is_not_dead() -> None:
    hand = JoinedByHand(ping_interval_s=30.0, ping_timeout_s=10.0)
    while hand.backend.link.reading:
        hand.backend.send(encode_frame(Opcode.BINARY, CHUNK))
    # The client reads nothing, but talks.
    for _ in range(8):
        hand.advance(9.0)
        hand.client.send(MASKED_HELLO)
    assert hand.close_code() is None
    assert hand.backend.take() == MASKED_HELLO * 8
    hand.client.take()
    # Heard again, the backend has all its time before it.
    hand.advance(29.9)
    assert hand.backend.take() == b""
    hand.advance(0.1)
    assert hand.backend.take()[:2] == b"\x89\x88"


def test_pings_do_not_pile_up_before_a_reader_that_stands_still() -> None:
    hand = JoinedByHand(ping_interval_s=1.0, ping_timeout_s=1.0)
    for _ in range(1000):
        # Late enough to be asked, in time to be thought alive.
        hand.advance(1.5)
        hand.client.send(MASKED_HELLO)
        hand.backend.answer_pings()
    assert hand.client.link.outgoing_bytes == len(encode_ping(bytes(8)))


# What may not pass.


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (encode_frame(Opcode.BINARY, bytes(101), mask_key=MASK), 1009, "message too big"),
        (bytes((0x82, 0xFF)) + (1 << 62).to_bytes(8, "big"), 1009, "message too big"),
        (
            encode_frame(Opcode.BINARY, bytes(60), fin=False, mask_key=MASK)
            + encode_frame(Opcode.CONTINUATION, bytes(60), mask_key=MASK),
            1009,
            "message too big",
        ),
        (HELLO, 1002, "unmasked frame from a client"),
        (b"\x83\x80" + MASK, 1002, "reserved opcode"),
        (b"\x8b\x80" + MASK, 1002, "reserved opcode"),
        (b"\xc1\x80" + MASK, 1002, "reserved bit without its extension"),
        (b"\x09\x80" + MASK, 1002, "fragmented control frame"),
        (b"\x80\x80" + MASK, 1002, "continuation of no message"),
        (encode_close(1000, "", MASK)[:-2] + b"\xff\xff", 1002, "invalid close code"),
        (
            encode_frame(Opcode.CLOSE, b"\x03\xe8\xff", mask_key=MASK),
            1007,
            "close reason is not UTF-8",
        ),
    ],
)
def test_what_may_not_pass_closes_both_sides(data: bytes, code: int, reason: str) -> None:
    hand = JoinedByHand(max_payload_bytes=100)
    hand.client.send(MASKED_HELLO + data)
    received = hand.backend.take()
    hand.client.send(MASKED_HELLO)
    received += hand.backend.take()
    assert received.startswith(MASKED_HELLO)
    hand.backend.wsproto.receive_data(received)
    *_, close = list(hand.backend.wsproto.events())
    assert isinstance(close, CloseConnection)
    assert (int(close.code), close.reason) == (code, reason)
    assert hand.client.close_events() == [(code, reason)]
    assert hand.close_code() == code
    assert not hand.ends
    hand.client.end()
    hand.backend.end()
    assert failure_of(hand) == (FailureSource.CLIENT, FailureCode.HTTP_PROTOCOL_ERROR, reason)
    assert hand.client.ending() is hand.backend.ending() is Ending.CLOSE


def test_a_backend_is_held_to_the_same() -> None:
    hand = JoinedByHand(max_payload_bytes=100)
    hand.backend.send(MASKED_HELLO)
    assert hand.client.close_events() == [(1002, "masked frame from a server")]
    assert hand.backend.close_events() == [(1002, "masked frame from a server")]
    hand.advance(CLOSE_WAIT_S)
    assert failure_of(hand)[0] is FailureSource.BACKEND


def test_the_negotiated_extension_may_use_its_bit() -> None:
    hand = JoinedByHand(max_payload_bytes=100, extensions=b"permessage-deflate")
    data = b"\xc1\x80" + MASK
    hand.client.send(data)
    assert hand.backend.take() == data


def test_a_side_within_a_frame_gets_its_rest_before_the_close() -> None:
    hand = JoinedByHand(max_payload_bytes=1000)
    message = encode_frame(Opcode.BINARY, bytes(500))
    hand.backend.send(message[:100])
    hand.client.send(HELLO)
    assert hand.client.take() == message[:100]
    hand.backend.send(message[100:200])
    hand.backend.send(message[200:] + HELLO)
    assert hand.client.take() == message[100:] + HELLO + encode_close(1002, "unmasked frame from a client")
    assert hand.client.ending() is Ending.SHUT_DOWN_WRITING
    hand.backend.send(HELLO)
    assert hand.client.take() == b""


@pytest.mark.parametrize(
    ("rest", "received"),
    [
        (encode_close(1000), encode_close(1000)),
        (encode_close(1000) + HELLO, encode_close(1000)),
        (MASKED_HELLO, encode_close(1002, "unmasked frame from a client")),
    ],
    ids=["a close", "a close and more", "a fault of its own"],
)
def test_the_rest_of_a_frame_may_come_with_an_end(rest: bytes, received: bytes) -> None:
    hand = JoinedByHand(max_payload_bytes=1000)
    message = encode_frame(Opcode.BINARY, bytes(50))
    hand.backend.send(message[:10])
    hand.client.send(HELLO)
    hand.backend.send(message[10:] + rest)
    assert hand.client.take() == message + received
    assert hand.client.ending() is Ending.SHUT_DOWN_WRITING


def test_a_side_whose_frame_does_not_end_is_reset() -> None:
    hand = JoinedByHand(max_payload_bytes=1000)
    hand.backend.send(encode_frame(Opcode.BINARY, bytes(500))[:100])
    hand.client.send(HELLO)
    hand.client.take()
    hand.backend.take()
    hand.advance(CLOSE_WAIT_S)
    assert hand.client.ending() is Ending.ABORT
    assert hand.backend.ending() is Ending.CLOSE


def test_a_frame_whose_source_ends_within_is_cut_by_reset() -> None:
    hand = JoinedByHand(max_payload_bytes=1000)
    hand.backend.send(encode_frame(Opcode.BINARY, bytes(500))[:100])
    hand.client.send(HELLO)
    hand.backend.end()
    hand.client.end()
    assert hand.client.ending() is Ending.ABORT
    assert failure_of(hand)[1] is FailureCode.HTTP_PROTOCOL_ERROR


def test_the_other_side_still_gets_its_close_when_the_offender_resets() -> None:
    hand = JoinedByHand(max_payload_bytes=10)
    hand.client.send(HELLO)
    hand.client.link.handler.stream_lost(LOST)
    assert not hand.ends
    assert hand.backend.close_events() == [(1002, "unmasked frame from a client")]
    hand.backend.end()
    assert len(hand.ends) == 1
    assert hand.backend.ending() is Ending.CLOSE


def test_an_offender_that_had_ended_its_side() -> None:
    hand = JoinedByHand(max_payload_bytes=10)
    hand.client.end()
    hand.backend.send(MASKED_HELLO)
    assert hand.client.close_events() == [(1002, "masked frame from a server")]
    assert hand.backend.take() == b""
    hand.backend.end()
    assert failure_of(hand)[2] == "masked frame from a server"


def test_an_offender_that_ends_and_is_lost_takes_nothing_from_the_other() -> None:
    hand = JoinedByHand(max_payload_bytes=10)
    hand.client.send(HELLO)
    hand.client.end()
    hand.client.link.handler.stream_lost(LOST)
    assert hand.backend.close_events() == [(1002, "unmasked frame from a client")]
    hand.advance(CLOSE_WAIT_S)
    assert failure_of(hand)[2] == "unmasked frame from a client"


def test_what_an_offender_goes_on_sending_is_read_and_dropped() -> None:
    hand = JoinedByHand(max_payload_bytes=10)
    hand.client.send(HUGE_HEADER)
    received = hand.backend.take()
    for _ in range(50):
        hand.client.send(CHUNK)
    assert received
    assert hand.backend.take() == b""
    assert hand.tunnel.from_client.moved_bytes == len(HUGE_HEADER)


def test_what_is_compressed_is_not_opened() -> None:
    hand = JoinedByHand(max_payload_bytes=50_000, ping_interval_s=30.0, extensions=b"permessage-deflate")
    deflate = PerMessageDeflate()
    deflate.finalize("permessage-deflate")
    sender = Connection(ConnectionType.CLIENT, [deflate])
    wire = sender.send(BytesMessage(bytes(20_000_000)))
    assert len(wire) < 50_000
    hand.client.send(wire)
    assert hand.backend.take() == wire


# Time.


def test_a_silent_websocket_is_closed_with_a_reason() -> None:
    hand = JoinedByHand(max_payload_bytes=10, idle_s=100.0)
    hand.advance(100.0)
    for peer in both(hand):
        assert peer.close_events() == [(1001, "idle timeout")]
        peer.end()
    assert failure_of(hand)[1] is FailureCode.IDLE_TIMEOUT


def test_an_old_websocket_is_closed_with_a_reason() -> None:
    hand = JoinedByHand(max_payload_bytes=10, expires_at=500.0)
    for _ in range(25):
        hand.advance(20.0)
        hand.client.take()
        if not hand.ends and hand.close_code() is None:
            hand.backend.send(HELLO)
    assert hand.backend.close_events() == [(1001, "lifetime reached")]
    hand.advance(CLOSE_WAIT_S)
    assert failure_of(hand)[1] is FailureCode.LIFETIME_REACHED


def test_a_shutdown_is_told_to_both_sides() -> None:
    hand = JoinedByHand(ping_interval_s=10.0)
    failure = Failure(FailureSource.PROXY, FailureCode.DRAINED)
    hand.tunnel.go_away(failure)
    hand.tunnel.go_away(failure)
    for peer in both(hand):
        assert peer.close_events() == [(1001, "drained")]
    hand.tunnel.end(failure, aborted=True)
    hand.tunnel.end(None)
    hand.advance(100.0)
    assert list(hand.ends) == [failure]
    assert hand.client.ending() is Ending.ABORT


def test_a_shutdown_of_a_tunnel_of_bytes_is_a_reset() -> None:
    hand = JoinedByHand()
    hand.tunnel.go_away(Failure(FailureSource.PROXY, FailureCode.DRAINED))
    assert hand.client.ending() is hand.backend.ending() is Ending.ABORT


# Memory.


@pytest.mark.parametrize("header", [HUGE_HEADER, b""], ids=["one frame", "many frames"])
def test_a_stuck_reader_stops_the_writer(header: bytes) -> None:
    hand = JoinedByHand(ping_interval_s=100.0)
    if header:
        hand.backend.send(header)
    sent = 0
    while hand.backend.link.reading:
        hand.backend.send(CHUNK if header else encode_frame(Opcode.BINARY, CHUNK))
        sent += 1
        assert sent < 10
    assert hand.client.link.outgoing_bytes <= HIGH_WATER_BYTES + 2 * len(CHUNK)
    hand.client.send(encode_pong(b"", MASK))
    assert hand.backend.take() == encode_pong(b"", MASK)
    hand.client.take()
    assert hand.backend.link.reading


def test_pongs_without_end_leave_nothing_behind() -> None:
    hand = JoinedByHand(ping_interval_s=30.0)
    hand.advance(30.0)
    [ping] = hand.client.events()
    assert isinstance(ping, Ping)
    hand.backend.take()
    pong = hand.client.wsproto.send(Pong(bytes(ping.payload)))
    hand.client.send(pong * 3)
    assert hand.backend.take() == pong * 2
