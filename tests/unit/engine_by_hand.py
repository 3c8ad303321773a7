"""An engine driven by hand: every output is taken after every input, and time only moves when told to."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from math import inf
from typing import Any

from smartproxy.core.certificates import CertificateIndex, NameIndex, ServedTls
from smartproxy.core.configuration import (
    Configuration,
    ForwardAction,
    HandlerAction,
    Limits,
    Route,
    RouteMatch,
    Target,
    Timeouts,
)
from smartproxy.core.datagrams import Datagram, DatagramLink
from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import (
    Address,
    CancelOperation,
    OpenDatagrams,
    Opened,
    OpenStream,
    Operation,
    OperationFailed,
    RelayOutcome,
    Result,
    StartRelay,
)
from smartproxy.core.records import AccessRecord, Record
from smartproxy.core.routing.table import RouteTable
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.core.security.policies import ChallengeSettings
from smartproxy.core.stream import Ending, Link

CLIENT_IP = "198.51.100.7"
PROXY_IP = "203.0.113.9"


def target(*hosts: str, port: Any = 8080, **options: Any) -> Target:
    hosts = hosts or ("10.0.0.1",)
    return Target(hosts=hosts, weights=(1,) * len(hosts), port=port, **options)


def route(
    name: str,
    action: ForwardAction | HandlerAction | Target,
    *,
    ports: int = 80,
    priority: int = 0,
    route_options: dict[str, Any] | None = None,
    **match: Any,
) -> Route:
    if isinstance(action, Target):
        action = ForwardAction((action,))
    return Route(
        0, name, name, priority, RouteMatch(ports=((ports, ports),), **match), action, **(route_options or {})
    )


def configuration(
    *routes: Route,
    certificates: dict[str, ssl.SSLContext] | None = None,
    trusted: Iterable[str] = (),
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
    blocked: Iterable[str] = (),
    challenges: ChallengeSettings | None = None,
) -> Configuration:
    """`certificates` is by name, for every route that terminates TLS."""
    for position, each in enumerate(routes):
        each.position = position
    served = {name: ServedTls(context) for name, context in (certificates or {}).items()}
    indexes = {each.position: NameIndex(served, None) for each in routes if each.action.tls is not None}
    return Configuration(
        RouteTable(routes),
        CertificateIndex(indexes),
        IpSet.compile(list(trusted)),
        timeouts=timeouts or Timeouts(),
        limits=limits or Limits(),
        blocked_addresses=IpSet.compile(list(blocked)),
        challenges=challenges or ChallengeSettings(),
    )


def plain_forward(*hosts: str, **options: Any) -> Configuration:
    """Everything on port 80 goes to one target."""
    return configuration(route("app", target(*hosts, **options)))


class End:
    """The far end of one link: the client, or the backend."""

    def __init__(self, hand: EngineByHand, link: Link) -> None:
        self._hand = hand
        self.link = link
        self._received = bytearray()
        self.takes_bytes = True
        """False: the socket is full, and nothing is pulled."""

    def __repr__(self) -> str:
        return f"<End {self.link}>"

    # What it does.

    def send(self, data: bytes, *, under_way: bool = False) -> None:
        """`under_way`: the read was begun before reading was paused."""
        assert self.link.ending < Ending.CLOSE, "the link is closed"
        assert self.link.reading or under_way, "the link is not read from"
        assert not self._hand.is_relayed(self.link), "a relay reads from the link"
        self._hand.engine.handle_data(self.link, data, self._hand.now)
        self._hand.drain()

    def send_slowly(self, data: bytes) -> None:
        """One byte after the other, at the same time."""
        for position in range(len(data)):
            self.send(data[position : position + 1])

    def finish(self) -> None:
        """Half-close."""
        self._hand.engine.handle_eof(self.link, self._hand.now)
        self._hand.drain()

    def reset(self, reason: LostReason = LostReason.RESET) -> None:
        self._hand.engine.handle_lost(self.link, reason, self._hand.now)
        self._hand.drain()

    def take_bytes_again(self) -> None:
        self.takes_bytes = True
        self._hand.visit(self.link)
        self._hand.drain()

    # What it sees.

    def take(self) -> bytes:
        """What has come since the last time."""
        data = bytes(self._received)
        self._received.clear()
        return data

    @property
    def is_open(self) -> bool:
        return self.link.ending == Ending.OPEN

    @property
    def is_half_closed(self) -> bool:
        return self.link.ending == Ending.SHUT_DOWN_WRITING and not self.link.outgoing_bytes

    @property
    def is_closed(self) -> bool:
        """Closed in order: everything written has come before."""
        return self.link.ending == Ending.CLOSE and not self.link.outgoing_bytes

    @property
    def is_reset(self) -> bool:
        return self.link.ending == Ending.ABORT

    def is_read(self) -> bool:
        return self.link.reading


class DatagramEnd:
    """The network around one UDP socket of the engine's."""

    def __init__(self, hand: EngineByHand, link: DatagramLink) -> None:
        self._hand = hand
        self.link = link
        self._received: list[Datagram] = []
        self.takes_datagrams = True
        """False: the socket is full, and nothing is pulled."""

    def send(self, *datagrams: Datagram) -> None:
        """A burst arrives, each with whom it is from."""
        assert not self.link.closing, "the link is closed"
        self._hand.engine.handle_datagrams(self.link, list(datagrams), self._hand.now)
        self._hand.drain()

    def lose(self, reason: LostReason = LostReason.REFUSED) -> None:
        self._hand.engine.handle_datagrams_lost(self.link, reason, self._hand.now)
        self._hand.drain()

    def take_datagrams_again(self) -> None:
        self.takes_datagrams = True
        self._hand.visit_datagrams(self.link)
        self._hand.drain()

    def take(self) -> list[Datagram]:
        """What has come since the last time, with whom it is for."""
        received, self._received = self._received, []
        return received


class EngineByHand:
    """Holds an engine and everything outside of it: peers, operations under way, records, the clock."""

    def __init__(self, first: Configuration, *, entropy: Callable[[int], bytes] = bytes) -> None:
        self.now = 1000.0
        self.engine = Engine(first, Env(entropy=entropy, wall_clock=lambda: 1_700_000_000.0))
        self.ends: dict[int, End] = {}
        self.datagram_ends: dict[int, DatagramEnd] = {}
        self.pending: dict[int, Operation] = {}
        self.cancelled: list[Operation] = []
        self.relays: list[StartRelay] = []
        self.records: list[Record] = []
        self.access: list[AccessRecord] = []
        self._next_port = 50000

    # Outputs.

    def drain(self) -> None:
        engine = self.engine
        while True:
            operations = engine.poll_operations()
            links = engine.poll_dirty_links()
            datagram_links = engine.poll_dirty_datagram_links()
            for operation in operations:
                self._take_operation(operation)
            for link in links:
                self.visit(link)
            for datagram_link in datagram_links:
                self.visit_datagrams(datagram_link)
            for record in engine.poll_records():
                if isinstance(record, AccessRecord):
                    self.access.append(record)
                else:
                    assert record.event != "internal_error", record.fields
                    self.records.append(record)
            if not operations and not links and not datagram_links:
                return

    def _take_operation(self, operation: Operation) -> None:
        if isinstance(operation, CancelOperation):
            for relay in [r for r in self.relays if r.id == operation.id]:
                self.relays.remove(relay)
                return
            self.cancelled.append(self.pending.pop(operation.id))
        elif isinstance(operation, StartRelay):
            for link in (operation.source, operation.sink):
                assert link.ending < Ending.CLOSE
            self.relays.append(operation)
        else:
            self.pending[operation.id] = operation

    def visit(self, link: Link) -> None:
        """What a driver does with a link it was told of."""
        end = self.end(link)
        if link.ending == Ending.ABORT:
            return
        if end.takes_bytes:
            while data := link.pull():
                end._received += data
            if link.notify_writable and link.ending < Ending.CLOSE:
                self.engine.handle_writable(link, self.now)

    def visit_datagrams(self, link: DatagramLink) -> None:
        """The same for a UDP socket."""
        end = self.datagram_end(link)
        if not end.takes_datagrams:
            return
        while datagrams := link.pull():
            end._received += datagrams
        if link.notify_writable and not link.closing:
            self.engine.handle_datagrams_writable(link, self.now)

    def datagram_end(self, link: DatagramLink) -> DatagramEnd:
        if link.id not in self.datagram_ends:
            self.datagram_ends[link.id] = DatagramEnd(self, link)
        return self.datagram_ends[link.id]

    def end(self, link: Link) -> End:
        if link.id not in self.ends:
            self.ends[link.id] = End(self, link)
        return self.ends[link.id]

    def is_relayed(self, link: Link) -> bool:
        return any(relay.source is link for relay in self.relays)

    # Inputs.

    def connect(
        self, port: int = 80, *, ip: str = CLIENT_IP, data: bytes = b"", local: Address | None = None
    ) -> End:
        self._next_port += 1
        link = self.engine.handle_accepted(
            port, (ip, self._next_port), local or (PROXY_IP, port or 61234), self.now
        )
        self.drain()
        end = self.end(link)
        if data:
            end.send(data)
        return end

    def operation(self, kind: type[Any] = OpenStream) -> Any:
        """The one operation of this kind under way."""
        found = [operation for operation in self.pending.values() if isinstance(operation, kind)]
        assert len(found) == 1, self.pending
        return found[0]

    def answer(self, operation: Operation, result: Result) -> None:
        self.pending.pop(operation.id, None)
        self.engine.handle_result(operation.id, result, self.now)
        self.drain()

    def open(self, operation: OpenStream | None = None) -> End:
        """The connect under way succeeds; its far end is returned."""
        operation = operation or self.operation()
        operation.link.local = (PROXY_IP, 40000)
        end = self.end(operation.link)
        self.answer(operation, Opened(operation.link.local))
        return end

    def bind(self, port: int = 443) -> DatagramEnd:
        """A UDP socket is bound for a port of the configuration."""
        link = self.engine.handle_udp_bound(port, (PROXY_IP, port), self.now)
        assert link is not None, "nobody wants it"
        self.drain()
        return self.datagram_end(link)

    def open_datagrams(self, operation: OpenDatagrams | None = None) -> DatagramEnd:
        """The UDP socket asked for is open."""
        operation = operation or self.operation(OpenDatagrams)
        operation.link.local = (PROXY_IP, 40001)
        end = self.datagram_end(operation.link)
        self.answer(operation, Opened(operation.link.local))
        return end

    def fail(self, reason: LostReason = LostReason.REFUSED, operation: Operation | None = None) -> None:
        self.answer(operation or self.operation(), OperationFailed(reason))

    def move(self, data: bytes, outcome: RelayOutcome | None = None) -> None:
        """The one relay under way moves `data`, and ends in `outcome` if there is one."""
        [relay] = self.relays
        relay.moved_bytes += len(data)
        self.end(relay.sink)._received += data
        if outcome is not None:
            self.relays.remove(relay)
            self.engine.handle_relay_ended(relay, outcome, self.now)
            self.drain()

    def advance(self, seconds: float) -> None:
        """Let time pass, with every timer at its time."""
        until = self.now + seconds
        for _ in range(10_000):
            deadline = self.engine.poll_timeout()
            if deadline > until:
                self.now = until
                return
            self.now = max(self.now, deadline)
            self.engine.handle_timeout(self.now)
            self.drain()
        raise AssertionError("timers that lead nowhere")

    def configure(self, new: Configuration) -> None:
        self.engine.handle_configuration(new, self.now)
        self.drain()

    def events(self, area: str | None = None) -> list[str]:
        return [record.event for record in self.records if area in (None, record.area)]

    # The end of every scenario.

    def settle(self) -> None:
        """Nothing may be left when all idle times have passed."""
        for end in self.ends.values():
            end.takes_bytes = True
            if end.link.outgoing_bytes:
                self.visit(end.link)
        self.drain()
        self.advance(8000.0)
        context = self.engine.context
        assert not self.pending
        assert not self.relays
        assert not context.pending_operations
        assert not context.pending_relays
        assert self.engine.connection_count == 0
        assert self.engine.connection_limits.total == 0, "a client that left is still counted"
        assert self.engine.backend_connection_count == 0
        assert self.engine.poll_timeout() == inf
        cancelled = {operation.link.id for operation in self.cancelled if isinstance(operation, OpenStream)}
        open_ends = [end for end in self.ends.values() if end.link.ending < Ending.CLOSE]
        assert not [end for end in open_ends if end.link.id not in cancelled]


def request(method: str = "GET", path: str = "/", *lines: str, host: str = "app.example.com") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


def response(body: bytes = b"hello", *lines: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body
