"""HTTP/3 clients and servers on a network in memory that loses, delays, doubles and reorders by a seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Protocol

import trustme

from smartproxy.core.http.messages import RequestHead, ResponseHead
from smartproxy.core.ops import Address
from smartproxy.core.wire.http3 import (
    DEFAULT_ENDPOINT_LIMITS,
    DEFAULT_LIMITS,
    ClientParameters,
    DataReceived,
    EndpointLimits,
    EngineName,
    HandshakeCompleted,
    Http3Connection,
    Http3Event,
    Http3Limits,
    QuicServerEndpoint,
    ServerIdentity,
    ServerTrust,
)

SERVER_ADDRESS: Address = ("192.0.2.1", 443)
CLIENT_ADDRESS: Address = ("198.51.100.7", 50211)
SERVER_NAME = "app.example.com"
_ROUNDS = 200_000
_TICK_S = 1e-6


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def identity(*names: str) -> ServerIdentity:
    """A certificate of `authority` for `names`."""
    leaf = authority().issue_cert(*names)
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    return ServerIdentity(chain, leaf.private_key_pem.bytes())


def trust(server_name: str = SERVER_NAME) -> ServerTrust:
    return ServerTrust(server_name, authority().cert_pem.bytes())


def seeded_entropy(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


@dataclass(frozen=True)
class Faults:
    """Chances, for each datagram, of 0 to 1; times in seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    latency_s: float = 0.01


class Node(Protocol):
    """One host's UDP socket."""

    def receive(self, data: bytes, source: Address, now: float) -> None: ...

    def send(self, now: float) -> list[tuple[bytes, Address]]: ...

    def get_timer(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...


class Network:
    """Hosts by address, datagrams under way, and the time."""

    def __init__(self, seed: int = 0, faults: Faults | None = None) -> None:
        self.now = 0.0
        self.faults = faults or Faults()
        self.nodes: dict[Address, Node] = {}
        self.sent_datagrams = 0
        self._random = random.Random(seed)
        self._under_way: list[tuple[float, int, bytes, Address, Address]] = []

    def inject(self, data: bytes, source: Address, destination: Address, delay_s: float = 0.0) -> None:
        self.sent_datagrams += 1
        heapq.heappush(self._under_way, (self.now + delay_s, self.sent_datagrams, data, source, destination))

    def flush(self) -> None:
        """Put what every host has to send on its way."""
        for address, node in list(self.nodes.items()):
            for data, destination in node.send(self.now):
                self._send(data, address, destination)

    def _send(self, data: bytes, source: Address, destination: Address) -> None:
        faults = self.faults
        if self._random.random() < faults.loss:
            return
        copies = 2 if self._random.random() < faults.duplication else 1
        for _ in range(copies):
            delay_s = faults.latency_s
            if self._random.random() < faults.reordering:
                delay_s *= 1 + 4 * self._random.random()
            self.inject(data, source, destination, delay_s)

    def _step(self, end: float) -> bool:
        """Let the next thing happen; False when there is none up to `end`, which it then is."""
        self.flush()
        due = self._under_way[0][0] if self._under_way else inf
        timer, address = min(
            (
                (timer, address)
                for address, node in self.nodes.items()
                if (timer := node.get_timer()) is not None
            ),
            default=(inf, SERVER_ADDRESS),
        )
        if min(due, timer) > end:
            self.now = max(self.now, end)
            return False
        if timer < due:
            # A timer that is due again at once must not stop the time.
            self.now = max(self.now + _TICK_S, timer)
            self.nodes[address].handle_timer(self.now)
            return True
        self.now = max(self.now, due)
        _, _, data, source, destination = heapq.heappop(self._under_way)
        node = self.nodes.get(destination)
        if node is not None:
            node.receive(data, source, self.now)
        return True

    def run_until(self, done: Callable[[], bool], within_s: float = 60.0) -> bool:
        """Whether `done` came true in time."""
        end = self.now + within_s
        for _ in range(_ROUNDS):
            if done():
                return True
            if not self._step(end):
                break
        return done()

    def run_for(self, duration_s: float) -> None:
        self.run_until(lambda: False, duration_s)


EventHandler = Callable[[Http3Connection, Http3Event], None]


def ignore(_: Http3Connection, __: Http3Event) -> None:
    """Take no notice of an event."""


class Client:
    """A client's connection as a host. Content is acknowledged at once while `consumes` is true."""

    def __init__(
        self,
        network: Network,
        parameters: ClientParameters,
        engine: EngineName = "aioquic",
        *,
        address: Address = CLIENT_ADDRESS,
        on_event: EventHandler = ignore,
    ) -> None:
        self.network = network
        self.address = address
        self.connection = Http3Connection(parameters, engine)
        self.events: list[Http3Event] = []
        self.consumes = True
        self.on_event = on_event
        network.nodes[address] = self
        self.connection.connect(SERVER_ADDRESS, network.now)

    def receive(self, data: bytes, source: Address, now: float) -> None:
        self._take(self.connection.receive_datagram(data, source, now))

    def send(self, now: float) -> list[tuple[bytes, Address]]:
        datagrams = self.connection.datagrams_to_send(now)
        self._take(self.connection.poll_events())
        return datagrams

    def get_timer(self) -> float | None:
        return self.connection.get_timer()

    def handle_timer(self, now: float) -> None:
        self._take(self.connection.handle_timer(now))

    def _take(self, events: list[Http3Event]) -> None:
        for event in events:
            self.events.append(event)
            if self.consumes and isinstance(event, DataReceived):
                self.connection.acknowledge_received_data(event.stream_id, len(event.data))
            self.on_event(self.connection, event)

    @property
    def is_ready(self) -> bool:
        return any(isinstance(event, HandshakeCompleted) for event in self.events)

    def move(self, address: Address) -> None:
        """Go on from another address."""
        del self.network.nodes[self.address]
        self.address = address
        self.network.nodes[address] = self

    def content(self, stream_id: int) -> bytes:
        return b"".join(
            event.data
            for event in self.events
            if isinstance(event, DataReceived) and event.stream_id == stream_id
        )


class Server:
    """A server endpoint as a host. Content is acknowledged at once while `consumes` is true."""

    def __init__(
        self,
        network: Network,
        engine: EngineName = "aioquic",
        *,
        limits: Http3Limits = DEFAULT_LIMITS,
        endpoint_limits: EndpointLimits = DEFAULT_ENDPOINT_LIMITS,
        endpoint: QuicServerEndpoint | None = None,
        on_event: EventHandler = ignore,
    ) -> None:
        self.network = network
        # An endpoint without connections is false.
        self.endpoint = (
            endpoint
            if endpoint is not None
            else QuicServerEndpoint(
                lambda _: identity(SERVER_NAME),
                seeded_entropy(7),
                limits=limits,
                endpoint_limits=endpoint_limits,
                engine=engine,
            )
        )
        self.events: list[tuple[Http3Connection, Http3Event]] = []
        self.consumes = True
        self.on_event = on_event
        network.nodes[SERVER_ADDRESS] = self

    def receive(self, data: bytes, source: Address, now: float) -> None:
        arrived = self.endpoint.receive_datagram(data, source, now)
        if arrived is not None:
            self._take(*arrived)

    def send(self, now: float) -> list[tuple[bytes, Address]]:
        datagrams = self.endpoint.datagrams_to_send(now)
        for connection, events in self.endpoint.poll_events():
            self._take(connection, events)
        return datagrams

    def get_timer(self) -> float | None:
        return self.endpoint.get_timer()

    def handle_timer(self, now: float) -> None:
        for connection, events in self.endpoint.handle_timer(now):
            self._take(connection, events)

    def _take(self, connection: Http3Connection, events: list[Http3Event]) -> None:
        for event in events:
            self.events.append((connection, event))
            if self.consumes and isinstance(event, DataReceived):
                connection.acknowledge_received_data(event.stream_id, len(event.data))
            self.on_event(connection, event)

    @property
    def connection(self) -> Http3Connection:
        """The only one there is."""
        [connection] = self.endpoint.connections
        return connection


def client_parameters(
    limits: Http3Limits = DEFAULT_LIMITS, seed: int = 1, server_trust: ServerTrust | None = None
) -> ClientParameters:
    return ClientParameters(limits, server_trust or trust(), seeded_entropy(seed))


def get(path: bytes = b"/", *fields: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(b"GET", path, SERVER_NAME.encode(), list(fields), scheme=b"https")


def post(path: bytes = b"/", *fields: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(b"POST", path, SERVER_NAME.encode(), list(fields), scheme=b"https")


def ok(*fields: tuple[bytes, bytes]) -> ResponseHead:
    return ResponseHead(200, list(fields))
