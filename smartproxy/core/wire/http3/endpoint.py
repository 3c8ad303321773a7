"""A server's UDP port: which connection a datagram belongs to, and who may begin one (RFC 9000 §5.2)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from math import inf

from smartproxy.core.ops import Address
from smartproxy.core.timers import Timer, TimerHeap
from smartproxy.core.wire.http3.connection import Http3Connection
from smartproxy.core.wire.http3.credentials import IdentityForName, SessionTicketStore
from smartproxy.core.wire.http3.events import Http3Event
from smartproxy.core.wire.http3.limits import (
    DEFAULT_ENDPOINT_LIMITS,
    DEFAULT_LIMITS,
    EndpointLimits,
    Http3Limits,
)
from smartproxy.core.wire.http3.packets import (
    MAX_CONNECTION_ID_BYTES,
    MIN_INITIAL_DATAGRAM_BYTES,
    MIN_INITIAL_DESTINATION_ID_BYTES,
    MIN_STATELESS_RESET_BYTES,
    LongHeader,
    encode_retry,
    encode_stateless_reset,
    encode_version_negotiation,
    initial_token,
    parse_long_header,
    short_header_destination,
)
from smartproxy.core.wire.http3.quic_engine import (
    CONNECTION_ID_BYTES,
    SUPPORTED_VERSIONS,
    EngineName,
    ServerParameters,
    fastest_server_engine,
)
from smartproxy.core.wire.http3.retry_token import RetryTokens

ConnectionEvents = tuple[Http3Connection, list[Http3Event]]

_TOKEN_BYTES = 16
_USUAL_RESET_BYTES = 43


class _Member:
    """One connection and the connection IDs that lead to it."""

    __slots__ = ("connection", "connection_ids", "handshake_deadline", "timer")

    def __init__(self, connection: Http3Connection, handshake_deadline: float, timer: Timer) -> None:
        self.connection = connection
        self.connection_ids: set[bytes] = set()
        self.handshake_deadline = handshake_deadline
        self.timer = timer


class QuicServerEndpoint:
    """All connections of one UDP port.

        endpoint = QuicServerEndpoint(identity_for, entropy)
        arrived = endpoint.receive_datagram(data, address, now)     # (connection, events), or None
        for data, address in endpoint.datagrams_to_send(now): ...   # after every call, also a connection's
        for connection, events in endpoint.poll_events(): ...       # what sending brought about

    `get_timer` says when `handle_timer` is due. A connection is new when its `owner`, which is the
    caller's to set, is None. Connections are found by connection ID, so that they follow a client through
    address changes. Datagrams that belong to nobody get Version Negotiation, Retry or a stateless reset
    at most, so many a second; nothing makes a method raise.

    `engine` is the fastest one installed unless said. `entropy(n)` gives n bytes; `reset_key`, if another
    process may have to end this one's connections, is the secret their stateless reset tokens come from.
    """

    __slots__ = (
        "_dirty",
        "_due",
        "_endpoint_limits",
        "_engine",
        "_entropy",
        "_handshaking",
        "_identity_for",
        "_members",
        "_pending_events",
        "_reset_key",
        "_retry_tokens",
        "_stateless",
        "_stateless_left",
        "_stateless_second",
        "_timers",
        "_versions",
        "accepts_connections",
        "connections",
        "limits",
        "ticket_store",
    )

    def __init__(
        self,
        identity_for: IdentityForName,
        entropy: Callable[[int], bytes],
        *,
        limits: Http3Limits = DEFAULT_LIMITS,
        endpoint_limits: EndpointLimits = DEFAULT_ENDPOINT_LIMITS,
        engine: EngineName | None = None,
        versions: tuple[int, ...] = SUPPORTED_VERSIONS,
        ticket_store: SessionTicketStore | None = None,
        reset_key: bytes | None = None,
    ) -> None:
        self._identity_for = identity_for
        self._entropy = entropy
        #: Of connections that begin from now on.
        self.limits = limits
        self._endpoint_limits = endpoint_limits
        self._engine: EngineName = engine or fastest_server_engine()
        self._versions = versions
        #: What connections that begin from now on resume by; None for no resumption.
        self.ticket_store = ticket_store
        self._reset_key = reset_key if reset_key is not None else entropy(32)
        self._retry_tokens = RetryTokens(entropy, endpoint_limits.retry_token_lifetime_s)
        #: By connection ID.
        self._members: dict[bytes, _Member] = {}
        self.connections: dict[Http3Connection, _Member] = {}
        #: Members whose handshake is not completed, oldest first.
        self._handshaking: dict[_Member, None] = {}
        self._dirty: dict[_Member, None] = {}
        self._timers = TimerHeap()
        self._due: list[_Member] = []
        self._pending_events: list[ConnectionEvents] = []
        self._stateless: list[tuple[bytes, Address]] = []
        self._stateless_second = -inf
        self._stateless_left = 0
        #: False turns new clients away, while those there are served to the end.
        self.accepts_connections = True

    def __len__(self) -> int:
        return len(self.connections)

    @property
    def connection_id_count(self) -> int:
        """Connection IDs that lead anywhere."""
        return len(self._members)

    def receive_datagram(self, data: bytes, address: Address, now: float) -> ConnectionEvents | None:
        """Pass one UDP payload on to its connection, beginning one if need be."""
        if not data:
            return None
        if data[0] & 0x80:
            header = parse_long_header(data)
            if header is None:
                return None
            member = self._members.get(header.destination_id)
            if member is None:
                return self._receive_stray(data, header, address, now)
        else:
            destination = short_header_destination(data)
            if destination is None:
                return None
            member = self._members.get(destination)
            if member is None:
                self._send_stateless_reset(destination, len(data), address, now)
                return None
        return self._deliver(member, data, address, now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """Take what is to be sent by all connections that have anything, and by none."""
        datagrams = self._stateless
        self._stateless = []
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for member in dirty:
                connection = member.connection
                datagrams += connection.datagrams_to_send(now)
                events = connection.poll_events()
                if events:
                    self._pending_events.append((connection, events))
                self._settle(member)
        return datagrams

    def poll_events(self) -> list[ConnectionEvents]:
        """Take the events that no input has returned."""
        events = self._pending_events
        self._pending_events = []
        return events

    def get_timer(self) -> float | None:
        """When `handle_timer` is due, in monotonic seconds; None for never."""
        due = self._timers.next_deadline()
        if self._handshaking:
            due = min(due, next(iter(self._handshaking)).handshake_deadline)
        return None if due == inf else due

    def handle_timer(self, now: float) -> list[ConnectionEvents]:
        """Do what is due."""
        results: list[ConnectionEvents] = []
        for member in list(self._handshaking):
            if member.handshake_deadline > now:
                break
            self._forget(member)
        self._timers.fire(now)
        due, self._due = self._due, []
        for member in due:
            events = member.connection.handle_timer(now)
            self._dirty[member] = None
            if events:
                results.append((member.connection, events))
        return results

    def go_away(self, now: float) -> None:
        """Take no new clients, and no new requests from those there are."""
        self.accepts_connections = False
        for connection in self.connections:
            connection.go_away(now)

    def _deliver(self, member: _Member, data: bytes, address: Address, now: float) -> ConnectionEvents:
        connection = member.connection
        events = connection.receive_datagram(data, address, now)
        if member in self._handshaking and (connection.handshake_completed or connection.ended):
            del self._handshaking[member]
        self._dirty[member] = None
        return connection, events

    def _settle(self, member: _Member) -> None:
        """Set a connection's timer anew, or forget it if its end is complete."""
        if member.connection.is_terminated:
            self._forget(member)
            return
        deadline = member.connection.get_timer()
        if deadline is None:
            self._timers.cancel(member.timer)
        else:
            self._timers.set(member.timer, deadline)

    def _forget(self, member: _Member) -> None:
        self._timers.cancel(member.timer)
        self._dirty.pop(member, None)
        self._handshaking.pop(member, None)
        self.connections.pop(member.connection, None)
        for connection_id in member.connection_ids:
            del self._members[connection_id]
        member.connection_ids.clear()

    # Datagrams without a connection.

    def _receive_stray(
        self, data: bytes, header: LongHeader, address: Address, now: float
    ) -> ConnectionEvents | None:
        if len(data) < MIN_INITIAL_DATAGRAM_BYTES or header.version == 0:
            return None
        if header.version not in self._versions:
            # RFC 8999 §5.1: connection IDs of other versions may be longer than ours.
            if self._may_answer(now):
                packet = encode_version_negotiation(header, self._versions, self._entropy(1)[0])
                self._stateless.append((packet, address))
            return None
        if (
            not header.is_initial
            or not MIN_INITIAL_DESTINATION_ID_BYTES <= len(header.destination_id) <= MAX_CONNECTION_ID_BYTES
            or len(header.source_id) > MAX_CONNECTION_ID_BYTES
        ):
            return None
        token = initial_token(data, header)
        limits = self._endpoint_limits
        if (
            token is None
            or not self.accepts_connections
            or len(self.connections) >= limits.connections
            or len(self._handshaking) >= limits.handshakes
        ):
            return None
        original_id = (
            self._retry_tokens.validate(token, address, header.destination_id, now) if token else None
        )
        if original_id is None and len(self._handshaking) > limits.handshakes_before_retry:
            # A token that is worth nothing came back from a Retry, and a client takes only one.
            if not token and self._may_answer(now):
                self._send_retry(header, address, now)
            return None
        return self._begin(data, header, original_id, address, now)

    def _begin(
        self, data: bytes, header: LongHeader, original_id: bytes | None, address: Address, now: float
    ) -> ConnectionEvents | None:
        parameters = ServerParameters(
            limits=self.limits,
            identity_for=self._identity_for,
            entropy=self._entropy,
            reset_token_for=self._reset_token_for,
            original_destination_connection_id=header.destination_id if original_id is None else original_id,
            retry_source_connection_id=None if original_id is None else header.destination_id,
            ticket_store=self.ticket_store,
            versions=self._versions,
        )
        engine = self._engine
        if not header.source_id and len(header.destination_id) != CONNECTION_ID_BYTES:
            # qh3 answers clients without a connection ID only where theirs for us is as long as ours.
            engine = "aioquic"
        connection = Http3Connection(parameters, engine)
        issued = [header.destination_id]
        connection.callbacks.on_connection_id_issued = issued.append
        events = connection.receive_datagram(data, address, now)
        if not connection.has_peer:
            # It only looked like an Initial packet: nothing is kept.
            return None
        timer = Timer(lambda: self._due.append(member))
        member = _Member(connection, now + self._endpoint_limits.handshake_timeout_s, timer)
        self.connections[connection] = member
        self._handshaking[member] = None
        for connection_id in (*issued, connection.connection_id):
            self._add_id(member, connection_id)
        connection.callbacks.on_connection_id_issued = lambda issued: self._add_id(member, issued)
        connection.callbacks.on_connection_id_retired = lambda retired: self._remove_id(member, retired)
        connection.on_dirty = lambda: self._wake(member)
        self._dirty[member] = None
        return connection, events

    def _wake(self, member: _Member) -> None:
        if member.connection_ids:
            self._dirty[member] = None

    def _add_id(self, member: _Member, connection_id: bytes) -> None:
        # 64 bits from the driver's entropy do not meet; an ID that did would stay with its first owner.
        if connection_id not in self._members:
            self._members[connection_id] = member
            member.connection_ids.add(connection_id)

    def _remove_id(self, member: _Member, connection_id: bytes) -> None:
        if connection_id in member.connection_ids:
            member.connection_ids.discard(connection_id)
            del self._members[connection_id]

    def _reset_token_for(self, connection_id: bytes) -> bytes:
        return hmac.digest(self._reset_key, connection_id, sha256)[:_TOKEN_BYTES]

    def _send_retry(self, header: LongHeader, address: Address, now: float) -> None:
        source_id = self._entropy(CONNECTION_ID_BYTES)
        try:
            token = self._retry_tokens.create(address, header.destination_id, source_id, now)
        except ValueError:
            # Not an IP address: nothing that Retry could prove.
            return
        self._stateless.append((encode_retry(header, source_id, token, self._entropy(1)[0]), address))

    def _send_stateless_reset(
        self, connection_id: bytes, received_bytes: int, address: Address, now: float
    ) -> None:
        # RFC 9000 §10.3.3: always smaller than what it answers, so that two endpoints cannot go on for ever.
        size = min(received_bytes - 1, _USUAL_RESET_BYTES)
        if size >= MIN_STATELESS_RESET_BYTES and self._may_answer(now):
            token = self._reset_token_for(connection_id)
            self._stateless.append(
                (encode_stateless_reset(token, self._entropy(size - _TOKEN_BYTES)), address)
            )

    def _may_answer(self, now: float) -> bool:
        if now >= self._stateless_second + 1.0:
            self._stateless_second = now
            self._stateless_left = self._endpoint_limits.stateless_packets_per_s
        if not self._stateless_left:
            return False
        self._stateless_left -= 1
        return True
