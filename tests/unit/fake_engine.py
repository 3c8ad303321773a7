"""An engine that does what a test tells it, on the real links and context, and a driver that a test steps."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any, cast

from smartproxy.core.context import Context
from smartproxy.core.datagrams import Datagram, DatagramLink
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure, LostReason
from smartproxy.core.ops import (
    Address,
    OpenDatagrams,
    OpenStream,
    Operation,
    OperationFailed,
    RelayOutcome,
    ResolveHost,
    Result,
    StartRelay,
)
from smartproxy.core.records import AccessRecord, Record
from smartproxy.core.stream import Link
from smartproxy.drivers.driver import Driver

if TYPE_CHECKING:
    from smartproxy.core.engine import Engine

PATIENCE_S = 20.0
"""Only how long a failing test waits before it says so."""


class Recorder:
    """A stream handler that keeps what it hears, and reacts as it is told to."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.received = bytearray()
        self.heard: list[str] = []
        self.lost_reason: LostReason | None = None
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_eof: Callable[[], None] = lambda: None
        self.on_writable: Callable[[], None] = lambda: None

    def receive_data(self, data: bytes) -> None:
        assert data
        self.received += data
        self.on_data(data)

    def receive_eof(self) -> None:
        self.heard.append("eof")
        self.on_eof()

    def stream_writable(self) -> None:
        self.link.notify_writable = False
        self.heard.append("writable")
        self.on_writable()

    def stream_lost(self, failure: Failure) -> None:
        raise AssertionError("the fake engine tells of losses itself")


class DatagramRecorder:
    """The session on a UDP socket: it keeps what it hears, and reacts as it is told to."""

    def __init__(self, link: DatagramLink) -> None:
        self.link = link
        self.received: list[Datagram] = []
        self.bursts: list[int] = []
        self.lost_reasons: list[LostReason] = []
        self.times_writable = 0
        self.on_datagrams: Callable[[list[Datagram]], None] = lambda datagrams: None
        self.on_lost: Callable[[], None] = lambda: None

    def receive_datagrams(self, datagrams: list[Datagram]) -> None:
        assert datagrams
        self.received += datagrams
        self.bursts.append(len(datagrams))
        self.on_datagrams(datagrams)

    def datagrams_writable(self) -> None:
        self.times_writable += 1

    def datagrams_lost(self, failure: Failure) -> None:
        raise AssertionError("the fake engine tells of losses itself")


class FakeEngine:
    """Inputs and outputs of the real engine, with a `Recorder` on each link."""

    def __init__(self) -> None:
        self.context = Context(Env(entropy=os.urandom, wall_clock=time.time))
        self.clients: list[Recorder] = []
        self.results: dict[int, Result] = {}
        self.relay_outcomes: dict[int, RelayOutcome] = {}
        self.bugs: list[tuple[Link | DatagramLink | None, BaseException]] = []
        self.connection_count = 0
        self.wants_udp = True
        self.udp_listeners: list[DatagramRecorder] = []
        self.timeouts = 0
        self.on_accepted: Callable[[Recorder], None] = lambda client: None
        self.on_result: Callable[[int, Result], None] = lambda operation_id, result: None
        self.on_relay_ended: Callable[[StartRelay, RelayOutcome], None] = lambda relay, outcome: None
        self._next_link_id = 0
        self._in_input = False

    def new_link(self, peer: Address, local: Address = ("", 0)) -> Recorder:
        self._next_link_id += 1
        link = Link(self.context, self._next_link_id, peer, local)
        recorder = Recorder(link)
        link.handler = recorder
        return recorder

    def _enter(self, now: float) -> None:
        assert not self._in_input
        self._in_input = True
        self.context.now = now

    def _recorder(self, link: Link) -> Recorder:
        assert isinstance(link.handler, Recorder)
        return link.handler

    def handle_accepted(self, listening_port: int, peer: Address, local: Address, now: float) -> Link:
        self._enter(now)
        try:
            client = self.new_link(peer, local)
            self.clients.append(client)
            self.on_accepted(client)
            return client.link
        finally:
            self._in_input = False

    def handle_data(self, link: Link, data: bytes, now: float) -> None:
        self._enter(now)
        try:
            link.bytes_received += len(data)
            self._recorder(link).receive_data(data)
        finally:
            self._in_input = False

    def handle_eof(self, link: Link, now: float) -> None:
        self._enter(now)
        try:
            self._recorder(link).receive_eof()
        finally:
            self._in_input = False

    def handle_lost(self, link: Link, reason: LostReason, now: float) -> None:
        self._enter(now)
        recorder = self._recorder(link)
        recorder.heard.append("lost")
        assert recorder.lost_reason is None, "told twice that a link is lost"
        recorder.lost_reason = reason
        self._in_input = False

    def handle_writable(self, link: Link, now: float) -> None:
        self._enter(now)
        try:
            assert link.outgoing_bytes == 0
            self._recorder(link).stream_writable()
        finally:
            self._in_input = False

    def handle_result(self, operation_id: int, result: Result, now: float) -> None:
        self._enter(now)
        try:
            assert operation_id not in self.results
            self.results[operation_id] = result
            self.on_result(operation_id, result)
        finally:
            self._in_input = False

    def handle_relay_ended(self, relay: StartRelay, outcome: RelayOutcome, now: float) -> None:
        self._enter(now)
        try:
            assert relay.id not in self.relay_outcomes
            self.relay_outcomes[relay.id] = outcome
            self.on_relay_ended(relay, outcome)
        finally:
            self._in_input = False

    def handle_timeout(self, now: float) -> None:
        self._enter(now)
        self.timeouts += 1
        try:
            self.context.timers.fire(now)
        finally:
            self._in_input = False

    def handle_udp_bound(self, listening_port: int, local: Address, now: float) -> DatagramLink | None:
        self._enter(now)
        self._in_input = False
        if not self.wants_udp:
            return None
        listener = self.new_datagram_link(None, local)
        self.udp_listeners.append(listener)
        return listener.link

    def new_datagram_link(self, peer: Address | None, local: Address = ("", 0)) -> DatagramRecorder:
        self._next_link_id += 1
        link = DatagramLink(self.context, self._next_link_id, peer, local)
        recorder = DatagramRecorder(link)
        link.handler = recorder
        return recorder

    def _datagram_recorder(self, link: DatagramLink) -> DatagramRecorder:
        assert isinstance(link.handler, DatagramRecorder)
        return link.handler

    def handle_datagrams(self, link: DatagramLink, datagrams: list[Datagram], now: float) -> None:
        self._enter(now)
        try:
            self._datagram_recorder(link).receive_datagrams(datagrams)
        finally:
            self._in_input = False

    def handle_datagrams_writable(self, link: DatagramLink, now: float) -> None:
        self._enter(now)
        assert link.outgoing_count == 0
        link.notify_writable = False
        self._datagram_recorder(link).datagrams_writable()
        self._in_input = False

    def handle_datagrams_lost(self, link: DatagramLink, reason: LostReason, now: float) -> None:
        self._enter(now)
        recorder = self._datagram_recorder(link)
        recorder.lost_reasons.append(reason)
        recorder.on_lost()
        self._in_input = False

    def handle_bug(self, link: Link | DatagramLink | None, error: BaseException, now: float) -> None:
        self._enter(now)
        self.bugs.append((link, error))
        if isinstance(link, Link):
            link.abort()
        self._in_input = False

    def poll_dirty_links(self) -> list[Link]:
        links, self.context.dirty_links = self.context.dirty_links, []
        for link in links:
            link.clear_dirty()
        return links

    def poll_dirty_datagram_links(self) -> list[DatagramLink]:
        links, self.context.dirty_datagram_links = self.context.dirty_datagram_links, []
        for link in links:
            link.is_dirty = False
        return links

    def poll_operations(self) -> list[Operation]:
        operations, self.context.operations = self.context.operations, []
        return operations

    def poll_records(self) -> list[Record | AccessRecord]:
        records, self.context.records = self.context.records, []
        return records

    def poll_timeout(self) -> float:
        return self.context.timers.next_deadline()

    # What a test asks of it, from within `driver.apply`.

    def open_stream(self, address: Address) -> tuple[int, Recorder]:
        upstream = self.new_link(address)
        operation = OpenStream(self.context.next_operation_id(), upstream.link, address)
        self.context.operations.append(operation)
        return operation.id, upstream

    def open_datagrams(self, address: Address) -> tuple[int, DatagramRecorder]:
        upstream = self.new_datagram_link(address)
        operation = OpenDatagrams(self.context.next_operation_id(), upstream.link, address)
        self.context.operations.append(operation)
        return operation.id, upstream

    def start_relay(self, source: Recorder, sink: Recorder, length_bytes: int = -1) -> StartRelay:
        relay = StartRelay(self.context.next_operation_id(), source.link, sink.link, length_bytes)
        self.context.operations.append(relay)
        return relay


class SteppedDriver(Driver):
    """A driver without an event loop: the test turns the pump by hand."""

    def __init__(self, engine: FakeEngine) -> None:
        self.fake = engine
        self.records: list[Record | AccessRecord] = []
        self.armed: list[float] = []
        self.awaiting: dict[int, Awaitable[Any]] = {}
        self.stopped_tasks: list[int] = []
        self.lookups: list[ResolveHost] = []
        self.times_idle = 0
        super().__init__(cast("Engine", engine), on_records=self.records.extend)
        self._is_running = True

    def _arm_timer(self, deadline: float) -> None:
        self.armed.append(deadline)

    def _start_lookup(self, operation: ResolveHost) -> None:
        self.lookups.append(operation)

    def _start_awaiting(self, operation_id: int, awaitable: Awaitable[Any]) -> None:
        self.awaiting[operation_id] = awaitable

    def _stop_task(self, operation_id: int) -> None:
        self.stopped_tasks.append(operation_id)

    def _became_idle(self) -> None:
        self.times_idle += 1

    # Stepping.

    def do(self, action: Callable[[], Any]) -> Any:
        """Run `action` as an input of the engine and drain."""
        return self.apply(lambda now: action())

    def has_events(self) -> bool:
        """Whether the pump would be woken now: true for ever would be a spin."""
        return bool(select.select([self._source.fileno()], [], [], 0)[0])

    def run_until(self, condition: Callable[[], bool], *others: socket.socket) -> None:
        """Turn the pump as it is woken, until `condition()`; `others` becoming readable looks again too."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up_at, "nothing happened"
            self._wait(*others)
            self.turn()

    def _wait(self, *others: socket.socket) -> None:
        watched: list[Any] = [self._source.fileno(), *others]
        select.select(watched, [], [], PATIENCE_S)

    def settle(self) -> None:
        """Turn the pump until nothing more wakes it."""
        for _ in range(1000):
            if not self.has_events():
                return
            self.turn()
        raise AssertionError("the pump is woken again and again for nothing")

    def fire_own_timers(self) -> None:
        """Let all the time pass that the driver itself waits for."""
        self._timers.fire(inf)
        self._drain()

    def close(self) -> None:
        self._release_everything()

    # Peers: plain non-blocking sockets, in the same thread.

    def connect(self, port: int) -> tuple[socket.socket, Recorder]:
        """A client of the listener on `port`, accepted."""
        before = len(self.fake.clients)
        peer = socket.create_connection(("127.0.0.1", port))
        peer.setblocking(False)
        self.run_until(lambda: len(self.fake.clients) > before)
        return peer, self.fake.clients[-1]

    def open_to(self, server: socket.socket) -> tuple[socket.socket, Recorder]:
        """A connection the engine opens to `server`, and its other end."""
        host, port = server.getsockname()[:2]
        operation_id, upstream = self.do(lambda: self.fake.open_stream((host, port)))
        self.run_until(lambda: operation_id in self.fake.results)
        result = self.fake.results[operation_id]
        assert not isinstance(result, OperationFailed), result
        peer, _ = server.accept()
        peer.setblocking(False)
        return peer, cast(Recorder, upstream)

    def receive(self, peer: socket.socket, count: int) -> bytes:
        """Exactly `count` bytes of what the proxy sends to `peer`."""
        received = bytearray()
        give_up_at = time.monotonic() + PATIENCE_S
        while len(received) < count:
            assert time.monotonic() < give_up_at, f"only {len(received)} of {count} bytes came"
            try:
                data = peer.recv(min(1 << 20, count - len(received)))
            except BlockingIOError:
                self._wait(peer)
                self.turn()
                continue
            assert data, f"end-of-file after {len(received)} of {count} bytes"
            received += data
        return bytes(received)

    def receive_to_end(self, peer: socket.socket) -> bytes:
        """Everything up to end-of-file. Raises ConnectionResetError."""
        received = bytearray()
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < give_up_at, "no end-of-file"
            try:
                data = peer.recv(1 << 20)
            except BlockingIOError:
                self._wait(peer)
                self.turn()
                continue
            if not data:
                return bytes(received)
            received += data

    def send(self, peer: socket.socket, data: bytes) -> None:
        """All of `data`, while the pump takes what it will."""
        rest = memoryview(data)
        give_up_at = time.monotonic() + PATIENCE_S
        while rest:
            assert time.monotonic() < give_up_at, f"{len(rest)} bytes found no room"
            try:
                rest = rest[peer.send(rest) :]
            except BlockingIOError:
                watched: list[Any] = [self._source.fileno()]
                select.select(watched, [peer], [], PATIENCE_S)
                self.turn()
