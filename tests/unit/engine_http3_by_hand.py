"""An engine driven by hand among HTTP/3 clients and backends, on a network that loses nothing."""

from __future__ import annotations

import random
import ssl
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from math import inf
from typing import Any

from engine_by_hand import PROXY_IP, DatagramEnd, EngineByHand, route, target
from engine_http2_by_hand import Seen

from smartproxy.core.certificates import CertificateIndex, NameIndex, ServedTls
from smartproxy.core.configuration import (
    BackendProtocol,
    Configuration,
    ForwardAction,
    HandlerAction,
    Limits,
    OriginTls,
    QuicPolicy,
    Route,
    RouteTls,
    Target,
    Timeouts,
    TlsMode,
    Transport,
)
from smartproxy.core.http.messages import UNKNOWN_LENGTH, Fields, RequestHead, ResponseHead
from smartproxy.core.ops import Address, OpenDatagrams
from smartproxy.core.routing.table import RouteTable
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.core.wire.http3 import (
    DEFAULT_LIMITS,
    ClientParameters,
    ConnectionEnded,
    DataReceived,
    EngineName,
    GoAwayReceived,
    HandshakeCompleted,
    Http3Connection,
    Http3Event,
    Http3Limits,
    QuicServerEndpoint,
    RequestReceived,
    ResponseReceived,
    SessionTicket,
    StreamEnded,
    StreamReset,
)
from smartproxy.testing.http3_network import SERVER_NAME, authority, identity, trust

PORT = 443
LATENCY_S = 0.001
QUIET_S = 0.05
TICK_S = 1e-6
SERVER: Address = (PROXY_IP, PORT)
_numbers = count(1)


def http3_route(
    name: str,
    action: ForwardAction | HandlerAction | Target,
    *,
    policy: QuicPolicy | None = None,
    **options: Any,
) -> Route:
    """A route of HTTPS and HTTP/3 on port 443."""
    if isinstance(action, Target):
        action = ForwardAction((action,), tls=RouteTls(TlsMode.TERMINATE))
    options.setdefault("transport", Transport.ALL)
    return route(name, action, ports=PORT, route_options={"quic": policy or QuicPolicy()}, **options)


def http3_configuration(
    *routes: Route,
    names: tuple[str, ...] = (SERVER_NAME,),
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
    engine: EngineName = "aioquic",
) -> Configuration:
    """`names` are those with a certificate; the first is shown to clients that name nobody."""
    for position, each in enumerate(routes):
        each.position = position
    served = {name: ServedTls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), identity(name)) for name in names}
    index = NameIndex(served, served[names[0]])
    return Configuration(
        RouteTable(routes),
        CertificateIndex({each.position: index for each in routes}),
        IpSet.compile([]),
        timeouts=timeouts or Timeouts(),
        limits=limits or Limits(),
        quic_engine=engine,
    )


def http3_origin(*hosts: str) -> ForwardAction:
    """What is only to be had by HTTP/3."""
    origin = OriginTls(
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        SERVER_NAME,
        None,
        "test",
        read_ca_pem=lambda: authority().cert_pem.bytes(),
    )
    return ForwardAction(
        (target(*hosts, port=8443, tls=origin),),
        tls=RouteTls(TlsMode.TERMINATE),
        backend_protocol=BackendProtocol.HTTP3,
    )


class Peer:
    """One side of HTTP/3 connections: what streams have brought, and whether credit is given."""

    def __init__(self, world: Http3World, *, gives_credit: bool = True) -> None:
        self.world = world
        self.gives_credit = gives_credit
        self.streams: defaultdict[int, Seen] = defaultdict(Seen)
        self.goaways: list[int] = []
        self.ended: ConnectionEnded | None = None
        self.is_ready = False

    def has_ended(self) -> bool:
        return self.ended is not None

    def note(self, connection: Http3Connection, events: list[Http3Event]) -> None:
        for event in events:
            if isinstance(event, ConnectionEnded):
                self.ended = event
            elif isinstance(event, HandshakeCompleted):
                self.is_ready = True
            elif isinstance(event, GoAwayReceived):
                self.goaways.append(event.last_stream_id)
            elif isinstance(event, RequestReceived | ResponseReceived):
                self._note_head(event)
            elif isinstance(event, DataReceived):
                self.streams[event.stream_id].data += event.data
                if self.gives_credit:
                    connection.acknowledge_received_data(event.stream_id, len(event.data))
            elif isinstance(event, StreamEnded):
                seen = self.streams[event.stream_id]
                seen.ended = True
                if event.trailers:
                    seen.heads.append(dict(event.trailers))
            elif isinstance(event, StreamReset):
                self.streams[event.stream_id].reset = event.error_code

    def _note_head(self, event: RequestReceived | ResponseReceived) -> None:
        head = event.head
        section = dict(head.fields)
        if isinstance(head, RequestHead):
            section |= {b":method": head.method, b":path": head.target, b":authority": head.authority}
            if head.protocol:
                section[b":protocol"] = head.protocol
        else:
            section[b":status"] = b"%d" % head.status
        seen = self.streams[event.stream_id]
        seen.heads.append(section)
        seen.ended |= event.end_stream


class Http3Client(Peer):
    """A client; each has an address of its own."""

    def __init__(
        self,
        world: Http3World,
        *,
        name: str = SERVER_NAME,
        limits: Http3Limits = DEFAULT_LIMITS,
        gives_credit: bool = True,
        port: int = PORT,
        keep_tickets: bool = False,
    ) -> None:
        super().__init__(world, gives_credit=gives_credit)
        number = next(_numbers)
        self.address: Address = (f"198.51.100.{number % 250 + 1}", 50000 + number % 10000)
        self.connection = Http3Connection(
            ClientParameters(limits, trust(name), random.Random(number).randbytes, keep_tickets=keep_tickets)
        )
        self.tickets: list[SessionTicket] = []
        self.connection.callbacks.on_session_ticket = self.tickets.append
        self.answers = True
        """False: what is sent to it is lost."""
        world.clients.append(self)
        self.connection.connect((PROXY_IP, port), world.hand.now)

    def request(
        self,
        method: bytes = b"GET",
        path: bytes = b"/",
        *fields: tuple[bytes, bytes],
        body: bytes | None = None,
        ends: bool = True,
        host: bytes = SERVER_NAME.encode(),
        protocol: bytes = b"",
        runs: bool = True,
    ) -> int:
        """As `Http2End.request`."""
        head = RequestHead(method, path, host, list(fields), scheme=b"https")
        head.protocol = protocol
        connection = self.connection
        stream_id = connection.send_request(head, end_stream=ends and body is None)
        if body is not None:
            connection.send_data(stream_id, body, self.world.hand.now, end_stream=ends)
        if runs:
            self.world.run()
        return stream_id

    def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.connection.send_data(stream_id, data, self.world.hand.now, end_stream=end)
        self.world.run()

    def stream(self, stream_id: int) -> Seen:
        self.world.run()
        return self.streams[stream_id]


class Http3Backend(Peer):
    """The server behind one UDP socket of the engine's."""

    def __init__(self, world: Http3World, end: DatagramEnd, *, limits: Http3Limits = DEFAULT_LIMITS) -> None:
        super().__init__(world)
        self.end = end
        self.answers = True
        self.endpoint = QuicServerEndpoint(
            lambda _: identity(SERVER_NAME), random.Random(next(_numbers)).randbytes, limits=limits
        )
        self._asked_up_to = -1
        world.backends.append(self)

    @property
    def connection(self) -> Http3Connection:
        [connection] = self.endpoint.connections
        return connection

    def new_streams(self) -> list[int]:
        """Requests that have not been asked for here before."""
        self.world.run()
        found = [each for each, seen in self.streams.items() if seen.heads and each > self._asked_up_to]
        if found:
            self._asked_up_to = max(found)
        return sorted(found)

    def new_stream(self) -> int:
        [stream_id] = self.new_streams()
        return stream_id

    def respond(
        self,
        stream_id: int,
        status: int = 200,
        *fields: tuple[bytes, bytes],
        body: bytes | None = b"hello",
        ends: bool = True,
    ) -> None:
        head = ResponseHead(status, list(fields))
        head.body_length_bytes = UNKNOWN_LENGTH
        connection = self.connection
        connection.send_response(stream_id, head, end_stream=ends and body is None)
        if body:
            connection.send_data(stream_id, body, self.world.hand.now, end_stream=ends)
        elif body is not None and ends:
            connection.send_data(stream_id, b"", self.world.hand.now, end_stream=True)
        self.world.run()

    def trailers(self, stream_id: int, *fields: tuple[bytes, bytes]) -> None:
        lines: Fields = list(fields)
        self.connection.send_trailers(stream_id, lines)
        self.world.run()

    def reset(self, stream_id: int, code: int) -> None:
        self.connection.reset_stream(stream_id, code)
        self.world.run()


class Http3World:
    """The engine, its UDP sockets, and everybody on the other side of them."""

    def __init__(self, configuration: Configuration, *, binds: bool = True) -> None:
        self.hand = EngineByHand(configuration, entropy=random.Random(4).randbytes)
        self.listener = self.hand.bind(PORT) if binds else None
        self.clients: list[Http3Client] = []
        self.backends: list[Http3Backend] = []
        self.strays: list[tuple[bytes, Address]] = []
        """Datagrams for addresses where nobody is."""
        self.before_delivery: Callable[[bytes, Address], bool] | None = None
        """Asked for each datagram to a client; False drops it."""

    def client(self, **options: Any) -> Http3Client:
        """One whose handshake is done."""
        client = Http3Client(self, **options)
        self.run()
        assert client.is_ready
        return client

    def backend(self, operation: OpenDatagrams | None = None, **options: Any) -> Http3Backend:
        """The server that the UDP dial under way reaches."""
        backend = Http3Backend(self, self.hand.open_datagrams(operation), **options)
        self.run()
        return backend

    def is_bound(self) -> bool:
        """Whether the engine keeps its listening socket."""
        return self.listener is not None and not self.listener.link.closing

    # Time.

    def run(self) -> None:
        """Carry datagrams until it has been quiet for a while."""
        hand = self.hand
        busy_until = hand.now + 600.0
        quiet_until = inf
        while hand.now < busy_until:
            if self._carry():
                quiet_until = inf
                self._pass(LATENCY_S)
            elif hand.now >= quiet_until:
                return
            else:
                if quiet_until == inf:
                    quiet_until = hand.now + QUIET_S
                self._pass(max(min(self._due(), quiet_until) - hand.now, 0.0) + TICK_S)
        raise AssertionError("it does not end")

    def let_pass(self, seconds: float) -> None:
        """Carry datagrams for just so long."""
        hand = self.hand
        until = hand.now + seconds
        while hand.now < until:
            if self._carry():
                self._pass(LATENCY_S)
            else:
                self._pass(max(min(self._due(), until) - hand.now, 0.0) + TICK_S)

    def _pass(self, seconds: float) -> None:
        hand = self.hand
        hand.advance(seconds)
        for client in self.clients:
            due = client.connection.get_timer()
            if due is not None and due <= hand.now:
                client.note(client.connection, client.connection.handle_timer(hand.now))
        for backend in self.backends:
            due = backend.endpoint.get_timer()
            if due is not None and due <= hand.now:
                for connection, events in backend.endpoint.handle_timer(hand.now):
                    backend.note(connection, events)

    def _due(self) -> float:
        timers = [client.connection.get_timer() for client in self.clients]
        timers += [backend.endpoint.get_timer() for backend in self.backends]
        return min([self.hand.engine.poll_timeout(), *(each for each in timers if each is not None)])

    def _carry(self) -> bool:
        """Whether anything was under way."""
        hand = self.hand
        carried = False
        for client in self.clients:
            datagrams = client.connection.datagrams_to_send(hand.now)
            client.note(client.connection, client.connection.poll_events())
            if datagrams and self.listener is not None and not self.listener.link.closing:
                carried = True
                self.listener.send(*((data, client.address) for data, _ in datagrams))
        if self.listener is not None:
            for data, address in self.listener.take():
                carried = True
                self._deliver(data, address)
        for backend in self.backends:
            carried |= self._carry_backend(backend)
        return carried

    def _deliver(self, data: bytes, address: Address) -> None:
        if self.before_delivery is not None and not self.before_delivery(data, address):
            return
        for client in self.clients:
            if client.address == address:
                if client.answers:
                    events = client.connection.receive_datagram(data, SERVER, self.hand.now)
                    client.note(client.connection, events)
                return
        self.strays.append((data, address))

    def _carry_backend(self, backend: Http3Backend) -> bool:
        hand = self.hand
        end = backend.end
        carried = False
        for data, _ in end.take():
            carried = True
            if backend.answers:
                arrived = backend.endpoint.receive_datagram(data, end.link.local, hand.now)
                if arrived is not None:
                    backend.note(*arrived)
        datagrams = backend.endpoint.datagrams_to_send(hand.now)
        for connection, events in backend.endpoint.poll_events():
            backend.note(connection, events)
        if datagrams and backend.answers and not end.link.closing:
            carried = True
            peer = end.link.peer
            assert peer is not None
            end.send(*((data, peer) for data, _ in datagrams))
        return carried

    # The end.

    def settle(self) -> None:
        """Nothing may be left when all idle times have passed."""
        for client in self.clients:
            client.answers = False
        for backend in self.backends:
            backend.answers = False
        if self.listener is not None:
            self.listener.takes_datagrams = True
            self.hand.visit_datagrams(self.listener.link)
        self.hand.drain()
        self.clients.clear()
        self.hand.settle()
        for end in self.hand.datagram_ends.values():
            assert end is self.listener or end.link.closing
