"""Bytes moved from socket to socket in the driver: exact, bounded, cancellable."""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections.abc import Iterator

import pytest
from fake_engine import FakeEngine, Recorder, SteppedDriver
from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import CancelOperation, RelayOutcome, StartRelay
from smartproxy.drivers import relay as relay_module
from smartproxy.drivers.relay import RelayBuffers

MEBIBYTE = 1024 * 1024


@pytest.fixture(params=["splice", "copy"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SteppedDriver]:
    if request.param == "copy":
        monkeypatch.setattr(relay_module, "CAN_SPLICE", False)
    elif not relay_module.CAN_SPLICE:
        pytest.skip("this system has no splice; it is Linux's")
    driver = SteppedDriver(FakeEngine())
    driver.listen(0, ["127.0.0.1"])
    yield driver
    driver.close()


class Pair:
    """A client and a backend, each with its link, and the peers the test plays."""

    def __init__(self, driver: SteppedDriver) -> None:
        port = driver.listening_ports()[0]
        self.client_peer, self.client = driver.connect(port)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.backend_peer, self.backend = driver.open_to(server)

    def close(self) -> None:
        self.client_peer.close()
        self.backend_peer.close()


@pytest.fixture
def pair(driver: SteppedDriver) -> Iterator[Pair]:
    pair = Pair(driver)
    yield pair
    pair.close()


def pattern(size: int, seed: int = 0) -> bytes:
    numbers = array("I", range(seed, seed + (size + 3) // 4))
    return numbers.tobytes()[:size]


ALL = pattern(8 * MEBIBYTE)


def start(driver: SteppedDriver, source: Recorder, sink: Recorder, length_bytes: int = -1) -> StartRelay:
    relay = driver.do(lambda: driver.fake.start_relay(source, sink, length_bytes))
    assert isinstance(relay, StartRelay)
    return relay


def cancel(driver: SteppedDriver, relay: StartRelay) -> None:
    driver.do(lambda: driver.fake.context.operations.append(CancelOperation(relay.id)))


def carry(driver: SteppedDriver, source: socket.socket, sink: socket.socket, data: bytes) -> bytes:
    """Send `data` into one end and take as much out of the other, turn by turn."""
    rest = memoryview(data)
    received = bytearray()
    source.setblocking(False)
    for _ in range(1_000_000):
        if len(received) == len(data):
            return bytes(received)
        try:
            if rest:
                rest = rest[source.send(rest[: 256 * 1024]) :]
        except BlockingIOError:
            pass
        if driver.has_events():
            driver.turn()
        try:
            received += sink.recv(len(data) - len(received))
        except BlockingIOError:
            pass
    raise AssertionError(f"{len(received)} of {len(data)} bytes came through")


def test_every_byte_crosses_in_order_and_is_counted(driver: SteppedDriver, pair: Pair) -> None:
    relay = start(driver, pair.client, pair.backend)
    data = pattern(12 * MEBIBYTE)
    assert carry(driver, pair.client_peer, pair.backend_peer, data) == data
    assert relay.moved_bytes == len(data)
    assert pair.client.link.bytes_received == len(data)
    assert pair.backend.link.bytes_sent == len(data)
    assert pair.client.received == b""


def test_both_directions_at_once(driver: SteppedDriver, pair: Pair) -> None:
    start(driver, pair.client, pair.backend)
    start(driver, pair.backend, pair.client)
    up, down = pattern(4 * MEBIBYTE), pattern(4 * MEBIBYTE, seed=7)
    up_rest, down_rest = memoryview(up), memoryview(down)
    at_backend, at_client = bytearray(), bytearray()
    for _ in range(1_000_000):
        if len(at_backend) == len(up) and len(at_client) == len(down):
            break
        for peer, rest, received in (
            (pair.client_peer, up_rest, at_client),
            (pair.backend_peer, down_rest, at_backend),
        ):
            try:
                if rest:
                    sent = peer.send(rest)
                    if peer is pair.client_peer:
                        up_rest = up_rest[sent:]
                    else:
                        down_rest = down_rest[sent:]
            except BlockingIOError:
                pass
            try:
                received += peer.recv(MEBIBYTE)
            except BlockingIOError:
                pass
        if driver.has_events():
            driver.turn()
    assert bytes(at_backend) == up
    assert bytes(at_client) == down


def test_what_the_sink_was_given_before_goes_before(driver: SteppedDriver, pair: Pair) -> None:
    head = pattern(6 * MEBIBYTE, seed=3)
    body = pattern(MEBIBYTE)

    def write_and_relay() -> StartRelay:
        for start_at in range(0, len(head), 100_000):
            pair.backend.link.write(head[start_at : start_at + 100_000])
        return driver.fake.start_relay(pair.client, pair.backend, len(body))

    relay = driver.do(write_and_relay)
    assert pair.backend.link.outgoing_bytes, "the kernel took it all: the test shows nothing"
    pair.client_peer.setblocking(True)
    pair.client_peer.settimeout(0)
    driver.send(pair.client_peer, body[: 64 * 1024])
    driver.settle()
    assert relay.moved_bytes == 0
    assert driver.receive(pair.backend_peer, len(head)) == head
    received = body[: 64 * 1024]
    assert driver.receive(pair.backend_peer, len(received)) == received
    assert carry(driver, pair.client_peer, pair.backend_peer, body[64 * 1024 :]) == body[64 * 1024 :]
    driver.settle()
    assert driver.fake.relay_outcomes == {relay.id: RelayOutcome.COMPLETE}


def test_a_length_is_kept_to_the_byte(driver: SteppedDriver, pair: Pair) -> None:
    data = pattern(3 * MEBIBYTE)
    length = 2 * MEBIBYTE + 12_345
    relay = start(driver, pair.client, pair.backend, length)
    rest = memoryview(data)
    received = bytearray()
    for _ in range(1_000_000):
        if len(received) + len(pair.client.received) == len(data):
            break
        try:
            rest = rest[pair.client_peer.send(rest) :] if rest else rest
        except BlockingIOError:
            pass
        if driver.has_events():
            driver.turn()
        try:
            received += pair.backend_peer.recv(MEBIBYTE)
        except BlockingIOError:
            pass
    assert bytes(received) == data[:length]
    assert bytes(pair.client.received) == data[length:]
    assert driver.fake.relay_outcomes == {relay.id: RelayOutcome.COMPLETE}
    assert relay.moved_bytes == length


def test_end_of_file_ends_the_relay_and_leaves_the_sink_open(driver: SteppedDriver, pair: Pair) -> None:
    relay = start(driver, pair.client, pair.backend)
    pair.client_peer.send(b"last")
    pair.client_peer.shutdown(socket.SHUT_WR)
    driver.run_until(lambda: driver.fake.relay_outcomes == {relay.id: RelayOutcome.SOURCE_EOF})
    driver.settle()
    assert pair.client.heard == []
    driver.do(lambda: pair.backend.link.write(b" words"))
    assert driver.receive(pair.backend_peer, 10) == b"last words"


def fill(driver: SteppedDriver, pair: Pair, data: bytes) -> memoryview:
    """Send of `data` what there is room for while the backend takes nothing; returns the rest."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[pair.client_peer.send(rest) :]
        except BlockingIOError:
            if not driver.has_events():
                break
        driver.settle()
    return rest


def test_what_the_engine_writes_meanwhile_overtakes_nothing(driver: SteppedDriver, pair: Pair) -> None:
    relay = start(driver, pair.client, pair.backend)
    data = pattern(16 * MEBIBYTE)
    assert fill(driver, pair, data), "there was room for all: the test shows nothing"
    driver.do(lambda: pair.backend.link.write(b"END"))
    cancel(driver, relay)
    assert driver.receive(pair.backend_peer, relay.moved_bytes) == data[: relay.moved_bytes]
    received = b""
    while not received.endswith(b"END"):
        received += driver.receive(pair.backend_peer, 1)
    assert received == b"END"


def test_aborting_the_source_leaves_the_sink_what_was_moved(driver: SteppedDriver, pair: Pair) -> None:
    relay = start(driver, pair.client, pair.backend)
    data = pattern(16 * MEBIBYTE)
    assert fill(driver, pair, data), "there was room for all: the test shows nothing"
    driver.do(pair.client.link.abort)
    assert driver.fake.relay_outcomes == {relay.id: RelayOutcome.SOURCE_LOST}
    assert driver.receive(pair.backend_peer, relay.moved_bytes) == data[: relay.moved_bytes]


def test_a_sink_lost_with_bytes_on_their_way(driver: SteppedDriver, pair: Pair) -> None:
    relay = start(driver, pair.client, pair.backend)
    driver.do(pair.backend.link.pause_reading)
    assert fill(driver, pair, pattern(16 * MEBIBYTE)), "there was room for all: the test shows nothing"
    pair.backend_peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.backend_peer.close()
    driver.run_until(lambda: driver.fake.relay_outcomes == {relay.id: RelayOutcome.SINK_LOST})
    driver.settle()
    assert relay.moved_bytes == pair.backend.link.bytes_sent <= pair.client.link.bytes_received
    other = Pair(driver)
    start(driver, other.client, other.backend)
    data = pattern(2 * MEBIBYTE, seed=5)
    assert carry(driver, other.client_peer, other.backend_peer, data) == data, "a pipe was not empty"
    other.close()


def test_an_aborted_sink_answers_the_relay(driver: SteppedDriver, pair: Pair) -> None:
    relay = start(driver, pair.client, pair.backend)
    driver.do(pair.backend.link.abort)
    assert driver.fake.relay_outcomes == {relay.id: RelayOutcome.SINK_LOST}


def test_one_relay_leaves_the_others_their_turn(
    driver: SteppedDriver, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "TURN_BYTES", 1)
    relay = start(driver, pair.client, pair.backend)
    data = pattern(2 * MEBIBYTE)
    sent = pair.client_peer.send(data)
    assert sent > relay_module.BUFFER_BYTES, "too little for two turns: the test shows nothing"
    driver._relays[relay.id].move()
    assert 0 < relay.moved_bytes <= relay_module.BUFFER_BYTES
    assert driver.receive(pair.backend_peer, sent) == data[:sent]


@pytest.mark.parametrize("size", [1, 100_000, 8 * MEBIBYTE])
def test_a_cancelled_relay_loses_nothing(driver: SteppedDriver, pair: Pair, size: int) -> None:
    relay = start(driver, pair.client, pair.backend)
    data = pattern(size)
    rest = fill(driver, pair, data)
    driver.settle()
    cancel(driver, relay)
    moved = relay.moved_bytes
    received = bytearray()
    for _ in range(1_000_000):
        if len(received) + len(pair.client.received) == len(data):
            break
        try:
            if rest:
                rest = rest[pair.client_peer.send(rest) :]
        except BlockingIOError:
            pass
        if driver.has_events():
            driver.turn()
        try:
            received += pair.backend_peer.recv(MEBIBYTE)
        except BlockingIOError:
            pass
    assert bytes(received) + bytes(pair.client.received) == data
    assert len(received) == moved == relay.moved_bytes
    assert driver.fake.relay_outcomes == {}


def test_a_lost_source_is_told_by_the_outcome_alone(driver: SteppedDriver, pair: Pair) -> None:
    relay = start(driver, pair.client, pair.backend)
    pair.client_peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.client_peer.close()
    driver.run_until(lambda: driver.fake.relay_outcomes == {relay.id: RelayOutcome.SOURCE_LOST})
    driver.settle()
    assert pair.client.heard == []
    assert pair.client.link.transport is None
    driver.do(lambda: pair.backend.link.write(b"still there"))
    assert driver.receive(pair.backend_peer, 11) == b"still there"


def test_a_lost_sink_is_told_by_the_outcome_alone(driver: SteppedDriver, pair: Pair) -> None:
    relay = start(driver, pair.client, pair.backend)
    pair.backend_peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.backend_peer.close()
    pair.client_peer.send(b"into the void")
    driver.run_until(lambda: driver.fake.relay_outcomes == {relay.id: RelayOutcome.SINK_LOST})
    driver.settle()
    assert pair.backend.heard == []
    assert pair.backend.link.transport is None
    driver.do(lambda: pair.client.link.write(b"still there"))
    assert driver.receive(pair.client_peer, 11) == b"still there"


def test_an_answer_behind_which_the_sink_broke_is_read_first(driver: SteppedDriver, pair: Pair) -> None:
    relay = start(driver, pair.client, pair.backend)
    driver.send(pair.client_peer, bytes(200_000))
    driver.settle()
    pair.backend_peer.send(b"413 too large")
    # Unread input makes the kernel send a reset behind the answer.
    pair.backend_peer.close()
    pair.client_peer.send(bytes(100_000))
    driver.run_until(lambda: driver.fake.relay_outcomes == {relay.id: RelayOutcome.SINK_LOST})
    assert pair.backend.received == b"413 too large"


def test_a_relay_to_a_sink_that_failed_before_is_answered(driver: SteppedDriver, pair: Pair) -> None:
    driver.do(lambda: pair.backend.link.write(bytes(100_000)))
    pair.backend_peer.send(b"parting words")
    pair.backend_peer.close()
    driver.do(lambda: pair.backend.link.write(bytes(100_000)))
    assert pair.backend.link.transport.failure is LostReason.RESET, (
        "sending went well: the test shows nothing"
    )
    driver.do(pair.backend.link.pause_reading)
    relay = start(driver, pair.client, pair.backend)
    driver.run_until(lambda: driver.fake.relay_outcomes == {relay.id: RelayOutcome.SINK_LOST})


def test_two_relays_hear_of_one_loss(driver: SteppedDriver, pair: Pair) -> None:
    up = start(driver, pair.client, pair.backend)
    down = start(driver, pair.backend, pair.client)
    pair.client_peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.client_peer.close()
    driver.run_until(lambda: len(driver.fake.relay_outcomes) == 2)
    assert driver.fake.relay_outcomes == {up.id: RelayOutcome.SOURCE_LOST, down.id: RelayOutcome.SINK_LOST}
    assert pair.client.heard == []


def test_a_relay_of_a_link_already_lost_is_answered(driver: SteppedDriver, pair: Pair) -> None:
    pair.client_peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.client_peer.close()
    driver.run_until(lambda: pair.client.lost_reason is LostReason.RESET)
    relay = start(driver, pair.client, pair.backend)
    assert driver.fake.relay_outcomes == {relay.id: RelayOutcome.SOURCE_LOST}
    relay = start(driver, pair.backend, pair.client)
    assert driver.fake.relay_outcomes[relay.id] is RelayOutcome.SINK_LOST


def test_closing_the_sink_answers_the_relay_and_keeps_its_bytes(driver: SteppedDriver, pair: Pair) -> None:
    relay = start(driver, pair.client, pair.backend)
    data = pattern(10 * MEBIBYTE)
    fill(driver, pair, data)
    driver.do(pair.backend.link.close)
    assert driver.fake.relay_outcomes == {relay.id: RelayOutcome.SINK_LOST}
    assert driver.receive_to_end(pair.backend_peer) == data[: relay.moved_bytes]


def test_small_messages_hold_no_pipe(driver: SteppedDriver, pair: Pair) -> None:
    start(driver, pair.client, pair.backend)
    before = set(os.listdir("/proc/self/fd"))
    for number in range(20):
        message = b"%d" % number
        pair.client_peer.send(message)
        assert driver.receive(pair.backend_peer, len(message)) == message
    assert set(os.listdir("/proc/self/fd")) == before


def test_no_pipe_left_falls_back_to_copying(driver: SteppedDriver, pair: Pair) -> None:
    driver._relay_buffers = RelayBuffers(max_pipes=0)
    start(driver, pair.client, pair.backend)
    data = pattern(3 * MEBIBYTE)
    assert carry(driver, pair.client_peer, pair.backend_peer, data) == data


def test_pipes_are_used_again_only_when_empty() -> None:
    buffers = RelayBuffers(max_pipes=2)
    first, second = buffers.take_pipe(), buffers.take_pipe()
    if first is None or second is None:
        pytest.skip("this system has no splice; it is Linux's")
    assert buffers.take_pipe() is None
    buffers.give_back(first)
    assert buffers.take_pipe() is first
    os.write(second.write_fd, b"left")
    buffers.discard(second)
    third = buffers.take_pipe()
    assert third is not None
    with pytest.raises(BlockingIOError):
        os.read(third.read_fd, 1)
    buffers.give_back(first)
    buffers.give_back(third)
    buffers.close()


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(1, 300_000)),
            st.tuples(st.just("take"), st.integers(1, 300_000)),
            st.tuples(st.just("relay"), st.integers(-1, 400_000)),
            st.tuples(st.just("cancel"), st.just(0)),
        ),
        max_size=25,
    )
)
def test_any_order_of_relaying_and_cancelling_keeps_every_byte(steps: list[tuple[str, int]]) -> None:
    """The engine forwards what reaches it, so the backend sees the client's bytes in order, always."""
    driver = SteppedDriver(FakeEngine())
    pair = None
    try:
        driver.listen(0, ["127.0.0.1"])
        pair = Pair(driver)
        pair.client_peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        pair.client.on_data = pair.backend.link.write
        sent = 0
        received = bytearray()
        relay: StartRelay | None = None

        def take(count: int) -> None:
            try:
                received.extend(pair.backend_peer.recv(count))
            except BlockingIOError:
                pass

        for action, number in steps:
            if relay is not None and relay.id in driver.fake.relay_outcomes:
                relay = None
            if action == "send":
                try:
                    sent += pair.client_peer.send(ALL[sent : sent + number])
                except BlockingIOError:
                    pass
            elif action == "take":
                take(number)
            elif action == "relay" and relay is None:
                relay = start(driver, pair.client, pair.backend, number)
            elif action == "cancel" and relay is not None:
                cancel(driver, relay)
                relay = None
            if driver.has_events():
                driver.turn()
        received += driver.receive(pair.backend_peer, sent - len(received))
        assert bytes(received) == ALL[:sent]
    finally:
        if pair is not None:
            pair.close()
        driver.close()
