"""The HTTP/2 and HTTP/3 connections to one endpoint: which may take a stream, and which are to go."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

from smartproxy.core.http.client_stream import ClientStream
from smartproxy.core.timers import Timer
from smartproxy.core.upstream.alt_svc_cache import AlternativeService
from smartproxy.core.upstream.attempts import Attempt
from smartproxy.core.upstream.multiplexed import MultiplexedClient

if TYPE_CHECKING:
    from smartproxy.core.upstream.pool import Pools

HTTP2 = 20
HTTP3 = 30


class PooledConnection:
    """One multiplexed connection, with the attempt that made it.

    With `is_exclusive` it serves one request, and is in nobody else's reach.
    """

    __slots__ = ("attempt", "connection", "idle_since", "is_exclusive", "is_leaving", "timer")

    def __init__(
        self,
        owner: MultiplexedConnections,
        connection: MultiplexedClient,
        attempt: Attempt,
        *,
        exclusive: bool,
    ) -> None:
        self.connection = connection
        self.attempt = attempt
        self.is_exclusive = exclusive
        #: Whether it takes no new streams, by whoever's decision.
        self.is_leaving = False
        self.idle_since = 0.0
        self.timer = Timer(lambda: owner.close_if_idle(self))


class MultiplexedConnections:
    """What is open to one endpoint that carries many requests at once."""

    __slots__ = ("_all", "_pools", "_with_room")

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._all: dict[MultiplexedClient, PooledConnection] = {}
        #: Those that may have room, by version: all of HTTP/3, and of HTTP/2, where there may be
        #: many, the ones not found full. The first is filled first, so that the rest may age out.
        self._with_room: dict[int, dict[MultiplexedClient, PooledConnection]] = {HTTP2: {}, HTTP3: {}}

    def __len__(self) -> int:
        return len(self._all)

    def get(self, connection: MultiplexedClient) -> PooledConnection | None:
        return self._all.get(connection)

    @property
    def have_room(self) -> bool:
        """Whether one may take a stream; it may turn out that none does."""
        return bool(self._with_room[HTTP2]) or any(c.free_streams > 0 for c in self._with_room[HTTP3])

    def add(self, connection: MultiplexedClient, attempt: Attempt, *, exclusive: bool) -> PooledConnection:
        pooled = PooledConnection(self, connection, attempt, exclusive=exclusive)
        self._all[connection] = pooled
        self._note(pooled)
        return pooled

    def remove(self, connection: MultiplexedClient) -> PooledConnection | None:
        """It is closed. None if it was not one of these."""
        pooled = self._all.pop(connection, None)
        if pooled is not None:
            self._leave(pooled)
            self._pools.context.timers.cancel(pooled.timer)
        return pooled

    def _leave(self, pooled: PooledConnection) -> None:
        pooled.is_leaving = True
        self._with_room[pooled.connection.version].pop(pooled.connection, None)

    def leaving(self, connection: MultiplexedClient) -> PooledConnection | None:
        """It takes no new streams any more, which is known already."""
        pooled = self._all.get(connection)
        if pooled is not None:
            self._leave(pooled)
        return pooled

    def retire(self, pooled: PooledConnection) -> None:
        """Give it no new streams; those under way are never cut. May close it at once."""
        if not pooled.is_leaving:
            self._leave(pooled)
            pooled.connection.drain()

    def note(self, connection: MultiplexedClient) -> None:
        """Its room, its streams or what is known of it have changed."""
        pooled = self._all.get(connection)
        if pooled is not None:
            self._note(pooled)

    def _note(self, pooled: PooledConnection) -> None:
        if pooled.is_leaving:
            return
        connection = pooled.connection
        # QUIC's credit for streams comes by itself, some time after one has ended (RFC 9000 §4.6).
        if not pooled.is_exclusive and (connection.free_streams > 0 or connection.version == HTTP3):
            self._with_room[connection.version][connection] = pooled
        context = self._pools.context
        pooled.idle_since = context.now
        if pooled.timer.deadline == inf:
            context.set_timer(pooled.timer, self._pools.timeouts.pool_idle_s)

    def close_if_idle(self, pooled: PooledConnection) -> None:
        """Its timer: moved only when it fires, so that a busy connection's costs its requests nothing."""
        if pooled.is_leaving:
            return
        context = self._pools.context
        idle_s = self._pools.timeouts.pool_idle_s
        if pooled.connection.open_streams:
            context.set_timer(pooled.timer, idle_s)
        elif pooled.idle_since + idle_s > context.now:
            context.timers.set(pooled.timer, pooled.idle_since + idle_s)
        else:
            self.retire(pooled)

    # Streams.

    def stream(
        self, version: int, *, for_websocket: bool = False, opened_since: float = -inf
    ) -> ClientStream | None:
        """A stream on a connection of `version` that is young enough and has room.

        For a WebSocket only where the backend has announced that it takes one
        (RFC 8441 §3). `opened_since` leaves out connections older than that.
        """
        room = self._with_room[version]
        if not room:
            return None
        pools = self._pools
        oldest_start = pools.context.now - pools.timeouts.lifetime_s
        for connection, pooled in list(room.items()):
            if connection.opened_at <= oldest_start:
                self.retire(pooled)
            elif connection.free_streams <= 0:
                if version == HTTP2:
                    del room[connection]
            elif connection.opened_at >= opened_since and (
                not for_websocket or connection.takes_extended_connect is True
            ):
                return connection.open_stream()
        return None

    # What is known of them.

    def _candidates(self, version: int, opened_since: float) -> Iterator[MultiplexedClient]:
        for connection, pooled in self._all.items():
            if (
                connection.version == version
                and not pooled.is_leaving
                and not pooled.is_exclusive
                and connection.opened_at >= opened_since
            ):
                yield connection

    def awaits_settings(self, version: int, opened_since: float = -inf) -> bool:
        """Whether one has not said yet if it takes extended CONNECT."""
        return any(c.takes_extended_connect is None for c in self._candidates(version, opened_since))

    def refuses_websockets(self, version: int, opened_since: float = -inf) -> bool:
        """Whether one has said that it takes no extended CONNECT."""
        return any(c.takes_extended_connect is False for c in self._candidates(version, opened_since))

    def hold_back_streams(self, version: int, opened_since: float = -inf) -> bool:
        """Whether one may have room in a moment, so that no other is to be dialled."""
        return any(c.holds_back_streams for c in self._candidates(version, opened_since))

    def has_unused(self, version: int, opened_since: float = -inf) -> bool:
        """Whether one has no stream. Where it has no room either, another connection would be no better."""
        return any(not c.open_streams for c in self._candidates(version, opened_since))

    # Ends.

    def retire_all(self) -> None:
        for pooled in list(self._all.values()):
            self.retire(pooled)

    def retire_unused(self) -> bool:
        """Close one that has no stream, to make room. False: there is none."""
        for pooled in self._all.values():
            if not pooled.is_leaving and not pooled.is_exclusive and not pooled.connection.open_streams:
                self.retire(pooled)
                return True
        return False

    def retire_withdrawn(self, advertised: set[AlternativeService]) -> None:
        """Use no alternative that the origin has taken back (RFC 7838 §3.1)."""
        for pooled in list(self._all.values()):
            alternative = pooled.attempt.alternative
            if alternative is not None and alternative not in advertised:
                self.retire(pooled)
