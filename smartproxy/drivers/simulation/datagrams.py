"""Virtual UDP: datagrams that arrive whole, and late, twice, out of order or not at all."""

from __future__ import annotations

import errno
from collections import OrderedDict, deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Protocol, TypeVar

from smartproxy.core.datagrams import Datagram
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import Address
from smartproxy.drivers.simulation.clock import Clock
from smartproxy.drivers.simulation.faults import Faults

if TYPE_CHECKING:
    from smartproxy.drivers.simulation.network import Network

T = TypeVar("T")

MAX_PAYLOAD_BYTES = 65_507
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
RECEIVE_BUFFER_DATAGRAMS = 16 * 1024
MAX_KNOWN_PEERS = 4096
FIRST_EPHEMERAL_PORT = 30_000
LAST_EPHEMERAL_PORT = 39_999

OWN_IPS = {"0.0.0.0": "192.0.2.1", "::": "2001:db8::1"}  # noqa: S104 - virtual addresses
_WILDCARDS = tuple(OWN_IPS)


class DatagramObserver(Protocol):
    """Who holds a socket. Never called from within a call of its own."""

    def readable(self) -> None:
        """A datagram or an error is there to receive."""


class _Unobserved:
    def readable(self) -> None: ...


class VirtualDatagramSocket:
    """One UDP socket; `peer` is whom it is connected to, if anybody.

    One bound to all addresses answers from the address it was sent to.
    """

    __slots__ = (
        "_arrived",
        "_arrived_bytes",
        "_latest_arrivals",
        "_network",
        "_random",
        "_reply_sources",
        "closed",
        "error",
        "local",
        "lost_count",
        "observer",
        "peer",
    )

    def __init__(
        self, network: DatagramNetwork, local: Address, peer: Address | None, random: Random
    ) -> None:
        self._network = network
        self._random = random
        self._arrived: deque[Datagram] = deque()
        self._arrived_bytes = 0
        self._latest_arrivals: OrderedDict[Address, float] = OrderedDict()
        self._reply_sources: OrderedDict[Address, str] = OrderedDict()
        self.local = local
        self.peer = peer
        self.closed = False
        self.error: LostReason | None = None
        """What the network reported about a connected peer, until it is asked for."""
        self.lost_count = 0
        """Datagrams that found no room to be received."""
        self.observer: DatagramObserver = _Unobserved()

    def __repr__(self) -> str:
        return f"<VirtualDatagramSocket {self.local} - {self.peer}>"

    @property
    def arrived_count(self) -> int:
        """Datagrams that have arrived and were not received yet."""
        return len(self._arrived)

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram, without waiting. Raises OSError (EMSGSIZE) for one that no packet can carry."""
        if len(data) > MAX_PAYLOAD_BYTES:
            raise OSError(errno.EMSGSIZE, "message too long")
        if self.closed:
            return
        destination = self.peer or address
        source = self.local
        if source[0] in _WILDCARDS:
            host = self._reply_sources.get(destination) or self._network.own_ip(source[0])
            source = (host, source[1])
        self._network.carry(self, data, source, destination, self._random)

    def receive(self) -> Datagram | None:
        """The next datagram and where it came from; None when none has arrived yet."""
        if not self._arrived:
            return None
        datagram = self._arrived.popleft()
        self._arrived_bytes -= len(datagram[0])
        return datagram

    def take_error(self) -> LostReason | None:
        """What the network reported about a connected peer, once."""
        error, self.error = self.error, None
        return error

    def close(self) -> None:
        """Receive nothing more; what was sent still arrives."""
        if not self.closed:
            self.closed = True
            self._arrived.clear()
            self._network.unbind(self)

    # The network's side.

    def in_order(self, destination: Address, arrival: float) -> float:
        """No earlier than what was sent there before."""
        latest = self._latest_arrivals
        arrival = max(arrival, latest.get(destination, arrival))
        _remember(latest, destination, arrival)
        return arrival

    def arrive(self, data: bytes, source: Address, destination: Address) -> None:
        if self.closed or (self.peer is not None and source != self.peer):
            return
        if (
            self._arrived_bytes + len(data) > RECEIVE_BUFFER_BYTES
            or len(self._arrived) == RECEIVE_BUFFER_DATAGRAMS
        ):
            self.lost_count += 1
            return
        if self.local[0] in _WILDCARDS:
            _remember(self._reply_sources, source, destination[0])
        self._arrived.append((data, source))
        self._arrived_bytes += len(data)
        self.observer.readable()

    def report(self, reason: LostReason) -> None:
        """The network's answer to a datagram of a connected socket's."""
        if not self.closed and self.peer is not None:
            self.error = reason
            self.observer.readable()


def _remember(of: OrderedDict[Address, T], address: Address, value: T) -> None:
    of[address] = value
    of.move_to_end(address)
    if len(of) > MAX_KNOWN_PEERS:
        of.popitem(last=False)


class DatagramNetwork:
    """The UDP side of a `Network`, under the same weather.

    A datagram to or from a host and port in `blocked` is lost without a word, and
    so is one to a black hole.
    """

    __slots__ = ("_clock", "_network", "_next_port", "_note", "_seed", "_sockets", "_sockets_made", "blocked")

    def __init__(self, clock: Clock, seed: int, network: Network, note: Callable[[str], None]) -> None:
        self._clock = clock
        self._seed = seed
        self._network = network
        self._note = note
        self._sockets: dict[Address, VirtualDatagramSocket] = {}
        self._sockets_made = 0
        self._next_port = FIRST_EPHEMERAL_PORT
        self.blocked: set[tuple[str, int | None]] = set()
        """A port of None stands for every port of the host."""

    def bind(self, host: str, port: int = 0, *, peer: Address | None = None) -> VirtualDatagramSocket:
        """A socket on an address; port 0 picks a free one. Raises OSError (EADDRINUSE)."""
        local = (host, port or self._free_port(host))
        if local in self._sockets:
            raise OSError(errno.EADDRINUSE, f"UDP address in use: {local[0]} {local[1]}")
        self._sockets_made += 1
        random = Random(f"{self._seed}/datagrams/{self._sockets_made}")  # noqa: S311 - replayable
        socket = self._sockets[local] = VirtualDatagramSocket(self, local, peer, random)
        return socket

    def unbind(self, socket: VirtualDatagramSocket) -> None:
        self._sockets.pop(socket.local, None)

    def _free_port(self, host: str) -> int:
        for _ in range(FIRST_EPHEMERAL_PORT, LAST_EPHEMERAL_PORT + 1):
            port = self._next_port
            self._next_port = port + 1 if port < LAST_EPHEMERAL_PORT else FIRST_EPHEMERAL_PORT
            if (host, port) not in self._sockets:
                return port
        raise OSError(errno.EADDRINUSE, f"no UDP port is free on {host}")

    def own_ip(self, wildcard: str) -> str:
        """What a socket bound to all addresses sends from, unless it answers."""
        return OWN_IPS[wildcard]

    def _is_blocked(self, address: Address) -> bool:
        return address in self.blocked or (address[0], None) in self.blocked

    def carry(
        self,
        sender: VirtualDatagramSocket,
        data: bytes,
        source: Address,
        destination: Address,
        random: Random,
    ) -> None:
        """One datagram's way: lost, delivered late, delivered twice, or answered with an error."""
        network = self._network
        host = destination[0]
        faults = network.host_faults.get(host) or network.host_faults.get(source[0]) or network.faults
        if self._is_blocked(source) or self._is_blocked(destination) or host in network.black_holes:
            return
        way = f"{source[0]}:{source[1]} to {host}:{destination[1]}"
        arrival = self._clock.now + random.uniform(*faults.latency_s)
        if host in network.unreachable:
            self._clock.call_at(arrival, lambda: sender.report(LostReason.UNREACHABLE))
            return
        if random.random() < faults.datagram_loss_probability:
            self._note(f"a datagram from {way} is lost")
            return
        if random.random() < faults.datagram_reorder_probability:
            self._note(f"a datagram from {way} is overtaken")
            first_arrival = arrival + random.uniform(*faults.datagram_delay_s)
        else:
            first_arrival = sender.in_order(destination, arrival)
        arrivals = [first_arrival]
        if random.random() < faults.datagram_duplicate_probability:
            self._note(f"a datagram from {way} is doubled")
            arrivals.append(arrival + random.uniform(*faults.datagram_delay_s))
        for time in arrivals:
            self._clock.call_at(
                time, lambda: self._deliver(sender, data, source, destination, faults, random)
            )

    def _deliver(
        self,
        sender: VirtualDatagramSocket,
        data: bytes,
        source: Address,
        destination: Address,
        faults: Faults,
        random: Random,
    ) -> None:
        receiver = self._sockets.get(destination)
        if receiver is None and self._network.is_local(destination[0]):
            wildcard = _WILDCARDS[":" in destination[0]]
            receiver = self._sockets.get((wildcard, destination[1]))
        if receiver is not None:
            receiver.arrive(data, source, destination)
        elif sender.peer is not None and random.random() >= faults.datagram_loss_probability:
            back_at = self._clock.now + random.uniform(*faults.latency_s)
            self._clock.call_at(back_at, lambda: sender.report(LostReason.REFUSED))
