"""What is known of one client connection, and the order of its stages."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.configuration import (
    HandlerAction,
    HandlerKind,
    MatchProtocol,
    ProxyProtocolMode,
    Route,
    TlsMode,
)
from smartproxy.core.context import Context
from smartproxy.core.downstream.client import ClientFacts, plain_address
from smartproxy.core.downstream.handlers import BlockSession, EchoSession
from smartproxy.core.downstream.peek import PeekStage
from smartproxy.core.downstream.proxy_header import ProxyHeaderStage
from smartproxy.core.downstream.raw import RawForward
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.generation import Generation
from smartproxy.core.http.http1_server import Http1Server
from smartproxy.core.http.http2_server import Http2Server
from smartproxy.core.records import Level
from smartproxy.core.relay.tunnel import Tunnel
from smartproxy.core.routing.table import FirstBytes, PortPlan
from smartproxy.core.security.rate_limit import request_key
from smartproxy.core.stream import ByteStream, Link
from smartproxy.core.timers import Timer
from smartproxy.core.wire.client_hello import ClientHello, encode_alert
from smartproxy.core.wire.proxy_protocol import ProxyHeader
from smartproxy.core.wire.tls import TlsStream

_ALERT_FATAL = 2
_UNRECOGNIZED_NAME = 112
_ACCESS_DENIED = 49


class ClientConnection(ClientFacts):
    """One accepted TCP connection. Stages take its stream in turn and report back here.

    PROXY header → peek → route → access → TLS or passthrough → protocol → HTTP
    exchange or raw relay. It keeps the generation of configuration it began with.
    """

    __slots__ = (
        "_on_ended",
        "cancel_stage",
        "is_over",
        "is_raw",
        "link",
        "server",
        "stream",
        "timer",
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
        super().__init__(context, generation, plan, link.peer, link.local)
        self.link = link
        self.stream: ByteStream = link
        self.timer = Timer(self._too_slow)
        #: Withdraws what the stage at work has begun, where it has begun something.
        self.cancel_stage: Callable[[], None] | None = None
        self.server: Http1Server | Http2Server | None = None
        self.is_raw = False
        self.tunnel: Tunnel | None = None
        self.is_over = False
        self._on_ended = on_ended

    @property
    def inactivity_s(self) -> float:
        return self.timeouts.inactivity_s

    # Stages.

    def begin(self) -> None:
        """Start on the first stage."""
        self.await_first_bytes()
        policy = self.plan.proxy_protocol
        if policy is None or policy.mode is ProxyProtocolMode.REJECT:
            if self._let_in():
                PeekStage(self, self.link).begin(b"")
            return
        trusted = policy.trusted.contains(self.client_number)
        # Who it is for a trusted proxy's connection is known, and counted, once its header has been read.
        counts_now = self.generation.gatekeeper.is_blocked(self.client_number) or not trusted
        if counts_now and not self._let_in():
            return
        if policy.mode is ProxyProtocolMode.REQUIRED and not trusted:
            self.refuse(FailureCode.PROXY_PROTOCOL_ERROR, "PROXY header required, peer not trusted")
            return
        self.link.handler = ProxyHeaderStage(
            self, self.link, required=policy.mode is ProxyProtocolMode.REQUIRED, trusted=trusted
        )

    def _let_in(self) -> bool:
        """Count the client; one that gets no connection is closed on without a word."""
        failure = self.admit()
        if failure is None:
            return True
        level = self.generation.gatekeeper.report_level(self.client_number)
        self.refuse(failure.code, failure.detail, level)
        return False

    def await_first_bytes(self) -> None:
        """Everything before the first request has one deadline, counted from the connection's start."""
        self.timer.callback = self._too_slow
        self.context.timers.set(self.timer, self.accepted_at + self.timeouts.initial_data_s)

    def proxy_header_done(self, header: ProxyHeader | None, remainder: bytes) -> None:
        """The PROXY header has been read, or there is none; `remainder` came behind it."""
        if header is not None and header.source is not None:
            self.set_client(header.source)
            if header.destination is not None:
                self.destination = plain_address(header.destination)
        if self._let_in():
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
            refusal = self.refusal_of_raw(route)
            if refusal is not None:
                self.link.write(encode_alert(_ALERT_FATAL, _ACCESS_DENIED))
                self.refuse(refusal, f"route {route.name}")
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

    def start_http1(self, received: bytes, first_byte_at: float | None) -> None:
        """The bytes are HTTP/1.1, or will be refused as such; the first of them came at `first_byte_at`."""
        self.cancel_stage = None
        self.server = Http1Server(self, self.stream, first_byte_at)
        if received:
            self.server.receive_data(received)

    def start_http2(self, received: bytes) -> None:
        """The bytes are HTTP/2, by ALPN or with prior knowledge (RFC 9113 §3.2, §3.3)."""
        self.cancel_stage = None
        server = self.server = Http2Server(self, self.stream)
        server.begin(received)

    def start_raw(self, route: Route, received: bytes, *, early: RawForward | None = None) -> None:
        """The bytes are not HTTP: give them to the route's backend or handler as they are."""
        self.route = route
        self.cancel_stage = None
        refusal = self.refusal_of_raw(route)
        if refusal is not None:
            if early is not None:
                early.cancel()
            self.refuse(refusal, f"route {route.name}")
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

    def refusal_of_raw(self, route: Route) -> FailureCode | None:
        """Why the route does not take this connection's bytes as they are; None: it does.

        The checks that a request would meet, in the same order (SPEC: Security). The connection
        is counted once, however often a route is asked.
        """
        if route is self.entered_route:
            return None
        if not self.has_room_on(route):
            return FailureCode.CONNECTION_LIMIT_REACHED
        if not self.allowed_by(route):
            return FailureCode.ACCESS_DENIED
        gate = self.generation.gates.get(route)
        if gate is not None:
            rule = gate.policy.rate_limit
            if rule is not None and gate.limiter is not None:
                key = request_key(rule, self.client_number, "", [])
                decision = gate.limiter.take(key, self.context.now)
                if not decision.allowed:
                    return FailureCode.RATE_LIMITED
                self.counted_ahead = gate.limiter, key, decision
            if gate.policy.needs_http:
                # Bytes that are not HTTP can show neither a clearance nor credentials.
                return FailureCode.ACCESS_DENIED
        self.enter(route)
        return None

    def takes_every_byte(self, route: Route) -> bool:
        """Whether a raw route wants its bytes whatever they look like."""
        protocol = route.match.protocol
        plan = self.plan
        http_has_a_route = plan.may_need_http if self.served_tls is None else plan.may_need_http_in_tls
        return (protocol is MatchProtocol.TCP and not http_has_a_route) or (
            isinstance(route.action, HandlerAction) and protocol is not MatchProtocol.HTTP
        )

    # Ends.

    def refuse(self, code: FailureCode, detail: str, level: Level = Level.INFO) -> None:
        """Close a connection that gets no further, and say why."""
        self.context.record(
            "connection",
            "connection_refused",
            level,
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
            self.server.drain()
        elif not self.is_raw:
            self.client_left()

    def retire(self) -> None:
        """A newer configuration is in force: do not stay on this one for long."""
        if self.server is not None:
            self.server.retire()

    def ended(self) -> None:
        """Nothing more will come of this connection."""
        if not self.is_over:
            self.is_over = True
            self.cancel_stage = None
            self.context.timers.cancel(self.timer)
            self.release_admission()
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
