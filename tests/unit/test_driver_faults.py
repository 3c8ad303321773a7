"""Engines and kernels that do what they should not: one connection pays, the driver goes on."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_engine import FakeEngine, Recorder, SteppedDriver

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import CallFunction, OperationFailed, RelayOutcome
from smartproxy.core.timers import Timer
from smartproxy.drivers import driver as driver_module
from smartproxy.drivers import pump as pump_module
from smartproxy.drivers import relay as relay_module
from smartproxy.drivers.readiness import READABLE, WRITABLE, SelectorSource
from smartproxy.drivers.relay import RelayBuffers
from smartproxy.drivers.sockets import StreamSocket, prepare_accepted

MEBIBYTE = 1024 * 1024


@pytest.fixture
def driver() -> Iterator[SteppedDriver]:
    driver = SteppedDriver(FakeEngine())
    driver.listen(0, ["127.0.0.1"])
    yield driver
    driver.close()


@pytest.fixture
def port(driver: SteppedDriver) -> int:
    return driver.listening_ports()[0]


def fail(*arguments: object, **options: object) -> Any:
    raise ZeroDivisionError


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def check_that_others_are_served(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    client.on_data = client.link.write
    driver.send(peer, b"echo")
    assert driver.receive(peer, 4) == b"echo"
    peer.close()


# Inputs that raise.


def test_at_end_of_file(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    client.on_eof = fail
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        driver.receive_to_end(peer)
    assert driver.fake.bugs[0][0] is client.link
    check_that_others_are_served(driver, port)
    peer.close()


def test_at_a_loss(driver: SteppedDriver, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, client = driver.connect(port)
    with monkeypatch.context() as patch:
        patch.setattr(driver.fake, "handle_lost", fail)
        reset(peer)
        driver.run_until(lambda: bool(driver.fake.bugs))
    assert driver.fake.bugs[0][0] is client.link
    check_that_others_are_served(driver, port)


def test_when_writable(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    client.on_writable = fail

    def write_and_ask() -> None:
        client.link.write(b"x")
        client.link.notify_writable = True

    driver.do(write_and_ask)
    assert driver.fake.bugs[0][0] is client.link
    assert client.link.transport is None
    check_that_others_are_served(driver, port)
    peer.close()


def test_at_an_answer(driver: SteppedDriver, port: int) -> None:
    driver.fake.on_result = fail
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, upstream = driver.do(lambda: driver.fake.open_stream(server.getsockname()))
        driver.run_until(lambda: bool(driver.fake.bugs))
    assert upstream.link.transport is None
    assert driver.fake.bugs[0][0] is upstream.link
    check_that_others_are_served(driver, port)


def test_at_the_end_of_a_relay(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    other_peer, other = driver.connect(port)
    driver.fake.on_relay_ended = fail
    driver.do(lambda: driver.fake.start_relay(client, other, 0))
    assert driver.fake.bugs[0][0] is client.link
    driver.do(lambda: driver.fake.start_relay(client, other))
    assert len(driver.fake.bugs) == 2
    check_that_others_are_served(driver, port)
    peer.close()
    other_peer.close()


def test_at_a_deadline(driver: SteppedDriver, port: int) -> None:
    after = Timer(lambda: fired.append("after"))
    before = Timer(fail)
    fired: list[str] = []
    driver.do(lambda: driver.fake.context.timers.set(before, 1.0))
    driver.do(lambda: driver.fake.context.timers.set(after, 2.0))
    driver.timer_fired()
    assert driver.fake.bugs[0][0] is None
    assert driver.armed[-1] == 2.0, "what the bug broke off is made up for"
    driver.timer_fired()
    assert fired == ["after"]
    check_that_others_are_served(driver, port)


def test_the_report_itself(driver: SteppedDriver, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, client = driver.connect(port)
    client.on_data = fail
    with monkeypatch.context() as patch:
        patch.setattr(driver.fake, "handle_bug", fail)
        peer.send(b"x")
        with pytest.raises(ConnectionResetError):
            driver.receive_to_end(peer)
    check_that_others_are_served(driver, port)
    peer.close()


def test_an_input_from_outside_raises_to_its_caller(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)

    def write_and_fail() -> None:
        client.link.write(b"written before")
        fail()

    with pytest.raises(ZeroDivisionError):
        driver.do(write_and_fail)
    assert driver.receive(peer, 14) == b"written before"
    peer.close()


# The driver's own bugs.


def test_an_operation_that_cannot_be_started(
    driver: SteppedDriver, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(driver, "_call", fail)
        driver.do(lambda: driver.fake.context.operations.append(CallFunction(1, divmod, (1, 1))))
    assert driver.fake.bugs[0][0] is None
    check_that_others_are_served(driver, port)


def test_an_input_found_while_draining_that_fails(
    driver: SteppedDriver, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(driver, "_tell_result", fail)
        driver.do(lambda: driver.fake.context.operations.append(CallFunction(1, divmod, (1, 1))))
    assert driver.fake.bugs[0][0] is None
    check_that_others_are_served(driver, port)


def test_a_function_called_later(driver: SteppedDriver, port: int) -> None:
    driver.call_after(-1.0, fail)
    driver.call_after(-1.0, lambda: called.append("the other one"))
    called: list[str] = []
    driver.timer_fired()
    assert driver.fake.bugs[0][0] is None
    driver.timer_fired()
    assert called == ["the other one"]
    check_that_others_are_served(driver, port)


def test_an_event_that_cannot_be_handled(
    driver: SteppedDriver, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, client = driver.connect(port)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "_receive", fail)
        peer.send(b"x")
        with pytest.raises(ConnectionResetError):
            driver.receive_to_end(peer)
    assert driver.fake.bugs[0][0] is client.link
    check_that_others_are_served(driver, port)
    peer.close()


# Kernels that answer otherwise.


class ScriptedSocket:
    """A socket of which some calls answer as the test says."""

    def __init__(self, sock: socket.socket, **answers: Callable[..., Any]) -> None:
        self._sock = sock
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        return self._answers.get(name) or getattr(self._sock, name)


def raising(number: int) -> Callable[..., Any]:
    def call(*arguments: object, **options: object) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def script(client: Recorder, **answers: Callable[..., Any]) -> None:
    transport = client.link.transport
    transport.sock = ScriptedSocket(transport.sock, **answers)


def test_a_connection_that_times_out_while_being_read(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    script(client, recv=raising(errno.ETIMEDOUT))
    peer.send(b"x")
    driver.run_until(lambda: client.lost_reason is LostReason.TIMED_OUT)
    peer.close()


def test_an_error_that_reading_does_not_show(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    script(client, recv=raising(errno.EAGAIN), getsockopt=lambda *arguments: errno.EHOSTUNREACH)
    reset(peer)
    driver.run_until(lambda: client.lost_reason is LostReason.UNREACHABLE)


def test_an_error_of_a_paused_link_that_reading_does_not_show(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    driver.do(client.link.pause_reading)
    script(client, recv=raising(errno.EAGAIN), getsockopt=lambda *arguments: errno.EHOSTUNREACH)
    reset(peer)
    driver.run_until(lambda: client.lost_reason is LostReason.UNREACHABLE)


def test_room_that_is_gone_again(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    sock = client.link.transport.sock
    attempts: list[int] = []

    def send(data: bytes) -> int:
        attempts.append(len(data))
        if len(attempts) < 3:
            raise BlockingIOError
        taken: int = sock.send(data)
        return taken

    script(client, send=send)
    driver.do(lambda: client.link.write(b"at last"))
    assert driver.receive(peer, 7) == b"at last"
    assert attempts == [7, 7, 7]
    peer.close()


def test_a_send_that_fails_when_there_is_room_again(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    driver.do(client.link.pause_reading)
    answers = iter([raising(errno.EAGAIN), raising(errno.EPIPE)])
    script(client, send=lambda data: next(answers)())
    driver.do(lambda: client.link.write(b"x"))
    driver.run_until(lambda: client.lost_reason is LostReason.RESET)
    peer.close()


def test_a_send_that_fails_behind_a_close(driver: SteppedDriver, port: int) -> None:
    peer, client = driver.connect(port)
    answers = iter([raising(errno.EAGAIN), raising(errno.EPIPE)])
    script(client, send=lambda data: next(answers)())

    def write_and_close() -> None:
        client.link.write(b"x")
        client.link.close()

    driver.do(write_and_close)
    driver.run_until(lambda: client.link.transport is None)
    assert client.heard == []
    peer.close()


def test_a_peer_that_takes_a_little_now_and_then_puts_the_linger_deadline_off(
    driver: SteppedDriver, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(pump_module, "monotonic", lambda: now)
    peer, client = driver.connect(port)
    script(client, send=lambda data: 1)

    def write_and_close() -> None:
        client.link.write(b"x" * 1000)
        client.link.close()

    driver.do(write_and_close)
    stream: StreamSocket = client.link.transport
    deadlines = []
    for _ in range(4):
        assert stream.linger_timer is not None
        deadlines.append(stream.linger_timer.deadline - now)
        now += 200.0
        driver._send_rest(stream)
    assert deadlines == [30.0, 30.0, 30.0, 0.0], "ten minutes are enough in all"
    peer.close()


def test_a_client_gone_before_it_is_accepted(driver: SteppedDriver, port: int) -> None:
    listener = next(iter(driver._listeners.by_fd.values()))
    sock = listener.sock
    answers = [raising(errno.ECONNABORTED)]
    scripted: Any = ScriptedSocket(sock, accept=lambda: answers.pop()() if answers else sock.accept())
    listener.sock = scripted
    check_that_others_are_served(driver, port)
    assert not answers
    listener.sock = sock


def test_a_client_gone_while_it_is_accepted(
    driver: SteppedDriver, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[socket.socket] = []

    def refuse_first(sock: socket.socket) -> None:
        if not refused:
            refused.append(sock)
            raising(errno.EINVAL)()
        prepare_accepted(sock)

    monkeypatch.setattr(pump_module, "prepare_accepted", refuse_first)
    with socket.create_connection(("127.0.0.1", port)):
        check_that_others_are_served(driver, port)
    assert refused[0].fileno() == -1


def test_listening_stops_while_clients_are_accepted(driver: SteppedDriver, port: int) -> None:
    peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    driver.fake.on_accepted = lambda client: driver.stop_listening(0)
    driver.run_until(lambda: bool(driver.fake.clients))
    driver.settle()
    assert len(driver.fake.clients) == 1
    for peer in peers:
        peer.close()


def test_a_connection_to_itself_is_refused(driver: SteppedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP lets a socket connect to its own port when that port is free and happens to be picked for it."""

    def connect_to_itself(address: tuple[str, int]) -> socket.socket:
        sock = socket.socket()
        sock.bind(address)
        sock.connect(address)
        sock.setblocking(False)
        return sock

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    monkeypatch.setattr(driver_module, "start_connecting", connect_to_itself)
    operation_id, upstream = driver.do(lambda: driver.fake.open_stream(address))
    driver.run_until(lambda: operation_id in driver.fake.results)
    result = driver.fake.results[operation_id]
    assert isinstance(result, OperationFailed)
    assert result.reason is LostReason.REFUSED
    assert upstream.link.transport is None


def test_no_descriptor_for_a_connection(driver: SteppedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "start_connecting", raising(errno.EMFILE))
    operation_id, _ = driver.do(lambda: driver.fake.open_stream(("127.0.0.1", 1)))
    result = driver.fake.results[operation_id]
    assert result == OperationFailed(LostReason.RESOURCE_EXHAUSTED, "Too many open files")


# Relays.


@pytest.mark.skipif(not relay_module.CAN_SPLICE, reason="only Linux has splice")
@pytest.mark.parametrize("fails_towards", ["pipe", "socket"])
def test_sockets_that_cannot_be_spliced_are_copied(
    driver: SteppedDriver, port: int, monkeypatch: pytest.MonkeyPatch, fails_towards: str
) -> None:
    source_peer, source = driver.connect(port)
    sink_peer, sink = driver.connect(port)
    real_splice = os.splice
    refused: list[int] = []

    def splice(from_fd: int, to_fd: int, count: int, **options: int) -> int:
        if (to_fd == sink.link.transport.fd) == (fails_towards == "socket"):
            refused.append(to_fd)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_splice(from_fd, to_fd, count, **options)

    monkeypatch.setattr(os, "splice", splice)
    relay = driver.do(lambda: driver.fake.start_relay(source, sink))
    data = bytes(range(256)) * 4096
    driver.send(source_peer, data)
    assert driver.receive(sink_peer, len(data)) == data
    assert relay.moved_bytes == len(data)
    assert len(refused) == 1, "it is not tried again"
    source_peer.close()
    sink_peer.close()


@pytest.mark.skipif(not relay_module.CAN_SPLICE, reason="only Linux has splice")
def test_pipes_that_cannot_be_had_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = RelayBuffers()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", raising(errno.EMFILE))
        assert buffers.take_pipe() is None
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.fcntl", raising(errno.EPERM))
        pipe = buffers.take_pipe()
        assert pipe is not None, "a small pipe is a pipe"
        buffers.give_back(pipe)
    buffers.close()
    assert buffers.pipe_count == 0


def test_a_lost_sink_counts_only_what_it_took(driver: SteppedDriver, port: int) -> None:
    source_peer, source = driver.connect(port)
    sink_peer, sink = driver.connect(port)
    driver.do(sink.link.pause_reading)
    answers = iter([lambda: 3, raising(errno.EPIPE)])
    script(sink, send=lambda data: next(answers)())
    relay = driver.do(lambda: driver.fake.start_relay(source, sink))
    source_peer.send(b"0123456789")
    driver.run_until(lambda: driver.fake.relay_outcomes == {relay.id: RelayOutcome.SINK_LOST})
    assert relay.moved_bytes == sink.link.bytes_sent == 3
    source_peer.close()
    sink_peer.close()


# Readiness without epoll.


def test_a_selector_without_a_descriptor_is_refused_clearly() -> None:
    with pytest.raises(OSError, match="needs epoll or kqueue; this system only offers SelectSelector"):
        SelectorSource(selectors.SelectSelector())


def test_a_selector_source_behaves_like_an_epoll() -> None:
    source = SelectorSource()
    left, right = socket.socketpair()
    with left, right:
        source.register(left.fileno(), 0)
        right.send(b"x")
        assert source.poll(0, 10) == []
        with pytest.raises(FileExistsError):
            source.register(left.fileno(), READABLE)
        source.modify(left.fileno(), READABLE)
        assert source.poll(0, 10) == [(left.fileno(), READABLE)]
        source.modify(left.fileno(), READABLE | WRITABLE)
        assert source.poll(0, 10) == [(left.fileno(), READABLE | WRITABLE)]
        source.register(right.fileno(), WRITABLE)
        assert len(source.poll(0, 1)) == 1
        source.modify(left.fileno(), 0)
        assert source.poll(0, 10) == [(right.fileno(), WRITABLE)]
        source.unregister(left.fileno())
        source.unregister(right.fileno())
        assert source.poll(0, 10) == []
    source.close()
