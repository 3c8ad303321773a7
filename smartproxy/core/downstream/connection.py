"""What is known of one client connection, and the order of its stages."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.certificates import ServedTls
from smartproxy.core.configuration import (
    HandlerAction,
    HandlerKind,
    Limits,
    MatchProtocol,
    ProxyProtocolMode,
    Route,
    Timeouts,
    TlsMode,
)
from smartproxy.core.context import Context
from smartproxy.core.downstream.handlers import BlockSession, EchoSession
from smartproxy.core.downstream.peek import PeekStage
from smartproxy.core.downstream.proxy_header import ProxyHeaderStage
from smartproxy.core.downstream.raw import RawForward
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.generation import Generation
from smartproxy.core.http.dates import http_date
from smartproxy.core.http.forwarding import ForwardingFields
from smartproxy.core.http.http1_server import Http1Server
from smartproxy.core.http.messages import Fields
from smartproxy.core.ops import UNIX_PORT, Address
from smartproxy.core.records import AccessRecord, Level
from smartproxy.core.relay.tunnel import Tunnel
from smartproxy.core.routing.domains import normalise_host
from smartproxy.core.routing.table import FirstBytes, PortPlan
from smartproxy.core.security.ip_rules import ip_number
from smartproxy.core.stream import ByteStream, Link
from smartproxy.core.timers import Timer
from smartproxy.core.wire.client_hello import ClientHello, encode_alert
from smartproxy.core.wire.http1 import Http1Limits
from smartproxy.core.wire.proxy_protocol import ProxyHeader, encode_proxy_v1, encode_proxy_v2
from smartproxy.core.wire.tls import TlsStream

_ALERT_FATAL = 2
_UNRECOGNIZED_NAME = 112
_ACCESS_DENIED = 49


def _plain(address: Address) -> Address:
    """An IPv4-mapped address as the IPv4 address, any other without its zone."""
    host, port = address
    if port == UNIX_PORT:
        return address
    if host.startswith("::ffff:") and "." in host:
        return host[7:], port
    return host.partition("%")[0], port


class ClientConnection:
    """One accepted connection. Stages take its stream in turn and report back here.

    PROXY header → peek → route → access → TLS or passthrough → protocol → HTTP
    exchange or raw relay. It keeps the generation of configuration it began with.
    """

    __slots__ = (
        "_authority",
        "_forwarding",
        "_host",
        "_on_ended",
        "accepted_at",
        "cancel_stage",
        "certificates",
        "client",
        "client_ip",
        "client_key",
        "client_number",
        "context",
        "destination",
        "draining",
        "generation",
        "is_over",
        "is_raw",
        "last_fields",
        "last_passed_on_fields",
        "limits",
        "link",
        "local_port",
        "plan",
        "route",
        "served_tls",
        "server",
        "server_name",
        "stream",
        "timeouts",
        "timer",
        "tls_version",
        "tunnel",
    )

    def __init__(
        self,
        context: Context,
        generation: Generation,
        link: Link,
        plan: PortPlan,
        on_ended: Callable[[ClientConnection], None],
    ) -> None:
        self.context = context
        self.generation = generation
        self.timeouts: Timeouts = generation.configuration.timeouts
        self.limits: Limits = generation.configuration.limits
        self.link = link
        self.stream: ByteStream = link
        self.plan = plan
        self.local_port = link.local[1]
        self.accepted_at = context.now
        self.destination: Address = _plain(link.local)
        self.timer = Timer(self._too_slow)
        #: Withdraws what the stage at work has begun, where it has begun something.
        self.cancel_stage: Callable[[], None] | None = None
        self.server_name: str | None = None
        self.route: Route | None = None
        self.served_tls: ServedTls | None = None
        self.certificates = generation.configuration.certificates
        self.tls_version = ""
        self.server: Http1Server | None = None
        self.is_raw = False
        self.tunnel: Tunnel | None = None
        self.draining = False
        self.is_over = False
        self._on_ended = on_ended
        self._forwarding: ForwardingFields | None = None
        #: The field list of the last request, which the next one often shares, and what of it went on.
        self.last_fields: Fields | None = None
        self.last_passed_on_fields: Fields = []
        self._authority: bytes | None = None
        self._host = ""
        self._set_client(link.peer)

    def _set_client(self, client: Address) -> None:
        client = self.client = _plain(client)
        self.client_ip = client[0]
        try:
            self.client_number = ip_number(client[0])
        except ValueError:
            # A unix peer behind a PROXY header has no IP address; rules written for addresses never match it.
            self.client_number = -1
        self.client_key = client[0].encode("utf-8", "surrogatepass")

    # Facts.

    @property
    def http1_limits(self) -> Http1Limits:
        return self.generation.http1_limits

    @property
    def inactivity_s(self) -> float:
        return self.timeouts.inactivity_s

    @property
    def forwarding(self) -> ForwardingFields:
        """The writer of this connection's X-Forwarded-* and Forwarded fields."""
        if self._forwarding is None:
            self._forwarding = ForwardingFields(
                self.client_ip,
                self.client[1],
                self.local_port,
                b"https" if self.tls_version else b"http",
                self.generation.configuration.trusted_proxies.contains(self.client_number),
            )
        return self._forwarding

    def host_of(self, authority: bytes) -> str:
        """The host an authority names, normalised; empty for none. Raises ValueError for an invalid one."""
        if authority != self._authority:
            self._host = normalise_host(authority)[0] if authority else ""
            self._authority = authority
        return self._host

    def may_stay(self) -> bool:
        """Whether the connection may serve another request after the one under way."""
        return not (
            self.draining
            or self.generation.retired
            or self.context.now - self.accepted_at >= self.timeouts.lifetime_s
        )

    def http_date(self) -> bytes:
        return http_date(self.context.env.wall_clock())

    def proxy_preamble(self, version: int) -> bytes:
        """The PROXY header that opens a backend connection made for this client."""
        if version == 1:
            return encode_proxy_v1(self.client, self.destination)
        return encode_proxy_v2(self.client, self.destination)

    # Stages.

    def begin(self) -> None:
        """Start on the first stage."""
        self.await_first_bytes()
        policy = self.plan.proxy_protocol
        if policy is None or policy.mode is ProxyProtocolMode.REJECT:
            PeekStage(self, self.link).begin(b"")
            return
        trusted = policy.trusted.contains(self.client_number)
        if policy.mode is ProxyProtocolMode.REQUIRED and not trusted:
            self.refuse(FailureCode.PROXY_PROTOCOL_ERROR, "PROXY header required, peer not trusted")
            return
        self.link.handler = ProxyHeaderStage(
            self, self.link, required=policy.mode is ProxyProtocolMode.REQUIRED, trusted=trusted
        )

    def await_first_bytes(self) -> None:
        """Everything before the first request has one deadline, counted from the connection's start."""
        self.timer.callback = self._too_slow
        self.context.timers.set(self.timer, self.accepted_at + self.timeouts.initial_data_s)

    def proxy_header_done(self, header: ProxyHeader | None, remainder: bytes) -> None:
        """The PROXY header has been read, or there is none; `remainder` came behind it."""
        if header is not None and header.source is not None:
            self._set_client(header.source)
            if header.destination is not None:
                self.destination = _plain(header.destination)
        PeekStage(self, self.link).begin(remainder)

    def tls_peeked(self, hello: ClientHello, received: bytes) -> None:
        """The ClientHello is complete; `received` is every byte so far."""
        self.server_name = hello.server_name
        route = self.plan.match_connection(self.client_number, hello.server_name, FirstBytes.TLS)
        if route is None:
            self.link.write(encode_alert(_ALERT_FATAL, _UNRECOGNIZED_NAME))
            self.refuse(FailureCode.NO_ROUTE, f"no route for TLS name {hello.server_name or '(none)'}")
            return
        self.route = route
        tls = route.action.tls
        if tls is None or tls.mode is TlsMode.PASSTHROUGH:
            if not self.allowed_by(route):
                self.link.write(encode_alert(_ALERT_FATAL, _ACCESS_DENIED))
                self.refuse(FailureCode.ACCESS_DENIED, f"route {route.name}")
                return
            self.start_raw(route, received)
            return
        self.certificates = self.generation.configuration.certificates
        served = self.certificates.lookup(hello.server_name, route)
        if served is None:
            self.link.write(encode_alert(_ALERT_FATAL, _UNRECOGNIZED_NAME))
            self.refuse(FailureCode.NO_ROUTE, f"no certificate for {hello.server_name or '(no name)'}")
            return
        self.served_tls = served
        stage = _HandshakeStage(self)
        tls_stream = TlsStream(
            self.link,
            served.context,
            server_side=True,
            on_established=stage.established,
            handler=stage,
        )
        self.stream = tls_stream
        tls_stream.below.handler = tls_stream
        tls_stream.receive_data(received)

    def tls_established(self) -> None:
        """The handshake with the client is done; look at what it decrypts to."""
        stream = self.stream
        assert isinstance(stream, TlsStream)
        self.tls_version = stream.version()
        stage = PeekStage(self, stream)
        stage.begin_decrypted(stream.alpn_protocol())

    def start_http(self, received: bytes, first_byte_at: float | None) -> None:
        """The bytes are HTTP, or will be refused as such. `first_byte_at` is when the first of them came."""
        self.cancel_stage = None
        self.server = Http1Server(self, self.stream, first_byte_at)
        if received:
            self.server.receive_data(received)

    def start_raw(self, route: Route, received: bytes, *, early: RawForward | None = None) -> None:
        """The bytes are not HTTP: give them to the route's backend or handler as they are."""
        self.route = route
        self.cancel_stage = None
        if not self.allowed_by(route):
            if early is not None:
                early.cancel()
            self.refuse(FailureCode.ACCESS_DENIED, f"route {route.name}")
            return
        self.is_raw = True
        action = route.action
        if isinstance(action, HandlerAction):
            if action.kind is HandlerKind.ECHO:
                EchoSession(self, self.stream).begin(received)
            else:
                BlockSession(self, self.stream, action.text)
            return
        (early or RawForward(self, route)).take_client(received)

    def takes_every_byte(self, route: Route) -> bool:
        """Whether a raw route wants its bytes whatever they look like."""
        protocol = route.match.protocol
        plan = self.plan
        http_has_a_route = plan.may_need_http if self.served_tls is None else plan.may_need_http_in_tls
        return (protocol is MatchProtocol.TCP and not http_has_a_route) or (
            isinstance(route.action, HandlerAction) and protocol is not MatchProtocol.HTTP
        )

    def allowed_by(self, route: Route) -> bool:
        """Whether the route's IP lists let this client in; a block wins (SPEC: Security)."""
        access = route.access
        number = self.client_number
        if access.blocked is not None and access.blocked.contains(number):
            return False
        return access.allowed is None or access.allowed.contains(number)

    # Ends.

    def refuse(self, code: FailureCode, detail: str) -> None:
        """Close a connection that gets no further, and say why."""
        self.context.record(
            "connection",
            "connection_refused",
            Level.INFO,
            client_ip=self.client_ip,
            port=self.local_port,
            error=code.value,
            detail=detail,
        )
        self._give_up()

    def _give_up(self) -> None:
        if self.cancel_stage is not None:
            self.cancel_stage()
        self.stream.close()
        self.ended()

    def _too_slow(self) -> None:
        self.refuse(FailureCode.INITIAL_DATA_TIMEOUT, "first bytes incomplete")

    def lost(self, failure: Failure) -> None:
        """The client left, or its TLS failed, before there was anything to serve."""
        self.context.record(
            "connection",
            "connection_lost",
            Level.DEBUG,
            client_ip=self.client_ip,
            port=self.local_port,
            error=failure.code.value,
            detail=failure.detail,
        )
        self._give_up()

    def handshake_failed(self, failure: Failure) -> None:
        """The client left, or was refused, during its TLS handshake."""
        self.context.record(
            "tls",
            "handshake_failed",
            Level.INFO,
            client_ip=self.client_ip,
            port=self.local_port,
            server_name=self.server_name or "",
            error=failure.code.value,
            detail=failure.detail,
        )
        self._give_up()

    def client_left(self) -> None:
        self.lost(Failure(FailureSource.CLIENT, FailureCode.CONNECTION_TERMINATED, "closed early"))

    def drain(self) -> None:
        """Finish what is under way, take nothing new."""
        self.draining = True
        if self.server is not None:
            if self.tunnel is None:
                self.server.drain()
        elif not self.is_raw:
            self.client_left()

    def retire(self) -> None:
        """A newer configuration is in force: do not stay on this one for long."""
        if self.server is not None and self.tunnel is None:
            self.server.retire()

    def log_refusal(self, status: int, failure: Failure) -> None:
        """An access record for a request that never became one."""
        if self.context.wants_access_records:
            self.context.records.append(self._record("HTTP/1.1", 0, 0, failure, status=status))

    def log_raw(self, protocol: str, received: int, sent: int, failure: Failure | None, backend: str) -> None:
        """An access record for a connection that was not HTTP."""
        if self.context.wants_access_records:
            self.context.records.append(self._record(protocol, received, sent, failure, backend=backend))

    def _record(
        self,
        protocol: str,
        received: int,
        sent: int,
        failure: Failure | None,
        *,
        status: int = 0,
        backend: str = "",
    ) -> AccessRecord:
        return AccessRecord(
            client_ip=self.client_ip,
            client_port=self.client[1],
            protocol=protocol,
            route=self.route.name if self.route is not None else "",
            duration_s=self.context.now - self.accepted_at,
            bytes_received=received,
            bytes_sent=sent,
            authority=self.server_name or "",
            status=status,
            backend=backend,
            tls_version=self.tls_version,
            failure=failure.code.value if failure is not None else "",
            failure_detail=failure.detail if failure is not None else "",
        )

    def ended(self) -> None:
        """Nothing more will come of this connection."""
        if not self.is_over:
            self.is_over = True
            self.cancel_stage = None
            self.context.timers.cancel(self.timer)
            self._on_ended(self)


class _HandshakeStage:
    """Above a client's TLS stream until the handshake is done."""

    __slots__ = ("_connection",)

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def established(self) -> None:
        self._connection.tls_established()

    def receive_data(self, data: bytes) -> None:
        raise AssertionError("the peek stage takes over before the first decrypted byte")

    def receive_eof(self) -> None:
        self._connection.client_left()

    def stream_writable(self) -> None: ...

    def stream_lost(self, failure: Failure) -> None:
        self._connection.handshake_failed(failure)
