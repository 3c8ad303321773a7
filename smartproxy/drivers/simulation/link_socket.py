"""The driver's half of a link: a virtual socket and what it has not taken yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.ops import RelayOutcome, StartRelay
from smartproxy.core.stream import Link
from smartproxy.drivers.simulation.clock import Clock, Event
from smartproxy.drivers.simulation.sockets import VirtualSocket
from smartproxy.drivers.simulation.transcript import PayloadDescription, Transcript

if TYPE_CHECKING:
    from smartproxy.drivers.simulation.driver import SimulationDriver

RELAY_BYTES = 64 * 1024
UNMOVED_S = 30.0
"""How long the last bytes of a closed link may find no room before it is reset."""


class LinkSocket:
    """What `Link.transport` holds in a simulation."""

    __slots__ = (
        "_clock",
        "_closing_event",
        "_driver",
        "_read_event",
        "_transcript",
        "eof_received",
        "incoming_relay",
        "late_read",
        "link",
        "name",
        "notices_loss_while_paused",
        "outgoing_relay",
        "payload",
        "reads_before_loss",
        "released",
        "socket",
        "told_reading",
        "unsent",
        "writing_shut_down",
    )

    def __init__(
        self,
        driver: SimulationDriver,
        clock: Clock,
        transcript: Transcript,
        link: Link,
        socket: VirtualSocket,
        name: str,
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._transcript = transcript
        self._read_event: Event | None = None
        self._closing_event: Event | None = None
        self.link = link
        self.socket = socket
        self.name = name
        self.payload = PayloadDescription()
        self.released = False
        """The engine gets no more inputs for the link: it is lost, or closed, or aborted."""
        self.notices_loss_while_paused = True
        """As epoll does; other systems tell of a reset only to who reads or writes."""
        self.reads_before_loss = True
        """When sending fails, what had arrived before is still handed to the engine first."""
        self.unsent = memoryview(b"")
        """The rest of the last pull, for which the send buffer had no room."""
        self.writing_shut_down = False
        self.eof_received = False
        self.late_read = False
        self.told_reading = True
        self.outgoing_relay: Relay | None = None
        """The relay that reads from this socket."""
        self.incoming_relay: Relay | None = None
        """The relay that writes to this socket."""

    def __repr__(self) -> str:
        return f"<LinkSocket {self.name}>"

    def readable(self) -> None:
        self._driver.read(self)

    def writable(self) -> None:
        self._driver.write(self)

    @property
    def all_sent(self) -> bool:
        return not self.unsent and self.link.outgoing_bytes == 0

    def read_soon(self) -> None:
        """Read in an event of its own, if there is something to read by then."""
        if self._read_event is None and not self.eof_received and self.socket.has_input():
            self._read_event = self._clock.call_soon(self._read)

    def _read(self) -> None:
        self._read_event = None
        self._driver.read(self)

    def flush(self) -> bool:
        """Send what the socket takes of the link's bytes; whether that was all of them.

        Raises ConnectionResetError or TimeoutError once the connection is lost.
        """
        while True:
            if self.unsent:
                sent = self.socket.send(self.unsent)
                self.unsent = self.unsent[sent:]
                if self.unsent:
                    return False
            if self.link.outgoing_bytes == 0:
                return True
            data = self.link.pull()
            self._transcript.output(f"writes({self.name}): {self.payload.describe_output(data)}")
            self.unsent = memoryview(data)

    def hears_of_loss(self) -> bool:
        """Whether the socket's loss is noticed although nobody reads."""
        socket = self.socket
        return self.notices_loss_while_paused and socket.error is not None and not socket.unread_bytes

    def will_read_of_loss(self) -> bool:
        """Whether a failure to send can wait: reading is going on, and will come upon it."""
        is_read = self.link.reading or self.outgoing_relay is not None
        return self.reads_before_loss and is_read and not self.eof_received

    def give_up_unless_it_moves(self) -> None:
        """The link is closing: reset a peer that takes none of its last bytes for `UNMOVED_S`."""
        if self._closing_event is None:
            before = self._unsent_bytes()
            self._closing_event = self._clock.call_at(
                self._clock.now + UNMOVED_S, lambda: self._give_up_if_unmoved(before)
            )

    def _unsent_bytes(self) -> int:
        return len(self.unsent) + self.link.outgoing_bytes

    def _give_up_if_unmoved(self, before: int) -> None:
        self._closing_event = None
        if self.released:
            return
        if self._unsent_bytes() < before:
            self.give_up_unless_it_moves()
        else:
            self.socket.reset()
            self._driver.release(self)


class Relay:
    """One direction between two sockets, from `StartRelay` to its outcome."""

    __slots__ = ("operation", "sink", "source")

    def __init__(self, operation: StartRelay, source: LinkSocket, sink: LinkSocket) -> None:
        self.operation = operation
        self.source = source
        self.sink = sink

    def move(self) -> RelayOutcome | None:
        """Move what can be moved now; the outcome once there is one.

        Nothing is read for which the sink has no room, so no byte is ever held between the two.
        """
        operation, source, sink = self.operation, self.source, self.sink
        while operation.moved_bytes != operation.length_bytes:
            try:
                if not sink.flush():
                    return None
                sink.socket.send(b"")
            except (ConnectionResetError, TimeoutError):
                return RelayOutcome.SINK_LOST
            room = sink.socket.room_bytes
            if room == 0:
                sink.socket.notify_when_writable()
                return None
            count = min(room, RELAY_BYTES)
            if operation.length_bytes >= 0:
                count = min(count, operation.length_bytes - operation.moved_bytes)
            if source.eof_received:
                return RelayOutcome.SOURCE_EOF
            try:
                data = source.socket.receive(count)
            except (ConnectionResetError, TimeoutError):
                return RelayOutcome.SOURCE_LOST
            if data is None:
                return None
            if not data:
                source.eof_received = True
                return RelayOutcome.SOURCE_EOF
            sent = sink.socket.send(data)
            assert sent == len(data)
            operation.moved_bytes += sent
            source.link.bytes_received += sent
            sink.link.bytes_sent += sent
        return RelayOutcome.COMPLETE
