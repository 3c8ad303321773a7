"""A listening UDP socket that serves HTTP/3: which client a datagram belongs to, and what it is shown."""

from __future__ import annotations

import traceback

from smartproxy.core.certificates import ServedTls
from smartproxy.core.configuration import QuicPolicy, Route
from smartproxy.core.context import Context
from smartproxy.core.datagrams import Datagram, DatagramLink
from smartproxy.core.downstream.client import ClientFacts, plain_address
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.generation import Generation
from smartproxy.core.http.http3_server import Http3Server
from smartproxy.core.ops import Address
from smartproxy.core.records import Level
from smartproxy.core.routing.table import FirstBytes, PortPlan
from smartproxy.core.security.ip_rules import ip_number
from smartproxy.core.timers import Timer
from smartproxy.core.wire.http3 import (
    DEFAULT_LIMITS,
    ConnectionEnded,
    ErrorCode,
    Http3Connection,
    Http3Event,
    Http3Limits,
    QuicServerEndpoint,
    ServerIdentity,
    SessionTicketStore,
)

_LEAST_UNIDIRECTIONAL_STREAMS = 3
"""Control, and both of QPACK's (RFC 9114 §6.2)."""


class QuicListener:
    """The session of one listening UDP socket.

    A bug in the handling of one client's datagrams ends that client's connection only.
    """

    __slots__ = (
        "_context",
        "_datagram_link",
        "_draining",
        "_endpoint",
        "_generation",
        "_is_unflushed",
        "_peer",
        "_plan",
        "_sessions",
        "_timer",
        "_waiting",
        "link",
        "listening_port",
    )

    def __init__(
        self,
        context: Context,
        generation: Generation,
        plan: PortPlan,
        datagram_link: DatagramLink,
        listening_port: int,
    ) -> None:
        self._context = context
        self._generation = generation
        self._plan: PortPlan | None = plan
        self.listening_port = listening_port
        #: No one link pays for a bug in sending: the socket is everyone's.
        self.link: None = None
        self._datagram_link = datagram_link
        policy = _policy(plan)
        self._endpoint = QuicServerEndpoint(
            self._identity_for,
            context.env.entropy,
            limits=_limits(generation, policy),
            engine=generation.configuration.quic_engine,
            ticket_store=SessionTicketStore() if _takes_early_data(plan) else None,
        )
        self._sessions: dict[Http3Connection, Http3Server] = {}
        #: Sessions to tell when the socket has taken everything.
        self._waiting: set[Http3Server] = set()
        self._is_unflushed = False
        self._draining = False
        self._timer = Timer(self._timer_fired)
        #: Whose datagram is being read.
        self._peer: Address = ("", 0)
        datagram_link.handler = self

    @property
    def connection_count(self) -> int:
        """Clients connected, whose handshake got as far as their name."""
        return len(self._sessions)

    # Who is there.

    def _identity_for(self, server_name: str | None) -> ServerIdentity | None:
        """The certificate for a handshake under way; None refuses it."""
        client_ip = plain_address(self._peer)[0]
        if self._generation.gatekeeper.is_blocked(ip_number(client_ip)):
            self._refuse(client_ip, Failure(FailureSource.CLIENT, FailureCode.ACCESS_DENIED, "block policy"))
            return None
        served = self._served_for(server_name, self._peer)
        return served.quic_identity if served is not None else None

    def _served_for(self, server_name: str | None, peer: Address) -> ServedTls | None:
        route = self._route_for(server_name, peer)
        if route is None:
            return None
        return self._generation.configuration.certificates.lookup(server_name, route)

    def _route_for(self, server_name: str | None, peer: Address) -> Route | None:
        if self._plan is None:
            return None
        return self._plan.match_connection(ip_number(plain_address(peer)[0]), server_name, FirstBytes.TLS)

    def _begin(self, connection: Http3Connection, peer: Address) -> Http3Server | None:
        """The session of a connection whose client's address is proven; None: it gets none."""
        plan = self._plan
        assert plan is not None
        client = ClientFacts(self._context, self._generation, plan, peer, self._datagram_link.local)
        client.server_name = connection.server_name
        client.route = self._route_for(connection.server_name, peer)
        client.served_tls = self._served_for(connection.server_name, peer)
        client.tls_version = "TLSv1.3"
        client.draining = self._draining
        failure = client.admit()
        if failure is not None:
            self._refuse(client.client_ip, failure)
            return None
        session = Http3Server(client, connection, self._datagram_link, self)
        self._sessions[connection] = session
        return session

    def _refuse(self, client_ip: str, failure: Failure) -> None:
        self._context.record(
            "connection",
            "connection_refused",
            self._generation.gatekeeper.report_level(ip_number(client_ip)),
            client_ip=client_ip,
            port=self.listening_port,
            error=failure.code.value,
            detail=failure.detail,
        )

    def end_blocked(self) -> None:
        """The block policy has changed: end the connections of those it keeps out."""
        gatekeeper = self._generation.gatekeeper
        for session in list(self._sessions.values()):
            if gatekeeper.is_blocked(session.client.client_number):
                session.abort(ErrorCode.H3_REQUEST_REJECTED)
        self.flush_soon()

    def connection_ended(self, connection: Http3Connection) -> None:
        session = self._sessions.pop(connection, None)
        if session is not None:
            session.client.release_admission()
            self._waiting.discard(session)

    # What comes.

    def receive_datagrams(self, datagrams: list[Datagram]) -> None:
        now = self._context.now
        receive = self._endpoint.receive_datagram
        for data, address in datagrams:
            self._peer = address
            try:
                arrived = receive(data, address, now)
            except Exception as error:
                self._report_bug(error)
                continue
            if arrived is not None and arrived[1]:
                self._deliver(arrived[0], arrived[1], address)
        self.flush_soon()

    def _deliver(self, connection: Http3Connection, events: list[Http3Event], peer: Address) -> None:
        session = self._sessions.get(connection)
        try:
            if session is None:
                if isinstance(events[0], ConnectionEnded):
                    # It never got as far as a name.
                    return
                if self._plan is None:
                    connection.close(ErrorCode.H3_NO_ERROR)
                    return
                session = self._begin(connection, peer)
                if session is None:
                    connection.close(ErrorCode.H3_EXCESSIVE_LOAD)
                    return
                if self._draining:
                    session.drain()
            session.handle_events(events)
        except Exception as error:
            self._report_bug(error)
            connection.close(ErrorCode.H3_INTERNAL_ERROR)
            self.flush_soon()

    def _report_bug(self, error: Exception) -> None:
        self._context.record(
            "engine",
            "internal_error",
            Level.ERROR,
            error=repr(error),
            traceback="".join(traceback.format_exception(error)),
        )

    def datagrams_writable(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for session in waiting:
            session.transport_writable()

    def datagrams_lost(self, failure: Failure) -> None:
        """The socket is gone, and every client with it."""
        self._datagram_link.close()
        self._context.timers.cancel(self._timer)
        self._waiting.clear()
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.lose_streams(failure)
            session.forget_timer()
            session.client.release_admission()

    # What goes.

    def flush_soon(self) -> None:
        """Something is to be sent once this input has been dealt with."""
        if not self._is_unflushed:
            self._is_unflushed = True
            self._context.unflushed.append(self)

    def await_writable(self, session: Http3Server) -> None:
        """Tell `session` when the socket has taken everything, where it does not do so at once."""
        if self._datagram_link.outgoing_bytes:
            self._waiting.add(session)
            self._datagram_link.ask_for_writable()

    def flush(self) -> None:
        self._is_unflushed = False
        if self._datagram_link.closing:
            return
        endpoint = self._endpoint
        self._datagram_link.send(endpoint.datagrams_to_send(self._context.now))
        for connection, events in endpoint.poll_events():
            session = self._sessions.get(connection)
            if session is not None:
                self._deliver(connection, events, session.client.client)
                self.flush_soon()
        due = endpoint.get_timer()
        if due is None:
            self._context.timers.cancel(self._timer)
        elif due != self._timer.deadline:
            self._context.timers.set(self._timer, due)
        if self._plan is None and not len(endpoint):
            self._datagram_link.close()

    def _timer_fired(self) -> None:
        for connection, events in self._endpoint.handle_timer(self._context.now):
            session = self._sessions.get(connection)
            if session is not None:
                self._deliver(connection, events, session.client.client)
        self.flush_soon()

    # Life.

    def replace_generation(self, generation: Generation) -> None:
        """Serve new clients by `generation`; those there are leave after what is under way."""
        self._generation = generation
        self._plan = plan = generation.configuration.table.quic_port(self.listening_port)
        for session in list(self._sessions.values()):
            session.retire()
        self._endpoint.accepts_connections = plan is not None and not self._draining
        if plan is not None:
            endpoint = self._endpoint
            endpoint.limits = _limits(generation, _policy(plan))
            if not _takes_early_data(plan):
                endpoint.ticket_store = None
            elif endpoint.ticket_store is None:
                endpoint.ticket_store = SessionTicketStore()
        self.flush_soon()

    def drain(self) -> None:
        """Finish what is under way, take nothing new."""
        self._draining = True
        self._endpoint.accepts_connections = False
        for session in list(self._sessions.values()):
            session.drain()
        self.flush_soon()

    def shut_down(self) -> None:
        """End every connection now."""
        self.drain()
        for session in list(self._sessions.values()):
            session.abort(ErrorCode.H3_NO_ERROR)
        self.flush_soon()


def _policy(plan: PortPlan) -> QuicPolicy:
    """The transport parameters of a port are sent before there is a name: those of its first route."""
    return next((route.quic for route in plan.routes if route.quic is not None), QuicPolicy())


def _takes_early_data(plan: PortPlan) -> bool:
    """Whether every route of the port allows it: a ticket of one name may be used to ask for another."""
    policies = [route.quic for route in plan.routes if route.quic is not None]
    return bool(policies) and all(policy.zero_rtt for policy in policies)


def _limits(generation: Generation, policy: QuicPolicy) -> Http3Limits:
    limits = generation.configuration.limits
    window = policy.initial_congestion_window_datagrams
    return Http3Limits(
        concurrent_streams=policy.bidirectional_streams,
        unidirectional_streams=max(policy.unidirectional_streams, _LEAST_UNIDIRECTIONAL_STREAMS),
        header_bytes=limits.header_bytes,
        header_count=limits.header_count,
        target_bytes=limits.target_bytes,
        stalled_stream_s=generation.configuration.timeouts.socket_s,
        idle_timeout_s=policy.idle_timeout_s,
        keep_alive_s=policy.idle_timeout_s / 3,
        initial_congestion_window_datagrams=window or DEFAULT_LIMITS.initial_congestion_window_datagrams,
    )
