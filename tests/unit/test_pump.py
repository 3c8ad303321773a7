"""The pump on real sockets over loopback, under an engine that does as the test says."""

from __future__ import annotations

import gc
import os
import resource
import selectors
import socket
import struct
from array import array
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest
from fake_engine import FakeEngine, Recorder, SteppedDriver

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import (
    UNIX_PORT,
    CallFunction,
    CancelOperation,
    Opened,
    OperationFailed,
    Returned,
)
from smartproxy.core.records import Record
from smartproxy.core.timers import Timer
from smartproxy.drivers import datagram_rounds
from smartproxy.drivers.readiness import SelectorSource
from smartproxy.drivers.sockets import StreamSocket

MEBIBYTE = 1024 * 1024


@pytest.fixture(params=["epoll", "selector"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SteppedDriver]:
    if request.param == "selector":
        monkeypatch.setattr(
            datagram_rounds, "readiness_source", lambda: SelectorSource(selectors.DefaultSelector())
        )
    driver = SteppedDriver(FakeEngine())
    yield driver
    driver.close()


@pytest.fixture
def port(driver: SteppedDriver) -> int:
    return driver.listen(0, ["127.0.0.1"])


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def pattern(size: int) -> bytes:
    """Bytes in which a shift, a gap or a repetition shows."""
    return array("I", range((size + 3) // 4)).tobytes()[:size]


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


# Accepting.


def test_addresses_of_an_accepted_link(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    assert client.link.peer == peer.getsockname()
    assert client.link.local == ("127.0.0.1", port)
    peer.close()


def test_ipv6_addresses_have_two_parts(driver: SteppedDriver) -> None:
    port = driver.listen(0, ["::1"])
    with socket.create_connection(("::1", port)) as peer:
        driver.run_until(lambda: bool(driver.fake.clients))
        assert driver.fake.clients[0].link.peer == peer.getsockname()[:2]


def test_a_flood_of_connections_is_accepted(driver: SteppedDriver, port: int) -> None:
    peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    driver.run_until(lambda: len(driver.fake.clients) == 300)
    assert {client.link.peer for client in driver.fake.clients} == {peer.getsockname() for peer in peers}
    for peer in peers:
        peer.close()
    driver.run_until(lambda: all(client.heard == ["eof"] for client in driver.fake.clients))


def test_no_descriptor_left_pauses_accepting_without_a_spin(driver: SteppedDriver, port: int) -> None:
    gc.collect()
    peer = socket.socket()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = [os.dup(0) for _ in range(highest + 8)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, hard))
    try:
        peer.connect(("127.0.0.1", port))
        driver.run_until(lambda: bool(driver.records))
        record = driver.records[0]
        assert isinstance(record, Record)
        assert record.event == "accepting_paused"
        driver.settle()
        assert not driver.fake.clients
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)
    assert driver.armed, "nothing would ever wake it"
    driver.fire_own_timers()
    driver.run_until(lambda: len(driver.fake.clients) == 1)
    peer.close()


def test_a_client_that_is_aborted_at_once_sees_a_reset(driver: SteppedDriver, port: int) -> None:
    driver.fake.on_accepted = lambda client: client.link.abort()
    peer, _ = driver.connect(port)
    with pytest.raises(ConnectionResetError):
        driver.receive_to_end(peer)
    peer.close()
    assert driver.times_idle == 1


def test_an_exception_while_accepting_costs_only_that_client(driver: SteppedDriver, port: int) -> None:
    def fail(client: Recorder) -> None:
        if len(driver.fake.clients) == 1:
            raise ZeroDivisionError

    driver.fake.on_accepted = fail
    first, _ = driver.connect(port)
    assert driver.receive_to_end(first) == b""
    second, client = driver.connect(port)
    driver.send(second, b"hello")
    driver.run_until(lambda: client.received == b"hello")
    assert [link for link, _ in driver.fake.bugs] == [None]
    first.close()
    second.close()


# Listening.


def test_every_host_gets_the_same_picked_port(driver: SteppedDriver) -> None:
    port = driver.listen(0, ["127.0.0.1", "::1"])
    assert driver.listening_ports() == {0: port}
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port)).close()
    assert driver.listen(0, ["127.0.0.1"]) == port, "it is bound already"


def test_a_port_in_use_is_named_and_leaves_nothing_bound(
    driver: SteppedDriver, server: socket.socket
) -> None:
    port = server.getsockname()[1]
    with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
        driver.listen(port, ["::1", "127.0.0.1"])
    assert driver.listening_ports() == {}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("::1", port))


def test_a_system_without_ipv6_is_forgiven_the_default(
    driver: SteppedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *arguments: int, **options: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with pytest.raises(OSError, match=r"cannot listen on \[::\]:0"):
        driver.listen(0, ["::"])
    with pytest.raises(OSError, match=r"cannot listen on \[::1\]"):
        driver.listen(0, ["127.0.0.1", "::1"])
    assert driver.listen(0, ["::", "127.0.0.1"]) > 0


def test_a_port_no_longer_listened_on_refuses_and_keeps_its_connections(
    driver: SteppedDriver, port: int
) -> None:
    peer, client = driver.connect(port)
    driver.stop_listening(0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    driver.send(peer, b"still here")
    driver.run_until(lambda: client.received == b"still here")
    peer.close()


# Reading.


def test_data_and_end_of_file_arrive_in_order(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    data = pattern(3 * MEBIBYTE)
    driver.send(peer, data)
    peer.shutdown(socket.SHUT_WR)
    driver.run_until(lambda: "eof" in client.heard)
    assert client.received == data
    assert client.link.bytes_received == len(data)
    driver.settle()
    assert client.heard == ["eof"]
    peer.close()


def test_our_direction_goes_on_after_the_peers_has_ended(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    peer.shutdown(socket.SHUT_WR)
    driver.run_until(lambda: client.heard == ["eof"])
    driver.do(lambda: client.link.write(b"answer"))
    driver.do(client.link.close)
    assert driver.receive_to_end(peer) == b"answer"
    peer.close()


def test_shutting_down_writing_leaves_reading(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)

    def answer_and_end() -> None:
        client.link.write(b"last words")
        client.link.shut_down_writing()

    driver.do(answer_and_end)
    assert driver.receive_to_end(peer) == b"last words"
    driver.send(peer, b"heard you")
    driver.run_until(lambda: client.received == b"heard you")
    peer.close()
    driver.run_until(lambda: client.heard == ["eof"])


def test_a_paused_link_is_not_read_and_resumes(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    driver.do(client.link.pause_reading)
    peer.send(b"later")
    peer.shutdown(socket.SHUT_WR)
    driver.settle()
    assert not client.received
    assert not client.heard
    driver.do(client.link.resume_reading)
    driver.run_until(lambda: client.heard == ["eof"])
    assert client.received == b"later"
    peer.close()


def test_a_pause_within_one_input_is_obeyed_in_the_same_batch(driver: SteppedDriver, port: int) -> None:
    first, first_client = driver.connect(port)
    second, second_client = driver.connect(port)
    first_client.on_data = lambda data: second_client.link.pause_reading()
    second_client.on_data = lambda data: first_client.link.pause_reading()
    first.send(b"x")
    second.send(b"x")
    driver.settle()
    assert len(first_client.received) + len(second_client.received) == 1
    first.close()
    second.close()


def test_a_reset_is_a_loss(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    reset(peer)
    driver.run_until(lambda: client.lost_reason is LostReason.RESET)
    assert client.link.transport is None
    driver.settle()


def test_what_came_before_a_reset_is_read_first(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    driver.do(client.link.pause_reading)
    peer.send(b"before")
    reset(peer)
    driver.settle()
    assert client.heard == []
    driver.do(client.link.resume_reading)
    driver.run_until(lambda: client.lost_reason is LostReason.RESET)
    assert client.received == b"before"


@pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="only epoll reports errors unasked")
def test_a_reset_of_a_paused_link_is_told_at_once(port: int, driver: SteppedDriver) -> None:
    if not isinstance(driver._source, SelectorSource):
        peer, client = driver.connect(port)
        driver.do(client.link.pause_reading)
        reset(peer)
        driver.run_until(lambda: client.lost_reason is LostReason.RESET)


def test_a_hung_up_peer_of_a_paused_link_neither_spins_nor_is_lost(
    driver: SteppedDriver, tmp_path: Path
) -> None:
    path = str(tmp_path / "backend")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        operation_id, upstream = driver.do(lambda: driver.fake.open_stream((path, UNIX_PORT)))
        driver.run_until(lambda: operation_id in driver.fake.results)
        peer, _ = server.accept()
        driver.do(upstream.link.pause_reading)
        peer.send(b"parting words")
        peer.close()
        driver.settle()
        assert upstream.heard == []
        driver.do(upstream.link.resume_reading)
        driver.run_until(lambda: upstream.heard == ["eof"])
        assert upstream.received == b"parting words"


# Writing.


def test_partial_writes_keep_every_byte(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    client.link.transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    data = pattern(400_000)

    def write_in_pieces() -> None:
        for start in range(0, len(data), 10_000):
            client.link.write(data[start : start + 10_000])
        client.link.notify_writable = True

    driver.do(write_in_pieces)
    assert client.link.outgoing_bytes > 0, "the kernel took it all: the test shows nothing"
    assert client.heard == []
    assert driver.receive(peer, len(data)) == data
    driver.run_until(lambda: client.heard == ["writable"])
    assert client.link.bytes_sent == len(data)
    driver.settle()
    peer.close()


def test_reading_goes_on_while_writing_is_blocked(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    data = pattern(8 * MEBIBYTE)
    driver.do(lambda: client.link.write(data))
    driver.send(peer, b"meanwhile")
    driver.run_until(lambda: client.received == b"meanwhile")
    assert driver.receive(peer, len(data)) == data
    peer.close()


def test_closing_waits_for_a_slow_reader(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    data = pattern(8 * MEBIBYTE)

    def answer_and_close() -> None:
        client.link.write(data)
        client.link.close()

    driver.do(answer_and_close)
    assert client.link.transport is not None
    assert driver.receive(peer, len(data)) == data
    driver.run_until(lambda: client.link.transport is None)
    assert client.heard == []
    assert client.received == b""
    peer.close()


def test_a_closed_link_whose_peer_takes_nothing_is_reset_in_the_end(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)

    def answer_and_close() -> None:
        client.link.write(bytes(8 * MEBIBYTE))
        client.link.close()

    driver.do(answer_and_close)
    driver.fire_own_timers()
    assert client.link.transport is None
    with pytest.raises(ConnectionResetError):
        driver.receive_to_end(peer)
    peer.close()


def test_a_peer_that_resets_while_being_written_to_is_lost_once(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    driver.do(client.link.pause_reading)
    reset(peer)
    driver.do(lambda: client.link.write(b"x" * 100_000))
    driver.run_until(lambda: client.lost_reason is LostReason.RESET)
    driver.settle()
    assert client.heard == ["lost"]


def test_an_answer_sent_before_a_reset_is_read_although_sending_fails(
    driver: SteppedDriver, server: socket.socket
) -> None:
    peer, upstream = driver.open_to(server)
    driver.do(lambda: upstream.link.write(b"x" * 100_000))
    peer.send(b"413 too large")
    # Unread input makes the kernel send a reset behind the answer.
    peer.close()
    driver.do(lambda: upstream.link.write(b"x" * 100_000))
    assert upstream.link.transport.failure is LostReason.RESET, "sending went well: the test shows nothing"
    driver.run_until(lambda: upstream.lost_reason is LostReason.RESET)
    assert upstream.received == b"413 too large"


def test_an_exception_out_of_an_input_costs_only_its_own_link(driver: SteppedDriver, port: int) -> None:
    first, first_client = driver.connect(port)
    second, second_client = driver.connect(port)

    def fail(data: bytes) -> None:
        raise ZeroDivisionError

    first_client.on_data = fail
    first.send(b"x")
    second.send(b"x")
    driver.run_until(lambda: second_client.received == b"x" and bool(driver.fake.bugs))
    assert driver.fake.bugs[0][0] is first_client.link
    with pytest.raises(ConnectionResetError):
        driver.receive_to_end(first)
    driver.do(lambda: second_client.link.write(b"y"))
    assert driver.receive(second, 1) == b"y"
    first.close()
    second.close()


def test_a_bug_of_the_drivers_own_costs_only_one_link(
    driver: SteppedDriver, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, first_client = driver.connect(port)
    second, second_client = driver.connect(port)
    real_visit = driver._visit

    def visit(stream: StreamSocket) -> None:
        if stream.link is first_client.link:
            raise ZeroDivisionError
        real_visit(stream)

    monkeypatch.setattr(driver, "_visit", visit)

    def write_to_both() -> None:
        first_client.link.write(b"x")
        second_client.link.write(b"x")

    driver.do(write_to_both)
    assert driver.receive(second, 1) == b"x"
    with pytest.raises(ConnectionResetError):
        driver.receive_to_end(first)
    assert driver.fake.bugs[0][0] is first_client.link
    first.close()
    second.close()


def test_an_event_of_a_closed_socket_is_not_given_to_the_next_with_its_number(
    driver: SteppedDriver, port: int
) -> None:
    """Two links are ready in one batch; each one's input resets the other and opens a connection."""
    (first, first_client), (second, second_client) = (driver.connect(port) for _ in range(2))
    numbers = {first_client.link.transport.fd, second_client.link.transport.fd}
    opened: list[tuple[int, Recorder]] = []

    def replace(other: Recorder, me: Recorder, address: tuple[str, int]) -> None:
        def on_data(data: bytes) -> None:
            other.link.abort()
            me.link.notify_writable = True
            me.link.write(b"!")

        me.on_data = on_data
        me.on_writable = lambda: opened.append(driver.fake.open_stream(address))

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as waiting:
        # A queue of none holds one: from then on connecting takes for ever.
        waiting.connect(full.getsockname())
        replace(second_client, first_client, full.getsockname())
        replace(first_client, second_client, full.getsockname())
        first.send(b"x")
        second.send(b"x")
        driver.run_until(lambda: bool(opened))
        operation_id, _ = opened[0]
        connecting = driver._connecting[operation_id]
        assert connecting.fd in numbers, "the number was not used again: the test shows nothing"
        driver.settle()
        assert driver.fake.results == {}, "it was told of a connection there is not"
        driver.close()
    first.close()
    second.close()


# Operations.


def test_opened_streams_know_their_address_and_send_what_was_written_before(
    driver: SteppedDriver, server: socket.socket
) -> None:
    def open_and_write() -> tuple[int, Recorder]:
        operation_id, upstream = driver.fake.open_stream(server.getsockname())
        upstream.link.write(b"preamble")
        return operation_id, upstream

    operation_id, upstream = driver.do(open_and_write)
    driver.run_until(lambda: operation_id in driver.fake.results)
    peer, address = server.accept()
    peer.setblocking(False)
    assert driver.fake.results[operation_id] == Opened(address)
    assert upstream.link.local == address
    assert driver.receive(peer, 8) == b"preamble"
    peer.close()


def test_a_refused_connection_fails(driver: SteppedDriver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    operation_id, upstream = driver.do(lambda: driver.fake.open_stream(address))
    driver.run_until(lambda: operation_id in driver.fake.results)
    result = driver.fake.results[operation_id]
    assert isinstance(result, OperationFailed)
    assert result.reason is LostReason.REFUSED
    assert upstream.link.transport is None
    assert driver.times_idle == 1


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (("/nonexistent/socket", UNIX_PORT), LostReason.UNREACHABLE),
        (("/" + "x" * 300, UNIX_PORT), LostReason.ERROR),
        (("255.255.255.255", 80), LostReason.ERROR),
    ],
)
def test_a_connection_that_fails_at_once_is_an_answer_too(
    driver: SteppedDriver, address: tuple[str, int], reason: LostReason
) -> None:
    operation_id, _ = driver.do(lambda: driver.fake.open_stream(address))
    result = driver.fake.results[operation_id]
    assert isinstance(result, OperationFailed)
    assert result.reason in (reason, LostReason.UNREACHABLE)


def test_a_cancelled_connection_is_never_heard_of_again(driver: SteppedDriver, server: socket.socket) -> None:
    operation_id, upstream = driver.do(lambda: driver.fake.open_stream(server.getsockname()))
    driver.do(lambda: driver.fake.context.operations.append(CancelOperation(operation_id)))
    peer, _ = server.accept()
    peer.setblocking(False)
    assert driver.receive_to_end(peer) == b""
    driver.settle()
    assert driver.fake.results == {}
    assert upstream.link.transport is None
    peer.close()


def call(driver: SteppedDriver, function: object, *arguments: object) -> int:
    operation_id = driver.fake.context.next_operation_id()
    assert callable(function)
    operation = CallFunction(operation_id, function, arguments)
    driver.do(lambda: driver.fake.context.operations.append(operation))
    return operation_id


def test_functions_are_called_and_their_exceptions_answered(driver: SteppedDriver) -> None:
    assert driver.fake.results[call(driver, divmod, 7, 2)] == Returned((3, 1))
    failed = driver.fake.results[call(driver, divmod, 7, 0)]
    assert isinstance(failed, OperationFailed)
    assert failed.reason is LostReason.ERROR
    assert "ZeroDivisionError" in failed.detail


def test_a_function_may_give_the_engine_inputs_of_its_own(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)

    def use_the_driver() -> str:
        driver.do(lambda: client.link.write(b"from within"))
        return "done"

    assert driver.fake.results[call(driver, use_the_driver)] == Returned("done")
    assert driver.receive(peer, 11) == b"from within"
    peer.close()


def test_async_functions_are_left_to_the_event_loop(driver: SteppedDriver) -> None:
    async def double(number: int) -> int:
        return 2 * number

    first, second = call(driver, double, 1), call(driver, double, 2)
    driver.do(lambda: driver.fake.context.operations.append(CancelOperation(second)))
    assert driver.stopped_tasks == [second]
    driver.answer(first, Returned(2))
    driver.answer(second, Returned(4))
    assert driver.fake.results == {first: Returned(2)}
    for awaitable in driver.awaiting.values():
        awaitable.close()  # type: ignore[attr-defined]


# The timer.


def test_the_timer_is_armed_again_only_for_an_earlier_deadline(driver: SteppedDriver) -> None:
    context = driver.fake.context
    timer, earlier = Timer(lambda: None), Timer(lambda: None)
    driver.do(lambda: context.timers.set(timer, 2e9))
    driver.do(lambda: context.timers.set(timer, 3e9))
    assert driver.armed == [2e9]
    driver.do(lambda: context.timers.set(earlier, 1e9))
    assert driver.armed == [2e9, 1e9]
    driver.timer_fired()
    assert driver.fake.timeouts == 0, "it came too early for everyone"
    assert driver.armed == [2e9, 1e9, 1e9]
    driver.do(lambda: context.timers.set(earlier, -1.0))
    driver.timer_fired()
    assert driver.fake.timeouts == 1
    assert earlier.deadline == inf
    assert driver.armed[-1] == 3e9


def test_a_listener_for_records_may_give_the_engine_inputs_of_its_own(
    driver: SteppedDriver, port: int
) -> None:
    peer, client = driver.connect(port)
    driver._on_records = lambda records: driver.do(lambda: client.link.write(b"from within"))
    driver.do(lambda: client.link.context.record("engine", "something_happened"))
    assert driver.receive(peer, 11) == b"from within"
    peer.close()


def test_a_listener_for_records_that_raises_hurts_nobody(driver: SteppedDriver, port: int) -> None:
    def fail(records: object) -> None:
        raise ZeroDivisionError

    driver._on_records = fail
    peer, client = driver.connect(port)
    client.on_data = lambda data: client.link.context.record("engine", "something_happened")
    peer.send(b"1")
    driver.run_until(lambda: client.received == b"1")
    peer.send(b"2")
    driver.run_until(lambda: client.received == b"12")
    peer.close()


def test_releasing_everything_leaves_no_descriptor() -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    driver = SteppedDriver(FakeEngine())
    port = driver.listen(0, ["127.0.0.1", "::1"])
    peers = [driver.connect(port) for _ in range(5)]
    driver.do(lambda: driver.fake.start_relay(peers[0][1], peers[1][1]))
    driver.send(peers[0][0], bytes(MEBIBYTE))
    driver.close()
    driver.close()
    for peer, _ in peers:
        peer.close()
    assert set(os.listdir("/proc/self/fd")) == before
