"""The façade: inputs in, outputs out, and the sessions between."""

from __future__ import annotations

import traceback
from functools import partial

from smartproxy.core.certificates import CertificateIndex
from smartproxy.core.configuration import Configuration
from smartproxy.core.context import Context
from smartproxy.core.datagrams import Datagram, DatagramHandler, DatagramLink
from smartproxy.core.downstream.connection import ClientConnection
from smartproxy.core.downstream.quic_listener import QuicListener
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure, FailureCode, FailureSource, LostReason
from smartproxy.core.generation import Generation
from smartproxy.core.http.http2_client import Http2Client
from smartproxy.core.http.http3_client import Http3Client
from smartproxy.core.ops import Address, Operation, RelayOutcome, Result, StartRelay
from smartproxy.core.records import AccessRecord, Level, Record
from smartproxy.core.security.challenge.provider import ChallengeProvider
from smartproxy.core.security.connection_limits import ConnectionLimits
from smartproxy.core.security.gatekeeper import Gatekeeper
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.core.stream import ByteStream, Link
from smartproxy.core.upstream.multiplexed import MultiplexedOwner
from smartproxy.core.upstream.pool import Pools
from smartproxy.core.upstream.protocol_choice import ProtocolSnapshot
from smartproxy.core.upstream.quic_dial import QuicSupport
from smartproxy.core.wire.http3 import EngineName, Http3Limits

QUIC_ENGINE: EngineName = "aioquic"
BACKEND_HTTP3_LIMITS = Http3Limits(keep_alive_s=10.0)

_LOST_CODES = {
    LostReason.TIMED_OUT: FailureCode.CONNECTION_TIMEOUT,
    LostReason.UNREACHABLE: FailureCode.DESTINATION_IP_UNROUTABLE,
    LostReason.REFUSED: FailureCode.CONNECTION_REFUSED,
}


class Engine:
    """A whole proxy as a state machine.

    Give it one input at a time, with the monotonic time `now` in seconds, and after
    each take every output: `poll_dirty_links`, `poll_operations`, `poll_records`,
    `poll_timeout`. Inputs must not be nested. Nothing that a peer sends makes an
    input raise; an exception is a bug of ours, to be given to `handle_bug`.
    """

    __slots__ = (
        "_connections",
        "_gatekeeper",
        "_generation",
        "_in_input",
        "_next_link_id",
        "_pools",
        "_quic_listeners",
        "_started",
        "context",
        "draining",
    )

    def __init__(self, configuration: Configuration, env: Env) -> None:
        self.context = Context(env)
        self._pools = Pools(
            self.context,
            self._new_upstream_link,
            configuration.limits,
            configuration.timeouts,
            new_http2=self._new_http2_client,
            quic=QuicSupport(
                engine=QUIC_ENGINE,
                new_datagram_link=self._new_upstream_datagram_link,
                new_http3=partial(Http3Client, self.context),
                limits=BACKEND_HTTP3_LIMITS,
            ),
        )
        self._gatekeeper = Gatekeeper(self.context)
        self._generation = Generation(configuration, self._pools, self._gatekeeper, 1)
        self._connections: dict[int, ClientConnection] = {}
        self._quic_listeners: list[QuicListener] = []
        self._next_link_id = 0
        self._in_input = False
        self._started = False
        self.draining = False

    # State.

    @property
    def configuration(self) -> Configuration:
        """The configuration new connections get."""
        return self._generation.configuration

    @property
    def generation(self) -> int:
        """How many configurations there have been, the present one included."""
        return self._generation.number

    @property
    def connection_count(self) -> int:
        """Client connections alive."""
        quic_count = sum(listener.connection_count for listener in self._quic_listeners)
        return len(self._connections) + quic_count

    @property
    def backend_connection_count(self) -> int:
        """Pooled backend connections open or being opened."""
        return self._pools.open_connections()

    def backend_protocols(self) -> list[tuple[str, ProtocolSnapshot]]:
        """What is known of the HTTP versions of backends that may have several, by endpoint; at most 256."""
        return self._pools.protocol_snapshots()

    @property
    def connection_limits(self) -> ConnectionLimits:
        """The counts of client connections by address and by route, for looking at."""
        return self._gatekeeper.connection_limits

    def register_challenge_provider(self, provider_id: str, provider: ChallengeProvider) -> None:
        """Have `provider` make the challenges of the routes that name `provider_id`, from now on."""
        self._gatekeeper.challenges.register(provider_id, provider)

    # Inputs.

    def _enter(self, now: float) -> None:
        assert not self._in_input, "engine inputs must not be nested"
        self._in_input = True
        self.context.now = now

    def _new_link(self, peer: Address, local: Address) -> Link:
        self._next_link_id += 1
        return Link(self.context, self._next_link_id, peer, local)

    def _new_upstream_link(self, peer: Address) -> Link:
        return self._new_link(peer, ("", 0))

    def _new_http2_client(self, stream: ByteStream, link: Link, owner: MultiplexedOwner) -> Http2Client:
        return Http2Client(self.context, stream, link, owner, self._generation.http2_limits)

    def _new_upstream_datagram_link(self, peer: Address) -> DatagramLink:
        return self._new_datagram_link(peer, ("", 0))

    def handle_started(self, now: float) -> None:
        """The listeners are up: begin what the proxy does unasked, such as health checks."""
        self._enter(now)
        try:
            self._started = True
            self._generation.start()
        finally:
            self._in_input = False

    def handle_accepted(self, listening_port: int, peer: Address, local: Address, now: float) -> Link:
        """A client connected to the listener configured as `listening_port`; returns its link."""
        self._enter(now)
        try:
            link = self._new_link(peer, local)
            generation = self._generation
            plan = generation.configuration.table.port(listening_port)
            if plan is None or self.draining:
                link.abort()
                return link
            connection = ClientConnection(self.context, generation, link, plan, self._connection_ended)
            self._connections[link.id] = connection
            connection.begin()
            return link
        finally:
            self._in_input = False

    def handle_data(self, link: Link, data: bytes, now: float) -> None:
        """`data` (not empty) arrived on `link`."""
        assert not self._in_input, "engine inputs must not be nested"
        self._in_input = True
        self.context.now = now
        try:
            link.bytes_received += len(data)
            link.handler.receive_data(data)
        finally:
            self._in_input = False

    def handle_eof(self, link: Link, now: float) -> None:
        """The peer of `link` will send no more."""
        self._enter(now)
        try:
            link.handler.receive_eof()
        finally:
            self._in_input = False

    def handle_lost(self, link: Link, reason: LostReason, now: float) -> None:
        """`link` is gone: reset, timed out by the kernel, or broken otherwise."""
        self._enter(now)
        try:
            self._lose(link, reason)
        finally:
            self._in_input = False

    def _lose(self, link: Link, reason: LostReason) -> None:
        connection = self._connections.get(link.id)
        source = FailureSource.CLIENT if connection is not None else FailureSource.BACKEND
        handler = link.handler
        link.abort()
        code = _LOST_CODES.get(reason, FailureCode.CONNECTION_TERMINATED)
        handler.stream_lost(Failure(source, code, reason.value))

    def handle_writable(self, link: Link, now: float) -> None:
        """All that was written to `link` is with the transport, and its session asked to hear so."""
        self._enter(now)
        try:
            link.handler.stream_writable()
        finally:
            self._in_input = False

    # Inputs of UDP sockets.

    def handle_udp_bound(self, listening_port: int, local: Address, now: float) -> DatagramLink | None:
        """A UDP socket is bound to `local` for `listening_port` of the configuration.

        Returns its link; None, and the socket is to be closed, when nobody wants it.
        """
        self._enter(now)
        try:
            link = self._new_datagram_link(None, local)
            if not self.draining and self._begin_listening_datagrams(link, listening_port):
                return link
            link.close()
            return None
        finally:
            self._in_input = False

    def _new_datagram_link(self, peer: Address | None, local: Address) -> DatagramLink:
        self._next_link_id += 1
        return DatagramLink(self.context, self._next_link_id, peer, local)

    def _begin_listening_datagrams(self, link: DatagramLink, listening_port: int) -> bool:
        """Put the session that `listening_port` asks for on `link`; whether there is one."""
        generation = self._generation
        plan = generation.configuration.table.quic_port(listening_port)
        if plan is None:
            return False
        self._quic_listeners.append(QuicListener(self.context, generation, plan, link, listening_port))
        return True

    def handle_datagrams(self, link: DatagramLink, datagrams: list[Datagram], now: float) -> None:
        """A burst of `datagrams` (not empty) arrived on `link`, in this order."""
        self._enter(now)
        try:
            for data, _ in datagrams:
                link.bytes_received += len(data)
            link.handler.receive_datagrams(datagrams)
        finally:
            self._in_input = False

    def handle_datagrams_writable(self, link: DatagramLink, now: float) -> None:
        """All that was sent on `link` is with the transport, and its session asked to hear so."""
        self._enter(now)
        try:
            link.notify_writable = False
            link.handler.datagrams_writable()
        finally:
            self._in_input = False

    def handle_datagrams_lost(self, link: DatagramLink, reason: LostReason, now: float) -> None:
        """The peer of `link` refuses or cannot be reached, or the socket is gone."""
        self._enter(now)
        try:
            if link.peer is None:
                self._quic_listeners = [each for each in self._quic_listeners if link.handler is not each]
            self._tell_datagrams_lost(link, link.handler, reason)
        finally:
            self._in_input = False

    def _tell_datagrams_lost(self, link: DatagramLink, handler: DatagramHandler, reason: LostReason) -> None:
        source = FailureSource.PROXY if link.peer is None else FailureSource.BACKEND
        code = _LOST_CODES.get(reason, FailureCode.CONNECTION_TERMINATED)
        handler.datagrams_lost(Failure(source, code, reason.value))

    def handle_result(self, operation_id: int, result: Result, now: float) -> None:
        """The answer to an operation; one to a cancelled operation is dropped."""
        on_result = self.context.pending_operations.pop(operation_id, None)
        if on_result is None:
            return
        self._enter(now)
        try:
            on_result(result)
        finally:
            self._in_input = False

    def handle_relay_ended(self, relay: StartRelay, outcome: RelayOutcome, now: float) -> None:
        """A relay is over; it has moved `relay.moved_bytes` in all."""
        on_end = self.context.pending_relays.pop(relay.id, None)
        self._enter(now)
        try:
            # One that was cancelled meanwhile may still bring the news of a loss.
            if on_end is not None:
                on_end(outcome)
            if outcome is RelayOutcome.SOURCE_LOST:
                self._lose(relay.source, LostReason.RESET)
            elif outcome is RelayOutcome.SINK_LOST:
                self._lose(relay.sink, LostReason.RESET)
        finally:
            self._in_input = False

    def handle_timeout(self, now: float) -> None:
        """Time has passed; run what is due. Early or needless calls do nothing."""
        self._enter(now)
        try:
            self.context.timers.fire(now)
        finally:
            self._in_input = False

    def handle_configuration(self, configuration: Configuration, now: float) -> None:
        """Obey `configuration` from now on; connections keep the one they began with."""
        self._enter(now)
        try:
            older = self._generation
            generation = Generation(configuration, self._pools, self._gatekeeper, older.number + 1)
            generation.adopt(older)
            older.retired = True
            older.stop()
            for connection in list(self._connections.values()):
                connection.retire()
            for listener in self._quic_listeners:
                listener.replace_generation(generation)
            self._pools.limits = configuration.limits
            self._pools.timeouts = configuration.timeouts
            self._generation = generation
            if self._started and not self.draining:
                generation.start()
            self.context.record("engine", "configuration_changed", generation=generation.number)
        finally:
            self._in_input = False

    def handle_certificates(self, certificates: CertificateIndex, now: float) -> None:
        """Present `certificates` to new connections; those there are keep theirs, and all else stays."""
        self._enter(now)
        try:
            self._generation.replace_certificates(certificates)
            self.context.record("tls", "certificates_replaced")
        finally:
            self._in_input = False

    def handle_blocked_addresses(self, blocked: IpSet, now: float) -> None:
        """Keep `blocked` out from now on, instead of those before; their connections end at once."""
        self._enter(now)
        try:
            self._generation.replace_block_policy(blocked)
            for connection in list(self._connections.values()):
                if blocked.contains(connection.client_number):
                    self._lose(connection.link, LostReason.ERROR)
            for listener in self._quic_listeners:
                listener.end_blocked()
            self.context.record("security", "block_policy_replaced")
        finally:
            self._in_input = False

    def handle_drain(self, now: float) -> None:
        """Stop gracefully: finish what is under way, take nothing new, keep nothing idle."""
        self._enter(now)
        try:
            self.draining = True
            self._generation.stop()
            for connection in list(self._connections.values()):
                connection.drain()
            for listener in self._quic_listeners:
                listener.drain()
            self._pools.drain()
        finally:
            self._in_input = False

    def handle_shutdown(self, now: float) -> None:
        """Stop now: reset every connection that is left."""
        self._enter(now)
        try:
            self.draining = True
            self._generation.stop()
            for connection in list(self._connections.values()):
                self._lose(connection.link, LostReason.ERROR)
            for listener in self._quic_listeners:
                listener.shut_down()
            self._pools.drain()
        finally:
            self._in_input = False

    def handle_bug(self, link: Link | DatagramLink | None, error: BaseException, now: float) -> None:
        """An input raised, which is our fault: its own connection pays, everyone else goes on."""
        self._in_input = False
        self._enter(now)
        try:
            self.context.record(
                "engine",
                "internal_error",
                Level.ERROR,
                error=repr(error),
                traceback="".join(traceback.format_exception(error)),
            )
            if isinstance(link, DatagramLink):
                self._survive_datagrams_bug(link)
            elif link is not None:
                try:
                    self._lose(link, LostReason.ERROR)
                except Exception as second_error:
                    # The session is broken beyond its own clean-up; the link is already aborted.
                    self.context.record(
                        "engine", "internal_error", Level.ERROR, error=repr(second_error), traceback=""
                    )
                connection = self._connections.pop(link.id, None)
                if connection is not None:
                    self.context.timers.cancel(connection.timer)
                    connection.release_admission()
        finally:
            self._in_input = False

    def _survive_datagrams_bug(self, link: DatagramLink) -> None:
        if link.peer is None:
            # A listening socket is everyone's: one client's datagrams must not close it.
            return
        handler = link.handler
        link.close()
        try:
            self._tell_datagrams_lost(link, handler, LostReason.ERROR)
        except Exception as second_error:
            self.context.record(
                "engine", "internal_error", Level.ERROR, error=repr(second_error), traceback=""
            )

    def _connection_ended(self, connection: ClientConnection) -> None:
        self._connections.pop(connection.link.id, None)

    # Outputs.

    def _flush_sessions(self) -> None:
        """Multiplexed sessions gather what they send during an input; it leaves with the first output.

        With `Context.gathers_sends`, with the first output after the driver has taken that back.
        """
        context = self.context
        while context.unflushed:
            sessions, context.unflushed = context.unflushed, []
            for session in sessions:
                try:
                    session.flush()
                except Exception as error:
                    self.handle_bug(session.link, error, context.now)

    def poll_dirty_links(self) -> list[Link]:
        """Links the driver must visit (see `Link`)."""
        context = self.context
        if context.unflushed and not context.gathers_sends:
            self._flush_sessions()
        links = context.dirty_links
        if links:
            context.dirty_links = []
            for link in links:
                link.is_dirty = False
        return links

    def poll_dirty_datagram_links(self) -> list[DatagramLink]:
        """UDP links the driver must visit (see `DatagramLink`)."""
        context = self.context
        if context.unflushed and not context.gathers_sends:
            self._flush_sessions()
        links = context.dirty_datagram_links
        if links:
            context.dirty_datagram_links = []
            for link in links:
                link.is_dirty = False
        return links

    def poll_operations(self) -> list[Operation]:
        """Operations to start or cancel, in order."""
        if self.context.unflushed and not self.context.gathers_sends:
            # Sending may find a connection gone, and begin another one.
            self._flush_sessions()
        operations = self.context.operations
        if operations:
            self.context.operations = []
        return operations

    def poll_records(self) -> list[Record | AccessRecord]:
        """What happened that an operator may want to know."""
        records = self.context.records
        if records:
            self.context.records = []
        return records

    def poll_timeout(self) -> float:
        """When to call `handle_timeout` next, in monotonic seconds; `math.inf` for never."""
        return self.context.timers.next_deadline()
