"""Two tiny programs on the core's streams, to try the simulation on: an echo, and a joiner of connections."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.context import Context
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure, FailureCode, FailureSource, LostReason
from smartproxy.core.ops import (
    Address,
    Opened,
    OpenStream,
    Operation,
    RelayOutcome,
    Resolved,
    ResolveHost,
    Result,
    StartRelay,
)
from smartproxy.core.records import AccessRecord, Record
from smartproxy.core.relay.tunnel import Tunnel
from smartproxy.core.stream import HIGH_WATER_BYTES, Link
from smartproxy.core.timers import Timer


class SmallEngine:
    """The engine's inputs and outputs, over one `session` for each accepted link."""

    def __init__(self, env: Env, session: Callable[[SmallEngine, Link], object]) -> None:
        self.context = Context(env)
        self.session = session
        self.in_input = False
        self._next_link_id = 0

    def new_link(self, peer: Address, local: Address) -> Link:
        self._next_link_id += 1
        return Link(self.context, self._next_link_id, peer, local)

    def _input(self, now: float) -> None:
        assert not self.context.dirty_links, "outputs were left from the input before"
        assert not self.context.operations, "operations were left from the input before"
        assert now >= self.context.now, "time went back"
        self.context.now = now

    def handle_accepted(self, listening_port: int, peer: Address, local: Address, now: float) -> Link:
        self._input(now)
        link = self.new_link(peer, local)
        self.session(self, link)
        return link

    def handle_data(self, link: Link, data: bytes, now: float) -> None:
        self._input(now)
        assert data
        link.bytes_received += len(data)
        link.handler.receive_data(data)

    def handle_eof(self, link: Link, now: float) -> None:
        self._input(now)
        link.handler.receive_eof()

    def handle_lost(self, link: Link, reason: LostReason, now: float) -> None:
        self._input(now)
        handler = link.handler
        link.abort()
        handler.stream_lost(Failure(FailureSource.PROXY, FailureCode.CONNECTION_TERMINATED, reason.value))

    def handle_writable(self, link: Link, now: float) -> None:
        self._input(now)
        assert link.outgoing_bytes == 0
        link.handler.stream_writable()

    def handle_result(self, operation_id: int, result: Result, now: float) -> None:
        self._input(now)
        on_result = self.context.pending_operations.pop(operation_id, None)
        if on_result is not None:
            on_result(result)

    def handle_relay_ended(self, relay: StartRelay, outcome: RelayOutcome, now: float) -> None:
        self._input(now)
        on_end = self.context.pending_relays.pop(relay.id)
        on_end(outcome)
        lost = {RelayOutcome.SOURCE_LOST: relay.source, RelayOutcome.SINK_LOST: relay.sink}.get(outcome)
        if lost is not None:
            handler = lost.handler
            lost.abort()
            handler.stream_lost(Failure(FailureSource.PROXY, FailureCode.CONNECTION_TERMINATED))

    def handle_timeout(self, now: float) -> None:
        self._input(now)
        assert self.context.timers.next_deadline() <= now, "the timer fired early"
        self.context.timers.fire(now)

    def poll_dirty_links(self) -> list[Link]:
        links, self.context.dirty_links = self.context.dirty_links, []
        for link in links:
            link.clear_dirty()
        return links

    def poll_operations(self) -> list[Operation]:
        operations, self.context.operations = self.context.operations, []
        return operations

    def poll_records(self) -> list[Record | AccessRecord]:
        records, self.context.records = self.context.records, []
        return records

    def poll_timeout(self) -> float:
        return self.context.timers.next_deadline()


class EchoSession:
    """Sends back what comes, no faster than it is taken; closes an idle connection after `IDLE_S`."""

    IDLE_S = 60.0

    def __init__(self, engine: SmallEngine, link: Link) -> None:
        self.engine = engine
        self.link = link
        self.timer = Timer(self.link.close)
        self.most_outgoing_bytes = 0
        link.handler = self
        engine.context.set_timer(self.timer, self.IDLE_S)

    def receive_data(self, data: bytes) -> None:
        self.engine.context.set_timer(self.timer, self.IDLE_S)
        self.link.write(data)
        self.most_outgoing_bytes = max(self.most_outgoing_bytes, self.link.outgoing_bytes)
        if self.link.outgoing_bytes > HIGH_WATER_BYTES:
            self.link.pause_reading()
            self.link.notify_writable = True

    def receive_eof(self) -> None:
        self.engine.context.timers.cancel(self.timer)
        self.link.close()

    def stream_writable(self) -> None:
        self.link.notify_writable = False
        self.link.resume_reading()

    def stream_lost(self, failure: Failure) -> None:
        self.engine.context.timers.cancel(self.timer)


class JoinSession:
    """Joins a client to port 9000 of `backend.internal`."""

    def __init__(self, engine: SmallEngine, link: Link) -> None:
        self.engine = engine
        self.link = link
        self.tunnel: Tunnel | None = None
        link.handler = self
        link.pause_reading()
        context = engine.context
        context.start(ResolveHost(context.next_operation_id(), "backend.internal"), self.resolved)

    def resolved(self, result: Result) -> None:
        if not isinstance(result, Resolved):
            self.link.abort()
            return
        address = (result.addresses[0], 9000)
        context = self.engine.context
        backend = self.engine.new_link(address, ("", 0))
        operation = OpenStream(context.next_operation_id(), backend, address)
        context.start(operation, lambda answer: self.opened(backend, answer))

    def opened(self, backend: Link, result: Result) -> None:
        if not isinstance(result, Opened):
            self.link.abort()
            return
        context = self.engine.context
        self.tunnel = Tunnel(
            context, self.link, backend, timer=Timer(lambda: None), idle_s=60.0, on_end=lambda failure: None
        )

    # A read that was under way when reading was paused.

    def receive_data(self, data: bytes) -> None:
        self.link.abort()

    def receive_eof(self) -> None:
        self.link.abort()

    def stream_writable(self) -> None: ...

    def stream_lost(self, failure: Failure) -> None: ...
