"""How many connections clients may have: at a time and per minute of one address, and at a time on one route.

A client's connection counts once, however many requests it carries and whatever
protocol they have. Counts outlive configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from smartproxy.core.security.counted_address import UNIX_PEER, counted_address
from smartproxy.core.security.rate_limit import RateLimiter

if TYPE_CHECKING:
    from smartproxy.core.configuration import Limits, Route


@dataclass(frozen=True, slots=True)
class ConnectionRefusal:
    """Why a connection gets nothing."""

    reason: str
    retry_after_s: float
    """Until the address may open a connection; 0.0: as soon as one of its others ends."""


K = TypeVar("K")

_TOO_MANY_AT_A_TIME = ConnectionRefusal("too many connections from this address", 0.0)


class Admission:
    """One client connection's place in the counts, until `release`."""

    __slots__ = ("_address", "_is_released", "_limits", "_route_names")

    def __init__(self, limits: ConnectionLimits, address: int) -> None:
        self._limits = limits
        self._address = address
        self._route_names: set[str] | None = None
        self._is_released = False

    def has_room(self, route: Route) -> bool:
        """Whether `enter` would keep to the route's `max_connections`. Counts nothing."""
        most = route.max_connections
        if most is None:
            return True
        name, entered = route.name, self._route_names
        return (entered is not None and name in entered) or self._limits.connections_on(name) < most

    def enter(self, route: Route) -> None:
        """Count this connection for the route, by its name, once; even where there is no room.

        A route without a maximum counts its connections too, so that a configuration that
        gives it one finds them counted. After `release` this does nothing.
        """
        name, entered = route.name, self._route_names
        if self._is_released:
            return
        if entered is None:
            self._route_names = {name}
        elif name in entered:
            return
        else:
            entered.add(name)
        self._limits.count_on_route(name)

    def release(self) -> None:
        """The connection is over: give back all that it counts for. Again does nothing."""
        if not self._is_released:
            self._is_released = True
            self._limits.release(self._address, self._route_names or ())
            self._route_names = None


class ConnectionLimits:
    """The counts of all client connections of one engine.

    Addresses and routes are remembered while they have connections; the counts per
    minute are of `Limits.counted_addresses` addresses at most (see `RateLimiter`).
    """

    __slots__ = ("_max_per_address", "_of_address", "_on_route", "_rate", "_total")

    def __init__(self) -> None:
        """Without limits, until `configure`."""
        self._max_per_address: int | None = None
        self._rate: RateLimiter | None = None
        self._of_address: dict[int, int] = {}
        self._on_route: dict[str, int] = {}
        self._total = 0

    def configure(self, limits: Limits) -> None:
        """Obey `limits` from now on. Connections there are stay, counted, also where they are too many.

        Counting per minute begins anew when its limit, or how many addresses it counts, has
        changed. Raises ValueError for a limit below one.
        """
        self._max_per_address = limits.max_connections_per_ip
        most, addresses = limits.connection_rate_limit_per_minute, limits.counted_addresses
        rate = self._rate
        if most is None:
            self._rate = None
        elif rate is None or rate.max_requests != most or rate.max_keys != addresses:
            self._rate = RateLimiter(most, 60.0, addresses)

    def admit(self, client_number: int, now: float) -> Admission | ConnectionRefusal:
        """Count a new connection of the client with this address (`ip_number`) at `now` (monotonic).

        What is refused counts for nothing. A Unix peer (-1) has no address to be limited by.
        """
        address = counted_address(client_number)
        if address != UNIX_PEER:
            there = self._of_address.get(address, 0)
            if self._max_per_address is not None and there >= self._max_per_address:
                return _TOO_MANY_AT_A_TIME
            if self._rate is not None:
                decision = self._rate.take(address, now)
                if not decision.allowed:
                    return ConnectionRefusal(
                        "too many new connections from this address", decision.retry_after_s
                    )
            self._of_address[address] = there + 1
        self._total += 1
        return Admission(self, address)

    def count_on_route(self, route_name: str) -> None:
        """For `Admission` alone."""
        self._on_route[route_name] = self._on_route.get(route_name, 0) + 1

    def release(self, address: int, route_names: set[str] | tuple[()]) -> None:
        """For `Admission` alone."""
        self._total -= 1
        if address != UNIX_PEER:
            _one_less(self._of_address, address)
        for name in route_names:
            _one_less(self._on_route, name)

    @property
    def total(self) -> int:
        """The client connections there are, those of Unix peers included."""
        return self._total

    def connections_of(self, client_number: int) -> int:
        """The connections of this address, or of all its IPv6 /64; of Unix peers always 0."""
        return self._of_address.get(counted_address(client_number), 0)

    def connections_on(self, route_name: str) -> int:
        """The connections that have entered the route."""
        return self._on_route.get(route_name, 0)


def _one_less(counts: dict[K, int], key: K) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
