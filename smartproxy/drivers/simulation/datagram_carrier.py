"""The driver's UDP half: links on virtual UDP sockets, read in bursts and sent from with pauses."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Protocol, cast

from smartproxy.core.datagrams import Datagram, DatagramLink
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import Address, OpenDatagrams
from smartproxy.drivers.simulation.clock import Clock, Event
from smartproxy.drivers.simulation.datagrams import VirtualDatagramSocket
from smartproxy.drivers.simulation.network import Network, format_address
from smartproxy.drivers.simulation.transcript import Transcript

if TYPE_CHECKING:
    from smartproxy.drivers.simulation.driver import SimulationDriver

BURST_DATAGRAMS = 32
LATE_READ_PROBABILITY = 0.5
NO_ROOM_PROBABILITY = 0.1
MAX_DELAY_S = 0.001


class DatagramEngine(Protocol):
    """What a program with UDP sockets has beside `SansIoEngine`; `smartproxy.core.engine.Engine` has it."""

    def handle_udp_bound(self, listening_port: int, local: Address, now: float) -> DatagramLink | None: ...
    def handle_datagrams(self, link: DatagramLink, datagrams: list[Datagram], now: float) -> None: ...
    def handle_datagrams_writable(self, link: DatagramLink, now: float) -> None: ...
    def handle_datagrams_lost(self, link: DatagramLink, reason: LostReason, now: float) -> None: ...
    def poll_dirty_datagram_links(self) -> list[DatagramLink]: ...


class HeldDatagramLink:
    """What `DatagramLink.transport` holds in a simulation."""

    __slots__ = ("_carrier", "is_waiting", "link", "listening_port", "name", "read_event", "socket", "unsent")

    def __init__(
        self,
        carrier: DatagramCarrier,
        link: DatagramLink,
        socket: VirtualDatagramSocket,
        listening_port: int | None,
    ) -> None:
        self._carrier = carrier
        self.link = link
        self.socket = socket
        self.listening_port = listening_port
        """The configured port of a listening socket; None for a connected one."""
        self.name = f"{'q' if listening_port is None else 'l'}{link.id}"
        self.unsent: list[Datagram] = []
        """The rest of the last pull, for which there was no room."""
        self.is_waiting = False
        """For room."""
        self.read_event: Event | None = None

    def __repr__(self) -> str:
        return f"<HeldDatagramLink {self.name}>"

    def readable(self) -> None:
        self._carrier.read_soon(self)

    @property
    def all_sent(self) -> bool:
        return not self.unsent and not self.link.outgoing_count


class DatagramCarrier:
    """Carries a program's UDP links: they read late or together, and now and then have no room to send."""

    __slots__ = ("_clock", "_driver", "_network", "_ports", "_random", "_transcript", "sockets")

    def __init__(
        self,
        driver: SimulationDriver,
        clock: Clock,
        network: Network,
        transcript: Transcript,
        random: Random,
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._network = network
        self._transcript = transcript
        self._random = random
        self._ports: dict[int, list[HeldDatagramLink]] = {}
        self.sockets: dict[int, HeldDatagramLink] = {}
        """By the link's id."""

    @property
    def _engine(self) -> DatagramEngine:
        return cast(DatagramEngine, self._driver.engine)

    # Listening.

    def listen(self, listening_port: int, hosts: Iterable[str], bind_port: int | None) -> int:
        bound = self._ports.get(listening_port)
        if bound:
            return bound[0].link.local[1]
        sockets: list[VirtualDatagramSocket] = []
        port = listening_port if bind_port is None else bind_port
        try:
            for host in hosts:
                sockets.append(self._network.datagrams.bind(host, port))
                port = sockets[0].local[1]
        except OSError:
            for socket in sockets:
                socket.close()
            raise
        for socket in sockets:
            self._driver.apply(partial(self._tell_bound, listening_port, socket))
        return port

    def _tell_bound(self, listening_port: int, socket: VirtualDatagramSocket, now: float) -> None:
        link = self._engine.handle_udp_bound(listening_port, socket.local, now)
        if link is None:
            socket.close()
            return
        self._transcript.input(f"udp_bound(l{link.id}, {format_address(socket.local)})")
        held = self._hold(link, socket, listening_port)
        self._ports.setdefault(listening_port, []).append(held)

    def stop_listening(self, listening_port: int) -> None:
        for held in self._ports.pop(listening_port, ()):
            self._driver.apply(partial(self._lose, held, LostReason.ERROR))
            held.link.close()
        self._driver.apply(_nothing)

    def ports(self) -> dict[int, int]:
        return {configured: held[0].link.local[1] for configured, held in self._ports.items()}

    def close(self) -> None:
        """Close every UDP socket; the engine is told nothing."""
        for held in list(self.sockets.values()):
            self._release(held)

    # Connecting.

    def open(self, operation: OpenDatagrams, ip: str) -> None:
        """Connect a UDP socket and bind it to the operation's link. Raises OSError."""
        address, link = operation.address, operation.link
        shown = format_address(address)
        self._transcript.output(f"op {operation.id}: open UDP q{link.id} to {shown}")
        socket = self._network.datagrams.bind(ip, peer=address)
        link.local = socket.local
        self._hold(link, socket, None)

    def cancel(self, operation: OpenDatagrams) -> None:
        held = operation.link.transport
        if isinstance(held, HeldDatagramLink):
            self._release(held)

    # One socket.

    def _hold(
        self, link: DatagramLink, socket: VirtualDatagramSocket, listening_port: int | None
    ) -> HeldDatagramLink:
        held = HeldDatagramLink(self, link, socket, listening_port)
        link.transport = held
        self.sockets[link.id] = held
        socket.observer = held
        return held

    def _release(self, held: HeldDatagramLink) -> None:
        held.socket.close()
        held.link.transport = None
        if held.read_event is not None:
            held.read_event.cancel()
        del self.sockets[held.link.id]
        if held.listening_port is not None:
            others = self._ports.get(held.listening_port, [])
            if held in others:
                others.remove(held)
                if not others:
                    del self._ports[held.listening_port]

    def read_soon(self, held: HeldDatagramLink) -> None:
        """Read in an event of its own; what arrives until then comes in the same burst."""
        if held.read_event is None:
            is_late = self._random.random() < LATE_READ_PROBABILITY
            delay_s = self._random.uniform(0.0, MAX_DELAY_S) if is_late else 0.0
            held.read_event = self._clock.call_at(self._clock.now + delay_s, lambda: self._read(held))

    def _read(self, held: HeldDatagramLink) -> None:
        held.read_event = None
        datagrams: list[Datagram] = []
        while len(datagrams) < BURST_DATAGRAMS and (datagram := held.socket.receive()) is not None:
            datagrams.append(datagram)
        error = held.socket.take_error()
        link = held.link
        if datagrams:
            self._transcript.input(
                f"datagrams({held.name}, {_describe(datagrams)} from {_addresses(datagrams)})"
            )
            self._driver.apply(lambda now: self._engine.handle_datagrams(link, datagrams, now))
        if error is not None:
            self._driver.apply(partial(self._lose, held, error))
        if link.transport is held and held.socket.arrived_count:
            self.read_soon(held)

    def _lose(self, held: HeldDatagramLink, reason: LostReason, now: float) -> None:
        if held.link.transport is held and not held.link.closing:
            self._transcript.input(f"datagrams_lost({held.name}, {reason.value})")
            self._engine.handle_datagrams_lost(held.link, reason, now)

    # Sending.

    def visit_dirty_links(self) -> None:
        """Bring every link that has changed to where it wants to be."""
        if self.sockets:
            for link in self._engine.poll_dirty_datagram_links():
                held = link.transport
                if isinstance(held, HeldDatagramLink):
                    self._visit(held)

    def _visit(self, held: HeldDatagramLink) -> None:
        link = held.link
        if link.closing:
            while not held.all_sent:
                self._send(held, len(held.unsent))
            self._transcript.output(f"close({held.name})")
            self._release(held)
            return
        if held.is_waiting:
            return
        while not held.all_sent:
            if self._random.random() < NO_ROOM_PROBABILITY:
                self._send(held, self._random.randint(0, len(held.unsent)))
                held.is_waiting = True
                self._clock.call_at(
                    self._clock.now + self._random.uniform(0.0, MAX_DELAY_S), lambda: self._has_room(held)
                )
                return
            self._send(held, len(held.unsent))
        if link.notify_writable:
            self._driver.queue(partial(self._tell_writable, held))

    def _has_room(self, held: HeldDatagramLink) -> None:
        held.is_waiting = False
        if held.link.transport is held:
            self._visit(held)
            self._driver.apply(_nothing)

    def _send(self, held: HeldDatagramLink, count: int) -> None:
        """Send the first `count` of the rest; where there is none, take a new pull."""
        if not held.unsent:
            held.unsent = held.link.pull()
            self._transcript.output(
                f"sends({held.name}): {_describe(held.unsent)} to {_addresses(held.unsent)}"
            )
            return
        for data, address in held.unsent[:count]:
            try:
                held.socket.send(data, address)
            except OSError as error:
                self._transcript.weather(f"{held.name}: {len(data)} bytes are not sent: {error.strerror}")
        del held.unsent[:count]

    def _tell_writable(self, held: HeldDatagramLink, now: float) -> None:
        link = held.link
        if link.transport is held and link.notify_writable and held.all_sent and not link.closing:
            self._transcript.input(f"datagrams_writable({held.name})")
            self._engine.handle_datagrams_writable(link, now)


def _nothing(now: float) -> None:
    """No input of its own: `apply` drains those that are waiting."""


def _describe(datagrams: list[Datagram]) -> str:
    size = sum(len(data) for data, _ in datagrams)
    return f"{len(datagrams)} of {size} bytes in all"


def _addresses(datagrams: list[Datagram]) -> str:
    addresses = list(dict.fromkeys(address for _, address in datagrams))
    others = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
    return format_address(addresses[0]) + others
