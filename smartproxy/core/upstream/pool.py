"""Which connection a request gets: an idle one, a new one, or a place in the queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from smartproxy.core.configuration import Limits, Timeouts
from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.http1_client import Http1Client
from smartproxy.core.ops import Address
from smartproxy.core.records import Level
from smartproxy.core.stream import ByteStream, Link
from smartproxy.core.upstream.dial import Dial, Endpoint
from smartproxy.core.upstream.resolver import Resolver

POOLS_KEPT = 4096
"""Pools remembered; beyond it empty ones are forgotten."""


class Acquirer(Protocol):
    """Who waits for a connection."""

    def connection_ready(self, connection: Http1Client) -> None:
        """Here it is, for one request."""

    def connection_failed(self, failure: Failure) -> None:
        """None can be had."""


class Ticket:
    """A wait for a connection; `cancel` withdraws it and whatever was started for it."""

    __slots__ = ("acquirer", "dial", "needs_new", "pool", "preamble")

    def __init__(self, pool: Pool, acquirer: Acquirer, preamble: bytes, *, needs_new: bool) -> None:
        self.pool = pool
        self.acquirer: Acquirer | None = acquirer
        self.dial: Dial | None = None
        self.preamble = preamble
        #: Whether a connection that has served before will not do.
        self.needs_new = needs_new

    def cancel(self) -> None:
        if self.acquirer is None:
            return
        self.acquirer = None
        if self.dial is not None:
            self.dial.cancel()
            self.pool.connection_gone()
        else:
            self.pool.waiting.remove(self)


class Pool:
    """The connections to one endpoint."""

    __slots__ = ("endpoint", "idle", "open_count", "pools", "waiting")

    def __init__(self, pools: Pools, endpoint: Endpoint) -> None:
        self.pools = pools
        self.endpoint = endpoint
        #: Free connections, the most recently used last: it is taken first, so that the rest may age out.
        self.idle: list[Http1Client] = []
        self.open_count = 0
        self.waiting: deque[Ticket] = deque()

    @property
    def is_empty(self) -> bool:
        return not self.open_count and not self.waiting

    def take_idle(self) -> Http1Client | None:
        """A free connection still young enough for a new request."""
        idle = self.idle
        oldest_start = self.pools.context.now - self.pools.timeouts.lifetime_s
        while idle:
            connection = idle.pop()
            if connection.opened_at > oldest_start:
                return connection
            connection.close()
        return None

    def open(
        self,
        acquirer: Acquirer,
        preamble: bytes = b"",
        *,
        needs_new: bool = False,
        over_limit: bool = False,
    ) -> Ticket:
        """Open a connection for `acquirer`, or queue it where the pool is full.

        `preamble` (a PROXY header) makes the connection belong to this acquirer
        alone: it is closed after its request. With `needs_new` no connection that
        another request has used is taken when one comes free. `over_limit` is for
        probes: a busy host must not look like a dead one. May call back before it
        returns.
        """
        ticket = Ticket(self, acquirer, preamble, needs_new=needs_new or bool(preamble))
        limits = self.pools.limits
        if self.open_count < limits.pool_connections_per_host or over_limit:
            self._dial(ticket)
        elif len(self.waiting) < limits.pending_per_host:
            self.waiting.append(ticket)
        else:
            ticket.acquirer = None
            detail = f"{self.endpoint}: {self.open_count} connections, {len(self.waiting)} waiting"
            acquirer.connection_failed(
                Failure(FailureSource.PROXY, FailureCode.CONNECTION_LIMIT_REACHED, detail)
            )
        return ticket

    def _dial(self, ticket: Ticket) -> None:
        if not self.open_count:
            self.pools.live.add(self)
        self.open_count += 1
        pools = self.pools

        def connected(stream: ByteStream, link: Link) -> None:
            acquirer, ticket.acquirer = ticket.acquirer, None
            assert acquirer is not None
            connection = Http1Client(pools.context, stream, link, self, shareable=not ticket.preamble)
            pools.context.record(
                "upstream", "backend_connected", Level.DEBUG, backend=str(self.endpoint), peer=link.peer[0]
            )
            acquirer.connection_ready(connection)

        def failed(failure: Failure) -> None:
            acquirer, ticket.acquirer = ticket.acquirer, None
            assert acquirer is not None
            self.connection_gone()
            acquirer.connection_failed(failure)

        ticket.dial = Dial(
            pools.context,
            pools.resolver,
            self.endpoint,
            pools.timeouts,
            new_link=pools.new_link,
            preamble=ticket.preamble,
            on_connected=connected,
            on_failed=failed,
        )
        ticket.dial.start()

    # What connections tell their pool.

    def connection_free(self, connection: Http1Client) -> bool:
        """A connection finished a request cleanly. False: it is not kept, and must close."""
        if self.waiting:
            if self.waiting[0].needs_new:
                # It makes room for one.
                return False
            ticket = self.waiting.popleft()
            acquirer, ticket.acquirer = ticket.acquirer, None
            assert acquirer is not None
            acquirer.connection_ready(connection)
            return True
        pools = self.pools
        if pools.draining or len(self.idle) >= pools.limits.pool_idle_per_host:
            return False
        self.idle.append(connection)
        return True

    def connection_gone(self, connection: Http1Client | None = None) -> None:
        """A connection, or a dial for one, is over."""
        self.open_count -= 1
        if not self.open_count:
            self.pools.live.discard(self)
        if connection is not None and connection in self.idle:
            self.idle.remove(connection)
        if self.waiting and self.open_count < self.pools.limits.pool_connections_per_host:
            self._dial(self.waiting.popleft())

    def close_idle(self) -> None:
        for connection in list(self.idle):
            connection.close()


class Pools:
    """All pools of an engine, by endpoint and TLS identity. They outlive configurations."""

    __slots__ = ("_pools", "context", "draining", "limits", "live", "new_link", "resolver", "timeouts")

    def __init__(
        self,
        context: Context,
        new_link: Callable[[Address], Link],
        limits: Limits,
        timeouts: Timeouts,
    ) -> None:
        self.context = context
        self.new_link = new_link
        self.limits = limits
        self.timeouts = timeouts
        self.resolver = Resolver(context)
        self.draining = False
        #: Those with a connection or a dial; a target may still use one that is forgotten below.
        self.live: set[Pool] = set()
        self._pools: dict[tuple[str, int, str, str], Pool] = {}

    def pool(self, endpoint: Endpoint) -> Pool:
        """The pool of `endpoint`. Keep it: finding it again costs more than a request should pay."""
        tls = endpoint.tls
        identity, server_name = (tls.identity, tls.server_name or "") if tls is not None else ("", "")
        key = (endpoint.host, endpoint.port, identity, server_name)
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= POOLS_KEPT:
                for old_key in [k for k, p in self._pools.items() if p.is_empty]:
                    del self._pools[old_key]
            pool = self._pools[key] = Pool(self, endpoint)
        return pool

    def drain(self) -> None:
        """Keep no idle connection from now on."""
        self.draining = True
        for pool in list(self.live):
            pool.close_idle()

    def open_connections(self) -> int:
        """Connections and dials under way, over all pools."""
        return sum(pool.open_count for pool in self.live)
