"""The pump between an engine and the virtual network: it decides nothing, and is late by the seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from math import inf
from random import Random
from typing import Any, Protocol, TypeVar

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import (
    Address,
    CancelOperation,
    Operation,
    RelayOutcome,
    Result,
    StartRelay,
)
from smartproxy.core.records import AccessRecord, Record
from smartproxy.core.stream import Ending, Link
from smartproxy.drivers.simulation.clock import Clock, Event
from smartproxy.drivers.simulation.datagram_carrier import DatagramCarrier
from smartproxy.drivers.simulation.link_socket import LinkSocket, Relay
from smartproxy.drivers.simulation.network import PROXY_IP, Network, format_address
from smartproxy.drivers.simulation.operations import OperationRunner
from smartproxy.drivers.simulation.resolver import SimulatedResolver
from smartproxy.drivers.simulation.sockets import VirtualSocket
from smartproxy.drivers.simulation.tasks import Task
from smartproxy.drivers.simulation.transcript import Transcript

T = TypeVar("T")

READ_BYTES = 64 * 1024
MAX_RECORDS = 100_000
MAX_INPUTS_PER_INSTANT = 100_000
LATE_READ_PROBABILITY = 0.3


class SansIoEngine(Protocol):
    """What the driver needs of a program: the inputs and outputs of `smartproxy.core.engine.Engine`."""

    def handle_accepted(self, listening_port: int, peer: Address, local: Address, now: float) -> Link: ...
    def handle_data(self, link: Link, data: bytes, now: float) -> None: ...
    def handle_eof(self, link: Link, now: float) -> None: ...
    def handle_lost(self, link: Link, reason: LostReason, now: float) -> None: ...
    def handle_writable(self, link: Link, now: float) -> None: ...
    def handle_result(self, operation_id: int, result: Result, now: float) -> None: ...
    def handle_relay_ended(self, relay: StartRelay, outcome: RelayOutcome, now: float) -> None: ...
    def handle_timeout(self, now: float) -> None: ...
    def poll_dirty_links(self) -> list[Link]: ...
    def poll_operations(self) -> list[Operation]: ...
    def poll_records(self) -> list[Record | AccessRecord]: ...
    def poll_timeout(self) -> float: ...


class EngineStuck(Exception):
    """The engine keeps asking for work at one instant of virtual time."""


class SimulationDriver:
    """Carries one engine: sockets, look-ups, functions and the timer, all virtual.

    It is as unkind as the contract of `Link` allows: timers fire late, one more
    read may come after `pause_reading`, answers may cross their cancellation. An
    exception out of an input is a bug of the engine and ends the run.

    `records` keeps the latest 100,000 records. Every callable in `observers` is
    called after each input's outputs are drained.
    """

    def __init__(
        self,
        engine: SansIoEngine,
        clock: Clock,
        network: Network,
        resolver: SimulatedResolver,
        transcript: Transcript,
        random: Random,
        spawn: Callable[[Coroutine[Any, Any, Any], str], Task[Any]],
        *,
        ip: str = PROXY_IP,
    ) -> None:
        self.engine = engine
        self.ip = ip
        self.records: deque[Record | AccessRecord] = deque(maxlen=MAX_RECORDS)
        self.observers: list[Callable[[], None]] = []
        self.sockets: dict[int, LinkSocket] = {}
        """By the link's id: every link the engine has not ended and not been told is lost."""
        self._clock = clock
        self._network = network
        self._transcript = transcript
        self._random = random
        self._operations = OperationRunner(self, clock, network, resolver, transcript, random, spawn)
        self.datagrams = DatagramCarrier(self, clock, network, transcript, random)
        """The UDP sockets."""
        self._relays: dict[int, Relay] = {}
        self._bound: dict[int, list[Address]] = {}
        self._inputs: deque[Callable[[float], object]] = deque()
        self._handling_input = False
        self._timer: Event | None = None
        self._armed_for = inf
        self._told_deadline = inf
        self._instant = -inf
        self._inputs_this_instant = 0

    # The driver's public half.

    @property
    def running_operations(self) -> list[int]:
        """The ids of the operations and relays that are not answered yet."""
        return [*self._operations.running, *self._relays]

    def listen(self, listening_port: int, hosts: Iterable[str] = ("0.0.0.0",)) -> int:  # noqa: S104 - virtual
        """Accept connections for `listening_port` of the configuration; 0 picks a free port.

        Returns the port bound. Raises OSError (EADDRINUSE), and then nothing is bound.
        """
        if listening_port in self._bound:
            return self._bound[listening_port][0][1]
        bound: list[Address] = []

        def accept(socket: VirtualSocket) -> None:
            self._accept(listening_port, socket)

        try:
            for host in hosts:
                port = bound[0][1] if bound else listening_port
                bound.append(self._network.bind(host, port, accept))
        except OSError:
            for address in bound:
                self._network.unbind(address)
            raise
        self._bound[listening_port] = bound
        return bound[0][1]

    def stop_listening(self, listening_port: int) -> None:
        """Refuse new connections; those there are go on."""
        for address in self._bound.pop(listening_port, ()):
            self._network.unbind(address)

    def listening_ports(self) -> dict[int, int]:
        """Each configured listening port and the port bound for it."""
        return {configured: bound[0][1] for configured, bound in self._bound.items()}

    def listen_udp(
        self,
        listening_port: int,
        hosts: Iterable[str] = ("0.0.0.0",),  # noqa: S104 - virtual
        bind_port: int | None = None,
    ) -> int:
        """Bind UDP sockets for `listening_port` of the configuration; 0 picks a free port.

        `bind_port` is the port to bind where it is another. The engine must be a
        `DatagramEngine`; sockets it has no use for are closed again. Returns the port
        bound. Raises OSError (EADDRINUSE), and then nothing is bound.
        """
        return self.datagrams.listen(listening_port, hosts, bind_port)

    def stop_listening_udp(self, listening_port: int) -> None:
        """Tell the engine that the port's UDP sockets are lost, send what it says to that, and close them."""
        self.datagrams.stop_listening(listening_port)

    def listening_udp_ports(self) -> dict[int, int]:
        """Each configured port that UDP sockets are bound for, and the port bound for it."""
        return self.datagrams.ports()

    def queue(self, engine_input: Callable[[float], object]) -> None:
        """Give the engine an input that was found while outputs are drained, once they are."""
        self._inputs.append(engine_input)

    def apply(self, handle: Callable[[float], T]) -> T:
        """Give the engine one input, `handle(now)`, and drain every output. Returns what `handle` did."""
        assert not self._handling_input, "an input came from within an input"
        self._handling_input = True
        try:
            value = handle(self._clock.now)
            self._drain()
        finally:
            self._handling_input = False
        for observer in self.observers:
            observer()
        return value

    # From the network.

    def _accept(self, listening_port: int, socket: VirtualSocket) -> None:
        def accepted(now: float) -> Link:
            link = self.engine.handle_accepted(listening_port, socket.peer, socket.local, now)
            peer = format_address(socket.peer)
            self._transcript.input(f"accepted(c{link.id}, peer {peer}, listener :{listening_port})")
            self.hold(link, socket, f"c{link.id}")
            return link

        self.apply(accepted)

    def hold(self, link: Link, socket: VirtualSocket, name: str) -> LinkSocket:
        """Carry `link` on `socket` from now on."""
        held = LinkSocket(self, self._clock, self._transcript, link, socket, name)
        held.notices_loss_while_paused = self._random.random() < 0.5
        held.reads_before_loss = self._random.random() < 0.5
        link.transport = held
        self.sockets[link.id] = held
        socket.observer = held
        return held

    def read(self, held: LinkSocket) -> None:
        """A socket may have something: hand it to the engine, or to the relay that reads from it."""
        if held.outgoing_relay is not None:
            self._move(held.outgoing_relay)
            return
        link = held.link
        if held.released or held.eof_received or link.ending is Ending.CLOSE:
            return
        if not (link.reading or held.late_read or held.hears_of_loss()):
            return
        held.late_read = False
        try:
            data = held.socket.receive(READ_BYTES)
        except (ConnectionResetError, TimeoutError) as error:
            reason = _reason(error)
            self.apply(lambda now: self._lose(held, reason, now))
            return
        if data is None:
            return
        if data:
            self._transcript.input(f"data({held.name}, {held.payload.describe_input(data)})")
            self.apply(lambda now: self.engine.handle_data(link, data, now))
            held.read_soon()
        else:
            held.eof_received = True
            self._transcript.input(f"eof({held.name})")
            self.apply(lambda now: self.engine.handle_eof(link, now))

    def write(self, held: LinkSocket) -> None:
        """A socket's send buffer has room again."""
        self._visit(held)
        if self._inputs:
            self.apply(_nothing)
        if held.incoming_relay is not None:
            self._move(held.incoming_relay)

    # What is drained after an input.

    def _drain(self) -> None:
        while True:
            for operation in self.engine.poll_operations():
                self._start(operation)
            for link in self.engine.poll_dirty_links():
                held = link.transport
                if isinstance(held, LinkSocket):
                    self._visit(held)
            self.datagrams.visit_dirty_links()
            self._keep(self.engine.poll_records())
            if not self._inputs:
                break
            self._count_input()
            self._inputs.popleft()(self._clock.now)
        self._arm_timer()

    def _count_input(self) -> None:
        if self._clock.now != self._instant:
            self._instant = self._clock.now
            self._inputs_this_instant = 0
        self._inputs_this_instant += 1
        if self._inputs_this_instant > MAX_INPUTS_PER_INSTANT:
            raise EngineStuck(f"{MAX_INPUTS_PER_INSTANT} inputs within one instant")

    def _keep(self, records: Sequence[Record | AccessRecord]) -> None:
        for record in records:
            self.records.append(record)
            if isinstance(record, Record):
                facts = ", ".join(f"{name}={value}" for name, value in record.fields.items())
                self._transcript.output(f"record: {record.area} {record.event} {facts}".rstrip())
            else:
                what = (
                    f"{record.method} {record.target} {record.status}" if record.method else record.protocol
                )
                self._transcript.output(f"record: access {what} {record.failure}".rstrip())

    def _visit(self, held: LinkSocket) -> None:
        link = held.link
        if held.released:
            return
        if link.ending is Ending.ABORT:
            self._transcript.output(f"abort({held.name})")
            held.socket.reset()
            self.release(held)
            return
        try:
            all_sent = held.flush()
        except (ConnectionResetError, TimeoutError) as error:
            reason = _reason(error)
            if link.ending is Ending.CLOSE:
                held.socket.close()
                self.release(held)
            elif held.will_read_of_loss():
                held.read_soon()
            else:
                self._inputs.append(lambda now: self._lose(held, reason, now))
            return
        if not all_sent and link.ending is Ending.CLOSE:
            held.give_up_unless_it_moves()
        if all_sent:
            if link.ending is Ending.CLOSE:
                self._transcript.output(f"close({held.name})")
                held.socket.close()
                self.release(held)
                return
            if link.ending is Ending.SHUT_DOWN_WRITING and not held.writing_shut_down:
                held.writing_shut_down = True
                self._transcript.output(f"shut_down_writing({held.name})")
                held.socket.send_eof()
            if link.notify_writable:
                self._inputs.append(lambda now: self._tell_writable(held, now))
        if link.reading != held.told_reading:
            held.told_reading = link.reading
            self._transcript.output(f"{'resume' if link.reading else 'pause'}_reading({held.name})")
            # A read that was under way when the engine paused still comes.
            held.late_read = not link.reading and self._random.random() < LATE_READ_PROBABILITY
        if link.reading or held.late_read:
            held.read_soon()

    def _tell_writable(self, held: LinkSocket, now: float) -> None:
        if held.released or not held.link.notify_writable or held.link.ending >= Ending.CLOSE:
            return
        if held.all_sent:
            self._transcript.input(f"writable({held.name})")
            self.engine.handle_writable(held.link, now)

    def _lose(self, held: LinkSocket, reason: LostReason, now: float) -> None:
        if held.released or held.link.ending >= Ending.CLOSE:
            return
        is_relayed = held.outgoing_relay is not None or held.incoming_relay is not None
        held.socket.close()
        self.release(held)
        # A relay's outcome stands for `handle_lost` already.
        if not is_relayed:
            self._transcript.input(f"lost({held.name}, {reason.value})")
            self.engine.handle_lost(held.link, reason, now)

    def release(self, held: LinkSocket) -> None:
        """Forget a link: the engine is done with it, or is told now that it is lost."""
        held.released = True
        del self.sockets[held.link.id]
        for relay, outcome in (
            (held.incoming_relay, RelayOutcome.SINK_LOST),
            (held.outgoing_relay, RelayOutcome.SOURCE_LOST),
        ):
            if relay is not None:
                self._inputs.append(self._relay_end(relay, outcome))

    # The one timer.

    def _arm_timer(self) -> None:
        deadline = self.engine.poll_timeout()
        if deadline != self._told_deadline:
            self._told_deadline = deadline
            shown = "none" if deadline == inf else f"{deadline - self._clock.start_s:.6f}"
            self._transcript.output(f"deadline: {shown}")
        if deadline < self._armed_for:
            if self._timer is not None:
                self._timer.cancel()
            self._armed_for = deadline
            # At its very time as often as late: the two round differently.
            earliest_s, latest_s = self._network.faults.timer_lateness_s
            is_late = self._random.random() < 0.5
            lateness_s = self._random.uniform(earliest_s, latest_s) if is_late else earliest_s
            self._timer = self._clock.call_at(deadline + lateness_s, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._armed_for = inf
        if self.engine.poll_timeout() > self._clock.now:
            self._arm_timer()
            return
        self._count_input()
        self._transcript.input("timeout")
        self.apply(self.engine.handle_timeout)

    # Operations.

    def _start(self, operation: Operation) -> None:
        if isinstance(operation, CancelOperation):
            relay = self._relays.pop(operation.id, None)
            if relay is not None:
                self._transcript.output(f"op {operation.id}: cancelled")
                self._detach(relay)
            else:
                self._operations.cancel(operation.id)
        elif isinstance(operation, StartRelay):
            self._start_relay(operation)
        else:
            self._operations.start(operation)

    # Relays.

    def _start_relay(self, operation: StartRelay) -> None:
        source, sink = operation.source.transport, operation.sink.transport
        assert isinstance(source, LinkSocket)
        assert isinstance(sink, LinkSocket)
        assert source.outgoing_relay is None
        assert sink.incoming_relay is None
        length = "all" if operation.length_bytes < 0 else f"{operation.length_bytes} bytes"
        self._transcript.output(f"op {operation.id}: relay {length} from {source.name} to {sink.name}")
        relay = Relay(operation, source, sink)
        self._relays[operation.id] = relay
        for held, outcome in ((source, RelayOutcome.SOURCE_LOST), (sink, RelayOutcome.SINK_LOST)):
            if held.released:
                self._inputs.append(self._relay_end(relay, outcome))
                return
        source.outgoing_relay = sink.incoming_relay = relay
        # The links of this drain come first: what the sink was given before goes before.
        self._clock.call_soon(lambda: self._move(relay))

    def _move(self, relay: Relay) -> None:
        if relay.operation.id not in self._relays:
            return
        outcome = relay.move()
        if outcome is None:
            return
        lost = {RelayOutcome.SOURCE_LOST: relay.source, RelayOutcome.SINK_LOST: relay.sink}.get(outcome)
        if lost is not None and not lost.released:
            lost.socket.close()
            self.release(lost)
        self.apply(self._relay_end(relay, outcome))

    def _relay_end(self, relay: Relay, outcome: RelayOutcome) -> Callable[[float], None]:
        operation = relay.operation

        def end(now: float) -> None:
            if self._relays.pop(operation.id, None) is not None:
                self._detach(relay)
                moved = f"{operation.moved_bytes} bytes"
                self._transcript.input(f"relay_ended({operation.id}, {outcome.value}, {moved})")
                self.engine.handle_relay_ended(operation, outcome, now)

        return end

    def _detach(self, relay: Relay) -> None:
        if relay.source.outgoing_relay is relay:
            relay.source.outgoing_relay = None
            relay.source.read_soon()
        if relay.sink.incoming_relay is relay:
            relay.sink.incoming_relay = None


def _nothing(now: float) -> None:
    """No input of its own: `apply` drains those that are waiting."""


def _reason(error: OSError) -> LostReason:
    return LostReason.TIMED_OUT if isinstance(error, TimeoutError) else LostReason.RESET
