"""One request's wait for a connection."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Protocol

from smartproxy.core.failure import Failure
from smartproxy.core.http.client_stream import ClientStream
from smartproxy.core.timers import Timer
from smartproxy.core.upstream.attempts import Attempt
from smartproxy.core.upstream.connecting import Connecting
from smartproxy.core.upstream.multiplexed_connections import PooledConnection

if TYPE_CHECKING:
    from smartproxy.core.upstream.pool import Pool


class Acquirer(Protocol):
    """Who waits for a connection."""

    def connection_ready(self, stream: ClientStream) -> None:
        """Here it is, for one request."""

    def connection_failed(self, failure: Failure) -> None:
        """None can be had."""


class Step(Enum):
    HTTP3 = "http3"
    """Waits for QUIC, as long as that has its head start."""
    TCP = "tcp"
    """Takes whatever comes first."""


class Ticket:
    """A wait for a connection; `cancel` withdraws it and whatever was started for it alone."""

    __slots__ = (
        "acquirer",
        "asked_at",
        "attempts",
        "dial",
        "for_websocket",
        "is_exclusive",
        "needs_new",
        "only_http1",
        "over_limit",
        "pool",
        "preamble",
        "reserved",
        "settings_timer",
        "settings_waited",
        "step",
    )

    def __init__(
        self,
        pool: Pool,
        acquirer: Acquirer,
        preamble: bytes,
        *,
        needs_new: bool,
        over_limit: bool,
        for_websocket: bool,
        exclusive: bool,
    ) -> None:
        self.pool = pool
        self.acquirer: Acquirer | None = acquirer
        self.preamble = preamble
        self.needs_new = needs_new
        self.over_limit = over_limit
        self.for_websocket = for_websocket
        self.is_exclusive = exclusive
        self.asked_at = pool.pools.context.now
        self.step = Step.TCP
        #: A dial for nobody else, and what to try when it has failed.
        self.dial: Connecting | None = None
        self.attempts: list[Attempt] = []
        #: Whether HTTP/2 has been tried, and the host answered that it will not.
        self.only_http1 = False
        #: Its own multiplexed connection, which has no room for the stream yet.
        self.reserved: PooledConnection | None = None
        self.settings_timer: Timer | None = None
        self.settings_waited = False

    @property
    def opened_since(self) -> float:
        """How old a connection may be that is shared."""
        return self.asked_at if self.needs_new else -inf

    def cancel(self) -> None:
        if self.acquirer is not None:
            self.acquirer = None
            self.pool.waits.cancelled(self)


class SharedDial:
    """A dial whose connection is for whoever waits; `owner` is who began it."""

    __slots__ = ("connecting", "head_start_is_over", "owner")

    def __init__(self, owner: Ticket) -> None:
        self.owner = owner
        self.connecting: Connecting | None = None
        self.head_start_is_over = False
