"""A WebSocket tunnel that sees the frames, in any segmentation, at any time: wsproto judges at both ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, ParseFailed
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from smartproxy.core.configuration import WebSocketRules
from smartproxy.core.context import Context
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure
from smartproxy.core.relay.websocket_tunnel import CLOSE_WAIT_S, WebSocketTunnel
from smartproxy.core.stream import HIGH_WATER_BYTES, Ending, Link
from smartproxy.core.timers import Timer
from smartproxy.core.wire.websocket import encode_pong
from smartproxy.testing.strategies.segmentation import segmentations
from smartproxy.testing.strategies.websocket import messages

ADDRESS = ("192.0.2.1", 1)
PING_INTERVAL_S = 10.0
IDLE_S = 100.0
OUR_PING_BYTES = 8


class Joined:
    """A tunnel between two links, each read from when the test says so."""

    def __init__(self, rules: WebSocketRules) -> None:
        self.ends: list[Failure | None] = []
        self.drawn = 0
        self.context = Context(Env(self.entropy, lambda: 0.0))
        #: The client's and the backend's.
        self.links = [Link(self.context, number, ADDRESS, ADDRESS) for number in (0, 1)]
        self.received = [b"", b""]
        self.tunnel = WebSocketTunnel(
            self.context,
            *self.links,
            rules=rules,
            timer=Timer(lambda: None),
            idle_s=IDLE_S,
            on_end=self.ends.append,
        )

    def entropy(self, size: int) -> bytes:
        self.drawn += 1
        # No payload that a strategy draws.
        return (b"\xfe" * size)[:-2] + self.drawn.to_bytes(2, "big")

    def read(self, number: int) -> bytes:
        link = self.links[number]
        data = link.pull()
        self.received[number] += data
        if link.notify_writable and not link.outgoing_bytes:
            link.handler.stream_writable()
        return data

    def advance(self, seconds: float) -> None:
        until = self.context.now + seconds
        while (deadline := self.context.timers.next_deadline()) <= until:
            self.context.now = max(self.context.now, deadline)
            self.context.timers.fire(self.context.now)
        self.context.now = until


def without_our_pings(wire: bytes, from_client: bool) -> tuple[list[tuple[object, object]], list[bytes]]:
    """What wsproto reads in `wire`: every frame that is not our Ping, and our Pings' payloads."""
    parser = FrameProtocol(client=not from_client, extensions=[])
    parser.receive_bytes(wire)
    frames: list[tuple[object, object]] = []
    ours: list[bytes] = []
    for frame in parser.received_frames():
        payload = frame.payload
        if frame.opcode is WsprotoOpcode.PING and bytes(payload).startswith(b"\xfe" * (OUR_PING_BYTES - 2)):  # type: ignore[arg-type]  # a ping's are bytes
            ours.append(bytes(payload))  # type: ignore[arg-type]  # a ping's are bytes
        else:
            frames.append((frame.opcode, bytes(payload) if isinstance(payload, bytearray) else payload))
        if frame.opcode is WsprotoOpcode.CLOSE:
            break
    return frames, ours


def fault_in(wire: bytes, from_client: bool) -> int:
    """The close code for what wsproto refuses in `wire`; 0: nothing. Only its end may be cut."""
    try:
        without_our_pings(wire, from_client)
    except ParseFailed as failure:
        return int(failure.code)
    return 0


both_ways = st.tuples(messages(True), messages(False))


@given(both_ways, st.data())
def test_in_any_segments_frames_arrive_as_they_were_sent(
    frames: tuple[list[bytes], list[bytes]], data: st.DataObject
) -> None:
    joined = Joined(WebSocketRules(max_payload_bytes=10_000))
    for number in (0, 1):
        for segment in data.draw(segmentations(b"".join(frames[number]))):
            joined.links[number].handler.receive_data(segment)
            joined.read(1 - number)
    assert joined.received == [b"".join(frames[1]), b"".join(frames[0])]
    assert not joined.ends


@given(both_ways, st.data())
def test_our_pings_come_between_frames_and_change_nothing(
    frames: tuple[list[bytes], list[bytes]], data: st.DataObject
) -> None:
    joined = Joined(WebSocketRules(ping_interval_s=PING_INTERVAL_S, ping_timeout_s=1000.0))
    segments = [data.draw(segmentations(b"".join(frames[number]))) for number in (0, 1)]
    left = [iter(segments[0]), iter(segments[1])]
    for number in data.draw(st.permutations([0] * len(segments[0]) + [1] * len(segments[1]))):
        if data.draw(st.integers(0, 4)) == 0:
            joined.advance(data.draw(st.sampled_from([PING_INTERVAL_S / 2, PING_INTERVAL_S])))
            if joined.tunnel.closing:
                # Both were silent for too long, or only one said goodbye.
                return
        joined.links[number].handler.receive_data(next(left[number]))
        joined.read(0)
        joined.read(1)
    for number in (0, 1):
        sent = b"".join(frames[number])
        received = joined.received[1 - number]
        read, ours = without_our_pings(received, number == 0)
        assert read == without_our_pings(sent, number == 0)[0]
        mask_bytes = 4 if number == 0 else 0
        assert len(received) == len(sent) + len(ours) * (2 + mask_bytes + OUR_PING_BYTES)
        assert len(set(ours)) == len(ours)


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.floats(0.5, 30.0)), max_size=12))
def test_peers_that_answer_stay_and_hear_nothing_of_each_others_answers(
    talk: list[tuple[int, float]],
) -> None:
    joined = Joined(WebSocketRules(ping_interval_s=PING_INTERVAL_S, ping_timeout_s=PING_INTERVAL_S * 4))
    mask = b"mask"
    for _, pause_s in talk:
        joined.advance(pause_s)
        for number in (0, 1):
            _, ours = without_our_pings(joined.read(number), number == 1)
            for payload in ours:
                pong = encode_pong(payload, mask if number == 0 else None)
                joined.links[number].handler.receive_data(pong)
    assert not joined.ends
    assert not joined.tunnel.closing
    for number in (0, 1):
        frames, _ = without_our_pings(joined.received[number], number == 1)
        assert frames == []


hostile = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.booleans().flatmap(messages).map(b"".join).filter(bool),
    st.just(bytes(70_000)),
    st.just(b"\x82\xff" + bytes(2) + b"\xff" * 10),
    st.just(b"\x82\x7f" + bytes(2) + b"\xff" * 6 + bytes(60_000)),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("data"), st.sampled_from([0, 1]), hostile),
        st.tuples(st.just("read"), st.sampled_from([0, 1]), st.just(b"")),
        st.tuples(st.just("eof"), st.sampled_from([0, 1]), st.just(b"")),
        st.tuples(st.just("time"), st.sampled_from([0, 1]), st.just(b"")),
    ),
    max_size=30,
)


@given(steps, st.one_of(st.none(), st.just(PING_INTERVAL_S)), st.sampled_from([100, 100_000]))
def test_whatever_comes_it_ends_once_and_holds_little(
    taken: list[tuple[str, int, bytes]], ping_interval_s: float | None, max_payload_bytes: int
) -> None:
    joined = Joined(
        WebSocketRules(
            ping_interval_s=ping_interval_s, ping_timeout_s=5.0, max_payload_bytes=max_payload_bytes
        )
    )
    ended = [False, False]
    for what, number, data in taken:
        link = joined.links[number]
        if what == "data" and link.reading and not ended[number]:
            link.handler.receive_data(data)
        elif what == "read":
            joined.read(number)
        elif what == "eof" and not ended[number]:
            ended[number] = True
            link.handler.receive_eof()
        elif what == "time":
            joined.advance(3.0)
        for each in joined.links:
            assert each.outgoing_bytes <= HIGH_WATER_BYTES + 70_000 + 200
        assert len(joined.ends) <= 1
    joined.advance(IDLE_S + 2 * CLOSE_WAIT_S)
    assert len(joined.ends) == 1
    assert all(link.ending >= Ending.CLOSE for link in joined.links)
    for number in (0, 1):
        link = joined.links[number]
        while link.outgoing_bytes:
            joined.read(number)
        # A text that is not UTF-8 is its reader's business.
        assert fault_in(joined.received[number], number == 1) in (0, 1007)
